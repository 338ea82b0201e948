"""Jobs that take longer than a picture: films, meshes, fields, measurements. One at a time for all clients."""

from __future__ import annotations

import contextlib
import dataclasses
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

import torch
from torch import Tensor

from hyperfields.cameras.nerfstudio import from_nerfstudio
from hyperfields.codes import interpolate
from hyperfields.errors import InputError
from hyperfields.evaluation.lpips import Lpips, LpipsUnavailable, Net, load_lpips
from hyperfields.evaluation.report import scene_places
from hyperfields.runs.cameras import orbit_cameras
from hyperfields.runs.export import FIELD_SUFFIX
from hyperfields.runs.images import IMAGE_SUFFIXES, write_image
from hyperfields.runs.meshes import MESH_SUFFIXES
from hyperfields.runs.render import FPS
from hyperfields.runs.scene import Scene
from hyperfields.runs.video import ANIMATION_SUFFIXES, write_animation
from hyperfields.tasks import Metric
from hyperfields.viewer import requests
from hyperfields.viewer.requests import ViewRequest
from hyperfields.viewer.shared import FINE, FieldInTurns, SharedState

MOST_WAITING = 16  # jobs of all clients together
MOST_FILES = 8  # that are kept for one client, newest last
MOST_FRAMES = 480

Send = Callable[[dict[str, Any]], None]
T = TypeVar("T")


class Cancelled(Exception):
    """Somebody does not want the job any more."""


@dataclasses.dataclass
class Job:
    """One piece of work of one client."""

    number: int  # of the page
    owner: str
    send: Send
    cancelled: threading.Event = dataclasses.field(default_factory=threading.Event)

    def check(self) -> None:
        """Raises Cancelled when the job was cancelled."""
        if self.cancelled.is_set():
            raise Cancelled

    def progress(self, done: int, total: int) -> None:
        self.check()
        self.send({"type": "progress", "job": self.number, "done": done, "total": total})


class Jobs:
    """A queue with one worker, and the files that come out: temporary, under names that cannot be guessed.

    The steps of a job (a frame, a scene) hold the lock one by one and give way in between, so that no page waits for
    a job. What a step computes besides fields (an encoder, nearest neighbours) runs beside the pages.
    """

    def __init__(self, shared: SharedState) -> None:
        self.shared = shared
        self._folder = Path(tempfile.mkdtemp(prefix="hyperfields-view-"))
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="hyperfields-viewer-job")
        self._mutex = threading.Lock()
        self._jobs: dict[tuple[str, int], Job] = {}
        self._files: dict[str, list[Path]] = {}
        self._report: dict[str, Any] | None = None

    def start(self, owner: str, message: dict[str, Any], send: Send) -> None:
        """Queue what a page asks for; `send` gets progress, the end, or an error.

        Raises:
            InputError: too much is waiting already, or no such job.
        """
        number = int(requests.number(message.get("id", 0), "id", 0, 2**53))
        makers: dict[str, Callable[[Job, dict[str, Any]], None]] = {
            "export": self._export,
            "walk": self._walk,
            "path": self._path,
            "measure": self._measure,
        }
        what = message.get("what")
        if not isinstance(what, str) or what not in makers:
            raise InputError(f"job: got {str(what)[:40]!r}, wanted one of {', '.join(makers)}")
        job = Job(number, owner, send)
        with self._mutex:
            if (owner, number) in self._jobs:
                raise InputError(f"job {number}: is under way already")
            if len(self._jobs) >= MOST_WAITING:
                raise InputError(f"job: {MOST_WAITING} are waiting already; try again when some are done")
            self._jobs[owner, number] = job
        self._worker.submit(self._run, job, makers[what], message)

    def cancel(self, owner: str, number: int | None = None) -> None:
        """Stop a job of a client, or all of them."""
        with self._mutex:
            for job in self._jobs.values():
                if job.owner == owner and number in (None, job.number):
                    job.cancelled.set()

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

    def close(self) -> None:
        with self._mutex:
            for job in self._jobs.values():
                job.cancelled.set()
        self._worker.shutdown(wait=True, cancel_futures=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, job: Job, make: Callable[[Job, dict[str, Any]], None], message: dict[str, Any]) -> None:
        try:
            job.progress(0, 1)
            make(job, message)
        except Cancelled:
            job.send({"type": "cancelled", "job": job.number})
        except (InputError, ValueError) as error:
            job.send({"type": "failed", "job": job.number, "text": str(error)})
        except Exception as error:  # one bad job must not end the worker
            traceback.print_exc()
            job.send({"type": "failed", "job": job.number, "text": f"failed: {error}"})
        finally:
            with self._mutex:
                self._jobs.pop((job.owner, job.number), None)

    def _deliver(self, job: Job, name: str, write: Callable[[Path], None]) -> None:
        """Make a file and send its address."""
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
            while len(kept) > MOST_FILES:
                shutil.rmtree(kept.pop(0).parent, ignore_errors=True)
        size = path.stat().st_size
        address = f"/file/{path.parent.name}/{name}"
        job.send({"type": "file", "job": job.number, "name": name, "bytes": size, "url": address})

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

    def _pause(self, job: Job) -> Callable[[], None]:
        """A function for between blocks while the lock is held: it gives way, and ends a cancelled job."""

        def pause() -> None:
            job.check()
            self.shared.lock.give_way()

        return pause

    def _scene(self, job: Job, coordinates: Tensor) -> Scene:
        """A scene whose field holds the lock block by block, for work that cannot pause by itself."""
        with self.shared.lock.held():
            scene = self.shared.scene(coordinates)
        field = FieldInTurns(scene.field, self.shared.lock, job.check)
        return Scene(scene.run, scene.name, scene.code, fitted=scene.fitted, field=field)

    # The jobs -------------------------------------------------------------------------------------------------

    def _export(self, job: Job, message: dict[str, Any]) -> None:
        """A mesh, a standalone field, or the picture as it is seen."""
        coordinates = requests.latent(message.get("latent"), self.shared)
        scene = self._scene(job, coordinates)
        meshes = MESH_SUFFIXES if self.shared.task.has_mesh else ()
        suffix = _suffix(message, (*IMAGE_SUFFIXES, *meshes, FIELD_SUFFIX))

        def write(path: Path) -> None:
            if suffix in IMAGE_SUFFIXES:
                request = requests.view_request(message, self.shared)
                write_image(path, next(self._in_turns(job, self._pictures(job, request, [request.view]), 1)))
            else:
                scene.save(path)

        self._deliver(job, _file_name(scene.name) + suffix, write)

    def _walk(self, job: Job, message: dict[str, Any]) -> None:
        """A film of a walk through latent space, from the first view or from a circle."""
        shared = self.shared
        stops = requests.walk(message.get("walk"), shared)
        frames = int(requests.number(message.get("frames", 48), "frames", 2, MOST_FRAMES))
        suffix = _suffix(message, ANIMATION_SUFFIXES)
        size = requests.pair(message.get("size"), "size", 16, requests.MOST_SIDE)
        codes = interpolate(torch.cat([shared.code(stop) for stop in stops]), frames, requests.mode(message))
        views: list[Any] = [shared.first_view(size)] * frames
        if message.get("orbit") is True and shared.task.has_camera:
            views = list(orbit_cameras(shared.run, frames, size))

        def pictures() -> Iterator[Tensor]:
            for code, view in zip(codes, views, strict=True):
                field = shared.blend(code[None]).field
                yield shared.task.picture(field, view, size, cells=FINE, pause=self._pause(job))

        def write(path: Path) -> None:
            write_animation(path, self._in_turns(job, pictures(), frames), FPS)

        self._deliver(job, f"morph{suffix}", write)

    def _path(self, job: Job, message: dict[str, Any]) -> None:
        """A film along a camera path."""
        if not self.shared.task.has_camera:
            raise InputError("path: these scenes have no camera; export a morph instead")
        text = message.get("path")
        path = from_nerfstudio(text if isinstance(text, dict) else str(text))
        if path.frames > MOST_FRAMES:
            raise InputError(f"path: {path.frames} frames, wanted at most {MOST_FRAMES}")
        view = {"position": [3, 0, 0], "target": [0, 0, 0]}
        request = requests.view_request({**message, "view": view, "size": [64, 64]}, self.shared)
        request = dataclasses.replace(request, size=path.size)
        suffix = _suffix(message, ANIMATION_SUFFIXES)

        def write(out: Path) -> None:
            pictures = self._pictures(job, request, path.cameras())
            write_animation(out, self._in_turns(job, pictures, path.frames), path.fps)

        self._deliver(job, f"path{suffix}", write)

    def _pictures(self, job: Job, request: ViewRequest, views: list[Any]) -> Iterator[Tensor]:
        """Finished pictures of one latent from several views."""
        field = self.shared.scene(request.latent).field
        for view in views:
            yield self.shared.task.picture(
                field, view, request.size, request.channel, request.background,
                cells=FINE, pause=self._pause(job),
            )  # fmt: skip

    def _measure(self, job: Job, message: dict[str, Any]) -> None:
        """The metrics of all scenes that `hyperfields eval` measures, as texts; measured once."""
        if self._report is None:
            shared, metrics = self.shared, self.shared.task.metrics
            dataset = shared.dataset()
            places, perceptual = scene_places(shared.run, dataset, shared.names), _perceptual(metrics)
            rows: dict[str, list[float]] = {}
            for done, name in enumerate(shared.names):
                field = self._scene(job, shared.map.coordinates[done]).field
                values = shared.task.measure(field, dataset, places[name], "test", perceptual)
                rows[name] = [values.get(metric.name, math.nan) for metric in metrics]
                job.progress(done + 1, len(shared.names))
            self._report = _report(metrics, rows)
        job.send({"type": "report", "job": job.number, **self._report})


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


def _suffix(message: dict[str, Any], allowed: tuple[str, ...]) -> str:
    suffix = message.get("suffix")
    if suffix not in allowed:
        raise InputError(f"suffix: got {str(suffix)[:40]!r}, wanted one of {', '.join(allowed)}")
    return str(suffix)


def _file_name(name: str) -> str:
    """A name of a scene as one of a file."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._") or "scene"
