"""The page in a real browser: every tab for a run of each kind, with mouse and keys.

`VIEWER_SHOTS=folder` keeps the screenshots. Needs Debian's chromium (or Chrome) and playwright, which drives it; where
they cannot be had these tests are skipped, but in CI that is a failure.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperfields.data import Kind
from hyperfields.tasks import task_of

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def missing() -> str:
    """Why there is no browser to test with; empty when there is."""
    for module in ("websockets", "playwright"):
        if importlib.util.find_spec(module) is None:
            return f"no {module}: pip install {module}"
    return "" if any(map(shutil.which, BROWSERS)) else "no browser: apt-get install chromium"


if missing() and not os.environ.get("CI"):
    pytest.skip(missing(), allow_module_level=True)
assert not missing(), missing()

from playwright.sync_api import Browser, Page, WebSocket, sync_playwright  # noqa: E402 - all that follows needs what was asked for

from hyperfields.viewer.app import Viewer  # noqa: E402

from ._viewer import PATIENCE, decoded, viewing, wait_until  # noqa: E402


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, to which no other host exists."""
    path = next(filter(None, map(shutil.which, BROWSERS)))
    rules = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", rules])
        yield opened
        opened.close()


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("VIEWER_SHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Visit:
    """A page on a viewer, with all that went wrong on it."""

    def __init__(self, browser: Browser, viewer: Viewer, **options: Any) -> None:
        self.page: Page = browser.new_page(viewport={"width": 1280, "height": 720}, **options)
        self.page.set_default_timeout(1e3 * PATIENCE)
        self.wrong: list[str] = []
        self.asked: list[str] = []
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", lambda m: self.wrong.append(m.text) if m.type == "error" else None)
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.sent: list[str | bytes] = []  # messages to the server
        self.page.on("websocket", self._watch)
        origin = viewer.gate.origin
        self.own = (origin, origin.replace("http", "ws"), f"blob:{origin}", "data:")
        self.page.goto(viewer.url)
        self.still()

    def _watch(self, socket: WebSocket) -> None:
        self.asked.append(socket.url)
        socket.on("framesent", lambda message: self.sent.append(message))  # playwright marks the function

    def still(self) -> None:
        self.page.wait_for_selector("body[data-level=still]")

    @property
    def caption(self) -> str:
        return self.page.inner_text("#caption")

    def pictures(self) -> int:
        return int(self.page.evaluate("Number(document.body.dataset.pictures)"))

    def until(self, true: Callable[[], Any]) -> None:
        """Returns when something is true of the page, which goes on meanwhile."""
        wait_until(true, lambda _: self.page.wait_for_timeout(30))

    def await_caption(self, text: str) -> None:
        self.page.wait_for_selector(f"#caption:text-is('{text}')")
        self.still()

    def settled(self, canvas: str) -> Tensor:
        """Pixels of a canvas that does not change any more, `[h w 3]`."""
        seen = [pixels(self, canvas)]

        def again() -> bool:
            self.page.wait_for_timeout(100)
            seen.append(pixels(self, canvas))
            return torch.equal(*seen[-2:])

        self.until(again)
        return seen[-1]

    def download(self, click: str, box: str) -> bytes:
        """The file that a job makes."""
        with self.page.expect_download() as made:
            self.page.click(click)
        self.page.wait_for_selector(f"{box} a")
        return Path(made.value.path()).read_bytes()

    def close(self) -> None:
        outside = [url for url in self.asked if not url.startswith(self.own)]
        self.page.close()
        assert not outside, outside
        assert not self.wrong, self.wrong


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["images", "shapes", "views"])
def test_a_person_explores_a_run(browser: Browser, shots: Path, kind: Kind) -> None:
    with viewing(kind, small=0.5, middle=0.65, big=0.8) as viewer:
        visit = Visit(browser, viewer)
        page, task = visit.page, task_of(kind)
        assert visit.caption == "small"
        assert "token" not in page.url
        assert "token" not in page.evaluate("JSON.stringify(performance.getEntries()) + document.referrer")
        page.screenshot(path=shots / f"{kind}_latent.png")
        drag_the_map(visit)
        walk(visit, shots / f"{kind}_interpolate.png")
        if task.has_camera:
            film(visit)
            overview(visit, shots / f"{kind}_overview.png")
        else:
            look_closer(visit)
        page.screenshot(path=shots / f"{kind}_camera.png")
        if task.has_mesh:
            mesh(visit, shots / f"{kind}_mesh.png")
        choose(visit, kind)
        page.keyboard.press("t")
        visit.still()
        page.screenshot(path=shots / f"{kind}_scene_dark.png")
        come_back(visit, kind)
        page.set_viewport_size({"width": 400, "height": 760})
        visit.still()
        visit.until(lambda: page.evaluate("document.documentElement.scrollWidth") <= 400)
        page.screenshot(path=shots / f"{kind}_narrow.png")
        visit.close()


def drag_the_map(visit: Visit) -> None:
    page = visit.page
    before = visit.pictures()
    box = page.locator("#map").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.4
    page.mouse.move(x, y)
    page.mouse.down()
    steps = itertools.cycle(range(12))

    def drawn() -> bool:
        step = next(steps)
        page.mouse.move(x + 5 * step, y + 2 * step)
        return visit.pictures() >= before + 3

    visit.until(drawn)
    page.mouse.up()
    visit.until(lambda: visit.caption.startswith("between "))
    visit.until(lambda: "key=" in page.url)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("r")
    visit.still()
    page.focus("#axis-1")
    page.keyboard.press("ArrowRight")
    visit.still()
    page.click("#nearest li:nth-child(2) button")
    visit.until(lambda: visit.caption in ("small", "middle", "big"))
    page.keyboard.press("]")
    page.keyboard.press("0")
    visit.await_caption("small")


def walk(visit: Visit, shot: Path) -> None:
    page = visit.page
    page.keyboard.press("2")
    page.fill("#stop-name", "big")
    page.click("#add-stop")
    assert page.locator("#stops li").count() == 3
    page.fill("#stop-name", "big - small + middle")
    page.click("#add-stop")
    assert page.locator("#stops li").count() == 4
    page.fill("#pace", "0.6")
    page.locator("#pace").blur()
    before = visit.pictures()
    page.keyboard.press("Space")
    visit.until(lambda: visit.pictures() >= before + 4)
    page.screenshot(path=shot)
    page.keyboard.press("Space")
    visit.still()
    page.fill("#walk-frames", "4")
    page.select_option("#walk-size", "128")
    page.select_option("#walk-suffix", ".gif")
    assert visit.download("#walk-export", "#walk-jobs")[:6] == b"GIF89a"


def film(visit: Visit) -> None:
    """A camera path: keyframes, preview, film, file."""
    page = visit.page
    page.keyboard.press("3")
    canvas = page.locator("#picture").bounding_box()
    assert canvas is not None
    x, y = canvas["x"] + canvas["width"] / 2, canvas["y"] + canvas["height"] / 2
    page.keyboard.press("k")
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 120, y + 30, steps=4)
    page.mouse.up()
    page.mouse.wheel(0, 200)
    page.keyboard.press("c")
    page.keyboard.press("ArrowLeft")
    page.keyboard.down("w")
    page.wait_for_timeout(150)
    page.keyboard.up("w")
    page.keyboard.press("k")
    page.wait_for_selector("#keys li:nth-child(2)")
    visit.still()
    page.fill("#seconds", "0.5")
    page.fill("#fps", "8")
    page.select_option("#path-size", "128")
    page.locator("#fps").blur()
    visit.until(lambda: page.evaluate("viewer.cameraTab.frames.length") == 4)
    before = visit.pictures()
    page.keyboard.press("p")
    visit.until(lambda: visit.pictures() > before)
    video = ".mp4" if importlib.util.find_spec("av") else ".gif"
    page.select_option("#path-suffix", video)
    film = visit.download("#path-render", "#path-jobs")
    assert film[4:8] == b"ftyp" if video == ".mp4" else film[:3] == b"GIF"
    with page.expect_download() as made:
        page.click("#path-save")
    path = Path(made.value.path())
    saved = json.loads(path.read_text())
    assert len(saved["keyframes"]) == 2
    assert len(saved["camera_path"]) == 4
    page.click("#clear-keys")
    assert page.locator("#keys li").count() == 0
    page.set_input_files("#path-file", str(path))
    page.wait_for_selector("#keys li:nth-child(2)")


def pixels(visit: Visit, canvas: str) -> Tensor:
    """Pixels of a canvas, `[h w 3]`."""
    return decoded(visit.page.locator(canvas).screenshot())


def drag(visit: Visit, canvas: str) -> None:
    page, box = visit.page, visit.page.locator(canvas).bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 + 150, box["y"] + box["height"] / 2 + 40, steps=5)
    page.mouse.up()


def turned(visit: Visit, before: Tensor) -> None:
    """What WebGL draws changes."""
    visit.until(lambda: float((pixels(visit, "#solid") - before).abs().mean()) > 0.005)


def overview(visit: Visit, shot: Path) -> None:
    """The path from outside: it turns without the server."""
    page = visit.page
    page.click("#circle")
    visit.until(lambda: page.evaluate("viewer.cameraTab.frames.length") > 0)
    page.keyboard.press("v")
    page.wait_for_selector("body[data-covered=true]")
    visit.still()
    before = visit.settled("#solid")
    sent = len(visit.sent)
    page.screenshot(path=shot)
    orange = torch.tensor([0.835, 0.369, 0.0])  # of the keyframes
    assert float(((before - orange).abs().amax(-1) < 0.1).float().mean()) > 2e-4
    drag(visit, "#solid")
    turned(visit, before)
    assert not visit.sent[sent:]
    page.keyboard.press("v")
    page.wait_for_selector("body[data-covered=false]")
    visit.still()


def mesh(visit: Visit, shot: Path) -> None:
    """A mesh lies where the picture showed the scene, and turns without the server."""
    page = visit.page
    page.keyboard.press("h")
    page.keyboard.press("4")
    page.click("#scenes li:nth-child(2)")  # the walk stopped somewhere
    visit.await_caption("middle")
    picture = visit.settled("#picture")
    page.check("#show-mesh")
    page.wait_for_selector("body[data-covered=true]")
    visit.still()
    drawn = visit.settled("#solid")
    page.screenshot(path=shot)
    scene, solid = ((image - image[0, 0]).abs().amax(-1) > 0.1 for image in (picture, drawn))
    iou = float((scene & solid).sum() / (scene | solid).sum())
    print(f"picture and mesh overlap by {iou:.4f}")
    assert iou > 0.95
    sent = len(visit.sent)
    drag(visit, "#picture")
    turned(visit, drawn)
    assert not visit.sent[sent:]
    visit.until(lambda: "mesh=1" in page.url)
    page.uncheck("#show-mesh")
    visit.still()


def look_closer(visit: Visit) -> None:
    """Images: the wheel zooms in at the mouse, drags move."""
    page = visit.page
    page.keyboard.press("3")
    page.click("#zoom-in")
    visit.still()
    page.hover("#picture")
    page.mouse.wheel(0, -300)
    visit.still()
    page.keyboard.press("c")
    page.keyboard.press("ArrowUp")
    visit.still()
    visit.until(lambda: 0.1 < float(page.url.split("window=")[1].split("&")[0].split("%2C")[2]) < 0.7)


def choose(visit: Visit, kind: Kind) -> None:
    """Search, channels, downloads, what is missing."""
    page = visit.page
    page.keyboard.press("/")
    page.fill("#search", "bi")
    assert page.locator("#scenes li").count() == 1
    page.keyboard.press("Enter")
    visit.await_caption("big")
    task = task_of(kind)
    if "depth" in task.channels:
        page.check("input[value=depth]")
        visit.still()
    if task.has_mesh:
        assert visit.download("[data-export='.ply']", "#export-jobs").startswith(b"ply\n")
    assert visit.download("[data-export='.png']", "#export-jobs").startswith(b"\x89PNG")
    page.click("#measure")
    page.wait_for_selector("#measure-jobs :text('does not say which family')")


def come_back(visit: Visit, kind: Kind) -> None:
    """A link reopens what was seen."""
    page = visit.page
    position = page.evaluate("viewer.camera.text()")
    wanted = {"scene": "big", "tab": "scene", "camera" if task_of(kind).has_camera else "window": position}
    if "depth" in task_of(kind).channels:
        wanted["channel"] = "depth"
    address = "Object.entries(wanted).every(([k, v]) => new URLSearchParams(location.hash.slice(1)).get(k) === v)"
    visit.until(lambda: page.evaluate(f"(wanted) => {address}", wanted))
    url = page.evaluate("location.href")
    page.reload()
    visit.still()
    assert visit.caption == "big"
    assert page.get_attribute("[data-tab=scene]", "aria-selected") == "true"
    assert page.evaluate("viewer.camera.text()") == position
    if "depth" in task_of(kind).channels:
        assert page.is_checked("input[value=depth]")
    page.wait_for_timeout(300)
    assert page.evaluate("location.href") == url


def test_a_page_says_when_the_viewer_has_gone(browser: Browser) -> None:
    with viewing("images") as viewer:
        visit = Visit(browser, viewer)
        assert visit.page.inner_text("#link") == "connected"
    visit.page.wait_for_selector("#link:has-text('gone')")
    visit.page.close()


def test_a_link_without_the_token_works_in_the_same_browser_only(browser: Browser) -> None:
    with viewing("images") as viewer:
        visit = Visit(browser, viewer)
        visit.page.goto("about:blank")
        visit.page.goto(f"{viewer.gate.origin}/#scene=big")
        visit.await_caption("big")
        other = browser.new_page()
        answer = other.goto(f"{viewer.gate.origin}/#scene=big")
        assert answer is not None
        assert answer.status == 403
        assert "no token" in other.inner_text("body")
        other.close()
        visit.close()


def test_names_are_text_and_never_markup(browser: Browser) -> None:
    name = "<img src=x onerror=alert(1)>"
    with viewing("images", **{name: 0.3, "other": 0.6}) as viewer:
        visit = Visit(browser, viewer)
        assert visit.caption == name
        visit.page.keyboard.press("2")
        visit.page.keyboard.press("4")
        assert visit.page.locator("main img").count() == 0
        visit.close()
