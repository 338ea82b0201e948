"""Where codes come from, and how sure they are, by the command line: `fit --by`, `infer --by`, `calibrate`."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hyperfields.codes import CAVIA, SOURCES, Codes, Variational
from hyperfields.hypernets import Bayes, Chunked, Dynamic, Stability, WeightTokens
from hyperfields.runs.inferred import load_codes
from hyperfields.runs.run import load_run
from hyperfields.training.inference import draw_fields, fields_of

from ._families import TINY, make_images, make_views, run_cli

BY = ("vae", "encoder", "cavia", "time")


def frames(folder: Path, count: int = 4) -> Path:
    return make_images(folder, tuple(f"walk_{i:02d}" for i in range(count)))


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return frames(tmp_path_factory.mktemp("walk") / "family")


@pytest.fixture(scope="module")
def fitted(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Options of `fit` -> the run, each fitted once. Not to be changed."""
    made: dict[tuple[str, ...], Path] = {}

    def run_of(*words: str) -> Path:
        if words not in made:
            made[words] = tmp_path_factory.mktemp("codes") / "run"
            assert run_cli("fit", family, "--out", made[words], *TINY, *words) == 0
        return made[words]

    return run_of


def error_of(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    assert run_cli(*words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize("by", BY)
def test_a_run_is_an_ordinary_one_wherever_its_codes_come_from(
    by: str, fitted: Callable[..., Path], tmp_path: Path
) -> None:
    path = fitted("--by", by)
    run = load_run(path)
    assert type(run.config.codes) is SOURCES[by]
    assert (path / "codes.safetensors").is_file()
    assert run_cli("eval", path) == 0
    assert run_cli("render", path, "--scene", "walk_01", "--out", tmp_path / "a.png") == 0
    assert run_cli("render", path, "--sample", "3", "--out", tmp_path / "new.png") == 0
    assert (tmp_path / "new.png").read_bytes() != (tmp_path / "a.png").read_bytes()
    if by == "time":
        codes = run.codes(*run.names)
        torch.testing.assert_close(codes[:, -1], torch.tensor([0.0, 1 / 3, 2 / 3, 1.0]), atol=1e-3, rtol=0.0)
        assert torch.equal(codes[0, :-1], codes[3, :-1])  # one sequence, one code


STOPPED = [("--by", "vae"), ("--by", "encoder"), ("--by", "cavia"), ("--bayes", "factors")]


class Killed(BaseException):
    """What ends a fit in the middle of a write."""


@pytest.mark.parametrize("words", STOPPED, ids=lambda words: words[1])
def test_a_killed_fit_goes_on_to_the_same_bits(
    words: tuple[str, ...], family: Path, fitted: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a real kill: test_resume.py."""
    whole, again, states = fitted(*words), tmp_path / "again", []
    replace = os.replace

    def replace_or_die(source: Path, target: Path) -> None:
        states.extend([target] if str(target).endswith("resume.safetensors") else [])
        if len(states) == 7:
            raise Killed
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(importlib.import_module("hyperfields.training.fit"), "CHECKPOINT_SECONDS", 0.0)
        patch.setattr(os, "replace", replace_or_die)
        with pytest.raises(Killed):
            run_cli("fit", family, "--out", again, *TINY, *words)
    assert not (again / "model.safetensors").exists()
    assert run_cli("fit", family, "--out", again, "--resume") == 0
    for name in ("model.safetensors", *(["codes.safetensors"] if "--by" in words else [])):
        assert (again / name).read_bytes() == (whole / name).read_bytes()


def test_codes_at_once(fitted: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = make_images(tmp_path / "new", ("ape", "bat"))
    for by, how in (("encoder", "encoder"), ("cavia", "steps")):
        path, out = fitted("--by", by), tmp_path / f"{by}.safetensors"
        assert run_cli("infer", path, new, "--out", out, "--by", how) == 0
        found = load_codes(out, load_run(path))
        assert found.names == ("ape", "bat")
        assert float((found.codes[0] - found.codes[1]).abs().max()) > 0.0
        assert run_cli("render", path, "--codes", out, "--scene", "bat", "--out", tmp_path / "bat.png") == 0
        other = {"encoder": "steps", "steps": "encoder"}[how]
        assert "make such a run" in error_of(capsys, "infer", path, new, "--out", out, "--by", other)
        assert "takes one go" in error_of(capsys, "infer", path, new, "--out", out, "--by", how, "--steps", "3")


def test_uncertainty_of_a_fitted_scene_and_of_an_inferred_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib (hyperfields[plots]) is missing")
    family = make_views(tmp_path / "family")
    assert run_cli("fit", family, "--out", tmp_path / "run", *TINY) == 0
    run, out = tmp_path / "run", tmp_path / "codes.safetensors"
    assert run_cli("infer", run, family, "--out", out, "--by", "posterior", "--steps", "5", "--views", "0") == 0
    found = load_codes(out, load_run(run))
    assert found.std is not None
    assert float(found.std.min()) > 0.0
    assert dict(found.source) == {"path": str(family), "size": [16, 16], "views": [0]}
    for words in ((), ("--codes", out)):
        capsys.readouterr()
        assert run_cli("render", run, "--scene", "disc", "--out", tmp_path / "disc.png", "--uncertainty", *words) == 0
        assert "disc.uncertainty.png: white is a standard deviation of 0." in capsys.readouterr().out
        grey = np.asarray(Image.open(tmp_path / "disc.uncertainty.png"))
        assert grey.shape == (16, 16, 3)
        assert grey.max() == 255
        assert run_cli("calibrate", run, "--out", tmp_path / "figure.png", *words, "--views", "1") == 0
        report = json.loads((tmp_path / "figure.json").read_text())
        assert set(report["scenes"]) == {"disc", "ring"}
        assert len(report["coverage"]["observed"]) == len(report["coverage"]["expected"])
        assert "errors within one deviation" in capsys.readouterr().out
        assert (tmp_path / "figure.png").stat().st_size > 5000
    family.rename(tmp_path / "elsewhere")
    said = error_of(capsys, "render", run, "--scene", "disc", "--out", tmp_path / "x.png", "--uncertainty")
    assert "say where with --family DIR" in said
    assert not (tmp_path / "x.png").exists()
    words = ("--family", tmp_path / "elsewhere")
    assert run_cli("calibrate", run, "--out", tmp_path / "b.png", "--limit", "1", *words) == 0


def test_uncertainty_of_a_refined_scene_is_that_of_its_refined_weights(
    fitted: Callable[..., Path], tmp_path: Path
) -> None:
    run, new, out = fitted("--bayes", "factors"), make_images(tmp_path / "new"), tmp_path / "new.safetensors"
    assert run_cli("infer", run, new, "--out", out, "--refine", "--steps", "6") == 0
    loaded = load_run(run)
    found = load_codes(out, loaded)
    bound, samples = fields_of(loaded, found.names[0], found, samples=3)
    plain = draw_fields(loaded, found.codes[:1], samples=3)
    for name, value in found.residual.items():
        if name in bound.weights and name.startswith("mlp"):
            torch.testing.assert_close(samples[0].weights[name] - plain[0].weights[name], value[:1])
            assert float(value.abs().max()) > 0.0
    words = ("--codes", out, "--scene", found.names[0], "--out", tmp_path / "a.png", "--uncertainty")
    assert run_cli("render", run, *words) == 0


@pytest.mark.parametrize("kind", ["factors", "noise"])
def test_weights_that_are_drawn(kind: str, fitted: Callable[..., Path], tmp_path: Path) -> None:
    run = fitted("--bayes", kind, "--generator", "chunked:chunk=64")
    config = load_run(run).model.config
    assert config.bayes == Bayes(kind)  # type: ignore[arg-type]
    assert config.generator == Chunked(chunk=64)
    assert run_cli("render", run, "--scene", "walk_01", "--out", tmp_path / "a.png", "--uncertainty") == 0
    assert run_cli("inspect", run) == 0


@pytest.mark.parametrize(
    ("words", "codes", "bayes"),
    [
        (("--by", "vae:weight=1e-6"), Variational(1e-6), Bayes()),
        (("--by", "cavia:order=2:steps=2"), CAVIA(steps=2, order=2), Bayes()),
        (("--bayes", "factors:weight=1e-9"), None, Bayes("factors", weight=1e-9)),
        (("--bayes", "noise:numbers=3"), None, Bayes("noise", numbers=3)),
    ],
    ids=lambda words: words[1] if isinstance(words, tuple) else "",
)
def test_a_choice_has_settings_and_a_run_keeps_them(
    words: tuple[str, ...], codes: Codes | None, bayes: Bayes, family: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    assert run_cli("fit", family, "--out", path, "--preset", "tiny", "--steps", "2", *words) == 0
    run = load_run(path)
    assert run.config.codes == codes
    assert run.model.config.bayes == bayes
    assert run_cli("fit", family, "--out", path, "--resume", "--steps", "3") == 0


def test_what_keeps_a_generator_stable_is_a_choice(fitted: Callable[..., Path]) -> None:
    path = fitted("--stability", "share=0.2:latent=invariant:spectral=4:normalize=no")
    assert load_run(path).model.config.stability == Stability(share=0.2, latent="invariant", spectral=4.0)


def test_the_generator_is_a_choice(fitted: Callable[..., Path]) -> None:
    for words, generator in (
        (("--generator", "weight-tokens"), WeightTokens),
        (("--by", "time", "--generator", "dynamic"), Dynamic),
    ):
        assert isinstance(load_run(fitted(*words)).model.config.generator, generator)


def test_what_cannot_be_done_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    family, run = make_images(tmp_path / "family"), tmp_path / "run"
    fit = ("fit", family, "--out", run, *TINY)
    assert "with a number at the end of their names, e.g. walk_007" in error_of(capsys, *fit, "--by", "time")
    assert "wanted one of full" in error_of(capsys, *fit, "--generator", "direct")
    assert "--individually: fits the weights of each scene" in error_of(capsys, *fit, "--by", "vae", "--individually")
    assert "--by 'magic': unknown, wanted one of descent, vae" in error_of(capsys, *fit, "--by", "magic")
    assert "wanted steps=N, order=N, rate=X" in error_of(capsys, *fit, "--by", "cavia:order=two")
    assert "order 1 or 2" in error_of(capsys, *fit, "--by", "cavia:order=3")
    assert "--by vae: no setting 'weight=-1', wanted weight=X" in error_of(capsys, *fit, "--by", "vae:weight=-1")
    assert "wanted one of none, factors, noise" in error_of(capsys, *fit, "--bayes", "gauss")
    said = error_of(capsys, *fit, "--individually", "--generator", "full", "--stability", "share=1")
    assert "--individually: fits weights themselves, nothing generates them; leave --generator, --stability out" in said
    assert "--stability: no setting 'x=1', wanted init=WORD, share=X" in error_of(capsys, *fit, "--stability", "x=1")
    assert "stability share 2.0: wanted" in error_of(capsys, *fit, "--stability", "share=2")
    assert not run.exists()
    assert run_cli(*fit) == 0
    assert "leave the options out" in error_of(capsys, "fit", family, "--out", run, "--resume", "--by", "vae")
    codes = tmp_path / "codes.safetensors"
    infer = ("infer", run, family, "--out", codes)
    assert "--by posterior: no setting 'wait=1', wanted weight=X" in error_of(
        capsys, *infer, "--by", "posterior:wait=1"
    )
    assert "--refine: goes with" in error_of(capsys, *infer, "--by", "posterior", "--refine")
    assert "make such a run" in error_of(capsys, *infer, "--by", "encoder")
    render = ("render", run, "--out", tmp_path / "a.png")
    assert "is a scene of its own" in error_of(capsys, *render, "--sample", "1", "--scene", "cat")
    assert "leave --path, --frames, --orbit and --channel out" in error_of(
        capsys, *render, "--scene", "cat", "--uncertainty", "--channel", "depth"
    )
    assert "wanted at least 1" in error_of(capsys, "calibrate", run, "--out", tmp_path / "a.png", "--views", "0")
    assert "a.jpg" in error_of(capsys, "calibrate", run, "--out", tmp_path / "a.jpg")
    assert not codes.exists()
