"""Axes of codes: numbers along them change what is seen alike."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import hyperfields as hf
from hyperfields.runs.run import Run
from hyperfields.training import axes

from ._analytic import Discs

MODEL = hf.ModelConfig(hf.ImageField(hf.FactoredGrid(2, 2, 2, 6, 4, 8, bases=3), hidden=(8,)), hf.Full(), 3)


@pytest.fixture(scope="module")
def run() -> Run:
    return hf.fit(Discs(), steps=60, model=MODEL, train=hf.TrainConfig(4, 4 * 64), progress=False)


def gradients(run: Run, matrix: torch.Tensor) -> torch.Tensor:
    """Mean square `[z z]` of the gradients of the loss in numbers along the rows of a matrix, where descent goes."""
    fitted, generator = run.model.latents.codes.detach(), torch.Generator().manual_seed(5)
    objective = run.task.objective(Discs(), MODEL.field, run.config.train, 4)
    total, scenes = torch.zeros(3, 3), torch.arange(4)
    for _ in range(100):
        numbers = torch.zeros(4, 3, requires_grad=True)
        away = torch.rand(4, 1, generator=generator)
        start = torch.lerp(fitted.mean(0), fitted[torch.randint(4, (4,), generator=generator)], away)
        loss = 4 * objective(run.model.bind(start + numbers @ matrix), scenes, scenes, generator)
        (slopes,) = torch.autograd.grad(loss, numbers)
        total += slopes.T @ slopes
    return total / 100


def test_slopes_along_axes_are_alike(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uncorrelated, and with a quarter power of what they were: G^(-1/4) G G^(-1/4) = G^(1/2)."""
    monkeypatch.setattr(axes, "GRADIENTS", 130)
    monkeypatch.setattr(axes, "FLOOR", 0.0)
    matrix = axes.code_axes(run, Discs(), 0)
    plain, along = torch.linalg.eigvalsh(gradients(run, torch.eye(3))), gradients(run, matrix)
    deviations = along.diag().sqrt()
    assert torch.allclose(along / torch.outer(deviations, deviations), torch.eye(3), atol=0.2)
    assert along.diag().amax() / along.diag().amin() == pytest.approx(float((plain[-1] / plain[0]).sqrt()), rel=0.3)


def test_the_fitted_codes_are_a_deviation_of_one_away(run: Run) -> None:
    matrix = axes.code_axes(run, Discs(), 0)
    fitted = run.model.latents.codes.detach()
    numbers = torch.linalg.solve(matrix.T, (fitted - fitted.mean(0)).T).T
    torch.testing.assert_close(numbers @ matrix + fitted.mean(0), fitted, rtol=1e-4, atol=1e-4)
    assert float(numbers.std(0, correction=0).amax()) == pytest.approx(1.0, rel=1e-4)


def test_scenes_are_inferred_along_them_where_there_are_many(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The codes are those of the run then, not numbers along the axes."""
    asked, code_axes = [], axes.code_axes
    monkeypatch.setattr(axes, "SCENES", 3)
    monkeypatch.setattr(axes, "code_axes", lambda *given: asked.append(1) or code_axes(*given))
    infer = lambda names: hf.infer(run, hf.Subset(Discs(), range(names)), steps=40, progress=False)  # noqa: E731
    infer(2)
    assert not asked
    found = infer(4)
    assert asked
    fitted = run.model.latents.codes.detach()
    objective = run.task.objective(Discs(), MODEL.field, dataclasses.replace(run.config.train, samples=4 * 2048), 4)
    scenes, drawing = torch.arange(4), torch.Generator()
    losses = [
        objective(run.model.bind(codes), scenes, scenes, drawing.manual_seed(9)).item()
        for codes in (found.codes, fitted, fitted.mean(0).expand(4, 3))
    ]
    assert losses[0] < 1.5 * losses[1] < losses[2]


def test_codes_move_from_that_of_a_run_of_one_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fitted codes without a spread gave axes of length 0, and all scenes the same code."""
    one = hf.fit(hf.Subset(Discs(), [0]), steps=20, model=MODEL, train=hf.TrainConfig(1, 64), progress=False)
    monkeypatch.setattr(axes, "SCENES", 3)
    found = hf.infer(one, hf.Subset(Discs(), [1, 2, 3]), steps=30, progress=False)
    assert float(found.codes.std(0).amin()) > 0.0


def test_a_loss_that_nothing_depends_on_stretches_no_axis(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no ray meets an occupied cell, there is no gradient."""

    class Nothing:
        def plan(self, step: int) -> None: ...

        def update(self, *given: object) -> None: ...

        def __call__(self, *given: object) -> torch.Tensor:
            return torch.zeros(())

    monkeypatch.setattr(type(run.task), "objective", lambda *given, **options: Nothing())
    matrix = axes.code_axes(run, Discs(), 0)
    assert bool(matrix.isfinite().all())
    assert torch.allclose(matrix @ matrix.T, torch.eye(3) * (matrix @ matrix.T)[0, 0], atol=1e-5)
