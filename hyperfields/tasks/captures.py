"""Presets of captures: photographs that show what is all round, in contracted space."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from hyperfields.errors import InputError
from hyperfields.fields import RadianceField
from hyperfields.fields.encodings import FactoredGrid, HashGrid
from hyperfields.hypernets import Generator
from hyperfields.model import ModelConfig
from hyperfields.ops import Contracted
from hyperfields.tasks.config import TrainConfig
from hyperfields.tasks.losses import PixelLoss

SpaceName = Literal["box", "contracted"]
POSES, APPEARANCE = 1e-3, 2e-3  # peak rates: radians and scene units; colours
ONE = 64  # numbers of the code; of one scene it says nothing, and is small


@dataclasses.dataclass(frozen=True)
class CaptureSettings:
    """What is asked for of a fit to views.

    space: "box" or "contracted"; None: contracted where the pictures show what is all round. refine_poses, appearance:
    learn corrections of the poses, the colours of each training picture.
    """

    space: SpaceName | None = None
    refine_poses: bool = False
    appearance: bool = False

    def __post_init__(self) -> None:
        if self.space not in (None, "box", "contracted"):
            raise InputError(f"space {self.space!r:.60}: wanted box or contracted")

    def model_options(self, kind: str, picture: dict[str, Any]) -> dict[str, Any]:
        """What `Task.model` is called with beside the preset, given what the task says of the pictures.

        Raises:
            InputError: a space, poses or colours of what is not views.
        """
        asked = {"space": self.space, "refine_poses": self.refine_poses, "appearance": self.appearance}
        given = [name for name, value in asked.items() if value]
        if given and kind != "views":
            option = given[0].replace("_", "-")
            raise InputError(f"--{option}: of photographs with cameras, but the family holds {kind}; leave it out")
        unbounded = picture.get("unbounded", False) if self.space is None else self.space == "contracted"
        return {"unbounded": True} if unbounded else {}

    def recipe(self, train: TrainConfig) -> TrainConfig:
        """A recipe with what is learned of each picture as it was asked for."""
        learned = train.photographs
        if self.refine_poses:
            learned = dataclasses.replace(learned, poses=learned.poses or POSES)
        if self.appearance:
            learned = dataclasses.replace(learned, appearance=learned.appearance or APPEARANCE)
        return dataclasses.replace(train, photographs=learned)


def capture_model(
    generator: Generator, preset: str, scenes: int, side: int, rate: float
) -> tuple[ModelConfig, TrainConfig]:
    """The model of scenes that are captured with their surroundings, and how it is fitted.

    One scene has a table of its own, as large as pays for pictures of `side` pixels: there is nothing to share. Several
    share bases, as bounded ones do. rate: of the networks.
    """
    # The scene box reaches half way to the cameras and is half of the grid: a cell of it is then about a pixel.
    finest = min(max(2 * side, 64), 1024)
    if scenes == 1:
        log2_table = {"tiny": 14, "default": 18, "faithful": 19}[preset]
        encoding: HashGrid | FactoredGrid = HashGrid(3, 8, 2, log2_table, 16, finest)
    else:
        bases = {"tiny": 4, "default": 1 + min(scenes, 16), "faithful": 64}[preset]
        encoding = FactoredGrid(3, 8, 2, 14, 16, finest, bases=bases)
    field = RadianceField(encoding, space=Contracted(near=0.2), step=0.04, occupancy=64)
    # Pictures without alpha say nothing of the opacity of what is seen: the spread along rays has to clear fog.
    loss = PixelLoss(background_opacity_l1=0.0, distortion=0.01)
    train = TrainConfig(
        min(scenes, 16), 2**14 * min(max(scenes // 4, 1), 4), rate_grid=4e-2, loss=loss, near_gradients=1.0,
        rate_networks=0.5 * rate if scenes == 1 else rate,
    )  # fmt: skip
    return ModelConfig(field, generator, 16 if scenes == 1 else ONE), train
