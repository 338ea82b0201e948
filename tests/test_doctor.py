"""`doctor RUN`: a healthy run has ratios near 1, and what is ill is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hyperfields.cli import main
from hyperfields.data import Kind
from hyperfields.errors import InputError
from hyperfields.evaluation.health import doctor, format_doctor
from hyperfields.fields import Field, ImageField, RadianceField
from hyperfields.fields.encodings import Fourier
from hyperfields.hypernets import Full, LowRank, Stability
from hyperfields.hypernets.init import Head
from hyperfields.model import ModelConfig
from hyperfields.runs.run import Run
from hyperfields.tasks import TrainConfig
from hyperfields.training.fit import fit

from ._analytic import FAMILIES

FIELDS: dict[Kind, Field] = {
    "images": ImageField(Fourier(2, 3), hidden=(16, 16)),
    "views": RadianceField(Fourier(3, 2), hidden=(16,), geometry=7, color_hidden=(16,), step=0.1, occupancy=8),
}


def run_of(folder: Path, kind: Kind, stability: Stability | None = None) -> Run:
    model = ModelConfig(FIELDS[kind], LowRank(2) if stability is None else Full(), 8, stability or Stability())
    train = TrainConfig(4, 4 * 256)
    return fit(FAMILIES[kind], folder, steps=3, model=model, train=train, progress=False)


@pytest.mark.parametrize("kind", FIELDS)
def test_a_healthy_run(kind: Kind, tmp_path: Path) -> None:
    found = doctor(run_of(tmp_path / "run", kind), FAMILIES[kind])
    names = {"images": ["mlp.0", "mlp.1", "mlp.2"], "views": ["density.0", "density.1", "color.0", "color.1"]}[kind]
    assert list(found["layers"]) == names
    assert found["remarks"] == []
    assert found["dead_scenes"] == []
    assert set(found["gradients"]) == {"networks", "latents"} | set(found["gradients"]) & {"grid"}
    assert all(norm > 0 for group in ("networks", "latents") for norm in found["gradients"][group].values())
    assert "all looks healthy" in format_doctor(found)


def test_what_is_ill_is_named(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", "views", Stability(init="plain"))
    with torch.no_grad():  # a base that nothing gets out of
        head = run.model.hypernet.generator.head
        assert isinstance(head, Head)
        head.weight.zero_()
        names = list(run.model.config.field.spec)
        before = sum(run.model.config.field.spec[name].numel for name in names[: names.index("density.1.bias")])
        head.bias.zero_()[before] = -30.0  # the logarithm of the density
    found = doctor(run)
    assert found["gradients"] is None
    assert found["dead_scenes"] == list(run.names)
    text = "\n".join(found["remarks"])
    assert "weights at step 0 are" in text
    assert "empty everywhere, its density is dead" in text


def test_a_family_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds images, the family holds views"):
        doctor(run_of(tmp_path / "run", "images"), FAMILIES["views"])


def test_the_verb_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_of(tmp_path / "run", "images")
    assert main(["doctor", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "mlp.1" in out
    assert "say where it is with --family DIR" in out
