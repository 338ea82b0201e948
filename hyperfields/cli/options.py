"""Options of verbs: their look in the help, and the reading of their text. Imports nothing heavy."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from hyperfields.errors import InputError

DEFAULT_MINUTES = 2.0

# How options look in the help. `QUIET` leaves out the default, where the text says what happens without.
QUIET = ""
RunPath = Positional[Annotated[Path, arg(metavar="RUN", help="folder of a fitted run.", help_behavior_hint=QUIET)]]
AnyRunPath = Positional[
    Annotated[Path | None, arg(metavar="RUN", help="folder of a fitted run.", help_behavior_hint="(optional)")]
]
_FAMILY = arg(
    metavar="FAMILY",
    help=(
        "folder of images, of meshes, of one scene or of scene folders (transforms.json, COLMAP, LLFF, ShapeNet-SRN, "
        "Polycam), or what pack wrote, a folder or a URL."
    ),
    help_behavior_hint=QUIET,
)
FamilyPath = Positional[Annotated[Path, _FAMILY]]
AnyFamilyPath = Positional[
    Annotated[Path | None, arg(metavar="FAMILY", help=_FAMILY.help, help_behavior_hint="(optional)")]
]
Minutes = Annotated[float | None, arg(metavar="M", help_behavior_hint=QUIET)]
Count = Annotated[int | None, arg(metavar="N", help_behavior_hint=QUIET)]
Text = Annotated[str | None, arg(metavar="A,B,C", help_behavior_hint=QUIET)]
Name = Annotated[str | None, arg(metavar="NAME", help_behavior_hint=QUIET)]
Size = Annotated[str | None, arg(metavar="HxW", help_behavior_hint=QUIET)]
AspectChoice = Annotated[Literal["fit", "crop", "pad"] | None, arg(help_behavior_hint=QUIET)]
Background = Annotated[str | None, arg(metavar="COLOUR", help_behavior_hint=QUIET)]
Split = Annotated[str | None, arg(metavar="RULE", help_behavior_hint=QUIET)]
Axis = Annotated[str | None, arg(metavar="AXIS", help_behavior_hint=QUIET)]
Folder = Annotated[Path | None, arg(metavar="DIR", help_behavior_hint=QUIET)]
File = Annotated[Path | None, arg(metavar="FILE", help_behavior_hint=QUIET)]
SceneName = Annotated[str | None, arg(metavar="NAME", help_behavior_hint=QUIET)]
Flag = Annotated[bool, arg(help_behavior_hint=QUIET)]
KindChoice = Annotated[Literal["images", "shapes", "views"] | None, arg(help_behavior_hint=QUIET)]
ChannelChoice = Literal["rgb", "depth", "normals"]
ShardText = Annotated[str | None, arg(metavar="I/N", help_behavior_hint=QUIET)]
Device = Annotated[str, arg(metavar="NAME")]
PresetChoice = Annotated[Literal["tiny", "default", "faithful"] | None, arg(help_behavior_hint=QUIET)]


def with_options_on_a_line(docstring: str | None) -> str:
    """A docstring with each option on one line: tyro would break its text where ours breaks."""
    return re.sub(r"\n {12}(?=\S)", " ", docstring or "")


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a family is read.

    Args:
        kind: kind of the scenes; default: detected from the files.
        size: height and width that pictures are resized to; default: their own.
        scenes: names, or patterns with *, of the scenes to take; default: all.
        limit: only the first N scenes by name.
        aspect: how images come to a --size of another ratio: crop to the middle (default), pad with white, or fit,
            which squeezes.
        background: colour behind the objects of pictures without alpha: white, black, one like #8090a0, or scene
            (nothing is behind); default: the colour of their borders where it is even.
        up: axis of the files that is up: x, y, z, -x, -y or -z; default: y for .glb, by the cameras for views, else z.
        split: which pictures of views are held out for the test: every-8, each eighth by name; 0.9, all but that share;
            files, as lists in files say; 64,104, all but these numbers; all, none is. Default: files, else every-8.
    """

    kind: KindChoice = None
    size: Size = None
    scenes: Text = None
    limit: Count = None
    aspect: AspectChoice = None
    background: Background = None
    up: Axis = None
    split: Split = None

    def looks(self) -> dict[str, str]:
        """What was asked for of how pictures are taken."""
        return present(aspect=self.aspect, background=self.background, up=self.up, split=self.split)


@dataclasses.dataclass(frozen=True)
class ReadingAlike:
    """How other scenes are read for a run: as its own were, where nothing else is asked for.

    Args:
        scenes: names, or patterns with *, of the scenes to take; default: all; of add, those that the run lacks.
        limit: only the first N scenes by name.
        aspect: how images come to the size of the run, as for fit; default: as the run.
        background: colour behind the objects of pictures without alpha, as for fit; default: as the run.
        split: which pictures of views are held out, as for fit; default: as the run.
    """

    scenes: Text = None
    limit: Count = None
    aspect: AspectChoice = None
    background: Background = None
    split: Split = None

    def looks(self) -> dict[str, str]:
        """What was asked for of how pictures are taken."""
        return present(aspect=self.aspect, background=self.background, split=self.split)


for _class in (Reading, ReadingAlike):
    _class.__doc__ = with_options_on_a_line(_class.__doc__)
ReadingOptions = Annotated[Reading, arg(name="")]  # without a prefix: --kind, not --reading.kind
ReadingAlikeOptions = Annotated[ReadingAlike, arg(name="")]
AS_IT_IS, AS_THE_RUN = Reading(), ReadingAlike()


def parse_size(text: str | None) -> tuple[int, int] | None:
    """ "HxW" -> (height, width)."""
    if text is None:
        return None
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) > 0 and int(width) > 0):
        raise InputError(f"--size {text!r}: wanted height x width in pixels, e.g. --size 64x64")
    return int(height), int(width)


def parse_names(text: str | None) -> list[str] | None:
    r""" "a,b,c" -> names; a comma in a name is written as \,."""
    if text is None:
        return None
    names = [name.replace("\\,", ",").strip() for name in re.split(r"(?<!\\),", text) if name.strip()]
    if not names:
        raise InputError(f"--scenes {text!r}: wanted names with commas between them, e.g. --scenes bus,taxi")
    return names


def parse_numbers(text: str | None) -> list[int] | None:
    """ "0,7" -> numbers of views."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise InputError(f"--views {text!r}: wanted numbers with commas between them, e.g. --views 0,7")
    return [int(part) for part in parts]


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """ "3/10" -> (3, 10), the third of ten parts."""
    if text is None:
        return None
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise InputError(f"--shard {text!r}: wanted a part of so many, from 1/10 to 10/10, for one")
    return int(number), int(count)


def present(**values: Any) -> dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def require_length(minutes: float | None, steps: int | None) -> None:
    if minutes is not None and steps is not None:
        raise InputError(f"--minutes {minutes:g}, --steps {steps}: give one of the two")
    if minutes is not None and not minutes > 0.0:
        raise InputError(f"--minutes {minutes:g}: wanted a number above 0")
    if steps is not None and steps < 1:
        raise InputError(f"--steps {steps}: wanted a number of at least 1")
