"""The part of `fit --bases-from` that is not of every fit: which scenes come first, and what becomes of the others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperfields.cli.common import Stopped, next_line, read_data, reading_of, scene_count
from hyperfields.errors import InputError

if TYPE_CHECKING:
    from hyperfields.data import SceneDataset
    from hyperfields.runs.config import RunConfig

NAMES = "names.json"


class Many:
    """A run that is made of a part of a family first, in a folder within its own."""

    def __init__(self, out: Path, count: int | None) -> None:
        from hyperfields.training.many import BASES

        self.out, self.bases, self.count = out, out / BASES, count
        self.names: list[str] = []  # of all scenes
        self.file = self.bases / NAMES

    @classmethod
    def begun(cls, out: Path, count: int | None, resume: bool) -> Many | None:
        """None where all scenes are fitted together."""
        from hyperfields.training.many import BASES

        if resume and (out / BASES / NAMES).is_file():
            return cls(out, None)
        if count is not None and resume:
            raise InputError(f"--bases-from {count}: {out} holds no fit that was begun so; leave it or --resume out")
        return None if count is None else cls(out, count)

    def require(self, by: str | None, individually: bool, photographs: bool) -> None:
        """InputError for options by which other scenes could not be given codes."""
        given = {
            "--by": by and by != "descent",
            "--individually": individually,
            "--refine-poses, --appearance": photographs,
        }
        for option, value in given.items():
            if value:
                raise InputError(f"{option}: cannot be had with --bases-from, which finds codes with networks frozen")

    def choose(
        self, family: Path, kind: str | None, scenes: Sequence[str] | None, limit: int | None, seed: int
    ) -> list[str]:
        """Names of the scenes that networks and bases are fitted to."""
        from hyperfields.scenes import family_names
        from hyperfields.training.many import part_names

        if self.count is None:
            if scenes is not None or limit is not None:
                raise InputError("--scenes, --limit: a fit that goes on has its scenes; leave them out")
            self.names = list(map(str, json.loads(self.file.read_bytes())))
            return []
        self.names = family_names(family, kind=kind, scenes=scenes, limit=limit)
        return part_names(self.names, self.count, seed)

    def record(self) -> None:
        """Write which scenes there are, so that they are the same when the fit goes on."""
        from hyperfields.runs.atomic import write_atomically

        write_atomically(self.file, json.dumps(self.names).encode())

    def finish(self, family: Path, config: RunConfig, again: str) -> None:
        """Find codes of all other scenes, and put the run together."""
        from hyperfields.runs.run import load_run
        from hyperfields.training.many import finish

        source = config.sources[0]
        reading: dict[str, Any] = {
            "kind": config.kind,
            "size": source.size,
            "views": source.views,
            **reading_of(source),
        }

        def read(names: list[str]) -> SceneDataset:
            return read_data(family, scenes=names, **reading)

        print(f"codes of the other {scene_count(len(set(self.names) - set(config.scenes)))}, networks frozen")
        try:
            run = finish(load_run(self.bases, config.device), self.names, read, self.out, seed=config.fit.seed)
        except KeyboardInterrupt:
            raise Stopped(f"stopped; go on with: {again}") from None
        print(f"wrote {self.out}: {scene_count(len(run.names))}")
        print(next_line("eval", self.out))
