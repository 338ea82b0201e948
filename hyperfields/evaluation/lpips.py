"""LPIPS, the learned distance between images, without importing torchvision or the `lpips` package.

The trunk (AlexNet or VGG16) is built here in plain torch and filled from a torchvision checkpoint file; the
linear heads are data files of the installed `lpips` package. Nothing is ever filled with random numbers:
what is missing raises `LpipsUnavailable`, and the caller prints n/a with its reason.

Source: Zhang, Isola, Efros, Shechtman, Wang: The unreasonable effectiveness of deep features as a perceptual
metric, 2018; given the same trunk, the values are those of the package `lpips` with its weights v0.1.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

Net = Literal["alex", "vgg"]


class LpipsUnavailable(Exception):
    """LPIPS cannot be computed here; the text says what is missing, where it was looked for, what to do."""


class _Plan(NamedTuple):
    """What is particular to one trunk."""

    file: str  # torchvision's name of the checkpoint
    pattern: str  # the same without the hash, which differs between torchvision's versions
    taps: tuple[int, ...]  # the ReLUs whose outputs are compared, by index in `features`
    smallest: int  # pixels a side that leave something after the last pooling


_PLANS: dict[Net, _Plan] = {
    "alex": _Plan("alexnet-owt-7be5be79.pth", "alexnet-*.pth", (1, 4, 7, 9, 11), 31),
    "vgg": _Plan("vgg16-397923af.pth", "vgg16-*.pth", (3, 8, 15, 22, 29), 16),
}


class Lpips(nn.Module):
    """LPIPS with frozen weights: `image`, `truth` `[b h w 3]` in [0, 1] -> `[b]`, 0 for equal images.

    Made by `load_lpips`. Differentiable with respect to both images.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, net: Net, trunk: dict[str, Tensor], heads: list[Tensor]) -> None:
        """`trunk`: torchvision's state dict without the prefix `features.`; `heads`: `[1 c 1 1]` a tap."""
        super().__init__()
        self.net: Net = net
        with torch.device("meta"):  # no memory and no random numbers: every weight comes from `trunk`
            self.trunk = _alexnet() if net == "alex" else _vgg16()
        self.trunk.load_state_dict(trunk, assign=True)
        self.heads = nn.ParameterList(heads)
        # The published constants are for images in [-1, 1].
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None])
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None])
        self.requires_grad_(False).eval()

    def forward(self, image: Tensor, truth: Tensor) -> Tensor:
        """Distance of each pair: `[b h w 3]`, `[b h w 3]` -> `[b]`.

        Raises:
            ValueError: when the shapes differ or are not `[b h w 3]`, or a side is too small for the trunk.
        """
        if image.shape != truth.shape or image.ndim != 4 or image.shape[-1] != 3:
            raise ValueError(f"lpips: image {list(image.shape)} and truth {list(truth.shape)} must be equal [b h w 3]")
        smallest = _PLANS[self.net].smallest
        if min(image.shape[1:3]) < smallest:
            raise ValueError(
                f"lpips: image is {image.shape[1]}x{image.shape[2]}, {self.net} needs at least {smallest} pixels a side"
            )
        value = torch.zeros(len(image), dtype=image.dtype, device=image.device)
        for a, b, head in zip(self._features(image), self._features(truth), self.heads, strict=True):
            value = value + ((a - b).square() * head).sum(1).mean((-2, -1))
        return value

    def _features(self, image: Tensor) -> list[Tensor]:
        """Outputs of the taps, `[b c h' w']`, each pixel's channels scaled to length 1."""
        x = (2.0 * image.movedim(-1, 1) - 1.0 - self.shift) / self.scale
        taps = _PLANS[self.net].taps
        found = []
        for i, layer in enumerate(self.trunk):
            x = layer(x)
            if i in taps:
                found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return found


def load_lpips(net: Net, weights: Path | None = None) -> Lpips:
    """LPIPS with trunk `net`, its weights from `weights` (a file or folder), then from torch's hub cache.

    Nothing is downloaded.

    Raises:
        LpipsUnavailable: when the heads or the trunk's weights are missing or unreadable.
    """
    plan = _PLANS[net]
    heads = _load_heads(net)
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    tried = []
    for place in (cache,) if weights is None else (weights, cache):
        files = sorted(place.glob(plan.pattern)) if place.is_dir() else [place] if place.is_file() else []
        if not files:
            tried.append(f"{place / plan.pattern if place.is_dir() else place} does not exist")
        for file in files:
            try:
                state = _load(file)
                trunk = {k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")}
                return Lpips(net, trunk, heads)
            except Exception as error:  # a damaged file makes the unpickler raise nearly anything
                tried.append(f"{file} is not torchvision's {plan.file} ({type(error).__name__})")
    raise LpipsUnavailable(
        f"no weights for lpips {net}: {'; '.join(tried)}; give torchvision's {plan.file} by --lpips-weights "
        "FILE or FOLDER"
    )


def _load_heads(net: Net) -> list[Tensor]:
    # find_spec of a top-level package does not import it: `import lpips` would import torchvision.
    spec = importlib.util.find_spec("lpips")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise LpipsUnavailable("no linear heads: package lpips is not installed; pip install 'hyperfields[metrics]'")
    file = Path(folders[0]) / "weights" / "v0.1" / f"{net}.pth"
    try:
        state = _load(file)
        return [state[f"lin{i}.model.1.weight"] for i in range(len(_PLANS[net].taps))]
    except Exception as error:
        raise LpipsUnavailable(
            f"no linear heads: {file} cannot be used ({type(error).__name__}); reinstall the package lpips"
        ) from error


def _load(file: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return state


def _alexnet() -> nn.Sequential:
    """torchvision's `alexnet().features` up to the last tap, same indices."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
    )


def _vgg16() -> nn.Sequential:
    """torchvision's `vgg16().features` up to the last tap, same indices."""
    layers: list[nn.Module] = []
    width = 3
    for i, (convolutions, channels) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))):
        if i > 0:
            layers.append(nn.MaxPool2d(2, stride=2))
        for _ in range(convolutions):
            layers += [nn.Conv2d(width, channels, 3, padding=1), nn.ReLU()]
            width = channels
    return nn.Sequential(*layers)
