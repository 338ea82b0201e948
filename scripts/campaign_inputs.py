"""Malformed inputs: files of every format that is read, damaged in every way that fits, and some made by hand.

Each is read, or refused with exit code 2 and one line that names it; nothing else is written, and memory stays bounded.
To add a format, write a line in `Inputs.formats`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import campaign_captures as captures
import campaign_families as families
import numpy as np
from campaign_damage import NO_FILES, WAYS
from campaign_forks import Outcome, little_memory, run
from PIL import Image

MEMORY = 3 * 2**30  # bytes that a command may take for a file of some kilobytes
REALLY = 29  # one case of so many is a process as a user starts it
WHOLE = "not damaged"
UNBOUNDED = ("--space", "contracted", "--refine-poses", "--appearance")
PICTURES = ("png", "jpg", "webp", "gif", "bmp", "tif", "tga", "ppm", "exr")
MESHES = ("ply", "binary.ply", "obj", "off", "stl", "binary.stl", "glb")


class Format(NamedTuple):
    """A format that is read: how its files are damaged, a whole one in a folder, and a command that reads it."""

    name: str
    kind: str  # binary, text, json, tensors: see `campaign_damage.Way`
    make: Callable[[Path], object]  # writes what is read into a folder
    file: str  # in this folder
    words: Sequence[object]  # {in} is the folder, {out} does not exist
    silent: bool = False  # the command does without this file, and says so or shows nothing of it
    several: bool = False  # one of several files that are one thing: the message may name the scene


class Inputs:
    """The formats, with a whole example each, and the cases of a campaign."""

    def __init__(self, root: Path, made: dict[str, Path], seed: int, count: int, match: str = "") -> None:
        self.root, self.made, self.seed = root, made, seed
        scratch = root / "made"
        scratch.mkdir(parents=True)
        self.run, self.encoder = scratch / "run", scratch / "run-encoder"
        self.codes, self.packed = scratch / "codes.safetensors", scratch / "tcnn.safetensors"
        self.field, self.compared = scratch / "field.safetensors", scratch / "compared"
        self.views, self.capture, self.bytes = scratch / "run-views", scratch / "run-capture", scratch / "b.safetensors"
        new = made["images-new"]
        single_transforms(scratch / "capture")
        captures.photographs(scratch / "photographs")
        for words in (
            ["fit", made["images"], "--out", self.run, *families.TINY, 4],
            ["fit", made["images"], "--out", self.encoder, *families.TINY, 2, "--by", "encoder"],
            ["infer", self.run, new, "--out", self.codes, "--steps", 2, "--refine"],
            ["export", self.run, "--scene", "picture0", "--format", "tcnn", "--out", self.packed],
            ["export", self.run, "--scene", "picture0", "--out", self.field],
            ["infer", self.run, new, "--out", self.bytes, "--steps", 2, "--bytes", 400],
            ["compare", made["images"], "--out", self.compared, "--generators", "low-rank", *families.TINY, 2],
            ["fit", made["views"], "--out", self.views, *families.TINY, 4],
            ["fit", scratch / "capture", "--out", self.capture, *families.TINY, 2, *UNBOUNDED],
            ["poses", scratch / "photographs/p", "--out", scratch / "photographs/out"],  # it finds nothing
        ):
            done = run(words, scratch)
            if done.code != (1 if words[0] == "poses" else 0):
                raise RuntimeError(f"{' '.join(map(str, words))}: {done.code}: {done.error}")
        self.formats = [form for form in self._formats() if match in form.name]
        self.whole: dict[str, Path] = {}
        for form in self.formats:
            self.whole[form.name] = root / "whole" / form.name
            self.whole[form.name].mkdir(parents=True)
            form.make(self.whole[form.name])
        self.cases = self._cases(count)

    def _formats(self) -> list[Format]:
        fit = ("fit", "{in}", "--out", "{out}", *families.TINY, 1)
        again = ("poses", self.root / "made/photographs/p", "--out", "{in}/out", "--resume")
        film = ("render", self.views, "--scene", "scene0", "--size", "8x8", "--out", "{out}.gif")
        found = [Format(f"picture .{suffix}", "binary", picture_as(suffix), f"a.{suffix}", fit) for suffix in PICTURES]
        for suffix in MESHES:
            kind = "binary" if suffix.startswith("binary") or suffix == "glb" else "text"
            found.append(Format(f"mesh .{suffix}", kind, mesh_as(suffix), f"a.{suffix}", fit))
        views = self.made["views"]

        def scenes(folder: Path) -> None:
            shutil.copytree(views, folder, dirs_exist_ok=True)

        found += [
            Format("transforms_train.json", "json", scenes, "scene0/transforms_train.json", fit),
            Format("transforms.json", "json", single_transforms, "transforms.json", fit),
            Format("picture of a view", "binary", scenes, "scene0/train/r_0.png", fit),
            Format("mask of a view", "binary", single_transforms, "mask.png", fit),
        ]

        def copy_of(source: Path) -> Callable[[Path], object]:
            return lambda folder: families.copied(source, folder / "run")

        render = ("render", "{in}/run", "--scene", "picture0", "--out", "{out}.png")
        with_codes = ("render", self.run, "--codes", "{in}/c.safetensors", "--scene", "picture2", "--out", "{out}.png")
        more = ("fit", self.made["images"], "--out", "{in}/run", "--resume", "--steps", 5)
        encode = ("infer", "{in}/run", self.made["images-new"], "--by", "encoder", "--out", "{out}.safetensors")
        unpack, report = (
            ("import", "{in}/t.safetensors", "--out", "{out}.safetensors"),
            ("compare", "--out", "{in}/run"),
        )

        def packed(folder: Path) -> None:
            families.copied(self.packed, folder / "t.safetensors")
            families.copied(self.packed.with_suffix(".json"), folder / "t.json")

        found.append(
            Format("transforms.json, contracted", "json", single_transforms, "transforms.json", (*fit, *UNBOUNDED))
        )
        for form in captures.captures(("inspect", "{in}")):
            found.append(Format(*form, several=form[0].startswith(("COLMAP", "list of"))))
        return [
            *found,
            Format("config.json, inspect", "json", copy_of(self.run), "run/config.json", ("inspect", "{in}/run")),
            Format("config.json, render", "json", copy_of(self.run), "run/config.json", render),
            Format("model.safetensors", "tensors", copy_of(self.run), "run/model.safetensors", render),
            Format("resume.safetensors", "tensors", copy_of(self.run), "run/state/resume.safetensors", more),
            Format("codes of an encoder", "tensors", copy_of(self.encoder), "run/codes.safetensors", encode),
            Format("summary.json", "json", copy_of(self.run), "run/summary.json", ("inspect", "{in}/run"), True),
            Format("metrics.jsonl", "text", copy_of(self.run), "run/metrics.jsonl", ("inspect", "{in}/run"), True),
            Format(
                "inferred codes", "tensors", lambda folder: families.copied(self.codes, folder / "c.safetensors"),
                "c.safetensors", with_codes,
            ),
            Format(
                "packed codes", "tensors", lambda folder: families.copied(self.bytes, folder / "c.safetensors"),
                "c.safetensors", with_codes,
            ),
            Format(
                "config.json of a capture", "json", copy_of(self.capture), "run/config.json",
                ("render", "{in}/run", "--scene", "capture", "--size", "4x4", "--out", "{out}.png"),
            ),
            Format(
                "photographs.safetensors", "tensors", copy_of(self.capture), "run/photographs.safetensors",
                ("render", "{in}/run", "--scene", "capture", "--size", "4x4", "--out", "{out}.png"),
            ),
            Format("camera path", "json", captures.camera_path, "p.json", (*film, "--path", "{in}/p.json")),
            Format(
                "composition", "json", captures.composition(self.views), "c.json",
                ("render", "--compose", "{in}/c.json", "--size", "4x4", "--out", "{out}.png"),
            ),
            Format(
                "settings of poses", "json",
                lambda folder: shutil.copytree(self.root / "made/photographs", folder, dirs_exist_ok=True),
                "out/colmap/settings.json", again,
            ),
            Format("samples of a mesh", "binary", captures.pool, "pool.npz", ("load_pool", "{in}/pool.npz"), True),
            Format(
                "field", "tensors", lambda folder: families.copied(self.field, folder / "f.safetensors"),
                "f.safetensors", ("load_field", "{in}/f.safetensors"),
            ),
            Format("tcnn .safetensors", "tensors", packed, "t.safetensors", unpack),
            Format("tcnn .json", "json", packed, "t.json", unpack),
            Format("compare.json", "json", copy_of(self.compared), "run/compare.json", report),
            Format("results.jsonl", "text", copy_of(self.compared), "run/results.jsonl", report),
            Format(
                "LPIPS checkpoint", "binary", lambda folder: (folder / "alexnet-0.pth").write_bytes(os.urandom(900)),
                "alexnet-0.pth", ("eval", self.run, "--lpips-weights", "{in}/alexnet-0.pth"), True,
            ),
        ]  # fmt: skip

    def _cases(self, count: int) -> list[tuple[Format, str]]:
        """Formats and ways to damage them, each pair once, `count` of them spread over both; then whole files."""
        rng, pairs = Random(f"{self.seed} inputs"), []
        for form in self.formats:
            ways = [name for name, way in WAYS.items() if way.kinds is None or form.kind in way.kinds]
            rng.shuffle(ways)
            pairs.append([(form, way) for way in ways])
        turns = [pair[i] for i in range(max(map(len, pairs))) for pair in pairs if i < len(pair)]
        by_hand = [
            (form, name) for form in self.formats for name, (file, _) in ALL_BY_HAND.items() if file == form.name
        ]
        rest = max(count - len(by_hand), 0)
        return by_hand + [turns[i % len(turns)] for i in range(rest)] + [(form, WHOLE) for form in self.formats]

    def case(self, number: int) -> dict[str, Any]:
        """What a command says to a damaged file."""
        form, way = self.cases[number]
        rng, scratch = Random(f"{self.seed} input {number}"), self.root / f"input-{number}"
        scratch.mkdir(parents=True)
        folder = scratch / "in"
        shutil.copytree(self.whole[form.name], folder, symlinks=True)
        path = folder / form.file
        if way != WHOLE:
            change = ALL_BY_HAND[way][1] if way in ALL_BY_HAND else WAYS[way].change
            change(path, rng)
        before = set(scratch.rglob("*"))
        words = [str(word).replace("{in}", str(folder)).replace("{out}", str(scratch / "out")) for word in form.words]
        as_nobody = way == "locked" and os.getuid() == 0
        really = number % REALLY == 7 and not as_nobody and words[0] not in CALLS
        if as_nobody:
            for open_to_all in (scratch, folder, path.parent):
                open_to_all.chmod(0o777)

        def prepare() -> None:
            little_memory(MEMORY)
            if as_nobody:
                # These are imported when they are first needed, from a folder that only its owner may read.
                import cProfile  # noqa: F401
                import encodings.utf_8_sig  # noqa: F401

                os.seteuid(65534)

        done = run(words, scratch, prepare=prepare, limit=180.0, really=really, call=CALLS.get(words[0]))
        names = [path.name, path.stem] + ([str(folder)] if way in NO_FILES or way == "locked" or form.several else [])
        if way in NO_FILES:  # without it, an option may have no meaning
            names += [str(word) for word in form.words if str(word).startswith("--sp")]
        left = set(scratch.rglob("*")) - before - {scratch / "stderr"}
        failure = self._wrong(form, way, done, names, left)
        if not failure:
            shutil.rmtree(scratch)
        return {"name": form.name, "how": way, "code": done.code, "failure": failure, "line": done.line[:300]}

    def _wrong(self, form: Format, way: str, done: Outcome, names: Sequence[str], left: set[Path]) -> str:
        if way == WHOLE:
            read = done.code in ((0, 1) if form.words[0] == "poses" else (0,))
            return "" if read else f"is not even read whole: {done.code}: {done.line}"
        readable = form.silent or way in NO_FILES or (way in WAYS and WAYS[way].readable)
        if done.code in (0, 1) and "Traceback" not in done.error:
            return "" if readable else f"read, exit code {done.code}: {done.line}"
        if wrong := done.refused(*names):
            return wrong
        return f"left behind: {sorted(left)[0].name}" if left else ""


def load_field(words: list[str]) -> int:
    """`hyperfields.load_field`, which no verb reads, as a verb would."""
    from hyperfields.errors import InputError
    from hyperfields.runs import field_file

    try:
        field_file.load_field(words[1])
    except InputError as error:
        print(f"hyperfields: error: {error}", file=sys.stderr)
        return 2
    return 0


def load_pool(words: list[str]) -> int:
    """What the cache of meshes keeps; damaged, it is made again."""
    from hyperfields.data import Sampling
    from hyperfields.scenes.meshes import _load_pool

    return 0 if _load_pool(Path(words[1]), Sampling(points=4)) is not None else 1


CALLS = {"load_field": load_field, "load_pool": load_pool}


# ------------------------------------------------------------------------------------------------ whole files


def picture_as(suffix: str) -> Callable[[Path], object]:
    """Writes two pictures, a.SUFFIX and b.png."""

    def make(folder: Path) -> None:
        pixels = families.picture(0)
        Image.fromarray(families.picture(1)).save(folder / "b.png")
        if suffix == "exr":
            import OpenEXR

            channels = {name: (pixels[..., i] / 255).astype(np.float32) for i, name in enumerate("RGB")}
            with OpenEXR.File({"compression": OpenEXR.ZIP_COMPRESSION}, channels) as file:
                file.write(str(folder / "a.exr"))
        else:
            Image.fromarray(pixels).save(folder / f"a.{suffix}")

    return make


def mesh_as(suffix: str) -> Callable[[Path], object]:
    """Writes a mesh, a.SUFFIX."""

    def make(folder: Path) -> None:
        import trimesh

        box = trimesh.creation.box((1.0, 1.5, 0.7))
        options = {"ply": {"encoding": "ascii"}, "stl": {"file_type": "stl_ascii"}}.get(suffix, {})
        box.export(folder / f"a.{suffix}", **options)

    return make


def single_transforms(folder: Path) -> None:
    """A scene of one transforms.json, as instant-ngp has it, with masks."""
    frames = []
    folder.mkdir(exist_ok=True)
    for i in range(4):
        Image.fromarray(families.picture(i)).save(folder / f"{i}.png")
        angle = 0.5 * np.pi * i
        c, s = float(np.cos(angle)), float(np.sin(angle))
        pose = [[c, 0.0, s, 3 * s], [0.0, 1.0, 0.0, 0.0], [-s, 0.0, c, 3 * c], [0.0, 0.0, 0.0, 1.0]]
        frames.append({"file_path": f"{i}.png", "transform_matrix": pose, "mask_path": "mask.png"})
    Image.fromarray(np.full((families.SIDE, families.SIDE), 255, np.uint8)).save(folder / "mask.png")
    content = {"fl_x": 14.0, "fl_y": 14.0, "cx": 6.0, "cy": 6.0, "w": 12, "h": 12, "k1": 0.0, "aabb_scale": 4}
    (folder / "transforms.json").write_text(json.dumps({**content, "frames": frames}))


# ------------------------------------------------------------------------------------------------ by hand


def text(content: str | bytes) -> Callable[[Path, Random], None]:
    """Writes a content."""
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    return lambda path, rng: void(path.write_bytes(data))


def with_key(key: str, value: Any) -> Callable[[Path, Random], None]:
    """Writes a JSON file with another value; `key` may be a path with dots, numbers are places in lists."""

    def change(path: Path, rng: Random) -> None:
        content = json.loads(path.read_text())
        *above, last = [int(part) if part.isdecimal() else part for part in key.split(".")]
        parent = content
        for part in above:
            parent = parent[part]
        parent[last] = value
        path.write_text(json.dumps(content))

    return change


def void(_: object) -> None:
    """Nothing."""


def pixels_of(mode: str, size: tuple[int, int]) -> Callable[[Path, Random], None]:
    return lambda path, rng: Image.new(mode, size).save(path)


def ply(
    faces: str, *, count: int = 4, kind: str = "float", points: str = "", of: str = ""
) -> Callable[[Path, Random], None]:
    """Writes a .ply of 4 points."""
    corners = "".join(f"property {kind} {axis}\n" for axis in "xyz")
    of = of or "property list uchar int vertex_indices"
    header = f"ply\nformat ascii 1.0\nelement vertex 4\n{corners}element face {count}\n{of}\nend_header\n"
    return text(header + (points or POINTS) + faces)


POINTS, TETRA = "0 0 0\n1 0 0\n0 1 0\n0 0 1\n", "3 0 2 1\n3 0 1 3\n3 1 2 3\n3 0 3 2\n"

# What it is -> (format, how it is written). All of them have to be refused.
BY_HAND: dict[str, tuple[str, Callable[[Path, Random], None]]] = {
    "a picture without pixels": ("picture .ppm", text(b"P6\n0 0\n255\n")),
    "a picture of one gigapixel": ("picture .ppm", text(b"P6\n40000 40000\n255\n" + bytes(99))),
    "an interlaced bomb": ("picture .png", pixels_of("1", (30_000, 30_000))),
    "a TIFF of NaN": (
        "picture .tif", lambda path, rng: Image.fromarray(np.full((12, 12), np.nan, np.float32)).save(path),
    ),
    "indices below 0": ("mesh .ply", ply("3 0 -1 2\n", count=1)),
    "indices above": ("mesh .ply", ply("3 0 1 4\n", count=1)),
    "corners at infinity": ("mesh .ply", ply(TETRA, points=POINTS.replace("1", "inf"))),
    "an unknown type": ("mesh .ply", ply(TETRA, kind="quad")),
    "faces without a list": ("mesh .ply", ply("1\n" * 4, of="property int a")),
    "a face of 2 corners": ("mesh .ply", ply("2 0 1\n", count=1)),
    "all corners at one place": ("mesh .ply", ply(TETRA, points="1 1 1\n" * 4)),
    "no faces at all": ("mesh .obj", text("v 0 0 0\nv 1 0 0\nv 0 1 0\n")),
    "another file's material only": ("mesh .obj", text("mtllib /etc/passwd\nusemtl x\n")),
    "index 0": ("mesh .obj", text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 0 1 2\n")),
    "index beyond": ("mesh .obj", text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 999999999\n")),
    "counts of OFF": ("mesh .off", text("OFF\n-3 -1 0\n")),
    "OFF of a billion": ("mesh .off", text("OFF\n1000000000 1000000000 0\n0 0 0\n")),
    "a solid of nothing": ("mesh .stl", text("solid\nendsolid\n")),
    "a buffer somewhere else": (
        "mesh .glb",
        text(
            b"glTF\x02\x00\x00\x00\x5c\x00\x00\x00\x48\x00\x00\x00JSON"
            + b'{"asset":{"version":"2.0"},"buffers":[{"uri":"/etc/passwd"}]}'.ljust(72)
        ),
    ),
    "frames of nothing": ("transforms.json", with_key("frames", [])),
    "frames of numbers": ("transforms.json", with_key("frames", [1, 2])),
    "a picture outside": ("transforms_train.json", with_key("frames.1.file_path", "/etc/passwd")),
    "a picture above": ("transforms_train.json", with_key("frames.1.file_path", "../../../made/run/x.png")),
    "a name with a zero byte": ("transforms.json", with_key("frames.1.file_path", "a\x00b.png")),
    "half of a surrogate": ("transforms.json", with_key("frames.1.file_path", "\ud800.png")),
    "a very long name": ("transforms.json", with_key("frames.1.file_path", "a" * 5000)),
    "a pose of NaN": ("transforms.json", with_key("frames.1.transform_matrix.0.0", float("nan"))),
    "a pose that shears": ("transforms.json", with_key("frames.1.transform_matrix.0.1", 0.5)),
    "a camera at infinity": ("transforms.json", with_key("frames.1.transform_matrix.0.3", 1e300)),
    "no focal length": ("transforms.json", with_key("fl_x", 0)),
    "a focal length of 1e300": ("transforms.json", with_key("fl_x", 1e300)),
    "a width of 1e9": ("transforms.json", with_key("w", 1e9)),
    "an angle of pi": ("transforms_train.json", with_key("camera_angle_x", 3.1415926535897931)),
    "an unknown key": ("transforms_train.json", with_key("lens_of_mine", 1)),
    "a class of the system": ("config.json, inspect", with_key("model.generator", {"class": "os:system"})),
    "a function of the system": ("config.json, render", with_key("model.field", {"function": "os:system"})),
    "two scenes of one name": ("config.json, render", with_key("scenes", ["picture0", "picture0"])),
    "a billion scenes": ("config.json, render", with_key("model.latent_size", 10**9)),
    "a newer format": ("config.json, inspect", with_key("format", 999)),
    "another kind": ("config.json, render", with_key("kind", "shapes")),
    "results of an unknown kind": ("compare.json", with_key("kind", "smells")),
    "settings as a list": ("compare.json", text("[1, 2]")),
    "results of numbers": ("results.jsonl", text("1\n2\n")),
    "results without a metric": ("results.jsonl", text('{"generator": "full", "bytes_per_scene": null}\n')),
    "other modules": ("tcnn .json", with_key("modules", {})),
}  # fmt: skip
ALL_BY_HAND = BY_HAND | captures.BY_HAND
