"""Functions that readers share: choosing scenes by name, decoding pictures, reducing them by area."""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import io
import json
import logging
import os
import threading
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from hyperfields.errors import InputError

FloatArray = NDArray[np.float32]
IMAGE_SUFFIXES: tuple[str, ...] = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".exr", ".bmp", ".tif", ".tiff", ".gif", ".tga"),
    *(".ppm", ".pgm", ".pnm"),
)
# Pictures and meshes that are not read -> what makes one of them that is.
UNREAD_IMAGES = dict.fromkeys(
    (
        *(".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf"),
        *(".rw2", ".psd", ".svg", ".hdr", ".ico"),
    ),
    "convert them, e.g. magick mogrify -format png",
)
UNREAD_MESHES = dict.fromkeys(
    (
        *(".gltf", ".fbx", ".dae", ".3ds", ".3mf", ".blend", ".usd", ".usdz", ".usdc", ".step", ".stp", ".iges"),
        *(".wrl", ".x3d", ".vtk", ".vtp", ".msh", ".mesh", ".xyz", ".pcd", ".las", ".laz", ".e57"),
    ),
    "convert them to .glb, .ply or .obj, e.g. with Blender or meshlab",
)
JUNK = ("__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "__pycache__")
NESTED = 32  # levels of JSON
DEPTH = 3  # of the search for what a folder holds further down
MOST_BYTES = 2**29  # of a decoded picture: a few bytes of a file can announce any size
BAND = 2**21  # pixels that are converted at once: what is made in between stays small
QUIET = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "GIF", "PPM", "TGA")  # formats whose decoders print nothing
_ALONE = threading.Lock()  # held while filters of warnings or sys.stdout, which are the process's own, are changed


def one_line(error: BaseException) -> str:
    """The first line of an exception's text, at most 200 characters of it, or its type when it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def read_json(path: Path) -> Any:
    """The content of a JSON file, in any Unicode encoding, with or without a mark.

    Raises:
        InputError: not readable, no JSON, or nested deeper than any file that is meant.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON ({one_line(error)})") from error
    level: list[Any] = [content]
    for _ in range(NESTED):
        level = [item for value in level if isinstance(value, dict | list) for item in _items(value)]
        if not level:
            return content
    raise InputError(f"{path}: not readable as JSON (nested deeper than {NESTED} levels)")


def _items(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is the old one or all of the new one.

    Raises:
        OSError: it cannot be written; its name is the file's.
    """
    part = path.with_name(f".{path.name}.tmp")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from error


class _Silence(contextlib.AbstractContextManager[None]):
    """Standard error is the process's own: the first thread that wants silence turns it off, the last one on again."""

    def __init__(self) -> None:
        self._lock, self._threads, self._copy = threading.Lock(), 0, -1

    def __enter__(self) -> None:
        with self._lock:
            self._threads += 1
            if self._threads == 1:
                with contextlib.suppress(OSError):  # a process without standard error
                    self._copy = os.dup(2)
                    nowhere = os.open(os.devnull, os.O_WRONLY)
                    os.dup2(nowhere, 2)
                    os.close(nowhere)

    def __exit__(self, *raised: object) -> None:
        with self._lock:
            self._threads -= 1
            if self._threads == 0 and self._copy >= 0:
                os.dup2(self._copy, 2)
                os.close(self._copy)
                self._copy = -1


SILENT = _Silence()  # within it, what C libraries print about errors goes nowhere: those come as exceptions too


@contextlib.contextmanager
def no_log(name: str) -> Iterator[None]:
    """Within it, a library does not log: it would show the traceback of an exception that it has handled."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)  # the level counts for its modules' loggers too
    try:
        yield
    finally:
        logger.setLevel(before)


def visible_files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files of a folder with one of the (lower-case) suffixes, by name; hidden ones are left out."""
    return sorted(
        p for p in folder.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith(".") and p.is_file()
    )


def visible_folders(folder: Path) -> list[Path]:
    """The folders in a folder, by name, without hidden ones and those that systems leave behind."""
    return sorted(
        p for p in folder.iterdir() if not p.name.startswith(".") and p.name.lower() not in JUNK and p.is_dir()
    )


def is_inside(folder: Path, path: Path) -> bool:
    """True for a path `folder / name` that lies in the folder, or below a folder that is linked in it.

    Only a folder of the folder itself may be a link (pictures on another disk), not to one that holds the folder; what
    is further down may not lead out of it again.

    Raises:
        OSError, ValueError, RuntimeError: no path.
    """
    base, target = folder.resolve(), path.resolve()
    if target.is_relative_to(base):
        return True
    if not path.is_relative_to(folder) or ".." in path.parts:
        return False
    first = folder / path.relative_to(folder).parts[0]
    linked = first.resolve()
    return first.is_dir() and target.is_relative_to(linked) and not base.is_relative_to(linked)


def folders_below(folder: Path, depth: int = DEPTH) -> Iterator[Path]:
    """The folders below a folder, nearest first."""
    level = [folder]
    for _ in range(depth):
        level = [child for parent in level for child in visible_folders(parent)]
        yield from level


def warn_left_out(folder: Path, unread: dict[str, str]) -> None:
    """Say in one line which files of a folder are not read and what to do."""
    left = visible_files(folder, tuple(unread))
    if left:
        names = ", ".join(path.name for path in left[:3]) + (", ..." if len(left) > 3 else "")
        many = f"{len(left)} file{'s are' if len(left) > 1 else ' is'} left out"
        warnings.warn(f"{folder}: {many} ({names}); {unread[left[0].suffix.lower()]}", stacklevel=3)


def plain_name(name: str) -> str:
    """A name with its accents composed (NFC), as keyboards type them; macOS stores them decomposed."""
    return unicodedata.normalize("NFC", name)


def by_stem(files: list[Path]) -> dict[str, Path]:
    """Scene name -> file. Raises: InputError when two files would give one name."""
    named: dict[str, Path] = {}
    for path in files:
        name = plain_name(path.stem)
        if name in named:
            raise InputError(
                f"{path}: has the same scene name as {named[name].name}; names are taken without "
                "suffix, rename or remove one"
            )
        named[name] = path
    return named


def select(names: Sequence[str], scenes: Sequence[str] | None, limit: int | None) -> list[str]:
    """The names asked for, sorted: those in `scenes` (names or fnmatch patterns), of them the first `limit`.

    Raises:
        InputError: a name or pattern that nothing answers to (lists the nearest names), a limit below 1.
    """
    known = set(names)
    chosen = known if scenes is None else set()
    for wanted in map(plain_name, scenes or ()):
        # A name wins over a pattern, so that a file called "a[1]" can be asked for.
        found = [wanted] if wanted in known else fnmatch.filter(names, wanted)
        if not found:
            near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.3) or sorted(names)[:3]
            comma = "; write a comma in a name as \\," if any("," in name for name in near) else ""
            raise InputError(
                f"scenes: no scene called {wanted!r} among {len(names)}; nearest: {', '.join(near)}{comma}"
            )
        chosen.update(found)
    if limit is not None and limit < 1:
        raise InputError(f"limit: {limit} came, wanted a number of scenes of at least 1")
    if not chosen:
        raise InputError("scenes: an empty list came, wanted names or patterns; leave it out for all scenes")
    return sorted(chosen)[:limit]


def read_rgba(path: Path, *, upright: bool = False) -> NDArray[np.uint8] | FloatArray:
    """A picture as straight RGBA `[h w 4]`: uint8, or float32 in [0, 1] when the file has more than 8 bits.

    Greyscale becomes three equal channels, a picture without alpha gets alpha 1, an animation gives its
    first frame. 16-bit greyscale keeps its bits; Pillow reads 16-bit colour with 8. EXR values are taken as
    they are (no tone curve), clamped to [0, 1]; their alpha is premultiplied in the file, straight here.

    Args:
        upright: turn a photograph as its EXIF orientation says.

    Raises:
        InputError: the file cannot be decoded or announces more than `MOST_BYTES`, or it is an EXR and the OpenEXR
            package is missing.
    """
    if path.suffix.lower() == ".exr":
        return _read_exr(path)
    with opened_picture(path) as opened:
        image = ImageOps.exif_transpose(opened) if upright else opened
        if image.mode.startswith("I"):
            grey = np.asarray(image, dtype=np.float32) / np.float32(65535.0)
            if not (grey.min() >= 0.0 and grey.max() <= 1.0):
                raise ValueError("whole numbers outside of 0 to 65535")
            return np.stack((grey, grey, grey, np.ones_like(grey)), axis=-1)
        if image.mode == "F":  # a TIFF of floats
            grey = np.asarray(image, dtype=np.float32)
            if not (np.isfinite(grey).all() and grey.min() >= 0.0 and grey.max() <= 1.0):
                raise ValueError("floats outside of 0 to 1")
            return np.stack((grey, grey, grey, np.ones_like(grey)), axis=-1)
        if image.width * image.height <= BAND:
            return np.asarray(image if image.mode == "RGBA" else image.convert("RGBA"))
        image.load()
        rgba = np.empty((image.height, image.width, 4), dtype=np.uint8)
        for rows in row_bands(image.height, image.width):
            rgba[rows] = np.asarray(image.crop((0, rows.start, image.width, rows.stop)).convert("RGBA"))
        return rgba


def picture_size(path: Path) -> tuple[int, int]:
    """(height, width) of a picture, by its head.

    Raises:
        InputError: it is none.
    """
    if path.suffix.lower() == ".exr":
        height, width = _read_exr(path).shape[:2]
        return height, width
    with opened_picture(path) as opened:
        return opened.height, opened.width


@contextlib.contextmanager
def opened_picture(path: Path) -> Iterator[Image.Image]:
    """A picture before its pixels are read; what decoding it raises becomes an InputError.

    Raises:
        InputError: the file cannot be decoded, or announces more than `MOST_BYTES`.
    """
    try:
        with _ALONE, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `require_size` decides
            image = Image.open(path)
        with image, contextlib.nullcontext() if image.format in QUIET else SILENT:
            deep = image.mode == "F" or image.mode.startswith("I")
            require_size(path, image.height, image.width, 16 if deep else 4)
            yield image
    except InputError:
        raise
    except Exception as error:  # a damaged file makes decoders raise nearly anything
        raise InputError(f"{path}: not a readable picture ({one_line(error)}); replace or remove the file") from error


def require_size(path: Path, height: int, width: int, bytes_each: int) -> None:
    """Raises InputError for a picture that takes more than `MOST_BYTES` at so many bytes a pixel."""
    if height * width * bytes_each > MOST_BYTES:
        raise InputError(
            f"{path}: {height}x{width} (height x width) takes {height * width * bytes_each / 1e9:.1f} GB, wanted at "
            f"most {MOST_BYTES / 1e9:.1f}; make it smaller first, e.g. magick mogrify -resize 4096x4096"
        )


def row_bands(height: int, width: int) -> Iterator[slice]:
    """Rows of a picture, in bands of about `BAND` pixels."""
    step = max(BAND // width, 1)
    for top in range(0, height, step):
        yield slice(top, min(top + step, height))


def _read_exr(path: Path) -> FloatArray:
    try:
        import OpenEXR
    except ImportError as error:
        raise InputError(f'{path}: reading EXR needs OpenEXR; pip install "hyperfields[exr]"') from error
    try:
        with _ALONE, SILENT, contextlib.redirect_stdout(io.StringIO()):  # it prints what it could not read
            _require_exr_size(path, OpenEXR)
            opened = OpenEXR.File(str(path), separate_channels=True)
        with opened:
            if not opened.parts:  # it leaves out those that it cannot read
                raise ValueError("its pixels are damaged or cut short")
            bands = {name: np.asarray(c.pixels, dtype=np.float32) for name, c in opened.channels().items()}
    except InputError:
        raise
    except Exception as error:  # OpenEXR raises several types, RuntimeError and plain Exception among them
        raise InputError(f"{path}: not a readable EXR ({one_line(error)}); replace or remove the file") from error
    if "Y" in bands:
        bands = {"R": bands["Y"], "G": bands["Y"], "B": bands["Y"], **bands}
    if not {"R", "G", "B"} <= set(bands):
        raise InputError(f"{path}: EXR channels {sorted(bands)} came, wanted R, G, B (and A) or Y")
    rgb = np.stack([bands[name] for name in "RGB"], axis=-1)
    alpha = np.clip(bands.get("A", np.ones_like(bands["R"])), 0.0, 1.0)[..., None]
    if not (np.isfinite(rgb).all() and np.isfinite(alpha).all()):
        raise InputError(f"{path}: EXR with NaN or infinite pixels; mend or remove the file")
    straight = rgb / np.where(alpha > 0.0, alpha, 1.0)
    return np.concatenate((np.clip(straight, 0.0, 1.0), alpha), axis=-1, dtype=np.float32)


def _require_exr_size(path: Path, OpenEXR: Any) -> None:
    """Raises InputError for an .exr whose header announces too much: it is allocated before it is read."""
    with OpenEXR.File(str(path), header_only=True) as opened:
        for part in opened.parts:
            (left, top), (right, bottom) = part.header["dataWindow"]
            height, width = int(bottom) - int(top) + 1, int(right) - int(left) + 1
            require_size(path, height, width, max(4 * len(part.header["channels"]), 16))


def as_unit(pixels: NDArray[np.uint8] | FloatArray) -> FloatArray:
    """Pixels as float32 in [0, 1]."""
    return np.asarray(pixels / np.float32(255.0) if pixels.dtype == np.uint8 else pixels, dtype=np.float32)


def as_bytes(pixels: FloatArray) -> NDArray[np.uint8]:
    """Pixels in [0, 1] as the nearest uint8."""
    return np.asarray(np.clip(pixels, 0.0, 1.0) * 255.0 + 0.5, dtype=np.uint8)


def resize_area(
    pixels: NDArray[Any], size: tuple[int, int], prepare: Callable[[NDArray[Any]], FloatArray] | None = None
) -> FloatArray:
    """Resize `[h w c]` to `size` = (height, width): each new pixel is the mean over the area that it covers.

    Exact for any ratio, never leaves the range of the input. Colours under an alpha must be premultiplied.

    Args:
        prepare: makes the float32 values that are meant of a band of rows of `pixels`, so that those of a huge picture
            are never all there.
    """
    height, width = size
    if pixels.shape[:2] == (height, width):
        return pixels if prepare is None else prepare(pixels)
    down, rows = _overlaps(height, pixels.shape[0]), np.float32(0.0)
    for band in row_bands(*pixels.shape[:2]):
        part = pixels[band] if prepare is None else prepare(pixels[band])
        rows = rows + np.einsum("ij,jkc->ikc", down[:, band], part, optimize=True)
    resized: FloatArray = np.einsum("ij,kjc->kic", _overlaps(width, pixels.shape[1]), rows, optimize=True)
    return resized


def resize_straight(rgba: FloatArray, size: tuple[int, int]) -> FloatArray:
    """Resize straight RGBA `[h w 4]` by area under premultiplied alpha: no bleeding of transparent pixels."""
    colour, alpha = rgba[..., :3], rgba[..., 3:]
    reduced = resize_area(np.concatenate((colour * alpha, alpha), axis=-1), size)
    colour, alpha = reduced[..., :3], reduced[..., 3:]
    straight = np.divide(colour, alpha, out=np.zeros_like(colour), where=alpha > 0.0)
    return np.concatenate((np.clip(straight, 0.0, 1.0), alpha), axis=-1)


def _overlaps(new: int, old: int) -> FloatArray:
    """`[new old]`: which share of each new cell lies on each old one; rows sum to 1."""
    ratio = old / new
    edges = np.arange(new)[:, None] * ratio
    cells = np.arange(old)[None, :]
    overlap = np.minimum(edges + ratio, cells + 1) - np.maximum(edges, cells)
    return np.asarray(np.clip(overlap, 0.0, None) / ratio, dtype=np.float32)
