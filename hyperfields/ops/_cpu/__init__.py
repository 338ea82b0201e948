"""Compiled CPU kernels (numba), registered as torch operators with first derivatives.

Layout of the work: an op is cut into tasks that do not depend on the number of threads, the tasks run on a small
thread pool (kernels release the GIL), and no two tasks write the same memory. Results are therefore the same at any
number of threads, and no second OpenMP pool fights with torch's.

A second derivative is refused: the backward operators have no autograd formula, so torch raises and names them.
"""

from hyperfields.ops._cpu.adam import adam_cpu as adam_cpu
from hyperfields.ops._cpu.adam import gradient_norm_cpu as gradient_norm_cpu
from hyperfields.ops._cpu.adam import row_adam_cpu as row_adam_cpu
from hyperfields.ops._cpu.basis import mix_cpu as mix_cpu
from hyperfields.ops._cpu.encode import encoded_cpu as encoded_cpu
from hyperfields.ops._cpu.encode import hash_encode_cpu as hash_encode_cpu
from hyperfields.ops._cpu.encode import hash_encode_cpu_backward as hash_encode_cpu_backward
from hyperfields.ops._cpu.mlp import mlp_cpu as mlp_cpu
from hyperfields.ops._cpu.mlp import mlp_cpu_backward as mlp_cpu_backward
from hyperfields.ops._cpu.radiance import emission_cpu as emission_cpu
from hyperfields.ops._cpu.radiance import emission_cpu_backward as emission_cpu_backward
from hyperfields.ops._cpu.rays import composite_cpu as composite_cpu
from hyperfields.ops._cpu.rays import composite_cpu_backward as composite_cpu_backward
from hyperfields.ops._cpu.rays import march_cpu as march_cpu
from hyperfields.ops._cpu.rays import reach_cpu as reach_cpu
from hyperfields.ops._cpu.rays import samples_cpu as samples_cpu
from hyperfields.ops._cpu.threads import stamp_kernels
from hyperfields.ops._cpu.visibility import sight_cpu as sight_cpu

stamp_kernels()
