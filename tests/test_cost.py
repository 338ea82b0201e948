"""Counting before fitting: the numbers are those of the model itself, and what cannot fit is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hyperfields.cli import main
from hyperfields.errors import InputError
from hyperfields.fields import Field, ImageField, RadianceField, SDFField
from hyperfields.fields.encodings import FactoredGrid, Fourier, HashGrid, Identity
from hyperfields.hypernets import GENERATORS, OF_TIME, Chunked, Dynamic, Full, LowRank, parse
from hyperfields.model import HyperField, ModelConfig, parameter_groups
from hyperfields.training import cost
from hyperfields.training.cost import count, point_flops, require_memory
from hyperfields.training.fit import fit
from hyperfields.weights import numel

from ._analytic import FAMILIES

FIELD = ImageField(FactoredGrid(2, 3, 2, 8, 4, 16, bases=3), hidden=(24, 24))


@pytest.mark.parametrize("name", [name for name in GENERATORS if name != "direct"])
def test_counts_are_those_of_the_model(name: str) -> None:
    config = ModelConfig(FIELD, parse(name), 10)
    found, model = count(config, 7), HyperField(config, 7)
    assert found.parameters == {k: sum(p.numel() for p in ps) for k, ps in parameter_groups(model).items()}
    assert (found.amortised, found.marginal) == model.bytes_per_scene()
    assert found.field == numel(FIELD.spec)
    assert found.flops_scene > 0
    assert found.break_even is not None
    for scenes, smaller in ((found.break_even, True), (found.break_even - 1, False)):
        assert (count(config, max(scenes, 1)).amortised <= found.alone) == smaller or scenes == 0


def test_a_code_as_large_as_a_field_never_breaks_even() -> None:
    assert count(ModelConfig(FIELD, Full(), numel(FIELD.spec)), 7).break_even is None


def test_operations_of_a_scene_are_those_of_the_head() -> None:
    field = ImageField(Identity(2), hidden=(4,))
    assert count(ModelConfig(field, Full(), 10), 3).flops_scene == 2 * 10 * numel(field.spec)


@pytest.mark.parametrize(
    ("field", "wanted"),
    [
        (ImageField(Identity(2), hidden=(4,)), 4 + (16 + 4) + (24 + 3)),
        (SDFField(Fourier(3, 2), hidden=()), 6 + 18 + 31),
        (ImageField(HashGrid(2, 3, 2, 8, 4, 16), hidden=()), 3 * (6 + 4 * 5) + 2 * 6 * 3 + 3),
        (RadianceField(Identity(3), hidden=(), geometry=1, color_hidden=()), 6 + (12 + 2) + (2 * 10 * 3 + 3)),
    ],
    ids=["identity", "fourier", "grid", "views"],
)
def test_operations_of_a_point_by_hand(field: Field, wanted: int) -> None:
    assert point_flops(field) == wanted


def test_what_cannot_fit_is_refused_before_it_is_allocated(tmp_path: Path) -> None:
    field = ImageField(Fourier(2, 2), hidden=(4096, 4096, 4096))
    config = ModelConfig(field, Full(), 2**16)
    with pytest.raises(InputError, match=r"Full: fitting takes [\d,]{15,} bytes .* are free; take a smaller latent"):
        require_memory(config, 4, 4)
    with pytest.raises(InputError, match="bytes"):
        fit(FAMILIES["images"], tmp_path / "run", steps=1, model=config)
    assert not (tmp_path / "run").exists()


def test_memory_is_compared_with_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ModelConfig(FIELD, Full(), 10)
    need = count(config, 4, 2).memory
    monkeypatch.setattr(cost, "free_memory", lambda: int(need / 0.9) + 2)
    require_memory(config, 4, 2)
    monkeypatch.setattr(cost, "free_memory", lambda: int(need / 0.9) - 2)
    with pytest.raises(InputError):
        require_memory(config, 4, 2)


def test_generators_have_names_and_settings() -> None:
    assert parse("low-rank:rank=8:layer=1") == LowRank(8, layer=1)
    assert parse("lora") == parse("low-rank:mode=add") == LowRank(mode="add")
    assert parse("scale-shift:scale=no") == parse("shift")
    assert parse("dynamic:mode=outer", OF_TIME) == Dynamic("outer")
    assert parse("chunked:chunk=64") == Chunked(chunk=64)
    with pytest.raises(InputError, match="generator 'fool': unknown, wanted one of full, per-layer, hierarchical"):
        parse("fool")
    with pytest.raises(InputError, match="LowRank mode 'divide': wanted multiply or add"):
        parse("low-rank:mode=divide")
    with pytest.raises(InputError, match=r"generator full: no setting 'size=3', wanted hidden=N"):
        parse("full:size=3")
    with pytest.raises(InputError, match=r"scale-shift: no setting 'scale=3', wanted scale=yes\|no"):
        parse("scale-shift:scale=3")


def test_inspect_a_preset(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--preset", "default", "--kind", "views", "--scenes", "100", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["scenes"] == 100
    assert main(["inspect", "--preset", "tiny", "--generator", "full"]) == 0
    out = capsys.readouterr().out
    assert "break-even" in out
    assert "Full(hidden=0)" in out
    assert main(["inspect"]) == 2
    assert main(["inspect", "--preset", "tiny", "--generator", "fool"]) == 2
    assert "wanted one of full" in capsys.readouterr().err
    assert main(["inspect", "--preset", "tiny", "--generator", "direct"]) == 2  # its code is as large as a field
    assert "generator 'direct': unknown, wanted one of full" in capsys.readouterr().err
    assert main(["inspect", "--preset", "tiny", "--generator", "dynamic:mode=outer"]) == 0
    assert "Dynamic(mode='outer'" in capsys.readouterr().out


def test_counting_allocates_nothing() -> None:
    before = torch.get_rng_state()
    assert count(ModelConfig(FIELD, Full(hidden=2**32), 10), 4).parameters["networks"] > 2**39
    assert torch.equal(before, torch.get_rng_state())
