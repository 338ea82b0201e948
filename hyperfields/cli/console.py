"""Tables for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyperfields.training.curve import Curve


def table(rows: list[tuple[str, str]]) -> str:
    """Two columns, the first as wide as its widest cell."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name.ljust(width)}  {value}".rstrip() for name, value in rows)


def format_run(run: dict[str, Any]) -> str:
    """`inspect_run` as a table."""
    scenes, fit, last = run["scenes"], run["fit"], run["last"] or {}
    few = ", ".join(scenes[:4]) + (", ..." if len(scenes) > 4 else "")
    length = f"{fit['steps']:,} steps" if fit.get("minutes") is None else f"{fit['minutes']:g} minutes"
    parameters, sizes = run["parameters"], run["bytes_per_scene"]
    levels = ""
    if run["rows"]:
        levels = f", cells a side {'-'.join(map(str, run['resolutions']))}, {run['rows']:,} rows"
    family = run["family"] or {}
    if run["summary"]:
        state = f"{run['summary']['steps']:,} steps in {run['summary']['seconds']:.0f} s"
    elif last:
        state = f"not finished: {last['step']:,} steps in {last['seconds']:.0f} s; go on with fit --resume"
    else:
        state = "not begun"
    rows = [
        ("run", f"{run['path']} (format {run['format']})"),
        ("kind", run["kind"]),
        ("scenes", f"{len(scenes)}: {few}"),
        ("family", family.get("path", "not recorded")),
        ("picture", _settings(run["picture"])),
        ("field", run["field"]),
        ("encoding", f"{_settings(run['encoding'])}{levels}"),
        ("generator", _settings(run["generator"])),
        ("latent", f"{run['latent_size']:,} numbers a scene"),
        ("extensions", "; ".join(_settings(extension) for extension in run["extensions"])),
        ("parameters", ", ".join(f"{name} {count:,}" for name, count in parameters.items())),
        ("bytes a scene", f"{sizes['amortised']:,.0f} amortised, {sizes['marginal']:,} for one more"),
        ("files", ", ".join(f"{name} {size / 1e3:,.0f} kB" for name, size in run["files"].items())),
        ("fit", f"{length}, preset {fit.get('preset')}, seed {fit.get('seed')}"
                f"{', every scene alone' if fit.get('individually') else ''}"),
        ("state", state),
        ("last loss", f"{last['loss']:.4g}" if last.get("loss") is not None else "n/a"),
        ("versions", _settings(run["versions"] or {})),
    ]  # fmt: skip
    return table([(name, value) for name, value in rows if value])


def _settings(values: dict[str, Any]) -> str:
    """`{"class": "X", "a": 1}` as `X a 1`, other dicts as `a 1, b 2`."""
    name = f"{values['class']} " if "class" in values else ""
    parts = []
    for key, value in values.items():
        if key == "class":
            continue
        if isinstance(value, float):
            value = f"{value:.4g}"
        elif isinstance(value, list):
            value = "x".join(map(str, value))
        parts.append(f"{key} {value}")
    return name + ", ".join(parts)


def curve_table(curve: Curve) -> str:
    """Points of a curve as a table."""
    from hyperfields.evaluation.tables import text_table

    rows = [(f"{point.seconds:,.0f}", f"{point.step:,}", f"{point.psnr:.2f}") for point in curve.points]
    return text_table(("seconds", "step", "held-out psnr [dB]"), rows, rules=False)
