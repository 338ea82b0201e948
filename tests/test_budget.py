"""A step on a GPU that is not there: sizes set beforehand, nobody waits, and the gradients of the step on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperfields import RadianceField, Rays, ops
from hyperfields.data import Kind
from hyperfields.fields import BoundField
from hyperfields.fields.encodings import FactoredGrid
from hyperfields.hypernets import LowRank
from hyperfields.model import HyperField, ModelConfig, parameter_groups
from hyperfields.ops import dispatch
from hyperfields.rendering.occupancy import OccupancyGrid
from hyperfields.rendering.static_shapes import StaticStepPlan, rays_per_scene, render_static
from hyperfields.rendering.volume import OPAQUE
from hyperfields.tasks import PRESETS, Preset, TrainConfig, preset, task_of
from hyperfields.training.regularizers import GaussianPrior
from hyperfields.training.step import StaticStep
from hyperfields.training.trainer import Fields, Progress, Trainer

from ._no_gpu import Fake, Watching, pretend_gpu, triton_or_reference


@pytest.fixture(
    params=[
        "reference",
        pytest.param(
            "triton",
            marks=pytest.mark.skipif(
                not ops.interpreting(),
                reason="triton is not interpreted (tests/ops/test_triton_interpreted.py runs this so)",
            ),
        ),
    ]
)
def somewhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every op takes one backend, and counts may add up to less than there are points, as on a GPU."""
    pack = dispatch.pack

    def lenient(x: Tensor, counts: Tensor | None, name: str) -> tuple[Tensor, Tensor]:
        return pack(x, counts, name) if counts is None or x.dim() != 2 else (x, counts)

    monkeypatch.setattr(dispatch, "pack", lenient)
    monkeypatch.setattr(
        dispatch, "select", triton_or_reference if request.param == "triton" else lambda *_, **__: "reference"
    )
    torch.use_deterministic_algorithms(True)  # fills new tensors with NaN: what nobody wrote shows
    yield
    torch.use_deterministic_algorithms(False)


def scene(step: float = 0.1) -> tuple[HyperField, Rays, Tensor, Tensor]:
    """Two dense scenes, rays through them, half of the cells, and offsets."""
    torch.manual_seed(0)
    field = RadianceField(FactoredGrid(3, 3, 2, 8, 4, 12, bases=3), (8,), 3, (8,), step=step)
    model = HyperField(ModelConfig(field, LowRank(2), 8), 2)
    origins = torch.nn.functional.normalize(torch.randn(2, 20, 3), dim=-1) * 2.5
    directions = torch.nn.functional.normalize(0.5 * torch.randn(2, 20, 3) - origins, dim=-1)
    return model, Rays(origins, directions), torch.rand(2, 4, 4, 4) < 0.5, torch.rand(2, 20)


def gradients(model: HyperField, loss: Tensor) -> Tensor:
    found = torch.autograd.grad(loss, [p for p in model.parameters()])
    return torch.cat([g.to_dense().flatten() for g in found])


def exactly(bound: BoundField, rays: Rays, cells: Tensor, offset: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Colours, opacity and samples of each ray by tensors as long as what is found."""
    origins, directions = (t.reshape(-1, 3) for t in rays)
    edges, counts = ops.ray_march(*rays, cells, 0.1, offset)
    first = counts.cumsum(0) - counts
    x, _, spans = ops.gather_samples(origins, directions, edges, first, counts)
    density = bound.density(x, counts.reshape(2, -1).sum(1)).detach().squeeze(-1)
    counts, _ = ops.early_termination(density, spans, counts, torch.zeros(len(counts)), OPAQUE)
    x, d, spans = ops.gather_samples(origins, directions, edges, first, counts)
    sigma, rgb = bound(x, d, counts.reshape(2, -1).sum(1))
    values, alpha, _ = ops.composite(sigma.squeeze(-1), rgb, spans, counts=counts)
    return values.reshape(2, -1, 3), alpha.reshape(2, -1), counts.reshape(2, -1)


@pytest.mark.usefixtures("somewhere")
@pytest.mark.parametrize("denser", [0.0, 4.0])  # nothing hides; most is hidden
def test_what_fits_has_the_colours_and_gradients_of_the_exact_sizes(denser: float) -> None:
    model, rays, cells, offset = scene()
    weights = torch.randn(2, 20, 3)
    results = []
    for samples in (None, 2000):
        bound = model(torch.arange(2))
        bound.weights["density.1.bias"] = bound.weights["density.1.bias"] + denser
        if samples is None:
            rgb, alpha, counts = exactly(bound, rays, cells, offset)
            everything = ops.ray_march(*rays, cells, 0.1, offset)[1].sum()
            assert (int(counts.sum()) < int(everything)) == (denser > 0)
        else:
            seen = render_static(bound, bound.density, rays, cells, step=0.1, offset=offset, samples=samples)
            assert seen.fits.all()
            assert torch.equal(seen.num_visible, counts)
            rgb, alpha = seen.rgb, seen.alpha
        results.append((rgb.detach(), alpha.detach(), gradients(model, (rgb * weights).sum() + alpha.square().sum())))
    for got, wanted in zip(results[1], results[0], strict=True):
        assert wanted.norm() > 0
        assert float((got - wanted).norm() / wanted.norm()) < 1e-5


@pytest.mark.usefixtures("somewhere")
def test_rays_that_do_not_fit_see_nothing_and_the_others_are_whole() -> None:
    model, rays, cells, offset = scene()
    bound = model(torch.arange(2))
    call: Callable[[int], Any] = lambda samples: render_static(  # noqa: E731
        bound, bound.density, rays, cells, step=0.1, offset=offset, samples=samples
    )
    enough = call(2000)
    short = call(int(enough.num_visible.sum()) // 2)
    assert torch.equal(short.num_visible, enough.num_visible)
    assert 10 < int(short.fits.sum()) < 30
    assert short.fits[0].all()
    whole = short.fits & (short.num_visible > 0)
    torch.testing.assert_close(short.rgb[whole], enough.rgb[whole])
    assert not short.rgb[~short.fits].any()
    assert gradients(model, short.rgb.sum()).isfinite().all()


@pytest.mark.usefixtures("somewhere")
def test_nothing_is_seen_where_nothing_is() -> None:
    model, rays, cells, offset = scene()
    bound = model(torch.arange(2))
    seen = render_static(bound, bound.density, rays, cells & False, step=0.1, offset=offset, samples=64)
    assert seen.fits.all()
    assert not seen.num_visible.any()
    assert not seen.alpha.any()
    assert not gradients(model, seen.rgb.sum() + seen.alpha.sum()).any()


def test_the_number_of_rays_follows_what_they_need() -> None:
    ahead = StaticStepPlan(2**14, 4, OccupancyGrid(4, 4, step=0.1))
    assert ahead.rays == rays_per_scene(2**14, 64.0, 4) == 64
    for _ in range(100):
        ahead.count(torch.full((4, 64), 10))
    assert ahead.rays == 64  # until somebody looks
    ahead.sync()
    assert ahead.rays == rays_per_scene(2**14, float(ahead.per_ray), 4) == 400
    for _ in range(100):
        ahead.count(torch.full((4, 64), 10.5))
    ahead.sync()
    assert ahead.rays == 400  # a little off is no reason to change sizes


def test_occupancy_is_looked_at_whole_until_all_of_it_is_known() -> None:
    tracker = OccupancyGrid(4, 4, step=0.1)
    ahead = StaticStepPlan(2**14, 4, tracker)
    assert [ahead.plan(step)[1] for step in range(8)] == [1, 0, 0, 0, 1, 0, 0, 0]
    assert ahead.plan(32)[1] == 1
    tracker.density.zero_()
    assert ahead.plan(36)[1] == 1
    ahead.sync()
    assert (ahead.plan(40)[1], int(ahead.part)) == (16, 10)
    assert (ahead.plan(44)[1], int(ahead.part)) == (16, 11)


# ------------------------------------------------------------------------------------------ a GPU that is not there


@pytest.mark.parametrize(
    "wait",
    [
        lambda t: t.sum().item(),
        lambda t: bool(t.any()),
        lambda t: t.tolist(),
        lambda t: t.nonzero(),
        lambda t: t[t > 0],
        lambda t: t.masked_select(t > 0),
        lambda t: t.unique(),
        lambda t: t.repeat_interleave(t),
        lambda t: t.cpu(),
        lambda t: torch.zeros(3).copy_(t),
        lambda t: t.copy_(torch.zeros(3)),
    ],
)
def test_what_would_wait_is_seen(wait: Callable[[Tensor], object]) -> None:
    with Watching(), pytest.raises((RuntimeError, NotImplementedError, AssertionError)):
        wait(torch.ones(3, dtype=torch.int64, device="meta"))


@pytest.mark.parametrize(
    "called", [name if name == "default" else pytest.param(name, marks=pytest.mark.slow) for name in PRESETS]
)
@pytest.mark.parametrize("kind", ["images", "shapes", "views"])
def test_a_step_on_a_gpu_asks_it_for_nothing(kind: Kind, called: Preset, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's meta device has no numbers: what reads one raises, and so does what is as long as a number says.

    Loss, gradients and optimisers of many steps, with all that the host does between them except for its looks; steps
    of one kind compute tensors of one size.
    """
    pytest.importorskip("triton")
    pretend_gpu(monkeypatch)
    config = preset(called, kind, 5, 16)[0]
    model, train = HyperField(config, 5, sparse=True).to("meta"), TrainConfig(2, 2**10)
    objective = task_of(kind).objective(Fake(kind), config.field, train, 5, device="meta")
    assert (getattr(objective, "static", None) is not None) == (kind == "views")

    def bind(local: Tensor, generator: torch.Generator) -> Fields:
        codes = model.latents(local)
        return Fields(model.bind(codes), codes)

    groups, prior = parameter_groups(model), GaussianPrior(train.prior)
    trainer = Trainer(bind, groups, objective, torch.arange(5), train, 0, regularizers=(prior,))
    assert isinstance(trainer.execute, StaticStep)
    seen: dict[Any, Any] = {}
    for number in range(12):
        with Watching():
            plan = trainer.prepare()
            trainer.optimizers.set_rate(0.5)
        with Watching() as watching:
            trainer.execute.work()
        trainer.steps += 1
        if number:  # the first step makes the moments
            assert seen.setdefault(plan, watching.shapes) == watching.shapes
    progress = Progress()
    with Watching():
        for _ in range(3):
            trainer.step(progress)
    assert progress.step == 3
    assert len(seen) == (2 if kind == "views" else 1)
