"""The latent space of a run: its axes, what is near a scene, samples, and pictures of all three on one sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hyperfields.codes.latent_map import LatentMap, latent_map
from hyperfields.errors import InputError
from hyperfields.evaluation.tables import text_table
from hyperfields.runs.cameras import native_size, orbit_cameras
from hyperfields.runs.run import Run
from hyperfields.runs.scene import Scene

AXES, SAMPLES, NEIGHBOURS = 5, 8, 5
DEVIATIONS = (-2.0, -1.0, 0.0, 1.0, 2.0)  # that an axis is shown at
WIDTH = 0.5  # of a component of the mixture, over the way to its neighbours
NEAR = 3  # neighbours that a component reaches to
TILE = 96  # pixels of the longer side of a picture on the sheet
GAP = 4  # pixels round each


def describe_latents(
    run: Run, *, axes: int = AXES, neighbours: int = NEIGHBOURS, samples: int = SAMPLES, seed: int = 0,
    scene: Scene | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The latent space of a run's codes.

    Args:
        axes: principal axes, largest first, at most all.
        neighbours: of `scene`, at most all.
        samples: new codes, see `draw_codes`.
        scene: default the one that is nearest to the mean.

    Returns:
        What JSON can hold: `axes` [{`deviation`, `share` of the variance, `least` and `most`, the scenes at its ends}],
        `scene`, `neighbours` [{`scene`, `distance`}], of codes, `samples` [{`nearest`, `distance`, `usual`: the mean
        distance of fitted scenes to their nearest}], `seed`.

    Raises:
        InputError: one scene only, or counts below 1.
    """
    if len(run.names) < 2:
        raise InputError(f"{run.label}: holds one scene; its latent space is a point")
    for name, count in (("--axes", axes), ("--neighbours", neighbours), ("--samples", samples)):
        if count < 1:
            raise InputError(f"{name} {count}: wanted at least 1")
    codes = _codes(run)
    space = latent_map(codes)
    if scene is None:
        scene = run[int((codes - codes.mean(0)).norm(dim=-1).argmin())]
    variance = space.std.square()
    rows = []
    for axis in range(min(axes, len(space.std))):
        along = space.coordinates[:, axis]
        rows.append({
            "deviation": float(space.std[axis]), "share": float(variance[axis] / variance.sum()),
            "least": run.names[int(along.argmin())], "most": run.names[int(along.argmax())],
        })  # fmt: skip
    apart = torch.cdist(codes, codes)
    apart.fill_diagonal_(math.inf)
    drawn = draw_codes(codes, samples, torch.Generator().manual_seed(seed))
    return {
        "axes": rows,
        "scene": scene.name,
        "neighbours": [
            {"scene": name, "distance": distance}
            for name, distance in nearest_scenes(run, scene.code, len(run.names))
            if name != scene.name
        ][:neighbours],
        "samples": [
            {"nearest": name, "distance": distance, "usual": float(apart.amin(1).mean())}
            for code in drawn
            for name, distance in nearest_scenes(run, code[None], 1)
        ],
        "seed": seed,
    }


def nearest_scenes(run: Run, code: Tensor, count: int) -> list[tuple[str, float]]:
    """Fitted scenes whose codes are nearest to a code `[1 z]`, with their distances."""
    apart = (_codes(run) - code.cpu().float()).norm(dim=-1)
    distances, scenes = apart.topk(min(count, len(apart)), largest=False)
    return [(run.names[i], d) for i, d in zip(scenes.tolist(), distances.tolist(), strict=True)]


def draw_codes(codes: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """New codes `[count z]` from a mixture of Gaussians fitted to codes `[s z]`: one a scene, along the ways to its
    nearest scenes and half as wide as these are long.

    A single Gaussian is wide where no scene is. Source: Vincent and Bengio 2002, "Manifold Parzen windows".
    """
    near = min(NEAR, len(codes) - 1)
    first = torch.randint(len(codes), (count,), generator=generator)
    noise = torch.randn(count, near, generator=generator)
    closest = torch.cdist(codes[first], codes).topk(near + 1, largest=False).indices[:, 1:]
    ways = codes[closest] - codes[first, None]  # [count near z]
    return codes[first] + WIDTH / math.sqrt(near) * (noise[..., None] * ways).sum(1)


def _codes(run: Run, *names: str) -> Tensor:
    """Codes `[s z]` of scenes, by default of all."""
    return run.codes(*(names or run.names)).float().cpu()


def format_latents(report: dict[str, Any]) -> str:
    """A report of `describe_latents` for a terminal."""
    share, axes = 0.0, []
    for number, axis in enumerate(report["axes"]):
        share += axis["share"]
        axes.append((
            str(number + 1), f"{axis['deviation']:.3f}", f"{100.0 * axis['share']:.1f} %", f"{100.0 * share:.1f} %",
            axis["least"], axis["most"],
        ))  # fmt: skip
    near = [(row["scene"], f"{row['distance']:.3f}") for row in report["neighbours"]]
    drawn = [
        (str(number + 1), row["nearest"], f"{row['distance']:.3f}", f"{row['distance'] / max(row['usual'], 1e-12):.2f}")
        for number, row in enumerate(report["samples"])
    ]
    return "\n\n".join((
        text_table(("axis", "deviation", "share", "together", "from", "to"), axes),
        text_table((f"near {report['scene']}", "distance"), near),
        text_table(("sample", "nearest scene", "distance", "over that of scenes"), drawn),
    ))  # fmt: skip


@torch.no_grad()
def contact_sheet(
    run: Run, report: dict[str, Any], scene: Scene, *, progress: Callable[[int, int], None] | None = None
) -> Tensor:
    """Pictures `[h w 3]` on white of what a report of `describe_latents` tells: a row an axis, at -2 to 2 standard
    deviations from the mean; the scene with its neighbours; samples, and below each its nearest scene.
    """
    codes = _codes(run)
    space = latent_map(codes)
    drawn = draw_codes(codes, len(report["samples"]), torch.Generator().manual_seed(report["seed"]))
    rows = [_axis(space, axis) for axis in range(len(report["axes"]))]
    rows.append(torch.cat((scene.code.cpu(), _codes(run, *(row["scene"] for row in report["neighbours"])))))
    rows += [drawn, _codes(run, *(row["nearest"] for row in report["samples"]))]
    height, width = native_size(run)
    scale = max(height, width) / TILE
    size = max(round(height / scale), 1), max(round(width / scale), 1)
    camera = orbit_cameras(run, 1, size)[0]
    total, done, lines = sum(map(len, rows)), 0, []
    for row in rows:
        tiles = []
        for code in row.to(run.model.latents.codes):
            tiles.append(run.task.picture(run.model.bind(code[None]).detach(), camera, size).cpu())
            done += 1
            if progress is not None:
                progress(done, total)
        lines.append(tiles)
    return _grid(lines)


def _axis(space: LatentMap, axis: int) -> Tensor:
    """Codes along an axis."""
    places = torch.zeros(len(DEVIATIONS), len(space.std))
    places[:, axis] = torch.tensor(DEVIATIONS)
    return torch.cat([space.code(place) for place in places])


def _grid(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    """Pictures of one size in rows, with white between them."""
    padded = [[torch.nn.functional.pad(tile, (0, 0, GAP, GAP, GAP, GAP), value=1.0) for tile in row] for row in rows]
    lines = [torch.cat(list(row), 1) for row in padded]
    width = max(line.shape[1] for line in lines)
    return torch.cat([torch.nn.functional.pad(line, (0, 0, 0, width - line.shape[1]), value=1.0) for line in lines])
