"""The numerical operations. This room alone knows that backends exist: an op validates, selects one, and calls it.

What lives here: one module for each family of ops (encode, error, mlp, radiance, basis, heads, march, composite,
visibility), their definitions under the same names in `reference/`, kernels in `_cpu/` (numba) and `_triton/`,
tinycudann in `_tcnn.py`, and what all of them need: `dispatch`, `grid`, `spherical_harmonics`, `profiling`, `devices`.
May import: `errors`.
To add an op, write its definition in `reference/`, its signature, checks and selection in a module here, a test of
the definition by other means and of the op against it (tests/ops/_parity.py), and then kernels where they pay.

Points come either as one block a scene, `x [s n d]`, or packed, `x [m d]` sorted by scene with `counts [s]`
(int64, on the CPU or where x is). Both give what a loop over scenes gives, to rounding. Counts on another device than
the CPU may add up to less than m: the last points then belong to nobody, and what comes out for them means nothing.
`backend="auto"` takes triton for CUDA tensors and cpu for CPU tensors where they can run the call, else the reference;
tcnn only runs when asked for. A backend asked for by name that cannot run raises and says why. The kernels are
differentiable once; within `twice_differentiable()` auto takes the reference wherever a gradient may be asked for. A
derivative that an op does not have raises, and is never zero or lost.

Under `torch.autocast("cuda")` matrix products of the triton kernels take 16-bit inputs and add up in float32; tensors
in and out stay float32. With float16, cotangents are bfloat16: their range needs no loss scaling.
"""

from __future__ import annotations

from hyperfields.ops.basis import combine_bases
from hyperfields.ops.composite import Composited, composite
from hyperfields.ops.dispatch import Activation, Backend, backends, interpreting, twice_differentiable
from hyperfields.ops.distortion import distortion
from hyperfields.ops.encode import encode_mlp, hash_encode
from hyperfields.ops.error import encode_mlp_error, pixel_error, rendered_error
from hyperfields.ops.grid import GridSpec
from hyperfields.ops.heads import linear_heads
from hyperfields.ops.march import PaddedSamples, Samples, gather_samples, ray_march, ray_march_padded
from hyperfields.ops.mlp import batched_mlp
from hyperfields.ops.radiance import radiance_head, truncated_exp
from hyperfields.ops.space import BOX, Box, Contracted, Space
from hyperfields.ops.visibility import VisibleSamples, early_termination, visible_samples

__all__ = [
    "BOX",
    "Activation",
    "Backend",
    "Box",
    "Composited",
    "Contracted",
    "GridSpec",
    "PaddedSamples",
    "Samples",
    "Space",
    "VisibleSamples",
    "backends",
    "batched_mlp",
    "combine_bases",
    "composite",
    "distortion",
    "early_termination",
    "encode_mlp",
    "encode_mlp_error",
    "gather_samples",
    "hash_encode",
    "interpreting",
    "linear_heads",
    "pixel_error",
    "radiance_head",
    "ray_march",
    "ray_march_padded",
    "rendered_error",
    "truncated_exp",
    "twice_differentiable",
    "visible_samples",
]
