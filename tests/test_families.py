"""The protocol of families, and the fingerprint by which a resumed fit knows its data."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from hyperfields.cameras import Rays
from hyperfields.data import KINDS, Kind, Mesh, Pixels, Points, SceneDataset, View, fingerprint


@dataclasses.dataclass
class Noise:
    """A data set of a user's own: the four members of `SceneDataset` and nothing else."""

    kind: Kind = "images"
    names: tuple[str, ...] = ("a", "b", "c")
    brightness: float = 1.0

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Points | Pixels:
        draw = torch.rand(len(scenes), n, 6, generator=generator) + scenes[:, None, None]
        if self.kind == "views":
            rgba = torch.cat((draw[..., 3:], draw[..., :1]), -1) * self.brightness
            return Pixels(Rays(draw[..., :3], draw[..., 3:]), rgba)
        return Points(draw[..., :2], draw[..., 3:] * self.brightness)

    def reference(self, scene: int, split: str = "test") -> Tensor | Mesh | list[View]:
        return torch.zeros(2, 2, 3)


@dataclasses.dataclass
class Nameless:
    kind: Kind = "images"

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Points:
        return Points(torch.zeros(1), torch.zeros(1))

    def reference(self, scene: int, split: str = "test") -> Tensor:
        return torch.zeros(1)


def test_there_are_three_kinds() -> None:
    assert KINDS == ("images", "shapes", "views")


def test_a_class_with_the_four_members_is_a_family_and_another_is_not() -> None:
    assert isinstance(Noise(), SceneDataset)
    assert not isinstance(Nameless(), SceneDataset)


@pytest.mark.parametrize("kind", ["images", "views"])
def test_the_same_data_have_the_same_fingerprint(kind: Kind) -> None:
    torch.manual_seed(1)
    one = fingerprint(Noise(kind))
    torch.manual_seed(2)  # the global generator has no part in it
    assert fingerprint(Noise(kind)) == one
    assert len(one) == 16
    assert int(one, 16) >= 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Noise(), Noise("shapes")),
        (Noise(), Noise(names=("a", "b", "d"))),
        (Noise(), Noise(names=("b", "a", "c"))),
        (Noise(), Noise(names=("a", "b"))),
        (Noise(), Noise(brightness=0.999)),
        (Noise("views"), Noise("views", brightness=0.999)),
    ],
    ids=["kind", "a name", "order", "number", "targets", "colours of rays"],
)
def test_other_data_have_another_fingerprint(one: Noise, other: Noise) -> None:
    assert fingerprint(one) != fingerprint(other)


def test_a_fingerprint_of_many_scenes_asks_for_a_few() -> None:
    asked: list[int] = []

    class Counting(Noise):
        def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Points | Pixels:
            asked.extend(scenes.tolist())
            return super().batch(scenes, n, generator)

    fingerprint(Counting(names=tuple(str(i) for i in range(1000))))
    assert len(asked) == 8
    assert asked == sorted(asked)
    assert (asked[0], asked[-1]) == (0, 999)


def test_a_family_of_one_scene_has_a_fingerprint() -> None:
    assert fingerprint(Noise(names=("only",))) != fingerprint(Noise(names=("other",)))


def test_a_mesh_in_the_scene_frame_is_its_file_when_nothing_is_said() -> None:
    mesh = Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2]]))
    assert (mesh.scale, mesh.center) == (1.0, (0.0, 0.0, 0.0))
