"""Targets of the fuzzer: files of runs, fields and codes, and what the viewer is sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fuzz_room import Room, run_of

from hyperfields.cli import console
from hyperfields.codes import Variational
from hyperfields.codes.source import FitContext
from hyperfields.configs import to_json
from hyperfields.evaluation import compare
from hyperfields.fields import Field, ImageField, RadianceField, SDFField
from hyperfields.fields.encodings import FactoredGrid, Fourier, HashGrid
from hyperfields.hypernets import GENERATORS, Bayes, Extension, Hierarchical, Stability
from hyperfields.model import ModelConfig
from hyperfields.runs.compose import read_composition
from hyperfields.runs.config import CONFIG
from hyperfields.runs.field_file import load_field
from hyperfields.runs.inferred import InferredCodes, load_codes, write_codes
from hyperfields.runs.inspect import inspect_run
from hyperfields.runs.run import SOURCE, STATE, load_run, write_source
from hyperfields.runs.scene import Scene
from hyperfields.runs.tcnn import read_tcnn, write_tcnn
from hyperfields.tasks import task_of
from hyperfields.training.fit import Fit
from hyperfields.training.inference import code_source
from hyperfields.viewer.app import _path_answer
from hyperfields.viewer.requests import decode, view_request

# Runs ---------------------------------------------------------------------------------------------

COMPARISON = b'{"generators": ["full"], "seeds": 1, "kind": "images", "scenes": ["a"], "unseen": []}'


def look_at(folder: Path) -> None:
    """Whatever reads a run: shown as a table, its first and last scene bound, one of them rendered."""
    console.format_run(inspect_run(folder))
    run = load_run(folder)
    points = torch.zeros(1, 2, run.config.model.field.dims)
    run[run.names[-1]].field(*(points for _ in range(1 + hasattr(run.config.model.field, "density"))))
    run[run.names[0]].render(size=(2, 2))


def in_run(name: str) -> Callable[[Room, bytes], object]:
    """A reader of a run one of whose files is this."""

    def read(room: Room, data: bytes) -> object:
        assert room.run.path is not None
        path = room.run.path / name
        good = path.read_bytes() if path.is_file() else None
        path.write_bytes(data)
        try:
            look_at(room.run.path)
        finally:
            path.unlink() if good is None else path.write_bytes(good)
        return None

    return read


def of_run(name: str) -> Callable[[Room], list[bytes]]:
    """That file of a valid run."""

    def seeds(room: Room) -> list[bytes]:
        assert room.run.path is not None
        return [(room.run.path / name).read_bytes()]

    return seeds


def configs(room: Room) -> list[bytes]:
    """Configs of runs of all kinds, generators, encodings and options."""
    seeds = of_run(CONFIG)(room)  # the others do not belong to the model there, and are refused at the end
    fields: list[Field] = [
        ImageField(Fourier(2, 3), hidden=(16, 16), activation="sine"),
        SDFField(HashGrid(3, 2, 2, 5, 3, 6), hidden=(16, 16)),
        RadianceField(FactoredGrid(3, 2, 2, 5, 3, 6, bases=2), hidden=(16, 16), geometry=1, color_hidden=(4,)),
    ]
    for number, make in enumerate(GENERATORS.values()):
        field = fields[number % len(fields)]
        run = run_of(field, make())
        config = to_json(run.config)
        if number % 2:
            model = ModelConfig(
                field, make(), 4, stability=Stability(), bayes=Bayes("factors"), extensions=(Extension(1, 1),)
            )
            config["model"] = to_json(model)
            config["codes"] = to_json(Variational())
        seeds.append(json.dumps(config).encode())
    return seeds


def states(room: Room, data: bytes) -> object:
    """A fit that goes on with this state."""
    settings = room.settings
    path = room.folder / "fit" / STATE
    good = path.read_bytes()
    path.write_bytes(data)
    try:
        return Fit(room.data, room.folder / "fit", resume=True, **settings)._release()
    finally:
        path.write_bytes(good)


def state_files(room: Room) -> list[bytes]:
    assert room.settings
    return [(room.folder / "fit" / STATE).read_bytes()]


def fields(room: Room, data: bytes) -> object:
    """A field alone, at a point."""
    bound = load_field(room.put("field.safetensors", data))
    points = torch.zeros(1, 2, bound.field.dims)
    with torch.no_grad():
        return bound(*(points for _ in range(1 + hasattr(bound.field, "density"))))


def field_files(room: Room) -> list[bytes]:
    path = room.folder / "seed.safetensors"
    room.run["a"].save(path)
    return [path.read_bytes()]


def codes(room: Room, data: bytes) -> object:
    """Codes of scenes that were not fitted."""
    found = load_codes(room.put("codes.safetensors", data), room.run)
    for name in found.names:
        found[name]
    return found.bind(*found.names) if found.names else None


def codes_files(room: Room) -> list[bytes]:
    path, spec = room.folder / "seed.safetensors", room.run.config.model.field.spec
    residual = {name: torch.zeros(2, *entry.shape) for name, entry in spec.items() if entry.source == "generated"}
    source = {"path": "/nowhere", "size": [8, 8], "views": None, "frames": {"a": [1.0, 0.0, 0.0, 0.0]}}
    write_codes(path, InferredCodes(room.run, ("a", "b"), torch.zeros(2, 4), residual, torch.ones(2, 4), source))
    return [path.read_bytes()]


def sources(room: Room, data: bytes) -> object:
    """Where the codes of a run come from."""
    assert room.run.path is not None
    (room.run.path / SOURCE).write_bytes(data)
    return code_source(room.run, room.data, Variational())


def source_files(room: Room) -> list[bytes]:
    config = room.run.config.model
    source = Variational().build(FitContext(room.data, task_of("images"), 4, config.field.spec))
    write_source(room.folder, source, room.run.digest)
    return [(room.folder / SOURCE).read_bytes()]


def tcnn(room: Room, data: bytes) -> object:
    """A field in tiny-cuda-nn's layout, whose description is the given one."""
    room.put("tcnn.json", tcnn_files(room)[1])
    return read_tcnn(room.put("tcnn.safetensors", data))


def tcnn_json(room: Room, data: bytes) -> object:
    """The same with the given description of valid weights."""
    room.put("tcnn.json", data)
    return read_tcnn(room.put("tcnn.safetensors", tcnn_files(room)[0]))


def tcnn_files(room: Room) -> list[bytes]:
    path = room.folder / "seed.safetensors"
    if not path.with_suffix(".json").is_file():
        run = run_of(ImageField(HashGrid(2, 2, 2, 5, 3, 6), hidden=(5,)), Hierarchical(2))
        write_tcnn(path.with_name("seed_tcnn.safetensors"), run["a"].field, {"name": "a"})
        path.with_name("seed_tcnn.json").rename(path.with_suffix(".json"))
    return [path.with_name("seed_tcnn.safetensors").read_bytes(), path.with_suffix(".json").read_bytes()]


def comparison(room: Room, data: bytes) -> object:
    """A comparison that goes on."""
    room.put(f"compare/{compare.SETTINGS}", data)
    return compare._begin(room.folder / "compare", json.loads(COMPARISON))


def results(room: Room, data: bytes) -> object:
    """Results of a comparison, read again."""
    room.put(f"results/{compare.SETTINGS}", b"{}")
    return compare._read_results(room.put(f"results/{compare.RESULTS}", data).parent)


def result_files(room: Room) -> list[bytes]:
    del room
    result: dict[str, Any] = {"generator": "full", "bytes_per_scene": None, "seed": 0, "latent_size": 4, "settings": ""}
    whole = {"mean": {"psnr": 20.0}, "worst": 19.0, "unseen": {"psnr": 18.0}, "steps": 9, "seconds": 1.0}
    whole["bytes_per_scene_found"] = {"amortised": 9.0, "marginal": 8}
    return [
        b"\n".join(json.dumps(line).encode() for line in ({**result, **whole}, {**result, **whole, "seed": 1}, result))
    ]


# Compositions -------------------------------------------------------------------------------------


def composed(room: Room, data: bytes) -> object:
    """Scenes of a run in one picture."""

    def scene_of(place: Path, name: str | None, codes: Path | None) -> Scene:
        if codes is not None:
            load_codes(codes, room.radiance)
        return room.radiance[room.radiance.names[0] if name is None else name]

    return read_composition(room.put("composition.json", data), scene_of)


def compositions(room: Room) -> list[bytes]:
    """Two scenes with their places."""
    del room
    turned = [[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]]
    scenes = [{"run": "run", "scene": "a", "position": [0, 0, 0], "turn": 90, "scale": 1}]
    return [json.dumps({"scenes": [*scenes, {"run": "run", "scene": "b", "rotation": turned}]}).encode()]


# The viewer ---------------------------------------------------------------------------------------


def camera_path(room: Room, data: bytes) -> object:
    """A camera path, as the page hands it on."""
    del room
    return _path_answer(data.decode("utf-8", "replace"))


def camera_paths(room: Room) -> list[bytes]:
    del room
    matrix = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0, -4.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    path: dict[str, Any] = {"camera_type": "perspective", "render_height": 64, "render_width": 64, "fps": 8}
    path |= {"seconds": 1.0, "is_cycle": False, "smoothness_value": 0.0}
    keys = [{"matrix": matrix, "fov": 50.0, "aspect": 1.0}, {"matrix": json.dumps(matrix), "fov": 50}]
    frames = [{"camera_to_world": matrix, "fov": 50.0, "aspect": 1.0}] * 2
    return [json.dumps({**path, "keyframes": keys}).encode(), json.dumps({**path, "camera_path": frames}).encode()]


def messages(room: Room, data: bytes) -> object:
    """A message of a page that asks for a picture."""
    return view_request(decode(data), room.views)


def message_files(room: Room) -> list[bytes]:
    base: dict[str, Any] = {"type": "view", "id": 1, "size": [16, 16], "channel": "rgb", "background": 1.0}
    view = {"position": [3, 0, 1], "target": [0, 0, 0], "fov": 0.7}
    matrix = [1, 0, 0, 0, 0, 0, -1, -4, 0, 1, 0, 0, 0, 0, 0, 1]
    key = room.views.map.to_text(room.views.map.coordinates[0])
    latents: list[Any] = [
        {"scene": "a"}, {"at": [0.1, 0.2]}, {"walk": ["a", "b"], "time": 0.3, "mode": "slerp"}, {"seed": 3},
        {"key": key, "coordinates": [0.0]},
    ]  # fmt: skip
    views = [view, {"matrix": matrix, "fov": 0.7}, view, view, view]
    pairs = zip(latents, views, strict=True)
    return [json.dumps({**base, "latent": latent, "view": looks}).encode() for latent, looks in pairs]
