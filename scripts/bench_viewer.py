"""Latency and frame rate of the viewer, in a real headless Chromium: python scripts/bench_viewer.py RUN

Times are seen from the page: from the mouse's movement (or the start of the load) to the picture on the canvas.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from playwright.sync_api import Page, sync_playwright
from websockets.sync.client import connect

PORT = 8890
LOG = "(level) => [...viewer.log.values()].filter((e) => e[level]).map((e) => e[level] - e.changed)"


def server(run: Path) -> tuple[subprocess.Popen[str], str]:
    """The viewer in a process of its own, and its address."""
    command = [sys.executable, "-m", "hyperfields", "view", str(run), "--port", str(PORT)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "http://" in line:
            return process, line.split()[-1]
    raise SystemExit("bench_viewer: the viewer did not start")


def measure(page: Page, url: str) -> list[tuple[str, str, str]]:
    """(what, bar, measured), one browser alone."""
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


def drag(page: Page, what: str, steps: int, pause: int = 60) -> None:
    box = page.locator(what).bounding_box()
    assert box is not None
    x, y = box["x"] + 0.35 * box["width"], box["y"] + 0.45 * box["height"]
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(steps):
        page.mouse.move(x + 100 * step / steps, y + 30 * step / steps)
        page.wait_for_timeout(pause)
    page.mouse.up()


def crowd(url: str, clients: int = 8, steps: int = 12) -> tuple[int, float]:
    """(answered, longest wait in s) of clients that each drag over the map and then want a finished picture."""
    waits: list[float] = []
    address = urlsplit(url)

    def use(number: int) -> None:
        options: dict[str, Any] = {"origin": f"http://{address.netloc}", "max_size": None, "proxy": None}
        with connect(f"ws://{address.netloc}/live?{address.query}", **options) as socket:
            hello = json.loads(socket.recv())
            request = {"type": "view", "view": hello["camera"] or {"window": [0, 0, 1, 1]}, "size": [256, 256]}
            for step in range(steps):
                moving = step < steps - 1
                request |= {"id": step, "latent": {"at": [0.1 * number - 0.4, 0.05 * step - 0.5]}, "moving": moving}
                began = time.monotonic()
                socket.send(json.dumps(request))
                while True:
                    data = socket.recv(60.0)
                    assert isinstance(data, bytes), data
                    (length,) = struct.unpack("<I", data[:4])
                    header = json.loads(data[4 : 4 + length])
                    if header["id"] == step and header["level"] == ("moving" if moving else "still"):
                        break
                waits.append(time.monotonic() - began)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(waits), max(waits)


def rss(process: subprocess.Popen[str]) -> float:
    """Memory of the viewer, MB."""
    return float(psutil.Process(process.pid).memory_info().rss) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    process, url = server(parser.parse_args().run)
    try:
        browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
        with sync_playwright() as playwright:
            opened = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
            rows = measure(opened.new_page(viewport={"width": 1280, "height": 720}), url)
            opened.close()
        crowds, memory = [], [rss(process)]
        for _ in range(3):
            crowds.append(crowd(url))
            memory.append(rss(process))
        answered, longest = sum(count for count, _ in crowds), max(wait for _, wait in crowds)
        sizes = ", ".join(f"{size:.0f}" for size in memory)
        measured = f"{answered} of {3 * 8 * 12}, longest {longest:.2f} s; memory {sizes} MB before and after 3 rounds"
        rows.append(("8 clients at once", "all answered, 3 s", measured))
    finally:
        process.terminate()
        process.wait(20)
    print("| what | bar | measured |\n|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
