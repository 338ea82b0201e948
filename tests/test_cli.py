"""The command line: what it writes; what cannot be used is one line, exit code 2, nothing written."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image

from hyperfields import cli
from hyperfields.cli import console, main, options
from hyperfields.cli import fit as fitting
from hyperfields.runs.checkpoint import load_field, load_run

SIDE = 16
ANGLE = 0.69
CORNERS = [(x, y, z) for z in (0, 1) for y in (0, 1) for x in (0, 1)]
QUADS = [(0, 2, 3, 1), (4, 5, 7, 6), (0, 1, 5, 4), (2, 6, 7, 3), (0, 4, 6, 2), (1, 3, 7, 5)]  # outward
HEADER = (
    "ply\nformat ascii 1.0\nelement vertex {v}\nproperty float x\nproperty float y\nproperty float z\n"
    "element face {f}\nproperty list uchar int vertex_indices\nend_header\n"
)
TINY = ("--preset", "tiny", "--steps", "20")
FINISHED = ("--steps", "120")  # shapes: a mesh of an unfinished fit is rubble of a million triangles

# Families to fit ------------------------------------------------------------------------------


def make_images(folder: Path, names: tuple[str, ...] = ("cat", "dog", "eel"), side: int = SIDE) -> Path:
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        v, u = np.mgrid[:side, :side] / side
        pixels = np.stack((u, v, np.full_like(u, number / 4)), -1)
        Image.fromarray((255 * pixels).astype(np.uint8)).save(folder / f"{name}.png")
    return folder


def box_ply(width: float = 1.0, faces: int = 6) -> str:
    """A box of `width`; with less than 6 faces it is open."""
    triangles = [t for a, b, c, d in QUADS[:faces] for t in ((a, b, c), (a, c, d))]
    lines = [f"{width * x} {y} {z}" for x, y, z in CORNERS]
    lines += [f"3 {a} {b} {c}" for a, b, c in triangles]
    return HEADER.format(v=len(CORNERS), f=len(triangles)) + "\n".join(lines) + "\n"


def make_shapes(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "brick.ply").write_text(box_ply(2.0))
    (folder / "cube.ply").write_text(box_ply(1.0))
    return folder


def make_views(folder: Path) -> Path:
    """Two scenes of a disc, each seen from 4 sides."""
    turns = [
        [[0.0, 0.0, 1.0, 3.0], [1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]],
        [[0.0, 0.0, -1.0, -3.0], [-1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]],
    ]
    for number, name in enumerate(("disc", "ring")):
        for split in ("train", "test"):
            (folder / name / split).mkdir(parents=True)
            frames = []
            for i, pose in enumerate(turns):
                v, u = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
                alpha = (u**2 + v**2 < 0.1) & ((u**2 + v**2 > 0.02) | (number == 0))
                rgba = np.stack((0.5 + u, 0.5 + v, np.full_like(u, 0.5), alpha.astype(float)), -1)
                Image.fromarray((255 * rgba).astype(np.uint8)).save(folder / name / split / f"r_{i}.png")
                frames.append({"file_path": f"./{split}/r_{i}", "transform_matrix": pose})
            content = {"camera_angle_x": ANGLE, "frames": frames}
            (folder / name / f"transforms_{split}.json").write_text(json.dumps(content))
    return folder


MAKERS: dict[str, Callable[[Path], Path]] = {
    "images": make_images,
    "shapes": make_shapes,
    "views": make_views,
}
SCENES = {"images": ("cat", "dog"), "shapes": ("brick", "cube"), "views": ("disc", "ring")}


def run_cli(*words: object) -> int:
    return main([str(word) for word in words])


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


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


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


# What comes out --------------------------------------------------------------------------------


KEYS = {"kind", "scenes", "mean", "bytes_per_scene", "parameters", "fit_seconds", "peak_memory_bytes"}
MEANS = {
    "images": {"psnr", "ssim", "lpips_alex", "lpips_vgg"},
    "views": {"psnr", "ssim", "lpips_alex", "lpips_vgg"},
    "shapes": {"iou", "surface_distance", "chamfer", "f_score", "normal_consistency"},
}


@pytest.mark.parametrize("kind", MAKERS)
def test_eval_writes_the_report(kind: str, fits: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, run = fits(kind)
    capsys.readouterr()
    assert run_cli("eval", run, "--out", tmp_path / "report.json") == 0
    out = capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report.keys() >= KEYS
    assert report["kind"] == kind
    assert report["mean"].keys() == MEANS[kind]
    assert set(report["scenes"]) == set(load_run(run).names)
    assert all(scene.keys() == MEANS[kind] for scene in report["scenes"].values())
    first = next(value for value in report["mean"].values() if value is not None)
    assert isinstance(first, float)
    assert "mean of" in out
    assert SCENES[kind][0] in out
    assert "bytes a scene" in out


def test_fit_says_what_it_found_and_what_to_type_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    family = make_images(tmp_path / "family")
    assert run_cli("fit", family, "--out", tmp_path / "run", *TINY) == 0
    out = capsys.readouterr().out
    assert "images: 3 scenes, 16x16 (detected)" in out
    assert "20 steps in " in out
    size = (tmp_path / "run" / "model.safetensors").stat().st_size
    assert f"{size / 1e3:,.0f} kB" in out
    assert f"next: hyperfields eval {tmp_path / 'run'}" in out
    names = {"config.json", "model.safetensors", "metrics.jsonl", "summary.json", "state"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == names


def test_the_run_remembers_its_family(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Size, scenes and limit of the fit come back in eval, from where the family is then."""
    family = make_images(tmp_path / "family")
    words = ("--size", "12x14", "--scenes", "dog,e*", "--limit", "1", "--kind", "images")
    assert run_cli("fit", family, "--out", tmp_path / "run", *TINY, *words) == 0
    assert "images: 1 scene, 12x14 (as asked)" in capsys.readouterr().out
    run = load_run(tmp_path / "run")
    assert run.names == ("dog",)
    assert run.config["family"] == {
        "path": str(family), "size": [12, 14], "scenes": ["dog", "e*"], "limit": 1,
    }  # fmt: skip
    assert run_cli("eval", run.path, "--out", tmp_path / "report.json") == 0
    notes = json.loads((tmp_path / "report.json").read_text())["notes"]
    assert not [note for note in notes if note.startswith("family")]
    family.rename(tmp_path / "elsewhere")
    capsys.readouterr()
    assert run_cli("eval", run.path) == 2
    assert "--family" in capsys.readouterr().err
    assert run_cli("eval", run.path, "--family", tmp_path / "elsewhere") == 0


def test_two_minutes_are_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fitting, "DEFAULT_MINUTES", 0.001)
    assert run_cli("fit", make_images(tmp_path / "family"), "--out", tmp_path / "run") == 0
    assert "fitting for 0.001 minutes; choose with --minutes M or --steps N" in capsys.readouterr().out
    fit = load_run(tmp_path / "run").config["fit"]
    assert (fit["minutes"], fit["steps"], fit["preset"]) == (0.001, None, "default")


@pytest.mark.parametrize("kind", ["images", "views"])
def test_each_alone(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    family = MAKERS[kind](tmp_path / "family")
    assert run_cli("fit", family, "--out", tmp_path / "run", *TINY, "--individually") == 0
    assert run_cli("eval", tmp_path / "run", "--out", tmp_path / "report.json") == 0
    assert "fitted alone" in capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["bytes_per_scene"]["amortised"] == report["bytes_per_scene"]["marginal"]
    assert run_cli("render", tmp_path / "run", "--scene", SCENES[kind][1], "--out", tmp_path / "x.png") == 0


@pytest.mark.parametrize("kind", MAKERS)
def test_render_a_picture(kind: str, fits: Any, tmp_path: Path) -> None:
    _, run = fits(kind)
    out = tmp_path / "x.png"
    assert run_cli("render", run, "--scene", SCENES[kind][0], "--out", out, "--size", "20x24") == 0
    with Image.open(out) as picture:
        assert picture.size == (24, 20)


def test_render_the_fitted_picture(fits: Any, tmp_path: Path) -> None:
    """The picture on disk is the field's own, rounded to 8 bits."""
    _, run = fits("images")
    assert run_cli("render", run, "--scene", "dog", "--out", tmp_path / "x.png") == 0
    steps = (torch.arange(SIDE) + 0.5) / SIDE
    v, u = torch.meshgrid(steps, steps, indexing="ij")
    with torch.no_grad():
        wanted = load_run(run).bind("dog")(torch.stack((u, v), -1).reshape(1, -1, 2))
    assert isinstance(wanted, torch.Tensor)
    got = torch.from_numpy(np.array(Image.open(tmp_path / "x.png"))).float() / 255.0
    torch.testing.assert_close(got, wanted.reshape(SIDE, SIDE, 3).clamp(0.0, 1.0), atol=0.5 / 255 + 1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["shapes", "views"])
def test_render_an_orbit(kind: str, fits: Any, tmp_path: Path) -> None:
    _, run = fits(kind)
    out = tmp_path / "x.gif"
    scene = ("--scene", SCENES[kind][0])
    assert run_cli("render", run, *scene, "--out", out, "--orbit", 3, "--size", "12x12") == 0
    with Image.open(out) as animation:
        assert animation.size == (12, 12)
    for channel in ("depth", "normals"):
        still = tmp_path / f"{channel}.png"
        assert run_cli("render", run, *scene, "--out", still, "--channel", channel, "--size", "12x12") == 0


@pytest.mark.parametrize("kind", MAKERS)
def test_interpolate(kind: str, fits: Any, tmp_path: Path) -> None:
    _, run = fits(kind)
    options = ("--frames", 3, "--size", "12x12", "--mode", "slerp")
    assert run_cli("interpolate", run, *SCENES[kind], "--out", tmp_path / "x.gif", *options) == 0
    assert (tmp_path / "x.gif").read_bytes()[:3] == b"GIF"
    assert run_cli("interpolate", run, *SCENES[kind], "--out", tmp_path / "frames", *options) == 0
    suffix = "ply" if kind == "shapes" else "png"
    assert sorted(p.name for p in (tmp_path / "frames").iterdir()) == [f"frame_{i:03d}.{suffix}" for i in range(3)]


SUFFIXES = {
    "images": [".png", ".jpg", ".webp", ".safetensors"],
    "shapes": [".png", ".ply", ".obj", ".glb", ".stl", ".safetensors"],
    "views": [".png", ".ply", ".safetensors"],
}


@pytest.mark.parametrize(("kind", "suffix"), [(k, s) for k, found in SUFFIXES.items() for s in found])
def test_export(kind: str, suffix: str, fits: Any, tmp_path: Path) -> None:
    _, run = fits(kind)
    out = tmp_path / f"x{suffix}"
    scene = SCENES[kind][0]
    assert run_cli("export", run, "--scene", scene, "--out", out) == 0
    assert out.stat().st_size > 0
    if suffix == ".safetensors":
        x = torch.rand(1, 50, 2 if kind == "images" else 3)
        points = (x, x / x.norm(dim=-1, keepdim=True)) if kind == "views" else (x,)
        with torch.no_grad():
            alone, bound = load_field(out)(*points), load_run(run).bind(scene)(*points)
        for got, wanted in zip(as_tuple(alone), as_tuple(bound), strict=True):
            torch.testing.assert_close(got, wanted)


def as_tuple(answer: Any) -> tuple[torch.Tensor, ...]:
    return answer if isinstance(answer, tuple) else (answer,)


def test_infer_then_use_the_codes(fits: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, run = fits("views")
    family = make_views(tmp_path / "new")
    codes = tmp_path / "codes.safetensors"
    assert run_cli("infer", run, family, "--out", codes, "--steps", 4, "--views", "0,1", "--refine") == 0
    out = capsys.readouterr().out
    assert "views: 2 scenes (as the run)" in out
    assert f"render {run} --codes {codes} --scene disc --out disc.png" in out
    assert run_cli("render", run, "--codes", codes, "--scene", "ring", "--out", tmp_path / "ring.png") == 0
    assert run_cli("export", run, "--codes", codes, "--scene", "ring", "--out", tmp_path / "r.safetensors") == 0
    from hyperfields.training.inference import load_codes

    loaded = load_run(run)
    found = load_codes(codes, loaded)
    assert found.residual
    x = torch.rand(1, 50, 3)
    with torch.no_grad():  # the refined field, not that of the code alone
        alone, bound = load_field(tmp_path / "r.safetensors")(x, x), found.bind(loaded, "ring")(x, x)
    for got, wanted in zip(as_tuple(alone), as_tuple(bound), strict=True):
        torch.testing.assert_close(got, wanted)


def test_infer_pictures_of_another_size(fits: Any, tmp_path: Path) -> None:
    """They are brought to the size of the run."""
    _, run = fits("images")
    family = make_images(tmp_path / "new", ("fox",), side=32)
    codes = tmp_path / "codes.safetensors"
    assert run_cli("infer", run, family, "--out", codes, "--steps", 4) == 0
    assert run_cli("render", run, "--codes", codes, "--out", tmp_path / "fox.png") == 0  # the only scene
    with Image.open(tmp_path / "fox.png") as picture:
        assert picture.size == (SIDE, SIDE)


@pytest.mark.parametrize("kind", MAKERS)
def test_inspect(kind: str, fits: Any, capsys: pytest.CaptureFixture[str]) -> None:
    _, run = fits(kind)
    capsys.readouterr()
    assert run_cli("inspect", run) == 0
    text = capsys.readouterr().out
    for word in (kind, SCENES[kind][0], "Modulation", "HashGrid", "20 steps", "bytes a scene", "last loss"):
        assert word in text
    assert run_cli("inspect", run, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    model = load_run(run).model
    assert sum(found["parameters"].values()) == sum(p.numel() for p in model.parameters())
    assert found["bytes_per_scene"]["amortised"] == model.bytes_per_scene()[0]
    assert found["finished"] is True
    assert found["files"]["model.safetensors"] == (run / "model.safetensors").stat().st_size


def test_inspect_an_unfinished_run(fits: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, run = fits("images")
    shutil.copytree(run, tmp_path / "run")
    for name in ("model.safetensors", "summary.json"):
        (tmp_path / "run" / name).unlink()
    capsys.readouterr()
    assert run_cli("inspect", tmp_path / "run") == 0
    assert "not finished" in capsys.readouterr().out
    assert run_cli("inspect", tmp_path / "run", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    model = load_run(run).model
    assert sum(found["parameters"].values()) == sum(p.numel() for p in model.parameters())


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli("doctor") == 0
    lines = capsys.readouterr().out.splitlines()
    found = {re.split(r"\s{2,}", line)[0]: line for line in lines}
    assert torch.__version__.split("+")[0] in found["torch"]
    assert found["backend reference"].endswith("usable")
    for name in ("python", "numba", "open3d", "websockets", "threads", "cache", "device cuda", "lpips weights"):
        assert name in found


def test_doctor_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(module: str) -> None:
        raise OSError("libEGL.so.1: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "av" else object())
    monkeypatch.setattr(importlib, "import_module", gone)
    monkeypatch.setattr(console, "_loads", lambda library: library not in ("libEGL.so.1", "libGL.so.1"))
    monkeypatch.setattr(sys, "platform", "linux")
    assert "missing: pip install 'hyperfields[video]'" in console._optional("av")
    assert "apt-get install -y --no-install-recommends libegl1 libgl1" in console._optional("open3d")


# Stopping and going on ---------------------------------------------------------------------------


STEPS = ("--preset", "tiny", "--steps", "24")


@pytest.fixture
def whole(tmp_path: Path) -> tuple[Path, bytes]:
    """(family, model file) of a fit that was never stopped.

    More scenes than a step takes: which come when is random, and has to go on where it was.
    """
    family = make_images(tmp_path / "family", tuple(f"scene{i}" for i in range(40)), side=6)
    assert run_cli("fit", family, "--out", tmp_path / "whole", *STEPS) == 0
    return family, (tmp_path / "whole" / "model.safetensors").read_bytes()


KILLED = """
import importlib, os, signal, sys
from hyperfields.cli import main

importlib.import_module("hyperfields.training.fit").CHECKPOINT_SECONDS = 0.0  # after every step
replace, states = os.replace, 0

def replace_or_die(source, target):
    global states
    states += str(target).endswith("resume.safetensors")
    if states == 7:  # the worst moment: the new file is whole but not yet in its place
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

os.replace = replace_or_die
sys.exit(main(sys.argv[1:]))
"""


def test_kill_and_resume(tmp_path: Path, whole: tuple[Path, bytes]) -> None:
    family, wanted = whole
    words = [sys.executable, "-c", KILLED, "fit", str(family), "--out", str(tmp_path / "run"), *STEPS]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert run_cli("fit", family, "--out", tmp_path / "run", *STEPS, "--resume") == 0
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == wanted


def test_ctrl_c_and_resume(
    tmp_path: Path,
    whole: tuple[Path, bytes],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also in the middle of a step, when half of the numbers are new."""
    from hyperfields.training.optim import Optimizers

    family, wanted = whole
    step, calls = Optimizers.step, []

    def interrupted(self: Optimizers, loss: torch.Tensor, factor: float) -> None:
        calls.append(factor)
        if len(calls) == 9:
            signal.raise_signal(signal.SIGINT)
        step(self, loss, factor)

    out = tmp_path / "a run"
    with monkeypatch.context() as patch:
        patch.setattr(Optimizers, "step", interrupted)
        capsys.readouterr()
        assert run_cli("fit", family, "--out", out, *STEPS) == 130
    error = capsys.readouterr().err
    assert f"stopped; go on with: hyperfields fit {family} --out '{out}' --resume\n" in error
    assert len(calls) == 9
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    # As the line says: the settings are those of the run.
    assert run_cli("fit", family, "--out", out, "--resume") == 0
    assert (out / "model.safetensors").read_bytes() == wanted
    assert "(as the run)" in capsys.readouterr().out


def test_resume_with_other_settings_is_refused(tmp_path: Path, fits: Any, refused: Any) -> None:
    family, run = fits("images")
    shutil.copytree(run, tmp_path / "run")
    resume = ("fit", family, "--out", tmp_path / "run", "--resume")
    assert "its fit differs" in refused(*resume, "--steps", 21)
    assert "its fit differs" in refused(*resume, "--seed", 1)
    assert "its scenes differs" in refused(*resume, "--limit", 2)
    other = make_images(tmp_path / "other", ("cat", "dog", "fox"))
    assert "its scenes differs" in refused("fit", other, "--out", tmp_path / "run", "--resume")


def test_resume_keeps_the_model_when_presets_have_changed(
    tmp_path: Path, fits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hyperfields.tasks.presets import preset

    family, run = fits("images")
    wanted = (run / "model.safetensors").read_bytes()
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").unlink()
    shutil.rmtree(tmp_path / "run" / "state")  # from the beginning

    def changed(name: str, *rest: Any) -> Any:
        return preset("faithful", *rest)

    monkeypatch.setattr(importlib.import_module("hyperfields.training.fit"), "preset", changed)
    assert run_cli("fit", family, "--out", tmp_path / "run", "--resume") == 0
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == wanted


def test_resume_needs_a_run(tmp_path: Path, refused: Any) -> None:
    family = make_images(tmp_path / "family")
    assert "config.json" in refused("fit", family, "--out", tmp_path / "nowhere", "--resume")


# Bad input: one line, exit code 2, nothing written -------------------------------------------------


def spoil(folder: Path, what: str) -> None:
    """Turn a good family of images into a bad one."""
    path = folder / "dog.png"
    data = path.read_bytes()
    if what == "zero bytes":
        path.write_bytes(b"")
    elif what == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif what == "no picture":
        path.write_text("a dog")
    elif what == "other size":
        Image.new("RGB", (8, 9)).save(path)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("zero bytes", "not a readable picture"),
        ("truncated", "not a readable picture"),
        ("no picture", "not a readable picture"),
        ("other size", "--size HxW"),
    ],
)
def test_bad_images(tmp_path: Path, refused: Any, what: str, said: str) -> None:
    family = make_images(tmp_path / "family")
    spoil(family, what)
    error = refused("fit", family, "--out", tmp_path / "run", *TINY)
    assert str(family / "dog.png") in error
    assert said in error


def test_images_of_several_sizes_are_resized_when_asked(tmp_path: Path) -> None:
    family = make_images(tmp_path / "family")
    spoil(family, "other size")
    assert run_cli("fit", family, "--out", tmp_path / "run", *TINY, "--size", "8x8") == 0


def test_bad_folders(tmp_path: Path, refused: Any) -> None:
    out = ("--out", tmp_path / "run", *TINY)
    assert "nowhere: no such folder" in refused("fit", tmp_path / "nowhere", *out)
    (tmp_path / "empty").mkdir()
    assert "empty: is empty" in refused("fit", tmp_path / "empty", *out)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("a")
    assert "letters: nothing to fit" in refused("fit", tmp_path / "letters", *out)
    images = make_images(tmp_path / "images")
    assert "images: holds no shapes" in refused("fit", images, *out, "--kind", "shapes")
    (images / "cube.ply").write_text(box_ply())
    assert "--kind images|shapes" in refused("fit", images, *out)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEADER.format(v=8, f=0) + "0 0 0\n" * 8, "has no faces"),
        (box_ply().replace("1.0 1 1", "nan 1 1"), "NaN or infinite vertices"),
        (box_ply()[:250], "cube.ply"),
    ],
)
def test_bad_meshes(tmp_path: Path, fits: Any, refused: Any, text: str, said: str) -> None:
    fits("shapes")  # skips where shapes cannot be read
    family = make_shapes(tmp_path / "family")
    (family / "cube.ply").write_text(text)
    error = refused("fit", family, "--out", tmp_path / "run", *TINY)
    assert str(family / "cube.ply") in error
    assert said in error


def test_an_open_surface_is_a_warning(tmp_path: Path, fits: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fits("shapes")
    family = make_shapes(tmp_path / "family")
    (family / "cube.ply").write_text(box_ply(faces=5))
    capsys.readouterr()
    assert run_cli("fit", family, "--out", tmp_path / "run", *TINY) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"hyperfields: warning: {family / 'cube.ply'}: an open surface")
    assert "guess" in lines[0]


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """What changes the content of ring's transforms_train.json."""

    def edit(folder: Path) -> None:
        path = folder / "ring" / "transforms_train.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return edit


@pytest.mark.parametrize(
    ("spoiled", "said"),
    [
        (lambda f: (f / "ring" / "transforms_train.json").unlink(), "is missing"),
        (lambda f: (f / "ring" / "transforms_train.json").write_text("{"), "not readable as JSON"),
        (edited(lambda c: c.pop("camera_angle_x")), "camera_angle_x"),
        (edited(lambda c: c["frames"][1].update(file_path="./train/r_9")), "r_9"),
        (edited(lambda c: c["frames"][1].update(file_path="../disc/train/r_0")), "leaves the scene's folder"),
        (edited(lambda c: c["frames"][1]["transform_matrix"][0].__setitem__(2, 7.0)), "not a rigid pose"),
    ],
)
def test_bad_transforms(tmp_path: Path, refused: Any, spoiled: Callable[[Path], Any], said: str) -> None:
    family = make_views(tmp_path / "family")
    spoiled(family)
    error = refused("fit", family, "--out", tmp_path / "run", *TINY)
    assert str(family / "ring") in error
    assert said in error


def test_unknown_scenes(tmp_path: Path, fits: Any, refused: Any) -> None:
    family, run = fits("images")
    error = refused("fit", family, "--out", tmp_path / "run", *TINY, "--scenes", "cat,dug")
    assert "'dug'" in error
    assert "dog" in error
    error = refused("render", run, "--scene", "dug", "--out", tmp_path / "x.png")
    assert "'dug'" in error
    assert "nearest names are dog" in error
    assert "'dug'" in refused("export", run, "--scene", "dug", "--out", tmp_path / "x.png")
    assert "'dug'" in refused("interpolate", run, "cat", "dug", "--out", tmp_path / "x.gif")
    assert "--scene: give a scene" in refused("render", run, "--out", tmp_path / "x.png")
    assert "at least 2" in refused("interpolate", run, "cat", "--out", tmp_path / "x.gif")


def test_unknown_scenes_of_codes(tmp_path: Path, fits: Any, refused: Any) -> None:
    family, run = fits("images")
    codes = tmp_path / "codes.safetensors"
    assert run_cli("infer", run, family, "--out", codes, "--steps", 2) == 0
    out = ("--out", tmp_path / "x.png")
    assert "nearest names are dog" in refused("render", run, "--codes", codes, "--scene", "dug", *out)
    assert "give one of the 3" in refused("render", run, "--codes", codes, *out)
    model = run / "model.safetensors"
    assert "not a file of codes" in refused("render", run, "--codes", model, "--scene", "dog", *out)
    other = tmp_path / "other"
    assert run_cli("fit", family, "--out", other, *TINY, "--seed", 1) == 0
    assert "another run" in refused("render", other, "--codes", codes, "--scene", "dog", *out)


VERBS_ON_RUNS = {
    "eval": (),
    "render": ("--scene", "cat", "--out", "x.png"),
    "export": ("--scene", "cat", "--out", "x.png"),
    "inspect": (),
}


@pytest.mark.parametrize("verb", VERBS_ON_RUNS)
def test_bad_runs(verb: str, tmp_path: Path, fits: Any, refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, good = fits("images")
    rest = VERBS_ON_RUNS[verb]
    assert "nowhere: not a run" in refused(verb, tmp_path / "nowhere", *rest)
    run = tmp_path / "run"
    shutil.copytree(good, run)
    config, model = (run / "config.json").read_bytes(), (run / "model.safetensors").read_bytes()
    (run / "config.json").write_bytes(config[:100])
    assert "config.json: damaged" in refused(verb, run, *rest)
    newer = json.loads(config) | {"format": 1000}
    (run / "config.json").write_text(json.dumps(newer))
    assert "format 1000 is newer" in refused(verb, run, *rest)
    (run / "config.json").write_bytes(config)
    (run / "model.safetensors").write_bytes(model[: len(model) // 2])
    assert "model.safetensors" in refused(verb, run, *rest)
    if verb != "inspect":
        (run / "model.safetensors").unlink()
        assert "--resume" in refused(verb, run, *rest)


def test_another_kind_than_asked(tmp_path: Path, fits: Any, refused: Any) -> None:
    _, run = fits("images")
    views = make_views(tmp_path / "views")
    assert "holds no images, but views" in refused("eval", run, "--family", views)
    error = refused("infer", run, views, "--out", tmp_path / "codes.safetensors", "--steps", 2)
    assert "holds no images, but views" in error
    images = make_images(tmp_path / "images")
    codes = ("--out", tmp_path / "codes.safetensors", "--steps", 2)
    assert "views" in refused("infer", run, images, *codes, "--views", "0")


def test_eval_needs_every_scene(tmp_path: Path, fits: Any, refused: Any) -> None:
    _, run = fits("images")
    other = make_images(tmp_path / "other", ("cat", "dog"))
    assert "'eel'" in refused("eval", run, "--family", other)


def test_eval_needs_its_split(fits: Any, refused: Any) -> None:
    _, run = fits("views")
    assert "transforms_val.json" in refused("eval", run, "--split", "val")


def test_suffixes(tmp_path: Path, fits: Any, refused: Any) -> None:
    _, run = fits("images")
    scene = ("--scene", "cat", "--out")
    assert ".ply cannot hold" in refused("export", run, *scene, tmp_path / "x.ply")
    assert ".txt cannot hold" in refused("render", run, *scene, tmp_path / "x.txt")
    assert ".gif cannot hold" in refused("render", run, *scene, tmp_path / "x.gif")
    assert ".ply cannot hold" in refused("interpolate", run, "cat", "dog", "--out", tmp_path / "x.ply")
    assert ".txt cannot hold a report" in refused("eval", run, "--out", tmp_path / "x.txt")
    assert "does not exist" in refused("eval", run, "--out", tmp_path / "no" / "x.json")
    assert "does not exist" in refused("export", run, *scene, tmp_path / "no" / "x.png")
    codes = ("--out", tmp_path / "codes.pt", "--steps", 2)
    assert ".pt cannot hold codes" in refused("infer", run, tmp_path, *codes)
    assert "depth" in refused("render", run, *scene, tmp_path / "x.png", "--channel", "depth")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--size", "64"), "--size '64'"),
        (("--size", "0x3"), "--size '0x3'"),
        (("--size", "axb"), "--size 'axb'"),
        (("--scenes", ","), "--scenes ','"),
        (("--limit", 0), "limit: 0"),
        (("--minutes", 1, "--steps", 1), "--minutes 1, --steps 1"),
        (("--minutes", 0), "--minutes 0"),
        (("--minutes", "nan"), "--minutes nan"),
        (("--steps", 0), "--steps 0"),
        (("--device", "cuda"), "--device cuda"),
        (("--device", "abacus"), "--device abacus: torch knows no such device"),
    ],
)
def test_bad_options(tmp_path: Path, refused: Any, options: tuple[object, ...], said: str) -> None:
    family = make_images(tmp_path / "family")
    assert said in refused("fit", family, "--out", tmp_path / "run", *options)


def test_bad_places_for_a_run(tmp_path: Path, fits: Any, refused: Any) -> None:
    family, run = fits("images")
    assert "holds a fit already" in refused("fit", family, "--out", run, *TINY)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("a")
    assert "holds other files" in refused("fit", family, "--out", tmp_path / "notes", *TINY)
    assert "is a file" in refused("fit", family, "--out", tmp_path / "notes" / "a.txt", *TINY)


def test_a_full_disk(tmp_path: Path, fits: Any, refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    family, run = fits("images")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "No space left on device" in refused("fit", family, "--out", tmp_path / "run", *TINY)
    scene = ("--scene", "cat", "--out")
    assert "No space left" in refused("render", run, *scene, tmp_path / "x.png")
    assert "No space left" in refused("export", run, *scene, tmp_path / "x.safetensors")
    assert "No space left" in refused("eval", run, "--out", tmp_path / "x.json")


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


# The front door ------------------------------------------------------------------------------------


def test_choices_are_those_of_the_library() -> None:
    """They are spelt out in cli/options.py, which must not import torch."""
    from hyperfields.data import KINDS
    from hyperfields.rendering.pictures import CHANNELS
    from hyperfields.tasks.presets import PRESETS

    assert get_args(get_args(get_args(options.KindChoice)[0])[0]) == KINDS
    assert get_args(get_args(get_args(options.PresetChoice)[0])[0]) == PRESETS
    assert get_args(options.ChannelChoice) == CHANNELS


def test_help_of_all_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli("--help") == 0
    text = capsys.readouterr().out
    for verb in cli.VERBS:
        assert f"  {verb} " in text
        with pytest.raises(SystemExit) as stopped:
            run_cli(verb, "--help")
        assert stopped.value.code == 0
        detail = capsys.readouterr().out
        assert f"$ hyperfields {verb}" in detail
        assert "None" not in detail
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
    with console.Meter("fit", 0.2) as meter:
        for second in range(1, 31):
            now[0] = 100.0 + second
            meter.show(0.2 + 0.02 * second, f"step {second}")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "fit:  42 %, 0:11, about 0:29 left, step 11",
        "fit:  64 %, 0:22, about 0:18 left, step 22",
    ]


def test_clock() -> None:
    assert [console.clock(s) for s in (0.4, 59.6, 61, 3725)] == ["0:00", "1:00", "1:01", "1:02:05"]
