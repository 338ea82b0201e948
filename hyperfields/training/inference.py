"""Inference: codes of scenes that a run was not fitted to, with its networks frozen, all scenes at once.

descent     a code a scene by gradient descent, then, if wanted, all of its weights from those of the code
posterior   a distribution over the code of each scene
encoder     read off the observations by the run's encoder; steps: the few steps that the run has learned to take
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from hyperfields.codes import Codes, CodeSource, FitContext, LatentTable
from hyperfields.codes.table import gaussian_kl
from hyperfields.data import SceneDataset
from hyperfields.errors import InputError
from hyperfields.fields import BoundField
from hyperfields.hypernets import shares_networks
from hyperfields.ops.threads import one_torch_thread
from hyperfields.process import seeded
from hyperfields.runs import codec
from hyperfields.runs.codec import read_tensors
from hyperfields.runs.config import require_seed
from hyperfields.runs.inferred import InferredCodes, require_codes_file, unpacked, write_codes
from hyperfields.runs.lock import FileLock
from hyperfields.runs.run import MODEL, SOURCE, Run, require_data, require_pixels
from hyperfields.tasks import TrainConfig
from hyperfields.tasks.config import Cosine
from hyperfields.training import axes
from hyperfields.training.compression import compress
from hyperfields.training.progress import OnStep, shown
from hyperfields.training.refinement import GROUP, pictures_of
from hyperfields.training.refinement import refine as refined
from hyperfields.training.regularizers import GaussianPrior
from hyperfields.training.symmetry import FEW, Mirrored, with_mirrored
from hyperfields.training.trainer import Bind, Fields, Length, Progress, Trainer

By = Literal["descent", "posterior", "encoder", "steps"]
POSTERIOR_WEIGHT = 1e-5  # of the divergence in the loss
POSTERIOR_START = 0.3  # standard deviation of q at first, in units of the prior's
POSTERIOR_RATE = 3e-2  # of means and logarithms of standard deviations
CODE_SHARE = 0.15  # of the time, for codes, where weights are refined after them
ONE_PICTURE_SHARE = 0.4  # the same where a scene is seen in one picture: what it does not show, the code alone tells
MANY_PICTURES_SHARE = 0.05  # where more than `symmetry.FEW` pictures show all of it, and all weights are kept
CODE_WARMUP = 10  # steps, of these


@torch.inference_mode(False)  # wherever it is called
@torch.enable_grad()
def infer(
    run: Run,
    data: SceneDataset,
    out: str | Path | None = None,
    *,
    by: By = "descent",
    minutes: float | None = None,
    steps: int | None = None,
    refine: bool = False,
    bytes_per_scene: int | None = None,
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
        refine: with descent, then fit all weights of each scene, from those that its code generates.
        bytes_per_scene: with descent, then fit the changes of each scene's weights that are worth their bytes, and pack
            code and changes into so many at most. `refine` alone takes 16 bits a weight.
        prior: with descent, weight of the Gaussian prior; more holds codes closer to the fitted ones when data are few.
        weight: with posterior, of the divergence: twice a pixel's noise variance over the number of observed pixels.
        source: facts about the data to store in the file: their folder, the views that were used.
        progress: True shows a bar; or called with the `Progress` after each step.

    Where the run's family of views is symmetric and pictures of a new scene are few, each also counts as its mirror
    image; `source["mirror"]` then has the axis.

    The run is not changed. No global random state is read or changed.

    Raises:
        InputError: another kind of data, a run that cannot infer in this way, or a file that cannot be written.
    """
    if by not in get_args(By):
        raise InputError(f"by {by!r:.60}: unknown, wanted one of {', '.join(get_args(By))}")
    require_seed(seed)
    require_data(run, data)
    require_pixels(run, data)
    if out is not None:
        require_codes_file(Path(out))
        with FileLock(Path(out)):
            inferred = _inferred(
                run, data, by, minutes, steps, refine, bytes_per_scene, prior, weight, seed, source, progress
            )
            write_codes(Path(out), inferred)
        return inferred
    return _inferred(run, data, by, minutes, steps, refine, bytes_per_scene, prior, weight, seed, source, progress)


def _inferred(
    run: Run, data: SceneDataset, by: By, minutes: float | None, steps: int | None, refine: bool,
    bytes_per_scene: int | None, prior: float, weight: float, seed: int, source: Mapping[str, Any] | None,
    progress: bool | OnStep,
) -> InferredCodes:  # fmt: skip
    seen = data
    if by in ("encoder", "steps"):
        if minutes is not None or steps is not None:
            raise InputError(f"--by {by}: takes one go, so --minutes and --steps have no meaning; leave them out")
        inferred = _at_once(run, data, by, seed)
    else:
        if not shares_networks(run.model.config.generator):
            raise InputError(
                f"{run.label}: was fitted with --individually, so it has no networks that could infer codes"
            )
        if by != "descent" and (refine or bytes_per_scene is not None):
            option = "--refine" if refine else "--bytes"
            raise InputError(f"{option}: goes with --by descent, not with {by}; leave it out")
        if refine and bytes_per_scene is not None:
            raise InputError(f"--refine, --bytes {bytes_per_scene}: give one of the two")
        if bytes_per_scene is not None:
            _require_bytes(run, bytes_per_scene)
        if by == "posterior":
            _require_spread(run, "--by posterior")
        length = Length(minutes, steps)
        with frozen(run.model), shown(progress, "infer") as on_step:

            def report(state: Progress) -> None:
                on_step(dataclasses.replace(state, fraction=length.done(state)))

            if by == "posterior":
                inferred = _posterior(run, data, length, weight, seed, report)
            else:
                seen = with_mirrored(run, data)
                inferred = _descent(run, seen, length, refine, bytes_per_scene, prior, seed, report)
    facts = dict(source or {})
    if frames := run.task.describe(data).get("frames") if run.task.has_mesh else None:
        facts["frames"] = frames
    if isinstance(seen, Mirrored):
        facts["mirror"] = "xyz"[seen.axis]
    return dataclasses.replace(inferred, source=facts)


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


def _require_spread(run: Run, option: str) -> None:
    """InputError for one fitted scene: how codes differ, which is the prior of other scenes, is then not known."""
    if len(run) < 2:
        raise InputError(
            f"{option}: takes how codes of fitted scenes differ, and {run.label} holds one scene; use a run of several"
        )


def _require_bytes(run: Run, size: int) -> None:
    """InputError when no code fits into so many bytes; how many it takes is known once it is found."""
    least = math.ceil(run.model.config.latent_size / 2)
    if not isinstance(size, int) or isinstance(size, bool) or size < least:
        raise InputError(f"--bytes {size!r:.60}: wanted a whole number of at least {least}, for the code alone")


def each_scene_steps(run: Run, data: SceneDataset, steps: int, refine: bool = False, packed: bool = False) -> str:
    """A line about how many of the steps a scene takes part in; empty where it is all of them."""
    count, each = len(data.names), min(run.config.train.scenes, len(data.names))
    if not (refine or packed):
        return "" if each == count else f"steps: a scene takes part in about {steps * each / count:.0f} of {steps:,}"
    share, groups = code_share(data, packed), math.ceil(count / GROUP)
    return (
        f"steps: a scene takes part in about {share * steps * each / count:.0f} of {steps:,} for its code, then in "
        f"{(1.0 - share) * steps / groups:.0f} for its weights"
    )


def code_share(data: SceneDataset, packed: bool = False) -> float:
    """Share of the time that codes get, where weights are refined after them; `packed`: into few bytes."""
    pictures = pictures_of(data)
    if pictures > FEW and not packed:
        return MANY_PICTURES_SHARE
    return ONE_PICTURE_SHARE if pictures == 1 else CODE_SHARE


def _descent(
    run: Run,
    data: SceneDataset,
    length: Length,
    refine: bool,
    size: int | None,
    prior: float,
    seed: int,
    on_step: OnStep,
) -> InferredCodes:
    model, count = run.model, len(data.names)
    center = model.latents.codes.detach().mean(0)  # of the fitted codes: the most likely place under the prior
    table = LatentTable(count, len(center), sparse=True, start=center.expand(count, len(center)))
    train = run.config.train.for_new_scenes(prior=prior)
    progress = Progress()
    along = axes.code_axes(run, data, seed) if count >= axes.SCENES else None
    if along is not None:
        nn.init.zeros_(table.codes)
        train = dataclasses.replace(train, adam=dataclasses.replace(train.adam, betas=axes.BETAS))

    def codes_of(rows: Tensor) -> Tensor:
        return rows if along is None else center + rows @ along

    def bind_codes(local: Tensor, generator: torch.Generator) -> Fields:
        codes = codes_of(table(local))
        return Fields(model.bind(codes), codes)

    alone = not refine and size is None
    middle = 1.0 if alone else code_share(data, packed=size is not None)
    if not alone:
        train = dataclasses.replace(train, schedule=Cosine(CODE_WARMUP))
    trainer = _trainer(run, data, bind_codes, {"latents": [table.codes]}, train, seed)
    trainer.fit(length, progress, stage=(0.0, middle), on_step=on_step)
    codes = codes_of(table.codes.detach())
    if alone:
        return InferredCodes(run, tuple(data.names), codes)
    if size is not None:
        packed = compress(run, data, codes, length, progress, size, first=middle, seed=seed + 1, on_step=on_step)
        return unpacked(run, tuple(data.names), packed)
    codes = codec.round_trip(codes)  # as they are read again: what is added belongs to these
    residual = refined(run, data, codes, length, progress, first=middle, seed=seed + 1, on_step=on_step)
    return InferredCodes(run, tuple(data.names), codes, residual)


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

    train = run.config.train.for_new_scenes(prior=0.0, rate_latents=POSTERIOR_RATE)
    trainer = _trainer(run, data, bind, {"latents": [table.codes]}, train, seed)
    trainer.fit(length, Progress(), on_step=on_step)
    mean, log_std = table.codes.detach().chunk(2, 1)
    return InferredCodes(run, tuple(data.names), center + std_fitted * mean, std=std_fitted * log_std.exp())


def _at_once(run: Run, data: SceneDataset, by: str, seed: int) -> InferredCodes:
    """Codes by the source that the run was fitted with."""
    config: Codes | None = run.config.codes
    if config is None or not config.at_once or (by == "encoder") != (type(config).__name__ == "Encoder"):
        how = "--by encoder" if by == "encoder" else "--by cavia"
        what = "without an encoder" if by == "encoder" else "not for a few steps"
        raise InputError(f"{run.label}: was fitted {what}; make such a run with: hyperfields fit {how}")
    source = code_source(run, data, config)
    device, train = run.model.latents.codes.device, run.config.train.for_new_scenes()
    count = len(data.names)
    objective = run.task.objective(data, run.model.config.field, train, count, device=device, loss=train.loss)
    generator, parts = torch.Generator(device).manual_seed(seed), []
    with frozen(run.model), one_torch_thread():
        for scenes in torch.arange(count, device=device).split(train.scenes):

            def loss(codes: Tensor, scenes: Tensor = scenes) -> Tensor:
                return objective(run.model.bind(codes), scenes, scenes, generator) * len(scenes)

            parts.append(source.final_codes(scenes, generator, loss).detach())
    return InferredCodes(run, tuple(data.names), torch.cat(parts))


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
    return inferred.bind(name), draw_fields(run, inferred.codes[row], std, residual, samples=samples)


@torch.no_grad()
def new_code(run: Run, seed: int) -> Tensor:
    """Code `[1 z]` of a new scene: a draw from N(0, 1) if the run was fitted under that prior by distributions
    (`Variational`), else from the Gaussian of the fitted codes, number by number.

    Raises:
        InputError: one fitted scene, which is no distribution; scenes that were fitted each alone.
    """
    if not shares_networks(run.model.config.generator):
        raise InputError(
            f"--sample {seed}: the scenes of {run.label} were fitted each alone, so that nothing generates a new one; "
            "fit without --individually"
        )
    generator, codes = torch.Generator().manual_seed(seed), run.model.latents.codes.detach()
    drawn = torch.randn(1, codes.shape[1], generator=generator).to(codes)
    if type(run.config.codes).__name__ == "Variational":
        return drawn
    _require_spread(run, f"--sample {seed}")
    return codes.mean(0) + codes.std(0, correction=0) * drawn
