"""Inference: codes of scenes that a run was not fitted to, with its networks frozen, all scenes at once.

descent     a code a scene by gradient descent, then, if wanted, low-rank residuals of its weights
posterior   a distribution over the code of each scene
encoder     read off the observations by the run's encoder; steps: the few steps that the run has learned to take
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import safetensors.torch
import torch
from torch import Tensor, nn

from hyperfields.codes import Codes, CodeSource, FitContext, LatentTable
from hyperfields.codes.table import gaussian_kl
from hyperfields.data import SceneDataset
from hyperfields.data.base import shortened
from hyperfields.errors import InputError
from hyperfields.fields import BoundField
from hyperfields.hypernets import Residual, shares_networks
from hyperfields.ops.threads import one_torch_thread
from hyperfields.process import seeded
from hyperfields.runs import codec
from hyperfields.runs.atomic import write_atomically
from hyperfields.runs.codec import read_tensors
from hyperfields.runs.config import FORMAT, require_seed
from hyperfields.runs.lock import FileLock
from hyperfields.runs.run import MODEL, SOURCE, Run, require_data
from hyperfields.runs.scene import Scene
from hyperfields.tasks import TrainConfig
from hyperfields.training.progress import OnStep, shown
from hyperfields.training.regularizers import GaussianPrior
from hyperfields.training.trainer import Bind, Fields, Length, Progress, Trainer

By = Literal["descent", "posterior", "encoder", "steps"]
POSTERIOR_WEIGHT = 1e-5  # of the divergence in the loss
POSTERIOR_START = 0.3  # standard deviation of q at first, in units of the prior's
POSTERIOR_RATE = 3e-2  # of means and logarithms of standard deviations


@dataclasses.dataclass(frozen=True, repr=False)
class InferredCodes:
    """Inferred scenes: names, codes `[s z]`, and per scene what to add to its weights when they were refined.

    std: of the codes `[s z]`, when a distribution was inferred. source: facts about the data that they were inferred
        from, `path` and so on.
    """

    names: tuple[str, ...]
    codes: Tensor
    residual: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    std: Tensor | None = None
    source: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        refined = ", refined" if self.residual else ""
        return f"InferredCodes({shortened(self.names)}; {self.codes.shape[1]} numbers each{refined})"

    def index(self, name: str) -> int:
        """Number of a scene.

        Raises:
            InputError: an unknown name.
        """
        if name not in self.names:
            near = difflib.get_close_matches(name, self.names, 3, 0.0)
            raise InputError(
                f"scene {name!r:.100}: not among the inferred ones; the nearest names are {', '.join(near)}"
            )
        return self.names.index(name)

    def bind(self, run: Run, *names: str) -> BoundField:
        """Fields of these scenes as one function of points.

        Raises:
            InputError: an unknown name.
        """
        rows = [self.index(name) for name in names]
        with torch.no_grad():
            residual = {key: value[rows] for key, value in self.residual.items()}
            return run.model.bind(self.codes[rows], residual).detach()

    def scene(self, run: Run, name: str) -> Scene:
        """A scene that can be rendered, meshed and saved, its residual included.

        Raises:
            InputError: an unknown name.
        """
        row = self.index(name)
        frame = _frame(self.source, name)
        return Scene(run, name, self.codes[row : row + 1], fitted=False, field=self.bind(run, name), frame=frame)

    def sample(self, name: str, samples: int, generator: torch.Generator | None = None) -> Tensor:
        """Codes `[samples z]` of a scene, drawn from its distribution.

        Raises:
            InputError: an unknown name, or codes without a distribution.
        """
        row = self.index(name)
        if self.std is None:
            raise InputError(f'scene {name!r}: has a code and no distribution; infer it with by="posterior"')
        device = self.codes.device if generator is None else generator.device
        noise = torch.randn(samples, self.codes.shape[1], generator=generator, device=device).to(self.codes)
        return self.codes[row] + self.std[row] * noise


def infer(
    run: Run,
    data: SceneDataset,
    out: str | Path | None = None,
    *,
    by: By = "descent",
    minutes: float | None = None,
    steps: int | None = None,
    refine: bool = False,
    prior: float = 1e-5,
    weight: float = POSTERIOR_WEIGHT,
    seed: int = 0,
    source: Mapping[str, Any] | None = None,
    progress: bool | OnStep = True,
) -> InferredCodes:
    """Codes of the scenes of `data`, with the run's networks frozen; written to `out` (safetensors) if it is given.

    Args:
        by: "descent" or "posterior" fit for `minutes` or `steps`; "encoder" and "steps" take one go, with runs that
            were fitted for it.
        refine: with descent, then fit low-rank residuals of each scene's weights in half of the time.
        prior: with descent, weight of the Gaussian prior; more holds codes closer to the fitted ones when data are few.
        weight: with posterior, of the divergence: twice a pixel's noise variance over the number of observed pixels.
        source: facts about the data to store in the file: their folder, the views that were used.
        progress: True shows a bar; or called with the `Progress` after each step.

    The run is not changed. No global random state is read or changed.

    Raises:
        InputError: another kind of data, a run that cannot infer in this way, or a file that cannot be written.
    """
    if by not in get_args(By):
        raise InputError(f"by {by!r:.60}: unknown, wanted one of {', '.join(get_args(By))}")
    require_seed(seed)
    require_data(run, data)
    if out is not None:
        require_codes_file(Path(out))
        with FileLock(Path(out)):
            inferred = _inferred(run, data, by, minutes, steps, refine, prior, weight, seed, source, progress)
            write_codes(Path(out), inferred, run)
        return inferred
    return _inferred(run, data, by, minutes, steps, refine, prior, weight, seed, source, progress)


def _inferred(
    run: Run, data: SceneDataset, by: By, minutes: float | None, steps: int | None, refine: bool, prior: float,
    weight: float, seed: int, source: Mapping[str, Any] | None, progress: bool | OnStep,
) -> InferredCodes:  # fmt: skip
    if by in ("encoder", "steps"):
        if minutes is not None or steps is not None:
            raise InputError(f"--by {by}: takes one go, so --minutes and --steps have no meaning; leave them out")
        inferred = _at_once(run, data, by, seed)
    else:
        if not shares_networks(run.model.config.generator):
            raise InputError(
                f"{run.label}: was fitted with --individually, so it has no networks that could infer codes"
            )
        if refine and by != "descent":
            raise InputError(f"--refine: goes with --by descent, not with {by}; leave it out")
        length = Length(minutes, steps)
        with frozen(run.model), shown(progress, "infer") as on_step:

            def report(state: Progress) -> None:
                on_step(dataclasses.replace(state, fraction=length.done(state)))

            if by == "posterior":
                inferred = _posterior(run, data, length, weight, seed, report)
            else:
                inferred = _descent(run, data, length, refine, prior, seed, report)
    frames = run.task.describe(data).get("frames") if run.task.has_mesh else None
    return dataclasses.replace(inferred, source={**(source or {}), **({"frames": frames} if frames else {})})


class frozen:
    """Within it, parameters of a model get no gradients; after it they are as before."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __enter__(self) -> None:
        self.before = [(parameter, parameter.requires_grad) for parameter in self.model.parameters()]
        self.model.requires_grad_(False)

    def __exit__(self, *_: object) -> None:
        for parameter, required in self.before:
            parameter.requires_grad_(required)


def _trainer(
    run: Run, data: SceneDataset, bind: Bind, groups: dict[str, list[nn.Parameter]], train: TrainConfig, seed: int
) -> Trainer:
    """Descent on all scenes of `data` at once; the prior is on the codes that `bind` gives."""
    device, count = run.model.latents.codes.device, len(data.names)
    objective = run.task.objective(data, run.model.config.field, train, count, device=device, loss=train.loss)
    return Trainer(bind, groups, objective, torch.arange(count), train, seed, regularizers=[GaussianPrior(train.prior)])


def _descent(
    run: Run, data: SceneDataset, length: Length, refine: bool, prior: float, seed: int, on_step: OnStep
) -> InferredCodes:
    model, count = run.model, len(data.names)
    center = model.latents.codes.detach().mean(0)  # of the fitted codes: the most likely place under the prior
    size = model.config.latent_size
    table = LatentTable(count, size, sparse=True, start=center.expand(count, size))
    train = dataclasses.replace(run.config.train, prior=prior)
    progress = Progress()

    def bind_codes(local: Tensor, generator: torch.Generator) -> Fields:
        codes = table(local)
        return Fields(model.bind(codes), codes)

    middle = 0.5 if refine else 1.0
    trainer = _trainer(run, data, bind_codes, {"latents": [table.codes]}, train, seed)
    trainer.fit(length, progress, stage=(0.0, middle), on_step=on_step)
    codes = table.codes.detach()
    if not refine:
        return InferredCodes(tuple(data.names), codes)
    with seeded(seed):
        added = Residual(model.config.field.spec, count).to(codes.device)

    def bind_residual(local: Tensor, generator: torch.Generator) -> Fields:
        return Fields(model.bind(codes[local], added(local)))

    trainer = _trainer(run, data, bind_residual, {"networks": list(added.parameters())}, train, seed + 1)
    trainer.fit(length, progress, stage=(middle, 1.0), on_step=on_step)
    with torch.no_grad():
        residual = added(torch.arange(count, device=codes.device))
    return InferredCodes(tuple(data.names), codes, residual)


def _posterior(
    run: Run, data: SceneDataset, length: Length, weight: float, seed: int, on_step: OnStep
) -> InferredCodes:
    """A Gaussian over each scene's code; the prior is that of the fitted codes.

        q(z) = N(mean, std^2), a factor a number;  loss = data(z ~ q) + weight * KL(q | p)

    Noise at the input of the hypernetwork gives an implicit distribution over weights (Krueger et al. 2017, "Bayesian
    hypernetworks", section 3.2). Here it is the code's, mean-field, by reparametrised gradients with the networks
    frozen (Kingma, Welling 2014, "Auto-encoding variational Bayes", section 2.3). What the networks cannot show with
    any code is no part of it: see `evaluation.uncertainty`.
    """
    model, count, size = run.model, len(data.names), run.model.config.latent_size
    fitted = model.latents.codes.detach()
    center, std_fitted = fitted.mean(0), fitted.std(0, correction=0).clamp(min=1e-3)
    # In units of the prior: means at 0, standard deviations at POSTERIOR_START.
    start = fitted.new_zeros(count, 2 * size)
    start[:, size:] = math.log(POSTERIOR_START)
    table = LatentTable(count, 2 * size, sparse=True, start=start)
    noise = torch.Generator(fitted.device).manual_seed(seed)

    def bind(local: Tensor, generator: torch.Generator) -> Fields:
        mean, log_std = table(local).chunk(2, 1)
        std = log_std.exp()
        z = mean + std * torch.randn(mean.shape, generator=noise, device=mean.device)
        return Fields(model.bind(center + std_fitted * z), None, weight * gaussian_kl(mean, std).mean())

    train = dataclasses.replace(run.config.train, prior=0.0, rate_latents=POSTERIOR_RATE)
    trainer = _trainer(run, data, bind, {"latents": [table.codes]}, train, seed)
    trainer.fit(length, Progress(), on_step=on_step)
    mean, log_std = table.codes.detach().chunk(2, 1)
    return InferredCodes(tuple(data.names), center + std_fitted * mean, std=std_fitted * log_std.exp())


def _at_once(run: Run, data: SceneDataset, by: str, seed: int) -> InferredCodes:
    """Codes by the source that the run was fitted with."""
    config: Codes | None = run.config.codes
    if config is None or not config.at_once or (by == "encoder") != (type(config).__name__ == "Encoder"):
        how = "--by encoder" if by == "encoder" else "--by cavia or reptile"
        what = "without an encoder" if by == "encoder" else "not for a few steps"
        raise InputError(f"{run.label}: was fitted {what}; make such a run with: hyperfields fit {how}")
    source = code_source(run, data, config)
    device, train = run.model.latents.codes.device, run.config.train
    count = len(data.names)
    objective = run.task.objective(data, run.model.config.field, train, count, device=device, loss=train.loss)
    generator, parts = torch.Generator(device).manual_seed(seed), []
    with frozen(run.model), one_torch_thread():
        for scenes in torch.arange(count, device=device).split(train.scenes):

            def loss(codes: Tensor, scenes: Tensor = scenes) -> Tensor:
                return objective(run.model.bind(codes), scenes, scenes, generator) * len(scenes)

            parts.append(source.final_codes(scenes, generator, loss).detach())
    return InferredCodes(tuple(data.names), torch.cat(parts))


def _frame(source: Mapping[str, Any], name: str) -> tuple[float, ...] | None:
    """(scale, centre x y z) of a scene in its file; None where a file of codes does not say it."""
    frames = source.get("frames")
    frame = frames.get(name) if isinstance(frames, Mapping) else None
    if not isinstance(frame, list | tuple) or len(frame) != 4:
        return None
    sound = all(isinstance(value, int | float) and math.isfinite(value) for value in frame)
    return tuple(map(float, frame)) if sound else None


def code_source(run: Run, data: SceneDataset, config: Codes) -> CodeSource:
    """The run's source of codes for other scenes.

    Raises:
        InputError: its file is missing or damaged.
    """
    context = FitContext(data, run.task, run.model.config.latent_size, run.model.config.field.spec)
    with seeded():
        source = config.build(context).to(run.model.latents.codes.device)
    if run.source is not None:
        tensors = run.source.state_dict()
    elif run.path is not None:
        stored, header = read_tensors(run.path / SOURCE)
        if header.get("run", run.digest) != run.digest:  # a fit was stopped between two files
            raise InputError(f"{run.path / SOURCE}: is not of this {MODEL}; go on with the fit: --resume")
        tensors = codec.decode(stored)
    else:
        raise InputError(f"{run.label}: does not hold where its codes come from; fit it again")
    try:
        source.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"{run.label}: {SOURCE} is damaged: {str(error).splitlines()[0]}") from None
    return source


def require_codes_file(path: Path) -> None:
    """InputError unless the suffix is that of a file of codes."""
    if path.suffix.lower() != ".safetensors":
        raise InputError(f"{path}: suffix {path.suffix or '(none)'} cannot hold a file of codes; use .safetensors")


def write_codes(path: Path, inferred: InferredCodes, run: Run) -> None:
    """Write codes and residuals at 16 bits, with the names and the run that they belong to.

    Raises:
        InputError: another suffix than .safetensors, or the file cannot be written.
    """
    require_codes_file(path)
    header = {
        "format": str(FORMAT),
        "names": json.dumps(inferred.names),
        "run": run.digest,
        "family": json.dumps(dict(inferred.source)),
    }
    tensors = {"codes": inferred.codes}
    if inferred.std is not None:
        tensors["deviation"] = inferred.std
    tensors |= {f"residual.{name}": value for name, value in inferred.residual.items()}
    write_atomically(path, safetensors.torch.save(codec.encode(tensors), header))


def load_codes(path: str | Path, run: Run) -> InferredCodes:
    """Codes written by `infer`.

    Raises:
        InputError: missing, damaged, or of another run.
    """
    stored, header = read_tensors(Path(path))
    if "codes" not in stored or "names" not in header:
        raise InputError(f"{path}: not a file of codes; make one with: hyperfields infer RUN FAMILY --out {path}")
    if header.get("run") != run.digest:
        raise InputError(f"{path}: its codes belong to another run than {run.label}")
    device = run.model.latents.codes.device
    tensors = {name: value.to(device) for name, value in codec.decode(stored).items()}
    try:
        names, source = tuple(json.loads(header["names"])), json.loads(header.get("family", "{}"))
    except (ValueError, TypeError, RecursionError):
        raise InputError(f"{path}: damaged: its header is not JSON") from None
    shape = (len(names), run.model.config.latent_size)
    std = tensors.get("deviation")
    if tensors["codes"].shape != shape or (std is not None and std.shape != shape) or not isinstance(source, dict):
        raise InputError(f"{path}: damaged: codes are {list(tensors['codes'].shape)}, wanted {list(shape)}")
    if not all(value.is_floating_point() for value in tensors.values()):
        raise InputError(f"{path}: damaged: its tensors are not floating point")
    if not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: damaged: its names are not text")
    residual = {
        name.removeprefix("residual."): value for name, value in tensors.items() if name.startswith("residual.")
    }
    _check_residual(path, run, residual, len(names))
    return InferredCodes(names, tensors["codes"], residual, std, source)


def _check_residual(path: str | Path, run: Run, residual: Mapping[str, Tensor], scenes: int) -> None:
    spec = run.model.config.field.spec
    for name, value in residual.items():
        entry = spec.get(name)
        wanted = None
        if entry is not None and entry.source == "factored":
            wanted = (scenes, (len(entry.groups) - 1) * entry.bases)
        elif entry is not None and entry.source == "generated":
            wanted = (scenes, *entry.shape)
        if wanted is None or tuple(value.shape) != wanted:
            raise InputError(f"{path}: damaged: residual {name!r} is {list(value.shape)}, which does not fit the run")


@torch.no_grad()
def draw_fields(
    run: Run,
    code: Tensor,
    std: Tensor | None = None,
    residual: Mapping[str, Tensor] | None = None,
    *,
    samples: int = 8,
    seed: int = 0,
) -> list[BoundField]:
    """Fields of one scene, drawn from the distributions over its code `[1 z]` and over generated weights.

    None of either: there is nothing to draw, and the list is empty.

    Args:
        std: of the code, `[1 z]`.
        residual: what is added to the weights of a scene that was refined, `[1 ...]` each.
    """
    generator = torch.Generator(code.device).manual_seed(seed)
    if std is None and run.model.hypernet.bayes.kind == "none":
        return []
    fields = []
    for _ in range(samples):
        noise = torch.randn(code.shape, generator=generator, device=code.device)
        drawn = code if std is None else code + std * noise
        fields.append(run.model.sample(drawn, generator, residual)[0])
    return fields


def fields_of(
    run: Run, name: str, inferred: InferredCodes | None = None, *, samples: int = 8
) -> tuple[BoundField, list[BoundField]]:
    """(a scene's field, fields drawn from the distributions over its code and weights, if there are any).

    Args:
        inferred: codes that the scene is among; without, it is one of the run.

    Raises:
        InputError: an unknown name.
    """
    if inferred is None:
        return run.bind(name), draw_fields(run, run.codes(name), samples=samples)
    row = slice(inferred.index(name), inferred.index(name) + 1)
    std = None if inferred.std is None else inferred.std[row]
    residual = {key: value[row] for key, value in inferred.residual.items()}
    return inferred.bind(run, name), draw_fields(run, inferred.codes[row], std, residual, samples=samples)


@torch.no_grad()
def new_code(run: Run, seed: int) -> Tensor:
    """Code `[1 z]` of a new scene: a draw from N(0, 1) if the run was fitted under that prior by distributions
    (`Variational`), else from the Gaussian of the fitted codes, number by number.
    """
    generator, codes = torch.Generator().manual_seed(seed), run.model.latents.codes.detach()
    drawn = torch.randn(1, codes.shape[1], generator=generator).to(codes)
    if type(run.config.codes).__name__ == "Variational":
        return drawn
    return codes.mean(0) + codes.std(0, correction=0) * drawn
