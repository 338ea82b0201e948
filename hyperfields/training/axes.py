"""Axes of codes along which descent is quick: those in which a code's numbers change what is seen alike.

    z = centre + u A,    A = V diag(G^(-1/4)) V's own units,    G = V diag(g) V^T = mean of (dL/dz)^T (dL/dz)

At codes that are away from those of their scenes by anything, gradients are H (z - z*), with the Hessian H of the loss:
their mean square G is about H^2, and in numbers u along G^(-1/4) the loss is about as steep in all directions. Adam,
which scales each number by itself, cannot find such axes. They are the run's rather than a scene's, and take the time
of a few steps: where many scenes are inferred together they are worth it.
Source: the preconditioning by the fourth root is that of Gupta, Koren, Singer 2018, "Shampoo", for a single mode.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hyperfields.data import SceneDataset
from hyperfields.ops.threads import one_torch_thread
from hyperfields.runs.run import Run

SCENES = 32  # from which on they are worth it
GRADIENTS = 6  # for each number of a code
BETAS = (0.8, 0.95)  # of Adam along axes: visits are few, and long memories overshoot
FLOOR = 0.1  # of the steepest axis's scale: what is less steep is not stretched further


@one_torch_thread()
def code_axes(run: Run, data: SceneDataset, seed: int) -> Tensor:
    """Axes `[z z]`, a row each, for codes of the scenes of `data`: `codes = centre + u @ axes`.

    The fitted codes are at most one standard deviation of 1 away along each, so that rates are as for plain codes.
    """
    model, fitted = run.model, run.model.latents.codes.detach()
    center, device, count = fitted.mean(0), fitted.device, len(data.names)
    train = run.config.train.for_new_scenes(scenes=min(run.config.train.scenes, count))
    objective = run.task.objective(data, model.config.field, train, count, device=device, loss=train.loss)
    generator, total = torch.Generator(device).manual_seed(seed), fitted.new_zeros(2 * (len(center),))
    for step in range(math.ceil(GRADIENTS * len(center) / train.scenes)):
        scenes = torch.randperm(count, generator=generator, device=device)[: train.scenes]
        objective.plan(step)
        # Anywhere between the centre and the codes of other scenes.
        other = fitted[torch.randint(len(fitted), scenes.shape, generator=generator, device=device)]
        away = torch.rand(len(scenes), 1, generator=generator, device=device)
        codes = torch.lerp(center, other, away).requires_grad_()
        bound = model.bind(codes)
        objective.update(bound, scenes, step, generator)
        loss = objective(bound, scenes, scenes, generator) * len(scenes)
        if loss.requires_grad:  # no ray may have met an occupied cell
            (slopes,) = torch.autograd.grad(loss, codes)
            total += slopes.mT @ slopes
    steepness, directions = torch.linalg.eigh(total.double())
    scales = (steepness / steepness[-1].clamp(min=1e-300)).clamp(min=FLOOR**4).pow(-0.25)
    spread = float(((fitted - center).double() @ directions / scales).std(0, correction=0).amax())
    axes: Tensor = (directions * scales * (spread or 1.0)).mT.to(fitted)  # one scene alone has no spread
    return axes
