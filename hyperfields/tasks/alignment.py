"""Poses of held-out pictures, corrected against a field that is fitted: for runs that corrected those of training.

Where training poses moved, held-out ones have errors of the same size, and what is rendered from them is beside the
picture. As in BARF (Lin et al. 2021, section 4.2) each is corrected, the field fixed, before it is compared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from hyperfields.cameras import Camera, Rays
from hyperfields.data import View
from hyperfields.fields import BoundField
from hyperfields.ops.threads import one_torch_thread
from hyperfields.rendering.volume import Fitting, render_volume
from hyperfields.tasks.base import behind_views
from hyperfields.tasks.photographs import move_rays, rotations

STEPS, RAYS = 150, 2048  # of the descent; of all pictures in a step
RATE, LAST = 2e-3, 0.05  # radians and scene units; the last rate over the first
CELLS = 64  # along a side of the grid that skips empty space


@one_torch_thread()
def align(bound: BoundField, views: Sequence[View], *, steps: int = STEPS, rays: int = RAYS) -> Tensor:
    """Corrections `[v 3 4]` of the poses of views: rotation and translation in the scene frame, see `Photographs`.

    Descent on the square error of colours over random pixels, from fixed random numbers. Colours are over black, or
    over `View.behind` where that alone is known. Not differentiable.
    """
    device, generator = bound.device, torch.Generator().manual_seed(0)
    field = bound.detach()
    cells, space, step = field.occupancy(CELLS), field.field.space, field.field.step
    whole = [view.camera.to(device).rays() for view in views]
    truth = [view.rgba.reshape(-1, 4).to(device) for view in views]
    behind = None if all(view.behind is None for view in views) else behind_views(views, 0.0).to(device)
    counting = [None if view.mask is None else view.mask.flatten().nonzero().squeeze(1) for view in views]
    rows = torch.zeros(len(views), 6, device=device, requires_grad=True)
    optimizer = torch.optim.Adam([rows], lr=RATE, betas=(0.9, 0.99))
    each = max(rays // len(views), 64)
    for number in range(steps):
        optimizer.param_groups[0]["lr"] = RATE * LAST ** (number / steps)
        origins, directions, colors = [], [], []
        for view in range(len(views)):
            known = counting[view]
            total = len(truth[view]) if known is None else len(known)
            index = torch.randint(total, (each,), generator=generator)
            index = index if known is None else known[index]
            origins.append(whole[view].origins[index.to(device)])
            directions.append(whole[view].directions[index.to(device)])
            colors.append(truth[view][index.to(device)])
        drawn = Rays(torch.cat(origins)[None], torch.cat(directions)[None])
        with torch.enable_grad():
            image = torch.arange(len(views), device=device).repeat_interleave(each)
            moved = move_rays(drawn, _corrections(rows)[image][None])
            at = Rays(*(part.detach() for part in moved))
            rendered = render_volume(
                field, at, cells, step=step, space=space, visible=field.visible_samples, fitting=Fitting(through=moved)
            )
            wanted = torch.cat(colors)
            error = rendered.rgb[0] - wanted[:, :3] * wanted[:, 3:]
            if behind is not None:
                error = error - (rendered.alpha[0] - wanted[:, 3])[:, None] * behind[image]
            loss = error.square().mean()
            optimizer.zero_grad()
            if not loss.requires_grad:  # no ray meets anything
                break
            loss.backward()
        optimizer.step()
    with torch.no_grad():
        return _corrections(rows).cpu()


def aligned(bound: BoundField, views: Sequence[View]) -> list[Camera]:
    """Cameras of views with their poses corrected by `align`."""
    return [corrected(view.camera, change) for view, change in zip(views, align(bound, views), strict=True)]


def _corrections(rows: Tensor) -> Tensor:
    return torch.cat((rotations(rows[:, :3]), rows[:, 3:, None]), -1)


def corrected(camera: Camera, correction: Tensor) -> Camera:
    """A camera with its pose `[R, t]` corrected by `[rotation, translation]` `[3 4]`: [rotation R, t + translation]."""
    pose = camera.T_world_camera.clone()
    change = correction.to(pose)
    pose[:3, :3] = change[:, :3] @ pose[:3, :3]
    pose[:3, 3] += change[:, 3]
    return dataclasses.replace(camera, T_world_camera=pose)
