"""Settings that all kernels are compiled with, and moves that numba cannot express.

The moves: rows of numbers as one vector, and blocks whose axes are exchanged in registers.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

FASTMATH = {"contract", "reassoc", "nsz"}  # NaN and infinity keep their meaning; only the order of sums may change
u64 = np.uint64  # unsigned indices need no wrap-around check, which is what lets LLVM vectorise the loops
SIDE = 8  # of a block that is transposed in registers

# A row of a table is moved as one vector. `unroll`, like `corners`, is a tuple whose length (f, and 2^d) the compiler
# knows, so that it unrolls the loops.


def _vector(context, builder, array_type, array, at, unroll):
    """Pointer to the numbers `at ...` of a flat array as a vector as long as `unroll`."""
    start = context.make_array(array_type)(context, builder, array).data
    vector = ir.VectorType(context.get_data_type(array_type.dtype), len(unroll))
    return builder.bitcast(builder.gep(start, [at]), vector.as_pointer()), array_type.dtype.bitwidth // 8


@intrinsic
def copy_row(typing, source, at, target, to, unroll):
    """target[to ...] = source[at ...], a row."""

    def copy(context, builder, signature, args):
        read, align = _vector(context, builder, source, args[0], args[1], unroll)
        write, _ = _vector(context, builder, target, args[2], args[3], unroll)
        builder.store(builder.load(read, align=align), write, align=align)
        return context.get_dummy_value()

    return types.void(source, at, target, to, unroll), copy


@intrinsic
def add_row(typing, source, at, target, to, unroll):
    """target[to ...] += source[at ...], a row."""

    def add(context, builder, signature, args):
        read, align = _vector(context, builder, source, args[0], args[1], unroll)
        write, _ = _vector(context, builder, target, args[2], args[3], unroll)
        total = builder.fadd(builder.load(write, align=align), builder.load(read, align=align))
        builder.store(total, write, align=align)
        return context.get_dummy_value()

    return types.void(source, at, target, to, unroll), add


@intrinsic
def transpose(typing, source, at, stride, target, to, pitch):
    """target[to + j * pitch + i] = source[at + i * stride + j] for i and j below 8, in registers."""

    def transpose(context, builder, signature, args):
        def pointer(which, array_type, index):
            start = context.make_array(array_type)(context, builder, args[which]).data
            return builder.bitcast(builder.gep(start, [index]), vector.as_pointer())

        vector = ir.VectorType(context.get_data_type(source.dtype), SIDE)
        align, rows = source.dtype.bitwidth // 8, []
        index = args[1]
        for _ in range(SIDE):
            rows.append(builder.load(pointer(0, source, index), align=align))
            index = builder.add(index, args[2])
        # Blocks off the diagonal change places: first of one number, then of two by two, then of four by four.
        for half in (1, 2, 4):
            low = [j if not j & half else SIDE + j - half for j in range(SIDE)]
            high = [j + half if not j & half else SIDE + j for j in range(SIDE)]
            masks = [ir.Constant(ir.VectorType(ir.IntType(32), SIDE), mask) for mask in (low, high)]
            for i in (i for i in range(SIDE) if not i & half):
                pair = rows[i], rows[i + half]
                rows[i], rows[i + half] = (builder.shuffle_vector(*pair, mask) for mask in masks)
        index = args[4]
        for row in rows:
            builder.store(row, pointer(3, target, index), align=align)
            index = builder.add(index, args[5])
        return context.get_dummy_value()

    return types.void(source, at, stride, target, to, pitch), transpose
