"""Faults that were found once: each of these tests failed before its mend. The numbers are those of the review's table.

Others stand beside their modules: 1, 2, 8 and 10 in tests/ops, 5 in test_extending, 7 in test_codes_encoder and
test_inference, 11 in test_tcnn_files, 12 in test_inference, 13 in test_codes_sequence, 14 in test_viewer_*.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

import hyperfields as hf
from hyperfields.cli import main
from hyperfields.evaluation.health import doctor
from hyperfields.runs.codec import read_tensors
from hyperfields.runs.config import FitSettings
from hyperfields.runs.run import METRICS
from hyperfields.tasks.objective import RayObjective
from hyperfields.training.fit import Fit
from hyperfields.training.optim import Optimizers
from hyperfields.training.trainer import Progress, Trainer

from ._analytic import Balls, Discs

FIELD = hf.ImageField(hf.Fourier(2, 2), hidden=(8,))
MODEL, TRAIN = hf.ModelConfig(FIELD, hf.Full(), 4), hf.TrainConfig(4, 4 * 32)


# ------------------------------------------------------------------------------------------------- 3: occupancy


@pytest.mark.parametrize("codes", [None, hf.CAVIA(), hf.CAVIA(steps=2), hf.Variational()], ids=repr)
def test_occupancy_is_updated_once_a_step_whatever_makes_the_codes(codes: hf.Codes | None) -> None:
    """It counted losses, and inner steps take losses: with three of them it was never updated."""
    field = hf.RadianceField(hf.Fourier(3, 2), hidden=(8,), geometry=3, color_hidden=(8,), step=0.2, occupancy=4)
    model, train = hf.ModelConfig(field, hf.Full(), 4), hf.TrainConfig(4, 4 * 128)
    fitting = Fit(Balls(), None, FitSettings(steps=9), model=model, train=train, codes=codes)
    trainer = fitting.trainer
    assert isinstance(trainer, Trainer)
    objective = trainer.objective
    assert isinstance(objective, RayObjective)
    updates: list[int] = []
    update = objective.occupancy.update_part
    objective.occupancy.update_part = lambda *arguments: (updates.append(trainer.steps), update(*arguments))[1]  # type: ignore[method-assign, assignment, func-returns-value]
    fitting.run()
    assert updates[1:] == [0, 4, 8]  # the first one is of the warm-up, which changes nothing
    assert not objective.occupancy.density.isinf().any()


# --------------------------------------------------------------------------------------- 4: added from elsewhere


def pictures(folder: Path, names: str) -> Path:
    folder.mkdir()
    for name in names:
        hf.write_image(folder / f"{name}.png", torch.rand(12, 12, 3))
    return folder


def test_scenes_added_from_another_folder_are_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run remembered one folder for all of its scenes."""
    first, second, third = (pictures(tmp_path / f"f{number}", names) for number, names in enumerate(("ab", "cd", "e")))
    runs = [str(tmp_path / f"run{number}") for number in range(3)]
    assert main(["fit", str(first), "--out", runs[0], "--preset", "tiny", "--steps", "2"]) == 0
    assert main(["add", runs[0], str(second), "--out", runs[1], "--steps", "2"]) == 0
    assert main(["add", runs[1], str(third), "--out", runs[2], "--steps", "2"]) == 0
    capsys.readouterr()
    for verb in ("eval", "doctor", "inspect"):
        assert main([verb, runs[2], *(["--out", str(tmp_path / "r.json")] if verb == "eval" else [])]) == 0, verb
    report = json.loads((tmp_path / "r.json").read_text())
    assert list(report["scenes"]) == list("abcde")
    assert not any("not those that were fitted" in note for note in report["notes"])
    sources = hf.load_run(runs[2]).config.sources
    assert [(Path(source.path).name, source.scenes) for source in sources] == [
        ("f0", ("a", "b")), ("f1", ("c", "d")), ("f2", ("e",)),
    ]  # fmt: skip


# ----------------------------------------------------------------------------------------- 6: resume, cut files


def stopped(out: Path, at: int, **settings: Any) -> None:
    """A fit of 12 steps that was stopped."""

    def stop(progress: Progress) -> None:
        if progress.step == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hf.fit(Discs(), out, steps=12, model=MODEL, train=TRAIN, progress=stop, **settings)


@pytest.mark.parametrize("tail", ['{"step": 10, "sec', "\x00\x00", "[]\n", "null\n", '{"no": 1}\n', "é"])
def test_a_log_that_was_cut_does_not_stop_a_fit_from_going_on(tail: str, tmp_path: Path) -> None:
    stopped(tmp_path / "run", 5)
    log = tmp_path / "run" / METRICS
    with open(log, "a") as file:
        file.write('{"step": 3, "seconds": 0.1, "loss": 0.5}\n{"step": 9, "seconds": 0.2, "loss": 0.4}\n' + tail)
    run = hf.fit(Discs(), tmp_path / "run", steps=12, model=MODEL, train=TRAIN, resume=True, progress=False)
    assert run.names == Discs().names
    lines = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert lines == [3, 12]  # what came after the state is fitted again


@pytest.mark.parametrize(
    ("codes", "individually"),
    [(None, False), (hf.Variational(), False), (hf.Encoder(width=8, depth=1, heads=2), False), (hf.CAVIA(), False),
     (None, True)],
    ids=["table", "variational", "encoder", "cavia", "individually"],
)  # fmt: skip
def test_a_fit_that_was_stopped_ends_as_one_that_was_not(
    codes: hf.Codes | None, individually: bool, tmp_path: Path
) -> None:
    """Bit for bit, wherever codes come from."""
    settings: dict[str, Any] = {"codes": codes, "individually": individually}
    whole = hf.fit(Discs(), tmp_path / "whole", steps=12, model=MODEL, train=TRAIN, progress=lambda _: None, **settings)
    stopped(tmp_path / "parts", 7, **settings)
    parts = hf.fit(
        Discs(),
        tmp_path / "parts",
        steps=12,
        model=MODEL,
        train=TRAIN,
        resume=True,
        progress=lambda _: None,
        **settings,
    )
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, parts.model.state_dict()[name]), name
    in_memory = hf.fit(Discs(), steps=12, model=MODEL, train=TRAIN, progress=False, **settings).model.state_dict()
    assert all(torch.equal(value, in_memory[name]) for name, value in whole.model.state_dict().items())
    states = [read_tensors(tmp_path / folder / "state/resume.safetensors")[0] for folder in ("whole", "parts")]
    assert states[0].keys() == states[1].keys()
    different = [name for name, value in states[0].items() if not torch.equal(value, states[1][name])]
    assert not different


def test_the_norm_that_gradients_are_clipped_by_is_saved_exactly() -> None:
    """It was rounded to 32 bits, so a fit that went on could clip otherwise."""
    weight = torch.nn.Parameter(torch.zeros(3))
    optimizers = Optimizers({"networks": [weight]}, TRAIN)
    optimizers.norm = 1.0 / 3.0
    again = Optimizers({"networks": [weight]}, TRAIN)
    again.restore(optimizers.state())
    assert again.norm == optimizers.norm


def test_a_damaged_state_is_one_line(tmp_path: Path) -> None:
    stopped(tmp_path / "run", 5)
    state = tmp_path / "run/state/resume.safetensors"
    good = state.read_bytes()
    tensors, header = read_tensors(state)
    del tensors["trainer.steps"]
    broken = [good[:100], b"", safetensors.torch.save(tensors, header), safetensors.torch.save(read_tensors(state)[0]),
              safetensors.torch.save(read_tensors(state)[0], {"progress": "{"}),
              safetensors.torch.save(read_tensors(state)[0], {"progress": '{"x": 1}'})]  # fmt: skip
    for data in broken:
        state.write_bytes(data)
        with pytest.raises(hf.InputError, match=r"resume\.safetensors: (damaged|cannot be read)"):
            hf.fit(Discs(), tmp_path / "run", steps=12, model=MODEL, train=TRAIN, resume=True, progress=False)


# ---------------------------------------------------------------------------------- 7: global state, damaged headers


@contextlib.contextmanager
def untouched_random_numbers() -> Iterator[None]:
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)


def test_nothing_reads_or_changes_the_global_random_numbers(tmp_path: Path) -> None:
    """Neither are they read: another state of them gives the same run."""
    run = hf.fit(Discs(), tmp_path / "run", steps=2, model=MODEL, train=TRAIN, progress=False)
    torch.manual_seed(1234)
    unseen = hf.Images(torch.rand(1, 16, 16, 3), names=["new"])
    calls: list[Callable[[], Any]] = [
        lambda: hf.fit(Discs(), steps=2, model=MODEL, train=TRAIN, progress=False),
        lambda: hf.fit(Discs(), steps=8, model=MODEL, train=TRAIN, individually=True, progress=False),
        lambda: hf.fit(Discs(), steps=2, model=MODEL, train=TRAIN, codes=hf.CAVIA(steps=1), progress=False),
        lambda: hf.load_run(tmp_path / "run"),
        lambda: hf.infer(run, unseen, steps=2, refine=True, progress=False),
        lambda: hf.infer(run, unseen, steps=2, by="posterior", progress=False),
        lambda: hf.add(run, unseen, tmp_path / "more", steps=2, progress=False),
        lambda: hf.evaluate(run, Discs()),
        lambda: doctor(run, Discs()),
        lambda: run["red"].render(),
        lambda: run.between("red", "green", 0.5).render(),
    ]
    for call in calls:
        with untouched_random_numbers():
            call()
    again = hf.fit(Discs(), steps=2, model=MODEL, train=TRAIN, progress=False)
    assert torch.equal(again.model.latents.codes, run.model.latents.codes)
    other = hf.fit(Discs(), steps=2, model=MODEL, train=TRAIN, seed=1, progress=False)
    assert not torch.equal(other.model.latents.codes, run.model.latents.codes)


@pytest.mark.parametrize("header", ["{", "", "null", '{"class": "os:system"}', '{"class": "ImageField"}'])
def test_a_field_with_a_damaged_header_is_one_line(header: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(1)}, path, {"field": header})
    with pytest.raises(hf.InputError, match=r"^[^\n]*a\.safetensors: [^\n]+$"):
        hf.load_field(path)


# ---------------------------------------------------------------------------------------------------- 9: warm-up


def test_each_scene_that_is_fitted_alone_warms_up_and_begins_its_own_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    factors: list[float] = []
    set_rate = Optimizers.set_rate

    def watch(self: Optimizers, factor: float) -> None:
        factors.append(factor)
        set_rate(self, factor)

    monkeypatch.setattr(Optimizers, "set_rate", watch)
    losses: dict[int, float] = {}

    def note(progress: Progress) -> None:
        losses.setdefault(progress.scene, progress.loss)

    model = hf.ModelConfig(FIELD, hf.Full(), 4)
    data = Discs(names=("red", "green", "blue"))
    hf.fit(
        data,
        steps=3 * 80,
        model=model,
        train=TRAIN,
        individually=True,
        progress=lambda p: losses.setdefault(p.scene, p.loss),
    )
    assert len(factors) == 240
    for scene in range(3):
        part = factors[80 * scene : 80 * (scene + 1)]
        assert part[0] == pytest.approx(1 / 50, rel=0.01)
        assert max(part) == part[part.index(max(part))] > 0.35
        assert part[-1] < 0.05
    assert min(losses.values()) > 0.02, losses  # of fields that nobody has fitted yet


# ------------------------------------------------------------------------------------------------- 15: not a number


class Spoiled(torch.autograd.Function):
    """The identity, whose gradient is not a number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> Tensor:
        return gradient[0] * float("nan")


@dataclasses.dataclass(frozen=True)
class SpoilFrom:
    """A loss that is finite and whose gradient is not, from some call on; the first call is that of the warm-up."""

    call: int
    calls: list[int] = dataclasses.field(default_factory=lambda: [0])

    def __call__(self, prediction: Tensor, batch: hf.Points) -> Tensor:
        self.calls[0] += 1
        if self.calls[0] > self.call:
            prediction = Spoiled.apply(prediction)  # type: ignore[no-untyped-call]
        return (prediction - batch.target).square()


def test_a_gradient_that_is_not_a_number_is_neither_applied_nor_saved(tmp_path: Path) -> None:
    seen: list[dict[str, Tensor]] = []
    fitting = Fit(Discs(), tmp_path / "run", FitSettings(steps=12), model=MODEL, train=TRAIN, loss=SpoilFrom(1 + 5))

    def note(progress: Progress) -> None:
        seen.append({name: value.clone() for name, value in fitting.model.state_dict().items()})
        fitting._save_state()

    with pytest.raises(FloatingPointError, match=r"at step 5; lower the rates"):
        fitting.run(note)
    assert len(seen) == 5
    stored, header = read_tensors(tmp_path / "run/state/resume.safetensors")
    assert json.loads(header["progress"])["step"] == 5
    for name, value in fitting.model.state_dict().items():
        assert torch.equal(value, seen[-1][name]), name
        assert torch.equal(stored[f"model.{name}"], value), name
        assert value.isfinite().all()
    moments = [value for name, value in stored.items() if "exp_avg" in name]
    assert moments
    assert all(value.isfinite().all() for value in moments)


@pytest.mark.parametrize("limit", [1.5, 0.0])
def test_neither_is_one_of_codes_alone(limit: float) -> None:
    """Inference fits codes with the networks frozen, which no norm is clipped of."""
    train = hf.TrainConfig(4, 4 * 32, clip=hf.RelativeClip(limit))
    run = hf.fit(Discs(), steps=2, model=MODEL, train=train, loss=SpoilFrom(3), progress=False)
    with pytest.raises(FloatingPointError, match="not finite at step 0"):
        hf.infer(run, Discs(), steps=4, progress=False)
    assert all(value.isfinite().all() for value in run.model.state_dict().values())


def test_a_fit_that_broke_off_goes_on_from_the_last_good_state(tmp_path: Path) -> None:
    class Once(Discs):
        """Targets that are not numbers from the seventh batch on."""

        def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> hf.Points:
            batches.append(n)
            points = super().batch(scenes, n, generator)
            return points._replace(target=points.target * float("nan")) if len(batches) > 8 else points

    batches: list[int] = []
    fitting = Fit(Once(), tmp_path / "run", FitSettings(steps=10), model=MODEL, train=TRAIN)
    with pytest.raises(FloatingPointError, match="the loss is nan at step"):
        fitting.run(lambda progress: fitting._save_state())
    run = hf.fit(Discs(), tmp_path / "run", steps=10, model=MODEL, train=TRAIN, resume=True, progress=False)
    whole = hf.fit(Discs(), steps=10, model=MODEL, train=TRAIN, progress=False)
    assert torch.equal(run.model.latents.codes, whole.model.latents.codes)
