"""Pictures of other sizes than those that a field was fitted to, larger ones above all.

A field of images that knows colours at the centres of pixels alone can be anything between them, in practice speckled.
What is known of a larger picture is that it gives the smaller one again when it is reduced: a pixel is the mean of
those that it is divided into. Of all pictures of which that holds the one that varies least is taken: its edges are
sharp.

    min TV(x)  where  mean of x over each pixel = pixel          TV: sum of the lengths of differences, of all channels

Source: Aly, Dubois 2005, "Image up-sampling using total-variation regularization with a new observation model", solved
by the algorithm 1 of Chambolle, Pock 2011, "A first-order primal-dual algorithm for convex problems".
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hyperfields.ops.threads import one_torch_thread

MOST = 4  # times as large along a side as is solved for; beyond, colours are interpolated
STEPS = 40
STEP = 0.1  # of the picture in the algorithm; the other step is as large as convergence allows


@one_torch_thread()
@torch.no_grad()
def enlarged(
    picture: Tensor, size: tuple[int, int], *, steps: int = STEPS, pause: Callable[[], None] | None = None
) -> Tensor:
    """The picture `[h w c]` in another `size` (height, width), `[*size c]`. Not differentiable.

    At whole multiples up to `MOST` its pixels are the means of the new ones, exactly. At others, pixels are means of
    those of the next multiple over their areas; so are those of smaller pictures.

    Args:
        steps: towards the least variation; with 0 the picture is that of a cubic with these means.
        pause: called before each step; what it raises ends the enlargement.
    """
    height, width = picture.shape[:2]
    factor = min(max(-(-size[0] // height), -(-size[1] // width), 1), MOST)
    pixels = picture.movedim(-1, 0)[None]
    whole = _least_variation(pixels, factor, steps, pause) if factor > 1 else pixels
    return _resized(whole, size)[0].movedim(0, -1).contiguous()


def _least_variation(pixels: Tensor, factor: int, steps: int, pause: Callable[[], None] | None) -> Tensor:
    """Pixels `[1 c h w]` divided into `factor` by `factor` each."""

    def with_means(x: Tensor) -> Tensor:
        missing = pixels - nn.functional.avg_pool2d(x, factor)
        return x + missing.repeat_interleave(factor, -1).repeat_interleave(factor, -2)

    size = (factor * pixels.shape[2], factor * pixels.shape[3])
    x = with_means(nn.functional.interpolate(pixels, size=size, mode="bicubic", align_corners=False))
    ahead, across, down = x, torch.zeros_like(x), torch.zeros_like(x)
    for _ in range(steps):
        if pause is not None:
            pause()
        across[..., :-1] += ahead.diff(dim=-1) / (8.0 * STEP)
        down[..., :-1, :] += ahead.diff(dim=-2) / (8.0 * STEP)
        length = (across.square() + down.square()).sum(1, keepdim=True).sqrt_().clamp_(min=1.0)
        across, down = across / length, down / length
        inward = across + down
        inward[..., 1:] -= across[..., :-1]
        inward[..., 1:, :] -= down[..., :-1, :]
        new = with_means(x + STEP * inward)
        x, ahead = new, 2.0 * new - x
    return x


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """`[1 c h w]` in another size: means over areas along a side that becomes shorter, interpolated along others."""
    for dim, new in zip((2, 3), size, strict=True):
        old = x.shape[dim]
        if new < old:
            edges = torch.arange(new + 1, device=x.device, dtype=torch.float64) * (old / new)
            cells = torch.arange(old, device=x.device, dtype=torch.float64)
            shared = torch.minimum(edges[1:, None], cells + 1.0) - torch.maximum(edges[:-1, None], cells)
            weights = (shared.clamp(min=0.0) * (new / old)).to(x)
            x = (x.movedim(dim, -1) @ weights.T).movedim(-1, dim)
        elif new > old:
            shape = (new, x.shape[3]) if dim == 2 else (x.shape[2], new)
            x = nn.functional.interpolate(x, size=shape, mode="bilinear", align_corners=False)
    return x
