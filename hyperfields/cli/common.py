"""What verbs share: runs, families and scenes by name, and what is printed about them."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import functools
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperfields.cli.options import pair
from hyperfields.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from hyperfields.cli.console import Meter
    from hyperfields.data import SceneDataset
    from hyperfields.model import BoundField
    from hyperfields.runs.checkpoint import Run
    from hyperfields.training.inference import Codes
    from hyperfields.training.optim import Progress


class Stopped(KeyboardInterrupt):
    """Ctrl-C, with what to type to go on."""


def load(run: Path, device: str) -> Run:
    """A run on a device that is there."""
    from hyperfields.ops.devices import usable_device
    from hyperfields.runs.checkpoint import load_run

    return load_run(run, usable_device(device))


def read_family(path: Path, **options: Any) -> SceneDataset:
    """A family, with a meter while shapes are sampled."""
    from hyperfields.cli import console
    from hyperfields.scenes import open_family

    with console.Meter("sampling") as meter:
        return open_family(path, **options, progress=meter.count)


def family_of(run: Run, path: Path | None) -> SceneDataset:
    """The scenes of a run from the data that were fitted, at the size that they had."""
    recorded = family_record(run.config)
    folder = Path(recorded["path"]) if path is None and "path" in recorded else path
    if folder is None:
        raise InputError(f"{run.path}: does not say which family was fitted; give it with --family DIR")
    if path is None and not folder.is_dir():
        raise InputError(f"{folder}: the family of {run.path}, is not there; say where with --family DIR")
    return read_family(folder, kind=run.kind, size=pair(recorded.get("size")), scenes=list(run.names))


def what_was_seen(run: Run, names: Sequence[str], path: Path | None, codes: Codes | None) -> SceneDataset:
    """The data that scenes were fitted to, or that their codes were inferred from, at the size and views of then."""
    noted = family_record(run.config) if codes is None else dict(codes.family)
    folder = path or (Path(noted["path"]) if "path" in noted else None)
    if folder is None or not folder.is_dir():
        where = f"{folder} is not there" if folder else "nothing says where it was"
        raise InputError(f"what was seen of {names[0]!r}: {where}; say where with --family DIR")
    size = noted.get("size") or run.config.get("picture", {}).get("size")
    return read_family(folder, kind=run.kind, size=pair(size), scenes=list(names), views=noted.get("views"))


def fields_of(run: Run, name: str, codes: Codes | None, samples: int) -> tuple[BoundField, list[BoundField]]:
    """A scene's field, and fields drawn from the distributions over its code and weights, if there are any."""
    from hyperfields.training.posterior import draw_fields

    if codes is None:
        return run.bind(name), draw_fields(run, run.codes(name), samples=samples)
    number = codes.names.index(name)
    row = slice(number, number + 1)
    deviation = None if codes.deviation is None else codes.deviation[row]
    residual = {key: value[row] for key, value in codes.residual.items()}
    return codes.bind(run, name), draw_fields(run, codes.codes[row], deviation, residual, samples=samples)


def one_scene(run: Run, scene: str | None, path: Path | None) -> tuple[Run, str, Tensor]:
    """The scene asked for, fitted or inferred: (the run that binds it, its name, its code `[1 z]`)."""
    if path is None:
        if scene is None:
            raise InputError(f"--scene: give a scene of {run.path}, e.g. {run.names[0]!r}, or --codes FILE")
        return run, scene, run.codes(scene)
    from hyperfields.training.inference import load_codes

    found = load_codes(path, run)
    if scene is None and len(found.names) > 1:
        raise InputError(f"--scene: give one of the {len(found.names)} of {path}, e.g. {found.names[0]!r}")
    name = found.names[0] if scene is None else scene
    if name not in found.names:
        near = difflib.get_close_matches(name, found.names, 3, 0.0)
        raise InputError(f"scene {name!r}: not in {path}; the nearest names are {', '.join(near)}")
    row = found.names.index(name)
    residual = {key: value[row : row + 1] for key, value in found.residual.items()}
    model = copy.copy(run.model)  # one that adds what refining found to the weights of this scene
    model.bind = functools.partial(run.model.bind, residual=residual)  # type: ignore[method-assign]
    return dataclasses.replace(run, model=model), name, found.codes[row : row + 1]


def family_record(config: dict[str, Any]) -> dict[str, Any]:
    """What a run says about its family: `path`, and `size`, `scenes`, `limit` if they were given."""
    recorded = config.get("family")
    return recorded if isinstance(recorded, dict) else {}


def frames_shown(meter: Meter) -> Callable[[int, int], None]:
    """Shows how many frames are done."""
    return lambda done, total: meter.show(done / total, f"frame {done} of {total}")


def step_text(progress: Progress) -> str:
    return f"step {progress.step:,}, loss {progress.loss:.3g}"


def next_line(*words: object) -> str:
    return f"next: {shlex.join(['hyperfields', *map(str, words)])}"


def scene_count(count: int) -> str:
    return f"{count:,} scene{'' if count == 1 else 's'}"


def kind_line(family: SceneDataset, picture: dict[str, Any], how: str) -> str:
    size = f", {picture['size'][0]}x{picture['size'][1]}" if "size" in picture else ""
    return f"{family.kind}: {scene_count(len(family.names))}{size} ({how})"
