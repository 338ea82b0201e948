"""GPU kernels (triton), registered as torch operators with first derivatives.

One launch serves all scenes: programs find the scene of their points from counts on the device. A second derivative is
refused: the backward operators have no autograd formula, so torch raises and names them. No kernel is tuned at run
time: sizes of tiles follow from the widths, so what is tested is what runs.
"""

from __future__ import annotations

from hyperfields.ops._triton.encode import encode_mlp_triton, hash_encode_triton
from hyperfields.ops._triton.mlp import Plan, mlp_triton
from hyperfields.ops._triton.rays import (
    composite_triton,
    early_termination_triton,
    gather_samples_triton,
    ray_march_padded_triton,
    ray_march_triton,
)

__all__ = [
    "Plan",
    "composite_triton",
    "early_termination_triton",
    "encode_mlp_triton",
    "gather_samples_triton",
    "hash_encode_triton",
    "mlp_triton",
    "ray_march_padded_triton",
    "ray_march_triton",
]
