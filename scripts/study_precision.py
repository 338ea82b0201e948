"""Quality of fits in mixed precision, on a CPU that rounds as the GPU's kernels do.

    python scripts/study_precision.py emoji [--steps 400] [--limit 16] [--size 48x48] [--seeds 0,1]

Fits one of the sample families in float32 and with the products of `--precision mixed`, from the same seeds, and
measures both. Before every matrix product of a generated MLP its inputs are rounded to float16 forward, and to bfloat16
backward, where the activations are computed again; products add up in float32.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from hyperfields import ops
from hyperfields.data import SceneDataset
from hyperfields.evaluation.report import evaluate
from hyperfields.ops import encode
from hyperfields.ops.reference import mlp as reference
from hyperfields.scenes import open_family
from hyperfields.tasks import task_of
from hyperfields.training.fit import fit

SAMPLES = Path(__file__).resolve().parents[1] / "scenes/samples"
Layers = list[tuple[Tensor, Tensor | None]]
exact = ops.batched_mlp


class Rounded(torch.autograd.Function):
    """Input of a product, rounded; its gradient passes."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, dtype: torch.dtype) -> Tensor:
        return value.to(dtype).float()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad, None


class Pulled(torch.autograd.Function):
    """Output of a product; its gradient goes into the products of the backward pass, and is rounded."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad.bfloat16().float()


def rounded(h: Tensor, layers: Layers, activation: str, counts: Tensor | None, dtype: torch.dtype) -> Tensor:
    for number, (weight, bias) in enumerate(layers):
        inputs = Rounded.apply(h, dtype), Rounded.apply(weight, dtype)  # type: ignore[no-untyped-call]
        h = Pulled.apply(exact(inputs[0], [(inputs[1], None)], counts=counts))  # type: ignore[no-untyped-call]
        if bias is not None:
            h = h + (bias[:, None] if counts is None else bias.repeat_interleave(counts, 0))
        h = reference.ACTIVATIONS[activation](h) if number + 1 < len(layers) else h
    return h


def mixed(x: Tensor, layers: Layers, activation: str = "relu", *, counts: Tensor | None = None, **_: Any) -> Tensor:
    """`ops.batched_mlp` with the products of mixed precision: values of one chain, gradients of the other."""
    with torch.no_grad():
        value = rounded(x, layers, activation, counts, torch.float16)
    if not torch.is_grad_enabled():
        return value
    slope = rounded(x, layers, activation, counts, torch.bfloat16)
    return slope + (value - slope).detach()


def quality(data: SceneDataset, steps: int, seed: int, emulated: bool) -> dict[str, float]:
    batched_mlp = mixed if emulated else exact
    with (
        mock.patch.object(ops, "batched_mlp", batched_mlp),
        mock.patch.object(encode, "batched_mlp", batched_mlp),
        # The colour network has a kernel of its own; its reference calls this.
        mock.patch.object(ops, "radiance_head", functools.partial(ops.radiance_head, backend="reference")),
        mock.patch.object(
            reference, "batched_mlp", lambda x, layers, act, counts: batched_mlp(x, layers, act, counts=counts)
        ),
    ):
        run = fit(data, steps=steps, seed=seed, progress=False)
    mean: dict[str, float] = evaluate(run, data)["mean"]
    return mean


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("family", choices=sorted(p.name for p in SAMPLES.iterdir()))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--size", type=lambda text: tuple(map(int, text.split("x"))))
    parser.add_argument("--seeds", default="0,1", help="default %(default)s")
    asked = parser.parse_args()
    family = open_family(SAMPLES / asked.family, limit=asked.limit, size=asked.size)
    name = task_of(family.kind).metrics[0].name
    for seed in map(int, asked.seeds.split(",")):
        one, other = (quality(family, asked.steps, seed, emulated)[name] for emulated in (False, True))
        print(
            f"{asked.family}, seed {seed}: {name} {one:.4g} in float32, {other:.4g} mixed, {other - one:+.3g}",
            flush=True,
        )


if __name__ == "__main__":
    main()
