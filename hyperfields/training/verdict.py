"""What went wrong with a fit, as lines for people: scenes that ended empty, full of fog, not finite or no better than
one colour. Looked for when a fit ends, on fresh samples, so that it can die but not silently."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hyperfields import ops
from hyperfields.data import Pixels, Points, SceneDataset
from hyperfields.rendering.base import on_background
from hyperfields.rendering.surface import scene_interval
from hyperfields.runs.run import Run
from hyperfields.tasks.base import on_white
from hyperfields.tasks.objective import Loss

SCENES, SAMPLES = 16, 1024  # that are looked at, samples of each
LINES = 4  # of remarks in a message
STEPS = 100  # a shorter fit is a try, and says nothing
CELLS = 32  # of the grid that skips empty space
ALIVE = 0.01  # opacity that can be seen
FOG = 0.5  # mean opacity of rays that see the background
EVEN = 2.5e-3  # error of one value, below which the truth is as good as even and nothing can be much better


@torch.no_grad()
def verdict(run: Run, data: SceneDataset, places: Sequence[int] | None = None, *, seed: int = 0) -> list[str]:
    """Lines about scenes of a finished fit that came to nothing; none when all is well, or the fit is a try.

    Args:
        places: of the run's scenes in the data; default the same.
    """
    broken = [name for name, value in run.model.state_dict().items() if not bool(value.isfinite().all())]
    if broken:
        return [f"{broken[0]}: holds numbers that are not finite, or too large for 16 bits"]
    count = len(run.names)
    if run.summary.get("steps", 0) < STEPS * (count if run.config.fit.individually else 1):
        return []
    chosen = torch.linspace(0, count - 1, min(SCENES, count)).round().long().unique()
    lines = []
    for number in chosen.tolist():
        place = number if places is None else places[number]
        name = run.names[number]
        if reason := _reason(run, data, number, place, seed):
            lines.append(f"scene {name}: {reason}")
    return lines


def _reason(run: Run, data: SceneDataset, number: int, place: int, seed: int) -> str | None:
    bound = run.bind(run.names[number])
    generator = torch.Generator().manual_seed(seed)
    batch = data.batch(torch.tensor([place]), SAMPLES, generator)
    if isinstance(batch, Points):
        answer = bound(batch.x.to(bound.device)).cpu()
        if answer.shape != batch.target.shape:  # of a task of another sort
            return None
        if run.task.has_mesh and bool((batch.target < 0.0).any()) and answer.isfinite().all():
            if float(answer.amin()) > 0.0:
                return "nothing is inside, its surface is lost"
            if float(answer.amax()) < 0.0:
                return "everything is inside, its surface is lost"
        return _compared(answer, batch.target, run.task.loss)
    if not isinstance(batch, Pixels) or not run.task.has_camera:
        return None
    near, far = scene_interval(batch.rays, getattr(bound.field, "space", ops.BOX))
    if not bool((far > near).any()):
        return "its cameras look past the box [-1, 1]^3; wanted poses in OpenCV axes (+Y down, +Z forward)"
    rays = type(batch.rays)(*(part.to(bound.device) for part in batch.rays))
    rendered = run.task.render_rays(bound, rays, cells=CELLS)
    alpha, truth = rendered.alpha.cpu(), batch.rgba
    if alpha.isfinite().all():
        if float(truth[..., 3].mean()) > ALIVE and float(alpha.amax()) < ALIVE:
            return "empty, its density has died"
        clear = truth[..., 3] == 0.0
        if bool(clear.any()) and float(alpha[clear].mean()) > FOG:
            return f"full of fog, {float(alpha[clear].mean()):.0%} opaque where the background is seen"
    behind = None if batch.behind is None else batch.behind.cpu()
    shown = on_background(rendered, 1.0 if behind is None else behind.nan_to_num(1.0).to(rendered.rgb))
    return _compared(shown.cpu(), on_white(truth, behind))


def in_one_line(remarks: Sequence[str]) -> str:
    """The first remarks, and how many more there are."""
    more = f"; and {len(remarks) - LINES} more" if len(remarks) > LINES else ""
    return "; ".join(remarks[:LINES]) + more


def _compared(answer: Tensor, truth: Tensor, loss: Loss | None = None) -> str | None:
    """`loss`: of the task, by which the answer is judged; default the square error."""
    if not bool(answer.isfinite().all()):
        return "not finite"
    value = truth.mean((0, 1)).expand_as(truth)
    if loss is None:
        error, even = ((x - truth).square().mean() for x in (answer, value))
    else:
        error, even = (loss(x, Points(truth, truth)).mean() for x in (answer, value))
    return "no better than one value everywhere" if float(error) > max(float(even), EVEN) else None
