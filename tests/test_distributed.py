"""Fits by several processes: the same numbers as one process gives, whatever happens to a rank."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import hyperfields as hf
from hyperfields.cli import main
from hyperfields.errors import InputError
from hyperfields.runs import shards
from hyperfields.runs.config import FitSettings
from hyperfields.runs.run import load_run
from hyperfields.training.distributed import _agreed_name
from hyperfields.training.fit import Fit
from hyperfields.training.parts import PartsTrainer, divide, parts_of_fit

from ._ranks import FAMILIES, KILLED_AT, NAMES, STEPS, TINY, make

# Modules of tests import each other as parts of a package, which pytest makes of the folder.
AS_A_MODULE = f"""
import runpy, sys, types
sys.modules["tests"] = types.ModuleType("tests")
sys.modules["tests"].__path__ = [{str(Path(__file__).parent)!r}]
runpy.run_module("tests._ranks", run_name="__main__")
"""


def start(task: str, folder: Path, ranks: int) -> list[subprocess.Popen[str]]:
    """Ranks as torchrun starts them."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    return [
        subprocess.Popen(
            [sys.executable, "-P", "-c", AS_A_MODULE, task, str(folder)], text=True,
            env={**os.environ, **where, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(ranks)
    ]  # fmt: skip


def ends(task: str, folder: Path, ranks: list[subprocess.Popen[str]]) -> list[Any]:
    """What the ranks found, once all have ended well."""
    errors = [rank.communicate(timeout=240)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * len(ranks), errors
    return [json.loads((folder / f"{task}-{rank}.json").read_text()) for rank in range(len(ranks))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def found(folder: Path) -> list[dict[str, Any]]:
    """What two ranks found, each."""
    results: list[dict[str, Any]] = ends("many", folder, start("many", folder, 2))
    return results


@pytest.fixture(scope="module")
def family(folder: Path) -> Path:
    """Pictures of 8x8, as many as there are names."""
    (folder / "family").mkdir()
    drawing = torch.Generator().manual_seed(0)
    for name in NAMES:
        hf.write_image(folder / "family" / f"{name}.png", torch.rand(8, 8, 3, generator=drawing))
    return folder / "family"


@pytest.fixture(scope="module")
def killed(folder: Path, family: Path) -> Path:
    """A fit by the command on two ranks, of which one was killed."""
    ranks = start("killed", folder, 2)
    (out, error), (nothing, _) = (rank.communicate(timeout=240) for rank in ranks)
    assert [rank.returncode for rank in ranks] == [2, -9], error
    assert error.startswith("hyperfields: error: rank 0: lost the other ranks (")
    assert error.endswith("); go on from the last state with --resume\n")
    assert error.count("\n") == 1
    assert "2 ranks, the scenes in 2 parts" in out
    assert nothing == ""  # only the first rank prints
    return folder / "killed"


def stored(run: Path) -> dict[str, torch.Tensor]:
    """All of the last state: what all scenes share, and the rows of all of them in their order."""
    manifest = shards.read_manifest(run)
    assert manifest is not None
    rows = shards.read_scenes(run, manifest, torch.arange(len(NAMES)), (shards.ROWS,))
    return shards.read_file(run, manifest, shards.SHARED) | rows


@pytest.mark.parametrize("kind", ["images", "views"])
def test_two_ranks_give_what_one_process_gives(kind: str, folder: Path, found: list[dict[str, Any]]) -> None:
    """With the same batches: networks, bases, codes, moments and occupancy. Images in 64 bits."""
    alone = make(FAMILIES[kind], folder / f"{kind} alone", steps=STEPS[kind], parts=2)
    run = alone.run()
    ours, theirs = stored(folder / f"{kind} alone"), stored(folder / kind)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-9, atol=1e-15, equal_nan=True, msg=name)
    assert any("occupancy.density" in name for name in ours) == (kind == "views")
    for rank in found:
        assert rank[kind]["loss"] == pytest.approx(alone.progress.loss, rel=1e-9)
        assert rank[kind]["names"] == list(NAMES)  # the run is whole on each
    assert run.summary["loss"] < 0.5 * 0.3


def test_what_is_sent_is_what_all_scenes_share(folder: Path, found: list[dict[str, Any]]) -> None:
    summary = found[0]["images"]["summary"]
    assert summary["ranks"] == 2
    assert summary["reduced_bytes_a_step"] == 8 * summary["parameters"]  # of 64 bits; no code is among them
    assert found[1]["images"]["summary"] == summary


def test_short_gradients_are_half_of_the_bytes_of_single_ones(found: list[dict[str, Any]]) -> None:
    summary, whole = found[0]["short"], found[0]["images"]["summary"]
    assert summary["reduced_bytes_a_step"] == 2 * whole["parameters"]
    assert whole["loss"] != summary["loss"] < 1.5 * whole["loss"]


def test_a_signal_to_one_rank_stops_all_after_the_same_step(folder: Path, found: list[dict[str, Any]]) -> None:
    assert [rank["stopped"] for rank in found] == [143, 143]
    manifest = shards.read_manifest(folder / "stopped")
    assert manifest is not None
    assert manifest.step == 4


def test_the_run_is_an_ordinary_one(folder: Path, found: list[dict[str, Any]]) -> None:
    run = load_run(folder / "images")
    codes = stored(folder / "images")["rows.model.latents.codes"]
    torch.testing.assert_close(run.model.latents.codes, codes.float(), rtol=1e-3, atol=1e-6)
    files = sorted(path.name for path in (folder / "images").rglob("*") if path.is_file())
    assert files == [
        "config.json", "manifest.json", "metrics.jsonl", "model.safetensors", "part-00000.safetensors",
        "part-00001.safetensors", "shared.safetensors", "summary.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("case", "line", "code"),
    [
        ("few", "2 parts: more than the 1 scenes; start as many ranks at most", 2),
        ("other family", "rank 0 and rank 1 differ: 11 scenes, not 10; give all ranks the same family", 2),
        ("other settings", "rank 0 and rank 1 differ: steps 3, not 4; give all ranks", 2),
        ("no folder", "out: none came for 2 ranks, wanted a folder that all of them see", 2),
        ("full disk", "rank 1: disk: No space left on device", 2),
        ("not finite", "the loss is nan at step ", 1),
    ],
)
def test_what_goes_wrong_on_one_rank_ends_all_with_one_line(
    case: str, line: str, code: int, found: list[dict[str, Any]], folder: Path
) -> None:
    assert found[0][case].startswith(line)
    assert found[1][case] == code
    assert not list((folder / "full").rglob("*.safetensors"))  # nothing is left of a state that was not finished


def test_a_fit_goes_on_after_a_rank_died_on_one_process(killed: Path, family: Path, folder: Path) -> None:
    """To the same bits as one that nothing happened to: parts stay what they were."""
    shutil.copytree(killed, folder / "on one")
    manifest = shards.read_manifest(killed)
    assert manifest is not None
    assert manifest.step == KILLED_AT
    assert main(["fit", str(family), "--out", str(folder / "on one"), "--resume"]) == 0
    assert main(["fit", str(family), "--out", str(folder / "whole"), *TINY, "--parts", "2"]) == 0
    assert load_run(folder / "on one").config.fit.parts == 2
    assert (folder / "on one/model.safetensors").read_bytes() == (folder / "whole/model.safetensors").read_bytes()


def test_a_fit_goes_on_in_other_parts(killed: Path, family: Path, folder: Path) -> None:
    """Codes and moments go with their scenes."""
    before = stored(killed)
    shutil.copytree(killed, folder / "in three")
    fit = Fit(hf.open_family(family), folder / "in three", FitSettings("tiny", steps=12, parts=3), resume=True)
    assert isinstance(fit.trainer, PartsTrainer)
    numbers = fit.trainer.scenes
    assert [len(part.scenes) for part in fit.trainer.parts] == [4, 4, 3]
    assert torch.equal(fit.model.latents.codes, before["rows.model.latents.codes"][numbers])
    moments = fit.trainer.state_dict()[1]
    assert {name: torch.equal(value, before[f"rows.trainer.{name}"][numbers]) for name, value in moments.items()} == {
        "optimizer.1/0/exp_avg": True, "optimizer.1/0/exp_avg_sq": True,
    }  # fmt: skip
    fit.run()
    assert stored(folder / "in three")["trainer.steps"] == 12


@pytest.mark.slow
def test_a_fit_goes_on_with_other_ranks(killed: Path, folder: Path) -> None:
    before = stored(killed)["rows.model.latents.codes"]
    shutil.copytree(killed, folder / "on three")
    found = ends("resumed", folder, start("resumed", folder, 3))
    assert (found[0]["step"], found[0]["parts"]) == (KILLED_AT, 3)
    numbers = [number for scenes, _ in found[0]["codes"] for number in scenes]
    codes = torch.tensor([row for _, rows in found[0]["codes"] for row in rows])
    assert sorted(numbers) == list(range(len(NAMES)))
    assert torch.equal(codes, before[numbers])
    assert sorted(load_run(folder / "on three").names) == sorted(NAMES)


def test_a_fit_of_one_process_goes_on_in_parts(family: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(["fit", str(family), "--out", str(run), "--preset", "tiny", "--steps", "3"]) == 0
    codes = load_run(run).model.latents.codes
    data, settings = hf.open_family(family), FitSettings("tiny", steps=6, parts=2)
    fit = Fit(data, run, settings, resume=True)
    assert isinstance(fit.trainer, PartsTrainer)
    assert fit.progress.step == 3
    torch.testing.assert_close(fit.model.latents.codes, codes[fit.trainer.scenes], rtol=1e-3, atol=1e-6)
    fit.run()
    assert not (run / "state/resume.safetensors").exists()
    assert stored(run)["trainer.steps"] == 6


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda file: file.unlink(), r"part-00001.safetensors: No such file or directory; the manifest .* names it"),
        (lambda file: file.write_bytes(file.read_bytes()[:-9]), r"part-00001.safetensors: damaged, [\d,]+ bytes of "),
        (lambda file: file.write_bytes(file.read_bytes()[:-1] + b"~"), r"part-00001.safetensors: damaged, "),
    ],
    ids=["missing", "cut", "changed"],
)  # fmt: skip
def test_a_shard_that_is_not_what_was_written_is_named(
    damage: Any, line: str, killed: Path, family: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(killed, tmp_path / "run")
    damage(tmp_path / f"run/state/{KILLED_AT:08}/part-00001.safetensors")
    assert main(["fit", str(family), "--out", str(tmp_path / "run"), "--resume"]) == 2
    error = capsys.readouterr().err
    assert re.search(line, error)
    assert error.count("\n") == 1


@pytest.mark.parametrize("content", ["", "[]", "null", '{"format": 1}', '{"format": 7, "step": 1}'])
def test_a_damaged_manifest_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state/manifest.json").write_text(content)
    with pytest.raises(InputError, match=r"state/manifest.json: "):
        shards.read_manifest(tmp_path)


def test_ranks_of_a_new_start_take_nothing_that_those_before_have_left() -> None:
    """torchrun keeps its store over restarts: ranks found addresses of dead ones in it, and could not join or hung."""
    store, names = torch.distributed.HashStore(), []
    for key in ("here/0", "here/1", "seen/0", "seen/1"):
        store.set(key, "0" * 16)
    for _ in range(2):
        with ThreadPoolExecutor(2) as ranks:
            found = list(ranks.map(lambda rank: _agreed_name(store, rank, 2), range(2)))
        assert found[0] == found[1]
        names.append(found[0])
    assert names[0] != names[1]


def test_parts() -> None:
    """Those asked for, those that there were, where the ranks divide them; else one a rank."""
    assert [parts_of_fit(None, None, ranks) for ranks in (1, 2, 3)] == [None, 2, 3]
    assert [parts_of_fit(None, 4, ranks) for ranks in (1, 2, 3, 4)] == [4, 4, 3, 4]
    assert [parts_of_fit(6, None, ranks) for ranks in (1, 2, 3)] == [6, 6, 6]
    with pytest.raises(InputError, match="--parts 3: wanted a multiple of the 2 ranks"):
        parts_of_fit(3, None, 2)


def test_parts_have_as_many_scenes_and_about_as_many_pictures() -> None:
    class Sized:
        names = tuple(map(str, range(11)))
        cameras = tuple([None] * (1 + 10 * scene) for scene in range(11))

    divided: Any = divide(Sized(), 3)  # type: ignore[arg-type]
    assert sorted(torch.cat(divided).tolist()) == list(range(11))
    assert [len(part) for part in divided] == [4, 4, 3]
    pictures = [sum(len(Sized.cameras[scene]) for scene in part.tolist()) for part in divided[:2]]
    assert abs(pictures[0] - pictures[1]) <= 20
