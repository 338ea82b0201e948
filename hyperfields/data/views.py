"""Posed pictures."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperfields.cameras import Camera, Rays
from hyperfields.data.base import HostDrawn, Kind, LazyViews, Pixels, View, over_own_color, scene_names, shortened
from hyperfields.data.boxes import OUTWARDS, Box, find_box, outside, seen_rays, up_of_cameras, widened
from hyperfields.data.pictures import MEMORY, Pictures
from hyperfields.data.pixel_rays import PixelRays
from hyperfields.data.posed import Posed, as_masks, posed_scenes
from hyperfields.errors import InputError, NoViews

Frame = tuple[float, float, float, float]  # scale, centre x y z: p_file = p * scale + centre
Reference = Callable[[int, str], Sequence[View]]  # (scene, split) -> the views of that split, in the cameras' frame
OUTSIDE = 0.005  # share of what pictures show outside of the box that is worth a line


class Views:
    """Posed pictures of scenes, of any sizes.

    The fields live in the box [-1, 1]^3: what is outside of it is not seen. Cameras of another unit and centre are
    brought there, see `box`; `frames` lead back, and a line of `notes` says so. Training pictures have 8 bits a
    channel. Up to `memory` bytes of them are kept in memory; more go to a temporary file, see `Pictures`, and batches
    then take 32 pixels of a picture together.

    Args:
        cameras: per scene a list of `Camera`, or a pair of poses `T_world_camera` `[v 4 4]` (OpenCV: +X right, +Y down,
            +Z forward) and intrinsics `[4]` or `[v 4]` (fx, fy, cx, cy in pixels); or such a pair for all scenes,
            `[s v 4 4]` with `[4]` or `[s v 4]`. With one scene the outer list may be left out.
        rgba: per scene `[v h w 4]`, straight alpha, uint8 or floats in [0, 1]; `[v h w 3]` is opaque; or a list of
            pictures `[h w 4]` of several sizes. One tensor `[s v h w c]` for scenes with as many views, or `[v h w c]`
            for one scene. Or `Pictures` of all scenes, one after another.
        names: one per scene, by default "0", "1", ...
        test: (cameras, rgba) of views that are held out, in the same forms.
        reference: gives the views of a split when they are asked for, as (scene, split) -> views in the frame of the
            cameras: for a reader that leaves them on the disk. By default "train" and "test" are those given here.
        masks: per scene `[v h w]` bool or a list of `[h w]`, false where pixels of the training pictures do not count,
            or None. Pixels with which a lens sees nothing never count.
        box: per scene (scale, centre x y z) of its box in the frame of the cameras, or None: found from the cameras
            where they look at one place, but not at [-1, 1]^3. `(1, 0, 0, 0)` leaves them as they are.
        up: the direction that is up in pictures from new cameras; default that of the first scene's cameras.
        background: that opaque pictures were cut out of, as text; for the record.
        behind: per scene the colour, in [0, 1], that its opaque pictures were cut out of, or None: alpha is known. Of
            a guessed alpha, fits and measures use what is seen over that colour.
        notes: lines for people about what a reader decided.
        files: per scene those of its training pictures, as exports of cameras name them; default "0", "1", ...
        memory: bytes of training pictures that are kept in memory.

    Raises:
        InputError: shapes that do not fit, NaN, values outside [0, 1], a pose that is not a rotation and a translation,
            a focal length that is not above 0; names that do not fit; a full disk.
    """

    kind: Kind = "views"

    def __init__(
        self,
        cameras: Any,
        rgba: Any,
        names: Iterable[str] | None = None,
        *,
        test: tuple[Any, Any] | None = None,
        reference: Reference | None = None,
        masks: Sequence[Any] | None = None,
        box: Sequence[Box | Frame | None] | None = None,
        up: tuple[float, float, float] | None = None,
        background: str | None = None,
        behind: Sequence[tuple[float, float, float] | None] | None = None,
        notes: Sequence[str] = (),
        files: Sequence[Sequence[str]] | None = None,
        memory: int = MEMORY,
    ) -> None:
        scenes = posed_scenes(cameras, rgba, "rgba")
        self.names = scene_names(names, len(scenes))
        held_out = None if test is None else posed_scenes(*test, "test")
        if held_out is not None and len(held_out) != len(scenes):
            raise InputError(f"test: {len(held_out)} scenes came, wanted {len(scenes)} as for training")
        blind: dict[str, float] = {}
        if not isinstance(rgba, Pictures):
            rgba, blind = _stored(scenes, masks, self.names, memory)
        pictures: Pictures = rgba
        given = list(box) if box is not None else [None] * len(scenes)
        if len(given) != len(scenes):
            raise InputError(f"box: {len(given)} came for {len(scenes)} scenes, wanted one for each, or None")
        boxes, lost, round_, first = [], [], False, 0
        for name, scene, known in zip(self.names, scenes, given, strict=True):
            numbers = range(first, first + len(scene.cameras))
            if not any(pictures.counting[number] for number in numbers):
                raise InputError(f"masks, {name}: no pixel counts; mend the masks: 0 is what is left out")
            found, share, opaque = _boxed(scene.cameras, pictures, numbers, known)
            boxes.append(found)
            lost.append(share)
            round_ |= opaque and share > OUTSIDE
            first += len(scene.cameras)
        self.frames: tuple[Frame, ...] = tuple(found.frame for found in boxes)
        self.up = up if up is not None else up_of_cameras(scenes[0].cameras)
        self.background = background
        self._behind = None
        if behind is not None and any(color is not None for color in behind):
            self._behind = torch.tensor([[(math.nan,) * 3 if color is None else color] for color in behind])
        self.files = [[*map(str, range(len(scene.cameras)))] for scene in scenes] if files is None else files
        self.unbounded = round_  # pictures show what is all round, beyond the boxes
        self.notes = (
            *notes,
            *still_notes(self.names, [scene.cameras for scene in scenes]),
            *_notes(self.names, boxes, lost, blind, round_),
        )
        self.sizes = tuple(sorted(set(pictures.sizes)))  # (height, width)
        self.on_disk = pictures.on_disk
        self.pictures = len(pictures)  # for training, over all scenes
        self._cameras = [
            [camera.into(frame) for camera in scene.cameras] for scene, frame in zip(scenes, self.frames, strict=True)
        ]
        counts = [len(posed) for posed in self._cameras]
        self._rays = PixelRays([camera for posed in self._cameras for camera in posed])
        self._picture_sizes = tuple(pictures.sizes)
        self._drawing = pictures.drawing(counts)
        self._held_out, self._reference = held_out, reference

    def __repr__(self) -> str:
        sizes = [f"{height}x{width}" for height, width in (self.sizes[0], self.sizes[-1])]
        count = f"{self.pictures:,} pictures of {' to '.join(dict.fromkeys(sizes))}"
        return f"Views({shortened(self.names)}; {count}{', in a file' * self.on_disk})"

    @property
    def cameras(self) -> list[list[Camera]]:
        """Cameras of the training pictures of each scene, in the scene frame."""
        return [list(posed) for posed in self._cameras]

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Pixels:
        """`n` rays per scene, uniform over all pixels of its training pictures that count, with replacement.

        Args:
            scenes: `[s]` int64.

        Returns:
            rays `[s n 3]` (unit directions) in the scene frame, straight rgba `[s n 4]` in [0, 1] and the numbers of
            the pictures `[s n]`.
        """
        packed, image, pixel = self._drawing.draw(scenes, n, generator)
        origins, directions = self._rays(image, pixel)
        shape = (len(scenes), n)
        rgba = packed.reshape(*shape, 4).float() / 255.0
        rays = Rays(origins.reshape(*shape, 3), directions.reshape(*shape, 3))
        behind = None if self._behind is None else self._behind[scenes]
        return Pixels(rays, rgba, image.reshape(shape), behind)

    def to(self, device: torch.device | str) -> Views | HostDrawn:
        """The same with its pictures on `device`, where batches then come from; `generator` must be there too.

        Pictures in a file stay there: batches are drawn on the CPU and copied.
        """
        if self.on_disk:
            return self if torch.device(device).type == "cpu" else HostDrawn(self, device)
        moved = copy.copy(self)
        moved._drawing, moved._rays = self._drawing.to(device), self._rays.to(device)
        moved._behind = None if self._behind is None else self._behind.to(device)
        return moved

    def reference(self, scene: int, split: str = "test") -> Sequence[View]:
        """The views of a split, on the CPU; each is decoded when it is asked for.

        Raises:
            InputError: the scene has no such split, or it cannot be read.
        """
        views, behind = self._split(scene, split), None if self._behind is None else self._behind[scene, 0].cpu()
        return over_own_color(views, behind)

    def _split(self, scene: int, split: str) -> Sequence[View]:
        frame = self.frames[scene]
        if self._reference is not None:
            views = self._reference(scene, split)
            return LazyViews(len(views), lambda number: _in_box(views[number], frame))
        if split == "train":
            first = sum(map(len, self._cameras[:scene]))
            cameras = self._cameras[scene]
            return LazyViews(len(cameras), lambda number: _view(cameras[number], self._picture(first + number)))
        if split != "test" or self._held_out is None:
            splits = "train" if self._held_out is None else "train, test"
            raise NoViews(
                f"scene {self.names[scene]}: has no views to test with; splits: {splits}; "
                f"wanted {split!r}: give Views(..., test=(cameras, rgba))"
            )
        held_out, pictures = self._held_out[scene]
        return LazyViews(
            len(held_out), lambda number: _view(held_out[number].into(frame), pictures[number].cpu().float() / 255.0)
        )

    def _picture(self, number: int) -> Tensor:
        return self._drawing.picture(number, self._picture_sizes[number]).float() / 255.0


def _in_box(view: View, frame: Frame) -> View:
    return _view(view.camera.into(frame), view.rgba, view.mask, view.name)


def _view(camera: Camera, rgba: Tensor, mask: Tensor | None = None, name: str = "") -> View:
    """A view whose mask leaves out what its lens does not see."""
    seen = camera.seen()
    return View(camera, rgba, mask if seen is None else seen if mask is None else seen & mask, name)


def _stored(
    scenes: Sequence[Posed], masks: Sequence[Any] | None, names: Sequence[str], memory: int
) -> tuple[Pictures, dict[str, float]]:
    """The pictures of all scenes, and by scene the share of their pixels with which a lens sees nothing."""
    if masks is not None and len(masks) != len(scenes):
        raise InputError(f"masks: those of {len(masks)} scenes came for {len(scenes)}; None: all pixels count")
    pictures, blind = Pictures(memory), {}
    for number, (name, scene) in enumerate(zip(names, scenes, strict=True)):
        sizes = [(camera.height, camera.width) for camera in scene.cameras]
        given = as_masks(None if masks is None else masks[number], sizes, name)
        unseen = 0
        for camera, picture, mask in zip(scene.cameras, scene.pictures, given, strict=True):
            counting, missing = counting_pixels(camera, mask)
            unseen += missing
            pictures.add(picture.cpu().contiguous().numpy(), counting)
        if unseen:
            blind[name] = unseen / sum(height * width for height, width in sizes)
    return pictures, blind


def counting_pixels(camera: Camera, mask: NDArray[np.bool_] | None) -> tuple[NDArray[np.bool_] | None, int]:
    """Where pixels of a picture count, `[h w]` or None: everywhere; and with how many its lens sees nothing."""
    seen = camera.seen()
    if seen is None:
        return mask, 0
    both = seen.numpy()
    return (both if mask is None else both & mask), int((~both).sum())


def _boxed(
    cameras: Sequence[Camera], pictures: Pictures, numbers: Sequence[int], known: Box | Frame | None
) -> tuple[Box, float, bool]:
    """The box of a scene, the share of what its pictures show that is outside, and whether they have no alpha."""
    opaque = all(pictures.opaque[number] for number in numbers)
    if isinstance(known, Box) and known.lost is not None:
        return known, known.lost, opaque
    visible = [pictures.visible_count(number) for number in numbers]
    rays = seen_rays(cameras, visible, lambda number, chosen: pictures.visible(numbers[number], chosen))
    if known is None:
        found = find_box(cameras, None if opaque else rays)
        found = widened(found, cameras, rays) if opaque else found
        if found.how == OUTWARDS:  # more often poses in other axes than a room: a fit then says that they look away
            found = Box()
    else:
        found = known if isinstance(known, Box) else Box(known[0], known[1:], "as given")
    return found, outside(found, rays), opaque


def _notes(
    names: Sequence[str], boxes: Sequence[Box], lost: Sequence[float], blind: dict[str, float], unbounded: bool
) -> tuple[str, ...]:
    """Lines about what was decided."""
    notes = []
    moved: dict[str, list[int]] = {}
    for number, box in enumerate(boxes):
        if not box.is_identity:
            moved.setdefault(box.how, []).append(number)
    for how, numbers in moved.items():
        box, found = boxes[numbers[0]], some([names[number] for number in numbers])
        x, y, z = (f"{value:.4g}" for value in box.center)
        notes.append(
            f"box: {found}: side {2 * box.scale:.4g} round ({x}, {y}, {z}) in its own unit, {how}; exports are in that "
            "unit"
        )
    worst = max(range(len(names)), key=lambda number: lost[number])
    if lost[worst] > OUTSIDE:
        consequence = "is fitted in contracted space, without it not at all" if unbounded else "cannot be fitted"
        notes.append(
            f"box: {lost[worst]:.1%} of what the pictures of {names[worst]} show lies outside of the box and "
            f"{consequence}"
        )
    return (*notes, *blind_notes(blind))


def still_notes(names: Sequence[str], cameras: Sequence[Sequence[Camera]]) -> list[str]:
    """A line about scenes whose cameras, two or more, are all at one place."""
    still = []
    for name, posed in zip(names, cameras, strict=True):
        first = posed[0].T_world_camera[:3, 3]
        if len(posed) > 1 and all(torch.equal(camera.T_world_camera[:3, 3], first) for camera in posed):
            still.append(name)
    return [f"cameras: all of {some(still)} are at one place, so how far things are is not known"] if still else []


def blind_notes(blind: dict[str, float]) -> list[str]:
    """A line about pixels with which lenses see nothing, by scene their share."""
    if not blind:
        return []
    worst = max(blind, key=lambda name: blind[name])
    return [
        f"lens: with {blind[worst]:.1%} of the pixels of {worst} its lens sees nothing (it folds back there, or they "
        f"are out of its circle): they are left out{f', and of {len(blind) - 1} more scenes' * (len(blind) > 1)}"
    ]


def some(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
