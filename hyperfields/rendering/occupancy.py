"""Occupancy: which cells of the scene box are worth sampling, of fixed fields and of fields being fitted."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from hyperfields.ops.occupancy import keep_densities
from hyperfields.ops.profiling import region
from hyperfields.ops.threads import one_torch_thread
from hyperfields.rendering.base import PointFn, points_per_block


@one_torch_thread()
@torch.no_grad()
def occupancy_grid(
    density: PointFn,
    scenes: int,
    size: int = 64,
    *,
    threshold: float = 0.01,
    step: float,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Cells of [-1, 1]^3 in which a step of length `step` has an opacity above `threshold`: `[s g g g]` bool.

    The cube is the scene box, or contracted space; densities are then per contracted length.

    A cell is judged by its centre and its corners, and a cell next to an occupied one is kept, since a thin
    part may pass between those points. A grid of more than 32 cells a side, when even, evaluates only the
    occupied cells of the grid of half its size. Not differentiable.
    """
    limit = -math.log1p(-threshold) / step
    if size > 32 and size % 2 == 0:
        coarse = occupancy_grid(density, scenes, size // 2, threshold=threshold, step=step, device=device)
        inside = coarse.repeat_interleave(2, 1).repeat_interleave(2, 2).repeat_interleave(2, 3)
    else:
        inside = torch.ones(scenes, size, size, size, dtype=torch.bool, device=device)
    centers = _dense_at(density, inside, 1.0 / size - 1.0, limit)
    around = torch.nn.functional.max_pool3d(inside[:, None].float(), 2, 1, 1)[:, 0] > 0  # their corners
    corners = _dense_at(density, around, -1.0, limit)
    return dilate(centers | dilate_corners(corners)) & inside


def _dense_at(density: PointFn, where: Tensor, low: float, limit: float) -> Tensor:
    """Points of an even grid from `low` to `-low` that are in `where` `[s a a a]` and denser than `limit`."""
    scenes, side = where.shape[:2]
    axis = torch.linspace(low, -low, side, device=where.device)
    index = where.nonzero()  # [m 4], sorted by scene
    found = torch.zeros_like(where)
    for block in index.split(points_per_block(where.device)):
        counts = torch.bincount(block[:, 0], minlength=scenes)
        found[tuple(block.T)] = density(axis[block[:, 1:]], counts).squeeze(-1) > limit
    return found


def dilate_corners(corners: Tensor) -> Tensor:
    """Corners `[s g+1 g+1 g+1]` bool -> cells `[s g g g]` with at least one true corner."""
    return torch.nn.functional.max_pool3d(corners[:, None].float(), 2, 1)[:, 0] > 0


def dilate(cells: Tensor) -> Tensor:
    """Cells `[s g g g]` and their 26 neighbours."""
    return torch.nn.functional.max_pool3d(cells[:, None].float(), 3, 1, 1)[:, 0] > 0


UPDATE_EVERY = 4  # steps
FULL_UPDATES = 31  # steps, in which an update evaluates all cells
PARTS = 16  # later one of so many parts of them: some per cent of a step


class OccupancyGrid(nn.Module):
    """Cells of each scene's box that are worth sampling while the fields still change; saved by `state_dict`.

    Keeps a decaying maximum of the density sampled in every cell (Mueller et al. 2022, appendix C), one grid a scene.
    A cell counts as occupied until its density was first evaluated, and then where that is above the limit, or above
    the mean of its scene where the mean is lower: a scene whose density has fallen everywhere keeps its densest cells.
    A cell without samples gets no gradient, and a scene without any would never come back. The minimum of both is the
    threshold of nerfacc (Li et al. 2023). Call `update` once a step, with the fields as
    they are before the step, and give `cells` to the renderer:

        grid = OccupancyGrid(scenes, field.occupancy, step=field.step)
        grid.update(bound.cell_density, scenes, step, generator)
        render_volume(bound, rays, grid.cells(scenes), step=field.step, ...)
    """

    def __init__(
        self,
        scenes: int,
        size: int,
        *,
        step: float,
        threshold: float = 0.01,
        decay: float = 0.6,
        device: torch.device | str = "cpu",
    ) -> None:
        """size: cells along a side. step: length of a sample, scene units. threshold: opacity of an occupied sample."""
        super().__init__()
        self.size, self.decay = size, decay
        self.limit = -math.log1p(-threshold) / step
        self.density: Tensor
        self.occupied: Tensor
        self.known: Tensor
        self.peak: Tensor
        self.register_buffer("density", torch.full((scenes, size**3), math.inf, device=device))
        self.register_buffer("occupied", torch.ones(scenes, size**3, dtype=torch.bool, device=device))
        # These follow from the density.
        self.register_buffer("peak", torch.full((scenes,), math.inf, device=device), persistent=False)
        self.register_buffer("known", torch.zeros(scenes, dtype=torch.bool, device=device), persistent=False)
        self.register_load_state_dict_post_hook(lambda grid, _: grid._refresh())  # type: ignore[no-untyped-call]

    def _refresh(self) -> None:
        """Recompute the buffers that follow from the density."""
        self.peak.copy_(self.density.amax(1))
        self.known.zero_()

    def cells(self, scenes: Tensor) -> Tensor:
        """Occupied cells of `scenes` `[s]`: `[s g g g]` bool."""
        return self.occupied.index_select(0, scenes).reshape(-1, self.size, self.size, self.size)

    def knows(self, scenes: Tensor | None = None) -> bool:
        """True when the density of every cell of `scenes` `[s]` (default: all) was evaluated. Waits for a GPU."""
        scenes = torch.arange(len(self.known), device=self.known.device) if scenes is None else scenes
        new = scenes[~self.known[scenes]]
        self.known[new] = ~self.density[new].isinf().any(1)
        return bool(self.known[new].all())

    def update(self, density: PointFn, scenes: Tensor, step: int, generator: torch.Generator) -> None:
        """The update of step number `step`: of `scenes` `[s]`, whose fields `density` is, every few steps.

        Not differentiable. Waits for a GPU; where the host must not wait, a plan calls `update_part` (`static_shapes`).
        """
        parts = parts_due(step, lambda: self.knows(scenes))
        if parts:
            self.update_part(density, scenes, step // UPDATE_EVERY % parts, parts, generator)

    @region("occupancy")
    @torch.no_grad()
    def update_part(
        self, density: PointFn, scenes: Tensor, part: int | Tensor, parts: int, generator: torch.Generator
    ) -> None:
        """Evaluate the density at a random point of every cell of `scenes` whose number is `part` modulo `parts`."""
        device = self.density.device
        cell = (torch.arange(0, self.size**3, parts, device=device) + part) % self.size**3
        index = torch.stack((cell // self.size**2, cell // self.size % self.size, cell % self.size), -1)
        jitter = torch.rand(len(scenes), *index.shape, generator=generator, device=device)
        x = ((index + jitter) * (2.0 / self.size) - 1.0).reshape(-1, 3)
        new = density(x, torch.full((len(scenes),), len(cell), device=device)).reshape(len(scenes), -1)
        keep_densities(
            self.density, self.occupied, self.peak, scenes, cell, new, decay=self.decay, limit=self.limit
        )  # fmt: skip


def parts_due(step: int, known: Callable[[], bool]) -> int:
    """Number of parts that the cells are divided into for the update of a step, of which one is due; 0: no update.

    known: True when all cells were evaluated; called only when it matters.
    """
    if step % UPDATE_EVERY:
        return 0
    return PARTS if step >= FULL_UPDATES and known() else 1
