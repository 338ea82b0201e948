"""The end of a fit, looked at: fields that hold nothing of their scenes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hyperfields.data import SceneDataset, on_device
from hyperfields.runs.run import Run
from hyperfields.tasks.checks import Checked

SCENES = 32  # that are looked at, spread over the family
STEPS = 100  # a shorter fit is a trial and may come to nothing
LINES = 3  # of remarks in a message


def check(run: Run, data: SceneDataset, places: Sequence[int] | None = None, *, seed: int = 0) -> list[str]:
    """Lines about scenes of a run whose fields hold nothing; empty: all is well. No global random state is read.

    Args:
        places: of the run's scenes in the data; default the same.
    """
    broken = [name for name, value in run.model.state_dict().items() if not value.isfinite().all()]
    if broken:
        return [f"{broken[0]}: numbers that are not finite, or too large for 16 bits; lower the rates of the fit"]
    count, device = len(run.names), run.model.latents.codes.device
    steps = run.summary.get("steps", STEPS * count) / (count if run.config.fit.individually else 1)
    if not isinstance(run.task, Checked) or steps < STEPS:
        return []
    chosen = torch.linspace(0, count - 1, min(count, SCENES)).round().long().tolist()
    scenes = torch.tensor([chosen[i] if places is None else places[chosen[i]] for i in range(len(chosen))])
    bound = run.bind(*(run.names[number] for number in chosen))
    generator = torch.Generator(device).manual_seed(seed)
    return run.task.check(bound, on_device(data, device), scenes.to(device), generator)


def in_one_line(remarks: Sequence[str]) -> str:
    """The first remarks, and how many more there are."""
    more = f"; and {len(remarks) - LINES} more" if len(remarks) > LINES else ""
    return "; ".join(remarks[:LINES]) + more
