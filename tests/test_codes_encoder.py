"""An encoder infers scenes that were never fitted, in one forward pass, better than the mean of the known ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from hyperfields.cameras import Rays
from hyperfields.cli import main
from hyperfields.codes import Encoder
from hyperfields.codes.encoder import TransformerEncoder
from hyperfields.data import Kind, Pixels, Points
from hyperfields.errors import InputError
from hyperfields.fields import Field, ImageField, RadianceField, SDFField
from hyperfields.fields.encodings import Fourier
from hyperfields.hypernets import Full, Independent, Stability, WeightTokens
from hyperfields.model import ModelConfig
from hyperfields.rendering.volume import render_volume
from hyperfields.runs.inspect import inspect_run
from hyperfields.runs.run import Run, load_run
from hyperfields.tasks import TrainConfig, task_of
from hyperfields.tasks.losses import PixelLoss
from hyperfields.training.fit import fit
from hyperfields.training.inference import infer
from hyperfields.weights import numel

from ._analytic import Balls, Discs, Spheres

MANY = tuple(f"s{number}" for number in range(80))
KNOWN = 64


def settings(scenes: Tensor) -> Tensor:
    """Four numbers in [0, 1] of each scene, `[s 4]`, well spread (Roberts 2018, the R4 sequence)."""
    return (0.5 + (scenes[:, None] + 1) * torch.tensor([0.8567, 0.7339, 0.6287, 0.5386])) % 1.0


@dataclasses.dataclass(frozen=True)
class ManyDiscs(Discs):
    names: tuple[str, ...] = MANY[:KNOWN]
    first: int = 0

    def color(self, scenes: Tensor, x: Tensor) -> Tensor:
        own = settings(scenes + self.first)
        radius, place = 0.15 + 0.25 * own[:, :1], 0.3 + 0.4 * own[:, None, 1:3]
        inside = torch.sigmoid((radius - (x - place).norm(dim=-1)) * 20.0)[..., None]
        color = torch.stack((own[:, 3], 1.0 - own[:, 3], own[:, 0]), -1)[:, None]
        return inside * color + (1.0 - inside) * 0.5


@dataclasses.dataclass(frozen=True)
class ManySpheres(Spheres):
    names: tuple[str, ...] = MANY[:KNOWN]
    first: int = 0

    def distance(self, scenes: Tensor, x: Tensor) -> Tensor:
        own = settings(scenes + self.first)[:, None]
        return (x - 0.6 * own[..., 1:] + 0.3).norm(dim=-1, keepdim=True) - 0.3 - 0.4 * own[..., :1]


@dataclasses.dataclass(frozen=True)
class ManyBalls(Balls):
    names: tuple[str, ...] = MANY[:KNOWN]
    first: int = 0

    def rgba(self, scenes: Tensor, rays: Rays) -> Tensor:
        own = settings(scenes + self.first)[:, None]
        nearest = (rays.origins - (rays.origins * rays.directions).sum(-1, keepdim=True) * rays.directions).norm(dim=-1)
        alpha = (nearest < 0.3 + 0.5 * own[..., 0]).float()[..., None]
        return torch.cat((own[..., 1:].expand(*alpha.shape[:2], 3), alpha), -1)


KINDS: dict[Kind, type[ManyDiscs] | type[ManySpheres] | type[ManyBalls]] = {
    "images": ManyDiscs,
    "shapes": ManySpheres,
    "views": ManyBalls,
}
FIELDS: dict[Kind, Field] = {
    "images": ImageField(Fourier(2, 3), hidden=(16, 16)),
    "shapes": SDFField(Fourier(3, 2), hidden=(16, 16)),
    "views": RadianceField(Fourier(3, 2), hidden=(16,), geometry=7, color_hidden=(16,), step=0.1, occupancy=8),
}
STEPS: dict[Kind, int] = {"images": 400, "shapes": 600, "views": 400}
ENCODER = Encoder(width=32, depth=2, heads=4, points=32)


def fitted(kind: Kind, out: Path | None = None, steps: int | None = None) -> Run:
    model = ModelConfig(FIELDS[kind], WeightTokens(16), 16, Stability(share=0.05 if kind == "images" else 0.3))
    train = TrainConfig(
        16, 16 * (512 if kind == "views" else 64), rate_networks=2e-3 if kind == "views" else 4e-3, prior=0.0
    )
    steps = steps or STEPS[kind]
    return fit(KINDS[kind](), out, steps=steps, model=model, train=train, codes=ENCODER, progress=False)


class Mean(NamedTuple):
    """Rays as the mean of all scenes shows them."""

    rgb: Tensor
    alpha: Tensor
    distortion: Tensor | None = None


def unseen_losses(kind: Kind, run: Run) -> tuple[float, float]:
    """(of scenes inferred by one forward pass, of the mean of all known scenes) on points that were not looked at."""
    known, unseen = KINDS[kind](), KINDS[kind](names=MANY[KNOWN:], first=KNOWN)
    bound = infer(run, unseen, by="encoder").bind(*unseen.names)
    scenes, every = torch.arange(len(unseen.names)), torch.arange(KNOWN)
    batch = unseen.batch(scenes, 256, torch.Generator().manual_seed(9))
    with torch.no_grad():
        if isinstance(batch, Points):
            answer, target = bound(batch.x), batch.target
            flat = batch.x.reshape(1, -1, batch.x.shape[-1]).expand(KNOWN, -1, -1)
            whole = known.color(every, flat) if isinstance(known, ManyDiscs) else known.distance(every, flat)  # type: ignore[union-attr]
            mean = whole.mean(0).reshape(target.shape)
            return float((answer - target).square().mean()), float((mean - target).square().mean())
        assert isinstance(batch, Pixels)
        assert isinstance(known, ManyBalls)
        rendered = render_volume(bound, batch.rays, bound.occupancy(), step=0.1, visible=bound.visible_samples)
        rays = Rays(*(part.reshape(1, -1, 3).expand(KNOWN, -1, -1) for part in batch.rays))
        whole = known.rgba(every, rays)
        alpha = whole[..., 3].mean(0).reshape(rendered.alpha.shape)
        rgb = (whole[..., :3] * whole[..., 3:]).mean(0).reshape(rendered.rgb.shape)
        loss = PixelLoss()
        return float(loss(rendered, batch).mean()), float(loss(Mean(rgb, alpha), batch).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_an_unseen_scene_is_better_than_the_mean_scene(kind: Kind) -> None:
    inferred, mean = unseen_losses(kind, fitted(kind))
    assert inferred < 0.5 * mean, (inferred, mean)


def test_a_run_is_an_ordinary_one_with_its_encoder_beside_it(tmp_path: Path) -> None:
    run = fitted("images", tmp_path / "run", steps=5)
    again = load_run(tmp_path / "run")
    assert again.names == MANY[:KNOWN]
    unseen = ManyDiscs(names=("new",), first=70)
    # Both hold the numbers of the file.
    assert torch.equal(infer(again, unseen, by="encoder").codes, infer(run, unseen, by="encoder").codes)
    # Pictures are observed whole: the table holds what the encoder says of the fitted scenes.
    torch.testing.assert_close(
        infer(again, ManyDiscs(), by="encoder").codes, again.codes(*again.names), atol=0.02, rtol=0.02
    )
    assert inspect_run(tmp_path / "run")["codes"]["class"] == "Encoder"
    assert main(["inspect", str(tmp_path / "run")]) == 0  # once a KeyError
    with pytest.raises(InputError, match="holds a fit already"):
        fitted("images", tmp_path / "run", steps=1)
    with pytest.raises(InputError, match="not for a few steps"):
        infer(again, unseen, by="steps")
    (tmp_path / "run" / "codes.safetensors").unlink()
    with pytest.raises(InputError, match=r"codes\.safetensors: cannot be read"):
        infer(load_run(tmp_path / "run"), unseen, by="encoder")


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_part_of_the_encoder(kind: Kind) -> None:
    task, data = task_of(kind), KINDS[kind]()
    encoder = TransformerEncoder(task.observed_features(ENCODER), 6, ENCODER)
    observations = task.observe(data, torch.arange(2), ENCODER, torch.Generator().manual_seed(0))
    codes = encoder(observations)
    assert codes.shape == (2, 6)
    alone = torch.cat([encoder(observations[:1]), encoder(observations[1:])])
    torch.testing.assert_close(codes, alone)
    codes.square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0.0, name


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="Encoder points: got 0"):
        Encoder(points=0)
    model, train = ModelConfig(FIELDS["images"], Full(), 6), TrainConfig(4, 64)
    with pytest.raises(InputError, match="width 30 is not a multiple of its 4 heads"):
        fit(Discs(), steps=1, model=model, train=train, codes=Encoder(width=30))
    alone = ModelConfig(FIELDS["images"], Independent(), numel(FIELDS["images"].spec))
    with pytest.raises(InputError, match="Encoder needs networks to serve, Independent has none"):
        fit(Discs(), steps=1, model=alone, train=train, codes=ENCODER)
    with pytest.raises(InputError, match="at least 20x20"):
        task_of("images").observe(Discs(), torch.arange(2), Encoder(patch=20), torch.Generator())
    run = fit(Discs(), steps=1, model=model, train=train, codes=ENCODER, progress=False)
    with pytest.raises(InputError, match="holds images, the family holds shapes"):
        infer(run, Spheres(), by="encoder")
