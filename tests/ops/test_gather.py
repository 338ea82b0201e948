"""Rows of tables, and pixels, against torch's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hyperfields.ops.gather import drawn_pixels, gather_pairs

from ._parity import needs_cpu, threads


@needs_cpu
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_rows_are_those_of_index_select(count: int, dtype: torch.dtype) -> None:
    table, places = torch.randint(0, 255, (4000, 3)).to(dtype), torch.rand(1000, 2)
    scenes, index = torch.tensor([3, 0, 2, 2]), torch.randint(1000, (4, 20_000))
    with threads(count):
        x, y = gather_pairs((places, 0), (table, 1000), scenes, index)
    assert torch.equal(x, places[index])
    rows = table[scenes[:, None] * 1000 + index].float()
    assert torch.equal(y, rows / 255.0 if dtype == torch.uint8 else rows)
    assert gather_pairs((places, 0), (table, 1000), scenes, index[:, :0])[1].shape == (4, 0, 3)


@needs_cpu
def test_columns_of_one_table() -> None:
    pool, scenes, index = torch.rand(60, 4), torch.tensor([1, 0]), torch.randint(30, (2, 50))
    x, y = gather_pairs((pool[:, :3], 30), (pool[:, 3:], 30), scenes, index)
    assert torch.equal(torch.cat((x, y), -1), pool[scenes[:, None] * 30 + index])


@needs_cpu
@pytest.mark.parametrize(("scenes", "index"), [([0, 2], [[1, 2], [3, 4]]), ([0, 0], [[-1, 0], [0, 0]])])
def test_a_row_that_is_not_there_is_an_error(scenes: list[int], index: list[list[int]]) -> None:
    table: tuple[Tensor, int] = (torch.zeros(10, 3), 5)
    with pytest.raises(IndexError, match="are not in the tables"):
        gather_pairs(table, table, torch.tensor(scenes), torch.tensor(index))


@needs_cpu
@pytest.mark.parametrize("sizes", [[6, 6, 6, 6], [5, 1, 7, 9]])
@pytest.mark.parametrize("masked", [False, True])
def test_pixels_are_those_that_lie_so_far_on_in_their_scenes(sizes: list[int], masked: bool) -> None:
    """Two scenes, of one picture and of three; some of the pixels of the last one do not count."""
    lengths, picture = torch.tensor(sizes), torch.repeat_interleave(torch.arange(4), torch.tensor(sizes))
    starts, pixels = lengths.cumsum(0) - lengths, torch.randint(-(2**31), 2**31, (sum(sizes),), dtype=torch.int32)
    valid = torch.tensor([i for i in range(sum(sizes)) if not masked or i % 3]) if masked else None
    counted = torch.arange(sum(sizes)) if valid is None else valid
    first = torch.tensor([0, int((picture[counted] == 0).sum())])
    counts = torch.tensor([int(first[1]), len(counted) - int(first[1])])
    scenes, drawn = torch.tensor([1, 0, 1]), torch.rand(3, 3000, dtype=torch.float64)
    wanted = counted[((drawn * counts[scenes][:, None]).long() + first[scenes][:, None]).reshape(-1)]
    for count in (1, 3):
        with threads(count):
            packed, image, pixel = drawn_pixels(
                drawn, counts, first, scenes, valid, pixels, starts, 6 if len(set(sizes)) == 1 else None
            )
        assert torch.equal(packed, pixels[wanted])
        assert torch.equal(image, picture[wanted])
        assert torch.equal(pixel, (wanted - starts[picture[wanted]]).int())


@needs_cpu
@pytest.mark.parametrize("valid", [None, torch.empty(0, dtype=torch.int64)])
def test_a_pixel_that_is_not_there_is_an_error(valid: Tensor | None) -> None:
    counts, first = torch.tensor([4, 2]), torch.tensor([0, 4])
    drawn = torch.full((1, 5), 0.9, dtype=torch.float64)
    with pytest.raises(IndexError, match="5 of 5 that were drawn are not there"):
        drawn_pixels(
            drawn, counts, first, torch.tensor([1]), valid, torch.zeros(5, dtype=torch.int32), torch.tensor([0]), None
        )
    rest = None, torch.zeros(9, dtype=torch.int32), torch.tensor([0]), None
    with pytest.raises(IndexError, match="5 of 5 that were drawn are not there"):
        drawn_pixels(drawn, counts, first, torch.tensor([2]), *rest)
    with pytest.raises(ValueError, match=r"drawn: got shape \(1, 5\), wanted \[2, 5\]"):
        drawn_pixels(drawn, counts, first, torch.tensor([0, 1]), *rest)


@pytest.mark.parametrize("scenes", [1, 3])
def test_rows_are_of_as_many_scenes_as_are_asked_for(scenes: int) -> None:
    """Of fewer, what is behind the last row was written."""
    table: tuple[Tensor, int] = (torch.zeros(30, 3), 5)
    with pytest.raises(ValueError, match=r"index: got shape \(2, 4\)"):
        gather_pairs(table, table, torch.arange(scenes), torch.zeros(2, 4, dtype=torch.int64))


def test_what_has_no_derivative_is_refused() -> None:
    table = (torch.zeros(10, 3, requires_grad=True), 5)
    with pytest.raises(ValueError, match="no derivative in its tables"):
        gather_pairs((torch.zeros(10, 3), 5), table, torch.tensor([0]), torch.tensor([[1]]))
