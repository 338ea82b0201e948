"""A generator of one's own: fitted, saved and loaded without editing the package.

python examples/own_generator.py
"""

import dataclasses
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

import hyperfields as hf
from hyperfields.weights import Weights, WeightSpec, numel, split


@dataclasses.dataclass(frozen=True)
class Gated(hf.Generator):
    """Weights W0 + H (g(z) * h(z)): two linear maps of the code multiply each other before the head."""

    width: int = 32

    def build(self, spec: WeightSpec, latent_size: int, share: float) -> nn.Module:
        return GatedGenerator(spec, latent_size, self.width)


class GatedGenerator(nn.Module):
    """Codes `[s z]` -> weights of `spec`."""

    def __init__(self, spec: WeightSpec, latent_size: int, width: int) -> None:
        super().__init__()
        self.spec = dict(spec)
        self.base = nn.Parameter(torch.cat([entry.initial().flatten() for entry in spec.values()]))
        self.gate, self.values = nn.Linear(latent_size, width), nn.Linear(latent_size, width)
        self.head = nn.Linear(width, numel(spec))
        nn.init.normal_(self.head.weight, std=0.02)

    def forward(self, codes: Tensor) -> Weights:
        hidden = self.gate(codes).sigmoid() * self.values(codes)
        return split(self.base + self.head(hidden), self.spec)


def main(steps: int = 200) -> hf.Run:
    data = hf.Images(torch.rand(4, 16, 16, 3, generator=torch.Generator().manual_seed(0)))
    config, train = hf.preset("default", "images", scenes=4, side=16)
    with tempfile.TemporaryDirectory() as folder:
        hf.fit(
            data, Path(folder) / "run", steps=steps, model=dataclasses.replace(config, generator=Gated()), train=train
        )
        run = hf.load_run(Path(folder) / "run", trust=[Gated])  # nothing is imported by a name from a file
        print(hf.format_report(hf.evaluate(run, data)))
    return run


if __name__ == "__main__":
    main()
