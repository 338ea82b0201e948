"""How sure a run is: a distribution over the code of a scene, and so over its generated weights and all they predict.

    q(z) = N(mean, deviation^2), a factor a number;  loss = data(z ~ q) + weight * KL(q | p),  p: that of fitted codes

Noise at the input of the hypernetwork gives an implicit distribution over weights (Krueger et al. 2017, "Bayesian
hypernetworks", section 3.2). Here it is the code's, with a mean-field factor for each of its numbers, found by
reparametrised gradients with the networks frozen (Kingma, Welling 2014, "Auto-encoding variational Bayes", section
2.3).

What the networks cannot show with any code is no part of it: see `uncertainty`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from hyperfields.codes.table import LatentTable, VariationalTable, gaussian_kl
from hyperfields.data import SceneDataset
from hyperfields.errors import InputError
from hyperfields.hypernets import Independent
from hyperfields.model import BoundField
from hyperfields.runs.checkpoint import Run
from hyperfields.tasks import task_of
from hyperfields.tasks.presets import TrainConfig
from hyperfields.training.inference import descend
from hyperfields.training.optim import Optimization, Progress

DIVERGENCE = 1e-5  # its weight in the loss
START = 0.3  # deviation of q at first, in units of the prior's


@dataclasses.dataclass(frozen=True)
class Posterior:
    """Names and, for each scene, the mean and the deviation of its code `[s z]`."""

    names: tuple[str, ...]
    mean: Tensor
    deviation: Tensor

    def sample(self, name: str, samples: int, generator: torch.Generator | None = None) -> Tensor:
        """Codes `[samples z]` of a scene.

        Raises:
            InputError: an unknown name.
        """
        if name not in self.names:
            raise InputError(f"scene {name!r}: not among the inferred ones: {', '.join(self.names[:10])}")
        row = self.names.index(name)
        noise = torch.randn(samples, self.mean.shape[1], generator=generator)
        return self.mean[row] + self.deviation[row] * noise


class _Variational(Optimization):
    """Gradient descent on means and logarithms of deviations."""

    divergence: Tensor  # of the last batch, set by `bind`
    weight: float

    def loss(self) -> tuple[Tensor, Tensor]:
        total, data = super().loss()
        return total + self.weight * self.divergence, data


def infer_posterior(
    run: Run,
    family: SceneDataset,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    weight: float = DIVERGENCE,
    seed: int = 0,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Posterior:
    """Find what is known of the codes of scenes that a run has not seen. The prior is that of the fitted codes.

    Args:
        weight: of the divergence: twice the variance of the noise of a pixel over the number of pixels that were seen.

    Raises:
        InputError: another kind of family, or a run without a hypernetwork.
    """
    if family.kind != run.kind:
        raise InputError(f"{run.path}: holds {run.kind}, the family holds {family.kind}; give a family of {run.kind}")
    if isinstance(run.model.config.generator, Independent):
        raise InputError(f"{run.path}: was fitted with --individually, so it has no networks that could infer codes")
    if (minutes is None) == (steps is None):
        raise InputError(f"--minutes {minutes}, --steps {steps}: give one of the two")
    torch.manual_seed(seed)
    model, count = run.model.requires_grad_(False), len(family.names)
    size, codes = run.model.config.latent_size, run.model.latents.codes.detach()
    center = codes.mean(0)
    spread = codes.std(0, correction=0).clamp(min=1e-3)
    # In units of the prior: means at 0, deviations at START.
    table = LatentTable(count, 2 * size)
    table.codes.data[:, :size], table.codes.data[:, size:] = 0.0, torch.log(torch.tensor(START))
    noise = torch.Generator().manual_seed(seed)

    def bind(local: Tensor) -> tuple[BoundField, None]:
        mean, log_deviation = table(local).chunk(2, 1)
        deviation = log_deviation.exp()
        work.divergence = gaussian_kl(mean, deviation).mean()
        z = mean + deviation * torch.randn(mean.shape, generator=noise)
        return model.bind(center + spread * z), None

    recipe = dataclasses.replace(TrainConfig(**run.config["recipe"]), prior=0.0, rate_latents=3e-2)
    objective = task_of(family.kind).objective(family, model.config.field, recipe, count)
    work = _Variational(bind, {"latents": [table.codes]}, objective, torch.arange(count), seed)
    work.weight = weight
    descend(work, Progress(), minutes, steps, (0.0, 1.0), report)
    mean, log_deviation = table.codes.detach().chunk(2, 1)
    return Posterior(family.names, center + spread * mean, spread * log_deviation.exp())


@torch.no_grad()
def draw_fields(
    run: Run,
    code: Tensor,
    deviation: Tensor | None = None,
    residual: Mapping[str, Tensor] | None = None,
    *,
    samples: int = 8,
    seed: int = 0,
) -> list[BoundField]:
    """Fields of one scene, drawn from the distributions over its code `[1 z]` and over generated weights.

    None of either: there is nothing to draw, and the list is empty.

    Args:
        residual: what is added to the weights of a scene that was refined, `[1 ...]` each.
    """
    hypernet, generator = run.model.hypernet, torch.Generator(code.device).manual_seed(seed)
    if deviation is None and hypernet.bayes.kind == "none":
        return []
    found = []
    for _ in range(samples):
        noise = torch.randn(code.shape, generator=generator, device=code.device)
        with hypernet.drawing(generator):
            found.append(run.model.bind(code if deviation is None else code + deviation * noise, residual))
    return found


@torch.no_grad()
def new_code(run: Run, seed: int) -> Tensor:
    """The code `[1 z]` of a scene that nobody has seen: a draw from N(0, 1) if the run was fitted under that prior by
    distributions (`vae`), else from the Gaussian of the fitted codes, number by number.
    """
    generator, codes = torch.Generator().manual_seed(seed), run.model.latents.codes.detach()
    drawn = torch.randn(1, codes.shape[1], generator=generator).to(codes)
    if (run.config.get("codes") or {}).get("name") == VariationalTable.name:
        return drawn
    return codes.mean(0) + codes.std(0, correction=0) * drawn


@torch.no_grad()
def predict(
    run: Run,
    posterior: Posterior,
    name: str,
    draw: Callable[[BoundField], Tensor],
    *,
    samples: int = 16,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """(mean, deviation) of what `draw` makes of a scene's field over sampled codes, of the shape that it gives.

    draw: a field of one scene -> e.g. a picture, or the pictures that `evaluate.render_views` gives.
    """
    codes = posterior.sample(name, samples, generator)
    pictures = torch.stack([draw(run.model.bind(code[None])) for code in codes])
    return pictures.mean(0), pictures.std(0)
