"""Rows of a table, as data sets draw them."""

from __future__ import annotations

from torch import Tensor

from hyperfields.ops import dispatch


def gather_rows(
    table: Tensor,  # [n c]
    rows: Tensor,  # [k] int64
) -> Tensor:  # [k c]
    """`table.index_select(0, rows)`, on our threads where both are on the CPU. Not differentiable there.

    Raises:
        IndexError: a row that the table has not (on the CPU).
    """
    plain = table.device.type != "cpu" or rows.device.type != "cpu" or table.dim() != 2 or not table.is_contiguous()
    if plain or table.requires_grad or dispatch.why_unavailable("cpu"):
        return table.index_select(0, rows)
    from hyperfields.ops import _cpu

    return _cpu.gather_rows_cpu(table, rows)
