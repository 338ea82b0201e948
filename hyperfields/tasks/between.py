"""What a fit asks of fields between scenes: those of codes that are mixed from the codes of two.

Nothing else in a fit sees such codes, and their fields can be anything, in practice speckled. Asked is little, of few
points: a mixed field is near the mixture of both, which has no more parts, edges or grain than they have.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hyperfields.errors import InputError
from hyperfields.fields import BoundField


@dataclasses.dataclass(frozen=True)
class Between:
    """Settings of the loss of mixed codes; each step takes `pairs` of its scenes, mixed evenly at random.

    weight: of the loss; 0, none. share: of a step's samples, at which the mixed fields are asked. start: fraction of
    the fit before which it is left out, since fields have to be something before mixtures can be near them.
    """

    weight: float = 0.0
    share: float = 0.0625
    pairs: int = 8
    start: float = 0.4

    def __post_init__(self) -> None:
        if not 0.0 <= self.weight < math.inf or not 0.0 < self.share <= 1.0 or not 0.0 <= self.start <= 1.0:
            raise InputError(
                f"Between: weight {self.weight}, share {self.share}, start {self.start}: wanted a weight of 0 or more, "
                "a share above 0 and at most 1, and a start from 0 to 1"
            )
        if self.pairs < 1:
            raise InputError(f"Between: pairs {self.pairs}: wanted at least 1")

    def points(self, samples: int, pairs: int) -> int:
        """Points of each of so many pairs, half of them from the samples of each scene: an even number."""
        return 2 * max(round(0.5 * self.share * samples / pairs), 4)


class Mixture(NamedTuple):
    """Fields between pairs of scenes, at points of both, and what the scenes' own fields say there."""

    bound: BoundField  # of the mixed codes, one a pair
    x: Tensor  # [p n d]
    ends: Tensor  # [2 p n c] values of the first and of the second scenes
    share: Tensor  # [p 1 1] of the second

    @property
    def blend(self) -> Tensor:
        """Mixed values `[p n c]`."""
        return torch.lerp(self.ends[0], self.ends[1], self.share)


MixtureLoss = Callable[[Mixture], Tensor]  # -> []


def at_both(bound: BoundField, mixed: BoundField, x: Tensor, *directions: Tensor) -> Any:
    """Values of both scenes of `p` pairs at the points `[p n d]` of their pair: `[2 p n c]` each.

    Not differentiable.

    Args:
        bound: the fields of a step's scenes, those of pair i at i and p + i.
        mixed: the fields of the mixed codes.
    """
    with torch.no_grad():
        counts = torch.zeros(bound.scenes, dtype=torch.int64, device=bound.device)
        counts[: 2 * mixed.scenes] = x.shape[1]
        values = bound(*(torch.cat((part, part)).flatten(0, 1) for part in (x, *directions)), counts)
    shape = 2, mixed.scenes, x.shape[1], -1
    return values.reshape(shape) if isinstance(values, Tensor) else tuple(value.reshape(shape) for value in values)


def color_error(mixture: Mixture) -> Tensor:
    """Mean squared distance `[]` of colours from the mixed ones, whose total variation is at most the ends' mean."""
    error: Tensor = (mixture.bound(mixture.x) - mixture.blend).square().mean()
    return error


SPAN = 0.03  # distance over which slopes are taken, scene units: about a cell of the finest level
NEAR = 0.05  # distance from the surface within which they count, scene units
WIDTH = 0.02  # as of `losses.DistanceLoss`
TETRAHEDRON = ((1.0, 1.0, 1.0), (1.0, -1.0, -1.0), (-1.0, 1.0, -1.0), (-1.0, -1.0, 1.0))


def distance_error(mixture: Mixture) -> Tensor:
    """Distances `[]` far from the mixed ones, and slopes near the surface far from 1, as those of distances are.

    A quarter of the points is asked at four places each, half of them those nearest to the mixed surface, of which the
    samples of the scenes know nothing. Slopes are differences between the corners of a small tetrahedron, which kernels
    with first derivatives can be fitted by (Li et al. 2023, "Neuralangelo", section 3.2, with six corners).
    """
    every = mixture.blend.squeeze(-1)
    chosen = torch.cat((every.abs().topk(every.shape[1] // 8, largest=False).indices, _spread(every)), 1)
    x = mixture.x.gather(1, chosen[..., None].expand(-1, -1, 3))
    blend = every.gather(1, chosen)
    corners = x.new_tensor(TETRAHEDRON) / math.sqrt(3.0)
    around = (x[:, :, None] + SPAN * corners).flatten(1, 2).clamp(-1.0, 1.0)
    values = mixture.bound(around).unflatten(1, (-1, len(corners))).squeeze(-1)
    distance, slope = values.mean(-1), torch.linalg.vector_norm(values @ corners, dim=-1) * 0.75 / SPAN
    from_blend = ((distance - blend).abs() / (blend.abs() + WIDTH)).mean()
    near = torch.exp(-distance.detach().abs() / NEAR)
    error: Tensor = from_blend + ((slope - 1.0).square() * near).sum() / near.sum().clamp(min=1.0)
    return error


def _spread(values: Tensor) -> Tensor:
    """Indices of every eighth of `[p n]`, `[p n / 8]`."""
    return torch.arange(0, values.shape[1], 8, device=values.device).expand(len(values), -1)


CLEAR, OPAQUE = -4.0, 4.0  # logarithms of optical lengths of samples beyond which they are nothing, or everything


def radiance_error(bound: BoundField, share: Tensor, x: Tensor, d: Tensor, ends: tuple[Tensor, Tensor]) -> Tensor:
    """Distance `[]` of radiance from mixed radiance: of logarithms of density, and of colours where something is.

    Logarithms, within bounds: a mixture of densities would be fog wherever one of two scenes is, and one of logarithms
    without bounds nothing wherever one is not.

    Args:
        bound: fields of the mixed codes, one a pair.
        share: `[p 1 1]`, of the second scenes.
        x, d: `[p n 3]`.
        ends: densities `[2 p n 1]` and colours `[2 p n 3]` of both scenes.
    """
    density, color = bound(x, d)
    step = bound.field.step
    optical = (density * step).clamp(min=1e-6).log()
    theirs = (ends[0] * step).clamp(min=1e-6).log().clamp(CLEAR, OPAQUE)
    wanted = torch.lerp(theirs[0], theirs[1], share)
    # Beyond the bounds all is as good.
    from_blend = (optical.clamp(CLEAR, OPAQUE) - wanted).abs().mean() / (OPAQUE - CLEAR)
    parts = 1.0 - torch.exp(-theirs.exp())
    parts = torch.stack((parts[0] * (1.0 - share), parts[1] * share))
    mixed = (parts * ends[1]).sum(0) / parts.sum(0).clamp(min=1e-6)
    error: Tensor = from_blend + ((color - mixed).square() * parts.sum(0)).mean()
    return error
