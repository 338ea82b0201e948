"""A whole fitting step of views, beside the same step in plain torch. See `bench.py fit`."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from hyperfields.ops import dispatch
from hyperfields.ops.profiling import Profiler
from hyperfields.ops.reference import mlp as reference
from hyperfields.scenes import open_family

# Before torch, whose idle threads the package tells to sleep.
from hyperfields.training.fit import Fit, FitConfig

# isort: split
import torch
from torch import Tensor, nn

WARM_UP = 200  # steps after which most of the empty space is known
# With ", backward" these are names of stages.
OPS = ("hash_encode", "batched_mlp", "composite")
FUSED = (
    "visible_samples",
    "radiance_head",
)  # march, encoding, network and opacity in one kernel; network and what is round it


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


def seconds_a_step(fit: Fit, steps: int) -> float:
    began = time.perf_counter()
    for _ in range(steps):
        fit.optimization.step(fit.progress)
    return (time.perf_counter() - began) / steps


def fit_step(
    folder: Path, limit: int | None, size: tuple[int, int] | None, steps: int, warm_up: int, plain: bool
) -> dict[str, Any]:
    """Fit a while, then time some steps, profile some, and time a few in plain torch."""
    family = open_family(folder, limit=limit, size=size)
    with tempfile.TemporaryDirectory() as out:
        fit = Fit(family, Path(out) / "run", FitConfig(steps=warm_up + 1000))
        fit.optimization.rehearse()
        seconds_a_step(fit, warm_up)
        seconds = seconds_a_step(fit, steps)
        samples = fit.recipe.samples
        stages, profiled = profile(fit, steps)

        def share(names: tuple[str, ...]) -> float:
            return sum(value for name, value in stages.items() if name.split(",")[0] in names) / profiled

        found: dict[str, Any] = {
            "family": folder.name,
            "scenes": len(family.names),
            "samples_a_step": samples,
            "threads": torch.get_num_threads(),
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
                seconds_a_step(fit, 1)
                slow = seconds_a_step(fit, 3)
            again = seconds_a_step(fit, steps)  # in turns, since machines are noisy
            found["plain_torch_milliseconds_a_step"] = 1e3 * slow
            found["times_as_fast_as_plain_torch"] = slow / min(seconds, again)
    return found


def profile(fit: Fit, steps: int) -> tuple[dict[str, float], float]:
    """(milliseconds of each stage of a step without those within it, largest first; those of the whole)."""
    with Profiler() as watch:
        whole = seconds_a_step(fit, steps)
    own = {name: 1e3 * value / steps for name, value in watch.seconds.items()}
    return dict(sorted(own.items(), key=lambda item: -item[1])), 1e3 * whole


def print_fit(found: dict[str, Any], stages: bool) -> None:
    print(
        f"{found['family']}, {found['scenes']} scenes, {found['samples_a_step']} samples a step, "
        f"{found['threads']} threads: {found['milliseconds_a_step']:.1f} ms a step, "
        f"{found['samples_a_second'] / 1e6:.2f} million samples a second"
    )
    print(
        f"    {100 * found['share_inside_three_ops']:.1f} % of it inside hash_encode, batched_mlp and composite, "
        f"{100 * found['share_with_fused']:.1f} % with {' and '.join(FUSED)}, which are made of them, "
        f"{100 * found['share_with_mix']:.1f} % with mix"
    )
    if "times_as_fast_as_plain_torch" in found:
        print(
            f"    {found['times_as_fast_as_plain_torch']:.1f} times as fast as the same step in plain torch "
            f"({found['plain_torch_milliseconds_a_step']:.0f} ms)"
        )
    if stages:
        whole = found["milliseconds_a_profiled_step"]
        rest = whole - sum(found["stages_milliseconds"].values())
        print(f"where a profiled step of {whole:.1f} ms goes (each without what is listed on its own):")
        for name, value in [*found["stages_milliseconds"].items(), ("everything else", rest)]:
            print(f"    {value:8.2f} ms {100 * value / whole:5.1f} %  {name}")
