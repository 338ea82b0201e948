"""Scenes that a run was not fitted to: quality against bytes, beside files that anybody can write.

A row is a dict: `way`, `wanted` (bytes a scene, None: as many as it takes), `bytes` (found, mean) and `mean` (metrics).
"""

from __future__ import annotations

import io
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyperfields.data import SceneDataset
from hyperfields.evaluation.report import evaluate
from hyperfields.evaluation.tables import text_table
from hyperfields.runs.run import Run
from hyperfields.tasks import Metric, Task
from hyperfields.tasks.metrics import psnr
from hyperfields.training.fit import fit
from hyperfields.training.inference import infer

UNSEEN_SHARE = 0.25  # of the fit's length
BEST, WORST = 100, 1  # quality of a codec with losses


def measure_unseen(
    run: Run, unseen: SceneDataset, generator: str, sizes: Sequence[int] | None, folder: Path, *,
    minutes: float | None, steps: int | None, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """What a comparison says about scenes that a run was not fitted to: `unseen_rows`, and `unseen`, means of their
    codes alone; or `unseen_diverged`.

    Args:
        sizes: bytes to infer within, after codes alone; None for a run of scenes fitted alone: then these are, too.
        minutes, steps: of the fit; these scenes have a quarter of them.
        folder: for files of codes.
    """
    minutes = None if minutes is None else minutes * UNSEEN_SHARE
    steps = None if steps is None else max(int(steps * UNSEEN_SHARE), 1)
    try:
        if sizes is None:
            return {"unseen_rows": [{"way": "alone", **_alone_row(run, unseen, minutes, steps, seed)}]}
        rows = []
        for size in (None, *sizes):
            path = folder / ("unseen.safetensors" if size is None else f"unseen-{size}.safetensors")
            inferred = infer(
                run, unseen, path, bytes_per_scene=size, minutes=minutes, steps=steps, seed=seed, progress=False
            )
            report = evaluate(run, unseen, inferred=inferred)
            found = report["bytes_per_scene"]["marginal"]
            rows.append({"way": generator, "wanted": size, "bytes": found, "mean": report["mean"]})
    except FloatingPointError as error:
        return {"unseen_diverged": str(error)}
    return {"unseen": rows[0]["mean"], "unseen_rows": rows}


def _alone_row(run: Run, unseen: SceneDataset, minutes: float | None, steps: int | None, seed: int) -> dict[str, Any]:
    steps = None if steps is None else max(steps, len(unseen.names))
    config = run.config
    alone = fit(
        unseen, model=config.model, train=config.train, minutes=minutes, steps=steps, individually=True, seed=seed,
        task=config.task, progress=False,
    )  # fmt: skip
    report = evaluate(alone, unseen)
    return {"wanted": None, "bytes": report["bytes_per_scene"]["marginal"], "mean": report["mean"]}


def file_rows(unseen: SceneDataset, task: Task, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Rows of pictures as AVIF, WebP and PNG files, headers counted: at the best quality that keeps to each of `sizes`,
    and without losses. Of other kinds of scenes there are none.
    """
    if task.has_camera or not task.sized:
        return []
    from PIL import Image, features

    references = [unseen.reference(number) for number in range(len(unseen.names))]
    pictures = [picture for picture in references if isinstance(picture, Tensor)]
    images = [Image.fromarray((picture * 255.0).round().to(torch.uint8).numpy()) for picture in pictures]
    known = {"avif": "AVIF 4:4:4", "webp": "WebP"}
    rows = []
    for codec, way in known.items():
        if not features.check(codec):
            continue
        for size in sizes:
            found = [_largest_within(image, codec, size) for image in images]
            rows.append(_file_row(way, size, [each for each in found if each is not None], pictures))
            if None in found:
                rows[-1] |= {"bytes": None, "mean": {"psnr": None}}
    for codec, way in (("webp", "WebP, lossless"), ("png", "PNG")):
        if codec == "png" or features.check(codec):
            settings = {"optimize": True} if codec == "png" else {"lossless": True, "quality": 100, "method": 6}
            rows.append(_file_row(way, None, [_encoded(image, codec, **settings) for image in images], pictures))
    return rows


def _encoded(image: Any, codec: str, **settings: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, codec, **settings)
    return stream.getvalue()


def _with_losses(image: Any, codec: str, quality: int) -> bytes:
    if codec == "avif":
        return _encoded(image, codec, quality=quality, subsampling="4:4:4", speed=0)
    return _encoded(image, codec, quality=quality, method=6)


def _largest_within(image: Any, codec: str, size: int) -> bytes | None:
    """The file of the best quality that takes no more bytes; None where the worst takes more."""
    low, high, best = WORST, BEST, None
    while low <= high:
        middle = (low + high) // 2
        data = _with_losses(image, codec, middle)
        if len(data) <= size:
            best, low = data, middle + 1
        else:
            high = middle - 1
    return best


def _file_row(way: str, wanted: int | None, files: Sequence[bytes], pictures: Sequence[Tensor]) -> dict[str, Any]:
    from PIL import Image

    values = []
    for data, picture in zip(files, pictures, strict=False):
        with Image.open(io.BytesIO(data)) as image:
            decoded = torch.from_numpy(np.array(image.convert("RGB"))).float() / 255.0
        values.append(float(psnr(decoded[None], picture[None])[0]))
    exact = any(value == float("inf") for value in values)
    mean = None if exact or not values else statistics.fmean(values)
    size = statistics.fmean(map(len, files)) if files else None
    return {"way": way, "wanted": wanted, "bytes": size, "exact": exact, "mean": {"psnr": mean}}


def format_unseen(rows: Sequence[dict[str, Any]], metric: Metric) -> str:
    """Rows as a table, by their bytes."""

    def cells() -> Iterator[tuple[str, ...]]:
        for row in sorted(rows, key=lambda row: (row["bytes"] is None, row["bytes"])):
            wanted = "" if row["wanted"] is None else f"{row['wanted']:,}"
            size = "more" if row["bytes"] is None else f"{row['bytes']:,.0f}"
            value = row["mean"].get(metric.name)
            shown = "exact" if row.get("exact") else "n/a" if value is None else metric.format.format(value)
            yield row["way"], wanted, size, shown

    return text_table(("unseen scenes", "bytes wanted", "bytes a scene", metric.heading), list(cells()), rules=False)
