"""Codes of unseen scenes, and distributions over them, which are wide where nothing was seen."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperfields.cameras import orbit
from hyperfields.codes import CAVIA
from hyperfields.codes.table import gaussian_kl
from hyperfields.data import Points, Views
from hyperfields.errors import InputError
from hyperfields.evaluation.uncertainty import rank_correlation
from hyperfields.fields import ImageField
from hyperfields.fields.encodings import Fourier
from hyperfields.hypernets import Full
from hyperfields.model import ModelConfig
from hyperfields.rendering.image import sample_image
from hyperfields.runs.inferred import InferredCodes, load_codes
from hyperfields.runs.run import Run
from hyperfields.tasks import TrainConfig
from hyperfields.training import refinement
from hyperfields.training.fit import fit
from hyperfields.training.inference import By, code_share, each_scene_steps, infer, new_code
from hyperfields.training.optim import Optimizers
from hyperfields.training.trainer import Progress, Trainer

from ._analytic import Balls, Discs
from ._no_gpu import Fake, Watching, pretend_gpu


@dataclasses.dataclass(frozen=True)
class Halves(Discs):
    """Pictures whose left and right halves have greys of their own; only the part left of `seen` is looked at."""

    names: tuple[str, ...] = tuple(f"p{i}" for i in range(16))
    first: int = 0
    seen: float = 1.0

    def color(self, scenes: Tensor, x: Tensor) -> Tensor:
        numbers = scenes + self.first
        left, right = (numbers % 4).float() / 4 + 0.1, (numbers // 4 % 4).float() / 4 + 0.1
        mix = torch.sigmoid((x[..., :1] - 0.5) * 30.0)
        return (left[:, None, None] * (1.0 - mix) + right[:, None, None] * mix).expand(*x.shape[:2], 3)

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Points:
        x = torch.rand(len(scenes), n, 2, generator=generator)
        x[..., 0] *= self.seen
        return Points(x, self.color(scenes, x))


MODEL = ModelConfig(ImageField(Fourier(2, 2), hidden=(16,)), Full(), 4)


@pytest.fixture(scope="module")
def run() -> Run:
    train = TrainConfig(16, 16 * 64, prior=1e-3)
    return fit(Halves(), steps=500, model=MODEL, train=train, progress=False)


def test_what_was_not_seen_is_uncertain(run: Run) -> None:
    unseen = Halves(names=("a", "b", "c"), first=5, seen=0.4)
    posterior, again = (
        infer(run, unseen, by="posterior", steps=300, weight=1e-3, seed=seed, progress=False) for seed in (0, 0)
    )
    assert torch.equal(posterior.codes, again.codes)
    assert posterior.std is not None
    errors, stds = [], []
    for number, name in enumerate(unseen.names):
        drawn = run.model.bind(posterior.sample(name, 32, torch.Generator().manual_seed(0)))
        with torch.no_grad():
            pictures = sample_image(drawn, 32, 16, 16)
        errors.append((pictures.mean(0) - unseen.reference(number)).mean(-1))
        stds.append(pictures.std(0).mean(-1))
    std = torch.stack(stds)
    assert float(std[:, :, 10:].mean()) > 1.4 * float(std[:, :, :6].mean())
    assert rank_correlation(torch.stack(errors).abs(), std) > 0.4
    with pytest.raises(InputError, match="scene 'x': not among the inferred ones; the nearest names are c, b, a"):
        posterior.sample("x", 2)


def test_draws_have_the_moments_of_their_distribution(run: Run) -> None:
    codes = InferredCodes(run, ("a",), torch.tensor([[1.0, -2.0]]), std=torch.tensor([[0.5, 0.1]]))
    drawn = codes.sample("a", 20_000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.mean(0), torch.tensor([1.0, -2.0]), rtol=0.0, atol=0.02)
    torch.testing.assert_close(drawn.std(0), torch.tensor([0.5, 0.1]), rtol=0.05, atol=0.0)
    point = InferredCodes(run, ("a",), torch.zeros(1, 2))
    with pytest.raises(InputError, match="has a code and no distribution"):
        point.sample("a", 2)


def test_descent_finds_unseen_scenes_and_residuals_come_closer(run: Run, tmp_path: Path) -> None:
    unseen = Halves(names=("a", "b"), first=6)
    x = torch.rand(2, 500, 2, generator=torch.Generator().manual_seed(1))

    def error(inferred: InferredCodes) -> float:
        return float((inferred.bind("a", "b")(x) - unseen.color(torch.arange(2), x)).square().mean())

    plain = infer(run, unseen, steps=200, progress=False)
    refined = infer(run, unseen, tmp_path / "codes.safetensors", steps=400, refine=True, progress=False)
    middle = InferredCodes(run, ("a", "b"), run.model.latents.codes.detach().mean(0).expand(2, -1))
    assert error(plain) < 0.3 * error(middle)
    assert refined.residual
    assert error(refined) < error(dataclasses.replace(refined, residual={}))
    loaded = load_codes(tmp_path / "codes.safetensors", run)
    assert loaded.names == ("a", "b")
    assert error(loaded) == pytest.approx(error(refined), rel=0.1)  # 16 bits
    scene = loaded["b"]
    torch.testing.assert_close(scene(x[1]), loaded.bind("b")(x[1:])[0])
    assert scene.render(size=(8, 8)).shape == (8, 8, 3)


def test_changes_are_held_back_the_more_the_fewer_the_pictures() -> None:
    """A scene that is seen in all of its points is not held at all."""
    for count in (1, 5):
        data = Views(orbit(count, radius=3.0, height=8, width=8), torch.rand(count, 8, 8, 4))
        assert refinement.pull_of(data) == pytest.approx(refinement.PULL / count)
    assert refinement.pull_of(Halves(names=("a",))) == 0.0


def test_codes_get_the_more_of_the_time_the_fewer_the_pictures() -> None:
    one, two, nine = (
        Views(orbit(count, radius=3.0, height=8, width=8), torch.rand(count, 8, 8, 4)) for count in (1, 2, 9)
    )
    assert code_share(one) == pytest.approx(0.4)
    assert code_share(two) == code_share(Halves(names=("a",))) == pytest.approx(0.15)
    assert code_share(nine) == pytest.approx(0.05)
    assert code_share(nine, packed=True) == pytest.approx(0.15)  # few bytes are best spent on a good code


def test_a_run_is_as_it_was_after_inference(run: Run) -> None:
    """Neither its numbers, nor which of them require a gradient, nor the caller's random numbers."""
    numbers = {name: value.clone() for name, value in run.model.state_dict().items()}
    required = [True, False] * len(list(run.model.parameters()))
    for parameter, value in zip(run.model.parameters(), required, strict=False):
        parameter.requires_grad_(value)
    before = torch.get_rng_state()
    for by in ("descent", "posterior"):
        infer(run, Halves(names=("a",)), by=by, steps=2, refine=by == "descent", progress=False)  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), before)
    assert [p.requires_grad for p in run.model.parameters()] == required[: len(list(run.model.parameters()))]
    run.model.requires_grad_(True)
    assert all(torch.equal(value, numbers[name]) for name, value in run.model.state_dict().items())


def test_what_stops_an_inference_gives_the_run_back_too(run: Run) -> None:
    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        infer(run, Halves(names=("a",)), steps=5, progress=stop)
    assert all(parameter.requires_grad for parameter in run.model.parameters())


def test_both_stages_of_a_refinement_warm_up(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    factors: list[float] = []
    set_rate = Optimizers.set_rate
    monkeypatch.setattr(Optimizers, "set_rate", lambda self, factor: factors.append(factor) or set_rate(self, factor))
    infer(run, Halves(names=("a",)), steps=240, refine=True, progress=False)
    assert len(factors) == 240
    for first, warmup, last in ((0, 10, 35), (36, 30, 239)):  # a linear rise in each stage, then down
        assert factors[first] == pytest.approx(1.0 / warmup, rel=0.01)
        assert factors[first + warmup] > 0.7
        assert factors[last] < 0.02


def test_what_a_number_of_steps_is_for_each_scene(run: Run) -> None:
    """A step takes 16 scenes; weights are fitted eight scenes at a time."""
    few, many = Halves(names=("a",)), Halves(names=tuple(map(str, range(64))))
    assert each_scene_steps(run, few, 100) == ""
    assert each_scene_steps(run, many, 100) == "steps: a scene takes part in about 25 of 100"
    share = code_share(many)
    codes, weights = round(share * 800 * 16 / 64), round((1.0 - share) * 800 / 8)
    wanted = f"steps: a scene takes part in about {codes} of 800 for its code, then in {weights} for its weights"
    assert each_scene_steps(run, many, 800, refine=True) == wanted


def test_an_inference_that_cannot_be_is_one_line(run: Run, tmp_path: Path) -> None:
    one = Halves(names=("a",))
    cases: list[tuple[dict[str, Any], str]] = [
        ({"by": "posterior", "steps": 1, "refine": True}, "--refine: goes with --by descent, not with posterior"),
        ({"by": "encoder"}, "was fitted without an encoder; make such a run with: hyperfields fit --by encoder"),
        (
            {"by": "steps"},
            "was fitted not for a few steps; make such a run with: hyperfields fit --by cavia",
        ),
        ({}, "give one of the two"),
    ]
    for settings, message in cases:
        with pytest.raises(InputError, match=message):
            infer(run, one, **settings)
    with pytest.raises(InputError, match="holds images, the family holds views"):
        infer(run, Balls(), by="posterior", steps=1)
    alone = run.with_codes(["p0"], run.codes("p0"))
    for ask in (lambda: infer(alone, one, by="posterior", steps=1), lambda: new_code(alone, 0)):
        with pytest.raises(InputError, match=r"(posterior|sample 0): takes how codes .* holds one scene"):
            ask()
    infer(run, one, tmp_path / "c.safetensors", steps=1, progress=False)
    other = fit(Halves(), steps=1, model=MODEL, train=TrainConfig(16, 64), progress=False)
    with pytest.raises(InputError, match="its codes belong to another run than this run"):
        load_codes(tmp_path / "c.safetensors", other)


@pytest.mark.parametrize("by", ["descent", "posterior", "steps"])
def test_everything_is_made_where_the_model_is(by: By, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables, scenes, generators, codes and residuals; on the meta device, which refuses tensors of another one."""
    codes = CAVIA() if by == "steps" else None
    made = fit(Discs(), steps=1, model=MODEL, train=TrainConfig(4, 64), codes=codes, progress=False)
    pytest.importorskip("triton")
    pretend_gpu(monkeypatch)
    monkeypatch.setattr(Trainer, "warm_up", lambda trainer: None)  # it reads the state, which may wait
    monkeypatch.setattr(refinement, "spreads", lambda model: dict.fromkeys(model.config.field.spec, 1.0))
    run = dataclasses.replace(made, model=made.model.to("meta"), source=made.source and made.source.to("meta"))
    data, steps = Fake("images"), None if by == "steps" else 2
    with Watching(upload=True):
        inferred = infer(run, data, by=by, steps=steps, refine=by == "descent", progress=False)
    tensors = [inferred.codes, *inferred.residual.values(), *((inferred.std is not None and [inferred.std]) or [])]
    assert {value.device.type for value in tensors} == {"meta"}
    assert len(tensors) == {"descent": 5, "posterior": 2, "steps": 1}[by]


def test_the_divergence_is_that_of_torch() -> None:
    from torch.distributions import Normal, kl_divergence

    mean, deviation = torch.randn(3, 5), torch.rand(3, 5) + 0.1
    wanted = kl_divergence(Normal(mean, deviation), Normal(torch.zeros(3, 5), torch.ones(3, 5))).sum(1)
    torch.testing.assert_close(gaussian_kl(mean, deviation), wanted)
