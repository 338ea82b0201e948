"""What takes longer than a picture: films, meshes, fields, measurements. One at a time for all clients."""

from __future__ import annotations

import dataclasses
import itertools
import re
import secrets
import shutil
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperfields.errors import InputError
from hyperfields.runs import render as movie
from hyperfields.runs.export import ANIMATION_SUFFIXES, IMAGE_SUFFIXES, MESH_SUFFIXES, write_animation, write_image
from hyperfields.tasks import task_of
from hyperfields.viewer import messages
from hyperfields.viewer.camera_path import CameraPath, from_nerfstudio
from hyperfields.viewer.frame import frame
from hyperfields.viewer.room import Room

MOST_WAITING = 16  # jobs of all clients together
MOST_FILES = 8  # that are kept for one client, newest last
MOST_FRAMES = 480

Tell = Callable[[dict[str, Any]], None]


class Cancelled(Exception):
    """Somebody does not want the job any more."""


@dataclasses.dataclass
class Job:
    """One piece of work of one client."""

    number: int  # of the page
    owner: str
    tell: Tell
    cancelled: threading.Event = dataclasses.field(default_factory=threading.Event)

    def report(self, done: int, total: int, *_: object) -> None:
        """Progress; ends the work when it was cancelled."""
        if self.cancelled.is_set():
            raise Cancelled
        self.tell({"type": "progress", "job": self.number, "done": done, "total": total})


class Jobs:
    """A queue with one worker, and the files that come out: temporary, under names that cannot be guessed."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self._folder = Path(tempfile.mkdtemp(prefix="hyperfields-view-"))
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="hyperfields-viewer-job")
        self._mutex = threading.Lock()
        self._jobs: dict[tuple[str, int], Job] = {}
        self._files: dict[str, list[Path]] = {}

    def start(self, owner: str, message: dict[str, Any], tell: Tell) -> None:
        """Queue what a page asks for; `tell` hears of progress, the end, or an error.

        Raises:
            InputError: too much is waiting already, or no such job.
        """
        number = int(messages.number(message.get("id", 0), "id", 0, 2**53))
        makers: dict[str, Callable[[Job, dict[str, Any]], None]] = {
            "export": self._export,
            "walk": self._walk,
            "path": self._path,
            "measure": self._measure,
        }
        what = message.get("what")
        if what not in makers:
            raise InputError(f"job: got {what!r}, wanted one of {', '.join(makers)}")
        job = Job(number, owner, tell)
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
            job.report(0, 1)
            make(job, message)
        except Cancelled:
            job.tell({"type": "cancelled", "job": job.number})
        except (InputError, ValueError) as error:
            job.tell({"type": "failed", "job": job.number, "text": str(error)})
        except Exception as error:  # one bad job must not end the worker
            traceback.print_exc()
            job.tell({"type": "failed", "job": job.number, "text": f"failed: {error}"})
        finally:
            with self._mutex:
                self._jobs.pop((job.owner, job.number), None)

    def _deliver(self, job: Job, name: str, write: Callable[[Path], None]) -> None:
        """Make a file and tell where it is."""
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
        job.tell({"type": "file", "job": job.number, "name": name, "bytes": size, "url": address})

    def _export(self, job: Job, message: dict[str, Any]) -> None:
        """A mesh, a standalone field, or the picture as it is looked at."""
        run = self.room.run
        coordinates = messages.latent(message.get("latent"), self.room)
        scene = self.room.scene_at(coordinates)
        code = None if scene is not None else self.room.code(coordinates)
        name = run.names[scene] if scene is not None else "blend"
        suffix = _suffix(message, (*IMAGE_SUFFIXES, *MESH_SUFFIXES, movie.FIELD_SUFFIX))

        def write(path: Path) -> None:
            if suffix in IMAGE_SUFFIXES:
                wish = messages.look(message, self.room)
                write_image(path, self._picture(coordinates, wish.view, wish))
            else:
                movie.export_scene(run, name, path, code)

        self._deliver(job, _file_name(name) + suffix, write)

    def _walk(self, job: Job, message: dict[str, Any]) -> None:
        """A film of a walk through latent space, from where the page looks or from a circle."""
        stops = messages.walk(message.get("walk"), self.room)
        frames = int(messages.number(message.get("frames", 48), "frames", 2, MOST_FRAMES))
        orbit = message.get("orbit") is True
        suffix = _suffix(message, ANIMATION_SUFFIXES)
        size = messages.pair(message.get("size"), "size", 16, messages.MOST_SIDE)
        codes = torch.cat([self.room.code(stop) for stop in stops])
        mode = messages.mode(message)

        def write(path: Path) -> None:
            movie.interpolate_run(
                self.room.run, codes, path, frames=frames, mode=mode, orbit=orbit, size=size, report=job.report
            )

        self._deliver(job, f"morph{suffix}", write)

    def _path(self, job: Job, message: dict[str, Any]) -> None:
        """A film along a camera path."""
        if self.room.run.kind == "images":
            raise InputError("path: images have no camera; export a morph instead")
        text = message.get("path")
        path = from_nerfstudio(text if isinstance(text, dict) else str(text))
        if path.frames > MOST_FRAMES:
            raise InputError(f"path: {path.frames} frames, wanted at most {MOST_FRAMES}")
        coordinates = messages.latent(message.get("latent"), self.room)
        wish = messages.look(
            {**message, "view": {"position": [3, 0, 0], "target": [0, 0, 0]}, "size": [64, 64]}, self.room
        )
        suffix = _suffix(message, ANIMATION_SUFFIXES)

        def write(out: Path) -> None:
            write_animation(out, self._frames(job, path, coordinates, wish), path.fps)

        self._deliver(job, f"path{suffix}", write)

    def _frames(self, job: Job, path: CameraPath, coordinates: Tensor, wish: messages.Look) -> Iterator[Tensor]:
        for done, place in enumerate(path.cameras()):
            yield self._picture(coordinates, place, dataclasses.replace(wish, size=path.size))
            job.report(done + 1, path.frames)

    def _picture(self, coordinates: Tensor, view: Any, wish: messages.Look) -> Tensor:
        """One finished picture, made when nobody who looks at the page is waiting."""

        def pause() -> None:
            self.room.turns.let_others(urgent=False)

        with self.room.turns.turn(urgent=False):
            return frame(
                self.room.bind(coordinates), view, wish.size, wish.channel,
                samples=task_of(self.room.run.kind).supersample, background=wish.background, pause=pause,
            )  # fmt: skip

    def _measure(self, job: Job, message: dict[str, Any]) -> None:
        """What `hyperfields eval` measures."""
        report = self.room.report(job.report)
        job.tell({"type": "report", "job": job.number, "scenes": report["scenes"], "mean": report["mean"]})


def _suffix(message: dict[str, Any], allowed: tuple[str, ...]) -> str:
    suffix = message.get("suffix")
    if suffix not in allowed:
        raise InputError(f"suffix: got {str(suffix)[:40]!r}, wanted one of {', '.join(allowed)}")
    return str(suffix)


def _file_name(name: str) -> str:
    """A name of a scene as one of a file."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._") or "scene"
