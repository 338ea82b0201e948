"""GridSpec: what a kernel would follow out of its table is refused, whoever made it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from hyperfields.errors import InputError
from hyperfields.ops import GridSpec

GRID = GridSpec(2, 2, (4.0, 16.0), (5, 17), (0, 32, 160))  # dense, and hashed into 128 rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dims": 0}, "grid dims: got 0, wanted 1 to 7"),
        ({"dims": 8}, "grid dims: got 8"),
        ({"dims": 2.0}, r"grid dims: got 2\.0"),
        ({"features": 0}, "grid features: got 0, wanted a whole number, at least 1"),
        ({"features": "2"}, "grid features: got '2'"),
        ({"scales": (), "resolutions": (), "offsets": (0,)}, "wanted a scale and a resolution of each level"),
        ({"scales": (4.0,)}, "wanted a scale and a resolution of each level"),
        ({"offsets": (0, 32)}, "one more offset"),
        ({"offsets": [0, 32, 160]}, "as tuples"),
        ({"offsets": (8, 32, 160)}, "the first offset 0"),
        ({"offsets": (0, 32.0, 160)}, "wanted whole numbers"),
        ({"resolutions": (5, "17")}, "wanted whole numbers"),
        ({"offsets": (0, 30001**2, 160)}, "grid level 0: got 900060001 rows"),
        ({"offsets": (0, 160, 32)}, "grid level 1: got -128 rows, wanted a positive multiple of 8"),
        ({"offsets": (0, 32, 32)}, "grid level 1: got 0 rows"),
        ({"offsets": (0, 32, 36)}, "grid level 1: got 4 rows"),
        (
            {"offsets": (0, 32, 152)},
            r"grid level 1: got 120 rows for 17\^2 vertices, wanted as many, or a power of two",
        ),
        ({"offsets": (0, 24, 152)}, r"grid level 0: got 24 rows for 5\^2 vertices"),
        ({"resolutions": (5, 16)}, r"grid resolutions\[1\]: got 16, wanted 17 for a scale of 16\.0"),
        ({"scales": (float("nan"), 16.0)}, r"grid scales\[0\]: got nan"),
        ({"scales": (4.0, float("inf"))}, r"grid scales\[1\]: got inf"),
        ({"scales": (-1.0, 16.0)}, r"grid scales\[0\]: got -1\.0"),
        ({"scales": ("4", 16.0)}, r"grid scales\[0\]: got '4'"),
        ({"offsets": (0, 32, 32 + 2**30)}, r"wanted fewer than 2\^31 numbers"),
    ],
)
def test_a_grid_that_a_kernel_could_not_follow_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(GRID, **change)


def test_a_file_with_such_a_grid_is_an_error_of_input() -> None:
    """Reading it anyway, a kernel would read and write beyond the table."""
    from hyperfields.configs import to_json
    from hyperfields.fields import ImageField
    from hyperfields.fields.encodings import HashGrid
    from hyperfields.runs.config import config_from_json

    field = ImageField(HashGrid(2, 2, 2, 6, 4, 8), hidden=(8,))
    content = to_json(field)
    assert config_from_json(content) == field
    grid = content["encoding"]["grid"]
    huge = {"scales": [30000.0, 30000.0], "resolutions": [30001, 30001], "offsets": [0, 30001**2, 80]}
    other = {"scales": [3.0, 12.0], "resolutions": [4, 13], "offsets": [0, 16, 80]}  # sound, but not of this encoding
    for changed in ({**grid, **huge}, {**grid, "offsets": None}, {**grid, "scales": [1.0]}, {**grid, **other}, [1]):
        content["encoding"]["grid"] = changed
        with pytest.raises(InputError, match=r"class '(GridSpec|HashGrid)'"):
            config_from_json(content)
