"""Scenes in few bytes: whole numbers through the range coder, and codes and weights through a run's steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from hyperfields.data import Images
from hyperfields.errors import InputError
from hyperfields.fields import ImageField
from hyperfields.fields.encodings import FactoredGrid
from hyperfields.hypernets import Full
from hyperfields.model import ModelConfig
from hyperfields.runs.codec import read_tensors
from hyperfields.runs.entropy import Integers, decode, encode
from hyperfields.runs.inferred import InferredCodes, load_codes
from hyperfields.runs.packing import Packing, spread
from hyperfields.runs.run import Run
from hyperfields.tasks import TrainConfig
from hyperfields.training.compression import compress
from hyperfields.training.fit import fit
from hyperfields.training.inference import infer
from hyperfields.training.trainer import Length, Progress


def numbers(count: int, share: float, scale: float, seed: int = 0) -> Integers:
    """Numbers of which a share is not 0."""
    random = np.random.default_rng(seed)
    drawn = np.rint(random.laplace(0.0, scale, count))
    return np.where(random.random(count) < share, drawn, 0.0).astype(np.int64)


def entropy(values: Integers) -> float:
    """Bytes that the best code without context takes, its table not counted (Shannon 1948)."""
    share = np.unique(values, return_counts=True)[1] / len(values)
    return float(-(share * np.log2(share)).sum() * len(values) / 8)


@pytest.mark.parametrize(("count", "share", "scale"), [(4000, 0.02, 1.0), (4000, 0.5, 3.0), (2000, 1.0, 40.0)])
def test_numbers_come_back_and_take_little_more_than_their_entropy(count: int, share: float, scale: float) -> None:
    values = numbers(count, share, scale)
    packed = encode(values, (count,))
    assert np.array_equal(decode(packed, (count,)), values)
    assert len(packed) < 1.06 * entropy(values) + 16


def test_groups_learn_apart() -> None:
    """Zeros beside large numbers cost nothing when they are groups of their own."""
    values = np.concatenate([np.zeros(3000, np.int64), numbers(500, 1.0, 200.0)])
    assert len(encode(values, (3000, 500))) < len(encode(values[3000:], (500,))) + 8


@pytest.mark.parametrize("values", [[], [0] * 50, [1], [-(2**24) + 1, 2**24 - 1], [255, 0, -1] * 40])
def test_corners(values: list[int]) -> None:
    array = np.array(values, np.int64)
    packed = encode(array, (len(values),))
    assert np.array_equal(decode(packed, (len(values),)), array)
    if not any(values):
        assert packed == b""


def test_carries_run_through_bytes_of_255() -> None:
    """Many random streams: a carry that is lost shows in the numbers."""
    for seed in range(60):
        values = numbers(200, 0.9, 10.0 ** (seed % 5), seed)
        assert np.array_equal(decode(encode(values, (120, 80)), (120, 80)), values)


def test_damaged_bytes_are_read_as_some_numbers() -> None:
    packed = bytearray(encode(numbers(300, 0.5, 9.0), (300,)))
    for place in range(0, len(packed), 7):
        packed[place] ^= 0x55
        assert len(decode(bytes(packed), (300,))) == 300
    assert len(decode(b"", (300,))) == 300


def test_numbers_that_cannot_be_coded_are_refused() -> None:
    with pytest.raises(ValueError, match="magnitudes below"):
        encode(np.array([2**24]), (1,))
    with pytest.raises(ValueError, match="2 numbers in groups of 3"):
        encode(np.array([1, 2]), (1, 2))


# Scenes -------------------------------------------------------------------------------------------

SIDE = 16
MODEL = ModelConfig(ImageField(FactoredGrid(2, 3, 2, 8, 4, SIDE, bases=3), hidden=(8,)), Full(), 4)


def pictures(count: int, seed: int) -> Images:
    """Discs of random places and colours, with a random square each that no code of discs knows."""
    random = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.linspace(0, 1, SIDE), torch.linspace(0, 1, SIDE), indexing="ij")
    made = torch.ones(count, SIDE, SIDE, 3)
    for picture in made:
        place, color = 0.3 + 0.4 * torch.rand(2, generator=random), torch.rand(3, generator=random)
        picture[(x - place[0]) ** 2 + (y - place[1]) ** 2 < 0.06] = color
        row, column = torch.randint(0, SIDE - 4, (2,), generator=random).tolist()
        picture[row : row + 4, column : column + 4] = torch.rand(3, generator=random)
    return Images(made)


@pytest.fixture(scope="module")
def run() -> Run:
    return fit(pictures(8, 0), steps=150, model=MODEL, train=TrainConfig(8, 8 * 256), progress=False)


def error(run: Run, data: Images, inferred: InferredCodes) -> float:
    shown = [inferred[name].render(size=(SIDE, SIDE)) - data.reference(i) for i, name in enumerate(data.names)]
    return float(torch.stack(shown).square().mean())


def test_bytes_buy_quality_and_files_hold_what_was_measured(run: Run, tmp_path: Path) -> None:
    data, errors = pictures(3, 1), []
    for size in (60, 400):
        path = tmp_path / f"{size}.safetensors"
        inferred = infer(run, data, path, steps=120, bytes_per_scene=size, progress=False)
        assert len(inferred.packed) == 3
        assert max(map(len, inferred.packed)) <= size
        assert inferred.bytes_per_scene == pytest.approx(np.mean([len(each) for each in inferred.packed]))
        loaded = load_codes(path, run)
        assert torch.equal(loaded.codes, inferred.codes)
        assert loaded.residual.keys() == inferred.residual.keys()
        assert all(torch.equal(value, loaded.residual[name]) for name, value in inferred.residual.items())
        assert loaded.packed == inferred.packed
        errors.append(error(run, data, loaded))
    code = error(run, data, infer(run, data, steps=120, progress=False))
    whole = error(run, data, infer(run, data, steps=120, refine=True, progress=False))
    assert code > errors[0] > errors[1] > whole


def test_packed_scenes_are_whole_steps_of_the_spread_of_fitted_ones(run: Run) -> None:
    packing = Packing(run.model)
    weights = {k: v.detach() for k, v in run.model.hypernet(run.model.latents.codes.detach()).items()}
    first = slice(*run.model.config.field.spec["grid.table"].groups[:2])
    table = weights["grid.table"][:, first]
    away = float((table - table.mean(0)).square().mean().sqrt())
    assert float(spread(run.model, by_level=True)["grid.table"][0, 0, 0]) == pytest.approx(away, rel=1e-4)
    code = torch.tensor([3, -2, 0, 40])
    changes = packing.nothing()
    changes["grid.table"][1, 0], changes["mlp.1.bias"][2] = 5, -1
    codes, residual = packing.unpack(packing.pack(code, changes, fineness=8))
    fitted = run.model.latents.codes.detach()
    torch.testing.assert_close(codes[0], fitted.mean(0) + code * fitted.std(0, correction=0) / 8.0)
    assert float(residual["grid.table"][0, 1, 0]) == pytest.approx(5 * away / 4.0, rel=1e-4)  # a quarter at 8
    assert sum(int(value.count_nonzero()) for value in residual.values()) == 2
    assert packing.estimate(code, changes) == pytest.approx(len(packing.pack(code, changes, 8)), abs=8)


def test_packed_files_that_are_damaged_are_refused(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "codes.safetensors"
    infer(run, pictures(2, 1), path, steps=3, bytes_per_scene=100, progress=False)
    tensors, header = read_tensors(path)

    def refused(**changed: torch.Tensor) -> None:
        safetensors.torch.save_file(tensors | changed, path, header)
        with pytest.raises(InputError, match="damaged: its bytes"):
            load_codes(path, run)

    refused(packed=tensors["packed"] ^ 4)
    refused(packed=tensors["packed"][:-1])
    refused(packed=tensors["packed"].float())
    refused(sizes=tensors["sizes"][:1])
    refused(sizes=tensors["sizes"] * torch.tensor([-1, 1]))


def test_bytes_that_cannot_be_are_one_line(run: Run) -> None:
    data = pictures(1, 1)
    with pytest.raises(InputError, match="--bytes 1: wanted a whole number of at least 2"):
        infer(run, data, steps=8, bytes_per_scene=1, progress=False)
    with pytest.raises(InputError, match="--bytes 5: a code alone takes up to"):
        compress(run, data, torch.full((1, 4), 1e3), Length(None, 2), Progress(), 5)
    with pytest.raises(InputError, match="--refine, --bytes 90: give one of the two"):
        infer(run, data, steps=2, refine=True, bytes_per_scene=90, progress=False)
    with pytest.raises(InputError, match="--bytes: goes with --by descent, not with posterior"):
        infer(run, data, by="posterior", steps=2, bytes_per_scene=90, progress=False)
