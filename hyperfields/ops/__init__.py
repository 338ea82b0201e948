"""The numerical operations, and the only place that knows that backends exist: validate, choose, call.

Points come either as one block a scene, `x [s n d]`, or packed, `x [m d]` sorted by scene with `counts [s]`
(int64, on the CPU or where x is). Both give what a loop over scenes gives, to rounding. Counts on another device than
the CPU may add up to less than m: the last points then belong to nobody, and what comes out for them means nothing.
`backend="auto"` takes triton for CUDA tensors and cpu for CPU tensors where they can run the call, else the reference;
tcnn only runs when asked for. A backend asked for by name that cannot run raises and says why. The kernels are
differentiable once; within `twice_differentiable()` auto takes the reference wherever a gradient may be asked for.

Under `torch.autocast("cuda")` matrix products of the triton kernels take 16-bit inputs and add up in float32; tensors
in and out stay float32. With float16, cotangents are bfloat16: their range needs no loss scaling.
"""

from __future__ import annotations

from hyperfields.ops.dispatch import Activation, Backend, backends, interpreting, twice_differentiable
from hyperfields.ops.grid import GridSpec
from hyperfields.ops.points import batched_mlp, combine_bases, encode_mlp, hash_encode, radiance_head, truncated_exp
from hyperfields.ops.rays import (
    Composited,
    PaddedSamples,
    Samples,
    VisibleSamples,
    composite,
    early_termination,
    gather_samples,
    ray_march,
    ray_march_padded,
    visible_samples,
)

__all__ = [
    "Activation",
    "Backend",
    "Composited",
    "GridSpec",
    "PaddedSamples",
    "Samples",
    "VisibleSamples",
    "backends",
    "batched_mlp",
    "combine_bases",
    "composite",
    "early_termination",
    "encode_mlp",
    "gather_samples",
    "hash_encode",
    "interpreting",
    "radiance_head",
    "ray_march",
    "ray_march_padded",
    "truncated_exp",
    "twice_differentiable",
    "visible_samples",
]
