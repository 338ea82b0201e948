"""`keep_densities`: what an occupancy grid remembers of the densities that it was told."""

from __future__ import annotations

import torch
from torch import Tensor

from hyperfields.ops import dispatch
from hyperfields.ops.profiling import region


@region("keep_densities")
@torch.no_grad()
def keep_densities(
    density: Tensor,  # [a c] of the cells of all scenes; inf: of a cell that was never asked for
    occupied: Tensor,  # [a c] bool
    peak: Tensor,  # [a]
    scenes: Tensor,  # [s] int64, each once
    cells: Tensor,  # [k] int64, each once
    new: Tensor,  # [s k] densities of these cells of these scenes
    *,
    decay: float,
    limit: float,
) -> None:
    """Remembers, in place: of a cell the largest density, which decays; of a scene the largest of all, its peak.

    A cell is occupied from `limit` on, or from the mean of its scene where that is lower. Not differentiable.
    """
    tensors = (density, occupied, peak, scenes, cells, new)
    if all(t.device.type == "cpu" and t.is_contiguous() for t in tensors) and not dispatch.why_unavailable("cpu"):
        from hyperfields.ops import _cpu

        _cpu.keep_densities_cpu(density, occupied, peak, scenes, cells, new.detach(), decay, limit)
        return
    where = scenes[:, None], cells
    old = density[where]
    new = torch.where(old.isinf(), new, torch.maximum(old * decay, new))
    density[where] = new
    rows = density[scenes]
    peak[scenes] = rows.amax(1)
    occupied[where] = new >= rows.mean(1, keepdim=True).clamp(max=limit)  # inf: not all evaluated yet
