"""What goes wrong is said: stops, resumed fits, fits that end empty, files that hold nothing."""

from __future__ import annotations

import io
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from PIL import Image

import hyperfields as hf
from hyperfields.runs.codec import read_tensors
from hyperfields.training import interrupt, progress
from hyperfields.training.progress import Meter
from hyperfields.training.trainer import Progress

PIXELS = torch.rand(2, 8, 8, 3, generator=torch.Generator().manual_seed(0))


def fit(out: Path | None = None, pixels: torch.Tensor = PIXELS, **options: Any) -> hf.Run:
    return hf.fit(hf.Images(pixels), out, **{"steps": 4, "preset": "tiny", "progress": False, **options})


# ------------------------------------------------------------------------------------------------ stopping


def test_sigterm_saves_the_state_and_ends_with_143(tmp_path: Path) -> None:
    def kill(state: Progress) -> None:
        if state.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as stopped:
        fit(tmp_path / "run", progress=kill)
    assert stopped.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    resumed = fit(tmp_path / "run", resume=True)
    assert torch.equal(resumed.model.latents.codes, fit().model.latents.codes)


def test_sigterm_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hyperfields.cli import main
    from hyperfields.runs.images import write_image

    (tmp_path / "family").mkdir()
    for number, picture in enumerate(PIXELS):
        write_image(tmp_path / f"family/{number}.png", picture)
    words = ["fit", str(tmp_path / "family"), "--out", str(tmp_path / "run"), "--preset", "tiny", "--steps", "4"]
    with monkeypatch.context() as patch:
        show = Meter.show
        patch.setattr(Meter, "show", lambda *a: (show(*a), "step 2" in a[2] and signal.raise_signal(signal.SIGTERM)))
        assert main(words) == 143
    error = capsys.readouterr().err
    assert "stopped by SIGTERM; go on with: hyperfields fit " in error
    assert "kernels" not in error
    assert main([*words[:4], "--resume"]) == 0
    capsys.readouterr()
    before = (tmp_path / "run/model.safetensors").stat().st_mtime_ns
    assert main([*words[:4], "--resume", "--steps", "2"]) == 0
    assert "already at 4 steps, nothing to do; give --steps above 4" in capsys.readouterr().out
    assert (tmp_path / "run/model.safetensors").stat().st_mtime_ns == before
    assert json.loads((tmp_path / "run/config.json").read_text())["fit"]["steps"] == 4


def test_a_stop_while_kernels_compile_says_what_it_waits_for(capsys: pytest.CaptureFixture[str]) -> None:
    with interrupt.between_steps() as stop_if_asked:
        signal.raise_signal(signal.SIGINT)
        assert capsys.readouterr().err == "stopping after the kernels are compiled\n"
        with pytest.raises(KeyboardInterrupt):
            stop_if_asked()


def test_a_handler_of_sigterm_that_is_there_stays() -> None:
    calls: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: calls.append(number))
    try:
        with interrupt.between_steps() as stop_if_asked:
            signal.raise_signal(signal.SIGTERM)
            stop_if_asked()
        assert calls == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


# ------------------------------------------------------------------------------------------------ going on


def test_resume_says_that_it_begins_again_or_that_nothing_is_left(tmp_path: Path) -> None:
    run = fit(tmp_path / "run")
    with pytest.warns(UserWarning, match="already at 4 steps, nothing to do; give --steps above 4"):
        again = fit(tmp_path / "run", resume=True, steps=3)
    assert torch.equal(run.model.latents.codes, again.model.latents.codes)
    assert (again.config.fit.steps, again.summary) == (4, run.summary)
    (tmp_path / "run/state/resume.safetensors").unlink()
    with pytest.warns(UserWarning, match="stopped before a state was saved; starts again at step 0"):
        fit(tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"seed": 4}, "seed 0, not 4"), ({"individually": True}, "ModelConfig|generator|latent"),
     ({"pixels": PIXELS[:, :6]}, "other data or another size"), ({"pixels": PIXELS[:1]}, "2 scenes, not 1")],
)  # fmt: skip
def test_resume_names_the_setting_that_differs(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    fit(tmp_path / "run")
    with pytest.raises(hf.InputError, match=message):
        fit(tmp_path / "run", resume=True, **change)


def test_scenes_that_are_fitted_alone_keep_the_length_that_they_share(tmp_path: Path) -> None:
    fit(tmp_path / "run", individually=True)
    with pytest.raises(hf.InputError, match="steps 4, not 8"):
        fit(tmp_path / "run", individually=True, resume=True, steps=8)


def test_the_time_that_is_left_does_not_count_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    meter, lines = Meter("fit"), []
    monkeypatch.setattr(progress, "say", lines.append)
    for now, share in ((1000.0, 0.0), (1060.0, 0.01), (1071.0, 0.12)):  # noqa: B007
        meter.show(share, "text")
    assert "left" not in lines[0]
    assert "12 %, 1:11, about 1:28 left" in lines[1]


# ------------------------------------------------------------------------------------- fits that come to nothing


def looking(away: bool) -> hf.Views:
    """A disc from two sides, with poses in OpenCV axes or, `away`, typed in OpenGL axes (+Y up, +Z backward)."""
    poses = torch.eye(4).repeat(2, 1, 1)
    poses[1, :3, :3] = torch.tensor([[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, -1.0]])
    poses[:, :3, 3] = torch.tensor([[0.0, 0.0, -3.0], [0.0, 0.0, 3.0]])
    if away:
        poses = poses @ torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    v, u = torch.meshgrid(*[torch.linspace(-1.0, 1.0, 8)] * 2, indexing="ij")
    alpha = (u**2 + v**2 < 0.5).float()
    rgba = torch.stack((0.5 * alpha, 0.2 * alpha, 0.1 * alpha, alpha), -1).expand(2, 8, 8, 4)
    return hf.Views((poses, torch.tensor([12.0, 12.0, 4.0, 4.0])), rgba)


def test_cameras_that_look_away_are_a_remark() -> None:
    train = hf.preset("tiny", "views", 1, 8)[1]
    options: dict[str, Any] = {"preset": "tiny", "progress": False, "train": train}
    with pytest.warns(UserWarning, match="scene 0: its cameras look past the box"):
        hf.fit(looking(away=True), steps=100, **options)
    hf.fit(looking(away=False), steps=100, **options)


def test_a_command_ends_with_1_when_a_fit_came_to_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hyperfields.cli import main
    from hyperfields.runs.images import write_image

    (tmp_path / "family").mkdir()
    write_image(tmp_path / "family/a.png", PIXELS[0])
    monkeypatch.setattr("hyperfields.training.fit.verdict", lambda run, data: [f"scene {i}: empty" for i in range(5)])
    words = ["fit", str(tmp_path / "family"), "--out", str(tmp_path / "run"), "--preset", "tiny", "--steps", "2"]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert "hyperfields: error: scene 0: empty; scene 1: empty; scene 2: empty; scene 3: empty; and 1 more" in error


# ------------------------------------------------------------------------------------------------ files


def test_a_mesh_without_a_surface_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hyperfields.runs.render import interpolate_run
    from hyperfields.tasks import SHAPES

    empty = hf.Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))
    monkeypatch.setattr(type(SHAPES), "mesh", lambda self, bound, resolution=0: empty)
    pool = torch.rand(1, 64, 4, generator=torch.Generator().manual_seed(0)) - 0.5
    tetrahedron = (torch.eye(4)[:, :3], torch.tensor([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]]))
    run = hf.fit(hf.Shapes([tetrahedron], pool=pool), steps=2, preset="tiny", progress=False)
    with pytest.raises(hf.InputError, match=r"x\.ply: scene '0' has no surface in the box"):
        run["0"].save(tmp_path / "x.ply")
    assert not (tmp_path / "x.ply").exists()
    with pytest.warns(UserWarning, match="no surface in the box in 3 of 3 frames"):
        interpolate_run([run["0"], run["0"]], tmp_path / "walk", frames=3, morph="codes")


def test_files_with_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    run = fit(tmp_path / "run")
    run["0"].save(tmp_path / "0.safetensors")
    for path, load in ((tmp_path / "run/model.safetensors", hf.load_run), (tmp_path / "0.safetensors", hf.load_field)):
        tensors, header = read_tensors(path)
        next(iter(tensors.values())).view(-1)[0] = float("nan")
        path.write_bytes(safetensors.torch.save(tensors, header))
        with pytest.raises(hf.InputError, match="holds numbers that are not finite; restore"):
            load(path.parent if load is hf.load_run else path)  # type: ignore[operator]


def test_scenes_of_one_name_are_refused(tmp_path: Path) -> None:
    fit(tmp_path / "run")
    config = tmp_path / "run/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "scenes": ["a", "a"]}))
    with pytest.raises(hf.InputError, match="scene 'a' comes twice"):
        hf.load_run(tmp_path / "run")


def test_a_file_for_a_folder_says_which_function_reads_it(tmp_path: Path) -> None:
    run = fit(tmp_path / "run")
    run["0"].save(tmp_path / "0.safetensors")
    with pytest.raises(hf.InputError, match=r"is a file, wanted the folder of a run; .* load_field"):
        hf.load_run(tmp_path / "0.safetensors")
    with pytest.raises(hf.InputError, match=r"model\.safetensors: is a file, .*; give .*run"):
        hf.load_run(tmp_path / "run/model.safetensors")
    with pytest.raises(hf.InputError, match=r"is a folder, .* load_run"):
        hf.load_field(tmp_path / "run")
    (tmp_path / "run/model.safetensors").unlink()
    with pytest.raises(hf.InputError, match="only a state after 4 steps; finish it with"):
        hf.load_run(tmp_path / "run")


# ------------------------------------------------------------------------------------------------ notebooks


def test_what_a_notebook_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    from hyperfields.evaluation.tables import text_table

    run = fit()
    picture = Image.open(io.BytesIO(run["0"]._repr_png_()))
    assert picture.size == (8, 8)
    assert repr(hf.Images(PIXELS)) == "Images(2 scenes: '0', '1'; 8x8)"
    assert repr(looking(away=False)) == "Views(1 scene: '0'; 2 pictures of 8x8)"
    assert repr(run.config) == "RunConfig(images, 2 scenes: '0', '1'; preset tiny, Modulation, 4 steps)"
    assert repr(hf.InferredCodes(run, ("a",), torch.zeros(1, 8))) == "InferredCodes(1 scene: 'a'; 8 numbers each)"
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert "\x1b" not in text_table(("a",), [("1",)])
