"""Many scenes and many jobs: `pack`, `--shard`, `merge`, `fit --bases-from`."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import hyperfields as hf
from hyperfields.errors import InputError
from hyperfields.runs.codec import read_tensors
from hyperfields.runs.inferred import InferredCodes, load_codes
from hyperfields.runs.merged import joined, part_of
from hyperfields.runs.run import load_run
from hyperfields.scenes import open_family
from hyperfields.training import many
from hyperfields.training.distributed import World

from ._families import TINY, contents, make_images, run_cli, tree

NAMES = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu")
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("family") / "pictures", NAMES)


@pytest.fixture(scope="module")
def run(family: Path) -> Path:
    out = family.parent / "run"
    assert run_cli("fit", family, "--out", out, *TINY) == 0
    return out


def test_parts_make_up_the_whole() -> None:
    for count in range(1, 8):
        parts = [part_of(NAMES, (number, count)) for number in range(1, count + 1)]
        assert [name for part in parts for name in part] == list(NAMES)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_pack_then_fit_and_measure(family: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pack, out, report = tmp_path / "pack", tmp_path / "run", tmp_path / "report.json"
    assert run_cli("pack", family, pack, "--size", "8x8", "--limit", 5) == 0
    assert f"wrote {pack}: 5 scenes of images" in capsys.readouterr().out
    assert run_cli("fit", pack, "--out", out, *TINY) == 0
    assert run_cli("eval", out, "--out", report, "--lpips-weights", tmp_path) == 0
    assert list(json.loads(report.read_text())["scenes"]) == list(NAMES[:5])
    assert run_cli("infer", out, pack, "--out", tmp_path / "c.safetensors", "--steps", 2, "--scenes", "bee,dog") == 0
    assert load_codes(tmp_path / "c.safetensors", load_run(out)).names == ("bee", "dog")


def test_pack_refuses(family: Path, tmp_path: Path, refused: Refused) -> None:
    """One line, and nothing is left."""
    used = tmp_path / "used"
    used.mkdir()
    (used / "note.txt").write_text("mine")
    assert "exists already and is not an empty folder" in refused("pack", family, used)
    assert "no scene called 'yak'" in refused("pack", family, tmp_path / "new", "--scenes", "yak")
    mixed = make_images(tmp_path / "mixed", ("a", "b"))
    make_images(tmp_path / "small", ("c",), side=8)
    (tmp_path / "small" / "c.png").rename(mixed / "c.png")
    assert "pass --size HxW to bring all to one size" in refused("pack", mixed, tmp_path / "new")


def test_shards_of_infer_and_eval(family: Path, run: Path, tmp_path: Path, refused: Refused) -> None:
    codes = [tmp_path / f"{number}.safetensors" for number in (1, 2, 3)]
    for number, file in enumerate(codes, 1):
        assert run_cli("infer", run, family, "--out", file, "--steps", 3, "--shard", f"{number}/3") == 0
    merged = tmp_path / "all.safetensors"
    assert "part 2/3: is missing (1 are)" in refused("merge", merged, codes[0], codes[2], "--run", run)
    assert "as" in refused("merge", merged, codes[0], codes[1], codes[1], "--run", run)
    assert "--run: give the run" in refused("merge", merged, *codes)
    assert run_cli("merge", merged, *reversed(codes), "--run", run) == 0
    loaded = load_run(run)
    whole = load_codes(merged, loaded)
    assert sorted(whole.names) == list(NAMES)
    for file in codes:
        part = load_codes(file, loaded)
        assert torch.equal(part.codes, whole.codes[[whole.index(name) for name in part.names]])

    reports = [tmp_path / "reports" / f"{number}.json" for number in (1, 2)]  # in a folder that the first one makes
    common = ("--codes", merged, "--lpips-weights", tmp_path)
    for number, file in enumerate(reports, 1):
        assert run_cli("eval", run, *common, "--out", file, "--shard", f"{number}/2") == 0
    assert run_cli("eval", run, *common, "--out", tmp_path / "once.json") == 0
    assert "part 2/2: is missing" in refused("merge", tmp_path / "r.json", reports[0])
    assert run_cli("merge", tmp_path / "r.json", *reports) == 0
    put, once = (json.loads((tmp_path / name).read_text()) for name in ("r.json", "once.json"))
    assert put["mean"] == pytest.approx(once["mean"])
    assert {**put, "seconds": 0, "mean": 0} == {**once, "seconds": 0, "mean": 0}


def test_a_run_with_codes_is_a_run(family: Path, run: Path, tmp_path: Path, refused: Refused) -> None:
    more = make_images(tmp_path / "more", ("hen", "ibex"), side=16)
    codes, out = tmp_path / "more.safetensors", tmp_path / "whole"
    assert run_cli("infer", run, more, "--out", codes, "--steps", 3) == 0
    assert run_cli("merge", out, run, codes) == 0
    whole, loaded = load_run(out), load_run(run)
    assert whole.names == (*NAMES, "hen", "ibex")
    assert torch.equal(whole["eel"].render(), loaded["eel"].render())
    assert torch.equal(whole["ibex"].render(), load_codes(codes, loaded)["ibex"].render())
    assert run_cli("eval", out, "--out", tmp_path / "r.json", "--lpips-weights", tmp_path) == 0
    assert "scene 'ant': is in" in refused("merge", tmp_path / "again", out, out)
    assert "belong to another run" in refused("merge", tmp_path / "again", out, codes)
    again = tmp_path / "again.safetensors"
    make_images(more / "x", ("bee",), side=16)
    (more / "x" / "bee.png").rename(more / "bee.png")
    assert run_cli("infer", run, more, "--rest", "--out", again, "--steps", 1) == 0
    assert load_codes(again, loaded).names == ("hen", "ibex")
    assert "--rest: " in refused("infer", run, family, "--rest", "--out", again)
    assert "came alone" in refused("merge", tmp_path / "again", run)


@pytest.mark.parametrize(("verb", "suffix"), [("render", ".png"), ("export", ".safetensors")])
def test_a_file_for_each_scene(verb: str, suffix: str, run: Path, tmp_path: Path, refused: Refused) -> None:
    out = f"{tmp_path}/{verb}/{{scene}}{suffix}"
    for number in (1, 2):
        assert run_cli(verb, run, "--out", out, "--shard", f"{number}/2") == 0
        assert len(tree(tmp_path / verb)) == (3, 7)[number - 1]
    assert tree(tmp_path / verb) == [f"{name}{suffix}" for name in NAMES]
    alone = tmp_path / f"dog{suffix}"
    assert run_cli(verb, run, "--scene", "dog", "--out", alone) == 0
    ours, theirs = alone, tmp_path / verb / f"dog{suffix}"
    if verb == "render":
        assert ours.read_bytes() == theirs.read_bytes()
    else:  # the order of a header's entries is not the same in two files
        (a, said), (b, says) = read_tensors(ours), read_tensors(theirs)
        assert said == says
        assert all(torch.equal(a[name], b[name]) for name in a.keys() | b.keys())
    assert "leave --scene out" in refused(verb, run, "--out", out, "--scene", "dog")
    assert "is of many files" in refused(verb, run, "--out", alone, "--shard", "1/2", "--scene", "dog")
    assert "wanted a part of so many" in refused(verb, run, "--out", out, "--shard", "3/2")


def test_bases_from_a_part(family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused) -> None:
    """One ordinary run of all scenes, the same bits whether it was stopped or not."""
    monkeypatch.setattr(many, "BLOCK", 2)
    monkeypatch.setattr(many, "VISITS", 3)
    command = ("fit", family, *TINY, "--bases-from", 4)
    assert run_cli(*command, "--out", tmp_path / "once") == 0
    whole = load_run(tmp_path / "once")
    assert whole.names == NAMES
    assert whole.summary["bases_from"] == 4
    assert [len(source.scenes) for source in whole.config.sources] == [7]
    assert not {"bases", "codes"} & {path.name for path in (tmp_path / "once").iterdir()}
    assert run_cli("eval", tmp_path / "once", "--out", tmp_path / "r.json", "--lpips-weights", tmp_path) == 0

    infer, calls = many.infer, []

    def stopped(*given: Any, **options: Any) -> Any:
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return infer(*given, **options)

    monkeypatch.setattr(many, "infer", stopped)
    assert run_cli(*command, "--out", tmp_path / "twice") == 130
    assert run_cli("fit", family, "--out", tmp_path / "twice", "--resume") == 0
    assert len(calls) == 3  # the first block was not fitted again
    assert contents(tmp_path / "twice")["model.safetensors"] == contents(tmp_path / "once")["model.safetensors"]
    assert "--bases-from 7: the family has 7 scenes" in refused(
        "fit", family, "--out", tmp_path / "x", "--bases-from", 7
    )
    assert "--by: cannot be had with --bases-from" in refused(
        "fit", family, "--out", tmp_path / "x", "--bases-from", 2, "--by", "vae"
    )


def test_a_fit_with_bases_from_a_part_keeps_its_scenes_and_spares_other_runs(
    family: Path, run: Path, tmp_path: Path, refused: Refused
) -> None:
    data, before = open_family(family), contents(run)
    with pytest.raises(InputError, match="holds a fit already"):
        hf.fit_many(data, run, bases_from=3, steps=1, preset="tiny", progress=False)
    assert contents(run) == before

    class Two(World):
        size = 2

    with pytest.raises(InputError, match="bases_from: needs one process"):
        hf.fit_many(data, tmp_path / "x", bases_from=3, steps=1, world=Two(), progress=False)
    (tmp_path / "half" / many.BASES).mkdir(parents=True)
    (tmp_path / "half" / many.BASES / "names.json").write_text('["ant", "bee"]')
    for file in ("config.json", "model.safetensors"):
        (tmp_path / "half" / many.BASES / file).write_bytes((run / file).read_bytes())
    words = ("fit", family, "--out", tmp_path / "half", "--resume")
    assert "a fit that goes on has its scenes" in refused(*words, "--limit", 2)
    assert "a fit that goes on has its scenes" in refused(*words, "--scenes", "ant")


def test_results_do_not_take_the_place_of_a_run(family: Path, run: Path, tmp_path: Path, refused: Refused) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(run, mine)
    codes, report = tmp_path / "codes.safetensors", tmp_path / "report.json"
    assert run_cli("infer", run, family, "--limit", 2, "--out", codes, "--steps", 1) == 0
    assert run_cli("eval", run, "--out", report, "--lpips-weights", tmp_path) == 0
    said = "is a file of the run in this folder"
    assert said in refused("merge", mine / "model.safetensors", codes, "--run", run)
    assert said in refused("merge", mine / "summary.json", report)
    with pytest.raises(InputError, match=said):
        hf.infer(load_run(run), open_family(family), mine / "model.safetensors", steps=1, progress=False)


def test_reports_of_other_things_are_not_merged(family: Path, run: Path, tmp_path: Path, refused: Refused) -> None:
    """Of fitted scenes and of inferred ones; of pictures of two sizes."""
    codes, reports = tmp_path / "codes.safetensors", [tmp_path / f"{number}.json" for number in range(3)]
    assert run_cli("infer", run, family, "--out", codes, "--steps", 1) == 0
    for file, words in zip(
        reports, (("--shard", "1/2"), ("--shard", "2/2", "--codes", codes), ("--shard", "2/2", "--size", "8x8")),
        strict=True,
    ):  # fmt: skip
        assert run_cli("eval", run, "--out", file, "--lpips-weights", tmp_path, *words) == 0
    assert "inferred True, not False as in" in refused("merge", tmp_path / "r.json", reports[0], reports[1])
    assert "size 8x8, not None as in" in refused("merge", tmp_path / "r.json", reports[0], reports[2])


def test_parts_may_differ_in_whether_their_scenes_were_symmetric(run: Path) -> None:
    loaded = load_run(run)
    parts = [
        InferredCodes(loaded, (name,), loaded.codes(name), source={"path": "/x", "shard": f"{number}/2", **more})
        for number, (name, more) in enumerate((("ant", {"mirror": "x"}), ("bee", {})), 1)
    ]
    assert joined(parts, ["1", "2"]).source == {"path": "/x"}
    alike = [dataclasses.replace(part, source={**part.source, "mirror": "x"}) for part in parts]
    assert joined(alike, ["1", "2"]).source == {"path": "/x", "mirror": "x"}


def test_options_that_are_of_one_result_are_refused_for_many(family: Path, run: Path, refused: Refused) -> None:
    assert "leave --family out" in refused("render", run, "--out", "x/{scene}.png", "--family", family)
    assert "--shard: is not of --morph" in refused("eval", run, "--morph", "--shard", "1/2")
