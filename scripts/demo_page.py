"""Pages of scripts/demo.py: the pictures beside their truth, and the page that holds everything."""

from __future__ import annotations

import base64
import dataclasses
import html
import json
import math
import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperfields.cameras import Camera
from hyperfields.data import Mesh
from hyperfields.runs.cameras import orbit_cameras
from hyperfields.runs.images import write_image
from hyperfields.runs.morphs import Walk
from hyperfields.runs.run import Run, load_run
from hyperfields.runs.timing import timed_places
from hyperfields.scenes import open_family
from hyperfields.tasks import render_picture
from hyperfields.tasks.mesh_picture import mesh_picture
from hyperfields.viewer.reference import photograph_picture

SAMPLES = Path("scenes/samples")
SHAPE_SIZE = (200, 240)  # of a shape beside its truth


@dataclasses.dataclass(frozen=True)
class Part:
    """One family of the demo, and the commands that are typed for it."""

    name: str  # of its folder of samples
    title: str
    about: str
    minutes: float
    compared: tuple[str, ...]  # scenes shown beside their truth
    walk: tuple[str, ...]  # scenes that a path in latent space goes through
    walk_options: tuple[str, ...]
    turns: tuple[tuple[str, str], ...] = ()  # (scene, channel) of each orbit

    def fit(self, out: Path) -> list[str]:
        run = str(out / self.name)
        return ["fit", str(SAMPLES / self.name), "--out", run, "--minutes", f"{self.minutes:g}"]

    def rest(self, out: Path) -> list[list[str]]:
        """The longest first, as two run at a time."""
        run = str(out / self.name)
        commands = [["eval", run, "--out", f"{run}.json"]]
        commands += [["interpolate", run, *self.walk, "--out", f"{run}_walk.gif", *self.walk_options]]
        for scene, channel in self.turns:
            options = ["--orbit", "32", "--size", "160x192", "--channel", channel]
            commands += [["render", run, "--scene", scene, "--out", f"{run}_{scene}_{channel}.gif", *options]]
        return commands


# Pictures -------------------------------------------------------------------------------------------------


def beside_truth(run: Run, part: Part) -> list[tuple[str, Tensor, Tensor]]:
    """(name, truth, result) of some scenes, from cameras that were not fitted to."""
    data = open_family(SAMPLES / part.name)
    pairs = []
    for name in part.compared:
        truth, scene = data.reference(data.names.index(name)), run[name]
        if isinstance(truth, Mesh):
            camera = orbit_cameras(run, 1, SHAPE_SIZE)[0]
            picture = mesh_picture(truth, camera, SHAPE_SIZE, supersample=run.task.supersample)
            pairs.append((name, picture, scene.render(camera)))
        elif not isinstance(truth, Tensor):
            for view in truth[:: max(len(truth) // 2, 1)][:2]:
                pairs.append((name, photograph_picture(view, 1.0), scene.render(view.camera)))
        else:
            pairs.append((name, truth, scene.render(size=(truth.shape[0], truth.shape[1]))))
    return pairs


def write_picture(path: Path, out: Path, parts: Sequence[Part], columns: int = 10, side: int = 160) -> None:
    """The README's picture: walks over emoji and over shapes, and novel views of cars, two of each."""
    rows = []
    for part in parts:
        run = load_run(out / part.name)
        walk = Walk([run[name] for name in part.walk[:4]])
        fields = [walk.at(place) for place in timed_places(walk, columns)]
        cameras = orbit_cameras(run, 1, (side, side)) * columns
        if run.kind == "views":
            names = list(dict.fromkeys((*part.walk, *part.compared)))[: columns // 2]
            fields = [run[name].field for name in names for _ in range(2)]
            around = orbit_cameras(run, columns, (side, side))
            cameras = [around[3 * number % columns] for number in range(columns)]
        tiles = [
            render_picture(field, closer(camera), (side, side), supersample=2)
            for field, camera in zip(fields, cameras, strict=True)
        ]
        row = torch.cat(tiles, 1)
        margin = 0 if run.kind == "images" else side // 10  # cars are wider than high
        rows += [row[margin : side - margin], torch.ones(side // 16, row.shape[1], 3)]
    write_image(path, torch.cat(rows[:-1], 0))


def closer(camera: Camera, factor: float = 1.12) -> Camera:
    """The same camera with a longer lens."""
    return dataclasses.replace(camera, fx=camera.fx * factor, fy=camera.fy * factor)


# The page -------------------------------------------------------------------------------------------------

METRICS = (
    ("psnr", "PSNR", "{:.1f} dB"), ("ssim", "SSIM", "{:.3f}"), ("lpips_alex", "LPIPS", "{:.3f}"),
    ("iou", "IoU", "{:.3f}"), ("surface_distance", "surface distance / side", "{:.4f}"),
    ("f_score", "F-score at 1 %", "{:.3f}"), ("normal_consistency", "normal consistency", "{:.3f}"),
)  # fmt: skip


def write_page(out: Path, parts: Sequence[Part], seconds: Callable[[], float]) -> Path:
    """`out`/index.html, which needs no other file."""
    reports = {part.name: json.loads((out / f"{part.name}.json").read_text()) for part in parts}
    sections = "\n".join(section(out, part, reports[part.name]) for part in parts)
    versions = load_run(out / parts[0].name).config.versions
    values = {
        "SECTIONS": sections,
        "TABLE": table(parts, reports),
        "SECONDS": f"{seconds():.0f}",
        "MACHINE": f"{os.cpu_count()} CPU cores, Python {versions['python']}, torch {versions['torch']}",
    }
    text = PAGE
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    (out / "index.html").write_text(text, encoding="utf-8")
    return out / "index.html"


def section(out: Path, part: Part, report: dict[str, Any]) -> str:
    run = load_run(out / part.name)
    pairs = ""
    for number, (name, truth, result) in enumerate(beside_truth(run, part)):
        files = [out / f"{part.name}_{number}_{which}.png" for which in ("truth", "result")]
        for file, image in zip(files, (truth, result), strict=True):
            write_image(file, image)
        both = "".join(picture(file, f"{name}, {file.stem.split('_')[-1]}") for file in files)
        pairs += figure(f'<div class="pair">{both}</div>', name)
    walk = figure(picture(out / f"{part.name}_walk.gif", "walk"), "A walk through latent space")
    turns = "".join(
        figure(
            picture(out / f"{part.name}_{scene}_{channel}.gif", scene),
            scene if channel == "rgb" else f"{scene}, {channel}",
        )
        for scene, channel in part.turns
    )
    typed = "\n".join(shlex.join(["hyperfields", *words]) for words in (part.fit(out), *part.rest(out)))
    chips = "".join(f"<li><b>{value}</b> {label}</li>" for label, value in facts(report)[:6])
    left = "a test view" if run.kind == "views" else "the truth"
    return SECTION.format(
        title=part.title, about=html.escape(part.about), chips=chips, walk=walk, kind=run.kind, left=left,
        turns=turns and f'<div class="turns">{turns}</div>', pairs=pairs, typed=html.escape(typed),
    )  # fmt: skip


def facts(report: dict[str, Any]) -> list[tuple[str, str]]:
    """(label, value) of what was measured and what it cost."""
    mean, size = report["mean"], report["bytes_per_scene"]
    measured = [(label, form.format(mean[key])) for key, label, form in METRICS if mean.get(key) is not None]
    return [
        *measured[:2],
        ("a scene, networks included", f"{size['amortised'] / 1e3:.1f} kB"),
        ("for one more scene", f"{size['marginal']} bytes"),
        ("of fitting", f"{report['fit_seconds']:.0f} s"),
        *measured[2:],
        ("numbers in all", f"{report['parameters']:,}"),
    ]


def table(parts: Sequence[Part], reports: dict[str, Any]) -> str:
    rows = ""
    for part in parts:
        report = reports[part.name]
        means = [
            f"{label} {form.format(report['mean'][key])}"
            for key, label, form in METRICS
            if report["mean"].get(key) is not None
        ]
        worst_key = "psnr" if "psnr" in report["mean"] else "iou"
        worst = min(scene[worst_key] or math.inf for scene in report["scenes"].values())
        size = report["bytes_per_scene"]
        cells = [
            f"{part.title}<br><small>{part.name}</small>", str(len(report["scenes"])), "<br>".join(means),
            f"{worst:.3g}", f"{size['amortised']:,.0f}", f"{size['marginal']:,}", f"{report['parameters']:,}",
            f"{report['fit_seconds']:.0f}",
        ]  # fmt: skip
        rows += "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>\n"
    return rows


def figure(inside: str, caption: str) -> str:
    return f"<figure>{inside}<figcaption>{html.escape(caption)}</figcaption></figure>"


def picture(path: Path, text: str) -> str:
    """An <img> with the file in it."""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{html.escape(text)}" src="data:image/{path.suffix[1:]};base64,{data}">'


SECTION = """<section class="{kind}">
<h2>{title}</h2><p class="about">{about}</p><ul class="chips">{chips}</ul>
<div class="body">{walk}{turns}
<div class="seen"><h3>Left {left}, right the result</h3><div class="pairs">{pairs}</div></div></div>
<details><summary>The commands that made this</summary><pre>{typed}</pre></details>
</section>"""

PAGE = """<!doctype html>
<html lang="en"><head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>hyperfields: the demo</title>
<style>
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5b6570; --page: #f5f6f8; --card: #fff;
  --line: #e1e5ea; --accent: #2f6fde; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --soft: #9aa5b1; --page: #14171b;
  --card: #1d2126; --line: #2e343b; --accent: #7fb0ff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 2.2rem; margin: 0 0 .3rem; letter-spacing: -.02em; }
h2 { font-size: 1.5rem; margin: 0; }
h3 { font-size: .95rem; margin: 0 0 .6rem; color: var(--soft); font-weight: 600; }
.lead { font-size: 1.1rem; max-width: 46rem; }
.about { margin: .2rem 0 .9rem; color: var(--soft); }
.flow { display: flex; flex-wrap: wrap; gap: .5rem; align-items: center; margin: 1.2rem 0 0; padding: 0;
  list-style: none; }
.flow span { border: 1px solid var(--line); background: var(--card); border-radius: 999px;
  padding: .25rem .85rem; }
.flow li + li::before { content: "→"; color: var(--accent); margin-right: .5rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 14px; padding: 1.5rem;
  margin-top: 1.8rem; }
.chips { display: flex; flex-wrap: wrap; gap: .5rem 1.6rem; list-style: none; padding: 0; margin: 0 0 1.2rem;
  color: var(--soft); }
.chips b { color: var(--ink); font-size: 1.15rem; font-variant-numeric: tabular-nums; }
figure { margin: 0; }
figcaption { font-size: .8rem; color: var(--soft); padding-top: .3rem; overflow-wrap: anywhere; }
img { display: block; width: 100%; height: auto; border-radius: 8px; background: #fff; }
.shapes img, .views img { aspect-ratio: 6 / 5; object-fit: cover; }
.body { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1.2rem; align-items: start; }
.images .body { grid-template-columns: minmax(0, 1fr) minmax(0, 2fr); }
.turns { display: grid; grid-template-columns: 1fr 1fr; gap: .8rem 1rem; }
.shapes .seen, .views .seen { grid-column: 1 / -1; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(230px, 1fr)); gap: 1rem; }
.images .pairs { grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 2px; }
.pair img:first-child { border-radius: 8px 0 0 8px; }
.pair img:last-child { border-radius: 0 8px 8px 0; }
details { margin-top: 1.2rem; }
summary { cursor: pointer; color: var(--accent); }
pre { overflow-x: auto; background: var(--page); border-radius: 8px; padding: .9rem; font-size: .82rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .55rem .8rem .55rem 0;
  border-top: 1px solid var(--line); }
th { border: 0; font-size: .82rem; color: var(--soft); font-weight: 600; }
small, footer { color: var(--soft); }
footer { margin-top: 2rem; font-size: .9rem; }
@media (max-width: 640px) {
  main { padding: 1.5rem .8rem; } section { padding: 1rem; } h1 { font-size: 1.7rem; }
  .body, .images .body { grid-template-columns: minmax(0, 1fr); }
}
</style></head><body><main>
<h1>hyperfields</h1>
<p class="lead">A latent code goes into a hypernetwork, which generates the weights of a small neural field.
Below are three families, each fitted as a whole by one such hypernetwork. All was computed on this machine in
@SECONDS@ seconds.</p>
<ul class="flow"><li><span>latent code</span></li><li><span>hypernetwork</span></li>
<li><span>weights</span></li><li><span>field</span></li><li><span>picture</span></li></ul>
@SECTIONS@
<section><h2>In numbers</h2><div class="scroll"><table>
<thead><tr><th>family</th><th>scenes</th><th>mean over the scenes</th><th>worst (PSNR, IoU)</th>
<th>bytes a scene, all shared out</th><th>bytes for one more</th><th>parameters</th>
<th>seconds of fitting</th></tr></thead><tbody>
@TABLE@</tbody></table></div></section>
<footer>@MACHINE@. The samples and their licences are in scenes/samples.</footer>
</main></body></html>
"""
