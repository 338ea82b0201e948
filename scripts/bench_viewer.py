"""Figures of the viewer: python scripts/bench_viewer.py page|crowd|jobs|attack RUN, for NUMBERS.md.

`page` measures in a headless Chromium: from the mouse's movement, or the start of the load, to the picture on the
canvas. The others talk to the viewer as many pages do. `screenshots CARS EMOJI SHAPES` takes the pictures of the docs
(`docs/viewer_*.jpg`) from runs of the samples.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import random
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attack_viewer
import psutil
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

PORT = 8890
LOG = "(level) => [...viewer.log.values()].filter((e) => e[level]).map((e) => e[level] - e.changed)"
Row = tuple[str, str, str]  # what, bar, measured


class Server:
    """The viewer in a process of its own."""

    def __init__(self, run: Path) -> None:
        command = [sys.executable, "-m", "hyperfields", "view", str(run), "--port", str(PORT)]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by `stop`
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._errors, text=True)
        assert self.process.stdout is not None
        self.url = next((line.split()[-1] for line in self.process.stdout if "http://" in line), "")
        if not self.url:
            raise SystemExit(f"bench_viewer: the viewer did not start: {self.stop()}")
        address = urlsplit(self.url)
        self.host, self.token = address.netloc, address.query.partition("=")[2]

    def stop(self) -> str:
        """What it wrote to stderr; it is ended as a service is."""
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=60)
        with self._errors:
            self._errors.seek(0)
            return self._errors.read()

    @property
    def memory(self) -> float:
        """MB."""
        return float(psutil.Process(self.process.pid).memory_info().rss) / 1e6

    def connect(self) -> ClientConnection:
        options: dict[str, Any] = {"origin": f"http://{self.host}", "max_size": None, "proxy": None}
        return connect(f"ws://{self.host}/live?token={self.token}", **options)


class Page:
    """A page without a browser, and how long it has waited for each picture."""

    def __init__(self, server: Server) -> None:
        self.socket = server.connect()
        hello = json.loads(self.socket.recv())
        self.view = hello["camera"] or {"window": [0, 0, 1, 1]}
        self.scenes: list[str] = hello["scenes"]
        self.waits: list[float] = []  # for the next picture
        self.whole: list[float] = []  # for the finished one, when nothing moves
        self.sharp: list[float] = []  # until it is as large as was asked for
        self._number = 0

    def look(self, at: tuple[float, float], *, moving: bool) -> None:
        """Ask for a picture, of 256x256 when nothing moves, and wait for it."""
        self._number += 1
        latent = {"at": list(at)}
        began = time.monotonic()
        self.send("view", view=self.view, size=[256, 256], latent=latent, moving=moving)
        self.until(lambda header: header.get("id") == self._number)
        self.waits.append(time.monotonic() - began)
        if moving:
            return
        header = self.until(lambda header: header.get("id") == self._number and header["level"] == "still")
        self.whole.append(time.monotonic() - began)
        while header.get("size") != [256, 256]:
            header = self.until(lambda header: header.get("id") == self._number)
        self.sharp.append(time.monotonic() - began)

    def send(self, kind: str, **more: Any) -> None:
        self.socket.send(json.dumps({"type": kind, "id": self._number, **more}))

    def until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        while True:
            data = self.socket.recv(600.0)
            if isinstance(data, bytes):
                (length,) = struct.unpack("<I", data[:4])
                data = data[4 : 4 + length].decode()
            header: dict[str, Any] = json.loads(data)
            if header.get("type") in ("error", "failed"):
                raise SystemExit(f"bench_viewer: {header['text']}")
            if wanted(header):
                return header


def together(*workers: Callable[[], None]) -> None:
    """Runs each in a thread, to the end of all; what one raises is raised."""
    with ThreadPoolExecutor(len(workers)) as pool:
        for future in [pool.submit(worker) for worker in workers]:
            future.result()


def summary(pages: list[Page]) -> str:
    def row(kind: str) -> str:
        seconds = list(chain.from_iterable(getattr(page, kind) for page in pages))
        return f"{len(seconds)}, longest {max(seconds):.2f} s, median {statistics.median(seconds):.2f} s"

    return f"next pictures {row('waits')}; whole ones {row('whole')}; with all pixels {row('sharp')}"


# Many pages -------------------------------------------------------------------------------------------


def crowd(server: Server, clients: int, steps: int = 12, rounds: int = 3) -> list[Row]:
    """Clients that each drag over the map and then want a finished picture."""
    pages: list[Page] = []
    memory = [server.memory]

    def use(number: int) -> None:
        page = Page(server)
        with page.socket:
            for step in range(steps):
                page.look((0.1 * (number % 10) - 0.4, 0.05 * step - 0.5), moving=step < steps - 1)
        pages.append(page)

    for _ in range(rounds):
        together(*(partial(use, number) for number in range(clients)))
        memory.append(server.memory)
    sizes = ", ".join(f"{size:.0f}" for size in memory)
    measured = f"of {rounds * clients * steps}: {summary(pages)}; memory {sizes} MB before and after {rounds} rounds"
    return [(f"{clients} clients at once", "all answered, 2 s", measured)]


def jobs(server: Server, clients: int, frames: int = 24) -> list[Row]:
    """A film and a mesh are made while others look."""
    done = threading.Event()
    pages: list[Page] = []
    took: dict[str, float] = {}
    size = {"size": [256, 256]}

    def use(number: int) -> None:
        page, step = Page(server), 0
        with page.socket:
            while not done.is_set():
                step += 1
                page.look((0.1 * number - 0.4, 0.04 * (step % 25) - 0.5), moving=step % 12 != 0)
                time.sleep(0.05)
        pages.append(page)

    def make(made: str, **job: Any) -> None:
        page = Page(server)
        with page.socket:
            began = time.monotonic()
            page.send("job", **job)
            page.until(lambda header: header["type"] == "file")
            took[made] = time.monotonic() - began

    def makers() -> None:
        try:
            scenes = Page(server).scenes
            together(
                lambda: make("film", what="walk", suffix=".mp4", walk=scenes[:3], frames=frames, **size),
                lambda: make("mesh", what="export", suffix=".glb", latent={"scene": scenes[-1]}),
            )
        finally:
            done.set()

    together(makers, *(partial(use, number) for number in range(clients)))
    measured = f"{summary(pages)}; film {took['film']:.0f} s, mesh {took['mesh']:.0f} s"
    return [(f"a film of {frames} frames and a mesh while {clients} look", "1 s", measured)]


def attack(server: Server, minutes: float) -> list[Row]:
    """Random messages and requests, a flood, clients that read and ask nothing, while one page looks."""
    logging.getLogger("websockets").setLevel(logging.CRITICAL)  # clients that are turned away, as they should be
    end, memory, counts = time.monotonic() + 60.0 * minutes, server.memory, {"messages": 0, "requests": 0, "floods": 0}
    port, cookie = int(server.host.rpartition(":")[2]), cookie_of(server)
    page = Page(server)

    def going() -> bool:
        return time.monotonic() < end and server.process.poll() is None

    def random_messages(seed: int) -> None:
        messages = attack_viewer.messages(random.Random(seed))
        while going():
            with contextlib.suppress(ConnectionClosed, TimeoutError), server.connect() as client:
                while going():
                    for _ in range(10):
                        client.send(next(messages))
                        counts["messages"] += 1
                    with contextlib.suppress(TimeoutError):
                        while True:
                            client.recv(0.0)

    def random_requests() -> None:
        for request in attack_viewer.requests(random.Random(0), server.host, cookie):
            if not going():
                return
            with contextlib.suppress(OSError):
                attack_viewer.answer(port, request, 0.2)
            counts["requests"] += 1

    def flood() -> None:
        view = json.dumps({"type": "view", "id": 1, "latent": {"seed": 1}, "size": [8, 8], "view": page.view})
        while going():
            with contextlib.suppress(ConnectionClosed), server.connect() as client:
                while going():  # and never reads
                    client.send(view)
                    counts["floods"] += 1

    def silent() -> None:
        while going():
            with contextlib.suppress(OSError):
                attack_viewer.answer(port, b"GET / HTTP/1.1\r\nHost: ", 3.0)

    def look() -> None:
        step = 0
        while going():
            step += 1
            page.look((0.3, 0.04 * (step % 25) - 0.5), moving=step % 4 != 0)
            time.sleep(0.2)

    messages = [partial(random_messages, seed) for seed in range(2)]
    together(look, random_requests, flood, *messages, *[silent] * 20)
    code = server.process.poll()
    done = ", ".join(f"{count:,} {what}" for what, count in counts.items())
    state = "alive" if code is None else f"ended with {code}"
    measured = f"{state}; {done}; another page: {summary([page])}; memory {memory:.0f}, {server.memory:.0f} MB"
    page.socket.close()
    return [(f"{minutes:g} minutes of random messages and requests, floods and silence", "alive, 2 s", measured)]


def cookie_of(server: Server) -> str:
    request = f"GET /?token={server.token} HTTP/1.1\r\nHost: {server.host}\r\n\r\n"
    answer = attack_viewer.answer(int(server.host.rpartition(":")[2]), request.encode()).decode()
    return answer.partition("Set-Cookie: ")[2].partition(";")[0]


# In a browser -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


def in_browser(server: Server) -> list[Row]:
    """One browser alone."""
    with browser() as opened:
        return measure(opened.new_page(viewport={"width": 1280, "height": 720}), server.url)


def measure(page: Any, url: str) -> list[Row]:
    loads = []
    for _ in range(5):
        page.goto("about:blank")
        began = time.monotonic()
        page.goto(url)
        page.wait_for_selector("body[data-pictures]")
        loads.append(time.monotonic() - began)
    page.wait_for_selector("body[data-level=still]")
    page.wait_for_timeout(3000)

    drag(page, "#map", 30)
    dragged = page.evaluate(LOG, "moving")
    page.wait_for_timeout(1000)

    page.evaluate("viewer.log.clear()")
    frames = page.evaluate("Number(document.body.dataset.pictures)")
    began = time.monotonic()
    drag(page, "#picture", 120, pause=16)
    turned = (page.evaluate("Number(document.body.dataset.pictures)") - frames) / (time.monotonic() - began)
    page.wait_for_timeout(1500)

    page.set_viewport_size({"width": 656, "height": 299})  # a pane of 256 x 256 beside the controls
    page.evaluate("document.querySelector('#panes').style.cssText = 'width: 256px; height: 256px'")
    page.wait_for_timeout(1500)
    page.evaluate("viewer.log.clear()")
    for _ in range(5):
        page.keyboard.press("]")
        page.wait_for_timeout(1500)
    size = page.inner_text("#readout").split(" ")[0]
    still = page.evaluate(LOG, "still")
    return [
        ("drag on the map to first new picture, median", "150 ms", f"{statistics.median(dragged):.0f} ms"),
        (f"still to full picture ({size}), median", "1.5 s", f"{statistics.median(still) / 1e3:.2f} s"),
        ("pictures a second while orbiting", "10", f"{turned:.1f}"),
        ("page load to first picture, median of 5", "3 s", f"{statistics.median(loads):.2f} s"),
    ]


def drag(page: Any, what: str, steps: int, pause: int = 60) -> None:
    box = page.locator(what).bounding_box()
    assert box is not None
    x, y = box["x"] + 0.35 * box["width"], box["y"] + 0.45 * box["height"]
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(steps):
        page.mouse.move(x + 100 * step / steps, y + 30 * step / steps)
        page.wait_for_timeout(pause)
    page.mouse.up()


# Pictures for the docs ---------------------------------------------------------------------------------

DOCS = Path(__file__).parents[1] / "docs"


def screenshots(cars: Path, emoji: Path, shapes: Path, folder: Path) -> None:
    """viewer_latent.jpg, viewer_interpolate.jpg, viewer_camera.jpg."""
    with browser() as opened:
        for run, name, show in ((cars, "latent", latent), (emoji, "interpolate", walk), (shapes, "camera", film)):
            server = Server(run)
            page = opened.new_page(viewport={"width": 1280, "height": 720}, device_scale_factor=1.5)
            try:
                page.goto(server.url)
                settle(page)
                show(page)
                page.screenshot(path=folder / f"viewer_{name}.jpg", type="jpeg", quality=82)
            finally:
                page.close()
                server.stop()


def settle(page: Any) -> None:
    """Until no sharper picture comes."""
    page.wait_for_selector("body[data-level=still]", timeout=120_000)
    seen = -1
    while seen != (seen := page.evaluate("Number(document.body.dataset.pictures)")):
        page.wait_for_timeout(4000)


def latent(page: Any) -> None:
    """A blend, a little off a car on the way to another."""
    first, second = (page.evaluate(f"viewer.about.places[viewer.about.scenes.indexOf('{name}')]") for name in BLEND)
    x, y = (a + 0.1 * (b - a) for a, b in zip(first, second, strict=True))
    page.evaluate(f"viewer.latent = {{at: [{x}, {y}]}}; viewer.request()")
    settle(page)
    page.evaluate("viewer.latent = {key: viewer.now.key}; viewer.request()")  # the ring of the map follows
    page.mouse.move(440, 380)
    page.mouse.wheel(0, -120)
    settle(page)


def walk(page: Any) -> None:
    page.keyboard.press("2")
    while page.locator("#stops li").count():
        page.locator("#stops li button").last.click()
    for name in WALK:
        page.fill("#stop-name", name)
        page.click("#add-stop")
    page.evaluate("const time = document.querySelector('#time'); time.value = 0.36; "
                  "time.dispatchEvent(new Event('input'))")  # fmt: skip
    settle(page)


def film(page: Any) -> None:
    """A circle round a truck, from outside, in the dark."""
    page.evaluate(f"viewer.go('{FILMED}')")
    page.keyboard.press("t")
    page.keyboard.press("3")
    page.click("#circle")
    page.click("#overview")
    page.wait_for_selector("body[data-covered=true]", timeout=120_000)
    page.wait_for_timeout(2000)


BLEND = ("q_real_NormalCar1", "q_real_Cop")
WALK = ("cat-face", "tiger-face", "panda-face", "sun-with-face", "smiling-face-with-sunglasses")
FILMED = "k_firetruck"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("page", "crowd", "jobs", "attack", "screenshots"))
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="one; three for screenshots")
    parser.add_argument("--clients", type=int, help="default: 50 for crowd, 8 for jobs")
    parser.add_argument("--minutes", type=float, default=0.5, help="of the attack")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder of the screenshots")
    options = parser.parse_args()
    if len(options.runs) != (3 if options.what == "screenshots" else 1):
        parser.error("wanted one RUN, or CARS EMOJI SHAPES for screenshots")
    if options.what == "screenshots":
        screenshots(*options.runs, options.out)
        return 0
    server = Server(options.runs[0])
    try:
        if options.what == "page":
            rows = in_browser(server)
        elif options.what == "attack":
            rows = attack(server, options.minutes)
        elif options.what == "crowd":
            rows = crowd(server, options.clients or 50)
        else:
            rows = jobs(server, options.clients or 8)
    finally:
        errors = server.stop()
    print("| what | bar | measured |\n|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    if errors or server.process.returncode:
        print(f"bench_viewer: the viewer ended with {server.process.returncode} and wrote:\n{errors}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
