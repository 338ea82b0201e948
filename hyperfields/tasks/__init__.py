"""Tasks: one object a kind of scenes, which knows everything that depends on the kind.

`base.py` says what a task is, `images.py`, `shapes.py` and `radiance.py` are the three, `objective.py` is what a fit
minimises, `losses.py` and `metrics.py` are plain functions of tensors, `presets.py` names models by kind.
May import: errors, ops, configs, weights, cameras, data, fields, hypernets, rendering, codes, model.

To add a kind: write its field (fields/), its task here in a file like `images.py`, one line in `TASKS` below, the kind
in `data.Kind`, and a reader (scenes/). Nothing else in the package asks for a kind.
To add a loss: pass `loss=` to `Task.objective`. To add a metric: an entry of the task's `metrics` and a value of its
`measure`. To add a preset: `base.PRESETS`, `base.generator_of` and the tasks' `model`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from torch import Tensor

from hyperfields.cameras import Camera
from hyperfields.codes import Codes
from hyperfields.errors import InputError
from hyperfields.fields import BoundField
from hyperfields.hypernets import Bayes, Generator, Stability
from hyperfields.model import ModelConfig
from hyperfields.ops.threads import one_torch_thread
from hyperfields.rendering.image import Window
from hyperfields.rendering.pictures import CELLS
from hyperfields.tasks.base import PRESETS as PRESETS
from hyperfields.tasks.base import Metric as Metric
from hyperfields.tasks.base import Preset as Preset
from hyperfields.tasks.base import Task as Task
from hyperfields.tasks.between import Between as Between
from hyperfields.tasks.config import TrainConfig as TrainConfig
from hyperfields.tasks.images import IMAGES as IMAGES
from hyperfields.tasks.objective import Objective as Objective
from hyperfields.tasks.radiance import RADIANCE as RADIANCE
from hyperfields.tasks.shapes import SHAPES as SHAPES

TASKS: dict[str, Task] = {"images": IMAGES, "shapes": SHAPES, "views": RADIANCE}


def task_of(kind: str) -> Task:
    """The task of a kind of scenes.

    Raises:
        InputError: an unknown kind.
    """
    if kind not in TASKS:
        raise InputError(f"kind {kind!r:.60}: wanted one of {', '.join(TASKS)}; of a kind of your own give its task=")
    return TASKS[kind]


def preset(
    name: str,
    kind: str,
    scenes: int,
    side: int = 64,
    *,
    generator: Generator | None = None,
    stability: Stability | None = None,
    bayes: Bayes | None = None,
    codes: Codes | None = None,
    between: float | None = None,
    unbounded: bool = False,
    task: Task | None = None,
) -> tuple[ModelConfig, TrainConfig]:
    """(model, recipe) of a preset, see `Task.model`, with what is given instead; for `fit(model=, train=)`.

    Args:
        side: of the pictures, the longer one, in pixels.
        generator: instead of the preset's, with the rate of its networks.
        stability, bayes: instead of the defaults, which the presets have.
        codes: a source of codes that the recipe is adapted to.
        between: weight of what is asked of mixed codes, see `between.Between`.
        unbounded: of views that show what is all round: the scenes live in contracted space.
        task: of a kind that is your own.

    Raises:
        InputError: an unknown name or kind.
    """
    task = task or task_of(kind)
    model, train = task.model(name, scenes, side, **({"unbounded": True} if unbounded else {}))
    if generator is not None:
        model = dataclasses.replace(model, generator=generator)
        train = dataclasses.replace(train, rate_networks=task.network_rate(generator, scenes))
    if between is not None:
        train = dataclasses.replace(train, between=dataclasses.replace(train.between, weight=between))
    if codes is not None:
        train = codes.adapt_recipe(train)
    return dataclasses.replace(model, stability=stability or model.stability, bayes=bayes or model.bayes), train


@one_torch_thread()
def render_picture(
    bound: BoundField,
    camera: Camera | Window | None,
    size: tuple[int, int],
    channel: str = "rgb",
    background: float = 1.0,
    *,
    supersample: int | None = None,
    cells: int = CELLS,
    pause: Callable[[], None] | None = None,
) -> Tensor:
    """One scene of any kind as `[h w 3]` in [0, 1]; see `Task.picture`. Not differentiable."""
    task = task_of(bound.field.kind)
    return task.picture(bound, camera, size, channel, background, supersample=supersample, cells=cells, pause=pause)
