"""Help, choices, and a meter without a terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any, get_args

import pytest

from hyperfields import cli
from hyperfields.cli import options
from hyperfields.training import progress

from ._families import run_cli


def test_choices_are_those_of_the_library() -> None:
    """They are spelt out in cli/options.py, which must not import torch."""
    from hyperfields.data import KINDS
    from hyperfields.rendering.pictures import CHANNELS
    from hyperfields.tasks import PRESETS

    assert get_args(get_args(get_args(options.KindChoice)[0])[0]) == KINDS
    assert get_args(get_args(get_args(options.PresetChoice)[0])[0]) == PRESETS
    assert get_args(options.ChannelChoice) == CHANNELS


def test_help_of_all_verbs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run_cli("--help") == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    for verb in cli.VERBS:
        assert f"  {verb} " in text
        with pytest.raises(SystemExit) as stopped:
            run_cli(verb, "--help")
        assert stopped.value.code == 0
        detail = capsys.readouterr().out
        assert f"$ hyperfields {verb}" in detail
        assert "None" not in detail
        assert max(map(len, detail.splitlines())) <= 80
        examples = [line[4:] for line in (cli.VERBS[verb].__doc__ or "").splitlines() if line.startswith("    $")]
        assert "\n".join(examples) in detail.replace(" \\\n    ", " ")  # broken so that a shell takes them
    assert run_cli() == 0
    assert capsys.readouterr().out == text


def test_misspelt(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli("rendr") == 2
    assert capsys.readouterr().err == "hyperfields: error: verb 'rendr': unknown; did you mean render?\n"
    for words in (
        ("fit",),
        ("fit", "a", "--out", "b", "--minuts", "3"),
        ("fit", "a", "--out", "b", "--kind", "x"),
    ):
        with pytest.raises(SystemExit) as stopped:
            run_cli(*words)
        assert stopped.value.code == 2
    assert run_cli("--version") == 0
    assert capsys.readouterr().out.startswith("hyperfields ")


def test_help_is_light() -> None:
    """Nothing that takes long to import is imported: half a second is the aim."""
    heavy = {"numba", "numpy", "rich", "torch", "trimesh", "viser"}
    code = "import sys; from hyperfields.cli import main; main(sys.argv[1:]); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    assert not heavy & set(done.stdout.splitlines()[-1].split())


def test_help_of_a_verb_loads_no_torch() -> None:
    code = (
        "import sys\nfrom hyperfields.cli import main\n"
        "try:\n    main(['fit', '--help'])\nexcept SystemExit:\n    pass\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_a_reader_that_has_gone(fits: Any) -> None:
    """`hyperfields inspect RUN | head -1` is quiet."""
    _, run = fits("images")
    code = "import sys; from hyperfields.cli import main; sys.exit(main(sys.argv[1:]))"
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "-c", code, "inspect", str(run)]
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 128 + signal.SIGPIPE


def test_a_meter_without_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with progress.Meter("fit", 0.2) as meter:
        for second in range(1, 31):
            now[0] = 100.0 + second
            meter.show(0.2 + 0.02 * second, f"step {second}")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "fit:  42 %, 0:11, about 0:29 left, step 11",
        "fit:  64 %, 0:22, about 0:18 left, step 22",
    ]


def test_clock() -> None:
    assert [progress.clock(s) for s in (0.4, 59.6, 61, 3725)] == ["0:00", "1:00", "1:01", "1:02:05"]
