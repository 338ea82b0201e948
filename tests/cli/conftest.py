"""Fits that tests share, and commands that must be refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ._families import FINISHED, MAKERS, TINY, contents, run_cli, tree


@pytest.fixture(scope="session")
def fits(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """kind -> (family, fitted run), each fitted once by the command line. Not to be changed."""
    made: dict[str, tuple[Path, Path]] = {}

    def get(kind: str) -> tuple[Path, Path]:
        if kind == "shapes":
            for module in ("open3d", "skimage"):
                reason = f"{module} (hyperfields[shapes]) is missing"
                pytest.importorskip(module, reason=reason, exc_type=ImportError)
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            family, run = MAKERS[kind](folder / "family"), folder / "run"
            assert run_cli("fit", family, "--out", run, *TINY, *(FINISHED if kind == "shapes" else ())) == 0
            made[kind] = family, run
        return made[kind]

    return get


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must be refused and returns its line."""

    def run(*words: object) -> str:
        before = tree(tmp_path), contents(tmp_path)
        capsys.readouterr()
        assert run_cli(*words) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1, error
        assert error.startswith("hyperfields: error: ")
        assert (tree(tmp_path), contents(tmp_path)) == before
        return error

    return run
