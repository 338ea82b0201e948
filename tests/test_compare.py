"""`compare`: equal budgets, a line a result, resumable, a table, a JSON and a plot."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hyperfields import hypernets
from hyperfields.cli import main
from hyperfields.data import Images
from hyperfields.errors import InputError
from hyperfields.evaluation.budget import sized
from hyperfields.evaluation.compare import Comparison, compare, hold_out, parse_bytes
from hyperfields.evaluation.comparison_table import format_result, format_table, summarize
from hyperfields.evaluation.lpips import LpipsUnavailable
from hyperfields.evaluation.plots import pareto, plot
from hyperfields.evaluation.unseen import file_rows, format_unseen
from hyperfields.fields import ImageField
from hyperfields.fields.encodings import FactoredGrid
from hyperfields.model import ModelConfig
from hyperfields.runs.run import load_run
from hyperfields.tasks import TASKS
from hyperfields.training.cost import count
from hyperfields.training.fit import Fit

from ._analytic import Balls, Discs

FIELD = ImageField(FactoredGrid(2, 3, 2, 8, 4, 16, bases=3), hidden=(24, 24))


@pytest.fixture(autouse=True)
def no_lpips(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine may have weights, and the networks take longer than all else here."""

    def missing(net: str, weights: Path | None) -> None:
        raise LpipsUnavailable("no weights here")

    monkeypatch.setattr("hyperfields.evaluation.report.load_lpips", missing)


SHARING = [name for name in hypernets.GENERATORS if name != "direct"]


@pytest.mark.parametrize("name", SHARING)
def test_equal_bytes_are_reached_from_below(name: str) -> None:
    config = ModelConfig(FIELD, hypernets.LowRank(3), 48)
    wanted = int(count(config, 4).amortised * 1.05)
    found = sized(config, name, 4, wanted)
    assert found.field == config.field
    assert count(found, 4).amortised <= wanted
    assert count(dataclasses.replace(found, latent_size=found.latent_size + 1), 4).amortised > wanted


KNOBS = {name: made.knob for name in SHARING if (made := hypernets.parse(name)).knob}


@pytest.mark.parametrize(("name", "knob"), KNOBS.items())
def test_the_own_setting_grows_before_the_latent(name: str, knob: str) -> None:
    config = ModelConfig(FIELD, hypernets.LowRank(3), 8)
    wanted = int(2.0 * count(config, 4).amortised)
    config = dataclasses.replace(config, field=ImageField(dataclasses.replace(FIELD.encoding, bases=1), (24, 24)))
    small, large = sized(config, name, 4, 30_000), sized(config, name, 4, wanted + 30_000)
    assert getattr(large.generator, knob) >= getattr(small.generator, knob)
    one = sized(config, f"{name}:{knob}=4", 4, wanted)
    assert getattr(one.generator, knob) == 4


def test_bases_follow_the_bytes() -> None:
    config = ModelConfig(FIELD, hypernets.LowRank(3), 8)
    half = sized(config, "full", 4, int(count(config, 4).amortised * 2 / 3))
    assert isinstance(half.field.encoding, FactoredGrid)
    assert half.field.encoding.bases == 2


@pytest.mark.parametrize("name", SHARING)
def test_every_generator_has_rates(name: str) -> None:
    assert set(hypernets.parse(name).rates) == set(TASKS)


def test_bytes_that_nothing_fits_into_are_refused() -> None:
    with pytest.raises(InputError, match=r"--bytes 10: full takes [\d,]+ bytes a scene with a latent of one"):
        sized(ModelConfig(FIELD, hypernets.Full(), 1), "full", 4, 10)


def test_scenes_left_out_are_spread() -> None:
    assert hold_out("abcdefgh", 2) == (list("abdefh"), ["c", "g"])
    for wanted in (0, 8):
        with pytest.raises(InputError, match=f"--unseen {wanted}: wanted fewer than the 8 scenes"):
            hold_out("abcdefgh", wanted)


def test_bytes_are_numbers() -> None:
    assert parse_bytes("5000, 2500") == (5000, 2500)
    assert parse_bytes(None) == ()
    with pytest.raises(InputError, match="--bytes 5k: wanted whole numbers"):
        parse_bytes("5k")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"generators": ("full", "fool")}, "generator 'fool': unknown, wanted one of full, per-layer"),
        ({"generators": ()}, "wanted names, each once"),
        ({"generators": ("full",), "leaders": 0}, "--leaders 0: wanted at least 1"),
        ({"generators": ("full", "lora"), "leaders": 1}, "--leaders 1: get other --bytes or --seeds; give several"),
        ({"generators": ("full",), "bytes_per_scene": (0,)}, "--bytes 0: wanted numbers above 0"),
        ({"generators": ("full",), "seeds": 0}, "--seeds 0: wanted at least 1"),
        ({"generators": ("full",), "minutes": 1.0}, "give one of the two"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Comparison(**{"steps": 5, **settings})


def test_a_stopped_comparison_goes_on_and_gives_the_same(tmp_path: Path) -> None:
    asked = Comparison(("full", "low-rank:rank=2"), steps=4, seeds=2, preset="tiny", bytes_per_scene=(20_000,))
    told: list[dict[str, Any]] = []

    def stop_after_two(result: dict[str, Any]) -> None:
        told.append(result)
        if len(told) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(Discs(), tmp_path / "a", asked, unseen=Discs(), tell=stop_after_two)
    with open(tmp_path / "a/results.jsonl", "a") as file:
        file.write('{"generator": "low-r')  # a kill in the middle of a line
    report = compare(Discs(), tmp_path / "a", asked, unseen=Discs(), tell=told.append)
    order = [("full", 0), ("low-rank:rank=2", 0), ("full", 1), ("low-rank:rank=2", 1)]
    assert [(r["generator"], r["seed"]) for r in told] == order
    assert [json.loads(line) for line in (tmp_path / "a/results.jsonl").read_text().splitlines()] == report["results"]
    assert json.loads((tmp_path / "a/report.json").read_text())["table"] == report["table"]
    for row in report["table"]:
        assert row["amortised"] <= 20_000
        assert row["unseen"] is not None
    run = load_run(tmp_path / "a" / "low-rank_rank2-20000-1")
    assert run.model.config.generator == hypernets.LowRank(2)

    whole = compare(Discs(), tmp_path / "b", asked, unseen=Discs())
    for one, two in zip(report["results"], whole["results"], strict=True):
        assert one["mean"] == two["mean"]
        assert one["unseen"] == two["unseen"]
    assert [row["generator"] for row in whole["table"]] == sorted(
        ("full", "low-rank:rank=2"), key=lambda name: -{r["generator"]: r["quality"] for r in whole["table"]}[name]
    )
    assert "low-rank:rank=2" in format_table(whole)

    with pytest.raises(InputError, match="holds a comparison with another steps"):
        compare(Discs(), tmp_path / "a", dataclasses.replace(asked, steps=5), unseen=Discs())


def test_only_leaders_get_more_seeds_and_sizes(tmp_path: Path) -> None:
    generators = ("full", "scale-shift", "direct")
    asked = Comparison(generators, steps=8, seeds=2, leaders=1, preset="tiny", bytes_per_scene=(20_000, 10_000))
    report = compare(Discs(), tmp_path / "a", asked)
    first, rest = report["results"][:3], report["results"][3:]
    assert [(r["generator"], r["bytes_per_scene"]) for r in first] == [
        ("full", 20_000), ("scale-shift", 20_000), ("direct", None),
    ]  # fmt: skip
    best = max(first[:2], key=lambda r: r["mean"]["psnr"])["generator"]
    assert [(r["generator"], r["bytes_per_scene"], r["seed"]) for r in rest] == [
        (best, 20_000, 1), (best, 10_000, 0), (best, 10_000, 1),
    ]  # fmt: skip
    assert len(report["table"]) == 4
    assert "alone" in format_table(report)
    assert all(r["curve"][-1][0] == r["seconds"] for r in report["results"])
    assert len(first[0]["curve"]) > 2
    more = dataclasses.replace(asked, generators=("full", "scale-shift", "lora"), leaders=None, seeds=1)
    again = compare(Discs(), tmp_path / "a", dataclasses.replace(more, bytes_per_scene=(20_000,)))
    assert again["results"][: len(report["results"])] == report["results"]
    assert [r["generator"] for r in again["results"][len(report["results"]) :]] == ["lora"]


def test_a_diverged_fit_is_a_result(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def lost(self: object, report: object) -> None:
        raise FloatingPointError("the loss is nan at step 3; lower the rates")

    monkeypatch.setattr(Fit, "run", lost)
    report = compare(Discs(), tmp_path / "a", Comparison(("full",), steps=4, preset="tiny"))
    assert report["results"][0]["diverged"].startswith("the loss is nan")
    assert "diverged" in format_table(report)
    assert format_result(report["results"][0]) == "full, seed 0: diverged: the loss is nan at step 3; lower the rates"


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        compare(Discs(), tmp_path, Comparison(("full",), steps=4, preset="tiny"))


def test_the_front_is_what_nothing_beats() -> None:
    assert pareto([(3.0, 1.0), (1.0, 2.0), (2.0, 2.0), (4.0, 5.0)]) == [(1.0, 2.0), (4.0, 5.0)]
    assert pareto([]) == []


def result_of(name: str, seed: int, quality: float) -> dict[str, Any]:
    return {
        "generator": name,
        "seed": seed,
        "latent_size": 8,
        "bytes_per_scene": 1000,
        "bytes_per_scene_found": {"amortised": 1000.0, "marginal": 16},
        "steps": 5,
        "seconds": 1.0,
        "mean": {"psnr": quality},
        "worst": quality - 1.0,
        "curve": [[0.5, 0.1], [1.0, 0.05]],
    }


def test_a_row_is_the_mean_over_seeds_and_the_best_comes_first() -> None:
    rows = summarize([result_of("full", 0, 30.0), result_of("full", 1, 32.0), result_of("lora", 0, 33.0)])
    assert [row["generator"] for row in rows] == ["lora", "full"]
    assert rows[1]["quality"] == 31.0
    assert rows[1]["spread"] == pytest.approx(2.0**0.5)
    assert rows[1]["worst"] == 29.0


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    results = [result_of("full", 0, 30.0), result_of("lora", 0, 33.0)]
    plot(
        {"settings": {"kind": "images", "scenes": ["a"]}, "results": results, "table": summarize(results)},
        tmp_path / "p.png",
    )
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"


def test_files_of_pictures_keep_to_their_bytes() -> None:
    """Each is the best one that does: another codec's own decoder says what it shows."""
    from PIL import Image, features

    side = 24
    ramp = torch.linspace(0, 1, side).expand(side, side)
    random = torch.Generator().manual_seed(0)
    noisy = torch.stack((ramp, ramp.T, 0.5 * ramp + 0.3 * torch.rand(side, side, generator=random)), -1)
    data = Images((torch.stack((noisy, noisy.flip(0))) * 255.0).byte())
    rows = {(row["way"], row["wanted"]): row for row in file_rows(data, TASKS["images"], (20, 250, 500))}
    assert rows["PNG", None]["exact"]
    assert rows["WebP, lossless", None]["exact"]
    assert rows["PNG", None]["bytes"] < side * side * 3
    assert rows["WebP", 20]["bytes"] is None
    small, large = rows["WebP", 250], rows["WebP", 500]
    assert small["bytes"] <= 250 < large["bytes"] <= 500
    assert 20.0 < small["mean"]["psnr"] < large["mean"]["psnr"]
    stream = io.BytesIO()
    Image.fromarray((data.reference(0) * 255).round().byte().numpy()).save(stream, "webp", quality=1, method=6)
    assert len(stream.getvalue()) <= small["bytes"] + 40
    assert ("AVIF 4:4:4", 500) in rows or not features.check("avif")
    assert file_rows(Balls(), TASKS["shapes"], (100,)) == []
    assert "WebP" in format_unseen(list(rows.values()), TASKS["images"].metrics[0])


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from hyperfields.runs.images import write_image

    (tmp_path / "discs").mkdir()
    for number, name in enumerate(Discs().names):
        write_image(tmp_path / f"discs/{name}.png", Discs().reference(number))
    words = ["compare", str(tmp_path / "discs"), "--out", str(tmp_path / "cmp"), "--preset", "tiny"]
    words += ["--unseen", "1", "--unseen-bytes", "150,700", "--generators", "full,direct", "--steps", "3"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "full, seed 0: psnr" in out
    assert "unseen psnr" in out
    table = out[out.index("unseen scenes") :].splitlines()
    assert {line.split("  ")[0] for line in table[1:]} >= {"full", "alone", "WebP", "WebP, lossless", "PNG"}
    assert next(line for line in table if line.startswith("PNG")).endswith("exact")
    report = (tmp_path / "cmp/report.json").read_bytes()
    (tmp_path / "cmp/report.json").unlink()
    assert main(["compare", "--out", str(tmp_path / "cmp")]) == 0  # the data are not needed, and nothing is fitted
    assert (tmp_path / "cmp/report.json").read_bytes() == report
    again = capsys.readouterr().out
    assert out.endswith(again)
    for option, value in (("--minutes", "2"), ("--generators", "full"), ("--unseen-bytes", "400")):
        assert main(["compare", "--out", str(tmp_path / "cmp"), option, value]) == 2
        assert f"{option} {value}" in capsys.readouterr().err
    assert main(["compare", "--out", str(tmp_path / "discs")]) == 2
    assert "holds no comparison; make one with: hyperfields compare FAMILY" in capsys.readouterr().err
    assert main([*words[:-4], "--steps", "3", "--generators", "fool"]) == 2
    assert "generator 'fool': unknown, wanted one of full" in capsys.readouterr().err
    assert main([*words[:6], *words[8:]]) == 2
    assert "--unseen-bytes 150,700: needs scenes that are left out" in capsys.readouterr().err
