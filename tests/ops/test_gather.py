"""Rows of a table against torch's."""

from __future__ import annotations

import pytest
import torch

from hyperfields.ops.gather import gather_rows

from ._parity import needs_cpu, threads


@needs_cpu
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float32])
def test_rows_are_those_of_index_select(count: int, dtype: torch.dtype) -> None:
    table, rows = torch.randint(0, 255, (1000, 3)).to(dtype), torch.randint(1000, (50000,))
    with threads(count):
        assert torch.equal(gather_rows(table, rows), table.index_select(0, rows))
        assert gather_rows(table, rows[:0]).shape == (0, 3)


@needs_cpu
@pytest.mark.parametrize("row", [-1, 1000])
def test_a_row_that_is_not_there_is_an_error(row: int) -> None:
    with pytest.raises(IndexError, match=r"1 of 3 are not among the 1000"):
        gather_rows(torch.zeros(1000, 3), torch.tensor([0, row, 999]))


def test_a_table_that_wants_a_gradient_gets_it() -> None:
    table = torch.zeros(4, 2, requires_grad=True)
    gather_rows(table, torch.tensor([1, 1, 3])).sum().backward()
    assert table.grad is not None
    assert table.grad.sum(1).tolist() == [0.0, 4.0, 0.0, 2.0]
