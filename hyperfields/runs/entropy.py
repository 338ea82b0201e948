"""Whole numbers, most of them 0, in few bytes: an adaptive binary range coder.

A number is coded as: is it 0; its sign; the exponent of its magnitude in unary, each of these bits with a probability
that adapts to what came before in the same group; the bits below the leading one. Everything is integer arithmetic, so
a file reads back the same on every machine.

Sources: Martin 1979, "Range encoding"; the estimates of Krichevsky, Trofimov 1981, "The performance of universal
encoding"; the binarisation is Exp-Golomb's of order 0 (Teuhola 1978).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

TOP, BOTTOM = 1 << 32, 1 << 24  # of the range; below BOTTOM a byte leaves
HALF = 1 << 15  # probability of one half, of 16 bits
LONGEST = 24  # bits of a magnitude
MANY = 1 << 12  # observations of a bit, after which old ones count less
NEAR = 4  # values before one, whose zeros tell whether it is 0
Integers = NDArray[np.int64]


class _Bit:
    """Estimate of a bit: twice the count of each value, and 1."""

    __slots__ = ("ones", "zeros")

    def __init__(self) -> None:
        self.zeros, self.ones = 1, 1

    def share(self) -> int:
        """Probability of 0 in 2^-16, never 0 nor 1."""
        return min(max((self.zeros << 16) // (self.zeros + self.ones), 32), 65504)

    def see(self, bit: int) -> None:
        if bit:
            self.ones += 2
        else:
            self.zeros += 2
        if self.zeros + self.ones > 2 * MANY:
            self.zeros, self.ones = (self.zeros >> 1) | 1, (self.ones >> 1) | 1


class _Group:
    """The adapting bits of a group of numbers."""

    def __init__(self) -> None:
        self.zero = [_Bit() for _ in range(NEAR + 1)]  # by how many of the values before it are not 0
        self.exponent = [_Bit() for _ in range(LONGEST)]
        self.top = [_Bit() for _ in range(LONGEST)]  # the bit below the leading one, by the exponent


class _Encoder:
    def __init__(self) -> None:
        self.low, self.range, self.out = 0, TOP - 1, bytearray()

    def share(self, bit: int, zeros: int) -> None:
        """A bit whose probability of 0 is `zeros` 2^-16."""
        bound = (self.range >> 16) * zeros
        if bit:
            self.low += bound
            self.range -= bound
            if self.low >= TOP:
                self._carry()
        else:
            self.range = bound
        while self.range < BOTTOM:
            self.out.append(self.low >> 24)
            self.low = (self.low << 8) & (TOP - 1)
            self.range <<= 8

    def _carry(self) -> None:
        self.low -= TOP
        place = len(self.out) - 1
        while self.out[place] == 255:
            self.out[place] = 0
            place -= 1
        self.out[place] += 1

    def bit(self, bit: int, estimate: _Bit) -> int:
        self.share(bit, estimate.share())
        estimate.see(bit)
        return bit

    def raw(self, bit: int) -> int:
        self.share(bit, HALF)
        return bit

    def finish(self) -> bytes:
        """All bytes, without zeros at the end: a reader takes what is missing for 0."""
        for bits in (24, 16, 8, 0):  # the number in [low, low + range) with the most zeros at its end
            rounded = (self.low + (1 << bits) - 1) >> bits << bits
            if rounded < self.low + self.range:
                self.low = rounded
                break
        if self.low >= TOP:
            self._carry()
        return bytes(self.out + self.low.to_bytes(4, "big")).rstrip(b"\0")


class _Decoder:
    def __init__(self, data: bytes) -> None:
        self.data, self.place, self.range = data, 4, TOP - 1
        self.code = int.from_bytes(data[:4].ljust(4, b"\0"), "big")

    def share(self, zeros: int) -> int:
        bound = (self.range >> 16) * zeros
        bit = int(self.code >= bound)
        if bit:
            self.code -= bound
            self.range -= bound
        else:
            self.range = bound
        while self.range < BOTTOM:
            byte = self.data[self.place] if self.place < len(self.data) else 0
            self.code = ((self.code << 8) | byte) & (TOP - 1)
            self.place += 1
            self.range <<= 8
        return bit

    def bit(self, _: int, estimate: _Bit) -> int:
        bit = self.share(estimate.share())
        estimate.see(bit)
        return bit

    def raw(self, _: int) -> int:
        return self.share(HALF)


def _number(coder: _Encoder | _Decoder, value: int, group: _Group, near: int) -> int:
    """One number, written or read: the same steps both ways. `value` says nothing to a decoder."""
    if not coder.bit(int(value != 0), group.zero[near]):
        return 0
    negative = coder.raw(int(value < 0))
    magnitude, exponent = abs(value), 0
    while exponent < LONGEST - 1 and coder.bit(int(magnitude >> (exponent + 1) > 0), group.exponent[exponent]):
        exponent += 1
    read = 1
    for place in range(exponent - 1, -1, -1):
        wanted = magnitude >> place & 1
        bit = coder.bit(wanted, group.top[exponent]) if place == exponent - 1 else coder.raw(wanted)
        read = read << 1 | bit
    return -read if negative else read


def _code(coder: _Encoder | _Decoder, values: list[int], groups: Sequence[int]) -> list[int]:
    """Numbers in order, of groups of so many each."""
    done: list[int] = []
    place = 0
    for count in groups:
        group, recent, near = _Group(), [0] * NEAR, 0
        for number in range(count):
            value = _number(coder, values[place], group, near)
            some = int(value != 0)
            near += some - recent[number % NEAR]
            recent[number % NEAR] = some
            done.append(value)
            place += 1
    return done


def encode(values: Integers, groups: Sequence[int]) -> bytes:
    """Numbers `[n]` of groups of so many each, which are of different size or how often they are 0.

    Raises:
        ValueError: groups that do not come to n, or a magnitude of 2^24 or more.
    """
    if sum(groups) != len(values) or (len(values) and int(np.abs(values).max()) >> LONGEST):
        raise ValueError(f"encode: {len(values)} numbers in groups of {sum(groups)}, magnitudes below 2^{LONGEST}")
    coder = _Encoder()
    _code(coder, values.tolist(), groups)
    return coder.finish()


def decode(data: bytes, groups: Sequence[int]) -> Integers:
    """Numbers `[n]` that `encode` wrote; of damaged data, any numbers."""
    return np.array(_code(_Decoder(data), [0] * sum(groups), groups), dtype=np.int64)
