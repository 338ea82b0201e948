"""The command line, `hyperfields VERB`: reads arguments, calls the library, prints results. No logic of its own.

May import: everything, but inside functions, so that help comes at once. To add a verb, write a function with annotated
arguments in one of the files here and a line in `VERBS`; what it computes belongs into the library.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import io
import os
import re
import shutil
import signal
import sys
import textwrap
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

import tyro

from hyperfields.cli import add, compare, evaluate, fit, inspect, latents, merge, pack, poses, show, transfer
from hyperfields.cli.common import Stopped, Unsound
from hyperfields.cli.options import with_options_on_a_line
from hyperfields.errors import InputError
from hyperfields.process import tune_process

# The first line of a verb's docstring is its line in `hyperfields --help`; lines with $ are its examples.
VERBS: dict[str, Callable[..., None]] = {
    "poses": poses.poses,
    "pack": pack.pack,
    "fit": fit.fit,
    "eval": evaluate.evaluate,
    "infer": fit.infer,
    "calibrate": show.calibrate,
    "render": show.render,
    "interpolate": show.interpolate,
    "transfer": transfer.transfer,
    "latents": latents.latents,
    "export": show.export,
    "add": add.add,
    "merge": merge.merge,
    "compare": compare.compare,
    "view": show.view,
    "import": show.import_,
    "inspect": inspect.inspect,
    "doctor": show.doctor,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `hyperfields ARGUMENTS` (default: those of the process) and return the exit code.

    0: done. 1: a fit or a search for cameras came to nothing. 2: something the user gave cannot be
    used, one line on stderr tells what.
    130: stopped by Ctrl-C, 143: by SIGTERM.

    Raises:
        SystemExit: help was asked for, or an option is misspelt (exit code 2).
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    tune_process()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("always", category=UserWarning, module=r"hyperfields\.")
            warnings.showwarning = _show_warning
            _dispatch(words)
            sys.stdout.flush()
    except InputError as error:
        return _fail(str(error))
    except Stopped as stopped:
        return _fail(str(stopped), code=stopped.code, label="")
    except KeyboardInterrupt:
        return _fail("stopped", code=130, label="")
    except Unsound as error:
        return _fail(str(error), code=1)
    except FloatingPointError as error:
        return _fail(str(error), code=1)
    except BrokenPipeError:  # whoever read the output has gone: nothing is wrong, and nobody to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's; not imported for this alone
            raise
        reason = str(error).split(". ")[0]
        return _fail(f"the GPU is out of memory ({reason}); use a smaller --size, or --device cpu")
    except OSError as error:  # a full disk, a folder that may not be read
        if error.errno is None:
            raise
        name = f"{error.filename}: " if error.filename else ""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return _fail(f"{name}{error.strerror}{'; free some space or choose another folder' if full else ''}")
    return 0


def _dispatch(words: list[str]) -> None:
    from hyperfields import __version__

    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return
    if words[0] == "--version":
        print(f"hyperfields {__version__}")
        return
    verb, rest = words[0], words[1:]
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, 1)
        hint = f"did you mean {near[0]}?" if near else f"wanted one of {', '.join(VERBS)}"
        raise InputError(f"verb {verb!r}: unknown; {hint}")
    with _wrapped() if {"-h", "--help"} & set(rest) else contextlib.nullcontext():
        tyro.cli(
            _for_tyro(VERBS[verb]),
            prog=f"hyperfields {verb}",
            args=rest,
            config=(tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone),
        )


class _Held(io.StringIO):
    """What is printed meanwhile, in the colours and the characters that the terminal has."""

    def __init__(self, terminal: TextIO) -> None:
        super().__init__()
        self.terminal = terminal

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.terminal.encoding

    def isatty(self) -> bool:
        return self.terminal.isatty()


@contextlib.contextmanager
def _wrapped() -> Iterator[None]:
    """A help that is printed within it has the lines above its options broken, which tyro leaves to the terminal."""
    held, width = _Held(sys.stdout), shutil.get_terminal_size().columns
    try:
        with contextlib.redirect_stdout(held):
            yield
    finally:
        text = held.getvalue()
        first = re.search(r"^\S* ?(positional arg|options\b)|^\S*\u256d", text, re.MULTILINE)
        end = len(text) if first is None else first.start()
        for line in re.sub(r"\n{3,}", "\n\n", text[:end]).splitlines():
            print(_example(line, width) if line.startswith("$") else textwrap.fill(line, width, break_on_hyphens=False))
        print(text[end:], end="")


def _example(line: str, width: int) -> str:
    """A command line, broken before options as a shell takes it."""
    joined = re.sub(r"( --?[\w-]+) (?!-)", "\\1\u00a0", line)  # an option stays with its value
    parts = textwrap.wrap(joined, width - 2, subsequent_indent="    ", break_on_hyphens=False, break_long_words=False)
    return " \\\n".join(parts).replace("\u00a0", " ")


def _for_tyro(verb: Callable[..., None]) -> Callable[..., None]:
    """A copy of a verb, whose docstring has each option on one line."""
    assert isinstance(verb, types.FunctionType)
    copy = types.FunctionType(verb.__code__, verb.__globals__, verb.__name__, verb.__defaults__, verb.__closure__)
    copy.__kwdefaults__, copy.__annotations__ = verb.__kwdefaults__, verb.__annotations__
    copy.__doc__ = with_options_on_a_line(verb.__doc__)
    return copy


def _help() -> str:
    """Text of `hyperfields --help`; each verb has a help with all options and examples."""
    width, terminal = max(map(len, VERBS)), shutil.get_terminal_size().columns
    verbs = [
        textwrap.fill(
            (verb.__doc__ or "").splitlines()[0], max(terminal, width + 24), initial_indent=f"  {name.ljust(width)}  ",
            subsequent_indent=" " * (width + 4), break_on_hyphens=False,
        )
        for name, verb in VERBS.items()
    ]  # fmt: skip
    return "\n".join(
        [
            "usage: hyperfields VERB ...",
            "",
            "Fits a family of images, shapes or radiance fields with one hypernetwork, and",
            "renders it.",
            "",
            *verbs,
            "",
            "hyperfields VERB --help shows options and examples. To begin:",
            "",
            "  $ hyperfields fit photos --out runs/photos --size 64x64 --minutes 2",
            "  $ hyperfields eval runs/photos",
            "  $ hyperfields render runs/photos --scene cat --out cat.png",
        ]
    )


def _fail(message: str, *, code: int = 2, label: str = "error: ") -> int:
    """One line on stderr."""
    with contextlib.suppress(OSError):
        print(f"hyperfields: {label}{' '.join(message.split())}", file=sys.stderr, flush=True)
    return code


def _show_warning(message: Warning | str, category: type[Warning], *rest: Any, **options: Any) -> None:
    """A warning as one line, without the place in our code."""
    print(f"hyperfields: warning: {' '.join(str(message).split())}", file=sys.stderr, flush=True)
