"""Failing writes: a full disk and a read-only one at every write of every command that writes.

Each is refused in one line that names the file; what was there before is whole, and what is left can be gone on with.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import campaign_families as families
from campaign_forks import Outcome, Writes, count_writes, run
from campaign_kills import result_of
from campaign_whole import TEMPORARY, damaged_files

WAYS = ("full", "read-only")
SIZES = (0, 4, 12, 24, 48, 96, 160)  # kilobytes of a real file system


@dataclass(frozen=True)
class Command:
    """A command whose writes fail. {out} is in the folder of the case, which begins as a copy of `old`."""

    name: str
    words: tuple[object, ...]
    old: dict[str, Path]  # name in the folder of the case -> what is copied there
    again: tuple[object, ...] = ()  # what is typed afterwards, with room; the same, when it is empty


class Failing:
    """The commands, run once undisturbed, and the cases of a campaign."""

    def __init__(self, root: Path, made: dict[str, Path], match: str = "") -> None:
        self.root = root
        scratch = root / "made"
        scratch.mkdir(parents=True)
        self.runs = {kind: scratch / f"run-{kind}" for kind in families.MAKERS}
        for kind, folder in self.runs.items():
            steps = 120 if kind == "shapes" else 20  # a mesh of an unfinished fit is rubble
            self._done(["fit", made[kind], "--out", folder, *families.TINY, steps], scratch)
        codes, packed = scratch / "codes.safetensors", scratch / "tcnn.safetensors"
        self._done(["infer", self.runs["images"], made["images-new"], "--out", codes, "--steps", 5], scratch)
        # A table without bases, as tiny-cuda-nn has it.
        self._done(["export", self.runs["images"], "--scene", "picture0", "--format", "tcnn", "--out", packed], scratch)
        compared = scratch / "compared"
        names = ["--generators", "low-rank", *families.TINY, 4]
        self._done(["compare", made["images"], "--out", compared, *names], scratch)
        self.commands = [c for c in self._commands(made, codes, packed, compared) if match in c.name]
        self.wanted: dict[str, dict[str, bytes]] = {}
        self.results: dict[str, dict[str, Any]] = {}
        self.cases: list[tuple[Command, str, int]] = []
        for command in self.commands:
            folder = self._begin(command, scratch / command.name.replace("/", " "))
            count = count_writes(self._words(command.words, folder), folder, scratch, every_step_of_fits(command))
            self.wanted[command.name], self.results[command.name] = families.tree(folder), result_of(folder)
            self.cases += [(command, way, at) for way in WAYS for at in range(count)]
        self.real = [(command, size) for command in self.commands for size in SIZES]

    def _commands(self, made: dict[str, Path], codes: Path, packed: Path, compared: Path) -> list[Command]:
        views, shapes, images = self.runs["views"], self.runs["shapes"], self.runs["images"]
        fit = ("fit", made["images"], "--out", "{out}/run", *families.TINY)
        again = ("fit", made["images"], "--out", "{out}/run", "--resume")
        found = [
            Command("fit", (*fit, 2), {}, again),
            Command("fit --by vae", (*fit, 2, "--by", "vae"), {}, again),
            Command("fit --resume", (*again, "--steps", 21), {"run": images}),
            Command("add", ("add", images, made["images-new"], "--out", "{out}/run", "--steps", 4), {}),
            Command(
                "add --method frozen",
                ("add", images, made["images-new"], "--out", "{out}/run", "--steps", 4, "--method", "frozen"), {},
            ),
            Command(
                "infer", ("infer", images, made["images-new"], "--out", "{out}/c.safetensors", "--steps", 4),
                {"c.safetensors": codes},
            ),
            Command(
                "compare",
                ("compare", made["images"], "--out", "{out}/cmp", "--generators", "low-rank", *families.TINY, 4), {},
            ),
            Command("compare, its report", ("compare", "--out", "{out}/cmp"), {"cmp": compared}),
            Command("eval", ("eval", images, "--out", "{out}/e.json"), {"e.json": images / "summary.json"}),
            Command("calibrate", ("calibrate", views, "--out", "{out}/c.png"), {}),
            Command(
                "interpolate, pictures",
                ("interpolate", images, "picture0", "picture1", "--frames", 3, "--out", "{out}/new"), {},
            ),
            Command("inspect --out", ("inspect", made["views"], "--out", "{out}/look"), {}),
            Command(
                "render --path",
                ("render", views, "--scene", "scene0", "--path", "orbit", "--frames", 2, "--size", "8x8",
                 "--out", "{out}/walk"), {},
            ),
            Command(
                "import", ("import", "{out}/tcnn.safetensors", "--out", "{out}/f.safetensors"),
                {"tcnn.safetensors": packed, "tcnn.json": packed.with_suffix(".json")},
            ),
            Command(
                "export --format tcnn",
                ("export", images, "--scene", "picture1", "--format", "tcnn", "--out", "{out}/tcnn.safetensors"),
                {"tcnn.safetensors": packed, "tcnn.json": packed.with_suffix(".json")},
            ),
        ]  # fmt: skip
        old_picture = made["images"] / "picture0.png"
        for suffix in ("png", "jpg", "webp"):
            words = ("render", images, "--scene", "picture1", "--out", f"{{out}}/o.{suffix}")
            found.append(Command(f"render .{suffix}", words, {f"o.{suffix}": old_picture}))
        for suffix in ("gif", "mp4"):
            words = (
                "render",
                views,
                "--scene",
                "scene0",
                "--orbit",
                3,
                "--size",
                "16x16",
                "--out",
                f"{{out}}/o.{suffix}",
            )
            found.append(Command(f"render .{suffix}", words, {}))
        for suffix in ("ply", "obj", "glb", "stl", "safetensors"):
            words = ("export", shapes, "--scene", "box0", "--out", f"{{out}}/o.{suffix}")
            found.append(Command(f"export .{suffix}", words, {}))
        return found

    def _begin(self, command: Command, folder: Path) -> Path:
        folder.mkdir(parents=True)
        for name, source in command.old.items():
            families.copied(source, folder / name)
        return folder

    def _words(self, words: tuple[object, ...], folder: Path) -> list[object]:
        return [word.replace("{out}", str(folder)) if isinstance(word, str) else word for word in words]

    def _done(self, words: list[object], scratch: Path) -> None:
        done = run(words, scratch)
        if done.code != 0:
            raise RuntimeError(f"{' '.join(map(str, words))}: {done.code}: {done.error}")

    def case(self, number: int) -> dict[str, Any]:
        """A command whose write number so-and-so fails, and all after it."""
        command, way, at = self.cases[number]
        folder, scratch = self.root / f"write-{number}" / "folder", self.root / f"write-{number}"
        self._begin(command, folder)
        before = families.tree(folder)

        def prepare() -> None:
            every_step_of_fits(command)()
            Writes(folder, at, way).install()

        done = run(self._words(command.words, folder), scratch, prepare=prepare)
        failure = self._wrong(command, done, folder, before, leaves=way == "read-only")
        if not failure and done.code != 0 and number % 3 == 0:
            failure = self._again(command, folder, scratch)
        return self._told(command.name, f"{way} at write {at}", done, failure, scratch)

    def real_case(self, number: int) -> dict[str, Any]:
        """A command on a file system that has so many kilobytes left: a small one of its own, as root only."""
        command, size = self.real[number]
        scratch = self.root / f"small-{number}"
        folder = scratch / "disk"
        folder.mkdir(parents=True)
        with small_disk(folder, 131072):
            for name, source in command.old.items():
                families.copied(source, folder / name)
            before = families.tree(folder)
            room = shutil.disk_usage(folder).free
            filling = folder / "filling"
            filling.write_bytes(bytes(max(room - 1024 * size, 0)))
            before["filling"] = filling.read_bytes()
            done = run(self._words(command.words, folder), scratch, prepare=every_step_of_fits(command))
            failure = self._wrong(command, done, folder, before, leaves=False)
            filling.unlink()
            if not failure and done.code != 0:
                failure = self._again(command, folder, scratch)
        return self._told(command.name, f"{size} kB left on a real disk", done, failure, scratch)

    def _told(self, name: str, how: str, done: Outcome, failure: str, scratch: Path) -> dict[str, Any]:
        if not failure:
            shutil.rmtree(scratch)
        return {"name": name, "how": how, "code": done.code, "failure": failure}

    def _wrong(self, command: Command, done: Outcome, folder: Path, before: dict[str, bytes], leaves: bool) -> str:
        """What is wrong with a command whose writes failed; empty when nothing is."""
        after = families.tree(folder)
        if done.code == 0:  # what failed was not needed: a lock, a cache
            missing = [name for name in self.wanted[command.name] if name not in after]
            if missing:
                return f"exit code 0, but {missing[0]} is missing"
            return "" if result_of(folder) == self.results[command.name] else "exit code 0, but not the same bits"
        if wrong := done.refused(str(folder)):
            return wrong
        if re.search(r"\.tmp\b", done.line):
            return f"names a temporary file: {done.line}"
        for name, content in before.items():
            if name not in after:
                return f"{name} has gone"
            grown = name.endswith(".jsonl") and after[name].startswith(content)
            ours = name.startswith(("run/", "cmp/"))
            if after[name] not in (content, self.wanted[command.name].get(name)) and not grown and not ours:
                return f"{name} is neither the old nor the new one"
        known = frozenset((*before.values(), *self.wanted[command.name].values()))
        if wrong_files := damaged_files(folder, known):
            return f"damaged: {wrong_files[0]}"
        left = [name for name in after if TEMPORARY.fullmatch(Path(name).name) or name.endswith(".lock")]
        return f"left behind: {left[0]}" if left and not leaves else ""

    def _again(self, command: Command, folder: Path, scratch: Path) -> str:
        """The command once more, with room: it has to give what it gives undisturbed."""
        words = command.again if command.again and (folder / "run/config.json").exists() else command.words
        if command.name.startswith("add") and (folder / "run").is_dir() and any((folder / "run").glob("[!.]*")):
            words = ()
        done = run(self._words(words, folder), scratch, prepare=every_step_of_fits(command)) if words else None
        if done is not None and done.code != 0:
            return f"once more, with room: exit code {done.code}: {done.line}"
        ours, wanted = result_of(folder), self.results[command.name]
        return "" if ours == wanted else "once more, with room: not the same bits"


def every_step_of_fits(command: Command) -> Callable[[], None]:
    """What makes fits save a state and write a line at every step, so that as many writes can fail on any machine."""

    def every_step() -> None:
        import hyperfields.training.fit as fit

        fit.CHECKPOINT_SECONDS, fit.LOG_SECONDS = 0.0, 0.0

    return every_step if command.name.startswith("fit") else lambda: None


class small_disk:
    """Within it, `folder` is a file system of so many kilobytes.

    Raises:
        PermissionError: only root may mount.
    """

    def __init__(self, folder: Path, kilobytes: int) -> None:
        self.folder, self.kilobytes = folder, kilobytes

    def __enter__(self) -> None:
        words = ["mount", "-t", "tmpfs", "-o", f"size={self.kilobytes}k", "none", str(self.folder)]
        if subprocess.run(words, capture_output=True, check=False).returncode:
            raise PermissionError("only root may mount")

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


def may_mount(folder: Path) -> bool:
    """True when this process may make file systems."""
    folder.mkdir()
    try:
        with small_disk(folder, 64):
            return True
    except OSError:
        return False
