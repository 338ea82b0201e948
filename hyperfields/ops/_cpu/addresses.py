"""Tensors by their addresses: a kernel that takes some dozen arrays would take longer to enter than to run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numba import types
from numba.extending import intrinsic
from torch import Tensor


@intrinsic
def pointer(typing, address, like):
    """An address as a pointer to numbers of the kind that the array `like` holds."""

    def cast(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(address, like), cast


def addresses_of(*tensors: Sequence[Tensor]) -> np.ndarray:
    """A row of addresses for each sequence, of contiguous tensors that live as long as a kernel needs them."""
    return np.array([[tensor.data_ptr() for tensor in row] for row in tensors], np.int64)


def contiguous(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors, copied where they have gaps."""
    return [tensor if tensor.is_contiguous() else tensor.contiguous() for tensor in tensors]


def like_of(tensor: Tensor) -> np.ndarray:
    """Of no length: tells a kernel what the numbers are."""
    return _LIKE[tensor.dtype]


_LIKE: dict[torch.dtype, np.ndarray] = {torch.float32: np.empty(0, np.float32), torch.float64: np.empty(0, np.float64)}
