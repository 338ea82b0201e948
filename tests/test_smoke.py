"""The short list: what a user does first, by the command and by `import hyperfields as hf`, on the packaged samples.

`make test` runs it against the built wheel in an environment of its own, `scripts/test_floors.sh` against the lowest
versions that pyproject.toml claims. It leans on nothing that a user could not import.
"""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

import hyperfields as hf

pytestmark = pytest.mark.smoke
SAMPLES = {"images": "emoji", "shapes": "shapes_cars", "views": "cars_views"}
KINDS = tuple(SAMPLES)


class Fitted(NamedTuple):
    data: Path
    run: Path
    report: dict[str, dict[str, dict[str, float | None]]]  # as `eval` wrote it

    @property
    def names(self) -> list[str]:
        return list(self.report["scenes"])


def command(*words: object) -> int:
    from hyperfields.cli import main

    return main([str(word) for word in words])


@pytest.fixture(scope="session")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Fitted]:
    """kind -> a tiny run of the packaged samples and its report, each made once."""
    made: dict[str, Fitted] = {}

    def get(kind: str) -> Fitted:
        if kind == "shapes":
            for module in ("open3d", "skimage"):
                pytest.importorskip(module, reason=f"{module} is missing", exc_type=ImportError)
        if kind not in made:
            data = Path(str(importlib.resources.files("hyperfields.scenes"))) / "samples" / SAMPLES[kind]
            run = tmp_path_factory.mktemp(kind) / "run"
            size = () if kind == "shapes" else ("--size", "32x32")
            # A mesh of an unfinished fit is rubble of a million triangles.
            length = ("--steps", 120) if kind == "shapes" else ("--preset", "tiny", "--steps", 20)
            assert command("fit", data, "--out", run, *length, "--limit", 2, *size) == 0
            assert command("eval", run, "--out", run.with_suffix(".json")) == 0
            made[kind] = Fitted(data, run, json.loads(run.with_suffix(".json").read_text()))
        return made[kind]

    return get


def test_version_is_that_of_the_distribution() -> None:
    assert hf.__version__ == importlib.metadata.version("hyperfields")


def test_public_names_resolve() -> None:
    for name in hf.__all__:
        assert getattr(hf, name) is not None


@pytest.mark.parametrize(
    "file",
    ["hyperfields/py.typed", "hyperfields.viewer/page/index.html", "hyperfields.scenes/samples/emoji"],
)
def test_files_that_are_no_code_are_shipped(file: str) -> None:
    package, *parts = file.split("/")
    path = importlib.resources.files(package).joinpath(*parts)
    assert path.is_file() or path.is_dir()


def test_the_command_is_installed_and_its_help_loads_no_torch() -> None:
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="hyperfields")
    code = "import sys; from hyperfields.cli import main; main(['--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert script.value == "hyperfields.cli:main"
    assert "interpolate" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("doctor") == 0
    assert "backend cpu" in capsys.readouterr().out


@pytest.mark.parametrize(("kind", "metric"), [("images", "psnr"), ("shapes", "iou"), ("views", "psnr")])
def test_fit_and_eval(kind: str, metric: str, fitted: Callable[[str], Fitted]) -> None:
    report = fitted(kind).report
    assert len(report["scenes"]) == 2
    for values in report["scenes"].values():
        value = values[metric]
        assert value is not None
        assert 0.0 <= value < 100.0


@pytest.mark.parametrize("kind", KINDS)
def test_render(kind: str, fitted: Callable[[str], Fitted], tmp_path: Path) -> None:
    _, run, report = fitted(kind)
    scene = next(iter(report["scenes"]))
    assert command("render", run, "--scene", scene, "--size", "24x24", "--out", tmp_path / "picture.png") == 0
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("kind", "suffix"), [("images", ".png"), ("shapes", ".glb")])
def test_export(kind: str, suffix: str, fitted: Callable[[str], Fitted], tmp_path: Path) -> None:
    run = fitted(kind)
    assert command("export", run.run, "--scene", run.names[0], "--out", tmp_path / f"scene{suffix}") == 0
    assert (tmp_path / f"scene{suffix}").stat().st_size > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_field_alone(kind: str, fitted: Callable[[str], Fitted], tmp_path: Path) -> None:
    run = fitted(kind)
    assert command("export", run.run, "--scene", run.names[0], "--out", tmp_path / "field.safetensors") == 0
    assert hf.load_field(tmp_path / "field.safetensors") is not None


def test_interpolate(fitted: Callable[[str], Fitted], tmp_path: Path) -> None:
    run = fitted("images")
    words = (*run.names[:2], "--frames", 3, "--size", "16x16", "--out", tmp_path / "walk.gif")
    assert command("interpolate", run.run, *words) == 0
    assert (tmp_path / "walk.gif").read_bytes().startswith(b"GIF8")


def test_infer_codes_of_unseen_scenes_and_render_one(fitted: Callable[[str], Fitted], tmp_path: Path) -> None:
    run = fitted("images")
    codes = tmp_path / "codes.safetensors"
    assert command("infer", run.run, run.data, "--out", codes, "--steps", 5, "--limit", 2) == 0
    assert command("render", run.run, "--codes", codes, "--scene", run.names[0], "--out", tmp_path / "a.png") == 0


def test_add_scenes(fitted: Callable[[str], Fitted], tmp_path: Path) -> None:
    run = fitted("images")
    assert command("add", run.run, run.data, "--steps", 5, "--limit", 4, "--out", tmp_path / "more") == 0
    assert len(hf.load_run(tmp_path / "more").names) == 4


def test_a_fit_goes_on(fitted: Callable[[str], Fitted], tmp_path: Path) -> None:
    words = (fitted("images").data, "--out", tmp_path / "run", "--preset", "tiny", "--limit", 2, "--size", "16x16")
    assert command("fit", *words, "--steps", 5) == 0
    assert command("fit", *words, "--steps", 5, "--resume") == 0


def test_inspect(fitted: Callable[[str], Fitted], capsys: pytest.CaptureFixture[str]) -> None:
    assert command("inspect", fitted("views").run) == 0
    assert "views" in capsys.readouterr().out


def test_what_cannot_be_used_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("eval", tmp_path / "nowhere") == 2
    error = capsys.readouterr().err
    assert error.startswith("hyperfields: error: ")
    assert error.count("\n") == 1


@pytest.mark.skipif(importlib.util.find_spec("websockets") is None, reason="the viewer: websockets is missing")
def test_the_viewer_can_be_imported() -> None:
    done = subprocess.run([sys.executable, "-c", "import hyperfields.viewer.app"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
