"""A loss and a regularizer of one's own: a robust error of colours, and a penalty on steep fields.

python examples/own_loss.py
"""

import dataclasses

import torch
from torch import Tensor

import hyperfields as hf


@dataclasses.dataclass(frozen=True)
class Charbonnier:
    """sqrt(error^2 + eps^2): single wrong pixels pull less than with squares."""

    eps: float = 1e-2

    def __call__(self, color: Tensor, batch: hf.Points) -> Tensor:
        """Errors `[s n]` of colours `[s n c]`: unreduced, the mean is the fit's."""
        return ((color - batch.target).square() + self.eps**2).sqrt().mean(-1)


@dataclasses.dataclass(frozen=True)
class Smooth:
    """weight * mean |f(x + d) - f(x)|^2 for random points and small steps d."""

    weight: float = 1e-2
    reach: float = 0.02

    def __call__(self, step: hf.StepState) -> Tensor:
        x = torch.rand(step.fields.bound.scenes, 256, 2, generator=step.generator)
        near = x + self.reach * torch.randn(x.shape, generator=step.generator)
        difference: Tensor = step.fields.bound(near) - step.fields.bound(x)
        return self.weight * difference.square().mean()


def main(steps: int = 200) -> hf.Run:
    pixels = torch.rand(4, 16, 16, 3, generator=torch.Generator().manual_seed(0))
    data = hf.Images(pixels)
    run = hf.fit(data, steps=steps, loss=Charbonnier(), regularizers=[Smooth()])
    print(hf.format_report(hf.evaluate(run, data)))
    return run


if __name__ == "__main__":
    main()
