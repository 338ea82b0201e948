"""What the command line shows: progress while it works, what is in a run, and what works on this machine."""

from __future__ import annotations

import ctypes
import dataclasses
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

PLAIN_SECONDS = 10.0  # between lines of progress that no terminal shows
BAR_SECONDS = 0.2  # between updates of a bar

# Package to import -> (extra that brings it, what it is for).
OPTIONAL = {
    "open3d": ("shapes", "reading and sampling meshes, metrics of shapes"),
    "skimage": ("shapes", "meshes from fields"),
    "lpips": ("metrics", "linear heads of the learned image distance"),
    "av": ("video", ".mp4 files"),
    "OpenEXR": ("exr", ".exr pictures"),
    "websockets": ("viewer", "the viewer"),
    "tensorboard": ("log", "curves of a fit"),
    "matplotlib": ("plots", "plots of comparisons"),
}
DISTRIBUTIONS = {"skimage": "scikit-image", "open3d": "open3d-cpu"}  # where they are not called as the module
# Shared libraries that open3d loads -> the Debian packages that hold them.
SYSTEM_LIBRARIES = {
    "libEGL.so.1": "libegl1",
    "libGL.so.1": "libgl1",
    "libX11.so.6": "libx11-6",
    "libusb-1.0.so.0": "libusb-1.0-0",
    "libgomp.so.1": "libgomp1",
}


class Meter:
    """How far something is, on stderr: a bar in a terminal, elsewhere a line every ten seconds."""

    def __init__(self, what: str, first: float = 0.0) -> None:
        """`first`: the share that was done before, when something goes on."""
        self.what, self.first = what, first
        self.started = self.shown = time.monotonic()
        self.bar: Any = None  # made at the first call: what is done at once shows none

    def __enter__(self) -> Meter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.refresh()
            self.bar.stop()

    def show(self, share: float, text: str) -> None:
        """`share` of the work is done, in [0, 1]. Cheap enough to call at every step."""
        now = time.monotonic()
        if self.bar is None and sys.stderr.isatty():
            self._start_bar()
        if self.bar is not None:
            if self.shown == self.started or share >= 1.0 or now - self.shown > BAR_SECONDS:
                self.shown = now
                self.bar.update(self.task, completed=share, text=text, refresh=True)
        elif now - self.shown > PLAIN_SECONDS:
            self.shown = now
            elapsed, gained = now - self.started, share - self.first
            left = f", about {clock(elapsed * (1.0 - share) / gained)} left" if gained > 0.0 else ""
            say(f"{self.what}: {100.0 * share:3.0f} %, {clock(elapsed)}{left}, {text}")

    def _start_bar(self) -> None:
        from rich import progress
        from rich.console import Console

        columns = (
            progress.TextColumn("{task.description}"), progress.BarColumn(), progress.TaskProgressColumn(),
            progress.TimeElapsedColumn(), progress.TextColumn("left"), progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[text]}"),
        )  # fmt: skip
        # Not refreshed by a thread of its own: the cores belong to the work.
        self.bar = progress.Progress(*columns, console=Console(stderr=True), auto_refresh=False)
        self.task = self.bar.add_task(self.what, total=1.0, completed=self.first, text="")
        self.bar.start()
        self.bar.refresh()

    def count(self, done: int, total: int, name: str) -> None:
        """`done` of `total` things are done, the last one is `name`."""
        self.show(done / total, f"{done} of {total}, {name}")


def say(line: str) -> None:
    """A line for people on stderr, where results do not go."""
    print(line, file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """Minutes and seconds as m:ss, with hours when there are any."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def table(rows: list[tuple[str, str]]) -> str:
    """Two columns, the first as wide as its widest cell."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name.ljust(width)}  {value}".rstrip() for name, value in rows)


# inspect ------------------------------------------------------------------------------------------


def inspect_run(folder: Path) -> dict[str, Any]:
    """What is in a run, finished or not, as JSON can hold it. Sizes are in bytes, numbers have 16 bits.

    Raises:
        InputError: no run there, a damaged one, or one from a newer version.
    """
    import torch

    from hyperfields.errors import InputError
    from hyperfields.evaluation.report import read_summary
    from hyperfields.model import HyperField, parameter_groups
    from hyperfields.runs import checkpoint

    config = checkpoint.read_config(folder)
    finished = (folder / checkpoint.MODEL).is_file()
    if finished:
        model = checkpoint.load_run(folder).model
    else:
        try:
            with torch.device("meta"):  # sizes only: no memory, no random numbers
                model = HyperField(checkpoint.from_json(config["model"]), len(config["scenes"]))
        except (TypeError, AttributeError, KeyError) as error:
            path = folder / checkpoint.CONFIG
            raise InputError(f"{path}: damaged: {error}; restore it or fit again") from None
    field = model.config.field
    amortised, marginal = model.bytes_per_scene()
    encoding = config["model"]["field"]["encoding"]
    grid = getattr(field.encoding, "grid", None)
    files = {path.name: path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
    summary = read_summary(folder)
    return {
        "path": str(folder),
        "format": config["format"],
        "finished": finished,
        "kind": config["kind"],
        "scenes": config["scenes"],
        "family": config.get("family"),
        "picture": {key: value for key, value in config.get("picture", {}).items() if key != "frames"},
        "field": type(field).__name__,
        "encoding": {key: value for key, value in encoding.items() if key != "grid"},
        "resolutions": list(grid.resolutions) if grid else None,
        "rows": grid.rows if grid else None,
        "generator": config["model"]["generator"],
        "latent_size": model.config.latent_size,
        "extensions": [dataclasses.asdict(extension) for extension in model.config.extensions],
        "parameters": {
            name: sum(parameter.numel() for parameter in parameters)
            for name, parameters in parameter_groups(model).items()
        },
        "bytes_per_scene": {"amortised": amortised, "marginal": marginal},
        "files": files,
        "fit": config["fit"],
        "recipe": config.get("recipe"),
        "summary": summary or None,
        "last": _last_line(folder / checkpoint.METRICS),
        "versions": config.get("versions"),
    }


def _last_line(path: Path) -> dict[str, Any] | None:
    """The last whole line of a log of JSON lines."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        return found if isinstance(found, dict) else None
    return None


def format_run(found: dict[str, Any]) -> str:
    """`inspect_run` as a table."""
    scenes, fit, last = found["scenes"], found["fit"], found["last"] or {}
    few = ", ".join(scenes[:4]) + (", ..." if len(scenes) > 4 else "")
    length = f"{fit['steps']:,} steps" if fit.get("minutes") is None else f"{fit['minutes']:g} minutes"
    parameters, sizes = found["parameters"], found["bytes_per_scene"]
    levels = ""
    if found["rows"]:
        levels = f", cells a side {'-'.join(map(str, found['resolutions']))}, {found['rows']:,} rows"
    family = found["family"] or {}
    if found["summary"]:
        state = f"{found['summary']['steps']:,} steps in {found['summary']['seconds']:.0f} s"
    elif last:
        state = f"not finished: {last['step']:,} steps in {last['seconds']:.0f} s; go on with fit --resume"
    else:
        state = "not begun"
    rows = [
        ("run", f"{found['path']} (format {found['format']})"),
        ("kind", found["kind"]),
        ("scenes", f"{len(scenes)}: {few}"),
        ("family", family.get("path", "not recorded")),
        ("picture", _settings(found["picture"])),
        ("field", found["field"]),
        ("encoding", f"{_settings(found['encoding'])}{levels}"),
        ("generator", _settings(found["generator"])),
        ("latent", f"{found['latent_size']:,} numbers a scene"),
        ("extensions", "; ".join(_settings(extension) for extension in found["extensions"])),
        ("parameters", ", ".join(f"{name} {count:,}" for name, count in parameters.items())),
        ("bytes a scene", f"{sizes['amortised']:,.0f} amortised, {sizes['marginal']:,} for one more"),
        ("files", ", ".join(f"{name} {size / 1e3:,.0f} kB" for name, size in found["files"].items())),
        ("fit", f"{length}, preset {fit.get('preset')}, seed {fit.get('seed')}"
                f"{', every scene alone' if fit.get('individually') else ''}"),
        ("state", state),
        ("last loss", f"{last['loss']:.4g}" if last.get("loss") is not None else "n/a"),
        ("versions", _settings(found["versions"] or {})),
    ]  # fmt: skip
    return table([(name, value) for name, value in rows if value])


def _settings(values: dict[str, Any]) -> str:
    """`{"class": "X", "a": 1}` as `X a 1`, other dicts as `a 1, b 2`."""
    name = f"{values['class']} " if "class" in values else ""
    parts = []
    for key, value in values.items():
        if key == "class":
            continue
        if isinstance(value, float):
            value = f"{value:.4g}"
        elif isinstance(value, list):
            value = "x".join(map(str, value))
        parts.append(f"{key} {value}")
    return name + ", ".join(parts)


# doctor -------------------------------------------------------------------------------------------


def diagnose() -> str:
    """Versions, what can be used on this machine, why not, and what to install."""
    from hyperfields import __version__

    rows = [("hyperfields", __version__), ("python", f"{platform.python_version()} ({platform.platform()})")]
    rows += [(name, _version(name)) for name in ("torch", "numba", "numpy", "safetensors", "tyro", "rich")]
    rows += [(DISTRIBUTIONS.get(name, name).removesuffix("-cpu"), _optional(name)) for name in OPTIONAL]
    rows += [(f"backend {name}", reason or "usable") for name, reason in _backends().items()]
    rows += [("lpips weights", line) for line in _lpips()]
    rows += [("threads", _threads()), ("device cuda", _cuda()), ("cache", _cache())]
    return table(rows)


def _version(module: str) -> str:
    try:
        return importlib.metadata.version(DISTRIBUTIONS.get(module, module))
    except importlib.metadata.PackageNotFoundError:
        pass
    try:
        return importlib.metadata.version(module)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _optional(module: str) -> str:
    """Version of an optional package, or what to do so that it can be imported."""
    extra, purpose = OPTIONAL[module]
    if importlib.util.find_spec(module) is None:
        return f"missing: pip install 'hyperfields[{extra}]' ({purpose})"
    if module == "open3d":  # the only one that needs libraries of the system
        try:
            importlib.import_module(module)
        except (ImportError, OSError) as error:
            return f"{_version(module)}, but it cannot be imported: {_remedy(str(error))}"
    return f"{_version(module)} ({purpose})"


def _remedy(message: str) -> str:
    """What to install so that open3d can be imported, else the first line of what it said."""
    missing = [package for library, package in SYSTEM_LIBRARIES.items() if not _loads(library)]
    if sys.platform == "linux" and missing:
        return f"as root: apt-get install -y --no-install-recommends {' '.join(missing)}"
    return (message.strip().splitlines() or ["no reason given"])[0]


def _loads(library: str) -> bool:
    """Whether the system finds a shared library; tried by loading, as open3d does."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _backends() -> dict[str, str]:
    """Each backend of the operations with the reason why it cannot be used, or an empty string."""
    from hyperfields import ops

    return ops.backends()


def _lpips() -> list[str]:
    from hyperfields.evaluation.lpips import LpipsUnavailable, Net, load_lpips

    found, names = [], ("alex", "vgg")
    net: Net
    for net in names:  # type: ignore[assignment]
        try:
            load_lpips(net)
            found.append(f"{net}: found")
        except LpipsUnavailable as error:
            found.append(f"{net}: {error}")
    return found


def _threads() -> str:
    import torch

    text = f"{torch.get_num_threads()} of torch, {os.cpu_count()} cores"
    limits = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")
    chosen = [f"{name}={os.environ[name]}" for name in limits if name in os.environ]
    return ", ".join([text, *chosen])


def _cuda() -> str:
    import torch

    from hyperfields.errors import InputError
    from hyperfields.ops.devices import require_precision, usable_device

    try:
        device = usable_device("cuda")
    except InputError as error:
        return str(error).removeprefix("--device cuda: ")
    try:
        require_precision("mixed", device)
        mixed = "use it with --device cuda --precision mixed"
    except InputError as error:
        mixed = f"use it with --device cuda; {error}"
    had = ".".join(map(str, torch.cuda.get_device_capability()))
    return f"{torch.cuda.get_device_name()}, compute capability {had}: {mixed}"


def _cache() -> str:
    """Where the samples of shapes are kept; the same choice as in hyperfields.scenes."""
    from hyperfields.scenes.meshes import _cache_folder

    folder = _cache_folder()
    return str(folder) if folder is not None else "none: it cannot be written"
