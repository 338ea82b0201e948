"""What a viewer must bear: random requests, random messages, and clients that do not behave.

`bench_viewer.py attack` sends these for minutes, the tests some of each.
"""

from __future__ import annotations

import copy
import json
import random
import socket
from collections.abc import Iterator
from typing import Any

VIEW = {"position": [-2.0, -2.0, 1.5], "target": [0.0, 0.0, 0.0], "fov": 0.7}
PATH = {
    "keyframes": [{"matrix": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 0, 0, 0, 1], "fov": 40.0, "aspect": 1.0}],
    "render_height": 16, "render_width": 16, "fps": 10, "seconds": 0.2, "is_cycle": False,
}  # fmt: skip
MESSAGES: list[dict[str, Any]] = [
    {"type": "view", "id": 1, "latent": {"seed": 1}, "view": VIEW, "size": [24, 32], "moving": True, "channel": "rgb"},
    {"type": "view", "id": 2, "latent": {"at": [0.0, 0.1]}, "view": {"window": [0, 0, 1, 1]}, "size": [24, 32]},
    {"type": "view", "id": 3, "latent": {"key": "AA", "coordinates": [0]}, "view": VIEW, "size": [8, 8], "mesh": True},
    {"type": "view", "id": 4, "latent": {"walk": ["a", {"seed": 2}], "time": 0.5}, "view": VIEW, "size": [8, 8]},
    {"type": "job", "id": 5, "what": "export", "suffix": ".png", "latent": {"seed": 1}, "view": VIEW, "size": [16, 16]},
    {"type": "job", "id": 6, "what": "walk", "suffix": ".gif", "walk": [{"seed": 1}, {"seed": 2}], "frames": 2,
     "size": [16, 16]},
    {"type": "job", "id": 7, "what": "path", "suffix": ".gif", "latent": {"seed": 1}, "path": PATH},
    {"type": "cancel", "id": 5},
    {"type": "path", "path": PATH},
]  # fmt: skip
VALUES: list[Any] = [
    None, True, -1, 0, 1e308, -1e308, 10**30, 2**63, float("nan"), float("inf"), "", "x" * 5000, "\ud800", "../..",
    "\0", [], {}, [[]], {"": {}}, [0] * 1000, [1e38] * 16, [3e38] * 16, [float("nan")] * 16,
]  # fmt: skip
# Encoded in every way that a server may undo once too often.
PATHS = [
    "/page/../app.py", "/page/%2e%2e/app.py", "/page/..%2fapp.py", "/page/%2e%2e%2fapp.py", "/page/..\\app.py",
    "/page/%252e%252e%252fapp.py", "/page/..%5capp.py", "/page/%c0%ae%c0%ae/app.py", "/page/..%c0%afapp.py",
    "/page/..;/app.py", "/page/....//app.py", "/page/main.js%00.html", "/page/%00", "/page/main.js/../../app.py",
    "/page//main.js", "/page/./main.js", "/page/main.js/", "/page/", "/page", "//", "//page/main.js", "//etc/passwd",
    "/../../../../etc/passwd", "/..%2f..%2f..%2fetc%2fpasswd", "/%2fetc%2fpasswd", "//[/x", "/[", "/file/..",
    "/file/../..", "/file//", "/file/%2e%2e/config.json", "/file/a/b/c", "/thumbs/-1", "/thumbs/1e3",
    "/thumbs/999999", "/thumbs/%d9%a3%d9%a3", "/thumbs/99999999999999999999", "/thumbs/", "/live", "/live/",
    "/live%00", "/%ff%fe", "/?", "/" + "a" * 5000, "/page/" + "../" * 1500 + "etc/passwd", "http://evil.example/",
    "http://127.0.0.1/page/main.js", "file:///etc/passwd", "*", "page/main.js", "?token=", "/;token=x", "/#",
    "/page/main.js#/..", "/~", "/.git/config",
]  # fmt: skip


def messages(rng: random.Random) -> Iterator[str | bytes]:
    """Without end: bytes at random, and messages of a page in which something was changed."""
    while True:
        match rng.randrange(6):
            case 0:
                yield rng.randbytes(rng.choice((0, 1, 2, 7, 50, 1000, 20_000)))
            case 1:
                yield rng.randbytes(rng.randrange(200)).decode("latin-1")
            case 2:
                nest = rng.choice((10, 500, 900, 1100, 30_000))
                inner = "[" * nest + "]" * nest
                yield rng.choice((inner, f'{{"type": {inner}}}', f'{{"type": "view", "latent": {inner}}}'))
            case 3:
                text = json.dumps(rng.choice(MESSAGES))
                start = rng.randrange(len(text))
                yield rng.choice(
                    (text[:start], text[start:], text[:start] + chr(rng.randrange(1, 0xD800)) + text[start + 1 :])
                )
            case _:
                message = json.loads(json.dumps(rng.choice(MESSAGES)))
                for _ in range(rng.choice((1, 1, 1, 2, 4))):
                    _spoil(message, rng)
                yield json.dumps(message)


def _spoil(value: Any, rng: random.Random) -> None:
    """Change something somewhere inside."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    if not keys:
        return
    key = rng.choice(keys)
    if isinstance(value[key], dict | list) and rng.random() < 0.6:
        return _spoil(value[key], rng)
    if isinstance(value, dict) and rng.random() < 0.15:
        del value[key]
    else:
        value[key] = copy.deepcopy(rng.choice(VALUES))


def requests(rng: random.Random, host: str, cookie: str) -> Iterator[bytes]:
    """Without end: HTTP at random, with and without the cookie of a browser that was let in."""
    lines = [
        f"Host: {host}", f"Cookie: {cookie}", f"Origin: http://{host}", "Upgrade: websocket", "Connection: Upgrade",
        "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Content-Length: 99999999999",
        "Transfer-Encoding: chunked", "Host: evil.example", "Origin: null", "Cookie: " + "a=b; " * 1000, " folded",
        "X: " + "y" * 9000, "Content-Length: x", ": x", "no colon", "X-\0: 1", "Range: bytes=0-0", "Expect: x",
    ]  # fmt: skip
    while True:
        if rng.randrange(5) == 0:
            yield rng.randbytes(rng.choice((1, 10, 300, 10_000)))
            continue
        verb = rng.choice(("GET", "GET", "GET", "GET", "POST", "HEAD", "PUT", "OPTIONS", "get", "\0"))
        version = rng.choice(("HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2", ""))
        chosen = [lines[0], lines[1], *rng.sample(lines[2:], rng.randrange(6))]
        head = "\r\n".join([f"{verb} {rng.choice(PATHS)} {version}", *rng.sample(chosen, len(chosen))])
        yield head.encode("utf-8", "surrogateescape") + rng.choice(
            (b"\r\n\r\n", b"\r\n\r\n", b"\n\n", b"\r\n", b"\r\n\r\nxxxx")
        )


def answer(port: int, data: bytes, seconds: float = 60.0) -> bytes:
    """What comes back for raw bytes, until the other end closes; empty when it just does."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        try:
            connection.sendall(data)
            while part := connection.recv(2**16):
                received += part
        except (ConnectionError, TimeoutError):
            pass
    return received
