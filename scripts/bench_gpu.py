"""Speed on a GPU, all in one command: `python scripts/bench.py --device cuda [--out FILE.json] [--run RUN]`.

Kernels beside the usual formulations, beside tinycudann where it is installed, and beside what the card can do at most,
measured in the same run; a whole fitting step from 1 to 1,024 scenes; frames a second of a run. A section that fails
says so and the others go on. Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from hyperfields import ops
from hyperfields.checkpoint import load_run
from hyperfields.devices import usable_device
from hyperfields.encodings import FactoredGrid
from hyperfields.errors import InputError
from hyperfields.fields import ImageField
from hyperfields.graphs import USUAL, Graphs
from hyperfields.hypernets import LowRank
from hyperfields.model import HyperField, ModelConfig, parameter_groups
from hyperfields.objective import Objective
from hyperfields.optimization import Optimization, Progress
from hyperfields.picture import orbit_cameras, render_picture
from hyperfields.presets import Recipe
from hyperfields.scenes.images import ImageFamily

DEVICE = "cuda"
SCENES, POINTS, SIZES = 256, 4096, (32, 64, 64, 16)
GRID = ops.GridSpec.make(3, 16, 2, 14, 16, 1.3819)
MOST_SECONDS = 270.0  # sections that would begin later are left out
STEP_SCENES, STEP_POINTS = (1, 4, 16, 64, 256, 1024), 2**18


class Row(NamedTuple):
    """One measurement. `value` in `unit`; `note` says what it is compared with, or why there is none."""

    section: str
    what: str
    value: float | None
    unit: str
    note: str = ""


def milliseconds(call: Callable[[], object], rounds: int = 20) -> float:
    """Median time of a call on the device; the first calls compile and are not counted."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    times = []
    for _ in range(rounds):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def both_ways(forward: Callable[[], Tensor], inputs: list[Tensor]) -> Callable[[], object]:
    """Forward and the gradients of all inputs."""
    cotangent = torch.randn_like(forward())
    return lambda: torch.autograd.grad(forward(), inputs, cotangent)


def mixed(forward: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def call() -> Tensor:
        with torch.autocast("cuda", torch.float16):
            return forward()

    return call


def beside(section: str, calls: dict[str, Callable[[], Callable[[], object]]], own: str) -> list[Row]:
    """Each call's time, and how many times as long as `own` it takes; one that cannot run says why."""
    rows: list[Row] = []
    mine = math.nan
    for name, make in calls.items():
        try:
            value = milliseconds(make())
        except Exception as error:
            rows.append(Row(section, name, None, "ms", reason(error)))
            torch.cuda.empty_cache()
            continue
        mine = value if name == own else mine
        rows.append(
            Row(
                section,
                name,
                value,
                "ms",
                "" if name == own or math.isnan(mine) else f"{value / mine:.2f} x the time of {own}",
            )
        )
    return rows


def reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:160]


def ceilings() -> list[Row]:
    rows = []
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        a, b = (torch.randn(8192, 8192, device=DEVICE, dtype=dtype) for _ in range(2))
        time_of = milliseconds(lambda a=a, b=b: a @ b, 10)  # type: ignore[misc]
        rows.append(Row("ceilings", f"matrix product, {dtype}", 2 * 8192**3 / time_of / 1e9, "TFLOP/s"))
    source = torch.empty(2**28, device=DEVICE)
    target = torch.empty_like(source)
    time_of = milliseconds(lambda: target.copy_(source), 10)
    rows.append(Row("ceilings", "copy, read and written", 2 * 2**30 / time_of / 1e6, "GB/s"))
    return rows


def networks() -> list[Row]:
    x = torch.randn(SCENES, POINTS, SIZES[0], device=DEVICE, requires_grad=True)
    layers: list[tuple[Tensor, Tensor | None]] = [
        (
            (torch.randn(SCENES, o, i, device=DEVICE) * (2.0 / i) ** 0.5).requires_grad_(),
            torch.randn(SCENES, o, device=DEVICE, requires_grad=True),
        )
        for i, o in itertools.pairwise(SIZES)
    ]
    bare: list[tuple[Tensor, Tensor | None]] = [(weight, None) for weight, _ in layers]
    inputs = [x, *(t for layer in layers for t in layer if t is not None)]
    weights = [x, *(weight for weight, _ in bare)]
    half = [t.detach().bfloat16().requires_grad_() for t in inputs]

    def bmm(h: Tensor, *tensors: Tensor) -> Tensor:
        for number, (weight, bias) in enumerate(zip(tensors[::2], tensors[1::2], strict=True)):
            h = torch.baddbmm(bias[:, None], h, weight.transpose(1, 2))
            h = h.relu() if number + 2 < len(SIZES) else h
        return h

    compiled = torch.compile(bmm)

    def ours(backend: ops.Backend = "triton") -> Tensor:
        return ops.batched_mlp(x, layers, "relu", backend=backend)

    one = x.detach().reshape(1, -1, SIZES[0]).requires_grad_()
    first: list[tuple[Tensor, Tensor | None]] = [(w.detach()[:1].clone().requires_grad_(), None) for w, _ in bare]

    def loop() -> Tensor:
        return ops.batched_mlp(x, bare, "relu", backend="tcnn")

    def single() -> Tensor:
        return ops.batched_mlp(one, first, "relu", backend="tcnn")

    calls: dict[str, Callable[[], Callable[[], object]]] = {
        "triton, mixed": lambda: both_ways(mixed(ours), inputs),
        "triton, float32": lambda: both_ways(ours, inputs),
        "torch.baddbmm, bfloat16": lambda: both_ways(lambda: bmm(*half), half),
        "torch.baddbmm, float32": lambda: both_ways(lambda: bmm(*inputs), inputs),
        "torch.compile of it, bfloat16": lambda: both_ways(lambda: compiled(*half), half),
        "loop over tinycudann (no biases)": lambda: both_ways(loop, weights),
        "one network of tinycudann (no biases)": lambda: both_ways(single, [one, *(w for w, _ in first)]),
        "forward alone, triton, mixed": lambda: mixed(lambda: ours().detach()),
    }
    rows = beside(
        f"networks, {SCENES} x {POINTS} points, {'-'.join(map(str, SIZES))}, both ways", calls, "triton, mixed"
    )
    if rows[0].value is not None:
        products = 3 * 2 * SCENES * POINTS * sum(i * o for i, o in itertools.pairwise(SIZES))
        rows.append(Row("networks", "rate of triton, mixed", products / rows[0].value / 1e9, "TFLOP/s"))
    return rows


def grids() -> list[Row]:
    x = torch.rand(SCENES, POINTS, 3, device=DEVICE)
    table = torch.randn(SCENES, GRID.rows, 2, device=DEVICE, requires_grad=True)
    shared = torch.randn(1, GRID.rows, 2, device=DEVICE, requires_grad=True)

    def encode(entries: Tensor, backend: ops.Backend) -> Callable[[], Callable[[], object]]:
        return lambda: both_ways(lambda: ops.hash_encode(x, entries, GRID, backend=backend), [entries])

    one = x.reshape(1, -1, 3)
    calls = {
        "triton, a table a scene": encode(table, "triton"),
        "triton, one table": encode(shared, "triton"),
        "reference, one table": encode(shared, "reference"),
        "tinycudann, one table": lambda: both_ways(
            lambda: ops.hash_encode(one, shared, GRID, backend="tcnn"), [shared]
        ),
    }
    rows = beside(f"grids, {SCENES} tables of {GRID.rows} rows, both ways", calls, "triton, a table a scene")
    if rows[0].value is not None:
        moved = SCENES * POINTS * GRID.channels * 4 * (2 + 3 * 8)  # columns, and corners: read; read and written
        rows.append(Row("grids", "bytes that corners and columns move", moved / rows[0].value / 1e6, "GB/s"))
    return rows


def steps() -> list[Row]:
    """A whole fitting step on pictures, the same points over ever more scenes: called, and replayed from a graph."""
    rows: list[Row] = []
    field = ImageField(FactoredGrid(2, 6, 2, 12, 5, 64, bases=15))
    pictures = ImageFamily([str(n) for n in range(STEP_SCENES[-1])], torch.rand(STEP_SCENES[-1], 64, 64, 3))
    base = math.nan
    for precision, graphs in itertools.product(("float32", "mixed"), (False, True)):
        for scenes in STEP_SCENES:
            what = f"{scenes} scenes, {STEP_POINTS} points, {precision}, {'graph' if graphs else 'eager'}"
            try:
                model = HyperField(ModelConfig(field, LowRank(3), 96), STEP_SCENES[-1]).to(DEVICE)
                recipe = Recipe(scenes, STEP_POINTS)
                # Few scenes have fewer pixels than the points of a step: the same pixels come several times.
                objective = Objective(Again(pictures), field, recipe, STEP_SCENES[-1], DEVICE, precision)  # type: ignore[arg-type]
                run = Optimization(
                    model.bind_scenes, parameter_groups(model), objective, torch.arange(len(pictures.names)), 0
                )
                run.graphs = Graphs(torch.device(DEVICE)) if graphs else None
                value = step_time(run)
            except Exception as error:
                rows.append(Row("fitting step", what, None, "ms", reason(error)))
                continue
            base = value if scenes == 1 else base
            rows.append(Row("fitting step", what, value, "ms", f"{value / base:.2f} x the time of 1 scene"))
    return rows


def step_time(run: Optimization) -> float:
    """Milliseconds of a steady step.

    Raises:
        RuntimeError: it was to be replayed from a graph, and cannot.
    """
    progress = Progress()
    for _ in range(USUAL + 2):
        run.step(progress)
    if run.graphs is not None and run.graphs.reason:
        raise RuntimeError(run.graphs.reason)
    return milliseconds(lambda: run.step(progress))


class Again(ImageFamily):
    """Pictures whose pixels are always drawn with replacement, however many are asked for."""

    def __init__(self, pictures: ImageFamily) -> None:
        self.__dict__.update(pictures.__dict__)

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator):  # type: ignore[no-untyped-def]
        count = self.height * self.width
        parts = [super(Again, self).batch(scenes, min(n, count - 1), generator) for _ in range(-(-n // (count - 1)))]
        points = (torch.cat(pieces, 1)[:, :n].contiguous() for pieces in zip(*parts, strict=True))
        return type(parts[0])(*points)


def frames(path: Path | None, scene: str | None) -> list[Row]:
    section = "rendering"
    if path is None:
        return [Row(section, "frames", None, "1/s", "give a run: --run RUN [--scene NAME]")]
    run = load_run(path, "cuda")
    name = scene or run.names[0]
    rows = []
    for size in ((128, 128), (800, 800)):
        with torch.autocast("cuda", torch.float16):
            bound = run.bind(name)
            cameras = orbit_cameras(run, 30, size)
            for camera in cameras[:5]:
                render_picture(bound, camera, size)
            torch.cuda.synchronize()
            began = time.perf_counter()
            for camera in cameras:
                render_picture(bound, camera, size)
            torch.cuda.synchronize()
        rate = len(cameras) / (time.perf_counter() - began)
        rows.append(Row(section, f"{name} at {size[0]}x{size[1]}, bound before", rate, "frames/s"))
    return rows


def table(rows: list[Row]) -> str:
    lines, section = [], ""
    for row in rows:
        if row.section != section:
            section = row.section
            lines.append(f"\n{section}")
        value = "not measured" if row.value is None else f"{row.value:,.3f} {row.unit}"
        lines.append(f"    {row.what:<44} {value:>20}   {row.note}".rstrip())
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="default %(default)s")
    parser.add_argument("--out", type=Path, default=Path("bench_gpu.json"), help="JSON file, default %(default)s")
    parser.add_argument("--run", type=Path, help="a run of views to render")
    parser.add_argument("--scene", help="default: the first of the run")
    options = parser.parse_args(arguments)
    try:
        device = usable_device(options.device)
        if device.type != "cuda":
            raise InputError(f"--device {options.device}: this measures CUDA devices; without --device: the cpu")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    torch.cuda.set_device(device)
    began = time.monotonic()
    card = f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {ops_version('triton')}"
    print(card)
    rows: list[Row] = []
    sections: dict[str, Callable[[], list[Row]]] = {
        "ceilings": ceilings,
        "networks": networks,
        "grids": grids,
        "fitting step": steps,
        "rendering": lambda: frames(options.run, options.scene),
    }
    for name, section in sections.items():
        if time.monotonic() - began > MOST_SECONDS:
            rows.append(Row(name, name, None, "", "left out: no time left"))
            continue
        try:
            found = section()
        except Exception as error:
            found = [Row(name, name, None, "", reason(error))]
            torch.cuda.empty_cache()
        rows += found
        print(table(found), flush=True)
        # After each section, so that nothing is lost.
        content = {"card": card, "seconds": time.monotonic() - began, "rows": [row._asdict() for row in rows]}
        options.out.write_text(json.dumps(content, indent=1) + "\n")
    print(f"\nwrote {options.out} after {time.monotonic() - began:.0f} s")
    return 0


def ops_version(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


if __name__ == "__main__":
    sys.exit(main())
