"""Compiled CPU kernels (numba), registered as torch operators with first derivatives.

Layout of the work: an op is cut into tasks, which run on a small thread pool (kernels release the GIL), and no two
tasks write the same memory. Each number is computed by one task in one order, however many tasks there are: results
are the same at any number of threads, and no second OpenMP pool fights with torch's.

A second derivative is refused: the backward operators have no autograd formula, so torch raises and names them.
"""

from hyperfields.ops._cpu.adam import adam_cpu as adam_cpu
from hyperfields.ops._cpu.adam import gradient_norm_cpu as gradient_norm_cpu
from hyperfields.ops._cpu.adam import row_adam_cpu as row_adam_cpu
from hyperfields.ops._cpu.basis import combine_bases_cpu as combine_bases_cpu
from hyperfields.ops._cpu.distortion import distortion_cpu as distortion_cpu
from hyperfields.ops._cpu.encode import encoded_cpu as encoded_cpu
from hyperfields.ops._cpu.encode import hash_encode_cpu as hash_encode_cpu
from hyperfields.ops._cpu.encode import hash_encode_cpu_backward as hash_encode_cpu_backward
from hyperfields.ops._cpu.gather import gather_rows_cpu as gather_rows_cpu
from hyperfields.ops._cpu.mlp import mlp_cpu as mlp_cpu
from hyperfields.ops._cpu.mlp import mlp_cpu_backward as mlp_cpu_backward
from hyperfields.ops._cpu.radiance import radiance_head_cpu as radiance_head_cpu
from hyperfields.ops._cpu.radiance import radiance_head_cpu_backward as radiance_head_cpu_backward
from hyperfields.ops._cpu.rays import composite_cpu as composite_cpu
from hyperfields.ops._cpu.rays import composite_cpu_backward as composite_cpu_backward
from hyperfields.ops._cpu.rays import early_termination_cpu as early_termination_cpu
from hyperfields.ops._cpu.rays import gather_samples_cpu as gather_samples_cpu
from hyperfields.ops._cpu.rays import ray_march_cpu as ray_march_cpu
from hyperfields.ops._cpu.threads import stamp_kernels
from hyperfields.ops._cpu.visibility import visible_samples_cpu as visible_samples_cpu

stamp_kernels()
