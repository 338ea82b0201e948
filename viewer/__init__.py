"""The viewer: a page on which a run's latent space is explored with the mouse. `hyperfields view RUN` opens it.

Lives here: the port (`server`, `connection`), what is served (`app`, `session`, `jobs`), checked messages
(`requests`), and `page/`, whose scripts ask for capabilities and never for a kind of scenes. May import: everything
but `cli`. To add a job, write its work in `jobs.py` and its reader in `requests.py`; to add a picture, add a channel to
the task.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from hyperfields import process
from hyperfields.data import SceneDataset
from hyperfields.errors import InputError
from hyperfields.runs.run import Run

if TYPE_CHECKING:
    from hyperfields.runs.inferred import InferredCodes

__all__ = ["serve"]


def serve(
    run: Run,
    open_dataset: Callable[[], SceneDataset] | None = None,
    inferred: InferredCodes | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8780,
    log: Callable[[str], None] = print,
    stop: threading.Event | None = None,
) -> None:
    """Serve the viewer of a run until Ctrl-C, SIGTERM, the end of its terminal, or until `stop` is set.

    Threads of this process share their memory from then on (`process.share_memory`).

    Args:
        open_dataset: reads the data of the scenes, for references and metrics; called when first asked for.
        inferred: scenes to show instead of the fitted ones, refined ones with their residuals.
        host: address to listen on; other than the loopback's, others can reach the viewer, and `log` gets a warning.
        port: the first free one from here on is taken.
        log: takes the lines for the user; one holds the address with its token.

    Raises:
        InputError: websockets is not installed, an address that is not one of this machine, or no free port.
    """
    try:
        from hyperfields.viewer.app import Viewer
        from hyperfields.viewer.server import LOOPBACK
    except ImportError as error:
        raise InputError(
            f"websockets, which the viewer needs, cannot be imported ({error}): pip install 'hyperfields[viewer]'"
        ) from error
    process.share_memory()
    viewer = Viewer(run, open_dataset, inferred, host=host, port=port)
    try:
        if viewer.port != port and port:
            log(f"port {port} is busy: taking {viewer.port}")
        if host not in LOOPBACK:
            log(f"listening on {host}: whoever has the address below can look at the run and make this machine compute")
        log(f"viewer of {run.label} ({run.kind}, {len(viewer.shared.names):,} scenes): {viewer.url}")
        log(f"from another machine: ssh -L {viewer.port}:127.0.0.1:{viewer.port} {_ssh_name()}, then the same address")
        log("Ctrl-C ends it")
        stop = stop or threading.Event()
        with _signals_raise():
            while not stop.wait(0.5):  # a signal that another thread was given is seen when this one wakes
                pass
    except KeyboardInterrupt:
        pass
    finally:
        viewer.close()
    log("viewer closed")


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """Within it, SIGTERM and SIGHUP end as Ctrl-C does, which removes the temporary files. Others' handlers stay."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    ours = []
    if threading.current_thread() is threading.main_thread():
        names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows has no SIGHUP
        ours = [getattr(signal, name) for name in names if signal.getsignal(getattr(signal, name)) is signal.SIG_DFL]
    try:
        for number in ours:
            signal.signal(number, interrupt)
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _ssh_name() -> str:
    import getpass
    import socket

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        user = "USER"
    return f"{user}@{socket.gethostname()}"
