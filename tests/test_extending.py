"""Open from outside: a part of one's own of each sort, from tests/extension, fitted, saved, loaded and refused."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import hyperfields as hf
from hyperfields import ImageField, ModelConfig, TrainConfig
from hyperfields.evaluation.compare import redo_report
from hyperfields.evaluation.comparison_table import format_table
from hyperfields.scenes import READERS, Reader
from hyperfields.training.cost import point_flops

from .extension import audio_field, audio_task, encoding, export, generator, training
from .extension.audio_data import Tones
from .extension.data import TEXT, Stripes

FIELD, DATA = ImageField(hf.Fourier(2, 2), hidden=(8,)), Stripes()
MODEL, TRAIN = ModelConfig(FIELD, hf.Full(), 4), TrainConfig(2, 2 * 64)
HERE = "tests.extension"


def round_trip(run: hf.Run, trust: list[Any], needs: str, *, deferred: bool = False) -> hf.Run:
    """The run as it is loaded; without trust, one line says what to type.

    deferred: it renders without trust, and is refused when it goes on.
    """
    assert run.path is not None
    folder = run.path

    def untrusted() -> None:
        loaded = hf.load_run(folder)
        if deferred:
            assert torch.equal(loaded["wide"].render(), run["wide"].render())
            settings: dict[str, Any] = {"steps": 2} if run.config.codes is None else {"by": "steps"}
            hf.infer(loaded, DATA, progress=False, **settings)

    with pytest.raises(hf.InputError) as refused:
        untrusted()
    text = str(refused.value)
    name = needs.rpartition(".")[2].rpartition(":")[2]
    assert "\n" not in text
    assert deferred or str(run.path) in text
    assert needs in text
    assert f"trust=[{name}]" in text
    loaded = hf.load_run(run.path, trust=trust)
    for part, value in run.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[part], value), part
    again = hf.fit(DATA if run.kind == "images" else Tones(), run.path, resume=True, progress=False, **kept(run))
    assert again.names == run.names
    return loaded


def kept(run: hf.Run) -> dict[str, Any]:
    """Arguments of `fit` that go on with a run."""
    config = run.config
    return {"steps": config.fit.steps, "model": config.model, "train": config.train, "codes": config.codes,
            "loss": config.train.loss, "task": config.task}  # fmt: skip


def test_a_generator(tmp_path: Path) -> None:
    model = ModelConfig(FIELD, generator.Sines(waves=6), 4)
    run = hf.fit(DATA, tmp_path / "run", steps=200, model=model, train=TRAIN, progress=False)
    loaded = round_trip(run, [generator.Sines], f"{HERE}.generator:Sines")
    assert loaded.config.model.generator == generator.Sines(waves=6)
    picture = loaded["wide"].render()
    assert float((picture - DATA.reference(0)).square().mean()) < 0.04
    inferred = hf.infer(loaded, DATA, tmp_path / "codes.safetensors", steps=3, refine=True, progress=False)
    assert hf.load_codes(tmp_path / "codes.safetensors", loaded).names == inferred.names
    more = hf.add(
        loaded, hf.Images(torch.rand(1, 12, 12, 3), names=["new"]), tmp_path / "more", steps=3, progress=False
    )
    assert more.names == ("wide", "narrow", "new")
    assert hf.evaluate(more, DATA, scenes=[more["wide"]])["generator"] == "Sines"


def test_an_encoding_with_weights_of_its_own(tmp_path: Path) -> None:
    for number, field in enumerate((ImageField(encoding.Planes(), hidden=(8,)), FIELD)):
        model = ModelConfig(field, hf.LowRank(2), 4)
        run = hf.fit(DATA, tmp_path / str(number), steps=3, model=model, train=TRAIN, progress=False)
    field = ImageField(encoding.Planes(), hidden=(8,))
    run = hf.fit(DATA, tmp_path / "run", steps=3, model=ModelConfig(field, hf.Full(), 4), train=TRAIN, progress=False)
    loaded = round_trip(run, [encoding.Planes], f"{HERE}.encoding:Planes")
    assert "planes.phases" in loaded.bind("wide").weights
    assert point_flops(field) > point_flops(ImageField(hf.Identity(2), hidden=(8,)))
    # A field on its own names the class as well.
    path = run["wide"].save(tmp_path / "wide.safetensors")
    with pytest.raises(hf.InputError, match=r"wide\.safetensors: class 'tests.extension.encoding:Planes': is not part"):
        hf.load_field(path)
    x = torch.rand(1, 5, 2)
    assert torch.equal(hf.load_field(path, trust=[encoding.Planes])(x), run["wide"](x))


@pytest.mark.parametrize("kind", ["shapes", "views"])
def test_an_encoding_serves_fields_of_every_kind(kind: str) -> None:
    """Bound, packed points included."""
    planes = encoding.Planes(3)
    field = hf.SDFField(planes, hidden=(8,)) if kind == "shapes" else hf.RadianceField(planes, hidden=(8,), occupancy=4)
    model = hf.HyperField(ModelConfig(field, hf.Full(), 4), 2)
    bound = model(torch.arange(2))
    d = torch.nn.functional.normalize(torch.randn(2, 6, 3), dim=-1)
    points = [torch.rand(2, 6, 3), *([d] if kind == "views" else [])]
    whole = bound(*points)
    packed = bound(*(part.flatten(0, 1) for part in points), torch.tensor([6, 6]))
    pairs = zip(whole, packed, strict=True) if isinstance(whole, tuple) else [(whole, packed)]
    for a, b in pairs:
        torch.testing.assert_close(a.flatten(0, 1), b)
    if kind == "views":
        picture = hf.render_picture(
            model.bind(model.latents.codes[:1].detach()), hf.orbit(1, radius=3.0, height=8, width=8)[0], (8, 8)
        )
        assert picture.shape == (8, 8, 3)


def test_a_loss(tmp_path: Path) -> None:
    for number, loss in enumerate((training.Huber(0.05), training.absolute)):
        run = hf.fit(DATA, tmp_path / str(number), steps=3, model=MODEL, train=TRAIN, loss=loss, progress=False)
        made = loss if loss is training.absolute else training.Huber
        loaded = round_trip(run, [made], f"{HERE}.training:{made.__name__}", deferred=True)
        assert loaded.config.train.loss == loss
    plain = hf.fit(DATA, steps=30, model=MODEL, train=TRAIN, progress=False)
    other = hf.fit(DATA, steps=30, model=MODEL, train=TRAIN, loss=training.absolute, progress=False)
    assert not torch.equal(plain.model.latents.codes, other.model.latents.codes)


class Absolute(torch.nn.Module):
    """A loss as a module: it can be fitted with and not be written down."""

    def forward(self, prediction: torch.Tensor, batch: hf.Points) -> torch.Tensor:
        return (prediction - batch.target).abs()


def test_a_loss_that_cannot_be_saved_fits_in_memory_and_says_so_before_it_is_written(tmp_path: Path) -> None:
    nameless: list[tuple[Any, str]] = [
        (lambda prediction, batch: (prediction - batch.target).square(), "a lambda has no name to load it by"),
        (Absolute(), "Absolute: cannot be saved in a run; wanted a frozen dataclass, a function or plain data"),
    ]
    for loss, message in nameless:
        run = hf.fit(DATA, steps=2, model=MODEL, train=TRAIN, loss=loss, progress=False)
        assert run["wide"].render().shape == (12, 12, 3)
        for save in (
            lambda loss=loss: hf.fit(
                DATA, tmp_path / "run", steps=2, model=MODEL, train=TRAIN, loss=loss, progress=False
            ),
            lambda run=run: run.save(tmp_path / "run"),
        ):
            with pytest.raises(hf.InputError, match=message):
                save()
            assert not (tmp_path / "run").exists()


def test_a_schedule(tmp_path: Path) -> None:
    train = TrainConfig(2, 2 * 64, schedule=training.Steps(0.25))
    run = hf.fit(DATA, tmp_path / "run", steps=4, model=MODEL, train=train, progress=False)
    loaded = round_trip(run, [training.Steps], f"{HERE}.training:Steps", deferred=True)
    assert loaded.config.train.schedule == training.Steps(0.25)


def test_a_regularizer() -> None:
    held = training.Smooth(10.0)
    runs = [
        hf.fit(DATA, steps=40, model=MODEL, train=TRAIN, regularizers=[held] if on else [], progress=False)
        for on in (False, True)
    ]
    assert sorted(set(held.steps)) == list(range(40))
    sizes = [sum(float(v.square().mean()) for v in run.bind("wide").weights.values()) for run in runs]
    assert sizes[1] < 0.9 * sizes[0]


def test_a_source_of_codes(tmp_path: Path) -> None:
    run = hf.fit(DATA, tmp_path / "run", steps=5, model=MODEL, train=TRAIN, codes=training.Ring(0.5), progress=False)
    loaded = round_trip(run, [training.Ring], f"{HERE}.training:Ring", deferred=True)
    assert loaded.config.codes == training.Ring(0.5)
    assert float(loaded.codes("wide").abs().max()) <= 0.5
    assert (tmp_path / "run/codes.safetensors").is_file()
    with pytest.raises(hf.InputError, match="was fitted without an encoder"):
        hf.infer(loaded, DATA, by="encoder")


def test_a_data_set_and_a_reader(tmp_path: Path) -> None:
    run = hf.fit(Stripes(), steps=2, preset="tiny", progress=False)
    assert run.names == ("wide", "narrow")
    assert hf.evaluate(run, Stripes())["mean"]["psnr"] > 0.0
    folder = tmp_path / "digits"
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.txt").write_text("0123456789\n" * 8)
    with pytest.raises(hf.InputError, match="nothing to fit in it"):
        hf.open_family(folder)
    data = hf.open_family(folder, readers=(*READERS, TEXT))
    assert data.names == ("a", "b")
    assert hf.open_family(folder, readers=(*READERS, TEXT), limit=1).names == ("a",)
    with pytest.raises(hf.InputError, match="size: is for images and views, but the family holds images; leave it out"):
        hf.open_family(folder, readers=(*READERS, TEXT), size=(8, 8))
    fitted = hf.fit(data, steps=2, preset="tiny", progress=False)
    assert fitted.config.picture["size"] == [8, 10]


def test_an_export_format(tmp_path: Path) -> None:
    run = hf.fit(DATA, steps=2, preset="tiny", progress=False)
    path = run["wide"].save(tmp_path / "wide.txt", formats={".txt": export.write_text})
    assert re.fullmatch(r"(\d{12}\n){11}\d{12}", path.read_text())
    with pytest.raises(hf.InputError, match=r"suffix \.txt cannot hold a scene of images; use one of"):
        run["wide"].save(tmp_path / "other.txt")


def test_a_kind_of_three_files(tmp_path: Path) -> None:
    task, data = audio_task.AudioTask(), Tones()
    run = hf.fit(data, tmp_path / "run", steps=400, task=task, progress=False)
    mine = [audio_field.AudioField, audio_task.AudioTask, training.Huber]
    with pytest.raises(hf.InputError, match=r"'tests\.extension\.\w+:\w+': is not part of hyperfields; import it"):
        hf.load_run(tmp_path / "run", trust=mine[:1])
    loaded = round_trip(run, mine, f"{HERE}.audio_field:AudioField")
    assert loaded.task == task
    assert loaded.kind == "audio"
    report = hf.evaluate(loaded, data)
    assert report["mean"]["snr"] > 10.0
    assert "snr [dB]" in hf.format_report(report, task)
    assert loaded["low"].render(size=(20, 30)).shape == (20, 30, 3)
    loaded["low"].save(tmp_path / "low.png")
    loaded["low"].save(tmp_path / "low.safetensors")
    x = torch.rand(7, 1)
    assert torch.equal(hf.load_field(tmp_path / "low.safetensors", trust=mine)(x[None])[0], loaded["low"](x))
    with pytest.raises(hf.InputError, match="audio: has no surface"):
        loaded["low"].mesh()
    for settings in ({"steps": 3, "refine": True}, {"by": "posterior", "steps": 3}):
        assert hf.infer(loaded, data, progress=False, **settings).codes.shape == (3, 8)  # type: ignore[arg-type]
    more = hf.add(loaded, Tones(("a", "b")), tmp_path / "more", steps=2, progress=False)
    assert more.task == task
    encoded = hf.fit(data, steps=2, task=task, codes=hf.Encoder(width=8, depth=1, heads=2), progress=False)
    assert hf.infer(encoded, data, by="encoder").codes.shape == (3, 8)
    assert hf.fit(data, steps=2, task=task, codes=hf.CAVIA(), progress=False).task == task
    assert hf.fit(data, steps=6, task=task, individually=True, progress=False).task == task
    asked = hf.Comparison(("full", "direct"), steps=6, preset="tiny")
    compared = hf.compare(data, tmp_path / "compared", asked, unseen=Tones(("a", "b")), task=task)
    assert [row["metric"] for row in compared["table"]] == ["snr", "snr"]
    assert {row["way"] for result in compared["results"] for row in result["unseen_rows"]} == {"full", "alone"}
    assert redo_report(tmp_path / "compared", task)["table"] == compared["table"]
    assert "snr [dB], mean over 3 scenes" in format_table(compared, task)


class Wrong(torch.nn.Module):
    """What a generator may do wrong."""

    def __init__(self, spec: Any, fault: str) -> None:
        super().__init__()
        self.spec, self.fault = spec, fault
        self.weights = torch.nn.ParameterDict(
            {name.replace(".", "/"): torch.zeros(e.shape) for name, e in spec.items()}
        )

    def forward(self, codes: torch.Tensor) -> dict[str, torch.Tensor]:
        made = {n.replace("/", "."): w.expand(len(codes), *w.shape) for n, w in self.weights.items()}
        first = next(iter(made))
        return {**made, first: made[first][..., :-1]} if self.fault == "shape" else {first: made[first]}


@dataclasses.dataclass(frozen=True)
class Faulty(hf.Generator):
    fault: str

    def build(self, spec: Any, latent_size: int, share: float) -> torch.nn.Module:
        return Wrong(spec, self.fault)


@dataclasses.dataclass(frozen=True)
class Short(encoding.Planes):
    """An encoding with fewer features than it says."""

    def __call__(self, *args: Any) -> torch.Tensor:
        return super().__call__(*args)[..., 1:]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"generator": Faulty("shape")}, r"Wrong: gave 'mlp.0.bias' of shape .*, wanted \[s, "),
        ({"generator": Faulty("names")}, r"Wrong: gave the weights \['mlp.0.bias'\], wanted mlp.0.bias, mlp"),
        ({"field": ImageField(Short(), hidden=(8,))}, r"Short: gave \d+ features a point, its `channels` says"),
        ({"loss": lambda color, batch: (color - batch.target).detach()}, "loss: its values have no gradient"),
    ],
)
def test_faults_of_own_parts_are_said(parts: dict[str, Any], message: str) -> None:
    loss = {"loss": parts.pop("loss")} if "loss" in parts else {}
    with pytest.raises(hf.InputError, match=message):
        hf.fit(DATA, steps=2, model=dataclasses.replace(MODEL, **parts), train=TRAIN, progress=False, **loss)


def test_formats_and_readers_are_held_to_what_they_say(tmp_path: Path) -> None:
    def half(scene: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise ValueError("mine")

    scene = hf.fit(DATA, steps=1, model=MODEL, train=TRAIN, progress=False)[0]
    with pytest.raises(ValueError, match="mine"):
        scene.save(tmp_path / "a.mine", formats={".mine": half})
    assert not list(tmp_path.iterdir())
    with pytest.raises(hf.InputError, match=r"a\.mine: the format for \.mine has not written it"):
        scene.save(tmp_path / "a.mine", formats={".mine": lambda scene, path: None})
    (tmp_path / "a.npy").touch()
    reader = Reader(kind="shapes", name="mine", wants="", detect=lambda folder: True, open=lambda folder, **_: DATA)
    with pytest.raises(hf.InputError, match="the reader of mine gave images; wanted a data set of shapes"):
        hf.open_family(tmp_path, readers=[reader])


def test_without_its_task_a_kind_is_refused() -> None:
    with pytest.raises(hf.InputError, match="kind 'audio': wanted one of images, shapes, views"):
        hf.fit(Tones(), steps=1)
