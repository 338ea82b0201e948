"""A latent-free fit: a transformer turns observations of a scene into its code, for scenes not seen before as well.

    code = R transformer([embedded observations; learned tokens]),  weights = hypernetwork(code),  all fitted together

Source: Chen, Wang 2022, "Transformers as meta-learners for implicit neural representations" (TransINR), section 3. With
the generator `WeightTokens` the second half of it stands in the hypernetwork; any other generator can be taken.

What is looked at: patches of a picture; points of a shape with their distances, each with its nearest ones; rays of
views with their colours. Places, directions and distances are in the scene's frame.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from hyperfields.codes.table import CodeSource
from hyperfields.data import Kind, Points, SceneDataset, fingerprint
from hyperfields.errors import InputError
from hyperfields.hypernets import Independent
from hyperfields.hypernets.attention import Block
from hyperfields.hypernets.init import require_positive
from hyperfields.model import BoundField, HyperField, ModelConfig, parameter_groups
from hyperfields.runs import checkpoint
from hyperfields.tasks import task_of
from hyperfields.tasks.presets import TrainConfig
from hyperfields.training.inference import Codes
from hyperfields.training.optim import Optimization, Progress, part

FREQUENCIES = 4  # of the sines that places are embedded by
WITHIN = 0.3  # a distance that counts as far


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """width, depth, heads: of the transformer. tokens: learned ones that the code is read from.

    patch: side of a picture's patches, pixels. points: centres (shapes) or rays (views) that are looked at.
    near: points of a centre's patch, itself among them.
    """

    width: int = 64
    depth: int = 2
    heads: int = 4
    tokens: int = 4
    patch: int = 4
    points: int = 128
    near: int = 8

    def __post_init__(self) -> None:
        require_positive("EncoderConfig", **dataclasses.asdict(self))


def observe(family: SceneDataset, scenes: Tensor, config: EncoderConfig, generator: torch.Generator) -> Tensor:
    """What is looked at of scenes `[s]`: `[s m features]`. Pictures are seen whole, of the others a random part.

    Raises:
        InputError: pictures of several sizes, or smaller than a patch.
    """
    if family.kind == "images":
        return _patches(family, scenes, config.patch)
    if family.kind == "shapes":
        batch = family.batch(scenes, config.points * config.near // 2, generator)
        assert isinstance(batch, Points)
        return _point_patches(batch, config)
    batch = family.batch(scenes, config.points, generator)
    assert not isinstance(batch, Points)
    origins, directions = batch.rays
    moment = torch.linalg.cross(origins, directions)  # with the direction, Pluecker coordinates of the line
    color = batch.rgba[..., :3] * batch.rgba[..., 3:]
    return torch.cat((_waves(directions), _waves(moment), color, batch.rgba[..., 3:]), -1)


def _patches(family: SceneDataset, scenes: Tensor, side: int) -> Tensor:
    pictures = []
    for scene in scenes.tolist():
        picture = family.reference(scene)
        assert isinstance(picture, Tensor)
        pictures.append(picture)
    if len({tuple(picture.shape) for picture in pictures}) > 1 or min(pictures[0].shape[:2]) < side:
        sizes = sorted({f"{picture.shape[1]}x{picture.shape[0]}" for picture in pictures})
        raise InputError(f"pictures of {', '.join(sizes)}: wanted one size, at least {side}x{side}; give --size")
    whole = torch.stack(pictures).permute(0, 3, 1, 2).float()
    rows, columns = whole.shape[2] // side, whole.shape[3] // side
    patches = nn.functional.unfold(whole[..., : rows * side, : columns * side], side, stride=side).mT - 0.5
    y, x = torch.meshgrid(torch.linspace(-1.0, 1.0, rows), torch.linspace(-1.0, 1.0, columns), indexing="ij")
    place = _waves(torch.stack((x, y), -1).reshape(1, -1, 2)).expand(len(scenes), -1, -1)
    return torch.cat((2.0 * patches, place), -1)


def _point_patches(batch: Points, config: EncoderConfig) -> Tensor:
    """The first points are centres; each is seen with its nearest ones, relative to it."""
    centers = batch.x[:, : config.points]
    near = torch.cdist(centers, batch.x).topk(config.near, largest=False).indices  # [s m near]
    scene = torch.arange(len(batch.x))[:, None, None]
    offsets = (batch.x[scene, near] - centers[:, :, None]).flatten(2)
    distances = (batch.target[scene, near] / WITHIN).clamp(-2.0, 2.0).flatten(2)
    return torch.cat((_waves(centers), 4.0 * offsets, distances), -1)


def _waves(x: Tensor) -> Tensor:
    """Places `[... d]` -> themselves and their sines and cosines, `[... d (1 + 2 FREQUENCIES)]`."""
    angles = (x[..., None] * (2.0 ** torch.arange(FREQUENCIES) * 0.5 * math.pi)).flatten(-2)
    return torch.cat((x, angles.sin(), angles.cos()), -1)


def _features(kind: Kind, config: EncoderConfig) -> int:
    waves = 1 + 2 * FREQUENCIES
    return {"images": 3 * config.patch**2 + 2 * waves, "shapes": 3 * waves + 4 * config.near, "views": 6 * waves + 4}[
        kind
    ]


class Encoder(nn.Module):
    """Observations `[s m features]`, as `observe` gives them, -> codes `[s z]`, each number of spread about 1."""

    def __init__(self, kind: Kind, latent_size: int, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Sequential(
            nn.Linear(_features(kind, config), config.width), nn.GELU(), nn.Linear(config.width, config.width)
        )
        self.tokens = nn.Parameter(torch.randn(config.tokens, config.width))
        self.blocks = nn.Sequential(*(Block(config.width, config.heads) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(config.width)
        self.read = nn.Linear(config.tokens * config.width, latent_size)
        nn.init.normal_(self.read.weight, std=(config.tokens * config.width) ** -0.5)

    def forward(self, observations: Tensor) -> Tensor:
        tokens = torch.cat((self.tokens.expand(len(observations), -1, -1), self.embed(observations)), 1)
        tokens = self.norm(self.blocks(tokens)[:, : len(self.tokens)])
        codes: Tensor = self.read(tokens.flatten(1))
        return codes


class EncoderCodes(CodeSource):
    """Codes that an encoder reads off observations of a family, for `fit.Fit`. On the CPU only."""

    name = "encoder"

    def __init__(self, model: ModelConfig, family: SceneDataset, config: EncoderConfig) -> None:
        super().__init__()
        self.family = family
        self.encoder = Encoder(family.kind, model.latent_size, config)

    def settings(self) -> dict[str, Any]:
        return {"name": self.name, **dataclasses.asdict(self.encoder.config)}

    def codes(
        self, scenes: Tensor, generator: torch.Generator, loss: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        return self.encoder(observe(self.family, scenes, self.encoder.config, generator)), torch.zeros(())


class EncodedModel(nn.Module):
    """A model whose codes come from an encoder. `model` alone is an ordinary one, with codes of the fitted scenes."""

    def __init__(self, config: ModelConfig, names: tuple[str, ...], kind: Kind, encoder: EncoderConfig) -> None:
        super().__init__()
        self.names = names
        self.model = HyperField(config, len(names))
        self.encoder = Encoder(kind, config.latent_size, encoder)

    @torch.no_grad()
    def infer(self, family: SceneDataset, *, seed: int = 0) -> Codes:
        """Codes of scenes that were not fitted, in one forward pass; no gradients.

        Raises:
            InputError: a family of another kind.
        """
        if family.kind != self.model.kind:
            raise InputError(f"encoder: holds {self.model.kind}, the family holds {family.kind}")
        scenes, generator = torch.arange(len(family.names)), torch.Generator().manual_seed(seed)
        return Codes(family.names, self.encoder(observe(family, scenes, self.encoder.config, generator)))


def encoded_fit(
    family: SceneDataset,
    config: ModelConfig,
    encoder: EncoderConfig,
    recipe: TrainConfig,
    *,
    steps: int,
    out: str | Path | None = None,
    seed: int = 0,
    report: Callable[[Progress], None] = lambda progress: None,
) -> EncodedModel:
    """Fit networks and an encoder; no code is a parameter. The model's table then holds what the encoder says.

    Args:
        out: a folder for the run, which `load_run` and all verbs read, with the encoder beside it.

    Raises:
        InputError: a model without a hypernetwork, or a folder that holds a fit already.
    """
    if isinstance(config.generator, Independent):
        raise InputError("Independent: has no networks that an encoder could serve; take another generator")
    if out is not None and (Path(out) / checkpoint.CONFIG).exists():
        raise InputError(f"{out}: holds a fit already; choose another --out")
    torch.manual_seed(seed)
    count = len(family.names)
    found = EncodedModel(config, family.names, family.kind, encoder)
    looking = torch.Generator().manual_seed(seed + 1)

    def bind(local: Tensor) -> tuple[BoundField, Tensor]:
        codes = found.encoder(observe(family, local, encoder, looking))
        return found.model.bind(codes), codes

    groups = {**parameter_groups(found.model), "latents": []}
    groups["networks"] = [*groups["networks"], *found.encoder.parameters()]
    objective = task_of(family.kind).objective(family, config.field, recipe, count)
    work = Optimization(bind, groups, objective, torch.arange(count), seed)
    progress = Progress()
    for step in range(steps):
        progress.fraction = step / steps
        work.step(progress)
        report(progress)
    with torch.no_grad():
        for scenes in torch.arange(count).split(recipe.scenes):
            found.model.latents.codes[scenes] = found.encoder(observe(family, scenes, encoder, looking))
    if out is not None:
        _write(Path(out), found, family, recipe, seed)
    return found


def _write(out: Path, found: EncodedModel, family: SceneDataset, recipe: TrainConfig, seed: int) -> None:
    record = {
        "format": checkpoint.FORMAT,
        "kind": family.kind,
        "scenes": list(family.names),
        "fingerprint": fingerprint(family),
        "model": checkpoint.to_json(found.model.config),
        "recipe": dataclasses.asdict(recipe),
        "fit": {"seed": seed},
        "picture": task_of(family.kind).describe(family),
        "versions": checkpoint.versions(),
        "codes": {"name": EncoderCodes.name, **dataclasses.asdict(found.encoder.config)},
    }
    checkpoint.write_config(out, record)
    checkpoint.write_model(out, found.model)
    tensors = {f"encoder.{name}": value.half().contiguous() for name, value in found.encoder.state_dict().items()}
    checkpoint.write_atomically(out / checkpoint.SOURCE, safetensors.torch.save(tensors))


def load_encoded(path: str | Path) -> EncodedModel:
    """A model with its encoder, from the folder that `encoded_fit` or `fit --by encoder` wrote.

    Raises:
        InputError: a folder without a run or without an encoder.
    """
    run = checkpoint.load_run(path)
    settings = dict(run.config.get("codes") or {})
    if settings.pop("name", None) != EncoderCodes.name or not (run.path / checkpoint.SOURCE).is_file():
        raise InputError(f"{path}: was fitted without an encoder; make such a run with: hyperfields fit --by encoder")
    found = EncodedModel(run.model.config, run.names, run.kind, EncoderConfig(**settings))
    tensors, _ = checkpoint.read_tensors(run.path / checkpoint.SOURCE)
    found.encoder.load_state_dict(part({name: value.float() for name, value in tensors.items()}, "encoder."))
    found.model = run.model
    return found
