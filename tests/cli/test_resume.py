"""`fit` stopped in every way, and `fit --resume`."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hyperfields.runs.run import load_run

from ._families import KILLED, TINY, make_images, run_cli, tree

STEPS = ("--preset", "tiny", "--steps", "24")


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """More scenes than a step takes: which come when is random, and has to go on where it was."""
    return make_images(tmp_path / "family", tuple(f"scene{i}" for i in range(40)), side=6)


@pytest.mark.slow
def test_kill_and_resume(tmp_path: Path, many: Path) -> None:
    """In processes of their own, as a user runs them: what other tests leave in torch may change the last bits."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    first = f"from hyperfields.cli import main\nassert main({['fit', str(many), '--out', str(whole), *STEPS]!r}) == 0\n"
    words = [sys.executable, "-c", first + KILLED, "fit", str(many), "--out", str(run), *STEPS]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (run / "model.safetensors").exists()
    command = [sys.executable, "-m", "hyperfields", "fit", str(many), "--out", str(run), "--resume"]
    subprocess.run(command, capture_output=True, check=True)
    assert (run / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_ctrl_c_and_resume(
    tmp_path: Path,
    many: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also in the middle of a step, when half of the numbers are new."""
    from hyperfields.training.optim import Optimizers

    assert run_cli("fit", many, "--out", tmp_path / "whole", *STEPS) == 0
    expected = (tmp_path / "whole" / "model.safetensors").read_bytes()
    step, calls = Optimizers.backward_and_step, []

    def interrupted(self: Optimizers, loss: torch.Tensor) -> None:
        calls.append(loss)
        if len(calls) == 9:
            signal.raise_signal(signal.SIGINT)
        step(self, loss)

    out = tmp_path / "a run"
    with monkeypatch.context() as patch:
        patch.setattr(Optimizers, "backward_and_step", interrupted)
        capsys.readouterr()
        assert run_cli("fit", many, "--out", out, *STEPS) == 130
    error = capsys.readouterr().err
    assert f"stopped; go on with: hyperfields fit {many} --out '{out}' --resume\n" in error
    assert len(calls) == 9
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    # As the line says: the settings are those of the run.
    assert run_cli("fit", many, "--out", out, "--resume") == 0
    assert (out / "model.safetensors").read_bytes() == expected
    assert "(as the run)" in capsys.readouterr().out


def test_resume_with_other_settings_is_refused(tmp_path: Path, fits: Any, refused: Any) -> None:
    family, run = fits("images")
    shutil.copytree(run, tmp_path / "run")
    resume = ("fit", family, "--out", tmp_path / "run", "--resume")
    assert "seed 0, not 1" in refused(*resume, "--seed", 1)
    assert "3 scenes, not 2" in refused(*resume, "--limit", 2)
    other = make_images(tmp_path / "other", ("cat", "dog", "fox"))
    smaller = make_images(tmp_path / "smaller", ("cat", "dog", "eel"), side=8)
    assert "other data or another size" in refused(
        "fit", smaller, "--out", tmp_path / "run", "--resume", "--size", "8x8"
    )
    assert "no scene called 'eel'" in refused("fit", other, "--out", tmp_path / "run", "--resume")


def test_resume_keeps_the_model_when_presets_have_changed(
    tmp_path: Path, fits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hyperfields.tasks import IMAGES

    family, run = fits("images")
    expected = (run / "model.safetensors").read_bytes()
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").unlink()
    shutil.rmtree(tmp_path / "run" / "state")  # from the beginning
    model = IMAGES.model
    monkeypatch.setattr(type(IMAGES), "model", lambda self, name, *rest: model("faithful", *rest))
    assert run_cli("fit", family, "--out", tmp_path / "run", "--resume") == 0
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == expected


@pytest.mark.parametrize("length", ["--steps", "--minutes"])
def test_a_finished_fit_goes_on_for_longer(length: str, tmp_path: Path, fits: Any) -> None:
    family, run = fits("images")
    shutil.copytree(run, tmp_path / "run")
    took = json.loads((run / "summary.json").read_text())["seconds"]
    more = 30 if length == "--steps" else round(took / 60.0 + 0.005, 4)
    assert run_cli("fit", family, "--out", tmp_path / "run", "--resume", length, more) == 0
    settings = load_run(tmp_path / "run").config.fit
    assert (settings.steps, settings.minutes) == ((30, None) if length == "--steps" else (None, more))
    steps = json.loads((tmp_path / "run" / "summary.json").read_text())["steps"]
    assert steps == 30 if length == "--steps" else steps > 20


def test_resume_with_a_cut_log(tmp_path: Path, fits: Any) -> None:
    family, run = fits("images")
    shutil.copytree(run, tmp_path / "run")
    log = tmp_path / "run" / "metrics.jsonl"
    log.write_text('{"step": 1}\n{"step": 20}\n{"step": 20, "sec')  # a kill, or a full disk
    assert run_cli("fit", family, "--out", tmp_path / "run", "--resume", "--steps", 22) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 20, 22]


def test_resume_needs_a_run(tmp_path: Path, refused: Any) -> None:
    family = make_images(tmp_path / "family")
    assert "config.json" in refused("fit", family, "--out", tmp_path / "nowhere", "--resume")


def test_a_disk_that_fills_up_keeps_the_last_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    family = make_images(tmp_path / "family")
    fsync, calls = os.fsync, []

    def filling(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 4:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(importlib.import_module("hyperfields.training.fit"), "CHECKPOINT_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", filling)
        assert run_cli("fit", family, "--out", tmp_path / "run", *TINY) == 2
    assert "No space left" in capsys.readouterr().err
    files = tree(tmp_path / "run")
    assert [name for name in files if name.endswith(".tmp")] == []
    assert "state/resume.safetensors" in files
    assert run_cli("fit", family, "--out", tmp_path / "run", "--resume") == 0


def test_ranks_that_are_started_again_go_on_with_their_own_fit_alone(
    tmp_path: Path, many: Path, refused: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """torchrun starts ranks again after any error: a run that was refused at first was then gone on with."""
    run, command = tmp_path / "run", ("fit", many, "--limit", 3, "--preset", "tiny")
    assert run_cli(*command, "--out", run, "--steps", 3) == 0
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert "holds a fit of another length" in refused(*command, "--out", run, "--steps", 6)
    assert "holds another fit" in refused(*command, "--out", run, "--steps", 3, "--generator", "low-rank")
    assert "holds another fit" in refused(*command, "--out", run, "--steps", 3, "--seed", 1)
    assert "holds another fit" in refused("fit", many, "--limit", 4, *command[4:], "--out", run, "--steps", 3)
    (run / "model.safetensors").unlink()  # its ranks died
    assert run_cli(*command, "--out", run, "--steps", 3) == 0
    assert (run / "model.safetensors").exists()
