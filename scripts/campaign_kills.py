"""Kills: commands that write runs get SIGKILL, at any moment or in the middle of a write; then the same is typed again.

Nothing that a kill leaves may be damaged or taken for whole, and what comes out in the end has the bits of what was
never killed.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import campaign_families as families
from campaign_forks import Writes, count_writes, run
from campaign_whole import damaged_files
from safetensors import safe_open

FOREIGN = b"of another process"


@dataclass(frozen=True)
class Scenario:
    """A command that is killed. Its result goes to `out` in the folder of the case."""

    name: str
    weight: int  # its share of the kills
    words: Callable[[Path], list[object]]  # of the folder of a case
    again: Callable[[Path], list[object]]  # what is typed after a kill
    old: Callable[[Path], None] = lambda folder: None  # makes what is there before
    out: str = "out"

    def result(self, folder: Path) -> dict[str, Any]:
        """What has to be the same bits."""
        return result_of(folder / self.out)


def often() -> None:
    """States and lines of the log come all the time."""
    import hyperfields.training.fit as fit

    fit.CHECKPOINT_SECONDS, fit.LOG_SECONDS = 0.03, 0.02


class Kills:
    """The scenarios, made once, and the cases of a campaign."""

    def __init__(self, root: Path, made: dict[str, Path], seed: int, match: str = "") -> None:
        self.root, self.made, self.seed = root, made, seed
        scratch = root / "made"
        scratch.mkdir(parents=True)
        self.runs = {kind: scratch / f"run-{kind}" for kind in families.MAKERS}
        for kind, folder in self.runs.items():
            self._done(["fit", made[kind], "--out", folder, *families.TINY, 20], scratch)
        self.scenarios = [scenario for scenario in self._scenarios() if match in scenario.name]
        self.wanted: dict[str, dict[str, Any]] = {}
        self.seconds: dict[str, float] = {}
        self.writes: dict[str, int] = {}
        for scenario in self.scenarios:
            folder = scratch / scenario.name
            folder.mkdir()
            scenario.old(folder)
            self.seconds[scenario.name] = self._done(scenario.words(folder), scratch)
            self.wanted[scenario.name] = scenario.result(folder)
            again = scratch / f"{scenario.name}-counted"
            again.mkdir()
            scenario.old(again)
            self.writes[scenario.name] = count_writes(scenario.words(again), again, scratch, often)
            if scenario.result(again) != self.wanted[scenario.name]:
                raise RuntimeError(f"{scenario.name}: is not the same bits twice, undisturbed")

    def _done(self, words: list[object], scratch: Path) -> float:
        done = run(words, scratch, prepare=often)
        if done.code != 0:
            raise RuntimeError(f"{' '.join(map(str, words))}: {done.code}: {done.error}")
        return done.seconds

    def _scenarios(self) -> list[Scenario]:
        made, runs = self.made, self.runs

        def fit(name: str, kind: str, weight: int, steps: int, *options: str) -> Scenario:
            def words(folder: Path) -> list[object]:
                return ["fit", made[kind], "--out", folder / "out", *families.TINY, steps, *options]

            def again(folder: Path) -> list[object]:
                there = (folder / "out/config.json").exists()
                return ["fit", made[kind], "--out", folder / "out", "--resume"] if there else words(folder)

            return Scenario(name, weight, words, again)

        def longer(folder: Path) -> list[object]:
            return ["fit", made["images"], "--out", folder / "out", "--resume", "--steps", 60]

        def add(name: str, kind: str, weight: int, *options: str) -> Scenario:
            def words(folder: Path) -> list[object]:
                return ["add", runs[kind], made[f"{kind}-new"], "--out", folder / "out", "--steps", 20, *options]

            return Scenario(name, weight, words, words)

        def infer(folder: Path) -> list[object]:
            out = folder / "out.safetensors"
            return ["infer", runs["images"], made["images-new"], "--out", out, "--steps", 30, "--refine"]

        def old_codes(folder: Path) -> None:
            (folder / "out.safetensors").write_bytes((runs["images"] / "model.safetensors").read_bytes())

        def compare(folder: Path) -> list[object]:
            words = ["compare", made["images"], "--out", folder / "out", "--generators", "hierarchical,low-rank"]
            return [*words, *families.TINY, 16, "--unseen", 1]

        return [
            fit("fit images", "images", 12, 60),
            fit("fit shapes", "shapes", 6, 30),
            fit("fit views", "views", 8, 30),
            fit("fit images --by vae", "images", 8, 40, "--by", "vae"),
            fit("fit images --individually", "images", 5, 40, "--individually"),
            fit("fit images --by cavia", "images", 5, 12, "--by", "cavia"),
            Scenario(
                "fit --resume --steps, longer", 10, longer, longer,
                lambda folder: void(families.copied(runs["images"], folder / "out")),
            ),
            add("add", "images", 8),
            add("add --method output, views", "views", 5, "--method", "output"),
            add("add --method frozen", "images", 5, "--method", "frozen"),
            Scenario("infer --refine", 6, infer, infer, out="out.safetensors"),
            Scenario("infer over an old file", 6, infer, infer, old_codes, out="out.safetensors"),
            Scenario("compare", 16, compare, compare),
        ]  # fmt: skip

    def cases(self, count: int) -> list[Scenario]:
        """A scenario for each of `count` kills."""
        pool = [scenario for scenario in self.scenarios for _ in range(scenario.weight)]
        random.Random(self.seed).shuffle(pool)
        return [pool[i % len(pool)] for i in range(count)]

    def case(self, number: int, scenario: Scenario) -> dict[str, Any]:
        """A kill of a scenario, what it left, and what comes out in the end."""
        rng = random.Random(f"{self.seed} kill {number}")
        folder = self.root / f"kill-{number}"
        killed = 0
        for attempt in range(6):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            scenario.old(folder)
            before = scenario.result(folder)
            (folder / ".out.0badcafe.tmp").write_bytes(FOREIGN)
            how = self._kill(scenario, scenario.words(folder), folder, rng, attempt)
            if how:
                killed = 1
                break
        else:
            return {"name": scenario.name, "failure": "ended six times before it was killed"}
        trail = [how]
        failure = self._left(scenario, folder, before)
        inside = folder / "out/.model.safetensors.0badcafe.tmp"
        if scenario.name.startswith(("fit", "compare")):
            inside.parent.mkdir(exist_ok=True)
            inside.write_bytes(FOREIGN)
        twice = not failure and rng.random() < 0.25 and not self._whole(scenario, folder)
        if twice and (how := self._kill(scenario, scenario.again(folder), folder, rng, 5)):
            killed += 1
            trail.append(how)
            failure = self._left(scenario, folder, before)
        if not failure and not self._whole(scenario, folder):
            really = rng.random() < 0.05
            done = run(scenario.again(folder), folder, prepare=often, really=really)
            if done.code != 0:
                failure = f"the next try: exit code {done.code}: {done.line}"
        if not failure and scenario.result(folder) != self.wanted[scenario.name]:
            failure = f"not the same bits: {difference(scenario.result(folder), self.wanted[scenario.name])}"
        for planted in (folder / ".out.0badcafe.tmp", inside):
            if not failure and planted.parent.is_dir() and scenario.name.startswith("fit"):
                failure = "" if planted.read_bytes() == FOREIGN else f"{planted.name} was touched"
        if not failure:
            shutil.rmtree(folder)
        return {
            "name": scenario.name,
            "kills": killed,
            "writes": trail.count("write"),
            "how": trail,
            "failure": failure,
        }

    def _kill(self, scenario: Scenario, words: list[object], folder: Path, rng: random.Random, attempt: int) -> str:
        """The way in which a command was killed; empty when it ended before."""
        if rng.random() < 0.5:
            writes = Writes(folder, rng.randrange(max(self.writes[scenario.name] >> attempt, 1)), "kill")

            def prepare() -> None:
                often()
                writes.install()

            return "write" if run(words, folder, prepare=prepare).code == -9 else ""
        seconds = rng.uniform(0.01, 0.95) * self.seconds[scenario.name] / (1.0 + 0.5 * attempt)
        really = rng.random() < 0.1
        done = run(words, folder, prepare=often, kill_after=seconds + (2.0 if really else 0.0), really=really)
        return "time" if done.code == -9 else ""

    def _whole(self, scenario: Scenario, folder: Path) -> bool:
        """True for a result of `add` that is there already: the same again would be refused."""
        return scenario.name.startswith("add") and (folder / "out").is_dir() and any((folder / "out").glob("[!.]*"))

    def _left(self, scenario: Scenario, folder: Path, before: dict[str, Any]) -> str:
        """What is wrong with what a kill left; empty when nothing is."""
        if wrong := damaged_files(folder):
            return f"damaged after the kill: {wrong[0]}"
        out = folder / scenario.out
        if scenario.name.startswith(("fit", "add")) and out.is_dir():
            shown = run(["inspect", out], folder)
            if (out / "config.json").exists():
                if shown.code != 0:
                    return f"cannot be inspected after the kill: {shown.line}"
                model = result_of(out).get("model.safetensors")
                if model not in (
                    None,
                    before.get("model.safetensors"),
                    self.wanted[scenario.name]["model.safetensors"],
                ):
                    return "a model that is neither the old nor the new one"
            elif wrong := shown.refused(str(out)):
                return f"no run, and: {wrong}"
        if out.is_file() and result_of(out) not in (before, self.wanted[scenario.name]):
            return "a file that is neither the old nor the new one"
        return ""


def void(_: object) -> None:
    """Nothing."""


def result_of(out: Path) -> dict[str, Any]:
    """Path -> what has to be the same bits: tensors of states, all of other files of tensors, results without times."""
    found: dict[str, Any] = {}
    if out.is_file():
        return {"": _tensors(out)}
    for path in sorted(out.rglob("[!.]*")):
        name = str(path.relative_to(out))
        if name.startswith("."):  # in a temporary folder, which a read-only disk does not let go
            continue
        if path.name == "resume.safetensors":
            facts, values = _tensors(path)
            found[name] = [json.loads(facts["progress"])["step"], values]
        elif path.suffix == ".safetensors":
            found[name] = _tensors(path)
        elif path.name == "results.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            timed = ("seconds", "curve")
            found[name] = [{key: value for key, value in line.items() if key not in timed} for line in lines]
    return found


def _tensors(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Facts in the header, which come in any order, and the bytes of the tensors."""
    with safe_open(path, "np") as file:
        values = {key: file.get_tensor(key) for key in sorted(file.keys())}
        return file.metadata() or {}, {key: f"{v.dtype}{v.shape}{v.tobytes().hex()}" for key, v in values.items()}


def difference(ours: dict[str, Any], wanted: dict[str, Any]) -> str:
    """The first file that differs."""
    names = sorted(ours.keys() ^ wanted.keys()) or [name for name in wanted if ours[name] != wanted[name]]
    return f"{names[0]} ({'there' if names[0] in ours else 'missing'}, {len(names)} in all)"
