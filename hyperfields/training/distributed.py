"""Processes that fit together: what they tell each other. A world of one process has nobody to tell.

    torchrun --nproc-per-node 4 -m hyperfields fit FAMILY --out RUN

Every rank does the same, but for its scenes. What all have to know alike (a loss that is not finite, Ctrl-C, the time,
a full disk) is agreed on at fixed places, so that no rank ever waits for one that does something else.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import secrets
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor

from hyperfields.errors import InputError
from hyperfields.training.interrupt import Terminated

Compression = Literal["bf16"]
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # of the environment, as torchrun sets them
FAILED, USED_WRONG = 1, 2  # exit codes
POLL = 0.05  # seconds between looks whether all ranks have come
HEAD_START = 0.5  # seconds in which the first rank says what is wrong, before the others end


class World:
    """One process alone. `Ranks` are several."""

    rank, size = 0, 1
    command: tuple[str, ...] = ("hyperfields",)  # what starts it
    sent = 0  # bytes of gradients that this rank has given to sums

    @property
    def first(self) -> bool:
        """True for the one process that writes, prints and shows progress."""
        return self.rank == 0

    def device(self, name: str) -> str:
        """Name of this process's device, where `name` was asked for."""
        return name

    def sum(self, buffer: Tensor) -> None:
        """Add up a buffer of gradients over all ranks, in place. All get the same bits."""

    def spread(self, value: Tensor) -> None:
        """Give all ranks the first one's tensor, in place."""

    def totals(self, *numbers: float) -> list[float]:
        """Sums of numbers over all ranks, in 64 bits."""
        return list(numbers)

    def gather(self, value: Any) -> list[Any]:
        """The value of each rank."""
        return [value]

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """A block that goes well on all ranks or on none: what a user can mend on one ends all of them."""
        yield

    def agree(self, stop_if_asked: Callable[[], None], due: bool) -> bool:
        """Whether something is due, as the first rank says; raises on all ranks what `stop_if_asked` raises on one."""
        stop_if_asked()
        return due

    def end(self, error: BaseException, code: int) -> NoReturn:
        """Raise, on all ranks, what all know: the first one says it, the others leave with the exit code."""
        raise error


ALONE = World()


class Ranks(World):
    """Processes of torch.distributed. See `distributed`."""

    def __init__(self, compress: Compression | None) -> None:
        from torch import distributed as dist

        self.rank, self.size, self.compress = dist.get_rank(), dist.get_world_size(), compress
        self.command = ("torchrun", "--nproc-per-node", str(self.size), "-m", "hyperfields")

    def device(self, name: str) -> str:
        return f"cuda:{os.environ.get('LOCAL_RANK', self.rank)}" if name == "cuda" else name

    def sum(self, buffer: Tensor) -> None:
        from torch import distributed as dist

        sent = buffer if self.compress is None else buffer.to(torch.bfloat16)
        with self._in_touch():
            dist.all_reduce(sent)
        if sent is not buffer:
            buffer.copy_(sent)
        self.sent += sent.numel() * sent.element_size()

    def spread(self, value: Tensor) -> None:
        from torch import distributed as dist

        with self._in_touch():
            dist.broadcast(value, 0)

    def totals(self, *numbers: float) -> list[float]:
        from torch import distributed as dist

        values = torch.tensor(numbers, dtype=torch.float64)
        with self._in_touch():
            dist.all_reduce(values)
        return [float(value) for value in values]

    def gather(self, value: Any) -> list[Any]:
        from torch import distributed as dist

        found: list[Any] = [None] * self.size
        with self._in_touch():
            dist.all_gather_object(found, value)
        return found

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        wrong: InputError | None = None
        try:
            yield
        except InputError as error:
            wrong = error
        except OSError as error:  # a full disk, a folder that may not be read
            if error.errno is None:
                raise
            wrong = InputError(f"{error.filename or 'files'}: {error.strerror}")
        found = {rank: text for rank, text in enumerate(self.gather(wrong and str(wrong))) if text is not None}
        if found:
            rank, text = next(iter(found.items()))
            alike = all(other == text for other in found.values()) and len(found) == self.size
            self.end(InputError(text if rank == 0 or alike else f"rank {rank}: {text}"), USED_WRONG)

    def agree(self, stop_if_asked: Callable[[], None], due: bool) -> bool:
        interrupted = terminated = False
        try:
            stop_if_asked()
        except KeyboardInterrupt:
            interrupted = True
        except Terminated:
            terminated = True
        interrupts, terminations, dues = self.totals(interrupted, terminated, due and self.first)
        if interrupts or terminations:
            raise KeyboardInterrupt if interrupts else Terminated
        return bool(dues)

    def end(self, error: BaseException, code: int) -> NoReturn:
        if self.first:
            raise error
        time.sleep(HEAD_START)  # who starts the ranks may end all of them as soon as one has ended
        raise SystemExit(code) from None

    @contextlib.contextmanager
    def _in_touch(self) -> Iterator[None]:
        """Other ranks may be gone: then this one ends, too, and the fit goes on from its last state."""
        try:
            yield
        except RuntimeError as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            lost = f"rank {self.rank}: lost the other ranks ({reason}); go on from the last state with --resume"
            self.end(InputError(lost), USED_WRONG)


def restarted() -> bool:
    """True when torchrun has started the ranks again after one of them died."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") not in ("", "0")


@contextlib.contextmanager
def distributed(compress: Compression | None = None) -> Iterator[World]:
    """The ranks that torchrun has started, for `fit(..., world=...)`; in any other process a world of one.

        with hf.distributed() as world:
            run = hf.fit(data, "runs/cars", steps=10_000, world=world)

    Gradients go by gloo between CPUs, by nccl between GPUs. Within the block ranks beside the first print nothing, and
    each computes on its share of the cores, unless OMP_NUM_THREADS says otherwise.

    Args:
        compress: "bf16" sends gradients as bfloat16, half of the bytes; their sums have 8 bits then.

    Raises:
        InputError: ranks that cannot be reached; `compress` where nothing is sent.
    """
    if compress not in (None, "bf16"):
        raise InputError(f"compress {compress!r:.60}: wanted bf16 or None")
    if not all(os.environ.get(name) for name in VARIABLES) or os.environ["WORLD_SIZE"] == "1":
        if compress is not None:
            raise InputError(f"--compress {compress}: one process sends nothing; start several with torchrun")
        yield ALONE
        return
    from torch import distributed as dist
    from torch.distributed.rendezvous import rendezvous

    _take_share_of_cores()
    try:
        store, rank, size = next(rendezvous("env://"))
        fresh = dist.PrefixStore(_agreed_name(store, rank, size), store)  # type: ignore[attr-defined]
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=fresh, rank=rank, world_size=size)
    except (RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        at = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise InputError(f"rank {os.environ['RANK']}: cannot join the others at {at}: {reason}") from None
    try:
        world = Ranks(compress)
        with contextlib.nullcontext() if world.first else _silent():
            yield world
    finally:
        with contextlib.suppress(RuntimeError):  # others may be gone
            dist.destroy_process_group()


def _agreed_name(store: Any, rank: int, size: int) -> str:
    """A name that all ranks of this start agree on, and none of one before.

    torchrun keeps its store when it starts ranks again, with the addresses that those before have left in it. Each rank
    leaves a new number. Whoever has seen the numbers of all has seen this one's, and so is of this start.
    """
    store.set(f"here/{rank}", secrets.token_hex(8))
    while True:
        numbers = b"".join(store.get(f"here/{other}") for other in range(size))
        name = hashlib.sha256(numbers).hexdigest()[:16]
        store.set(f"seen/{rank}", name)
        if all(store.get(f"seen/{other}").decode() == name for other in range(size)):
            return name
        time.sleep(POLL)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Within it, nothing is printed and nothing warned of."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _take_share_of_cores() -> None:
    """torchrun sets one thread a rank where the environment says nothing."""
    if os.environ.get("OMP_NUM_THREADS", "1") != "1":
        return
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    here = os.environ.get("LOCAL_WORLD_SIZE", "")
    torch.set_num_threads(max(cores // max(int(here) if here.isdecimal() else 1, 1), 1))


def exit_code(stopped: BaseException) -> int:
    """Exit code of a process that was stopped, as a shell gives it."""
    return 128 + (signal.SIGTERM if isinstance(stopped, Terminated) else signal.SIGINT)
