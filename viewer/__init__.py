"""The viewer: a page on which a run's latent space is explored with the mouse. `hyperfields view RUN` opens it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from hyperfields.data import SceneDataset
from hyperfields.errors import InputError
from hyperfields.runs.checkpoint import Run

__all__ = ["serve"]


def serve(
    run: Run,
    open_family: Callable[[], SceneDataset] | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8780,
    say: Callable[[str], None] = print,
    stop: threading.Event | None = None,
) -> None:
    """Serve the viewer of a run until Ctrl-C, or until `stop` is set.

    Args:
        open_family: reads the data that were fitted, for truth and metrics; called when first asked for.
        host: address to listen on; other than the loopback's, others can reach the viewer, and `say` says so.
        port: the first free one from here on is taken.
        say: gets the lines for the user.

    Raises:
        InputError: viser is not installed, an address that is not one of this machine, or no free port.
    """
    try:
        from hyperfields.viewer.app import LOOPBACK, Viewer
    except ImportError as error:
        raise InputError(
            f"viser, which the viewer needs, cannot be imported ({error}): pip install 'hyperfields[viewer]'"
        ) from error
    viewer = Viewer(run, open_family, host=host, port=port)
    try:
        if viewer.port != port and port:
            say(f"port {port} is busy: taking {viewer.port}")
        if host not in LOOPBACK:
            say(f"listening on {host}: whoever can reach this machine can look at the run and make it compute")
        say(f"viewer of {Path(run.path)} ({run.kind}, {len(run.names):,} scenes): {viewer.url}")
        say(f"from another machine: ssh -L {viewer.port}:127.0.0.1:{viewer.port} {_ssh_name()}, then the same address")
        say("Ctrl-C ends it")
        (stop or threading.Event()).wait()
    except KeyboardInterrupt:
        pass
    finally:
        viewer.close()
    say("viewer closed")


def _ssh_name() -> str:
    import getpass
    import socket

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        user = "USER"
    return f"{user}@{socket.gethostname()}"
