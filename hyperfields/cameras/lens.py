"""Lenses: which direction each place of a picture sees, in the models of COLMAP.

A place is a pixel with the principal point taken off and divided by the focal lengths, ((u - cx) / fx, (v - cy) / fy).
A direction is a vector in the camera's frame (+X right, +Y down, +Z forward). Sources: COLMAP's
src/colmap/sensor/models.h and OpenCV's documentation of calib3d; J. Kannala and S. Brandt, "A generic camera model and
calibration method for conventional, wide-angle, and fish-eye lenses", 2006.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hyperfields.errors import InputError

# Model -> names of its coefficients. Perspective ones bend the plane at z = 1, fisheyes the angle from the axis.
MODELS: dict[str, tuple[str, ...]] = {
    "SIMPLE_RADIAL": ("k",),
    "RADIAL": ("k1", "k2"),
    "OPENCV": ("k1", "k2", "p1", "p2"),
    "FULL_OPENCV": ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"),
    "SIMPLE_RADIAL_FISHEYE": ("k",),
    "RADIAL_FISHEYE": ("k1", "k2"),
    "OPENCV_FISHEYE": ("k1", "k2", "k3", "k4"),
    "EQUIRECTANGULAR": (),
}
NODES = 4097  # of the table that Newton's method starts from
STEPS = 20  # of Newton's method, at most; 2 or 3 are usual
CLOSE = 1e-9  # focal lengths: a direction's place must be so near to the one that was asked for


@dataclasses.dataclass(frozen=True)
class Lens:
    """The lens of a camera: how it departs from a pinhole.

    Args:
        model: one of COLMAP's names: SIMPLE_RADIAL, RADIAL, OPENCV, FULL_OPENCV, SIMPLE_RADIAL_FISHEYE, RADIAL_FISHEYE,
            OPENCV_FISHEYE (equidistant at coefficients of 0), EQUIRECTANGULAR (longitude and latitude).
        coefficients: in COLMAP's order, see `MODELS`.

    Raises:
        InputError: another model, another number of coefficients, one that is not finite.
    """

    model: str
    coefficients: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise InputError(f"lens {self.model!r:.60}: unknown, wanted one of {', '.join(MODELS)}, or None: a pinhole")
        wanted = MODELS[self.model]
        try:
            coefficients = tuple(float(value) for value in self.coefficients)
        except (TypeError, ValueError):
            raise InputError(f"lens {self.model}: coefficients {self.coefficients!r:.60}, wanted numbers") from None
        if len(coefficients) != len(wanted):
            names = f" ({', '.join(wanted)})" if wanted else ""
            raise InputError(f"lens {self.model}: {len(coefficients)} coefficients came, wanted {len(wanted)}{names}")
        if not all(map(math.isfinite, coefficients)):
            raise InputError(f"lens {self.model}: coefficients {list(coefficients)} came, wanted finite numbers")
        object.__setattr__(self, "coefficients", coefficients)

    @property
    def is_fisheye(self) -> bool:
        return self.model.endswith("FISHEYE")

    @property
    def reach(self) -> float:
        """How far from the axis the lens sees: slope x / z, of a fisheye the angle in radians.

        Further out the model folds back and shows the same places again, which no real lens does.
        """
        return float(_table(self)[0][-1])

    @property
    def brown(self) -> tuple[float, ...]:
        """The same lens as coefficients of FULL_OPENCV; of a fisheye or a panorama, 0."""
        if self.is_fisheye or self.model == "EQUIRECTANGULAR":
            return (0.0,) * 8
        return (*self.coefficients, *(0.0,) * (8 - len(self.coefficients)))

    def without_sideways(self) -> Lens:
        """The lens without its tangential part, p1 and p2."""
        if not any(self._tangential):
            return self
        return dataclasses.replace(self, coefficients=(*self.coefficients[:2], 0.0, 0.0, *self.coefficients[4:]))

    def places(self, directions: Tensor) -> Tensor:
        """Places `[... 2]` where directions `[... 3]` are seen, in their type; NaN where the lens does not see them.

        Compute in float64: float32 loses digits far from the axis.
        """
        x, y, z = directions.unbind(-1)
        if self.model == "EQUIRECTANGULAR":
            return torch.stack((torch.atan2(x, z), torch.atan2(y, torch.hypot(x, z))), -1)
        if self.is_fisheye:
            square = x * x + y * y
            centre = square < 1e-24 * z * z  # near the axis the angle grows as across / z
            across = square.where(~centre, 1.0).sqrt().where(~centre, 0.0)
            angle = torch.atan2(across, z)
            ratio = torch.where(centre, 1.0 / z.where(centre, 1.0), angle / across.where(~centre, 1.0))
            ratio = ratio * self._stretch(angle.square())[0]
            seen = angle <= self.reach
            return torch.stack((x * ratio, y * ratio), -1).where(seen[..., None], torch.nan)
        ahead = z > 0.0
        x, y = x / z.where(ahead, 1.0), y / z.where(ahead, 1.0)
        seen = ahead & (torch.hypot(x, y) <= self.reach)
        return torch.stack(self._bent(x, y), -1).where(seen[..., None], torch.nan)

    @torch.no_grad()
    def directions(self, places: Tensor) -> Tensor:
        """Unit directions `[... 3]` float64 that are seen at places `[... 2]`; NaN where the lens sees nothing.

        It sees nothing beyond its `reach`, nor out of the circle of a fisheye, 180 degrees from the axis. By Newton's
        method, to 1e-9 of a focal length. Not differentiable.
        """
        u, v = places.double().unbind(-1)
        if self.model == "EQUIRECTANGULAR":
            flat = torch.cos(v)
            found = torch.stack((flat * torch.sin(u), torch.sin(v), flat * torch.cos(u)), -1)
            return found.where(
                ((u.abs() <= math.pi + CLOSE) & (v.abs() <= 0.5 * math.pi + CLOSE))[..., None], torch.nan
            )
        far = torch.hypot(u, v)
        near, seen = self._unstretched(far)
        ratio = torch.where(far > 0.0, near / far.where(far > 0.0, 1.0), 1.0)
        if self.is_fisheye:
            ratio = torch.where(far > 0.0, torch.sin(near) / far.where(far > 0.0, 1.0), 1.0)
            found = torch.stack((u * ratio, v * ratio, torch.cos(near)), -1)
            return found.where(seen[..., None], torch.nan)
        x, y = u * ratio, v * ratio
        if any(self._tangential):
            x, y, seen = self._unbent(x, y, u, v)
        found = torch.stack((x, y, torch.ones_like(x)), -1)
        return torch.nn.functional.normalize(found, dim=-1).where(seen[..., None], torch.nan)

    @property
    def _radial(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Polynomials in the square of the distance, lowest first; places are stretched by their ratio."""
        if self.is_fisheye:
            return (1.0, *self.coefficients), (1.0,)
        k1, k2, _, _, k3, *below = self.brown
        return (1.0, k1, k2, k3), (1.0, *below)

    @property
    def _tangential(self) -> tuple[float, float]:
        _, _, p1, p2, *_ = self.brown
        return p1, p2

    def _stretch(self, square: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What places at a squared distance are stretched by, its derivative by that square, and the denominator."""
        above, below = self._radial
        n, d = _polynomial(above, square), _polynomial(below, square)
        dn = _polynomial(_derivative(above), square)
        dd = _polynomial(_derivative(below), square)
        return n / d, (dn * d - n * dd) / d.square(), d

    def _slope(self, distance: Tensor) -> tuple[Tensor, Tensor]:
        """How fast the stretched distance grows; the denominator too."""
        stretch, change, below = self._stretch(distance.square())
        return stretch + 2.0 * distance.square() * change, below

    def _bent(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        square = x * x + y * y
        stretch = self._stretch(square)[0]
        p1, p2 = self._tangential
        return (
            x * stretch + 2.0 * p1 * x * y + p2 * (square + 2.0 * x * x),
            y * stretch + 2.0 * p2 * x * y + p1 * (square + 2.0 * y * y),
        )

    def _unstretched(self, far: Tensor) -> tuple[Tensor, Tensor]:
        """Distances before the stretch, and true where there are such."""
        nodes, values = (part.to(far.device) for part in _table(self))
        right = torch.searchsorted(values, far.contiguous()).clamp(1, len(nodes) - 1)
        left = right - 1
        share = (far - values[left]) / (values[right] - values[left])
        near = nodes[left] + share.clamp(0.0, 1.0) * (nodes[right] - nodes[left])
        for _ in range(STEPS):
            change = (near * self._stretch(near.square())[0] - far) / self._slope(near)[0].clamp(min=1e-9)
            moved = torch.minimum((near - change).clamp(min=0.0), nodes[-1])
            still = bool(((moved - near).abs() <= 1e-13 * (1.0 + near)).all())
            near = moved
            if still:
                break
        off = (near * self._stretch(near.square())[0] - far).abs()
        return near, off <= CLOSE * (1.0 + far)

    def _unbent(self, x: Tensor, y: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From a guess the x, y that are seen at u, v, and true where they were found."""
        p1, p2 = self._tangential
        for _ in range(STEPS):
            square = x * x + y * y
            stretch, change, _ = self._stretch(square)
            mixed = 2.0 * (x * y * change + p1 * x + p2 * y)
            a = stretch + 2.0 * x * x * change + 2.0 * p1 * y + 6.0 * p2 * x
            d = stretch + 2.0 * y * y * change + 2.0 * p2 * x + 6.0 * p1 * y
            bx, by = self._bent(x, y)
            off_x, off_y = bx - u, by - v
            grown = a * d - mixed * mixed
            safe = grown.where(grown.abs() > 1e-12, 1.0)
            step_x, step_y = (d * off_x - mixed * off_y) / safe, (a * off_y - mixed * off_x) / safe
            x, y = x - step_x, y - step_y
            if bool(((step_x.abs() + step_y.abs()) <= 1e-13 * (1.0 + x.abs() + y.abs())).all()):
                break
        bx, by = self._bent(x, y)
        off = torch.maximum((bx - u).abs(), (by - v).abs())
        distance = torch.hypot(x, y)
        return x, y, (off <= CLOSE * (1.0 + torch.hypot(u, v))) & (grown > 0.0) & (distance <= self.reach)


@functools.lru_cache(maxsize=64)
def _table(lens: Lens) -> tuple[Tensor, Tensor]:
    """Distances `[n]` from the axis up to where the lens folds back, and what they are stretched to: both grow."""
    if lens.is_fisheye:
        nodes = torch.linspace(0.0, math.pi, NODES, dtype=torch.float64)
    else:
        nodes = torch.tan(torch.linspace(0.0, math.atan(1e4), NODES, dtype=torch.float64))

    def grows(distance: Tensor) -> Tensor:
        slope, below = lens._slope(distance)
        return (slope > 0.0) & (below > 0.0)

    good = grows(nodes)
    if not bool(good.all()):
        first = int((~good).nonzero()[0])  # at least 1: on the axis the slope is 1
        low, high = nodes[first - 1], nodes[first]
        for _ in range(60):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if bool(grows(middle)) else (low, middle)
        nodes = torch.cat((nodes[:first], low[None])) if bool(low > nodes[first - 1]) else nodes[:first]
    return nodes, nodes * lens._stretch(nodes.square())[0]


def _polynomial(coefficients: Sequence[float], x: Tensor) -> Tensor:
    while len(coefficients) > 1 and coefficients[-1] == 0.0:
        coefficients = coefficients[:-1]
    value = torch.full_like(x, coefficients[-1] if coefficients else 0.0)
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + coefficient
    return value


def _derivative(coefficients: Sequence[float]) -> tuple[float, ...]:
    return tuple(power * coefficient for power, coefficient in enumerate(coefficients) if power)
