"""One of each generator, of a size that the test chooses."""

from __future__ import annotations

from hyperfields.hypernets import (
    Chunked,
    Cppn,
    Full,
    Generator,
    Hierarchical,
    LowRank,
    Modulation,
    PerLayer,
    WeightTokens,
)


def generators(width: int) -> dict[str, Generator]:
    """Generators that share networks, by name; `width` sets that of their hidden layers."""
    return {
        "full, linear": Full(),
        "full, hidden": Full(hidden=width),
        "per layer": PerLayer(width),
        "hierarchical": Hierarchical(width // 4 + 1),
        "chunked": Chunked(chunk=20, embedding=width // 2, hidden=2 * width),
        "cppn": Cppn(2 * width),
        "low rank, multiply": LowRank(2, "multiply"),
        "low rank, add": LowRank(2, "add"),
        "low rank, one layer": LowRank(2, "multiply", layer=0),
        "scale and shift": Modulation(scale=True),
        "shift only": Modulation(scale=False),
        "weight tokens": WeightTokens(width, heads=2),
    }
