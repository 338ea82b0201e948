"""How sure a run is: a distribution over the code of a scene, and so over its generated weights and all they predict.

    q(z) = N(mean, deviation^2), a factor a number;  loss = data(z ~ q) + weight * KL(q | p),  p: that of fitted codes

Noise at the input of the hypernetwork gives an implicit distribution over weights (Krueger et al. 2017, "Bayesian
hypernetworks", section 3.2). Here it is the code's, with a mean-field factor for each of its numbers, found by
reparametrised gradients with the networks frozen (Kingma, Welling 2014, "Auto-encoding variational Bayes", section
2.3).

What the networks cannot show with any code is not part of that: on things that are new it makes most of the error. A
`Misfit` adds it. The errors made on what was seen are kept where they were made, on the surface, and expected again
where another view looks at the same place: a noise level that depends on the place (Nix, Weigend 1994, "Estimating the
mean and variance of the target probability distribution"), estimated by kernel regression (Nadaraya 1964, Watson 1964)
instead of a network. Both parts together are `total_deviation`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from hyperfields.cameras import Rays
from hyperfields.checkpoint import Run
from hyperfields.errors import InputError
from hyperfields.families import Family, Points, View
from hyperfields.fields import RadianceField, ShapeField
from hyperfields.fit import Objective, Optimization, Progress
from hyperfields.hypernets import Direct
from hyperfields.infer import descend
from hyperfields.latents import LatentTable
from hyperfields.model import Bound
from hyperfields.presets import Recipe
from hyperfields.render import on_background, render_volume

START = 0.3  # deviation of q at first, in units of the prior's
FAR, WIDER = 1e-3, 8.0  # beside the kernel stands one so much lower and wider, for places that have nothing near
SEEN = 2**14  # rays or points that the misfit is measured on
CHUNK = 1024  # places that are looked up at a time
HIT = 0.3  # opacity from which on a ray has a place


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
    family: Family,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    weight: float = 1e-5,
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
    if isinstance(run.model.config.generator, Direct):
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

    def bind(local: Tensor) -> tuple[Bound, None]:
        mean, log_deviation = table(local).chunk(2, 1)
        deviation = log_deviation.exp()
        work.divergence = gaussian_divergence(mean, deviation).mean()
        z = mean + deviation * torch.randn(mean.shape, generator=noise)
        return model.bind(center + spread * z), None

    recipe = dataclasses.replace(Recipe(**run.config["recipe"]), prior=0.0, rate_latents=3e-2)
    objective = Objective(family, model.config.field, recipe, count)
    work = _Variational(bind, {"latents": [table.codes]}, objective, torch.arange(count), seed)
    work.weight = weight
    descend(work, Progress(), minutes, steps, (0.0, 1.0), report)
    mean, log_deviation = table.codes.detach().chunk(2, 1)
    return Posterior(family.names, center + spread * mean, spread * log_deviation.exp())


def gaussian_divergence(mean: Tensor, deviation: Tensor) -> Tensor:
    """KL(N(mean, deviation^2) | N(0, 1)), summed over the numbers of a code: `[s z]` -> `[s]`."""
    return 0.5 * (mean.square() + deviation.square() - 1.0).sum(1) - deviation.log().sum(1)


@torch.no_grad()
def predict(
    run: Run,
    posterior: Posterior,
    name: str,
    draw: Callable[[Bound], Tensor],
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


@dataclasses.dataclass(frozen=True)
class Misfit:
    """Errors of a scene's mean prediction on what was seen, where they were made: what no code can show."""

    places: Tensor  # [m d], scene frame
    error: Tensor  # [m], root of the mean square over channels
    width: float  # standard deviation of the kernel, scene units

    def at(self, places: Tensor) -> Tensor:
        """The root mean square error to expect at places `[... d]` -> `[...]`. Far from all seen: the mean."""
        square = self.error.square()
        found = []
        for some in places.flatten(0, -2).split(CHUNK):
            distance = (torch.cdist(some, self.places) / self.width).square()
            weight = torch.exp(-0.5 * distance) + FAR * torch.exp(-0.5 * distance / WIDER**2) + FAR**2
            found.append(weight @ square / weight.sum(1))
        return torch.cat(found).sqrt().reshape(places.shape[:-1])


@torch.no_grad()
def misfit(
    run: Run, posterior: Posterior, family: Family, name: str, *, width: float | None = None, seed: int = 0
) -> Misfit:
    """Measure the misfit of a scene on fresh samples of what was seen of it.

    Args:
        family: the one that the posterior was inferred from.
        width: of the kernel, scene units; without, the length of a sample along a ray, or 1/40 of the box's side.

    Raises:
        InputError: a scene that was not inferred.
    """
    if name not in posterior.names or name not in family.names:
        raise InputError(f"scene {name!r}: not among the inferred ones: {', '.join(posterior.names[:10])}")
    bound = run.model.bind(posterior.mean[posterior.names.index(name)][None])
    scene, generator = torch.tensor([family.names.index(name)]), torch.Generator().manual_seed(seed)
    field, batch = bound.field, family.batch(scene, SEEN, generator)
    if isinstance(batch, Points):
        places, difference = batch.x[0], (bound(batch.x) - batch.target)[0]
        width = width or (0.05 if isinstance(field, ShapeField) else 0.025)
    else:
        assert isinstance(field, RadianceField)
        color, places = _look(bound, batch.rays)
        difference = color - (batch.rgba[..., :3] * batch.rgba[..., 3:] + 1.0 - batch.rgba[..., 3:])[0]
        width = width or field.step
    return Misfit(places, difference.square().mean(-1).sqrt(), width)


@torch.no_grad()
def view_places(bound: Bound, views: list[View]) -> Tensor:
    """Where the pixels of views, all of one size, lie on one scene's surface: `[v h w 3]`, scene frame."""
    found = [_look(bound, Rays(*(part[None] for part in view.camera.rays())))[1] for view in views]
    return torch.stack(found).reshape(len(views), *views[0].rgba.shape[:2], 3)


def _look(bound: Bound, rays: Rays) -> tuple[Tensor, Tensor]:
    """(colour on white, place) of rays `[1 r 3]`: `[r 3]` each. A ray that hits nothing is where it is nearest to 0."""
    assert isinstance(bound.field, RadianceField)
    seen = render_volume(bound, rays, bound.occupancy(), step=bound.field.step)
    nearest = -(rays.origins * rays.directions).sum(-1)
    distance = torch.where(seen.alpha > HIT, seen.depth, nearest)
    return on_background(seen)[0], (rays.origins + distance[..., None] * rays.directions)[0]


def total_deviation(deviation: Tensor, misfit: Tensor) -> Tensor:
    """Of a pixel: what is not known of the code, `[... c]`, and what no code can show, `[...]`, together: `[... c]`."""
    return (deviation.square() + misfit.square()[..., None]).sqrt()


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How predicted deviations compare with the errors made."""

    rank_correlation: float  # of |error| and deviation (Spearman); 1: the same order
    within_one: float  # share of errors within one deviation; 0.68 for a Gaussian that is right
    within_two: float  # within two; 0.95


def calibrate(error: Tensor, deviation: Tensor) -> Calibration:
    """Compare errors and predicted deviations of one shape, e.g. means over the channels of a pixel."""
    size, spread = error.abs().flatten(), deviation.flatten()
    pair = torch.stack((_ranks(size), _ranks(spread)))
    correlation = float(torch.corrcoef(pair)[0, 1])
    return Calibration(
        correlation, float((size <= spread).float().mean()), float((size <= 2.0 * spread).float().mean())
    )


def _ranks(values: Tensor) -> Tensor:
    """Ranks, equal values sharing the mean of theirs."""
    _, place, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    ranks: Tensor = last - 0.5 * (counts - 1)
    return ranks[place]


def uncertainty_image(deviation: Tensor) -> Tensor:
    """Deviations `[h w 3]` as a grey picture `[h w 3]` in [0, 1]: white is the largest."""
    grey = deviation.mean(-1, keepdim=True)
    return (grey / grey.max().clamp(min=1e-12)).expand(-1, -1, 3)
