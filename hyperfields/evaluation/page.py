"""A page about a measurement: one file with its pictures, for people who judge a result."""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hyperfields.configs import to_json
from hyperfields.data import SceneDataset
from hyperfields.evaluation.charts import bars, curve
from hyperfields.evaluation.protocols import format_protocol
from hyperfields.evaluation.report import learned_of, rank, scene_places
from hyperfields.ops.threads import one_torch_thread
from hyperfields.rendering.pictures import MAGMA, colors_of
from hyperfields.runs.atomic import require_suffix, write_atomically
from hyperfields.runs.config import DataSource
from hyperfields.runs.images import as_bytes
from hyperfields.runs.inferred import InferredCodes
from hyperfields.runs.run import Run
from hyperfields.tasks import Metric
from hyperfields.tasks.base import Pair

TEMPLATE = Path(__file__).with_name("page.html")
SCENES = 12  # that are shown; of more, some evenly spread from the worst to the best
VIEWS, VIEWS_ALONE = 3, 6  # of each scene; of a scene without others
ROWS = 2000  # of the table of views
PIXELS = 16_000_000  # of all pictures together: larger ones are shown smaller
SMALL = 128  # pixels along a picture whose pixels are shown as squares
EXACT = 128 * 128  # pixels of a picture that is stored without losses
SCALES = (0.05, 0.1, 0.2, 0.5, 1.0)  # largest errors of the colour map
GREY = 0.75  # of pixels that do not count


class _Row(NamedTuple):
    """A truth with what a scene gives."""

    about: str  # HTML
    pair: Pair


@one_torch_thread()
@torch.no_grad()
def write_page(
    path: Path,
    run: Run,
    data: SceneDataset,
    report: Mapping[str, Any],
    *,
    inferred: InferredCodes | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> None:
    """Write a report of `evaluate` as one HTML file: numbers, settings, and truth, result, error and depth.

    It needs no network and no other file. Of each scene the worst, the median and the best view are shown.

    Args:
        data: what was measured; inferred: the scenes, where they are not those of the run.
        progress: called as (done, total, name) after each scene.

    Raises:
        InputError: another suffix than .html, or a file that cannot be written.
    """
    require_suffix(path, (".html",), "a page")
    metrics, scenes = run.task.metrics, report["scenes"]
    measured = [name for name in scenes if not run.task.has_splits or report["per_view"].get(name)]
    names = sorted(measured, key=lambda name: rank(scenes[name], metrics[0]))
    chosen = [names[place] for place in spread(len(names), SCENES)]
    places = scene_places(run, data, chosen)
    shown: dict[str, list[_Row]] = {}
    for done, name in enumerate(chosen):
        bound = (run if inferred is None else inferred).bind(name)
        views = sorted(report["per_view"].get(name, []), key=lambda view: rank(view, metrics[0]))
        picked = spread(len(views), VIEWS if len(names) > 1 else VIEWS_ALONE)
        numbers = [views[place]["view"] for place in picked]
        pairs = run.task.pairs(bound, data, places[name], report["split"] or "test", numbers, **learned_of(run))
        labels = [_about(views[place], _label(place, len(views)), metrics) for place in picked] or [""] * len(pairs)
        shown[name] = [_Row(label, pair) for label, pair in zip(labels, pairs, strict=True)]
        if progress is not None:
            progress(done + 1, len(chosen), name)
    body = "\n".join(
        [
            *_head(run, report, metrics),
            *_charts(run, report, metrics),
            *_tables(report, metrics, set(chosen)),
            *_scenes(shown, report, metrics),
            *_settings(run, report),
        ]
    )
    title = html.escape(f"{_name(run)}: {report['kind']}")
    page = TEMPLATE.read_text(encoding="utf-8").replace("TITLE", title, 1).replace("<!--BODY-->", body, 1)
    write_atomically(path, page.encode())


def _name(run: Run) -> str:
    """The folder of a run, without where it is: pages are passed on."""
    return run.label if run.path is None else run.path.resolve().name


def spread(count: int, most: int) -> list[int]:
    """Up to `most` of `count` numbers from 0 on, evenly spread, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def _label(place: int, count: int) -> str:
    if place in (0, count - 1):
        return "worst view" if place == 0 and count > 1 else "best view" if count > 1 else "its view"
    share = place / (count - 1)
    return (
        "median view" if abs(share - 0.5) <= 0.5 / (count - 1) + 1e-9 else f"view better than {share:.0%} of the others"
    )


def _value(row: Mapping[str, Any], metric: Metric) -> str:
    value = row.get(metric.name)
    return "n/a" if value is None else metric.format.format(value)


def _values(row: Mapping[str, Any], metrics: Sequence[Metric]) -> str:
    return ", ".join(
        f"{html.escape(metric.heading)} {_value(row, metric)}" for metric in metrics if row.get(metric.name) is not None
    )


def _about(view: Mapping[str, Any], label: str, metrics: Sequence[Metric]) -> str:
    name = html.escape(str(view["name"] or f"view {view['view']}"))
    return f"<b>{label}</b>, {name}: {_values(view, metrics)}"


def counted(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


# Parts ------------------------------------------------------------------------------------------------------


def _head(run: Run, report: Mapping[str, Any], metrics: Sequence[Metric]) -> list[str]:
    count, split = len(report["scenes"]), report["split"]
    views = sum(map(len, report["per_view"].values()))
    what = f"{counted(count, 'scene')} ({report['kind']})"
    if views:
        what += f", {counted(views, 'view')} of the split {split}"
    tiles = []
    for metric in metrics:
        std = (report.get("deviation") or {}).get(metric.name)
        spread_text = "" if std is None else f" <small>&plusmn; {metric.format.format(std)}</small>"
        better = "more is better" if metric.higher_is_better else "less is better"
        tiles.append((f"{_value(report['mean'], metric)}{spread_text}", f"{html.escape(metric.heading)}, {better}"))
    sizes, seconds = report["bytes_per_scene"], report["fit_seconds"]
    if sizes["amortised"] is not None:
        tiles.append((f"{sizes['amortised'] / 1e3:,.1f}", "kB a scene, all counted"))
    if count > 1 or sizes["amortised"] is None:
        tiles.append((f"{sizes['marginal'] / 1e3:,.1f}", "kB for one more scene"))
    if seconds is not None:
        tiles.append((f"{seconds:,.0f}", "seconds of fitting"))
    protocol = format_protocol(dict(report), metrics).splitlines()
    return [
        f"<h1>{html.escape(_name(run))}</h1>",
        f'<p class="dim">{html.escape(what)}; mean of views, then of scenes</p>'
        if views
        else f'<p class="dim">{html.escape(what)}; mean of scenes</p>',
        *(f"<p>{html.escape(line)}</p>" for line in protocol),
        '<div class="tiles">',
        *(f'<div class="tile"><b>{value}</b><small>{name}</small></div>' for value, name in tiles),
        "</div>",
    ]


def _charts(run: Run, report: Mapping[str, Any], metrics: Sequence[Metric]) -> list[str]:
    """Where values lie, and how they came along the fit."""
    metric, drawn = metrics[0], []
    views = [view.get(metric.name) for rows in report["per_view"].values() for view in rows]
    values, what = (views, "pictures") if views else ([row[metric.name] for row in report["scenes"].values()], "scenes")
    known = [value for value in values if value is not None]
    if len(known) > 3:
        drawn.append(bars(known, f"{metric.heading} of {len(known):,} {what}", metric.format))
    told = run.summary.get("curve")
    points = [point for point in told if _is_point(point)] if isinstance(told, list) else []
    if len(points) > 1 and "inference" not in report:
        drawn.append(curve([(point[1], point[2]) for point in points], "held-out psnr [dB] along the fit"))
    return ['<div class="charts">', *(f"<div>{each}</div>" for each in drawn), "</div>"] if drawn else []


def _is_point(point: Any) -> bool:
    numbers = isinstance(point, list | tuple) and len(point) == 3 and all(isinstance(v, int | float) for v in point)
    return numbers and all(math.isfinite(v) for v in point) and point[1] > 0.0


def _tables(report: Mapping[str, Any], metrics: Sequence[Metric], shown: set[str]) -> list[str]:
    """All scenes, of which those that are shown are links, and all views."""
    numbers = {name: number for number, name in enumerate(report["scenes"])}

    def linked(name: str) -> str:
        text = html.escape(name)
        return f'<a href="#scene{numbers[name]}">{text}</a>' if name in shown else text

    lines: list[str] = []
    if len(numbers) > 1:
        scenes = [([linked(name)], row) for name, row in report["scenes"].items()]
        lines += ["<h2>Scenes</h2>", *_table(["scene"], scenes, report["mean"], metrics)]
    views = [
        ([linked(name), html.escape(str(view["name"] or view["view"]))], view)
        for name, rows in report["per_view"].items()
        for view in rows
    ]
    if views:
        left_out = f", the first {ROWS:,} of them" if len(views) > ROWS else ""
        table = _table(["scene", "view"], views[:ROWS], report["mean"], metrics)
        lines += [f"<details><summary>{counted(len(views), 'view')}{left_out}</summary>", *table, "</details>"]
    return lines


def _table(
    names: Sequence[str],
    rows: Sequence[tuple[Sequence[str], Mapping[str, Any]]],
    mean: Mapping[str, Any],
    metrics: Sequence[Metric],
) -> list[str]:
    """Rows of (cells as HTML, metrics)."""

    def cells(row: Mapping[str, Any]) -> str:
        return "".join(
            f'<td data-value="{"" if row[metric.name] is None else row[metric.name]}">{_value(row, metric)}</td>'
            for metric in metrics
        )

    heads = "".join(f"<th>{html.escape(name)}</th>" for name in (*names, *(metric.heading for metric in metrics)))
    empty = "<td></td>" * (len(names) - 1)
    return [
        f'<div class="table"><table><thead><tr>{heads}</tr></thead><tbody>',
        *(f"<tr>{''.join(f'<td>{cell}</td>' for cell in first)}{cells(row)}</tr>" for first, row in rows),
        f"</tbody><tfoot><tr><td>mean</td>{empty}{cells(mean)}</tr></tfoot></table></div>",
    ]


def _scenes(shown: Mapping[str, list[_Row]], report: Mapping[str, Any], metrics: Sequence[Metric]) -> list[str]:
    pairs = [row.pair for rows in shown.values() for row in rows]
    if not pairs:
        return []
    errors = [error_of(pair) for pair in pairs]
    seen = torch.cat([error.flatten() for error in errors])
    high = float(seen.nan_to_num(0.0).kthvalue(max(int(0.995 * len(seen)), 1)).values)
    scale = next((scale for scale in SCALES if scale >= high), SCALES[-1])
    total = sum(pair.truth.shape[0] * pair.truth.shape[1] * (3 if pair.depth is None else 4) for pair in pairs)
    shrink = min(1.0, math.sqrt(PIXELS / total))
    stops = ", ".join(f"rgb({', '.join(str(round(255 * value)) for value in color)})" for color in MAGMA)
    several = len(report["scenes"]) > len(shown)
    lines = [
        "<h2>Truth, result and error</h2>",
        '<p class="dim">error: root mean square over the colour channels, 0'
        f'<span class="bar" style="background: linear-gradient(to right, {stops})"></span>{scale:g} and more of the '
        f"range of colours, for all pictures alike{'; grey: not measured' if _masked(pairs) else ''}"
        f"{'; depth: near is bright' if pairs[0].depth is not None else ''}"
        f"{f'; pictures are shown at {shrink:.0%} of their size' if shrink < 1.0 else ''}"
        ". A click on a picture lays it over the truth.</p>",
    ]
    if several:
        lines.append(
            f'<p class="dim">{len(shown)} of {len(report["scenes"]):,} scenes, evenly spread from the worst to the '
            "best</p>"
        )
    numbers, place = {name: number for number, name in enumerate(report["scenes"])}, 0
    for name, rows in shown.items():
        lines.append(f'<h2 id="scene{numbers[name]}">{html.escape(name)}</h2>')
        lines.append(f'<p class="dim">{_values(report["scenes"][name], metrics)}</p>')
        side = 160 if len(shown) > 1 and max(row.pair.truth.shape[1] for row in rows) <= SMALL else 300
        lines.append(f'<div class="rows" style="--side: {side}px">')
        for row in rows:
            pair, error = row.pair, errors[place]
            place += 1
            pictures = {"truth": pair.truth, "result": pair.picture, "error": error_colors(error, scale)}
            if pair.depth is not None:
                pictures["depth"] = pair.depth
            lines.append(
                f'<div class="row"><p>{row.about}</p><div class="pictures" style="--columns: {len(pictures)}">'
            )
            for what, picture in pictures.items():
                small = ' class="small"' if picture.shape[1] <= SMALL else ""
                lines.append(
                    f'<figure><img{small} alt="{what}" src="{embedded(picture, shrink)}" '
                    f'width="{picture.shape[1]}" height="{picture.shape[0]}"><figcaption>{what}</figcaption></figure>'
                )
            lines.append("</div></div>")
        lines.append("</div>")
    return lines


def _masked(pairs: Sequence[Pair]) -> bool:
    return any(pair.counting is not None for pair in pairs)


def _settings(run: Run, report: Mapping[str, Any]) -> list[str]:
    config, fit = run.config, run.config.fit
    facts: dict[str, Any] = {
        "generator": f"{report['generator']}{' (each scene alone)' if report['individually'] else ''}",
        "parameters": f"{report['parameters']:,}",
        "numbers of a code": config.model.latent_size,
        "preset": fit.preset,
        "length": f"{fit.steps:,} steps" if fit.steps is not None else f"{fit.minutes:g} minutes",
        "seed": fit.seed,
        "codes by": "descent" if config.codes is None else type(config.codes).__name__,
        "picture size": "x".join(map(str, config.picture["size"])) if "size" in config.picture else None,
        "data": "; ".join(map(_source, config.sources)),
        "inference": json.dumps(report["inference"]) if "inference" in report else None,
        "peak memory of the fit": None
        if report["peak_memory_bytes"] is None
        else f"{report['peak_memory_bytes'] / 1e6:,.0f} MB",
        "device": f"{config.device}, {config.precision}",
        "versions": ", ".join(f"{name} {version}" for name, version in config.versions.items()),
    }
    told = {name: value for name, value in facts.items() if value not in (None, "")}
    whole = {"model": to_json(config.model), "train": to_json(config.train), "fit": to_json(fit)}
    return [
        "<h2>Settings of the run</h2><dl>",
        *(f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd>" for name, value in told.items()),
        "</dl>",
        *(f'<p class="dim">note: {html.escape(note)}</p>' for note in report["notes"]),
        f"<details><summary>all of them</summary><pre>{html.escape(json.dumps(whole, indent=1))}</pre></details>",
    ]


def _source(source: DataSource) -> str:
    split = f", split {source.split}" if source.split else ""
    return f"{Path(source.path).name}, {counted(len(source.scenes), 'scene')}{split}"


# Pictures ---------------------------------------------------------------------------------------------------


def error_of(pair: Pair) -> Tensor:
    """Root mean square over the channels `[h w]` of a picture's difference from the truth; nan where none counts."""
    error = (pair.picture - pair.truth).square().mean(-1).sqrt()
    return error if pair.counting is None else error.masked_fill(~pair.counting, math.nan)


def error_colors(error: Tensor, scale: float) -> Tensor:
    """Errors `[h w]` as colours `[h w 3]` of magma, which is even to the eye; `scale` and more is its brightest."""
    colors = colors_of((error / scale).nan_to_num(0.0).clamp(0.0, 1.0), MAGMA)
    return torch.where(error.isnan()[..., None], GREY, colors)


def embedded(image: Tensor, shrink: float = 1.0) -> str:
    """A picture `[h w 3]` in [0, 1] as a data URI; smaller by the factor `shrink`."""
    from PIL import Image, features

    picture = Image.fromarray(as_bytes(image))
    if shrink < 1.0:
        sides = (max(round(side * shrink), 1) for side in picture.size)
        picture = picture.resize(tuple(sides), Image.Resampling.LANCZOS)  # type: ignore[arg-type]
    stored = io.BytesIO()
    kind = "webp" if features.check("webp") else "jpeg"
    exact = kind == "webp" and picture.width * picture.height <= EXACT
    picture.save(stored, kind.upper(), **({"lossless": True} if exact else {"quality": 90}))
    return f"data:image/{kind};base64,{base64.b64encode(stored.getvalue()).decode()}"
