"""A whole fitting step of views, beside the same step in plain torch. See `bench.py fit`."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from hyperfields.ops import dispatch
from hyperfields.ops.profiling import Profiler
from hyperfields.ops.reference import mlp as reference
from hyperfields.ops.threads import kernel_threads, one_torch_thread
from hyperfields.runs.config import FitSettings
from hyperfields.scenes import open_family
from hyperfields.training.fit import Fit
from hyperfields.training.trainer import Progress, Trainer

WARM_UP = 200  # steps after which most of the empty space is known
# With ", backward" these are names of stages.
OPS = ("hash_encode", "batched_mlp", "composite")
FUSED = ("visible_samples", "radiance_head")  # march, encoding, network and opacity in one kernel; network and ends


def padded_vmap(x: Tensor, layers: list[tuple[Tensor, Tensor]], activation: str, counts: Tensor) -> Tensor:
    """Generated MLPs as they are usually run: one module, `vmap(functional_call)` over the scenes' weights."""
    assert activation == "leaky_relu"
    sizes = [x.shape[1], *(weight.shape[1] for weight, _ in layers)]
    parts = [p for i, o in itertools.pairwise(sizes) for p in (nn.Linear(i, o), nn.LeakyReLU(reference.NEGATIVE_SLOPE))]
    module = nn.Sequential(*parts[:-1])
    names = [name for name, _ in module.named_parameters()]
    weights = dict(zip(names, (t for layer in layers for t in layer), strict=True))
    rows = nn.utils.rnn.pad_sequence(list(x.split(counts.tolist())), batch_first=True)
    y: Any = torch.func.vmap(lambda w, p: torch.func.functional_call(module, w, (p,)))(weights, rows)
    return torch.cat([y[scene, :count] for scene, count in enumerate(counts.tolist())])


@contextlib.contextmanager
def plain_torch() -> Iterator[None]:
    """Within it, every op runs as its reference, and generated MLPs through `vmap(functional_call)`."""
    with (
        mock.patch.object(dispatch, "select", return_value="reference"),
        mock.patch.object(reference, "batched_mlp", padded_vmap),
    ):
        yield


def seconds_a_step(trainer: Trainer, steps: int) -> float:
    progress = Progress(step=trainer.steps)
    began = time.perf_counter()
    for _ in range(steps):
        trainer.step(progress)
    return (time.perf_counter() - began) / steps


def fit_step(
    folder: Path, limit: int | None, size: tuple[int, int] | None, steps: int, warm_up: int, plain: bool
) -> dict[str, Any]:
    """Fit a while, then time some steps, profile some, and time a few in plain torch."""
    family = open_family(folder, limit=limit, size=size)
    trainer = Fit(family, None, FitSettings(steps=warm_up + 1000)).trainer
    assert isinstance(trainer, Trainer)
    with one_torch_thread():  # as in a fit: the kernels have the cores
        trainer.warm_up()
        seconds_a_step(trainer, warm_up)
        seconds = seconds_a_step(trainer, steps)
        samples = trainer.config.samples
        stages, profiled = profile(trainer, steps)

        def share(names: tuple[str, ...]) -> float:
            return sum(value for name, value in stages.items() if name.split(",")[0] in names) / profiled

        result: dict[str, Any] = {
            "family": folder.name,
            "scenes": len(family.names),
            "samples_a_step": samples,
            "threads": kernel_threads(),
            "milliseconds_a_step": 1e3 * seconds,
            "samples_a_second": samples / seconds,
            "share_inside_three_ops": share(OPS),
            "share_with_fused": share(OPS + FUSED),
            "share_with_mix": share((*OPS, *FUSED, "combine_bases")),
            "stages_milliseconds": stages,
            "milliseconds_a_profiled_step": profiled,
        }
    if plain:
        with plain_torch():
            seconds_a_step(trainer, 1)
            slow = seconds_a_step(trainer, 3)
        with one_torch_thread():
            again = seconds_a_step(trainer, steps)  # in turns, since machines are noisy
        result["plain_torch_milliseconds_a_step"] = 1e3 * slow
        result["times_as_fast_as_plain_torch"] = slow / min(seconds, again)
    return result


def profile(trainer: Trainer, steps: int) -> tuple[dict[str, float], float]:
    """(milliseconds of each stage of a step without those within it, largest first; those of the whole)."""
    with Profiler() as watch:
        whole = seconds_a_step(trainer, steps)
    own = {name: 1e3 * value / steps for name, value in watch.seconds.items()}
    return dict(sorted(own.items(), key=lambda item: -item[1])), 1e3 * whole


def print_fit(result: dict[str, Any], stages: bool) -> None:
    print(
        f"{result['family']}, {result['scenes']} scenes, {result['samples_a_step']} samples a step, "
        f"{result['threads']} threads: {result['milliseconds_a_step']:.1f} ms a step, "
        f"{result['samples_a_second'] / 1e6:.2f} million samples a second"
    )
    print(
        f"    {100 * result['share_inside_three_ops']:.1f} % of it inside hash_encode, batched_mlp and composite, "
        f"{100 * result['share_with_fused']:.1f} % with {' and '.join(FUSED)}, which are made of them, "
        f"{100 * result['share_with_mix']:.1f} % with combine_bases"
    )
    if "times_as_fast_as_plain_torch" in result:
        print(
            f"    {result['times_as_fast_as_plain_torch']:.1f} times as fast as the same step in plain torch "
            f"({result['plain_torch_milliseconds_a_step']:.0f} ms)"
        )
    if stages:
        whole = result["milliseconds_a_profiled_step"]
        rest = whole - sum(result["stages_milliseconds"].values())
        print(f"where a profiled step of {whole:.1f} ms goes (each without what is listed on its own):")
        for name, value in [*result["stages_milliseconds"].items(), ("everything else", rest)]:
            print(f"    {value:8.2f} ms {100 * value / whole:5.1f} %  {name}")
