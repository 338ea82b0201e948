"""The map of a run's latent codes: principal axes, a plane to drag on, neighbours, and codes as short text."""

from __future__ import annotations

import base64
import dataclasses
import math

import torch
from torch import Tensor

from hyperfields.errors import InputError

LIMIT = 6.0  # standard deviations: no coordinate goes farther
_STEPS = 2000.0  # of a coordinate's text, per standard deviation: 16 bits reach +-16
_BLEND = 4.0  # how fast a scene's say falls with the distance on the map


@dataclasses.dataclass(frozen=True)
class LatentMap:
    """Codes in coordinates along their principal axes, in standard deviations along each, largest first.

    The first two are the plane of the map. A point of the plane has the two coordinates that it stands at; the
    others are those of the scenes, weighted by distance^-4 (Shepard 1968), so that the place of a scene is
    exactly that scene, and between places there are blends.
    """

    mean: Tensor  # [z]
    axes: Tensor  # [k z], orthonormal
    std: Tensor  # [k], of the codes along each axis
    coordinates: Tensor  # [s k], of the scenes

    def code(self, coordinates: Tensor) -> Tensor:
        """Coordinates `[k]` -> latent code `[1 z]`."""
        return (self.mean + (coordinates * self.std) @ self.axes)[None]

    def coordinates_of(self, code: Tensor) -> Tensor:
        """Latent code `[z]` -> coordinates `[k]` of its nearest point on the axes."""
        return (code - self.mean) @ self.axes.T / self.std

    def places(self) -> Tensor:
        """Places of the scenes on the map: `[s 2]`."""
        return self._plane(self.coordinates)

    def place(self, coordinates: Tensor) -> Tensor:
        """Place of coordinates `[k]` on the map: `[2]`."""
        return self._plane(coordinates[None])[0]

    def _plane(self, coordinates: Tensor) -> Tensor:
        missing = max(2 - coordinates.shape[1], 0)
        return torch.nn.functional.pad(coordinates[:, :2], (0, missing))

    def at(self, x: float, y: float) -> Tensor:
        """The coordinates `[k]` of a point of the map."""
        point = torch.tensor([x, y]).clamp(-LIMIT, LIMIT)
        distance = (self.places() - point).norm(dim=-1)
        nearest = int(distance.argmin())
        if float(distance[nearest]) < 1e-3:
            return self.coordinates[nearest].clone()
        weights = (distance / distance[nearest]) ** -_BLEND
        blend: Tensor = (weights / weights.sum()) @ self.coordinates
        axes = min(2, len(blend))
        blend[:axes] = point[:axes]
        return blend

    def nearest(self, coordinates: Tensor, count: int) -> list[tuple[int, float]]:
        """The scenes nearest to coordinates `[k]`: (number, distance between the codes), nearest first."""
        distance = ((self.coordinates - coordinates) * self.std).norm(dim=-1)
        distances, scenes = distance.topk(min(count, len(distance)), largest=False)
        return list(zip(scenes.tolist(), distances.tolist(), strict=True))

    def draw(self, seed: int) -> Tensor:
        """Coordinates `[k]` of a random blend of a scene and its two nearest: inside what was learned, where pictures
        hold up, which those of a Gaussian fitted to the codes do not."""
        generator = torch.Generator().manual_seed(seed)
        first = int(torch.randint(len(self.coordinates), (1,), generator=generator))
        chosen = [scene for scene, _ in self.nearest(self.coordinates[first], 3)]
        weights = -torch.rand(len(chosen), generator=generator).clamp(min=1e-6).log()
        blend: Tensor = (weights / weights.sum()) @ self.coordinates[chosen]
        return blend

    def to_text(self, coordinates: Tensor) -> str:
        """Coordinates as text for a URL: 16 bits each, base64."""
        steps = (coordinates * _STEPS).round().clamp(-32768, 32767).to(torch.int16)
        return base64.urlsafe_b64encode(steps.numpy().astype("<i2").tobytes()).decode().rstrip("=")

    def from_text(self, text: str) -> Tensor:
        """The inverse of `to_text`, to 1/4000 of a standard deviation.

        Raises:
            InputError: not such a text, or one of another run.
        """
        try:
            data = bytearray(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
        except ValueError:
            raise InputError("latent: not a text that the viewer writes") from None
        if len(data) != 2 * len(self.std):
            raise InputError(f"latent: {len(data) // 2} numbers came, wanted {len(self.std)}: a link of another run?")
        if not data:
            return torch.zeros(0)
        return torch.frombuffer(data, dtype=torch.int16).float() / _STEPS


def latent_map(codes: Tensor) -> LatentMap:
    """The map of codes `[s z]`."""
    codes = codes.detach().float()
    mean = codes.mean(0)
    left, size, axes = torch.linalg.svd(codes - mean, full_matrices=False)
    count = int((size > 1e-6 * max(float(size.max()), 1e-12)).sum()) if len(codes) > 1 else 0
    # The sign of an axis is free: fix it, so that links and pictures of a map stay true on another machine.
    largest = axes[:count].abs().argmax(-1, keepdim=True)
    sign = axes[:count].gather(1, largest).sign().squeeze(1)
    root = math.sqrt(max(len(codes), 1))
    return LatentMap(mean, axes[:count] * sign[:, None], size[:count] / root, left[:, :count] * sign * root)
