"""Contents of a run, finished or not, as JSON can hold them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from hyperfields.configs import to_json
from hyperfields.errors import InputError
from hyperfields.model import HyperField, parameter_groups
from hyperfields.runs.codec import read_tensors
from hyperfields.runs.config import CONFIG, FORMAT, finite, read_config
from hyperfields.runs.run import METRICS, MODEL, read_summary


def inspect_run(folder: Path) -> dict[str, Any]:
    """Contents of a run, finished or not. Sizes are in bytes at 16 bits a number.

    Raises:
        InputError: no run there, a damaged one, or one of another version.
    """
    config = read_config(folder)
    try:
        with torch.device("meta"):  # sizes only: no memory, no random numbers
            model = HyperField(config.model, len(config.scenes))
    except (TypeError, AttributeError, KeyError, ValueError, RuntimeError) as error:
        raise InputError(f"{folder / CONFIG}: damaged: {error}; restore it or fit again") from None
    if (folder / MODEL).is_file():
        read_tensors(folder / MODEL)  # raises
    field = model.config.field
    amortised, marginal = model.bytes_per_scene()
    grid = getattr(field.encoding, "grid", None)
    written = to_json(config)
    source = written["sources"][0] if written["sources"] else None
    return {
        "path": str(folder),
        "format": FORMAT,
        "finished": (folder / MODEL).is_file(),
        "kind": config.kind,
        "scenes": list(config.scenes),
        "family": None if source is None else {"path": source["path"], "size": source["size"]},
        "sources": [{key: value for key, value in part.items() if key != "class"} for part in written["sources"]],
        "picture": {key: value for key, value in written["picture"].items() if key != "frames"},
        "field": type(field).__name__,
        "encoding": {key: value for key, value in written["model"]["field"]["encoding"].items() if key != "grid"},
        "resolutions": list(grid.resolutions) if grid else None,
        "rows": grid.rows if grid else None,
        "generator": written["model"]["generator"],
        "codes": written["codes"],
        "latent_size": model.config.latent_size,
        "extensions": [dataclasses.asdict(extension) for extension in model.config.extensions],
        "parameters": {
            name: sum(parameter.numel() for parameter in parameters)
            for name, parameters in parameter_groups(model).items()
        },
        "bytes_per_scene": {"amortised": amortised, "marginal": marginal},
        "files": {path.name: path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()},
        "fit": {key: value for key, value in written["fit"].items() if key != "class"},
        "recipe": {key: value for key, value in written["train"].items() if key != "class"},
        "summary": read_summary(folder) or None,
        "last": last_line(folder / METRICS),
        "versions": config.versions,
    }


def last_line(path: Path) -> dict[str, Any] | None:
    """The last line of a fit's log that is whole."""
    try:
        lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    except OSError:
        return None
    for line in reversed(lines):
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(content, dict) and finite(*map(content.get, ("step", "seconds")), content.get("loss") or 0):
            return content
    return None
