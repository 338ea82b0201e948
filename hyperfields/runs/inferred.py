"""Scenes that were inferred with a run: their codes, what is added to their weights, and the file that holds both."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from hyperfields.codes.expressions import terms
from hyperfields.data.base import shortened
from hyperfields.errors import InputError
from hyperfields.fields import BoundField
from hyperfields.runs import codec
from hyperfields.runs.atomic import require_no_run_file, write_atomically
from hyperfields.runs.codec import read_tensors
from hyperfields.runs.config import FORMAT
from hyperfields.runs.packing import Packing
from hyperfields.runs.run import Run
from hyperfields.runs.scene import Scene, mean_frame, scene_of_sum


@dataclasses.dataclass(frozen=True, repr=False)
class InferredCodes:
    """Inferred scenes: names, codes `[s z]`, and per scene what to add to its weights when they were refined.

    `inferred["van"]` is a scene that can be rendered, meshed and saved; so is `inferred["van - bus"]`, that of a sum of
    codes.

    run: whose networks read the codes.
    residual: `[s ...]` by the name of the weight. std: of the codes `[s z]`, when a distribution was inferred.
    source: facts about the data that they were inferred from, `path` and so on.
    packed: bytes of each scene, when they were inferred within so many; codes and residual are what these unpack to.
    """

    run: Run
    names: tuple[str, ...]
    codes: Tensor
    residual: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    std: Tensor | None = None
    source: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    packed: tuple[bytes, ...] = ()

    def __repr__(self) -> str:
        refined = ", refined" if self.residual else ""
        return f"InferredCodes({shortened(self.names)}; {self.codes.shape[1]} numbers each{refined})"

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    @property
    def bytes_per_scene(self) -> float:
        """What a scene takes beside the run, in a file: what it was packed to, or its numbers at 16 bits each."""
        if self.packed:
            return sum(map(len, self.packed)) / len(self.packed)
        numbers = self.codes.shape[1] + sum(value[0].numel() for value in self.residual.values())
        return 2.0 * (numbers + (0 if self.std is None else self.std.shape[1]))

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def index(self, name: str) -> int:
        """Number of a scene.

        Raises:
            InputError: an unknown name.
        """
        if not isinstance(name, str):
            raise InputError(f"scene {name!r:.60}: wanted a name; inferred scenes know their run")
        if name in self._numbers:
            return self._numbers[name]
        near = difflib.get_close_matches(name, self.names, 3, 0.0)
        raise InputError(f"scene {name!r:.100}: not among the inferred ones; the nearest names are {', '.join(near)}")

    def bind(self, *names: str) -> BoundField:
        """Fields of these scenes as one function of points.

        Raises:
            InputError: an unknown name.
        """
        rows = [self.index(name) for name in names]
        with torch.no_grad():
            residual = {key: value[rows] for key, value in self.residual.items()}
            return self.run.model.bind(self.codes[rows], residual).detach()

    def __getitem__(self, name: str) -> Scene:
        """A scene by its name, its residual included, or by a sum of codes, `A - B + C`.

        Raises:
            InputError: an unknown name, or a sum of scenes that have weights of their own beside their codes.
        """
        if not isinstance(name, str):
            raise InputError(f"scene {name!r:.60}: wanted a name; take inferred[name] for each of several")
        parts = terms(name, self.names)
        if len(parts) > 1 and self.residual:
            raise InputError(
                f"scene {name!r:.100}: is a sum of codes, and these scenes have weights of their own; name one"
            )
        if len(parts) > 1:
            return scene_of_sum(self.run, name, parts, lambda part: self.codes[[self.index(part)]], self.frame_of(name))
        row = self.index(name := parts[0][1])
        field, frame = self.bind(name), _frame(self.source, name)
        return Scene(self.run, name, self.codes[row : row + 1], fitted=False, field=field, frame=frame)

    def frame_of(self, *names: str) -> tuple[float, ...] | None:
        """As `Run.frame_of`."""
        parts = [name for text in names for _, name in terms(text, self.names)]
        return mean_frame(_frame(self.source, name) for name in parts or self.names)

    def sample(self, name: str, samples: int, generator: torch.Generator | None = None) -> Tensor:
        """Codes `[samples z]` of a scene, drawn from its distribution.

        Raises:
            InputError: an unknown name, or codes without a distribution.
        """
        row = self.index(name)
        if self.std is None:
            raise InputError(f'scene {name!r}: has a code and no distribution; infer it with by="posterior"')
        device = self.codes.device if generator is None else generator.device
        noise = torch.randn(samples, self.codes.shape[1], generator=generator, device=device).to(self.codes)
        return self.codes[row] + self.std[row] * noise


def _frame(source: Mapping[str, Any], name: str) -> tuple[float, ...] | None:
    """(scale, centre x y z) of a scene in its file; None where a file of codes does not say it."""
    frames = source.get("frames")
    frame = frames.get(name) if isinstance(frames, Mapping) else None
    if not isinstance(frame, list | tuple) or len(frame) != 4:
        return None
    sound = all(isinstance(value, int | float) and math.isfinite(value) for value in frame)
    return tuple(map(float, frame)) if sound else None


def require_codes_file(path: Path) -> None:
    """InputError unless the suffix is that of a file of codes, and no file of a run is there."""
    require_no_run_file(path)
    if path.suffix.lower() != ".safetensors":
        raise InputError(f"{path}: suffix {path.suffix or '(none)'} cannot hold a file of codes; use .safetensors")


def write_codes(path: Path, inferred: InferredCodes) -> None:
    """Write codes and residuals, packed or at 16 bits, with the names and the run that they belong to.

    Raises:
        InputError: another suffix than .safetensors, or the file cannot be written.
    """
    require_codes_file(path)
    header = {
        "format": str(FORMAT),
        "names": json.dumps(inferred.names),
        "run": inferred.run.digest,
        "family": json.dumps(dict(inferred.source)),
    }
    if inferred.packed:
        together = b"".join(inferred.packed)
        header["checksum"] = str(zlib.crc32(together))
        tensors = {"packed": torch.frombuffer(bytearray(together), dtype=torch.uint8)}
        tensors["sizes"] = torch.tensor(list(map(len, inferred.packed)))
    else:
        tensors = {"codes": inferred.codes}
        if inferred.std is not None:
            tensors["deviation"] = inferred.std
        tensors |= {f"residual.{name}": value for name, value in inferred.residual.items()}
    write_atomically(path, safetensors.torch.save(codec.encode(tensors), header))


def load_codes(path: str | Path, run: Run) -> InferredCodes:
    """Codes written by `infer`.

    Raises:
        InputError: missing, damaged, or of another run.
    """
    stored, header = read_tensors(Path(path))
    if not stored.keys() & {"codes", "packed"} or "names" not in header:
        raise InputError(f"{path}: not a file of codes; make one with: hyperfields infer RUN FAMILY --out {path}")
    if header.get("run") != run.digest:
        raise InputError(f"{path}: its codes belong to another run than {run.label}")
    device = run.model.latents.codes.device
    tensors = {name: value.to(device) for name, value in codec.decode(stored).items()}
    try:
        names, source = tuple(json.loads(header["names"])), json.loads(header.get("family", "{}"))
    except (ValueError, TypeError, RecursionError):
        raise InputError(f"{path}: damaged: its header is not JSON") from None
    if not isinstance(source, dict) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: damaged: its names are not text")
    if "packed" in tensors:
        return unpacked(run, names, _packed(path, tensors, header, len(names)), source)
    shape = (len(names), run.model.config.latent_size)
    std = tensors.get("deviation")
    if tensors["codes"].shape != shape or (std is not None and std.shape != shape):
        raise InputError(f"{path}: damaged: codes are {list(tensors['codes'].shape)}, wanted {list(shape)}")
    if not all(value.is_floating_point() for value in tensors.values()):
        raise InputError(f"{path}: damaged: its tensors are not floating point")
    residual = {
        name.removeprefix("residual."): value for name, value in tensors.items() if name.startswith("residual.")
    }
    _check_residual(path, run, residual, len(names))
    return InferredCodes(run, names, tensors["codes"], residual, std, source)


def unpacked(
    run: Run, names: tuple[str, ...], packed: tuple[bytes, ...], source: Mapping[str, Any] | None = None
) -> InferredCodes:
    """Inferred scenes from the bytes of each."""
    packing = Packing(run.model)
    codes, residuals = zip(*map(packing.unpack, packed), strict=True)
    residual = {name: torch.cat([each[name] for each in residuals]) for name in residuals[0]}
    return InferredCodes(run, names, torch.cat(codes), residual, None, source or {}, packed)


def _packed(
    path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, str], scenes: int
) -> tuple[bytes, ...]:
    """Bytes of each scene of a file.

    Raises:
        InputError: they are not those that were written.
    """
    together, sizes = tensors["packed"], tensors.get("sizes", torch.zeros(0))
    sound = together.dtype == torch.uint8 and together.dim() == 1 and sizes.dtype == torch.int64 and scenes > 0
    if not sound or sizes.shape != (scenes,) or bool((sizes < 0).any()) or int(sizes.sum()) != len(together):
        raise InputError(f"{path}: damaged: its bytes are not those of {scenes} scenes")
    data = together.cpu().numpy().tobytes()
    if header.get("checksum") != str(zlib.crc32(data)):
        raise InputError(f"{path}: damaged: its bytes have another checksum than its header says")
    ends = sizes.cumsum(0).tolist()
    return tuple(data[end - size : end] for end, size in zip(ends, sizes.tolist(), strict=True))


def _check_residual(path: str | Path, run: Run, residual: Mapping[str, Tensor], scenes: int) -> None:
    spec = run.model.config.field.spec
    for name, value in residual.items():
        entry = spec.get(name)
        if entry is None or tuple(value.shape) != (scenes, *entry.shape):
            raise InputError(f"{path}: damaged: residual {name!r} is {list(value.shape)}, which does not fit the run")
