"""Compiled CPU kernels (numba), as functions that torch differentiates once.

Layout of the work: an op is cut into tasks, which run on a small thread pool (kernels release the GIL), and no two
tasks write the same memory. Each number is computed by one task in one order, however many tasks there are: results
are the same at any number of threads, and no second OpenMP pool fights with torch's.

A second derivative is refused: it raises and names the kernel, see `operators`.
"""

from hyperfields.ops._cpu.adam import adam_cpu as adam_cpu
from hyperfields.ops._cpu.adam import advance_cpu as advance_cpu
from hyperfields.ops._cpu.adam import gradient_norm_cpu as gradient_norm_cpu
from hyperfields.ops._cpu.adam import row_adam_cpu as row_adam_cpu
from hyperfields.ops._cpu.basis import combine_bases_cpu as combine_bases_cpu
from hyperfields.ops._cpu.distortion import distortion_cpu as distortion_cpu
from hyperfields.ops._cpu.encode import encoded_cpu as encoded_cpu
from hyperfields.ops._cpu.encode import hash_encode_cpu as hash_encode_cpu
from hyperfields.ops._cpu.encode import hash_encode_cpu_backward as hash_encode_cpu_backward
from hyperfields.ops._cpu.error import encode_mlp_error_cpu as encode_mlp_error_cpu
from hyperfields.ops._cpu.error import pixel_error_cpu as pixel_error_cpu
from hyperfields.ops._cpu.gather import drawn_pixels_cpu as drawn_pixels_cpu
from hyperfields.ops._cpu.gather import gather_pairs_cpu as gather_pairs_cpu
from hyperfields.ops._cpu.gather import pixel_rays_cpu as pixel_rays_cpu
from hyperfields.ops._cpu.heads import linear_heads_cpu as linear_heads_cpu
from hyperfields.ops._cpu.mlp import mlp_cpu as mlp_cpu
from hyperfields.ops._cpu.mlp import mlp_cpu_backward as mlp_cpu_backward
from hyperfields.ops._cpu.occupancy import keep_densities_cpu as keep_densities_cpu
from hyperfields.ops._cpu.radiance import radiance_head_cpu as radiance_head_cpu
from hyperfields.ops._cpu.radiance import radiance_head_cpu_backward as radiance_head_cpu_backward
from hyperfields.ops._cpu.rays import composite_cpu as composite_cpu
from hyperfields.ops._cpu.rays import composite_cpu_backward as composite_cpu_backward
from hyperfields.ops._cpu.rays import early_termination_cpu as early_termination_cpu
from hyperfields.ops._cpu.rays import gather_samples_cpu as gather_samples_cpu
from hyperfields.ops._cpu.rays import ray_march_cpu as ray_march_cpu
from hyperfields.ops._cpu.rendered import rendered_error_cpu as rendered_error_cpu
from hyperfields.ops._cpu.threads import stamp_kernels
from hyperfields.ops._cpu.visibility import visible_samples_cpu as visible_samples_cpu

stamp_kernels()
