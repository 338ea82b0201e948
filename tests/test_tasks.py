"""Tasks: the same members for every kind, objectives with a loss of one's own, occupancy once a step."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperfields.codes.cavia import CAVIA
from hyperfields.data import Pixels, Points
from hyperfields.errors import InputError
from hyperfields.fields import Field, ImageField, RadianceField, SDFField
from hyperfields.fields.encodings import Fourier, HashGrid
from hyperfields.hypernets import LowRank
from hyperfields.model import HyperField, ModelConfig
from hyperfields.rendering.occupancy import FULL_UPDATES, PARTS, UPDATE_EVERY, OccupancyGrid
from hyperfields.tasks import TASKS, Task, TrainConfig, losses, task_of
from hyperfields.tasks.objective import RayObjective
from hyperfields.training.fit import Fit, FitSettings

from ._analytic import FAMILIES

FIELDS: dict[str, Field] = {
    "images": ImageField(Fourier(2, 2), hidden=(8,)),
    "shapes": SDFField(Fourier(3, 2), hidden=(8,)),
    "views": RadianceField(Fourier(3, 2), hidden=(8,), geometry=3, color_hidden=(8,), step=0.2, occupancy=4),
}


def model_of(kind: str) -> HyperField:
    return HyperField(ModelConfig(FIELDS[kind], LowRank(2), 8), 4)


def loss_of(kind: str, loss: Any = None) -> Tensor:
    model, objective = model_of(kind), objective_of(kind, loss)
    scenes, generator = torch.arange(2), torch.Generator().manual_seed(0)
    return objective(model(scenes), scenes, scenes, generator)


def objective_of(kind: str, loss: Any = None) -> Any:
    return task_of(kind).objective(FAMILIES[kind], FIELDS[kind], TrainConfig(2, 256), 4, loss=loss)


@pytest.mark.parametrize("kind", TASKS)
def test_a_task_has_every_member(kind: str) -> None:
    task = TASKS[kind]
    members = [name for name in (*Task.__annotations__, *vars(Task)) if not name.startswith("_")]
    missing = [name for name in members if not hasattr(task, name)]
    assert not missing
    assert task.kind == kind
    assert task.field is type(FIELDS[kind])
    assert task.metrics[0].higher_is_better  # it ranks
    assert task.has_mesh == (task.preview_cells > 0)


def test_an_unknown_kind_is_named_with_those_there_are() -> None:
    with pytest.raises(InputError, match="kind 'video': wanted one of images, shapes, views"):
        task_of("video")


def test_images_have_no_mesh() -> None:
    with pytest.raises(InputError, match="no surface"):
        task_of("images").mesh(model_of("images")(torch.arange(1)))


# ------------------------------------------------------------------------------------------ a loss of one's own


@pytest.mark.parametrize("kind", ["images", "shapes"])
def test_a_loss_of_points_sees_the_answer_and_the_batch(kind: str) -> None:
    def absolute(answer: Tensor, batch: Points) -> Tensor:
        assert isinstance(batch, Points)
        assert answer.shape == batch.target.shape
        return (answer - batch.target).abs()  # a value for each channel is as good

    torch.manual_seed(0)
    value = loss_of(kind, absolute)
    assert value.shape == ()
    assert float(value.detach()) > 0.0


def test_a_loss_of_rays_sees_colours_opacity_and_depth() -> None:
    def depth_too(rendered: Any, batch: Pixels) -> Tensor:
        assert rendered.rgb.shape == (*rendered.alpha.shape, 3) == batch.rays.origins.shape
        assert rendered.depth.shape == rendered.alpha.shape
        return losses.PixelLoss()(rendered, batch) + 0.0 * rendered.depth.nan_to_num(posinf=0.0)

    torch.manual_seed(0)
    own = loss_of("views", depth_too)
    torch.manual_seed(0)
    assert float(own.detach()) == pytest.approx(float(loss_of("views").detach()))


def test_a_loss_that_is_a_mean_already_is_refused() -> None:
    with pytest.raises(ValueError, match=r"loss: got shape \[\], wanted unreduced values \[2, \d+, ...\]"):
        loss_of("images", lambda answer, batch: (answer - batch.target).square().mean())


@pytest.mark.parametrize("width", [0.02, 0.0])
def test_a_loss_that_an_op_knows_is_what_it_says(width: float) -> None:
    field, loss = SDFField(HashGrid(3, 2, 2, 6, 2, 4), hidden=(8,)), losses.DistanceLoss(width)
    bound = HyperField(ModelConfig(field, LowRank(2), 8), 2)(torch.arange(2)).detach()
    found = [
        task_of("shapes").objective(FAMILIES["shapes"], field, TrainConfig(2, 256), 2, loss=one)(
            bound, torch.arange(2), torch.arange(2), torch.Generator().manual_seed(0)
        )
        for one in (loss, lambda *answers: loss(*answers))
    ]
    torch.testing.assert_close(*found)


def test_a_loss_of_views_that_an_op_knows_has_the_gradients_of_the_ops_one_by_one() -> None:
    field = RadianceField(HashGrid(3, 2, 2, 6, 2, 4), hidden=(8,), geometry=3, color_hidden=(8,), step=0.1, occupancy=4)
    model, scenes, loss = HyperField(ModelConfig(field, LowRank(2), 8), 2), torch.arange(2), losses.PixelLoss()
    found = []
    for one in (loss, lambda *answers: loss(*answers)):
        objective = task_of("views").objective(FAMILIES["views"], field, TrainConfig(2, 1024), 2, loss=one)
        error = objective(model(scenes), scenes, scenes, torch.Generator().manual_seed(0))
        gradients = torch.autograd.grad(error, [part for part in model.parameters() if not part.is_sparse])
        assert objective.per_ray > 1.0
        found.append([error.detach(), *(part.to_dense() for part in gradients)])
    for known, wanted in zip(*found, strict=True):
        assert float((known - wanted).norm()) < 1e-5 * float(wanted.norm())


def test_a_batch_of_another_kind_is_named() -> None:
    objective = task_of("images").objective(FAMILIES["views"], FIELDS["images"], TrainConfig(2, 256), 4)
    scenes = torch.arange(2)
    with pytest.raises(TypeError, match="batch of Balls: got Pixels, wanted Points"):
        objective(model_of("images")(scenes), scenes, scenes, torch.Generator())


# ------------------------------------------------------------------------------------------ occupancy


def asked(grid: OccupancyGrid, steps: int) -> list[int]:
    """Points that each step's update asks for."""
    counts = []
    for step in range(steps):
        points: list[int] = []

        def density(x: Tensor, _: Tensor, points: list[int] = points) -> Tensor:
            points.append(len(x))
            return x[:, :1].abs()

        grid.update(density, torch.arange(2), step, torch.Generator().manual_seed(step))
        counts.append(sum(points))
    return counts


def test_occupancy_is_updated_every_few_steps_at_first_whole_then_in_parts() -> None:
    counts = asked(OccupancyGrid(2, 8, step=0.1), 60)
    for step, count in enumerate(counts):
        whole = 2 * 8**3 if step < FULL_UPDATES else 2 * 8**3 // PARTS
        assert count == (0 if step % UPDATE_EVERY else whole)


def test_a_grid_goes_on_from_its_state() -> None:
    grid, other = OccupancyGrid(2, 8, step=0.1), OccupancyGrid(2, 8, step=0.1)
    asked(grid, 1)
    both = torch.nn.ModuleDict({"occupancy": other})  # as a part of a user's own module
    both.load_state_dict({f"occupancy.{name}": value for name, value in grid.state_dict().items()})
    assert list(grid.state_dict()) == ["density", "occupied"]
    assert torch.equal(other.cells(torch.arange(2)), grid.cells(torch.arange(2)))
    assert other.knows()


def test_losses_do_not_move_the_occupancy() -> None:
    objective, model, scenes = objective_of("views"), model_of("views"), torch.arange(2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(6):
        objective(model(scenes), scenes, scenes, generator)
    assert not objective.occupancy.density.isfinite().any()
    objective.update(model(scenes), scenes, 0, generator)
    assert objective.occupancy.density[:2].isfinite().all()
    again = objective_of("views")
    again.restore(objective.state())
    assert torch.equal(again.occupancy.occupied, objective.occupancy.occupied)
    assert again.per_ray == objective.per_ray


def test_inner_steps_do_not_keep_occupancy_from_its_updates() -> None:
    """Codes by CAVIA compute several losses a step, which once took all turns of the update."""
    model, train = ModelConfig(FIELDS["views"], LowRank(2), 8), TrainConfig(4, 256)
    fitting = Fit(FAMILIES["views"], None, FitSettings(steps=5), model=model, train=train, codes=CAVIA())
    fitting.run()
    objective = fitting.trainer.objective  # type: ignore[union-attr]
    assert isinstance(objective, RayObjective)
    assert objective.occupancy.density.isfinite().all()


def test_a_task_of_ones_own_is_found_by_no_name() -> None:
    """`fit(task=)` takes it; its kind need not be known."""
    other = dataclasses.make_dataclass("Other", [], bases=(type(task_of("images")),), namespace={"kind": "mine"})()
    objective = other.objective(FAMILIES["images"], FIELDS["images"], TrainConfig(2, 256), 4)
    scenes = torch.arange(2)
    assert objective(model_of("images")(scenes), scenes, scenes, torch.Generator()).isfinite()
