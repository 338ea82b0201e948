"""The verb `latents`: what a run's latent space looks like."""

from __future__ import annotations

from hyperfields.cli.common import frames_shown, load, write_json
from hyperfields.cli.options import Count, File, RunPath, SceneName


def latents(
    run: RunPath,
    *,
    scene: SceneName = None,
    axes: Count = None,
    neighbours: Count = None,
    samples: Count = None,
    seed: Count = None,
    sheet: File = None,
    out: File = None,
) -> None:
    """Show a run's latent space: principal axes, neighbours of a scene, samples, as tables and a sheet of pictures.

    $ hyperfields latents runs/cars
    $ hyperfields latents runs/cars --scene bus --sheet latents.png
    $ hyperfields latents runs/cars --samples 16 --seed 1 --out latents.json

    Args:
        scene: whose neighbours are looked for, or a sum of codes, "A - B + C"; default: the one nearest to the mean.
        axes: number of principal axes; default: 5.
        neighbours: number of neighbours; default: 5.
        samples: number of new codes from a mixture of Gaussians fitted to the codes; default: 8.
        seed: of the samples; default: 0.
        sheet: picture to write, .png, .jpg or .webp: a row an axis, at -2 to 2 standard deviations; the scene and its
            neighbours; the samples, and below each the fitted scene that is nearest to it.
        out: JSON file to write all numbers to.
    """
    from hyperfields.evaluation.latents import (
        AXES,
        NEIGHBOURS,
        SAMPLES,
        contact_sheet,
        describe_latents,
        format_latents,
    )
    from hyperfields.runs.atomic import require_suffix
    from hyperfields.runs.images import IMAGE_SUFFIXES, write_image
    from hyperfields.training.progress import Meter

    if sheet is not None:
        require_suffix(sheet, IMAGE_SUFFIXES, "a sheet")
    if out is not None:
        require_suffix(out, (".json",), "a report")
    loaded = load(run)
    report = describe_latents(
        loaded,
        axes=AXES if axes is None else axes,
        neighbours=NEIGHBOURS if neighbours is None else neighbours,
        samples=SAMPLES if samples is None else samples,
        seed=seed or 0,
        scene=None if scene is None else loaded[scene],
    )
    print(format_latents(report))
    if out is not None:
        write_json(out, report)
        print(f"wrote {out}")
    if sheet is not None:
        with Meter("latents") as meter:
            picture = contact_sheet(loaded, report, loaded[report["scene"]], progress=frames_shown(meter))
        write_image(sheet, picture)
        print(f"wrote {sheet}")
