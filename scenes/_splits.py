"""Which pictures of a scene are for training and which are held out, by the rules that users of other programs know."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence

from hyperfields.errors import InputError

SPLITS = ("train", "val", "test")
EVERY = 8  # of the pictures by name, each of this number is for the test: COLMAP's, LLFF's and mip-NeRF 360's habit
FILES, ALL = "files", "all"
WANTED = (
    "wanted files, every-N (each Nth picture is for the test), a share like 0.9 for training, "
    "numbers of the training pictures like 64,104, or all"
)


@dataclasses.dataclass(frozen=True)
class Rule:
    """How the pictures of a scene are divided. At most one of the numbers is set.

    every: each so many-th picture is for the test. share: of the pictures for training, evenly spread (nerfstudio's
    rule). numbers: of the pictures for training, by name. None of them: all are for training and for the test.
    """

    text: str
    every: int | None = None
    share: float | None = None
    numbers: tuple[int, ...] | None = None

    def divide(self, count: int) -> dict[str, list[int]]:
        """Split -> numbers of the pictures in it, of `count` in the order of their names.

        Raises:
            InputError: numbers of pictures that are not there.
        """
        everything = list(range(count))
        if self.every is not None:
            held = everything[:: self.every] if count > 1 else []
        elif self.share is not None:
            # Evenly spaced numbers of ceil(share * count) pictures are for training.
            kept = math.ceil(count * self.share)
            train = {int(i * (count - 1) / max(kept - 1, 1)) for i in range(kept)}
            held = [i for i in everything if i not in train]
        elif self.numbers is not None:
            if max(self.numbers) >= count:
                raise InputError(f"split {self.text}: there are {count} pictures, numbers 0 to {count - 1}")
            held = [i for i in everything if i not in self.numbers]
            return {"train": list(self.numbers), "val": held, "test": held}
        else:
            return dict.fromkeys(SPLITS, everything)
        train_numbers = [i for i in everything if i not in set(held)]
        return {"train": train_numbers, "val": held if self.share is not None else [], "test": held}

    def __str__(self) -> str:
        if self.every is not None:
            return f"every {ordinal(self.every)} picture by name is for the test"
        if self.share is not None:
            return f"{self.share:.4g} of the pictures, evenly spread by name, are for training"
        if self.numbers is not None:
            return f"pictures {self.text} by name are for training, the others for the test"
        return "every picture is for training and for the test"


EVERY_8 = Rule(f"every-{EVERY}", every=EVERY)


def parse_split(text: str | None) -> Rule | None:
    """The rule of an option; None for "files" and for none: as the files say, else every eighth is for the test.

    Raises:
        InputError: no rule.
    """
    if text is None or text == FILES:
        return None
    if text == ALL:
        return Rule(text)
    if found := re.fullmatch(r"every-(\d{1,6})", text):
        if int(found[1]) >= 2:
            return Rule(text, every=int(found[1]))
    elif re.fullmatch(r"\d{1,9}(,\d{1,9})*", text):
        numbers = tuple(map(int, text.split(",")))
        if len(set(numbers)) == len(numbers):
            return Rule(text, numbers=numbers)
    elif re.fullmatch(r"0?\.\d{1,9}|\d{1,2}(\.\d+)?%", text):
        share = float(text[:-1]) / 100.0 if text.endswith("%") else float(text)
        if 0.0 < share < 1.0:
            return Rule(text, share=share)
    raise InputError(f"--split {text!r:.60}: {WANTED}")


def ordinal(number: int) -> str:
    """A number as "2nd"."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def by_lists(names: Sequence[str], lists: dict[str, set[str]]) -> dict[str, list[int]]:
    """Split -> numbers of the names that its list holds, with or without their suffix."""
    stems = [name.rpartition(".")[0] for name in names]
    return {
        split: [i for i, name in enumerate(names) if name in chosen or (stems[i] and stems[i] in chosen)]
        for split, chosen in lists.items()
    }
