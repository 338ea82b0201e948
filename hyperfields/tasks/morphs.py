"""Morphs that move: the fields between two fields, of which what is alike is carried from one to the other.

A motion is found once for a pair (`fields.flow`). Between, both fields are read at the places to which it leads, and
mixed there: at the ends a morph is the ends, what can be explained by moving moves, and the rest fades or grows.

What one of two shapes alone has grows out of what both have, along itself, see `tasks.growth`. Solids of radiance are
mixed by their distances a and b: (a + b) / 2 - (t - 1/2) d, held between both. With d = a - b that is the plain blend,
in which a thin part appears at once; here d is the largest difference nearby.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from hyperfields import ops
from hyperfields.errors import InputError
from hyperfields.fields import BoundField
from hyperfields.fields.flow import Level, places, register, values_at
from hyperfields.fields.fronts import averaged, closed, outside, redistanced, widened
from hyperfields.ops.threads import one_torch_thread
from hyperfields.rendering.enlarge import MOST, enlarged
from hyperfields.rendering.image import sample_image
from hyperfields.rendering.meshing import grid_values
from hyperfields.tasks.growth import growth
from hyperfields.weights import Weights

CELLS = 64  # a side, of the grids on which two scenes are compared
NEAR = 0.1  # of a surface, scene units, where distances are compared
FINER = 3  # halves of a cell: so much finer is the grid of a shape between
SAFETY = 1.5  # of the search for its surface, see `mesh_from_field`
GAP = 0.7  # cells of that grid: half of the width of gaps that close
DEEP, SOON = 3.0, 0.12  # so deep they are closed at once, in cells; to their mouths at this part of the way
REACH = 4  # cells, within which the largest difference of distances is looked for
SOLID_LEVELS = (Level(4, 13, 40), Level(8, 25, 40))
PICTURE_LEVELS = (Level(4, 17, 60), Level(8, 33, 60))
BENDING = 1e-3
PAINTED = 2**18  # pixels of a picture that an image is read from
DEPTH = 0.06  # scene units: how deep a solid of radiance is, whose inside nothing shows
FAINT = 0.3  # weight of a colour where nothing is opaque, of which 1 is opaque
BLUR = 2  # cells, of the pictures that are compared
BACKGROUND = 0.1  # difference of a colour from that of the rim from which on it stands before it
OUTLINE = 0.6  # halves of a picture: beyond it, distances from outlines are alike


class FieldMorph(Protocol):
    """The way from one field to another, each of one scene."""

    def at(self, t: float) -> BoundField:
        """The field at `t` of the way, from 0 to 1: at the ends those of the scenes."""

    def carried(self, x: Tensor, time: float) -> Tensor:
        """Points `[... d]` of the first field (time 1) where they are in the second; -1: back. Differentiable in x."""

    def painted(self) -> BoundField:
        """The second field with the colours of the first. InputError for kinds without colours."""


class _Way:
    """What all ways do alike, see `FieldMorph`."""

    first: BoundField
    second: BoundField

    @one_torch_thread()
    @torch.no_grad()
    def at(self, t: float) -> BoundField:
        return self._between(t, t) if 0.0 < t < 1.0 else self.second if t else self.first

    @one_torch_thread()
    @torch.no_grad()
    def painted(self) -> BoundField:
        return self._between(1.0, 0.0)

    def _between(self, t: float, hue: float) -> BoundField:
        """Places of `t`, with this share of the second in colours."""
        raise NotImplementedError


def mixed_distance(first: Tensor, second: Tensor, widest: Tensor, t: float) -> Tensor:
    """Distances between distances, see above; widest: the largest difference nearby, signed as first - second."""
    mixed = 0.5 * (first + second) - (t - 0.5) * widest
    return torch.minimum(torch.maximum(mixed, torch.minimum(first, second)), torch.maximum(first, second))


def widest_difference(difference: Tensor, cells: int) -> Tensor:
    """The largest size of differences `[n n n 1]` within so many cells, smooth, with the sign of each: `[n n n 1]`."""
    size = averaged(widened(difference.abs()[..., 0], cells)[None], 1)[0, ..., None]
    return torch.where(difference < 0.0, -size, size)


def distance_mismatch(first: Tensor, second: Tensor) -> Tensor:
    """Mean difference `[]` of what is compared `[*n c]`, distances first, near one of both surfaces."""
    weight = torch.exp(-torch.minimum(first[..., :1].abs(), second[..., :1].abs()).detach() / NEAR)
    return (weight * _soft(first - second)).sum() / weight.sum().clamp(min=1e-6)


def _soft(difference: Tensor) -> Tensor:
    """|d|, round at 0."""
    return (difference.square() + 1e-4).sqrt()


# Shapes -------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class DistanceBetween:
    """Two fields of distances mixed, with the surface that is between and no true distances; weights: the ends'."""

    first: BoundField
    second: BoundField
    table: Tensor  # [n n n 8]: how far both ends are, what of the first, and of the second, is not there yet

    def __call__(self, x: Tensor) -> Tensor:
        """x `[1 n 3]` -> `[1 n 1]`: what both have, what is left of the first, and what is there of the second."""
        there, here, left, grown = values_at(self.table, x).split((3, 3, 1, 1), -1)
        a, b = self.first((x + there).clamp(-1.0, 1.0)), self.second((x + here).clamp(-1.0, 1.0))
        alone = torch.minimum(torch.maximum(a, b + left), torch.maximum(b, a + grown))
        return torch.minimum(torch.maximum(a, b), alone)


@dataclasses.dataclass(frozen=True, eq=False)
class DistanceGrid:
    """A field of distances at the points of an even grid over [-1, 1]^3, linear between them; it has no weights."""

    kind: ClassVar[str] = "shapes"
    dims: ClassVar[int] = 3

    values: Tensor  # [n n n 1]

    def __call__(self, weights: Weights, x: Tensor, *counts: Tensor) -> Tensor:
        """x `[1 n 3]`, or packed with counts -> `[... 1]`. Differentiable in x, once."""
        return values_at(self.values, x)


class ShapeMorph(_Way):
    """The way from one shape to another.

    Between, shapes are true distances again, on a grid: neither the slopes of the ends' fields nor those of a mixture
    are 1. What is thinner than its cells is not seen. Narrow gaps, as in double walls, would flicker as they move: they
    close soon, the deepest first, and open again as late.
    """

    @one_torch_thread()
    @torch.no_grad()
    def __init__(self, first: BoundField, second: BoundField) -> None:
        self.first, self.second = first, second
        self.grid = places(CELLS + 1, 3, first.device)
        a, b = (self._distances(end, self.grid) for end in (first, second))
        self.flow = register(a, b, distance_mismatch, SOLID_LEVELS, bending=BENDING)
        middle = zip((first, second), (-0.5, 0.5), strict=True)
        a, b = (self._distances(end, self.flow.carried(self.grid, time)) for end, time in middle)
        self.gone, self.grown = growth(b[..., 0], a[..., 0]), growth(a[..., 0], b[..., 0])

    @staticmethod
    def _distances(bound: BoundField, x: Tensor) -> Tensor:
        values: Tensor = bound(x.reshape(1, -1, 3))
        return values.reshape(*x.shape[:3], 1)

    def carried(self, x: Tensor, time: float) -> Tensor:
        return self.flow.carried(x, time)

    def painted(self) -> BoundField:
        raise InputError("shapes have no colours; points can be transferred")

    def _between(self, t: float, hue: float) -> BoundField:
        ends = [self.flow.carried(self.grid, time) - self.grid for time in (-t, 1.0 - t)]
        fronts = [part.excess - time * part.rate for part, time in ((self.gone, 1.0 - t), (self.grown, t))]
        middle = torch.stack(fronts, -1).to(self.grid)
        table = torch.cat((*ends, values_at(middle, self.flow.carried(self.grid, 0.5 - t))), -1)
        mixed = DistanceBetween(self.first, self.second, table)
        cells = FINER * CELLS // 2
        values = redistanced(grid_values(mixed, cells, self.first.device, safety=SAFETY))
        open_ = DEEP * max(1.0 - min(t, 1.0 - t) / SOON, 0.0)  # cells: so deep gaps still are
        values = torch.minimum(values, closed(values, GAP) + open_) * (2.0 / cells)
        return BoundField(DistanceGrid(values[..., None].to(self.grid)), self.first.weights, 1)


# Solids -------------------------------------------------------------------------------------------


def solid_distances(solid: Tensor, depth: float) -> Tensor:
    """Signed distances `[*n]` from a solid, of which points of an even grid over [-1, 1]^d are in it.

    Hollows that nothing leads into are filled; no point is deeper inside than `depth`. To about half a cell.
    """
    cell = 2.0 / (len(solid) - 1)
    filled = ~outside(~solid)
    outer, inner = (_distances(where) * cell for where in (filled, ~filled))
    distance = (outer - inner).clamp(min=-depth)[None]
    return averaged(distance, 1, 2)[0]  # steps of whole cells become slopes


def _distances(solid: Tensor) -> Tensor:
    """Distances `[*n]` of places from the nearest true one, in cells; those of a far corner where there is none.

    Felzenszwalb and Huttenlocher 2012, "Distance transforms of sampled functions": axis by axis; minima by brute force.
    """
    side, dims = len(solid), solid.dim()
    square = torch.where(solid, 0.0, float(dims * side**2))
    steps = torch.arange(side, dtype=square.dtype, device=square.device)
    parabola = (steps[:, None] - steps).square()
    for _ in range(dims):  # the last axis, which then comes first
        rows = [(part[..., None] + parabola).amin(-2) for part in square.split(8)]
        square = torch.cat(rows).movedim(-1, 0)
    return square.clamp(max=float(dims * side**2)).sqrt()


# Radiance -----------------------------------------------------------------------------------------


class SolidMotion:
    """What moves between two solids, and how their distances are mixed."""

    def __init__(self, first: Tensor, second: Tensor) -> None:
        """first, second: `[n n n c]` at the corners of the cells of [-1, 1]^3: distances, and more to compare."""
        self.flow = register(first, second, distance_mismatch, SOLID_LEVELS, bending=BENDING)
        self.grid = places(len(first), 3, first.device)
        middle = (
            values_at(values[..., :1], self.flow.carried(self.grid, time))
            for values, time in ((first, -0.5), (second, 0.5))
        )
        a, b = middle
        self.widest = widest_difference(a - b, REACH)

    def at(self, t: float) -> Tensor:
        """At `t` of the way, for places of the grid: how far both ends are, the widest difference: `[n n n 7]`."""
        ends = (self.flow.carried(self.grid, time) - self.grid for time in (-t, 1.0 - t))
        return torch.cat((*ends, values_at(self.widest, self.flow.carried(self.grid, 0.5 - t))), -1)


@dataclasses.dataclass(frozen=True, eq=False)
class RadianceBetween:
    """The field between two fields of radiance; weights are those of the ends."""

    kind: ClassVar[str] = "views"
    dims: ClassVar[int] = 3

    first: BoundField
    second: BoundField
    moves: Tensor  # [n n n 6] of the grid's [-1, 1]^3: from a place to where the first, and the second, is read for it
    t: float
    hue: float  # share of the second in colours, as `t` is in what is dense

    @property
    def space(self) -> ops.Space:
        space: ops.Space = self.first.field.space
        return space

    @property
    def step(self) -> float:
        """Length of a sample: the shorter one of both."""
        return min(float(self.first.field.step), float(self.second.field.step))

    @property
    def occupancy(self) -> int:
        """Cells along a side of the grid that skips empty space: the more of both."""
        return max(int(self.first.field.occupancy), int(self.second.field.occupancy))

    def _places(self, y: Tensor) -> tuple[Tensor, Tensor]:
        first, second = values_at(self.moves, y).split(3, -1)
        return (y + first).clamp(-1.0, 1.0), (y + second).clamp(-1.0, 1.0)

    def _mixed(self, first: Tensor, second: Tensor) -> Tensor:
        """Density of a sample that is as clear as the mean of both."""
        step = self.step
        clear = torch.lerp(torch.exp(-first * step), torch.exp(-second * step), self.t)
        return -clear.clamp_min(1e-6).log() / step

    def cell_density(self, weights: Weights, y: Tensor, counts: Tensor | None = None) -> Tensor:
        """As that of `RadianceField`."""
        first, second = self._places(y)
        return self._mixed(self.first.cell_density(first, counts), self.second.cell_density(second, counts))

    def density(self, weights: Weights, x: Tensor, counts: Tensor | None = None) -> Tensor:
        """As that of `RadianceField`."""
        return self.cell_density(weights, self.space.into(x), counts) * self._scale(x)

    def _scale(self, x: Tensor) -> Tensor | float:
        """From density per contracted length to that per scene unit."""
        return self.space.density_scale(x) if isinstance(self.space, ops.Contracted) else 1.0

    def visible_samples(self, *_: Any) -> None:
        """None: samples are looked for by the function itself."""

    def __call__(self, weights: Weights, x: Tensor, d: Tensor, *counts: Tensor) -> tuple[Tensor, Tensor]:
        """Density and colour, more that of what is opaque where only one is.

        Both are read at one depth below their surfaces, to about a sample: so close to it both have their colours.
        """
        densities, colors = [], []
        for bound, y in zip((self.first, self.second), self._places(self.space.into(x)), strict=True):
            place = self.space.out_of(y)
            density, color = bound(place, d, *counts)
            densities.append(density / self._scale(place))
            colors.append(color)
        first, second = (FAINT - torch.expm1(-density * self.step) for density in densities)
        share = self.hue * second / torch.lerp(first, second, self.hue)
        return self._mixed(*densities) * self._scale(x), torch.lerp(colors[0], colors[1], share)


class RadianceMorph(_Way):
    """The way from one radiance field to another.

    Where both are read for a place between, their distances from their surfaces are those of the mixed solid, so that
    both surfaces come to lie on its surface: nothing is half transparent that was solid.
    """

    @one_torch_thread()
    @torch.no_grad()
    def __init__(self, first: BoundField, second: BoundField) -> None:
        self.first, self.second = first, second
        self.ends = tuple(self._seen(bound) for bound in (first, second))
        self.motion = SolidMotion(*self.ends)

    def carried(self, x: Tensor, time: float) -> Tensor:
        space = self.first.field.space
        place: Tensor = space.out_of(self.motion.flow.carried(space.into(x), time))
        return place

    def _seen(self, bound: BoundField) -> Tensor:
        """Distances `[n n n 1]` of a scene from what is opaque in it."""
        grid = places(CELLS + 1, 3, bound.device).reshape(1, -1, 3)
        density = bound.cell_density(grid)
        solid = (density * bound.field.step > 0.7).reshape(*[CELLS + 1] * 3)  # an opacity of a half
        return solid_distances(solid, DEPTH)[..., None]

    def _between(self, t: float, hue: float) -> BoundField:
        grid, table = self.motion.grid, self.motion.at(t)
        where = [grid + move for move in (table[..., :3], table[..., 3:6])]
        found = [values_at(end[..., :1], place) for end, place in zip(self.ends, where, strict=True)]
        wanted = mixed_distance(found[0], found[1], table[..., 6:], t)
        moves = []
        for end, place, distance in zip(self.ends, where, found, strict=True):
            slope = values_at(_slopes(end[..., 0]), place)
            ahead = (wanted - distance) * slope / slope.square().sum(-1, keepdim=True).clamp_min(0.25)
            moves.append(place + averaged(ahead.movedim(-1, 0), 1, 2).movedim(0, -1) - grid)
        field = RadianceBetween(self.first, self.second, torch.cat(moves, -1), t, hue)
        return BoundField(field, self.first.weights, 1)


def _slopes(values: Tensor) -> Tensor:
    """Gradients `[n n n 3]` of values on an even grid over [-1, 1]^3."""
    return torch.stack(torch.gradient(values, spacing=2.0 / (len(values) - 1)), -1)


# Images -------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Painting:
    """A picture as a function of places, linear between the centres of its pixels."""

    pixels: Tensor  # [h w c]

    def __call__(self, x: Tensor, *_: Tensor) -> Tensor:
        """x `[... 2]` in [0, 1]^2 -> `[... c]`. Differentiable in x."""
        found = torch.nn.functional.grid_sample(
            self.pixels.movedim(-1, 0)[None], 2.0 * x.reshape(1, 1, -1, 2) - 1.0, padding_mode="border",
            align_corners=False,
        )  # fmt: skip
        return found[0, :, 0].T.reshape(*x.shape[:-1], -1)


def as_painting(bound: BoundField) -> BoundField | Painting:
    """An image as its picture, enlarged: what was fitted at the centres of pixels is anything between them."""
    size: tuple[int, int] | None = getattr(bound.field, "pixels", None)
    if size is None:  # known everywhere
        return bound
    factor = max(min(MOST, math.isqrt(PAINTED // (size[0] * size[1]))), 1)
    picture = sample_image(bound, 1, *size, bound.device)[0].clamp(0.0, 1.0)
    return Painting(enlarged(picture, (factor * size[0], factor * size[1])))


@dataclasses.dataclass(frozen=True, eq=False)
class ColorBetween:
    """The field between two images; weights are those of the ends."""

    kind: ClassVar[str] = "images"
    dims: ClassVar[int] = 2

    first: BoundField | Painting
    second: BoundField | Painting
    moves: Tensor  # [n n 4] of [-1, 1]^2: from a place to where the first, and the second, is read for it
    hue: float  # share of the second
    channels: int  # of a colour

    @property
    def pixels(self) -> tuple[int, int] | None:
        """Size of the picture whose pixels are known, see `ImageField`: the larger one of the ends."""
        paintings = [end.pixels for end in (self.first, self.second) if isinstance(end, Painting)]
        return max(((pixels.shape[0], pixels.shape[1]) for pixels in paintings), default=None)

    def __call__(self, weights: Weights, x: Tensor, *counts: Tensor) -> Tensor:
        """x `[1 n 2]` in [0, 1]^2, or packed with counts -> `[... c]`. Differentiable in x."""
        first, second = (0.5 * values_at(self.moves, 2.0 * x - 1.0)).split(2, -1)
        there = self.first((x + first).clamp(0.0, 1.0), *counts)
        here = self.second((x + second).clamp(0.0, 1.0), *counts)
        return torch.lerp(there, here, self.hue)


class PictureMorph(_Way):
    """The way from one image to another."""

    @one_torch_thread()
    @torch.no_grad()
    def __init__(self, first: BoundField, second: BoundField) -> None:
        self.first, self.second = first, second
        self.ends = as_painting(first), as_painting(second)
        self.grid = places(CELLS + 1, 2, first.device)
        x = (0.5 * self.grid + 0.5).reshape(1, -1, 2)
        a, b = (_compared(end(x).clamp(0.0, 1.0)) for end in self.ends)
        self.flow = register(a, b, picture_mismatch, PICTURE_LEVELS, bending=BENDING)

    def carried(self, x: Tensor, time: float) -> Tensor:
        place: Tensor = 0.5 * self.flow.carried(2.0 * x - 1.0, time) + 0.5
        return place

    def _between(self, t: float, hue: float) -> BoundField:
        moves = [self.flow.carried(self.grid, time) - self.grid for time in (-t, 1.0 - t)]
        field = ColorBetween(*self.ends, torch.cat(moves, -1), hue, self.first.field.channels)
        return BoundField(field, self.first.weights, 1)


def picture_mismatch(first: Tensor, second: Tensor) -> Tensor:
    """Mean difference `[]` of what is compared `[*n c]`."""
    return _soft(first - second).mean()


def _compared(colors: Tensor) -> Tensor:
    """What images are compared by, of colours `[1 n*n c]` at the points of a square grid: `[n n c+1]`.

    Colours, and distances from the outline of what stands before an even background, white in white as well.
    """
    side = round(colors.shape[1] ** 0.5)
    picture = colors.reshape(side, side, -1)
    rim = torch.cat((picture[0], picture[-1], picture[:, 0], picture[:, -1]))
    behind = rim.median(0).values
    outline = solid_distances((picture - behind).abs().amax(-1) > BACKGROUND, OUTLINE).clamp(max=OUTLINE)
    soft = averaged(picture.permute(2, 0, 1), BLUR, 2).permute(1, 2, 0)
    return torch.cat((soft, 2.0 * outline[..., None]), -1)
