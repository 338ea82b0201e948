"""Deviations of pixels: where they come from, and that they rank the errors on views that were left out."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hyperfields.cameras import Rays
from hyperfields.errors import InputError
from hyperfields.evaluation.plots import plot_calibration
from hyperfields.evaluation.uncertainty import (
    ErrorCells,
    calibrate,
    coverage,
    misfit,
    rank_correlation,
    std_picture,
    uncertainty_image,
)
from hyperfields.fields import ImageField, RadianceField, SDFField
from hyperfields.fields.encodings import Fourier
from hyperfields.hypernets import Full
from hyperfields.model import BoundField, HyperField, ModelConfig
from hyperfields.tasks import TrainConfig
from hyperfields.training.fit import fit
from hyperfields.training.inference import infer

from ._analytic import RADII, Balls, Discs, Spheres


@dataclasses.dataclass(frozen=True)
class Painted(Balls):
    """Balls whose halves differ in brightness, by steps in height: no code of a run of plain ones shows that."""

    names: tuple[str, ...] = ("a", "b")

    def rgba(self, scenes: Tensor, rays: Rays) -> Tensor:
        plain = super().rgba(scenes, rays)
        along = -(rays.origins * rays.directions).sum(-1)
        nearest = (rays.origins + along[..., None] * rays.directions).norm(dim=-1)
        front = along - ((RADII[scenes][:, None] + 0.2).square() - nearest.square()).clamp(min=0.0).sqrt()
        height = rays.origins[..., 2:] + front[..., None] * rays.directions[..., 2:]
        return torch.cat((plain[..., :3] * (height > 0.1), plain[..., 3:]), -1)


def test_errors_of_unseen_scenes_are_expected_where_they_were_seen(tmp_path: Path) -> None:
    field = RadianceField(Fourier(3, 2), hidden=(16,), geometry=7, color_hidden=(16,), step=0.1, occupancy=16)
    model, train = ModelConfig(field, Full(), 6), TrainConfig(4, 4 * 1024, rate_networks=1e-2)
    run, unseen = fit(Balls(), steps=200, model=model, train=train, progress=False), Painted()
    posterior = infer(run, unseen, by="posterior", steps=60, weight=1e-4, progress=False)

    def fields(name: str) -> tuple[BoundField, list[BoundField]]:
        codes = posterior.sample(name, 4, torch.Generator().manual_seed(0))
        with torch.no_grad():
            return posterior.bind(name), [run.model.bind(code[None]) for code in codes]

    report = calibrate(unseen.names, fields, unseen)
    for row in report["scenes"].values():
        assert row["rank_inside"] > 0.5, report["scenes"]
    curve = dict(zip(*report["coverage"].values(), strict=True))
    assert curve[0.95] > 0.8
    assert json.loads(json.dumps(report))["kind"] == "views"
    pytest.importorskip("matplotlib", reason="matplotlib (hyperfields[plots]) is missing")
    plot_calibration(report, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000
    with pytest.raises(InputError, match="scene 'x': not in the family"):
        misfit(fields("a")[0], unseen, "x")


def test_error_cells_are_local_and_far_away_the_mean() -> None:
    places = torch.tensor([[0.25, 0.25], [0.75, 0.25]])
    cells = ErrorCells.gather(places.repeat(8, 1), torch.tensor([0.01, 0.49]).repeat(8), (33, 17))
    found = cells.at(torch.tensor([[[0.251, 0.25], [0.75, 0.25]], [[0.25, 0.95], [-9.0, 9.0]]]))
    torch.testing.assert_close(found, torch.tensor([[0.01, 0.49], [0.25, 0.25]]), rtol=0.05, atol=0.0)


def test_cells_hold_all_that_was_seen() -> None:
    places, square = torch.rand(500, 3), torch.rand(500)
    for side, table in ErrorCells.gather(places, square, (9, 5)).tables:
        assert table.shape == (side**3, 2)
        torch.testing.assert_close(table.sum(0), torch.tensor([float(square.sum()), 500.0]), rtol=1e-4, atol=0.0)


def test_a_sharp_edge_is_uncertain_and_a_plain_area_is_not() -> None:
    """A field that is exact: only the shifts within a pixel are left."""
    field = ImageField(Fourier(2, 1), hidden=(4,))

    class Step(BoundField):
        def __call__(self, x: Tensor) -> Tensor:
            return (x[..., :1] > 0.5).float().expand(*x.shape[:-1], 3)

    bound = Step(field, {"a": torch.zeros(1)}, 1)
    none = ErrorCells.gather(torch.rand(9, 2), torch.zeros(9), (5,))
    picture, std = std_picture(bound, dataclasses.replace(misfit_of_nothing(), surface=none), None, (8, 9))
    assert picture.shape == (8, 9, 3)
    assert float(std[:, 4].min()) > 0.08  # the edge goes through the middle of these pixels
    assert float(std[:, :4].max()) == float(std[:, 5:].max()) == 0.0
    assert float(uncertainty_image(std).max()) == pytest.approx(1.0)
    # Of pictures larger than fitted: those of the pixels, enlarged, not of what the field is between them.
    pixels = Step(dataclasses.replace(field, pixels=(4, 5)), {"a": torch.zeros(1)}, 1)
    nothing = dataclasses.replace(misfit_of_nothing(), surface=none)
    small, large = (std_picture(pixels, nothing, None, size)[1] for size in ((4, 5), (16, 20)))
    torch.testing.assert_close(torch.nn.functional.avg_pool2d(large[None], 4)[0], small, atol=0.02, rtol=0.0)


def misfit_of_nothing():  # type: ignore[no-untyped-def]
    from hyperfields.evaluation.uncertainty import Misfit

    return Misfit(ErrorCells((), 0.0))


def test_every_kind_has_its_deviation() -> None:
    for family, field in (
        (Discs(), ImageField(Fourier(2, 2), hidden=(8,))),
        (Spheres(), SDFField(Fourier(3, 2), hidden=(8,))),
    ):
        torch.manual_seed(0)
        model = HyperField(ModelConfig(field, Full(), 4), 2)  # type: ignore[arg-type]
        with torch.no_grad():
            bound, other = (model.bind(torch.randn(1, 4)) for _ in range(2))
        name = family.names[0]
        rows = [
            calibrate([name], lambda _: (bound, samples), family)["scenes"][name]  # noqa: B023
            for samples in ([], [bound, bound], [bound, other])
        ]
        # What the field gets wrong counts without samples too; samples that differ add their variance.
        assert 0.0 < rows[0]["deviation"] == rows[1]["deviation"] < rows[2]["deviation"]
        assert all(row["rank_all"] == row["rank_inside"] for row in rows)
        assert len({row["error"] for row in rows}) == 1


def test_coverage_of_errors_that_follow_their_deviations() -> None:
    deviation = torch.rand(20_000) + 0.1
    error = torch.randn(20_000, 3) * deviation[:, None]
    torch.testing.assert_close(torch.tensor(coverage(error, deviation, (0.5, 0.95))), torch.tensor([0.5, 0.95]),
                               atol=0.01, rtol=0.0)  # fmt: skip
    assert rank_correlation(error.abs().mean(-1), deviation) > 0.5
    assert rank_correlation(deviation, deviation * 2.0) == pytest.approx(1.0)
    assert rank_correlation(deviation, -deviation) == pytest.approx(-1.0)
    assert rank_correlation(deviation, torch.ones(20_000)) == 0.0
    ties = rank_correlation(torch.tensor([0.0, 0.0, 1.0, 2.0]), torch.tensor([0.0, 0.0, 3.0, 4.0]))
    assert ties == pytest.approx(1.0)
