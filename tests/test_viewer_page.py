"""The page's own mathematics, run by node: what it draws lies where the server's cameras see it."""

from __future__ import annotations

import json
import math
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperfields.cameras import Camera, look_at

pytest.importorskip("websockets")

from hyperfields.cameras.keyframes import CameraPath, camera
from hyperfields.cameras.nerfstudio import to_nerfstudio
from hyperfields.viewer.app import PAGE
from hyperfields.viewer.session import pack

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(
    NODE is None, reason="no node, which runs the page's JavaScript: apt-get install nodejs"
)

POSITION, TARGET, FOV = [-2.0, 1.5, 1.0], [0.1, -0.2, 0.3], 0.8


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's modules, said to be modules also to an older node."""
    folder = tmp_path_factory.mktemp("page")
    for source in PAGE.glob("*.js"):
        shutil.copy(source, folder)
    (folder / "package.json").write_text('{"type": "module"}')
    return folder


def run(page: Path, code: str, **values: Any) -> Any:
    """The value of `code`, which may use the exports of view.js and `values`."""
    script = f"""
        import * as view from "./view.js";
        import {{ unpack }} from "./link.js";
        const {{ Camera, Zoom, clipMatrix, frustum }} = view;
        const {{ {", ".join(values)} }} = {json.dumps(values)};
        console.log(JSON.stringify((() => {{ {code} }})()));
    """
    assert NODE is not None
    done = subprocess.run(
        [NODE, "--input-type=module", "-e", script], cwd=page, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def pixels(made: Camera, points: Tensor) -> Tensor:
    """Pictures of points `[n 3]` by a camera: (x, y) in [0, 1], y down."""
    inside = (points - made.T_world_camera[:3, 3]) @ made.T_world_camera[:3, :3]
    x = made.fx * inside[:, 0] / inside[:, 2] + made.cx
    y = made.fy * inside[:, 1] / inside[:, 2] + made.cy
    return torch.stack((x / made.width, y / made.height), -1)


def test_the_mesh_lies_where_the_server_sees_the_scene(page: Path) -> None:
    made = camera(look_at(torch.tensor(POSITION), torch.tensor(TARGET)), FOV, (200, 300))
    points = torch.rand(20, 3, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
    orbit = {"position": POSITION, "target": TARGET, "fov": FOV}
    key = to_nerfstudio(CameraPath(made.T_world_camera[None], torch.tensor([FOV])))["keyframes"][0]
    for given in (orbit, {"matrix": key["matrix"], "fov": FOV}):
        clip = (
            torch.tensor(run(page, "return [...clipMatrix(given, 1.5)]", given=given)).reshape(4, 4).T
        )  # column by column
        x, y, depth, w = (torch.nn.functional.pad(points, (0, 1), value=1.0) @ clip.T).unbind(-1)
        torch.testing.assert_close(
            torch.stack((0.5 + 0.5 * x / w, 0.5 - 0.5 * y / w), -1), pixels(made, points), atol=1e-5, rtol=0
        )
        assert bool((depth.abs() < w).all())  # in front of the eye, nearer than the horizon


def test_a_frustum_is_what_its_camera_sees(page: Path) -> None:
    made = camera(look_at(torch.tensor(POSITION), torch.tensor(TARGET)), FOV, (200, 300))
    key = to_nerfstudio(CameraPath(made.T_world_camera[None], torch.tensor([FOV])))["keyframes"][0]
    edges = torch.tensor(run(page, "return frustum(matrix, fov, 1.5, 0.3)", matrix=key["matrix"], fov=FOV))  # [e 2 3]
    torch.testing.assert_close(edges[:4, 0], torch.tensor(POSITION).expand(4, 3), atol=1e-5, rtol=0)
    corners = pixels(made, edges[:4, 1])
    assert sorted(map(tuple, corners.round().tolist())) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    torch.testing.assert_close(corners, corners.round(), atol=1e-5, rtol=0)
    mark = pixels(made, edges[8:, 0])
    assert float(mark[:, 1].max()) < 0.0  # above the picture


def test_a_camera_goes_where_a_matrix_is(page: Path) -> None:
    code = """const c = new Camera({position, target, fov});
        const d = new Camera({position: [1, 0, 0], target: [0, 0, 0], fov});
        d.goTo(c.matrix());
        d.read(d.text());
        return [c.matrix(), d.matrix(), d.text()]"""
    before, after, text = run(page, code, position=POSITION, target=TARGET, fov=FOV)
    assert after == pytest.approx(before, abs=2e-3)  # a link keeps three decimals
    assert len(text.split(",")) == 6


def test_a_camera_outside_sees_the_one_inside(page: Path) -> None:
    code = "const c = new Camera({position, target, fov}).outside(); return [c.position, c.view(0.5).fov]"
    position, fov = run(page, code, position=POSITION, target=TARGET, fov=FOV)
    view = camera(look_at(torch.tensor(position), torch.tensor(TARGET)), fov, (200, 100))
    seen = pixels(view, torch.tensor([POSITION]))
    assert bool(((seen > 0.0) & (seen < 1.0)).all())
    assert 2.0 * math.atan(math.tan(fov / 2) * 0.5) == pytest.approx(FOV)  # as wide as it was high


def test_the_wheel_zooms_at_the_mouse(page: Path) -> None:
    code = """const zoom = new Zoom(1.25), at = [0.3, 0.8];
        const place = () => {
            const [l, t, r, b] = zoom.view(1.6).window;
            return [l + at[0] * (r - l), t + at[1] * (b - t)];
        };
        const before = place(); zoom.zoom(0.4, 1.6, at); const after = place();
        const other = new Zoom(1.25); other.read(zoom.text());
        return [before, after, zoom.view(1.6).window, other.view(1.6).window]"""
    before, after, window, again = run(page, code)
    assert after == pytest.approx(before)
    assert again == pytest.approx(window, abs=1e-3)
    left, top, right, bottom = window
    assert (right - left) * 1.25 / (bottom - top) == pytest.approx(1.6)


def test_a_message_is_unpacked(page: Path) -> None:
    data = pack({"type": "mesh", "id": 3}, struct.pack("<2f", 1.0, -2.0))
    code = """const [header, bytes] = unpack(new Uint8Array(data).buffer);
        return [header, [...new Float32Array(bytes.buffer, bytes.byteOffset, 2)]]"""
    assert run(page, code, data=list(data)) == [{"type": "mesh", "id": 3}, [1.0, -2.0]]


@pytest.mark.skipif(shutil.which("tsc") is None, reason="no tsc to check the page's types: npm install -g typescript")
def test_types_of_the_page() -> None:
    """Files with `@ts-check`, that is all that are not full of elements of the page."""
    options = ["--noEmit", "--allowJs", "--strict", "--target", "es2022", "--module", "es2022"]
    options += ["--moduleResolution", "bundler"]
    command = ["tsc", *options, "--lib", "es2022,dom,dom.iterable", str(PAGE / "main.js")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout
