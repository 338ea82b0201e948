"""Spaces in which radiance fields live, `Box` and `Contracted`: settings of a field and of the ops along its rays."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

from torch import Tensor

from hyperfields.errors import InputError
from hyperfields.ops.reference import space as reference


@dataclasses.dataclass(frozen=True)
class Box:
    """The scene box [-1, 1]^3: what is outside is not seen. Samples of a ray are even."""

    contracted: ClassVar[bool] = False
    near: ClassVar[float] = 0.0

    def into(self, x: Tensor) -> Tensor:
        """Points `[... 3]` of space in the grid's [-1, 1]^3: themselves."""
        return x

    def out_of(self, y: Tensor) -> Tensor:
        """The inverse of `into`."""
        return y


@dataclasses.dataclass(frozen=True)
class Contracted:
    """All of space, contracted into a cube whose middle is the scene box; see `reference.space`.

    The step of a field is the length of a sample in the scene box; beyond, samples grow with the square of the
    distance. Density is that per scene unit everywhere.

    near: distance from a camera, scene units, before which nothing is seen.
    """

    contracted: ClassVar[bool] = True
    near: float = 0.1

    def __post_init__(self) -> None:
        if not 0.0 <= self.near < math.inf:
            raise InputError(f"Contracted: near {self.near}: wanted a distance of 0 or more")

    def into(self, x: Tensor) -> Tensor:
        """Points `[... 3]` of space in the grid's [-1, 1]^3. Differentiable."""
        return reference.contract(x)

    def out_of(self, y: Tensor) -> Tensor:
        """The inverse of `into`; faces of the cube come to lie far away, not at infinity."""
        return reference.expand(y)

    def density_scale(self, x: Tensor) -> Tensor:
        """Factor `[... 1]` from density per contracted length to density per scene unit."""
        return reference.density_scale(x)


Space = Box | Contracted
BOX = Box()


def samples_on_ray(space: Space, step: float) -> int:
    """The most samples that a ray may have: a diagonal of the box or a whole ray, and one sample more at each end."""
    return math.ceil((4.0 if space.contracted else 2.0 * math.sqrt(3.0)) / step) + 2
