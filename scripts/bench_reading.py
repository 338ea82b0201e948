"""Reading of a family of views: pictures a second, and the memory that it takes.

`python scripts/bench.py reading FAMILY`.
"""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

from hyperfields.data import Views
from hyperfields.process import tune_process
from hyperfields.scenes import open_family


def reading(family: Path, size: tuple[int, int] | None, rounds: int, memory: int | None) -> dict[str, object]:
    """Pictures a second of the fastest of some rounds, from the folder to data that batches are drawn from.

    memory: bytes of decoded pictures that stay in memory; more of them go to a file.
    """
    tune_process()  # as the command does
    open_family(family, size=size, limit=1)  # imports
    before = _peak()
    seconds, busy = [], []
    for _ in range(rounds):
        began, used = time.perf_counter(), time.process_time()
        data = open_family(family, size=size, memory=memory)
        seconds.append(time.perf_counter() - began)
        busy.append(time.process_time() - used)
        assert isinstance(data, Views)
    pixels = sum(camera.height * camera.width for scene in data.cameras for camera in scene)
    return {
        "family": str(family),
        "scenes": len(data.names),
        "pictures": data.pictures,
        "sizes": [f"{height}x{width}" for height, width in data.sizes],
        "cores": os.cpu_count(),
        "pictures_per_second": data.pictures / min(seconds),
        "megapixels_per_second": 1e-6 * pixels / min(seconds),
        "core_milliseconds_per_picture": 1e3 * min(busy) / data.pictures,
        "decoded_megabytes": 4e-6 * pixels,
        "in_a_file": data.on_disk,
        "peak_megabytes_over_start": 1e-6 * (_peak() - before),
    }


def print_reading(result: dict[str, object]) -> None:
    where = "in a file" if result["in_a_file"] else "in memory"
    print(
        f"{result['pictures']} training pictures of {result['scenes']} scenes, {', '.join(result['sizes'])}: "  # type: ignore[arg-type]
        f"{result['pictures_per_second']:.0f} pictures a second, {result['megapixels_per_second']:.0f} megapixels "
        f"({result['core_milliseconds_per_picture']:.2f} ms of a core each, {result['cores']} cores); "
        f"{result['decoded_megabytes']:.0f} MB decoded, {where}, peak {result['peak_megabytes_over_start']:.0f} MB "
        "over the start"
    )


def _peak() -> int:
    """Bytes that this process has had in memory at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
