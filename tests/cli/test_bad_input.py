"""What cannot be used is one line and exit code 2, and nothing is written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import hyperfields as hf

from ._families import HEADER, TINY, box_ply, contents, make_images, make_shapes, make_views, run_cli, spoil


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
    assert "a walk is between two or more" in refused("interpolate", run, "cat", "--out", tmp_path / "x.gif")


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
    text = "nowhere: is not there" if verb == "inspect" else "nowhere: not a run"  # a family may be inspected, too
    assert text in refused(verb, tmp_path / "nowhere", *rest)
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
    data, whole, before = hf.open_family(family), hf.load_run(run), contents(tmp_path)
    writers: dict[str, Callable[[Path], object]] = {
        "fit": lambda out: hf.fit(data, out, steps=1, preset="tiny", progress=False),
        "fit_many": lambda out: hf.fit_many(data, out, bases_from=1, steps=1, preset="tiny", progress=False),
        "add": lambda out: hf.add(whole, hf.Images(torch.zeros(1, 16, 16, 3)), out, steps=1, progress=False),
        "compare": lambda out: hf.compare(data, out, hf.Comparison(("full",), steps=1)),
        "pack": lambda out: hf.pack_family(family, out),
        "save": whole.save,
    }
    for place in (tmp_path / "notes", tmp_path / "notes" / "a.txt"):
        for write in writers.values():  # never beside files of others, in Python as on the command line
            with pytest.raises(hf.InputError, match=rf"{place}: (holds other files|is a file|exists already)"):
                write(place)
    assert contents(tmp_path) == before


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
