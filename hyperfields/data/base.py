"""The `SceneDataset` protocol, the plain tuples it speaks in, and what works for every data set."""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol, overload, runtime_checkable

import torch
from torch import Tensor

from hyperfields.cameras import Camera, Rays
from hyperfields.errors import CONTROL, InputError

Kind = str  # the name of a task: one of KINDS, or of a task of your own
IDENTITY = (1.0, 0.0, 0.0, 0.0)  # frame of a scene that is where its file has it
KINDS = ("images", "shapes", "views")
SPLITS = ("train", "val", "test")


class Points(NamedTuple):
    """Points with their targets, for images and shapes."""

    x: Tensor  # [s n d]; images: (x, y) in [0, 1]^2, y down; shapes: the scene box [-1, 1]^3
    target: Tensor  # [s n c]; images: colours in [0, 1]; shapes: signed distance, scene units, negative inside


class Pixels(NamedTuple):
    """Rays with the colours that were seen along them."""

    rays: Rays  # [s n 3] each, scene frame
    rgba: Tensor  # [s n 4], straight alpha, in [0, 1]
    images: Tensor | None = None  # [s n] int64, number of the training picture, counted over all scenes
    behind: Tensor | None = None  # [s 1 3], colour over which alone the rgba of a scene is known; NaN, None: over any


class View(NamedTuple):
    """One photograph with its camera."""

    camera: Camera
    rgba: Tensor  # [h w 4], straight alpha, in [0, 1]
    mask: Tensor | None = None  # [h w] bool, false where a pixel is not to be fitted or measured; None: all count
    name: str = ""  # of its file
    behind: Tensor | None = None  # [3], colour over which alone `rgba` is known, because alpha is a guess; None: any


class LazyViews(Sequence[View]):
    """Views that are made when they are asked for, and not kept: `view(number)` of `count`."""

    def __init__(self, count: int, view: Callable[[int], View]) -> None:
        self._count, self._view = count, view

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, number: int) -> View: ...

    @overload
    def __getitem__(self, number: slice) -> Sequence[View]: ...

    def __getitem__(self, number: int | slice) -> View | Sequence[View]:
        if isinstance(number, slice):
            chosen = range(self._count)[number]
            return LazyViews(len(chosen), lambda i: self._view(chosen[i]))
        return self._view(range(self._count)[number])  # raises IndexError, counts from the end


def over_own_color(views: Sequence[View], behind: Tensor | None) -> Sequence[View]:
    """Views with the colour `[3]` over which alone they are known; None, NaN: over any."""
    if behind is None or bool(behind.isnan().any()):
        return views
    return LazyViews(len(views), lambda number: views[number]._replace(behind=behind))


class Mesh(NamedTuple):
    """A triangle mesh in the scene frame; `scale` and `center` lead back: p_file = p * scale + center."""

    vertices: Tensor  # [v 3] float32
    faces: Tensor  # [f 3] int64
    scale: float = 1.0
    center: tuple[float, float, float] = (0.0, 0.0, 0.0)
    up: tuple[float, float, float] = (0.0, 0.0, 1.0)  # the direction that is up in pictures
    colors: Tensor | None = None  # [v 3] in [0, 1], sRGB, as seen from straight ahead; of radiance


@runtime_checkable
class SceneDataset(Protocol):
    """Scenes of one kind.

    `batch(scenes [s] int64, n, generator)` draws `n` training samples for each of the scenes: `Points` for
    images and shapes, `Pixels` for views. All randomness comes from `generator`, so a fit can resume exactly.
    `reference(scene, split)` is what a result is measured against: an image `[h w 3]`, a `Mesh`, or several `View`.
    A data set may also be `Movable`; `on_device` serves both sorts.
    """

    @property
    def kind(self) -> Kind: ...

    @property
    def names(self) -> tuple[str, ...]: ...

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Points | Pixels: ...

    def reference(self, scene: int, split: str = "test") -> Tensor | Mesh | Sequence[View]: ...


@runtime_checkable
class Movable(Protocol):
    """A data set that can draw its batches on another device, where `scenes` and `generator` then are too."""

    def to(self, device: torch.device | str) -> SceneDataset: ...


class HostDrawn:
    """A data set whose batches are drawn on the CPU and copied to `device`, which waits for them."""

    def __init__(self, dataset: SceneDataset, device: torch.device | str) -> None:
        self.dataset, self.device = dataset, torch.device(device)

    @property
    def kind(self) -> Kind:
        return self.dataset.kind

    @property
    def names(self) -> tuple[str, ...]:
        return self.dataset.names

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Points | Pixels:
        """A batch on the device. The generator, which is there too, gives the seed of one on the CPU."""
        if generator.device.type == "cpu":
            drawn = self.dataset.batch(scenes.cpu(), n, generator)
        else:
            seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
            drawn = self.dataset.batch(scenes.cpu(), n, torch.Generator().manual_seed(seed))
        if isinstance(drawn, Points):
            return Points(drawn.x.to(self.device), drawn.target.to(self.device))
        rays = Rays(drawn.rays.origins.to(self.device), drawn.rays.directions.to(self.device))
        images, behind = (None if x is None else x.to(self.device) for x in (drawn.images, drawn.behind))
        return Pixels(rays, drawn.rgba.to(self.device), images, behind)

    def reference(self, scene: int, split: str = "test") -> Tensor | Mesh | Sequence[View]:
        return self.dataset.reference(scene, split)


def on_device(dataset: SceneDataset, device: torch.device | str) -> SceneDataset:
    """The data set with its batches on `device`: moved there if it is `Movable`, else drawn on the CPU and copied."""
    if isinstance(dataset, Movable):
        return dataset.to(device)
    return dataset if torch.device(device).type == "cpu" else HostDrawn(dataset, device)


def stays_on_device(dataset: SceneDataset) -> bool:
    """True if the batches of `on_device(dataset, device)` are made there without the host waiting (CUDA graphs)."""
    parts: tuple[SceneDataset, ...] = getattr(dataset, "parts", ())  # of Subset and Concat
    on_disk = bool(getattr(dataset, "on_disk", False))
    return isinstance(dataset, Movable) and not on_disk and all(map(stays_on_device, parts))


def fingerprint(dataset: SceneDataset) -> str:
    """A short hash of kind, names and a few fixed samples: tells whether a resumed fit sees the same data."""
    digest = hashlib.sha256()
    digest.update(repr((dataset.kind, dataset.names)).encode())
    count = len(dataset.names)
    probe = torch.unique(torch.linspace(0, count - 1, min(count, 8)).round().long())
    sample = dataset.batch(probe, 16, torch.Generator().manual_seed(0))
    tensors = (sample.x, sample.target) if isinstance(sample, Points) else (*sample.rays, sample.rgba)
    for tensor in tensors:
        digest.update(tensor.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def require_scenes(data: Any) -> None:
    """Nothing, when `data` has the members of a data set.

    Raises:
        InputError: it is something else, a tensor, say, or the path of a folder.
    """
    if all(hasattr(data, member) for member in ("kind", "names", "batch")):
        return
    raise InputError(
        f"data: {type(data).__name__} came, wanted scenes; make them with hf.Images(pixels), hf.Shapes(meshes), "
        "hf.Views(cameras, rgba), or hf.open_family(folder)"
    )


def shortened(names: Sequence[str]) -> str:
    """How many scenes there are, and the first names."""
    first = ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} scene{'' if len(names) == 1 else 's'}: {first}"


def known_frames(dataset: SceneDataset) -> dict[str, tuple[float, ...]]:
    """(scale, centre x y z) by name of the scenes whose frame a data set tells: p_file = p * scale + c."""
    frames: Any = getattr(dataset, "frames", None)
    if frames is not None:
        return dict(zip(dataset.names, frames, strict=True))
    parts: tuple[SceneDataset, ...] = getattr(dataset, "parts", ())  # of Subset and Concat
    named = {name: frame for part in parts for name, frame in known_frames(part).items()}
    return {name: named[name] for name in dataset.names if name in named}


def frames_of(dataset: SceneDataset) -> dict[str, tuple[float, ...]]:
    """Those of `known_frames` of the scenes that are not in the frame of their files."""
    return {name: frame for name, frame in known_frames(dataset).items() if frame != IDENTITY}


def expect(dataset: SceneDataset, scenes: Tensor) -> None:
    """Tell a data set that reads from a store which scenes `[s]` the next batch is of, so that it reads ahead."""
    if isinstance(dataset, HostDrawn):
        expect(dataset.dataset, scenes.cpu())
    elif (told := getattr(dataset, "expect", None)) is not None:
        told(scenes)


def pictures_of(dataset: SceneDataset) -> int:
    """How many training pictures a data set numbers, see `Pixels.images`."""
    if isinstance(dataset, HostDrawn):
        return pictures_of(dataset.dataset)
    parts: tuple[SceneDataset, ...] = getattr(dataset, "parts", ())
    return sum(map(pictures_of, parts)) if parts else int(getattr(dataset, "pictures", 0))


def training_cameras(dataset: SceneDataset) -> list[list[Camera]]:
    """Cameras of the training pictures of each scene, in the order of `Pixels.images`; empty where none are known."""
    if isinstance(dataset, HostDrawn):
        return training_cameras(dataset.dataset)
    parts: tuple[SceneDataset, ...] = getattr(dataset, "parts", ())
    if parts:
        return [cameras for part in parts for cameras in training_cameras(part)]
    known: list[list[Camera]] = getattr(dataset, "cameras", [])
    return known


def picture_files(dataset: SceneDataset) -> list[list[str]]:
    """Files of the training pictures of each scene, in the order of `Pixels.images`; empty where none are known."""
    if isinstance(dataset, HostDrawn):
        return picture_files(dataset.dataset)
    parts: tuple[SceneDataset, ...] = getattr(dataset, "parts", ())
    if parts:
        return [files for part in parts for files in picture_files(part)]
    return [list(files) for files in getattr(dataset, "files", [])]


def is_unbounded(dataset: SceneDataset) -> bool:
    """True for views that show what is all round, beyond the scene box."""
    parts: tuple[SceneDataset, ...] = getattr(dataset, "parts", ())
    return any(map(is_unbounded, parts)) if parts else bool(getattr(dataset, "unbounded", False))


def up_of(dataset: SceneDataset) -> tuple[float, float, float]:
    """The direction that is up in pictures from new cameras."""
    parts: tuple[SceneDataset, ...] = getattr(dataset, "parts", ())
    up: tuple[float, float, float] = up_of(parts[0]) if parts else getattr(dataset, "up", (0.0, 0.0, 1.0))
    return up


def scene_names(names: Iterable[str] | None, count: int) -> tuple[str, ...]:
    """The names of `count` scenes, by default "0", "1", ...

    Raises:
        InputError: no scene, another number of names than of scenes, an empty name, one that comes twice or that cannot
            be shown.
    """
    if count < 1:
        raise InputError("scenes: none came, wanted at least one")
    if names is None:
        return tuple(map(str, range(count)))
    if not isinstance(names, str | Iterable):
        raise InputError(f"names: {names!r:.60} came, wanted a list of texts that are not empty")
    names = names if isinstance(names, str) else tuple(names)
    if isinstance(names, str) or not all(isinstance(name, str) and name for name in names):
        raise InputError(f"names: {names!r:.200} came, wanted a list of texts that are not empty")
    if wrong := [name for name in names if CONTROL.search(name)]:
        raise InputError(f"names: {wrong[0]!r:.60} holds characters that cannot be shown; rename it")
    if len(names) != count:
        raise InputError(f"names: {len(names)} came for {count} scenes, wanted one for each")
    if twice := sorted(name for name, times in collections.Counter(names).items() if times > 1):
        raise InputError(f"names: {', '.join(twice)} came more than once, wanted names that differ")
    return names


def as_colors(name: str, pixels: Tensor) -> Tensor:
    """Colours as they are kept: uint8 as it is, floats as float32.

    Raises:
        InputError: another type, a value that is NaN or outside [0, 1].
    """
    if pixels.dtype == torch.uint8:
        return pixels
    if not pixels.is_floating_point():
        raise InputError(f"{name}: {pixels.dtype} came, wanted uint8 in [0, 255] or floats in [0, 1]")
    low, high = (float(value) for value in torch.aminmax(pixels.detach()))
    if not (low >= 0.0 and high <= 1.0):  # NaN fails too
        raise InputError(
            f"{name}: values from {low:.4g} to {high:.4g} came, wanted floats in [0, 1] or uint8 in [0, 255]"
        )
    return pixels.detach().float()
