"""What a stranger's tries found, each mended."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import hyperfields as hf
from hyperfields.cli import main
from hyperfields.cli.common import data_of, read_alike
from hyperfields.evaluation import morph
from hyperfields.evaluation.lpips import Lpips
from hyperfields.ops import _tcnn
from hyperfields.runs.export import field_facts
from hyperfields.runs.inferred import load_codes
from hyperfields.scenes.inspect import family_rows

from ._captures import cameras, gl_pose, intrinsics, photograph, save


def capture(folder: Path, *, scale: float = 1.0, white: bool = False) -> Path:
    """A ball in another unit; transparent round it, or opaque on white."""
    frames = []
    for i, camera in enumerate(cameras(9)):
        pixels = photograph(camera, alpha=True)
        if white:
            pixels[pixels[..., 3] == 0] = 255
            pixels = pixels[..., :3]
        save(folder / f"{i}.png", pixels)
        pose = np.array(gl_pose(camera))
        pose[:3, 3] *= scale
        frames.append({"file_path": f"{i}.png", "transform_matrix": pose.tolist()})
    (folder / "transforms.json").write_text(json.dumps({**intrinsics(cameras(1)[0]), "frames": frames}))
    return folder


def pictures(folder: Path, names: str = "abc", width: int = 8) -> Path:
    folder.mkdir()
    draw = np.random.default_rng(0)
    for name in names:
        Image.fromarray(draw.integers(0, 256, (8, width, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of pictures that were padded to the size."""
    folder = tmp_path_factory.mktemp("fitted")
    family = str(pictures(folder / "wide", width=16))
    words = ["--size", "8x8", "--aspect", "pad", "--steps", "2", "--preset", "tiny", "--out", str(folder / "run")]
    assert main(["fit", family, *words]) == 0
    return folder / "run"


@pytest.mark.parametrize("views", [[0], [3, 5]])
def test_a_few_views_of_a_scene_in_another_unit_have_its_box(tmp_path: Path, views: list[int]) -> None:
    folder = capture(tmp_path / "ball", scale=1000.0)
    whole, few = (hf.open_family(folder, views=v) for v in (None, views))
    assert few.up == whole.up
    for data, numbers in ((whole, range(7)), (few, views)):  # the split that is fitted has what is fitted, no more
        truth = [view.name for view in whole.reference(0, "train")]
        assert [view.name for view in data.reference(0, "train")] == [truth[number] for number in numbers]
        assert [view.name for view in data.reference(0, "test")] == [view.name for view in whole.reference(0, "test")]
    (size, *centre), (expected, *place) = few.frames[0], whole.frames[0]
    assert 0.5 < size / expected < 2.0
    assert np.linalg.norm(np.subtract(centre, place)) < 0.2 * expected


def test_unseen_scenes_are_read_as_the_run_was(
    fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, codes = pictures(tmp_path / "other", "d", width=16), tmp_path / "codes.safetensors"
    assert main(["infer", str(fitted), str(other), "--steps", "1", "--out", str(codes)]) == 0
    out = capsys.readouterr().out
    assert "--aspect" not in out  # nothing was chosen for the user
    assert f"next: hyperfields eval {fitted} --codes {codes}\n" in out  # how well it went
    assert load_codes(codes, hf.load_run(fitted)).source["aspect"] == "pad"
    squeezed = tmp_path / "squeezed.safetensors"
    words = ["--steps", "1", "--aspect", "fit", "--out", str(squeezed)]
    assert main(["infer", str(fitted), str(other), *words]) == 0
    assert load_codes(squeezed, hf.load_run(fitted)).source["aspect"] == "fit"


def test_added_scenes_are_read_as_the_run_was(fitted: Path, tmp_path: Path) -> None:
    other, more = pictures(tmp_path / "other", "d", width=16), tmp_path / "more"
    assert main(["add", str(fitted), str(other), "--steps", "1", "--out", str(more)]) == 0
    assert [source.aspect for source in hf.load_run(more).config.sources] == ["pad", "pad"]


def test_a_colour_of_the_background_is_not_for_scenes_with_alpha(fitted: Path, tmp_path: Path) -> None:
    run = hf.load_run(fitted)
    source = dataclasses.replace(run.config.sources[0], aspect=None, background="white")
    run = dataclasses.replace(run, config=dataclasses.replace(run.config, sources=(source,)))
    data, reading = read_alike(run, capture(tmp_path / "clear"), {})
    assert reading == {}
    data, reading = read_alike(run, capture(tmp_path / "white", white=True), {})
    assert reading == {"background": "white"}
    assert data.background == "white"
    with pytest.raises(hf.InputError, match="--background black: the pictures of clear have alpha"):
        read_alike(run, tmp_path / "clear", {"background": "black"})


def test_a_folder_with_no_scene_of_a_run_is_refused_though_the_old_ones_are_there(fitted: Path, tmp_path: Path) -> None:
    run = hf.load_run(fitted)
    other = pictures(tmp_path / "other", "d", width=16)
    sources = (*run.config.sources, dataclasses.replace(run.config.sources[0], path=str(other), scenes=("d",)))
    run = dataclasses.replace(run, config=dataclasses.replace(run.config, sources=sources))
    assert data_of(run, None, ["a", "d"]).names == ("a", "d")
    assert data_of(run, other, ["a", "d"]).names == ("a", "d")
    with pytest.raises(hf.InputError, match="no scene called 'd'"):
        data_of(run, pictures(tmp_path / "strange", "xyz"), ["a", "d"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("eval RUN --split val", "--split val: is for views, but the run holds images"),
        ("calibrate RUN --out OUT.png --views 3", "--views 3: is for views, but the run holds images"),
        ("render RUN --scene a --out OUT.png --family RUN", "is read for --uncertainty alone"),
        ("doctor --family RUN", "give the run before it"),
        ("add RUN RUN --out OUT --method frozen --numbers 4", "--numbers 4: has no meaning for --method frozen"),
        ("add RUN RUN --out OUT --method frozen --bases 2", "--bases 2: has no meaning for --method frozen"),
        ("add RUN RUN --out OUT --weight 3", "--weight 3: has no meaning for --method extension"),
    ],
)
def test_options_without_a_meaning_are_refused(
    fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, said: str
) -> None:
    line = [word.replace("RUN", str(fitted)).replace("OUT", str(tmp_path / "out")) for word in words.split()]
    assert main(line) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_field_of_an_inferred_scene_leaves_with_its_own_frame(fitted: Path) -> None:
    run = hf.load_run(fitted)
    scene = hf.Scene(run, "new", run.codes("a"), fitted=False, frame=(2.0, 1.0, 0.0, 3.0))
    assert field_facts(scene)["picture"]["frames"] == {"new": (2.0, 1.0, 0.0, 3.0)}


def test_doubtful_captures_are_said(tmp_path: Path) -> None:
    folder = capture(tmp_path / "mixed")
    Image.open(folder / "3.png").convert("RGB").save(folder / "3.png")
    assert "alpha: 1 of 7 pictures of mixed have none, so all that they show is scene" in notes(folder)
    white = capture(tmp_path / "white", white=True)
    assert "background: red is on 0% of the borders of the pictures of white only" in notes(white, background="red")
    assert "background: white is on" not in notes(white, background="white")
    with pytest.raises(hf.InputError, match="'#ffffff80': has alpha"):
        hf.open_family(white, background="#ffffff80")
    assert "at one place" not in notes(white)
    content = json.loads((white / "transforms.json").read_text())
    for frame in content["frames"]:
        frame["transform_matrix"] = content["frames"][0]["transform_matrix"]
    (white / "transforms.json").write_text(json.dumps(content))
    assert "cameras: all of white are at one place, so how far things are is not known" in notes(white)


def notes(folder: Path, **reading: str) -> str:
    data = hf.open_family(folder, **reading)  # type: ignore[arg-type]
    assert isinstance(data, hf.Views)
    return "\n".join(data.notes)


@pytest.mark.parametrize("kind", ["images", "shapes", "views"])
def test_grids_of_presets_leave_for_tinycudann(kind: str) -> None:
    """Those whose finest level ends on a whole number were refused: 62 cells of shapes, 32 or 96 of views."""
    for side in range(16, 257):
        grid = hf.preset("default", kind, 4, side)[0].field.encoding.grid  # type: ignore[arg-type, union-attr]
        config = _tcnn.encoding_config(grid)
        assert _tcnn.resolutions(config) == grid.resolutions
        for level, scale in enumerate(grid.scales):
            assert abs(config["base_resolution"] * config["per_level_scale"] ** level - 1.0 - scale) < 1e-3


def test_fits_learn_also_where_gradients_are_off() -> None:
    pixels = torch.rand(2, 8, 8, 3, generator=torch.Generator().manual_seed(0))

    def codes() -> torch.Tensor:
        run = hf.fit(hf.Images(pixels.clone()), steps=3, preset="tiny", progress=False)
        found = hf.infer(run, hf.Images(pixels[:1].clone()), steps=2, progress=False)
        return torch.cat((run.codes("0", "1"), found.codes)).clone()

    expected = codes()
    with torch.no_grad():
        assert torch.equal(codes(), expected)
    with torch.inference_mode():
        assert torch.equal(codes(), expected)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("inspect OUT", "out: is not there; give the folder of a run or of a family"),
        ("render --out OUT.png", "neither came; give the folder of a run, or a composition"),
        ("interpolate RUN a --out OUT.gif", "one scene came; a walk is between two or more, e.g. a b"),
        ("interpolate RUN a b --frames 1 --out OUT.gif", "--frames 1: wanted at least 2"),
        ("fit DATA --out OUT --aspect pad", "--aspect pad: is of pictures that are resized; give --size HxW too"),
        ("fit DATA --out OUT --views 0", "--views: is for views, but the family holds images"),
    ],
)
def test_refusals_say_what_is_missing(
    fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, said: str
) -> None:
    places = {"RUN": str(fitted), "DATA": str(fitted.parent / "wide"), "OUT": str(tmp_path / "out")}
    line = words
    for word, place in places.items():
        line = line.replace(word, place)
    assert main(line.split()) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_morphs_of_pictures_too_small_for_lpips_say_so(fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Alex:
        net = "alex"
        require_size = Lpips.require_size

    monkeypatch.setattr(morph, "load_lpips", lambda net, weights: Alex())
    report = morph.measure_morphs(hf.load_run(fitted), pairs=1)
    assert report["figures"]["ppl"]["moved"] is None
    assert any(note.startswith("ppl, pdv: n/a, lpips: image is 8x8") for note in report["notes"])


def test_families_of_shapes_with_several_axes_say_how_many_have_each() -> None:
    scenes = [
        {"name": name, "triangles": 8, "box": {"half_side": 1.0, "center": [0.0] * 3}, "up": up}
        for name, up in (("a", [0.0, 1.0, 0.0]), ("b", [0.0, 0.0, 1.0]), ("c", [0.0, 0.0, 1.0]))
    ]
    found = {"path": "shapes", "kind": "shapes", "format": "meshes", "scenes": scenes, "left_out": [], "notes": []}
    assert ("up", "z of 2, y of 1") in family_rows(found)
    assert ("up", "z") in family_rows({**found, "scenes": scenes[1:]})


def test_scenes_without_views_to_test_with_are_left_out_of_what_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And where no new scene has some, add says so, with the run whole."""
    for name in ("one", "other"):
        folder = capture(tmp_path / "family" / name)
        shutil.copytree(folder, tmp_path / "new" / f"new {name}")
    path = tmp_path / "new" / "new one" / "transforms.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "frames": content["frames"][:1]}))
    run, more, page = (str(tmp_path / name) for name in ("run", "more", "page.html"))
    short = ["--steps", "2"]
    assert main(["fit", str(tmp_path / "family"), "--preset", "tiny", "--out", run, *short]) == 0
    assert main(["add", run, str(tmp_path / "new"), "--out", more, *short, "--scenes", "new one"]) == 0
    assert "1 new scenes: n/a without views to test with" in capsys.readouterr().out
    codes = str(tmp_path / "codes.safetensors")
    assert main(["infer", run, str(tmp_path / "new"), "--out", codes, *short, "--scenes", "new one"]) == 0
    assert f"next: hyperfields eval {run} --codes {codes} --split train\n" in capsys.readouterr().out
    shutil.rmtree(more)
    assert main(["add", run, str(tmp_path / "new"), "--out", more, *short]) == 0
    assert main(["eval", more, "--html", page]) == 0
    out = capsys.readouterr().out
    assert "none of its 1 pictures is for 'test'" in out
    assert "without the 1 of 4 scenes that lack it" in out
    assert main(["eval", run, "--split", "val"]) == 2  # none of them
