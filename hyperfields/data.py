"""What data must offer to be fitted: the `SceneDataset` protocol and the plain tuples it speaks in.

A family is a set of scenes of one kind. A data set of your own is one class with the four members of `SceneDataset`.
"""

from __future__ import annotations

import hashlib
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from hyperfields.cameras import Camera, Rays

Kind = Literal["images", "shapes", "views"]
KINDS: tuple[Kind, ...] = ("images", "shapes", "views")


class Points(NamedTuple):
    """Points with their targets, for images and shapes."""

    x: Tensor  # [s n d]; images: (x, y) in [0, 1]^2, y down; shapes: the scene box [-1, 1]^3
    target: Tensor  # [s n c]; images: colours in [0, 1]; shapes: signed distance, scene units, negative inside


class Pixels(NamedTuple):
    """Rays with the colours that were seen along them."""

    rays: Rays  # [s n 3] each, scene frame
    rgba: Tensor  # [s n 4], straight alpha, in [0, 1]


class View(NamedTuple):
    """One photograph with its camera."""

    camera: Camera
    rgba: Tensor  # [h w 4], straight alpha, in [0, 1]


class Mesh(NamedTuple):
    """A triangle mesh in the scene frame; `scale` and `center` lead back: p_file = p * scale + center."""

    vertices: Tensor  # [v 3] float32
    faces: Tensor  # [f 3] int64
    scale: float = 1.0
    center: tuple[float, float, float] = (0.0, 0.0, 0.0)


@runtime_checkable
class SceneDataset(Protocol):
    """Scenes of one kind.

    `batch(scenes [s] int64, n, generator)` draws `n` training samples for each of the scenes: `Points` for
    images and shapes, `Pixels` for views. All randomness comes from `generator`, so a fit can resume exactly.
    `truth(scene, split)` is what a result is measured against: an image `[h w 3]`, a `Mesh`, or a list of `View`.
    With `to(device)`, which is optional, a fit on a GPU draws its batches there, scenes and generator being there too;
    without, they are drawn on the CPU and copied, for which the GPU waits.
    """

    @property
    def kind(self) -> Kind: ...

    @property
    def names(self) -> tuple[str, ...]: ...

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Points | Pixels: ...

    def reference(self, scene: int, split: str = "test") -> Tensor | Mesh | list[View]: ...


def sample_batch(family: SceneDataset, scenes: Tensor, n: int, generator: torch.Generator) -> Points | Pixels:
    """`family.batch` on the device of `generator`, also when the family's data are on the CPU."""
    if generator.device.type == "cpu" or hasattr(family, "to"):
        return family.batch(scenes, n, generator)
    device = generator.device
    seed = int(torch.randint(2**62, (), generator=generator, device=device))
    batch = family.batch(scenes.cpu(), n, torch.Generator().manual_seed(seed))
    if isinstance(batch, Points):
        return Points(batch.x.to(device), batch.target.to(device))
    return Pixels(Rays(batch.rays.origins.to(device), batch.rays.directions.to(device)), batch.rgba.to(device))


def fingerprint(family: SceneDataset) -> str:
    """A short hash of kind, names and a few fixed samples: tells whether a resumed fit sees the same data."""
    digest = hashlib.sha256()
    digest.update(repr((family.kind, family.names)).encode())
    count = len(family.names)
    probe = torch.unique(torch.linspace(0, count - 1, min(count, 8)).round().long())
    sample = family.batch(probe, 16, torch.Generator().manual_seed(0))
    tensors = (sample.x, sample.target) if isinstance(sample, Points) else (*sample.rays, sample.rgba)
    for tensor in tensors:
        digest.update(tensor.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
