"""Bits of a result do not depend on which kernels a process has used before: resumed fits would differ."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys, torch
from hyperfields import ops
from hyperfields.ops.mlp import batched_mlp

torch.manual_seed(0)
layers = [(torch.randn(2, 32, 16), torch.randn(2, 32)), (torch.randn(2, 16, 32), torch.randn(2, 16))]
color = [(torch.randn(2, 32, 24), torch.randn(2, 32)), (torch.randn(2, 3, 32), torch.randn(2, 3))]
every = [part.requires_grad_() for layer in (*layers, *color) for part in layer]
x = torch.randn(2, 3000, 16)
d = torch.nn.functional.normalize(torch.randn(2, 3000, 3), dim=-1)
steps = {
    "mlp": lambda: batched_mlp(x, layers, "leaky_relu").sin().sum().backward(),
    "head": lambda: sum(t.sin().sum() for t in ops.radiance_head(x, d, color, "leaky_relu", degree=3, ceiling=8.0))
    .backward(),
}
for name in sys.argv[1:]:
    steps[name]()
print(" ".join(str(part.grad.double().sum().item().hex()) for part in every))
"""


def test_the_order_in_which_kernels_are_loaded_changes_no_bits() -> None:
    results = [
        subprocess.run([sys.executable, "-c", PROGRAM, *order], capture_output=True, text=True, check=False)
        for order in (("mlp", "head"), ("head", "mlp"))
    ]
    assert [result.returncode for result in results] == [0, 0], results[0].stderr[-2000:] + results[1].stderr[-2000:]
    assert results[0].stdout == results[1].stdout
