"""Targets of the fuzzer: for each format that is read, valid files to start from and the call that reads one.

A reader may do two things with a file: read it, or raise an `InputError` of one line that names it. To add a format,
write a function that reads bytes of it, one that makes valid ones, and a line in `TARGETS`. `make fuzz` runs all of
them, `tests/test_fuzz_corpus.py` the files that were kept in tests/corpus/.
"""

from __future__ import annotations

import functools
import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image

from hyperfields.cli import console
from hyperfields.codes import Variational
from hyperfields.codes.source import FitContext
from hyperfields.configs import to_json
from hyperfields.data import Images, Sampling
from hyperfields.data.shapes import sample_pool
from hyperfields.errors import InputError
from hyperfields.evaluation import compare
from hyperfields.fields import Field, ImageField, RadianceField, SDFField
from hyperfields.fields.encodings import FactoredGrid, Fourier, HashGrid, Identity
from hyperfields.hypernets import GENERATORS, Bayes, Extension, Hierarchical, Independent, Stability
from hyperfields.model import HyperField, ModelConfig
from hyperfields.runs.config import CONFIG, DataSource, FitSettings, RunConfig
from hyperfields.runs.field_file import load_field
from hyperfields.runs.inspect import inspect_run
from hyperfields.runs.run import METRICS, MODEL, SOURCE, STATE, SUMMARY, Run, load_run, write_source
from hyperfields.runs.tcnn import read_tcnn, write_tcnn
from hyperfields.scenes import open_family
from hyperfields.scenes.meshes import read_mesh
from hyperfields.tasks import TrainConfig, task_of
from hyperfields.training.fit import Fit
from hyperfields.training.inference import InferredCodes, code_source, load_codes, write_codes
from hyperfields.viewer.app import _path_answer
from hyperfields.viewer.requests import decode, view_request
from hyperfields.viewer.shared import SharedState

LONGEST = 1000  # characters of a message: whatever a file holds, it does not fill the screen
Shape = Literal["bytes", "json", "lines", "safetensors", "glb"]


class Crash(Exception):
    """Something that a reader must not do; the text says what."""


class Room:
    """A folder to put files into, and runs that others belong to; made once in a process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, name: str, data: bytes) -> Path:
        """A file with these bytes."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    @functools.cached_property
    def data(self) -> Images:
        return Images(torch.rand(2, 8, 8, 3, generator=torch.Generator().manual_seed(0)))

    @functools.cached_property
    def run(self) -> Run:
        """A run of images on disk, with all that a run can hold but a state."""
        run = run_of(ImageField(FactoredGrid(2, 2, 2, 5, 3, 6, bases=2), hidden=(5,)), Hierarchical(2))
        return run.save(self.folder / "run")

    @functools.cached_property
    def views(self) -> SharedState:
        """What the viewer's pages talk to."""
        field = RadianceField(Identity(3), hidden=(4,), geometry=1, color_hidden=(), occupancy=8)
        return SharedState(run_of(field, Hierarchical(2), size=[8, 8], fov=0.7, radius=3.5, elevation=0.5))

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """Arguments of a fit whose state is in the folder `fit`."""
        model = ModelConfig(ImageField(HashGrid(2, 2, 2, 5, 3, 6), hidden=(5,)), Hierarchical(2), 4)
        settings = {"settings": FitSettings(steps=1), "model": model, "train": TrainConfig(2, 16)}
        Fit(self.data, self.folder / "fit", **settings).run()
        return settings


def run_of(field: Field, generator: Any, **picture: Any) -> Run:
    """A run of two scenes whose networks are as they start."""
    config = ModelConfig(field, generator, 4 if not isinstance(generator, Independent) else 64)
    torch.manual_seed(0)
    model = HyperField(config, 2).eval()
    picture = picture or {"size": [8, 8]}
    source = DataSource("/nowhere/family", ("a", "b"), (8, 8))
    settings = RunConfig(
        field.kind, ("a", "b"), config, TrainConfig(2, 16), FitSettings(steps=1), picture=picture, sources=(source,)
    )
    return Run(settings, model, summary={"steps": 1, "seconds": 1.0, "loss": 0.1, "parameters": 9})


class Target(NamedTuple):
    """A format: `seeds(room)` are files of it, the first of them valid, `read(room, data)` reads one."""

    read: Callable[[Room, bytes], object]
    seeds: Callable[[Room], list[bytes]]
    shape: Shape = "bytes"  # how it is changed with its sums and lengths kept right
    words: tuple[str, ...] = ()  # that mean something in it
    named: bool = True  # a refusal gives the file's path


def outcome(target: Target, room: Room, data: bytes) -> str:
    """What a reader did, "read" or "refused".

    Raises:
        Crash: a refusal of several lines, or without the file's name.
        Exception: whatever else the reader raised.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.read(room, data)
    except InputError as error:
        text = str(error)
        if "\n" in text or len(text) > LONGEST:
            raise Crash(f"a message of {len(text)} characters and {text.count(chr(10)) + 1} lines: {text!r}") from error
        if target.named and str(room.folder) not in text:
            raise Crash(f"a message without the file's name: {text!r}") from error
        return "refused"
    return "read"


# Pictures -----------------------------------------------------------------------------------------


def picture(suffix: str) -> Callable[[Room, bytes], object]:
    """A reader of a family of one picture."""

    def read(room: Room, data: bytes) -> object:
        return open_family(room.put(f"{suffix[1:]}/a{suffix}", data).parent, size=(4, 4))

    return read


def pictures(format: str, *modes: str, **options: Any) -> Callable[[Room], list[bytes]]:
    """Small pictures of several modes."""

    def seeds(room: Room) -> list[bytes]:
        del room
        pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 4)).astype(np.uint8)
        files = []
        for mode in modes:
            image = Image.fromarray(pixels)
            image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
            stream = io.BytesIO()
            exif = Image.Exif()
            exif[0x0112] = 6  # turned
            image.save(stream, format, **({"exif": exif} if format in ("JPEG", "PNG", "WEBP") else {}), **options)
            files.append(stream.getvalue())
        return files

    return seeds


def exrs(room: Room) -> list[bytes]:
    """EXR files of two compressions, in scanlines."""
    import OpenEXR

    bands = {name: np.linspace(0.0, 1.0, 20, dtype=np.float32).reshape(4, 5) for name in "RGBA"}
    files = []
    for compression in (OpenEXR.NO_COMPRESSION, OpenEXR.ZIP_COMPRESSION, OpenEXR.PIZ_COMPRESSION):
        header = {"compression": compression, "type": OpenEXR.scanlineimage}
        path = room.folder / "seed.exr"
        with OpenEXR.File(header, bands) as file:
            file.write(str(path))
        files.append(path.read_bytes())
    return files


# Meshes -------------------------------------------------------------------------------------------

POINTS = np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)], dtype=np.float64)
FACES = np.array([(0, 2, 1), (0, 1, 3), (1, 2, 3), (0, 3, 2)], dtype=np.int64)


def mesh(suffix: str) -> Callable[[Room, bytes], object]:
    """A reader of a mesh, with a few signed distances to it."""

    def read(room: Room, data: bytes) -> object:
        found = read_mesh(room.put(f"meshes/a{suffix}", data))
        return sample_pool(found, Sampling(points=16), seed=0)

    return read


def meshes(*formats: str, **options: Any) -> Callable[[Room], list[bytes]]:
    """A tetrahedron in formats of trimesh."""

    def seeds(room: Room) -> list[bytes]:
        del room
        import trimesh

        written = [trimesh.Trimesh(POINTS, FACES, process=False).export(file_type=name, **options) for name in formats]
        return [data if isinstance(data, bytes) else data.encode() for data in written]

    return seeds


def plys(room: Room) -> list[bytes]:
    """PLY files: binary, text, with a face of four corners, with an element of its own."""
    rows = "".join(f"{x:g} {y:g} {z:g}\n" for x, y, z in POINTS)
    head = "ply\nformat ascii 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
    polygons = "element face 3\nproperty list uchar int vertex_indices\nend_header\n"
    text = head + polygons + rows + "3 0 1 3\n4 0 2 1 3\n3 1 2 3\n"
    binary = text[: text.index("end_header")].replace("ascii", "binary_little_endian") + "end_header\n"
    body = POINTS.astype("<f4").tobytes()
    for corners in ([0, 1, 3], [0, 2, 1, 3], [1, 2, 3]):
        body += bytes([len(corners)]) + np.array(corners, dtype="<i4").tobytes()
    return [*meshes("ply")(room), text.encode(), binary.encode() + body]


def offs(room: Room) -> list[bytes]:
    """OFF files: as usual, and with the counts in the first line and a face of four corners."""
    return [*meshes("off")(room), b"OFF4 2 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n4 0 1 2 3 255 0 0\n3 0 1 3\n"]


def objs(room: Room) -> list[bytes]:
    """OBJ files: as usual, and with groups, normals, texture coordinates and indices from the end."""
    more = b"mtllib a.mtl\no part\nv 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nvt 0 0\nvn 0 0 1\ng one\nusemtl red\n"
    return [*meshes("obj")(room), more + b"f 1/1/1 3/1/1 2/1/1\nf -4//1 -3//1 -1//1\ns off\nf 2 3 4\nf 1 4 3\n"]


def stls(room: Room) -> list[bytes]:
    return meshes("stl", "stl_ascii")(room)


def glbs(room: Room) -> list[bytes]:
    """glb files: a mesh, and two nodes that show it with transforms."""
    import trimesh

    part = trimesh.Trimesh(POINTS, FACES, process=False)
    scene = trimesh.Scene()
    scene.add_geometry(part, node_name="a")
    scene.add_geometry(part, node_name="b", transform=trimesh.transformations.translation_matrix((2.0, 0.0, 0.0)))
    return [*meshes("glb")(room), scene.export(file_type="glb")]


# Scenes of posed pictures -------------------------------------------------------------------------

TRANSFORMS_WORDS = (
    *("frames", "file_path", "transform_matrix", "mask_path", "camera_model", "scale", "offset", "aabb_scale", "up"),
    *("camera_angle_x", "camera_angle_y", "fl_x", "fl_y", "cx", "cy", "w", "h", "k1", "p1", "distortion_params"),
    *("train_filenames", "time", "is_fisheye", "white_transparent", "OPENCV", "./a", "./b.png", "../a.png"),
)


def transforms(name: str) -> Callable[[Room, bytes], object]:
    """A reader of a scene with this transforms file."""

    def read(room: Room, data: bytes) -> object:
        scene = room.folder / "scene"
        if not scene.is_dir():
            for stem, content in zip("abc", pictures("PNG", "RGBA", "RGB", "L")(room), strict=True):
                room.put(f"scene/{stem}.png", content)
            room.put("scene/transforms_test.json", transforms_files(room)[0])
        for other in scene.glob("transforms*.json"):
            if other.name != name and (name == "transforms.json" or other.name != "transforms_test.json"):
                other.unlink()
        room.put(f"scene/{name}", data)
        return open_family(scene, kind="views", size=(5, 6))

    return read


def transforms_files(room: Room) -> list[bytes]:
    """Transforms files of NeRF-synthetic, instant-ngp and nerfstudio."""
    del room
    pose = [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, -1.0, -4.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    frames = [{"file_path": f"./{stem}", "transform_matrix": pose} for stem in "aab"]
    intrinsics = {"fl_x": 7.0, "fl_y": 7.0, "cx": 3.0, "cy": 2.5, "w": 6, "h": 5, "k1": 0.0, "p1": 0.0}
    ngp = {"aabb_scale": 2, "scale": 0.33, "offset": [0.5, 0.5, 0.5], "up": [0, 0, 1], **intrinsics}
    studio = {"camera_model": "OPENCV", **intrinsics, "applied_transform": pose[:3], "ply_file_path": "x.ply"}
    files: list[dict[str, Any]] = [
        {"camera_angle_x": 0.69, "frames": frames},
        {**ngp, "frames": [{**frame, "sharpness": 1.0} for frame in frames]},
        {**studio, "frames": [{**frame, "mask_path": "c.png", "colmap_im_id": 1} for frame in frames]},
        {**studio, "train_filenames": ["./a"], "test_filenames": ["./b"], "frames": frames},
    ]
    return [json.dumps(file).encode() for file in files]


# Runs ---------------------------------------------------------------------------------------------


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
        found.scene(room.run, name)
    return found.bind(room.run, *found.names) if found.names else None


def codes_files(room: Room) -> list[bytes]:
    path, spec = room.folder / "seed.safetensors", room.run.config.model.field.spec
    residual = {name: torch.zeros(2, *entry.shape) for name, entry in spec.items() if entry.source == "generated"}
    source = {"path": "/nowhere", "size": [8, 8], "views": None, "frames": {"a": [1.0, 0.0, 0.0, 0.0]}}
    write_codes(path, InferredCodes(("a", "b"), torch.zeros(2, 4), residual, torch.ones(2, 4), source), room.run)
    return [path.read_bytes()]


def sources(room: Room, data: bytes) -> object:
    """Where the codes of a run come from."""
    assert room.run.path is not None
    (room.run.path / SOURCE).write_bytes(data)
    return code_source(room.run, room.data, Variational())


def source_files(room: Room) -> list[bytes]:
    config = room.run.config.model
    write_source(room.folder, Variational().build(FitContext(room.data, task_of("images"), 4, config.field.spec)))
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
    return compare._begin(room.folder / "compare", {"generators": ["full"], "seeds": 1})


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


PLY_WORDS = ("element vertex ", "element face ", "property list uchar int vertex_indices", "ascii 1.0", "tristrips")
TARGETS: dict[str, Target] = {
    "png": Target(picture(".png"), pictures("PNG", "RGBA", "P", "1", "I;16")),
    "jpeg": Target(picture(".jpg"), pictures("JPEG", "RGB", "L", "CMYK")),
    "webp": Target(picture(".webp"), pictures("WEBP", "RGBA", "RGB")),
    "exr": Target(picture(".exr"), exrs),
    "bmp": Target(picture(".bmp"), pictures("BMP", "RGB", "P")),
    "tiff": Target(picture(".tif"), pictures("TIFF", "RGBA", "L", compression="tiff_lzw")),
    "gif": Target(picture(".gif"), pictures("GIF", "P")),
    "tga": Target(picture(".tga"), pictures("TGA", "RGBA", "L", compression="tga_rle")),
    "ppm": Target(picture(".ppm"), pictures("PPM", "RGB", "L", "1")),
    "ply": Target(mesh(".ply"), plys, words=PLY_WORDS),
    "obj": Target(mesh(".obj"), objs, words=("f 1//1 2//1 3//1", "v 0 0 0", "usemtl a", "o a", "g a", "f -1 -2 -3")),
    "off": Target(mesh(".off"), offs, words=("OFF", "COFF", "4OFF", "NOFF BINARY", "#")),
    "stl": Target(mesh(".stl"), stls, words=("solid", "facet normal 0 0 1", "outer loop", "endsolid", "vertex 0 0 0")),
    "glb": Target(mesh(".glb"), glbs, "glb"),
    "transforms_train": Target(transforms("transforms_train.json"), transforms_files, "json", TRANSFORMS_WORDS),
    "transforms": Target(transforms("transforms.json"), transforms_files, "json", TRANSFORMS_WORDS),
    "run_config": Target(in_run(CONFIG), configs, "json"),
    "run_model": Target(in_run(MODEL), of_run(MODEL), "safetensors"),
    "run_summary": Target(in_run(SUMMARY), of_run(SUMMARY), "json"),
    "run_log": Target(in_run(METRICS), lambda room: [b'{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.4}\n'], "lines"),
    "run_state": Target(states, state_files, "safetensors"),
    "run_source": Target(sources, source_files, "safetensors"),
    "field": Target(fields, field_files, "safetensors"),
    "codes": Target(codes, codes_files, "safetensors"),
    "tcnn": Target(tcnn, lambda room: tcnn_files(room)[:1], "safetensors"),
    "tcnn_json": Target(tcnn_json, lambda room: tcnn_files(room)[1:], "json"),
    "compare": Target(comparison, lambda room: [b'{"generators": ["full"], "seeds": 1}'], "json"),
    "compare_results": Target(results, result_files, "lines"),
    "camera_path": Target(camera_path, camera_paths, "json", named=False),
    "message": Target(messages, message_files, "json", named=False),
}
