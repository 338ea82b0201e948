"""Diagnosis of this machine: versions, what can be used, why not, and what to install."""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import sys

from hyperfields.cli.console import table

# Package to import -> (extra that brings it, what it is for).
OPTIONAL = {
    "open3d": ("shapes", "reading and sampling meshes, metrics of shapes"),
    "skimage": ("shapes", "meshes from fields"),
    "lpips": ("metrics", "linear heads of the learned image distance"),
    "av": ("video", ".mp4 files"),
    "pycolmap": ("captures", "cameras of photographs"),
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
    """Command that installs the libraries that open3d misses, else the first line of its error."""
    missing = [package for library, package in SYSTEM_LIBRARIES.items() if not _loads(library)]
    if sys.platform == "linux" and missing:
        return f"as root: apt-get install -y --no-install-recommends {' '.join(missing)}"
    return (message.strip().splitlines() or ["no reason given"])[0]


def _loads(library: str) -> bool:
    """True if the system finds a shared library; tried by loading, as open3d does."""
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

    lines, names = [], ("alex", "vgg")
    net: Net
    for net in names:  # type: ignore[assignment]
        try:
            load_lpips(net, download=False)
            lines.append(f"{net}: found")
        except LpipsUnavailable as error:
            lines.append(f"{net}: {error}")
    return lines


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
    """Folder of the sampled points of shapes; the same choice as in hyperfields.scenes."""
    from hyperfields.scenes.meshes import _cache_folder

    folder = _cache_folder()
    return str(folder) if folder is not None else "none: it cannot be written"
