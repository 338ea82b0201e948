"""Scenes as they are named on a command line: by a name, or as a sum of codes, `A - B + C`."""

from __future__ import annotations

from torch import Tensor

from hyperfields.codes.expressions import code_sum, terms
from hyperfields.errors import InputError
from hyperfields.runs.inferred import InferredCodes
from hyperfields.runs.run import Run
from hyperfields.runs.scene import Scene


def scene_of(run: Run, text: str, inferred: InferredCodes | None = None) -> Scene:
    """A scene of a run, or of inferred ones, by its name; or that of a sum of their codes.

    Raises:
        InputError: an unknown name, or a sum of scenes whose weights were refined.
    """
    parts = terms(text, run.names if inferred is None else inferred.names)
    if len(parts) == 1:
        return run[parts[0][1]] if inferred is None else inferred.scene(run, parts[0][1])
    if inferred is not None and inferred.residual:
        raise InputError(
            f"scene {text!r:.100}: is a sum of codes, and these scenes have weights of their own; name one"
        )

    def code(name: str) -> Tensor:
        return run.codes(name) if inferred is None else inferred.codes[[inferred.index(name)]]

    return Scene(run, text, code_sum(parts, code), fitted=False)
