"""What a fit learns of each training picture beside the scene: corrections of its pose, and its appearance.

Both are relative to their mean over a scene's pictures: poses do not drift away from those of held-out pictures, and
the field itself shows the mean appearance, so that whatever renders it need not know of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hyperfields.cameras import Rays
from hyperfields.errors import InputError


@dataclasses.dataclass(frozen=True)
class PhotographConfig:
    """What is learned of each training picture.

    poses: peak rate of the corrections of poses, radians and scene units; 0: they are right as they are.
    appearance: peak rate of the colours of pictures; 0: all were taken with the same light and exposure.
    """

    poses: float = 0.0
    appearance: float = 0.0

    def __post_init__(self) -> None:
        if not (0.0 <= self.poses < 1.0 and 0.0 <= self.appearance < 1.0):
            raise InputError(
                f"PhotographConfig: rates {self.poses} and {self.appearance}, wanted 0 (not learned) to less than 1"
            )


class Photographs(nn.Module):
    """Corrections of poses and colours, a row for each training picture, over all scenes.

    poses: rotation vector (radians) and translation (scene units), both in the scene frame, relative to where the
        picture was said to be taken: SO(3) x R^3, as nerfacto's. appearance: an affine map of colours (Rematas et al.
        2022, "Urban radiance fields", section 4.2): exposure, white balance, haze.
    """

    def __init__(self, counts: Sequence[int], config: PhotographConfig) -> None:
        """counts: training pictures of each scene, which are numbered scene by scene."""
        super().__init__()
        self.config, self.scenes = config, len(counts)
        number = torch.tensor(tuple(counts))
        self.scene: Tensor
        self.share: Tensor
        self.register_buffer("scene", torch.repeat_interleave(torch.arange(len(number)), number), persistent=False)
        self.register_buffer("share", (1.0 / number)[self.scene, None], persistent=False)
        total = int(number.sum())
        self.poses = nn.Parameter(torch.zeros(total, 6)) if config.poses else None
        self.appearance = nn.Parameter(torch.zeros(total, 12)) if config.appearance else None

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by role, for an optimiser."""
        named = {"poses": self.poses, "appearance": self.appearance}
        return {name: [value] for name, value in named.items() if value is not None}

    def _centred(self, rows: Tensor) -> Tensor:
        """Rows `[n c]` without the mean of their scene."""
        mean = rows.new_zeros(self.scenes, rows.shape[1]).index_add(0, self.scene, rows * self.share)
        centred: Tensor = rows - mean[self.scene]
        return centred

    def corrections(self) -> Tensor:
        """Rotation and translation of each picture `[n 3 4]`: a corrected pose is (rotation @ R, t + translation)."""
        assert self.poses is not None
        rows = self._centred(self.poses)
        return torch.cat((rotations(rows[:, :3]), rows[:, 3:, None]), -1)

    @torch.no_grad()
    def learned(self) -> dict[str, Tensor]:
        """Corrections and appearance for a file, on the CPU."""
        values = {} if self.poses is None else {"poses": self.corrections()}
        if self.appearance is not None:
            values["appearance"] = self._centred(self.appearance)
        return {name: value.cpu().contiguous() for name, value in values.items()}

    def moved(self, rays: Rays, images: Tensor) -> Rays:
        """Rays `[s r 3]` of pictures `[s r]` with their poses corrected. Differentiable in the corrections."""
        if self.poses is None:
            return rays
        return move_rays(rays, self.corrections()[images])

    def colored(self, rgb: Tensor, alpha: Tensor, images: Tensor) -> Tensor:
        """Premultiplied colours `[s r 3]` of rays with opacity `[s r]` as pictures `[s r]` show them."""
        if self.appearance is None:
            return rgb
        rows = self._centred(self.appearance)[images]
        matrix, shift = rows[..., :9].unflatten(-1, (3, 3)), rows[..., 9:]
        colored: Tensor = rgb + (matrix @ rgb[..., None]).squeeze(-1) + shift * alpha[..., None]
        return colored


def rotations(vectors: Tensor) -> Tensor:
    """Rotation matrices `[n 3 3]` of rotation vectors `[n 3]`, radians. Differentiable, at 0 too.

    Rodrigues' formula, with series of sin(a)/a and (1 - cos a)/a^2 for small angles.
    """
    square = vectors.square().sum(-1)[:, None, None]
    small = square < 1e-4
    safe = torch.where(small, torch.ones_like(square), square)
    angle = safe.sqrt()
    first = torch.where(small, 1.0 - square / 6.0 + square.square() / 120.0, angle.sin() / angle)
    second = torch.where(small, 0.5 - square / 24.0 + square.square() / 720.0, (1.0 - angle.cos()) / safe)
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), -1).unflatten(-1, (3, 3))
    identity = torch.eye(3, dtype=vectors.dtype, device=vectors.device)
    matrix: Tensor = identity + first * cross + second * (cross @ cross)
    return matrix


def move_rays(rays: Rays, corrections: Tensor) -> Rays:
    """Rays `[... 3]` turned and shifted by corrections `[... 3 4]`."""
    turned = (corrections[..., :3] @ rays.directions[..., None]).squeeze(-1)
    return Rays(rays.origins + corrections[..., 3], turned)


def fitted_colors(pictures: Tensor, truth: Tensor) -> Tensor:
    """Pictures `[h w 3]` with the affine map of colours that brings their left half nearest to that of the truth.

    Least squares. The right half is then measured: the protocol of Martin-Brualla et al. 2021, "NeRF in the wild",
    section 5, where codes are fitted to the left half.
    """
    half = pictures.shape[1] // 2
    known = pictures[:, :half].reshape(-1, 3).double()
    ones = torch.ones_like(known[:, :1])
    system = torch.cat((known, ones), 1)
    # Towards the identity where the half is one colour, so that the map is determined.
    ridge = 1e-3 * len(known) ** 0.5 * torch.eye(4, dtype=torch.float64)
    wanted = torch.cat((truth[:, :half].reshape(-1, 3).double(), ridge[:, :3]))
    solution = torch.linalg.lstsq(torch.cat((system, ridge)), wanted).solution
    mapped: Tensor = pictures.double() @ solution[:3] + solution[3]
    return mapped.to(pictures)
