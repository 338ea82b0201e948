"""Speed on a GPU, all in one command: `python scripts/bench.py --device cuda [--out FILE.json] [--run RUN]`.

Kernels beside the usual formulations, beside tinycudann where it is installed, and beside what the card can do at most,
measured in the same run; a whole fitting step from 1 to 1,024 scenes; a fit of views by the clock, and frames a second
of it. Each section runs in a process of its own: one that breaks the card's context, hangs or has too little memory
says so, and the others go on. Prints a table and writes JSON, row by row.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from hyperfields import ops
from hyperfields.data import Images
from hyperfields.errors import InputError
from hyperfields.evaluation.report import evaluate
from hyperfields.fields import ImageField
from hyperfields.fields.encodings import FactoredGrid
from hyperfields.hypernets import Hierarchical
from hyperfields.model import HyperField, ModelConfig, parameter_groups
from hyperfields.ops.devices import Precision, products, usable_device
from hyperfields.runs.cameras import orbit_cameras
from hyperfields.runs.run import load_run
from hyperfields.scenes import open_family
from hyperfields.tasks import Objective, TrainConfig, render_picture, task_of
from hyperfields.training.cuda_graphs import WARMUP_CALLS, Graphs
from hyperfields.training.fit import fit
from hyperfields.training.regularizers import GaussianPrior
from hyperfields.training.step import StaticStep
from hyperfields.training.trainer import Fields, Progress, Trainer

DEVICE = "cuda"
SCENES, POINTS, SIZES = 256, 4096, (32, 64, 64, 16)
GRID = ops.GridSpec.make(3, 16, 2, 14, 16, 1.3819)
MOST_SECONDS = 285.0  # of all sections: one that is not done by then is stopped
FIT_SECONDS = 20.0
SAMPLES = Path(__file__).parents[1] / "scenes" / "samples" / "cars_views"
STEP_SCENES, STEP_POINTS = (1, 4, 16, 64, 256, 1024), 2**18
FRAMES, WARM, FRAME_SIZES = 30, 5, ((128, 128), (800, 800))
SECTIONS = ("ceilings", "networks", "grids", "views", "rendering", "step")
MARK = "row "  # begins a line of a section's process that is a row

# Names of rows that the bars are made of.
OURS, BMM, LOOP = "triton, mixed", "torch.baddbmm, bfloat16", "loop over tinycudann (no biases)"
SINGLE, COPY = "one network of tinycudann (no biases)", "copy, read and written"
TABLES, TCNN_TABLE, MOVED = "triton, a table a scene", "tinycudann, one table", "bytes that corners and columns move"
PSNR, STEP = "mean psnr of the test views", f"fitting step, {STEP_POINTS} points"


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
    times: list[float] = []
    for _ in range(rounds):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def replayed(call: Callable[[], object]) -> Callable[[], object]:
    """The same from a CUDA graph, as in a fit: what the card does, without what Python does before."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def both_ways(forward: Callable[[], Tensor], inputs: list[Tensor]) -> Callable[[], object]:
    """Forward and the gradients of all inputs."""
    cotangent = torch.randn_like(forward())
    return lambda: torch.autograd.grad(forward(), inputs, cotangent)


def mixed(forward: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def call() -> Tensor:
        with torch.autocast("cuda", torch.float16):
            return forward()

    return call


def attempt(section: str, what: str, measured: Callable[[], float]) -> Row:
    """Milliseconds, or why there are none; what was in the way on the card is free again afterwards."""
    try:
        return Row(section, what, measured(), "ms")
    except Exception as error:
        return Row(section, what, None, "ms", reason(error))


def beside(section: str, calls: dict[str, Callable[[], Callable[[], object]]], own: str) -> Iterator[Row]:
    """Each call's time, and how many times as long as `own` it takes; one that cannot run says why."""
    mine = math.nan
    for name, make in calls.items():
        row = attempt(section, name, lambda make=make: milliseconds(make()))  # type: ignore[misc]
        if row.value is None:
            torch.cuda.empty_cache()
        elif name == own:
            mine = row.value
        elif not math.isnan(mine):
            row = row._replace(note=f"{row.value / mine:.2f} x the time of {own}")
        yield row


def reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:160]


def ceilings() -> Iterator[Row]:
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        a, b = (torch.randn(8192, 8192, device=DEVICE, dtype=dtype) for _ in range(2))
        time_of = milliseconds(lambda a=a, b=b: a @ b, 10)  # type: ignore[misc]
        yield Row("ceilings", f"matrix product, {dtype}", 2 * 8192**3 / time_of / 1e9, "TFLOP/s")
    source = torch.empty(2**28, device=DEVICE)
    target = torch.empty_like(source)
    time_of = milliseconds(lambda: target.copy_(source), 10)
    yield Row("ceilings", COPY, 2 * 2**30 / time_of / 1e6, "GB/s")


def networks() -> Iterator[Row]:
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
    layers_half: list[tuple[Tensor, Tensor | None]] = list(zip(half[1::2], half[2::2], strict=True))

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

    def ours_half() -> Tensor:
        return ops.batched_mlp(half[0], layers_half, "relu", backend="triton")

    calls: dict[str, Callable[[], Callable[[], object]]] = {
        OURS: lambda: both_ways(mixed(ours), inputs),
        f"{OURS}, replayed": lambda: replayed(both_ways(mixed(ours), inputs)),
        "triton, bfloat16 tensors": lambda: both_ways(ours_half, half),
        "triton, bfloat16 tensors, replayed": lambda: replayed(both_ways(ours_half, half)),
        "triton, float32": lambda: both_ways(ours, inputs),
        BMM: lambda: both_ways(lambda: bmm(*half), half),
        f"{BMM}, replayed": lambda: replayed(both_ways(lambda: bmm(*half), half)),
        "torch.baddbmm, float32": lambda: both_ways(lambda: bmm(*inputs), inputs),
        "torch.compile of it, bfloat16": lambda: both_ways(lambda: compiled(*half), half),
        LOOP: lambda: both_ways(loop, weights),
        SINGLE: lambda: both_ways(single, [one, *(w for w, _ in first)]),
        "forward alone, triton, mixed": lambda: mixed(lambda: ours().detach()),
    }
    section = f"networks, {SCENES} x {POINTS} points, {'-'.join(map(str, SIZES))}, both ways"
    for row in beside(section, calls, OURS):
        yield row
        if row.what == OURS and row.value is not None:
            products = 3 * 2 * SCENES * POINTS * sum(i * o for i, o in itertools.pairwise(SIZES))
            yield Row(section, "rate of triton, mixed", products / row.value / 1e9, "TFLOP/s")


def grids() -> Iterator[Row]:
    x = torch.rand(SCENES, POINTS, 3, device=DEVICE)
    table = torch.randn(SCENES, GRID.rows, 2, device=DEVICE, requires_grad=True)
    shared = torch.randn(1, GRID.rows, 2, device=DEVICE, requires_grad=True)

    def encode(entries: Tensor, backend: ops.Backend) -> Callable[[], Callable[[], object]]:
        return lambda: both_ways(lambda: ops.hash_encode(x, entries, GRID, backend=backend), [entries])

    one = x.reshape(1, -1, 3)
    calls = {
        TABLES: encode(table, "triton"),
        f"{TABLES}, replayed": lambda: replayed(encode(table, "triton")()),
        "triton, one table": encode(shared, "triton"),
        "reference, one table": encode(shared, "reference"),
        TCNN_TABLE: lambda: both_ways(lambda: ops.hash_encode(one, shared, GRID, backend="tcnn"), [shared]),
    }
    section = f"grids, {SCENES} tables of {GRID.rows} rows, both ways"
    for row in beside(section, calls, TABLES):
        yield row
        if row.what == TABLES and row.value is not None:
            moved = SCENES * POINTS * GRID.channels * 4 * (2 + 3 * 8)  # columns, and corners: read; read and written
            yield Row(section, MOVED, moved / row.value / 1e6, "GB/s")


def steps() -> Iterator[Row]:
    """A whole fitting step on pictures, the same points over ever more scenes: replayed from a graph, and called."""
    field = ImageField(FactoredGrid(2, 6, 2, 12, 5, 64, bases=15))
    pictures = Images(torch.rand(STEP_SCENES[-1], 64, 64, 3))
    precisions: tuple[Precision, ...] = ("mixed", "float32")
    for precision, graphs in itertools.product(precisions, (True, False)):
        base = math.nan
        for scenes in STEP_SCENES if graphs else (STEP_SCENES[0], STEP_SCENES[-1]):
            what = f"{scenes} scenes, {precision}, {'graph' if graphs else 'eager'}"

            def time_of(scenes: int = scenes, precision: Precision = precision, graphs: bool = graphs) -> float:
                model = HyperField(ModelConfig(field, Hierarchical(24), 96), STEP_SCENES[-1], sparse=True).to(DEVICE)
                recipe = TrainConfig(scenes, STEP_POINTS)
                # Few scenes have fewer pixels than the points of a step: the same pixels come several times.
                objective = task_of(Again(pictures).kind).objective(
                    Again(pictures), field, recipe, STEP_SCENES[-1], device=DEVICE, precision=precision
                )
                return step_time(trainer_of(model, objective, recipe, graphs), graphs)

            row = attempt(STEP, what, time_of)
            if row.value is None:
                torch.cuda.empty_cache()
            else:
                base = row.value if scenes == STEP_SCENES[0] else base
                row = row._replace(note=f"{row.value / base:.2f} x the time of {STEP_SCENES[0]} scene")
            yield row


def trainer_of(model: HyperField, objective: Objective, recipe: TrainConfig, graphs: bool) -> Trainer:
    """A trainer of all scenes of a model, as `fit` makes it."""

    def bind(local: Tensor, generator: torch.Generator) -> Fields:
        codes = model.latents(local)
        return Fields(model.bind(codes), codes)

    every, prior = torch.arange(STEP_SCENES[-1]), GaussianPrior(recipe.prior)
    recorded = Graphs(torch.device(DEVICE)) if graphs else None
    groups = parameter_groups(model)
    return Trainer(bind, groups, objective, every, recipe, 0, regularizers=[prior], graphs=recorded)


def step_time(trainer: Trainer, graphs: bool) -> float:
    """Milliseconds of a steady step.

    Raises:
        RuntimeError: it was to be replayed from a graph, and cannot.
    """
    progress = Progress()
    for _ in range(WARMUP_CALLS + 2):
        trainer.step(progress)
    recorded = trainer.execute.graphs if isinstance(trainer.execute, StaticStep) else None
    if graphs and recorded is not None and recorded.reason:
        raise RuntimeError(recorded.reason)
    return milliseconds(lambda: trainer.step(progress))


class Again(Images):
    """Pictures whose pixels are always drawn with replacement, however many are asked for."""

    def __init__(self, pictures: Images) -> None:
        self.__dict__.update(pictures.__dict__)

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator):  # type: ignore[no-untyped-def]
        count = self.height * self.width
        parts = [super(Again, self).batch(scenes, min(n, count - 1), generator) for _ in range(-(-n // (count - 1)))]
        points = (torch.cat(pieces, 1)[:, :n].contiguous() for pieces in zip(*parts, strict=True))
        return type(parts[0])(*points)


def views(folder: Path, run: Path) -> Iterator[Row]:
    """A fit of `folder` by the clock into `run`, and how good it is on its test views."""
    family = open_family(folder)
    section = f"views, {len(family.names)} scenes of {folder.name}, {FIT_SECONDS:.0f} seconds of fitting, mixed"
    fit(family, run, minutes=FIT_SECONDS / 60.0, device=DEVICE, precision="mixed", progress=False)
    steps = json.loads((run / "summary.json").read_text())["steps"]
    yield Row(section, "steps", steps, "steps")
    scenes = evaluate(load_run(run, DEVICE), family)["scenes"]
    values = [scene["psnr"] for scene in scenes.values()]
    yield Row(section, PSNR, statistics.mean(values), "dB", f"worst {min(values):.2f}")


def frames(path: Path, scene: str | None) -> Iterator[Row]:
    run = load_run(path, DEVICE)
    name = scene or run.names[0]
    for size, precision in itertools.product(FRAME_SIZES, ("mixed", "float32")):
        bound, cameras = run.bind(name), orbit_cameras(run, FRAMES + WARM, size)
        with products(precision, torch.device(DEVICE)):  # type: ignore[arg-type]
            for camera in cameras[:WARM]:
                render_picture(bound, camera, size)
            torch.cuda.synchronize()
            began = time.perf_counter()
            for camera in cameras[WARM:]:
                render_picture(bound, camera, size)
            torch.cuda.synchronize()
        rate = FRAMES / (time.perf_counter() - began)
        yield Row("rendering", f"{size[0]}x{size[1]}, {precision}", rate, "frames/s", f"{name}, bound before")


def bars(rows: list[Row]) -> Iterator[Row]:
    """Lines that compare the rows with the bars of NUMBERS.md."""

    def value(what: str) -> float:
        return next((row.value for row in rows if row.what == what and row.value is not None), math.nan)

    most = STEP_SCENES[-1]
    ratios = {
        "1 loop over tinycudann, times our time": (value(LOOP) / value(OURS), "at least 10"),
        "2 torch.baddbmm in bfloat16, times our time": (value(BMM) / value(OURS), "at least 4"),
        "3 one network of tinycudann, times our time": (value(SINGLE) / value(OURS), "at least 0.8"),
        "4 encoding, of the copied bandwidth": (value(MOVED) / value(COPY), "at least 0.8, or"),
        "4 one table of tinycudann, times our time": (value(TCNN_TABLE) / value(TABLES), "at least 0.8"),
        f"5 test views after {FIT_SECONDS:.0f} s": (value(PSNR), "at least 34, cars_views of 32 scenes at 128x128"),
        "6 frames a second at 800x800": (value("800x800, mixed"), "at least 60"),
        f"7 a step at {most} scenes, times that at 1": (
            value(f"{most} scenes, mixed, graph") / value(f"{STEP_SCENES[0]} scenes, mixed, graph"),
            "at most 1.3",
        ),
    }
    for what, (number, bar) in ratios.items():
        yield Row("bars of NUMBERS.md", what, None if math.isnan(number) else number, "", bar)


def line(row: Row) -> str:
    value = "not measured" if row.value is None else f"{row.value:,.3f} {row.unit}"
    return f"    {row.what:<44} {value:>20}   {row.note}".rstrip()


def measure(section: str, options: argparse.Namespace) -> Iterator[Row]:
    """One section, in this process."""
    if section == "views":
        return views(options.views, options.run)
    if section == "rendering":
        return frames(options.run, options.scene)
    return {"ceilings": ceilings, "networks": networks, "grids": grids, "step": steps}[section]()


def apart(section: str, options: argparse.Namespace, seconds: float) -> Iterator[Row]:
    """One section in a process of its own, row by row as they come; at most `seconds`."""
    command = [sys.executable, __file__, "--section", section, "--device", options.device, "--run", str(options.run)]
    command += ["--views", str(options.views), *(["--scene", options.scene] if options.scene else [])]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as child,
    ):
        assert child.stdout is not None
        clock = threading.Timer(max(seconds, 0.0), child.kill)
        clock.start()
        for text in child.stdout:
            if text.startswith(MARK):
                yield Row(**json.loads(text.removeprefix(MARK)))
        code, late = child.wait(), not clock.is_alive()
        clock.cancel()
        errors.seek(0)
        last = [text for text in errors.read().splitlines() if text.strip()][-1:]
        if code:
            why = "stopped: no time left" if late else f"ended with {code}: {''.join(last)}"[:200]
            yield Row(section, "the rest of this section", None, "", why)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="default %(default)s")
    parser.add_argument("--out", type=Path, default=Path("bench_gpu.json"), help="JSON file, default %(default)s")
    parser.add_argument("--views", type=Path, default=SAMPLES, help="views to fit, default: the samples")
    parser.add_argument("--run", type=Path, help="a run of views to render, instead of fitting one")
    parser.add_argument("--scene", help="default: the first of the run")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        device = usable_device(options.device)
        if device.type != "cuda":
            raise InputError(f"--device {options.device}: this measures CUDA devices; without --device: the cpu")
        for folder in (options.views, options.run):
            # The run that a section fits for another is not there yet.
            if options.section is None and folder is not None and not folder.is_dir():
                raise InputError(f"{folder}: no such folder")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    torch.cuda.set_device(device.index or 0)
    if options.section:
        for row in measure(options.section, options):
            print(MARK + json.dumps(row._asdict()), flush=True)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        left_out = {"views"} if options.run else set()
        options.run = options.run or Path(folder) / "run"
        write_all([name for name in SECTIONS if name not in left_out], options)
    return 0


def write_all(sections: list[str], options: argparse.Namespace) -> None:
    """Measure the sections, print their rows and write them as they come, so that nothing is lost."""
    began = time.monotonic()
    card = f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {ops_version('triton')}"
    print(card)
    rows: list[Row] = []

    def note(measured: Iterator[Row]) -> None:
        for row in measured:
            if not rows or row.section != rows[-1].section:
                print(f"\n{row.section}")
            print(line(row), flush=True)
            rows.append(row)
            content = {"card": card, "seconds": time.monotonic() - began, "rows": [row._asdict() for row in rows]}
            options.out.write_text(json.dumps(content, indent=1) + "\n")

    for section in sections:
        note(apart(section, options, MOST_SECONDS - (time.monotonic() - began)))
    note(bars(rows))
    print(f"\nwrote {options.out} after {time.monotonic() - began:.0f} s")


def ops_version(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


if __name__ == "__main__":
    sys.exit(main())
