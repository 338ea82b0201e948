"""What a fit leaves behind: the numbers of its summary, and its model as files hold it."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hyperfields.codes import CodeSource
from hyperfields.model import HyperField
from hyperfields.runs import codec
from hyperfields.runs.atomic import write_atomically
from hyperfields.runs.run import SUMMARY, write_model, write_source
from hyperfields.training.step import Progress


def summary_of(progress: Progress, model: HyperField) -> dict[str, Any]:
    """`Run.summary` of any fit."""
    return {
        "steps": progress.step,
        "seconds": progress.seconds,
        "loss": progress.loss,
        "parameters": model.networks_numel(),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def write(out: Path, model: HyperField, source: CodeSource | None, summary: dict[str, Any]) -> None:
    """The files of a run that is fitted."""
    digest = write_model(out, model)
    if source is not None:
        write_source(out, source, digest)
    # Last: without it, or with that of a shorter fit, the files above are written again.
    write_atomically(out / SUMMARY, json.dumps(summary, indent=1).encode())


def round_as_files(*modules: nn.Module | None) -> None:
    """What is rendered is what `evaluate` measures and what files hold: all values rounded to 16 bits."""
    for module in modules:
        if module is not None:
            module.load_state_dict({name: codec.round_trip(value) for name, value in module.state_dict().items()})
            module.eval()


def learned_photographs(trainer: object) -> dict[str, Tensor]:
    """What was learned of the training pictures; see `Run`."""
    learned = getattr(getattr(trainer, "objective", None), "photographs", None)
    return {} if learned is None else learned.learned()
