"""Jobs that take longer than a picture: films, meshes, fields, measurements. They take turns."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
import re
import secrets
import shutil
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from hyperfields.cameras.nerfstudio import from_nerfstudio
from hyperfields.errors import InputError
from hyperfields.evaluation.lpips import Lpips, LpipsUnavailable, Net, load_lpips
from hyperfields.evaluation.report import scene_places
from hyperfields.fields import BoundField
from hyperfields.runs.cameras import orbit_cameras
from hyperfields.runs.export import FIELD_SUFFIX
from hyperfields.runs.images import IMAGE_SUFFIXES, write_image
from hyperfields.runs.meshes import MESH_SUFFIXES
from hyperfields.runs.morphs import Walk
from hyperfields.runs.render import FPS
from hyperfields.runs.scene import Scene
from hyperfields.runs.timing import timed_places
from hyperfields.runs.video import ANIMATION_SUFFIXES, write_animation
from hyperfields.tasks import Metric
from hyperfields.viewer import requests
from hyperfields.viewer.requests import ViewRequest
from hyperfields.viewer.shared import FINE, MOVED, FieldInTurns, Place, SharedState

MOST_AT_ONCE = 3  # jobs, of as many clients
MOST_WAITING = 32  # jobs of all clients together
MOST_OF_ONE = 4  # of one client
MOST_FILES = 8  # that are kept for one client, newest last
MOST_BYTES = 500e6  # of these, but for the newest
MOST_FRAMES = 480
MOST_PIXELS = 5e8  # of a film; a .gif is in memory until it is written, a byte a pixel: 240 frames of 1920 x 1080

Message = dict[str, Any]
Send = Callable[[Message], None]
T = TypeVar("T")


class Cancelled(Exception):
    """Somebody does not want the job any more."""


@dataclasses.dataclass
class Job:
    """One piece of work of one client."""

    number: int  # of the page
    owner: str
    message: dict[str, Any]
    send: Send  # never waits
    cancelled: threading.Event = dataclasses.field(default_factory=threading.Event)

    def check(self) -> None:
        """Raises Cancelled when the job was cancelled."""
        if self.cancelled.is_set():
            raise Cancelled

    def progress(self, done: int, total: int) -> None:
        self.check()
        self.send({"type": "progress", "job": self.number, "done": done, "total": total})


class Jobs:
    """Jobs under way and waiting, and the files that come out: temporary, under names that cannot be guessed.

    A few run at once, one of a client at a time, so that a short one need not wait for another's film. Their steps (a
    frame, a block of points) hold the lock one by one and give way in between, so that no page waits for a job. What a
    step computes besides fields (an encoder, nearest neighbours), and what moves where, runs beside the pages.
    """

    def __init__(self, shared: SharedState) -> None:
        self.shared = shared
        self._folder = Path(tempfile.mkdtemp(prefix="hyperfields-view-"))
        self._workers = ThreadPoolExecutor(MOST_AT_ONCE, thread_name_prefix="hyperfields-viewer-job")
        self._mutex = threading.Lock()
        self._running: list[Job] = []
        self._waiting: list[Job] = []
        self._files: dict[str, list[Path]] = {}
        self._measuring = threading.Lock()
        self._report: dict[str, Any] | None = None
        self._makers: dict[str, Callable[[Job, Message], Message]] = {
            "export": self._export,
            "walk": self._walk,
            "path": self._path,
            "measure": self._measure,
        }

    def start(self, owner: str, message: dict[str, Any], send: Send) -> None:
        """Queue what a page asks for; `send` gets progress, the end, or an error.

        Raises:
            InputError: too much is waiting already, or no such job.
        """
        number = int(requests.number(message.get("id", 0), "id", 0, 2**53))
        what = message.get("what")
        if not isinstance(what, str) or what not in self._makers:
            raise InputError(f"job: got {requests.short(what)}, wanted one of {', '.join(self._makers)}")
        job = Job(number, owner, message, send)
        with self._mutex:
            ours = [other.number for other in (*self._running, *self._waiting) if other.owner == owner]
            if number in ours:
                raise InputError(f"job {number}: is under way already")
            if len(ours) >= MOST_OF_ONE:
                raise InputError(f"job: {MOST_OF_ONE} of this page are under way; try again when one is done")
            if len(self._waiting) >= MOST_WAITING:
                raise InputError(f"job: {MOST_WAITING} are waiting already; try again when some are done")
            self._waiting.append(job)
            self._next()

    def _next(self) -> None:
        """Start what may run, in order of arrival; with the mutex held."""
        for job in list(self._waiting):
            owners = {other.owner for other in self._running}
            if len(self._running) < MOST_AT_ONCE and job.owner not in owners:
                self._waiting.remove(job)
                self._running.append(job)
                self._workers.submit(self._run, job)

    def cancel(self, owner: str, number: int | None = None) -> None:
        """Stop a job of a client, or all of them."""
        with self._mutex:
            ours = [job for job in (*self._running, *self._waiting) if job.owner == owner]
            for job in ours:
                if number in (None, job.number):
                    self._stop(job)

    def _stop(self, job: Job) -> None:
        job.cancelled.set()
        if job in self._waiting:
            self._waiting.remove(job)
            job.send({"type": "cancelled", "job": job.number})

    def forget(self, owner: str) -> None:
        """A client has gone: its jobs stop, its files go."""
        self.cancel(owner)
        with self._mutex:
            for path in self._files.pop(owner, []):
                shutil.rmtree(path.parent, ignore_errors=True)

    def file(self, token: str, name: str) -> Path | None:
        """A finished file by the two parts of its address."""
        with self._mutex:
            known = itertools.chain.from_iterable(self._files.values())
            return next((p for p in known if p.parent.name == token and p.name == name and p.is_file()), None)

    @property
    def under_way(self) -> int:
        """Jobs that run or wait."""
        return len(self._running) + len(self._waiting)

    def close(self) -> None:
        with self._mutex:
            for job in (*self._running, *self._waiting):
                self._stop(job)
        self._workers.shutdown(wait=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, job: Job) -> None:
        end = self._end(job)
        with self._mutex:
            self._running.remove(job)
            if not self.shared.closing.is_set():
                self._next()
        job.send({**end, "job": job.number})  # last: who hears it may ask for the next one under the same number

    def _end(self, job: Job) -> Message:
        """The last message of a job: what it made, or why not."""
        try:
            job.progress(0, 1)
            with self.shared.computing():
                return self._makers[job.message["what"]](job, job.message)
        except Cancelled:
            return {"type": "cancelled"}
        except (InputError, ValueError) as error:
            return {"type": "failed", "text": str(error)}
        except Exception as error:  # one bad job must not end the worker
            traceback.print_exc()
            return {"type": "failed", "text": f"failed: {error}"}

    def _file_of(self, job: Job, name: str, write: Callable[[Path], None]) -> Message:
        """Make a file; the message that tells its address."""
        path = self._folder / secrets.token_urlsafe(16) / name
        path.parent.mkdir()
        try:
            write(path)
        except BaseException:
            shutil.rmtree(path.parent, ignore_errors=True)
            raise
        with self._mutex:
            if job.cancelled.is_set():
                shutil.rmtree(path.parent, ignore_errors=True)
                raise Cancelled
            kept = self._files.setdefault(job.owner, [])
            kept.append(path)
            while len(kept) > MOST_FILES or (len(kept) > 1 and sum(map(_bytes_of, kept)) > MOST_BYTES):
                shutil.rmtree(kept.pop(0).parent, ignore_errors=True)
            size = path.stat().st_size
        return {"type": "file", "name": name, "bytes": size, "url": f"/file/{path.parent.name}/{name}"}

    # In turns -------------------------------------------------------------------------------------------------

    def _in_turns(self, job: Job, steps: Iterator[T], total: int) -> Iterator[T]:
        """The same items; each is computed while holding the lock."""
        for done in itertools.count(1):
            with self.shared.lock.held():
                job.check()
                item = next(steps, None)
            if item is None:
                return
            yield item
            job.progress(min(done, total), total)

    @contextlib.contextmanager
    def _turn(self, job: Job) -> Iterator[None]:
        """Holds the lock for something short."""
        with self.shared.lock.held():
            job.check()
            yield

    def _pause(self, job: Job) -> Callable[[], None]:
        """A function for between blocks while the lock is held: it gives way, and ends a cancelled job."""

        def pause() -> None:
            job.check()
            self.shared.lock.give_way()

        return pause

    def _scene(self, job: Job, place: Place) -> Scene:
        """A scene whose field holds the lock block by block, for work that cannot pause by itself."""
        scene = self._whole_scene(place)
        field = FieldInTurns(scene.field, self.shared.lock, job.check)
        return type(scene)(scene.run, scene.name, scene.code, fitted=scene.fitted, field=field, frame=scene.frame)

    def _whole_scene(self, place: Place) -> Scene:
        if place.way is not None:
            return self.shared.moved(place.way)
        with self.shared.lock.held():
            return self.shared.scene(place.latent)

    # The jobs -------------------------------------------------------------------------------------------------

    def _export(self, job: Job, message: dict[str, Any]) -> Message:
        """A mesh, a standalone field, or the picture as it is seen."""
        scene = self._scene(job, requests.place(message.get("latent"), self.shared))
        meshes = MESH_SUFFIXES if self.shared.task.has_mesh else ()
        suffix = _suffix(message, (*IMAGE_SUFFIXES, *meshes, FIELD_SUFFIX))

        def write(path: Path) -> None:
            if suffix in IMAGE_SUFFIXES:
                request = requests.view_request(message, self.shared)
                write_image(path, next(self._pictures(job, request, [request.view])))
            else:
                scene.save(path)

        return self._file_of(job, _file_name(scene.name) + suffix, write)

    def _walk(self, job: Job, message: dict[str, Any]) -> Message:
        """A film of a walk through latent space, from the first view or from a circle."""
        shared = self.shared
        stops = requests.walk(message.get("walk"), shared)
        frames = int(requests.number(message.get("frames", 48), "frames", 2, MOST_FRAMES))
        suffix = _suffix(message, ANIMATION_SUFFIXES)
        size = requests.pair(message.get("size"), "size", 16, requests.MOST_SIDE)
        _require_room(frames, size)
        mode, timing = requests.mode(message, shared), requests.timing(message)
        if mode == MOVED:
            walk = Walk([shared.scene(stop) for stop in stops])
        else:
            walk = Walk([shared.blend(shared.code(stop)) for stop in stops], "codes", mode)
        times = timed_places(walk, frames, timing, turn=functools.partial(self._turn, job), progress=job.progress)
        views: list[Any] = [shared.first_view(size)] * frames
        if message.get("orbit") is True and shared.task.has_camera:
            views = list(orbit_cameras(shared.run, frames, size))

        def pictures() -> Iterator[Tensor]:
            for done, (place, view) in enumerate(zip(times, views, strict=True), 1):
                field = walk.at(place)  # beside the pages: it may have to find what moves where
                with self._turn(job):
                    picture = shared.task.picture(field, view, size, cells=FINE, pause=self._pause(job))
                yield picture
                job.progress(done, frames)

        def write(path: Path) -> None:
            write_animation(path, pictures(), FPS)

        return self._file_of(job, f"morph{suffix}", write)

    def _path(self, job: Job, message: dict[str, Any]) -> Message:
        """A film along a camera path."""
        if not self.shared.task.has_camera:
            raise InputError("path: these scenes have no camera; export a morph instead")
        text = message.get("path")
        path = from_nerfstudio(text if isinstance(text, dict) else str(text))
        if path.frames > MOST_FRAMES:
            raise InputError(f"path: {path.frames} frames, wanted at most {MOST_FRAMES}")
        _require_room(path.frames, path.size)
        view = {"position": [3, 0, 0], "target": [0, 0, 0]}
        request = requests.view_request({**message, "view": view, "size": [64, 64]}, self.shared)
        request = dataclasses.replace(request, size=path.size)
        suffix = _suffix(message, ANIMATION_SUFFIXES)

        def write(out: Path) -> None:
            write_animation(out, self._pictures(job, request, path.cameras()), path.fps)

        return self._file_of(job, f"path{suffix}", write)

    def _pictures(self, job: Job, request: ViewRequest, views: list[Any]) -> Iterator[Tensor]:
        """Finished pictures of one place from several views, in turns."""
        return self._in_turns(job, self._drawn(job, request, self._whole_scene(request.place).field, views), len(views))

    def _drawn(self, job: Job, request: ViewRequest, field: BoundField, views: list[Any]) -> Iterator[Tensor]:
        for view in views:
            yield self.shared.task.picture(
                field, view, request.size, request.channel, request.background,
                cells=FINE, pause=self._pause(job),
            )  # fmt: skip

    def _measure(self, job: Job, message: dict[str, Any]) -> Message:
        """The metrics of all scenes that `hyperfields eval` measures, as texts; measured once."""
        while not self._measuring.acquire(timeout=0.1):  # another page has asked for the same
            job.check()
        try:
            if self._report is None:
                self._report = self._measured(job)
            return {"type": "report", **self._report}
        finally:
            self._measuring.release()

    def _measured(self, job: Job) -> dict[str, Any]:
        shared, metrics = self.shared, self.shared.task.metrics
        dataset = shared.dataset()
        places, perceptual = scene_places(shared.run, dataset, shared.names), _perceptual(metrics)
        rows: dict[str, list[float]] = {}
        for done, name in enumerate(shared.names):
            field = self._scene(job, Place(shared.map.coordinates[done])).field
            values = shared.task.measure(field, dataset, places[name], "test", perceptual)
            rows[name] = [values.get(metric.name, math.nan) for metric in metrics]
            job.progress(done + 1, len(shared.names))
        return _report(metrics, rows)


def _bytes_of(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _report(metrics: Sequence[Metric], rows: dict[str, list[float]]) -> dict[str, Any]:
    """Headings, rows by scene and means, as texts; a metric that no scene has is left out."""
    finite = [[value for value in column if math.isfinite(value)] for column in zip(*rows.values(), strict=True)]
    there = [number for number, column in enumerate(finite) if column]
    means = [sum(column) / len(column) if column else math.nan for column in finite]

    def texts(row: list[float]) -> list[str]:
        return [metrics[i].format.format(row[i]) if math.isfinite(row[i]) else "n/a" for i in there]

    return {
        "headings": [metrics[i].heading for i in there],
        "scenes": {name: texts(row) for name, row in rows.items()},
        "mean": texts(means),
    }


def _perceptual(metrics: Sequence[Metric]) -> dict[str, Lpips]:
    """The LPIPS networks whose weights are on this machine: a viewer asks nothing of other machines."""
    networks: dict[str, Lpips] = {}
    nets: tuple[Net, ...] = ("alex", "vgg")
    for net in nets:
        if any(metric.name == f"lpips_{net}" for metric in metrics):
            with contextlib.suppress(LpipsUnavailable):
                networks[net] = load_lpips(net, download=False)
    return networks


def _require_room(frames: int, size: tuple[int, int]) -> None:
    """
    Raises:
        InputError: a film that takes too much memory.
    """
    pixels = frames * size[0] * size[1]
    if pixels > MOST_PIXELS:
        raise InputError(
            f"film: {frames} frames of {size[1]}x{size[0]} are {pixels / 1e6:,.0f} million pixels, wanted at most "
            f"{MOST_PIXELS / 1e6:,.0f}; take fewer frames or a smaller size"
        )


def _suffix(message: dict[str, Any], allowed: tuple[str, ...]) -> str:
    suffix = message.get("suffix")
    if suffix not in allowed:
        raise InputError(f"suffix: got {requests.short(suffix)}, wanted one of {', '.join(allowed)}")
    return str(suffix)


def _file_name(name: str) -> str:
    """A name of a scene as one of a file."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._") or "scene"
