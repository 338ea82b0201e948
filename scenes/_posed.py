"""Posed pictures of scenes as views: what every reader of captures ends in.

Pictures are decoded one by one, on several threads, into `data.Pictures`, which bounds the memory. From all training
pictures of a scene its background is found (`_background`), then its box (`data.boxes`).
"""

from __future__ import annotations

import contextlib
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from hyperfields.cameras import Camera
from hyperfields.data import LazyViews, Pictures, View, Views
from hyperfields.data.boxes import Box, find_box, outside, seen_rays, up_of_cameras, widened
from hyperfields.data.pictures import MEMORY
from hyperfields.data.shapes import Progress
from hyperfields.data.views import blind_notes, counting_pixels, some
from hyperfields.errors import InputError
from hyperfields.scenes._background import (
    SCENE,
    Color,
    background_text,
    border_color,
    border_pixels,
    cut_out,
    parse_background,
    share_of,
)
from hyperfields.scenes._common import as_bytes, as_unit, read_rgba, resize_area, resize_straight
from hyperfields.scenes._frames import Frame

T = TypeVar("T")
R = TypeVar("R")
SEEN = 0.5  # share of the border pixels below which a given background is doubtful
FEW = 8  # training pictures, below which cameras of others say where the scene is
SHAPE = 0.02  # by which the ratio of a picture's sides may differ from its camera's


class Capture(NamedTuple):
    """A scene as its files have it."""

    name: str
    frames: Callable[[str], Sequence[Frame]]  # split -> its frames; raises InputError where there are none
    box: Box | None = None  # where the files say it
    largest: Box | None = None  # that the scene is not larger than
    up: tuple[float, float, float] | None = None  # where the files say it
    points: NDArray[np.float64] | None = None  # [n 3] on its surfaces, where the files have some
    notes: Sequence[str] = ()  # what was chosen or left out
    folder: Path | None = None  # of the scene


def open_posed(
    captures: Sequence[Capture],
    *,
    size: tuple[int, int] | None = None,
    views: Sequence[int] | None = None,
    background: str | None = None,
    up: tuple[float, float, float] | None = None,
    memory: int = MEMORY,
    progress: Progress | None = None,
) -> Views:
    """Decode the training pictures of captures; those of other splits are decoded when they are asked for.

    Args:
        size: (height, width) to which pictures and cameras are brought; by default each keeps its own.
        views: numbers of the training pictures to use, default all.
        background: of pictures without alpha: a colour that is cut out, or "scene", every pixel shows the scene.
            Default: the colour of their borders where that is even, else "scene".
        up: the direction that is up in pictures from new cameras; default the files', else found from the cameras.
        memory: bytes of decoded pictures that are kept in memory, see `data.Pictures`.
        progress: called as (pictures done, in all, scene).

    Raises:
        InputError: a picture that is missing, broken, or of another shape than its camera; masks that leave nothing;
            numbers of views that are not there; a background for pictures with alpha; a full disk.
    """
    frames = [_chosen(capture, views) for capture in captures]
    pixels = sum(math.prod(size or (f.camera.height, f.camera.width)) for chosen in frames for f in chosen)
    pictures = Pictures(memory, pixels)
    scenes = [_Scene(capture, chosen, size) for capture, chosen in zip(captures, frames, strict=True)]
    total, blind = sum(map(len, frames)), {}
    for scene, chosen in zip(scenes, frames, strict=True):
        unseen = _fill(
            scene, chosen, pictures, background, lambda name: progress and progress(len(pictures), total, name)
        )
        if unseen:
            blind[scene.name] = unseen
    backs = [None if scene.background is None else background_text(scene.background) for scene in scenes]
    return Views(
        [scene.cameras for scene in scenes],
        pictures,
        [scene.name for scene in scenes],
        reference=lambda scene, split: scenes[scene].views(split),
        box=[scene.box for scene in scenes],
        up=up or captures[0].up or up_of_cameras([frame.camera for frame in captures[0].frames("train")]),
        files=[_names(capture, chosen) for capture, chosen in zip(captures, frames, strict=True)],
        background=background or (backs[0] if len(set(backs)) == 1 else None),
        behind=[None if scene.background is None else _unit_color(scene.background) for scene in scenes],
        notes=[
            *_shared_notes(captures),
            *(_background_notes(scenes) if background is None else ()),
            *_few([remark for scene in scenes for remark in scene.remarks]),
            *blind_notes(blind),
        ],
    )


def _unit_color(color: Color) -> tuple[float, float, float]:
    red, green, blue = color
    return red / 255.0, green / 255.0, blue / 255.0


def _names(capture: Capture, frames: Sequence[Frame]) -> list[str]:
    """The pictures of frames, relative to the folder of their scene where they are in it."""
    paths = [frame.image for frame in frames]
    if capture.folder is None:
        return [str(path) for path in paths]
    return [str(path.relative_to(capture.folder) if path.is_relative_to(capture.folder) else path) for path in paths]


class _Scene:
    """One scene: what its training pictures say about all of its pictures."""

    def __init__(self, capture: Capture, chosen: Sequence[Frame], size: tuple[int, int] | None) -> None:
        """chosen: the training pictures that are used."""
        self.capture, self.name, self.chosen, self.size = capture, capture.name, chosen, size
        self.cameras: list[Camera] = []  # of the training pictures
        self.background: Color | None = None  # that opaque pictures are cut out of
        self.how: str | None = None  # what was decided about the background, as text; None: alpha says it
        self.box: Box | None = None
        self.remarks: list[str] = []  # what may be wrong

    def views(self, split: str) -> LazyViews:
        """The views of a split, in the order of its file; of those for training, the ones that are used."""
        frames = self.chosen if split == "train" else self.capture.frames(split)
        return LazyViews(len(frames), lambda number: self.view(frames[number]))

    def view(self, frame: Frame) -> View:
        """A frame without its background."""
        camera, pixels = self.decode(frame)
        if self.background is not None:
            pixels = cut_out(_bytes(pixels), self.background)
        mask = self.mask(frame, camera)
        counting = None if mask is None else torch.from_numpy(mask)
        return View(camera, torch.from_numpy(as_unit(pixels)), counting, frame.image.name)

    def decode(self, frame: Frame) -> tuple[Camera, NDArray[np.uint8] | NDArray[np.float32]]:
        """A frame's camera and its straight rgba `[h w 4]` as in its file, brought to `size`."""
        rgba = read_rgba(frame.image)
        if frame.alpha is not None:
            rgba = _with_alpha(as_unit(rgba), frame)
        height, width = rgba.shape[:2]
        camera = frame.camera
        if abs(camera.width * height / (camera.height * width) - 1.0) > SHAPE:
            raise InputError(
                f"{frame.image}: is {height}x{width} (height x width) but its camera is for "
                f"{camera.height}x{camera.width}; mend one of them"
            )
        if self.size is not None and self.size != (height, width):
            rgba = resize_straight(as_unit(rgba), self.size)
        height, width = rgba.shape[:2]
        return (camera if (camera.height, camera.width) == (height, width) else camera.resized(height, width)), rgba

    def mask(self, frame: Frame, camera: Camera) -> NDArray[np.bool_] | None:
        """True `[h w]` where a frame's pixels count; None without a mask. Any other value than 0 counts."""
        circle = None if frame.circle is None else _circle(camera, frame.circle * camera.width / frame.camera.width)
        if frame.mask is None:
            return circle
        shown = as_unit(read_rgba(frame.mask))[..., :3].max(axis=-1, keepdims=True) > 0.0
        mask = (~shown if frame.hides else shown).astype(np.float32)
        if abs(mask.shape[1] * camera.height / (mask.shape[0] * camera.width) - 1.0) > SHAPE:
            raise InputError(
                f"{frame.mask}: is {mask.shape[0]}x{mask.shape[1]} (height x width), of another shape than "
                f"{frame.image.name}, which it is the mask of"
            )
        whole: NDArray[np.bool_] = resize_area(mask, (camera.height, camera.width))[..., 0] > 0.999
        return whole if circle is None else whole & circle

    def training(self, frame: Frame) -> _Decoded:
        """A frame for the fit."""
        camera, pixels = self.decode(frame)
        mask = self.mask(frame, camera)
        counting, unseen = counting_pixels(camera, mask)
        return _Decoded(camera, _bytes(pixels), counting, unseen, mask)


class _Decoded(NamedTuple):
    """A training picture."""

    camera: Camera
    pixels: NDArray[np.uint8]  # [h w 4]
    counting: NDArray[np.bool_] | None  # [h w], where they count
    unseen: int  # pixels with which its lens sees nothing
    mask: NDArray[np.bool_] | None  # [h w], the part of `counting` that the files say


def _chosen(capture: Capture, views: Sequence[int] | None) -> Sequence[Frame]:
    """The training frames to use."""
    frames = capture.frames("train")
    if views is None:
        return frames
    if not views or not all(0 <= view < len(frames) for view in views):
        raise InputError(f"views: {list(views)} came, but {capture.name} has training views 0 to {len(frames) - 1}")
    return [frames[view] for view in views]


def _fill(
    scene: _Scene,
    frames: Sequence[Frame],
    pictures: Pictures,
    given: str | None,
    progress: Callable[[str], object],
) -> float:
    """Decode a scene's training pictures and decide about it; the share of pixels with which its lenses see nothing."""
    numbers, borders, unseen, area = [], [], 0, 0
    for camera, pixels, counting, missing, mask in in_order(scene.training, frames):
        numbers.append(pictures.add(pixels, counting))
        if pictures.opaque[numbers[-1]]:
            borders.append(border_pixels(pixels, mask))
        scene.cameras.append(camera)
        unseen, area = unseen + missing, area + pixels.shape[0] * pixels.shape[1]
        progress(scene.name)
    opaque = all(pictures.opaque[number] for number in numbers)
    if not opaque and given is not None:
        raise InputError(
            f"--background {given}: the pictures of {scene.name} have alpha, which says what is scene; leave it out"
        )
    scene.remarks += _empty(scene.name, numbers, pictures)
    solid = sum(pictures.opaque[number] for number in numbers)
    if 0 < solid < len(numbers):
        scene.remarks.append(
            f"alpha: {solid} of {len(numbers)} pictures of {scene.name} have none, so all that they show is scene"
        )
    if opaque:
        scene.background = border_color(np.concatenate(borders)) if given is None else parse_background(given)
        scene.how = SCENE if scene.background is None else background_text(scene.background)
    if scene.background is not None:
        share = share_of(scene.background, np.concatenate(borders))
        if given is not None and share < SEEN:
            scene.remarks.append(
                f"background: {given} is on {share:.0%} of the borders of the pictures of {scene.name} only; is it "
                "their colour?"
            )
        _cut(scene, numbers, pictures, given is not None)
    scene.box = scene.capture.box or _found_box(scene, numbers, pictures)
    return unseen / area


def _empty(name: str, numbers: Sequence[int], pictures: Pictures) -> list[str]:
    """Lines about pictures that say nothing."""
    lines = []
    blank = sum(pictures.counting[number] == 0 for number in numbers)
    if blank:
        lines.append(
            f"masks: in {blank} of {len(numbers)} pictures of {name} no pixel counts; mask 0 is what is left out"
        )
    if not any(pictures.visible_count(number) for number in numbers) and blank < len(numbers):
        lines.append(f"alpha: all pictures of {name} are transparent all over, so there is nothing to fit")
    return lines


def _cut(scene: _Scene, numbers: Sequence[int], pictures: Pictures, certain: bool) -> None:
    """Cut the background out of a scene's pictures, unless nothing is left of them."""
    color = scene.background
    assert color is not None
    shown = certain or any(cut_out(pictures[number], color)[..., 3].any() for number in numbers)
    if not shown:  # an even picture is a scene of its own
        scene.background, scene.how = None, SCENE
        return
    whole = (pictures[number] for number in numbers)
    for number, cut in zip(numbers, in_order(lambda picture: cut_out(picture, color), whole), strict=True):
        pictures.replace(number, cut)


def _found_box(scene: _Scene, numbers: Sequence[int], pictures: Pictures) -> Box:
    """The box by the cameras and what is transparent, not larger than the files say.

    Where some of the training pictures are used, by the cameras of all, and where they are few, also by those of the
    pictures for the test: one camera does not tell how far its scene is. Pixels are those of the pictures in use.
    """
    cameras = _box_cameras(scene.capture)
    opaque = all(pictures.opaque[number] for number in numbers)
    visible = [pictures.visible_count(number) for number in numbers]
    rays = seen_rays(scene.cameras, visible, lambda number, chosen: pictures.visible(numbers[number], chosen))
    box, largest = find_box(cameras, None if opaque else rays, scene.capture.points), scene.capture.largest
    box = widened(box, cameras, rays) if opaque else box
    box = largest if largest is not None and box.scale > largest.scale and not box.is_identity else box
    return box._replace(lost=outside(box, rays))


def _box_cameras(capture: Capture) -> list[Camera]:
    """Cameras that say where a scene is."""
    cameras = [frame.camera for frame in capture.frames("train")]
    if len(cameras) < FEW:
        with contextlib.suppress(InputError):
            cameras += [frame.camera for frame in capture.frames("test")]
    return cameras


def _background_notes(scenes: Sequence[_Scene]) -> list[str]:
    """Lines about the backgrounds that were found."""
    names: dict[str, list[str]] = {}
    for scene in scenes:
        if scene.how is not None:
            names.setdefault(scene.how, []).append(scene.name)
    choice = "choose with --background white|black|COLOUR|scene"
    return [
        f"background: none found on the borders of {some(found)}, so every pixel shows the scene; {choice}"
        if how == SCENE
        else f"background: {how}, as on the borders of {some(found)}, is cut out; {choice}"
        for how, found in names.items()
    ]


def _few(remarks: Sequence[str]) -> list[str]:
    """The first remarks, and how many more there are."""
    return [*remarks[:3], *([f"and {len(remarks) - 3} more scenes like these"] if remarks[3:] else [])]


def _shared_notes(captures: Sequence[Capture]) -> list[str]:
    """The lines about captures; those that several share are said once."""
    names: dict[str, list[str]] = {}
    for capture in captures:
        for note in capture.notes:
            names.setdefault(note, []).append(capture.name)
    return [note if len(captures) == 1 else f"{some(found)}: {note}" for note, found in names.items()]


def _circle(camera: Camera, radius: float) -> NDArray[np.bool_]:
    """True `[h w]` in a circle round the middle of a picture."""
    v, u = np.ogrid[: camera.height, : camera.width]
    return np.asarray(np.hypot(u + 0.5 - 0.5 * camera.width, v + 0.5 - 0.5 * camera.height) <= radius)


def _with_alpha(rgba: NDArray[np.float32], frame: Frame) -> NDArray[np.float32]:
    """Straight rgba with the alpha of another picture."""
    assert frame.alpha is not None
    alpha = as_unit(read_rgba(frame.alpha))[..., :1]
    if alpha.shape[:2] != rgba.shape[:2]:
        raise InputError(
            f"{frame.alpha}: is {alpha.shape[0]}x{alpha.shape[1]} (height x width) but {frame.image.name}, whose alpha "
            f"it is, is {rgba.shape[0]}x{rgba.shape[1]}"
        )
    return np.concatenate((rgba[..., :3], alpha), axis=-1)


def in_order(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`map` on several threads, a few items ahead: decoders let go of Python's lock."""
    workers = min(os.cpu_count() or 1, 8)
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[Future[R]] = deque()
        try:
            for item in items:
                ahead.append(pool.submit(function, item))
                if len(ahead) > 2 * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def _bytes(pixels: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.uint8]:
    return pixels if pixels.dtype == np.uint8 else as_bytes(pixels)  # type: ignore[return-value, arg-type]
