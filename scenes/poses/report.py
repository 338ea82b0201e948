"""What was found about each photograph, what is wrong with those that have no pose, and what to do about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hyperfields.scenes.poses.colmap import Seen

FEW_FEATURES = 100  # of a photograph that is blurred, dark or of something plain
ONLY_TURNED = 0.8  # share of the pairs that match
FEW_POSED = 0.5  # share of the photographs below which a result is not one
BLURRED = 2.0  # pixels, at the size of features, that points miss their features by
WIDE, NARROW = 0.3, 6.0  # focal lengths over the longer side that no lens has
LISTED = 8  # photographs that are named in a text


@dataclasses.dataclass(frozen=True)
class Photo:
    """One photograph."""

    name: str  # below images/
    source: str  # where it came from
    posed: bool
    features: int
    others: int  # photographs that it matches
    matches: int  # with all of them, after verification
    best: tuple[str, ...]  # the others, most matches first, three at most
    points: int  # that it sees of the model
    why: str | None  # it has no pose


@dataclasses.dataclass(frozen=True)
class Poses:
    """What `find_poses` found; the files are in `folder`."""

    folder: Path
    photographs: tuple[Photo, ...]
    cameras: int  # with intrinsics of their own
    lens: str | None  # COLMAP's name of the camera model
    points: int
    error: float | None  # mean distance of points from their features, pixels
    models: tuple[int, ...]  # photographs in each model that was found; the first is the one that was taken
    notes: tuple[str, ...]
    wrong: str | None  # one line when nothing usable came out

    @property
    def posed(self) -> int:
        """Number of photographs with a pose."""
        return sum(photo.posed for photo in self.photographs)

    def as_json(self) -> dict[str, Any]:
        """All of it for programs."""
        return {**dataclasses.asdict(self), "folder": str(self.folder), "posed": self.posed}


def why_not(name: str, seen: Seen, posed: set[str]) -> str:
    """Why a photograph has no pose."""
    if seen.features < FEW_FEATURES:
        return f"only {seen.features} features: blurred, dark, or of something plain"
    if not seen.matches:
        return f"{seen.features:,} features, but it matches no other photograph"
    linked = [other for other in seen.matches if other in posed]
    best = max(seen.matches, key=lambda other: seen.matches[other])
    with_best = f"(best {seen.matches[best]} with {best})"
    if posed and not linked:
        return f"matches {_count(len(seen.matches))} {with_best}, none of which has a pose"
    if len(seen.turned) > ONLY_TURNED * len(seen.matches):
        return f"matches {_count(len(seen.matches))} {with_best}, but only as if the camera turned and did not move"
    return f"matches {_count(len(seen.matches))} {with_best}, too little to place it"


def _count(count: int) -> str:
    return f"{count} other{'s' if count > 1 else ''}"


def groups_of(seen: Mapping[str, Seen]) -> list[list[str]]:
    """Photographs that hang together by matches, the largest group first."""
    left, groups = set(seen), []
    while left:
        todo, group = [min(left)], set[str]()
        while todo:
            name = todo.pop()
            if name not in group:
                group.add(name)
                todo.extend(other for other in seen[name].matches if other not in group)
        left -= group
        groups.append(sorted(group))
    return sorted(groups, key=lambda group: (-len(group), group[0]))


def nothing_found(seen: Mapping[str, Seen]) -> str:
    """One line: no camera at all was found, why, and what to do."""
    count = len(seen)
    poor = sum(one.features < FEW_FEATURES for one in seen.values())
    pairs = sum(len(one.matches) for one in seen.values()) // 2
    turned = sum(len(one.turned) for one in seen.values()) // 2
    if poor > count / 2:
        return (
            f"no cameras found: {poor} of {count} photographs have less than {FEW_FEATURES} features; they are "
            "blurred, dark, or of something plain: take sharp ones, with patterned things around"
        )
    if not pairs:
        return (
            f"no cameras found: none of {count} photographs matches another; they have to overlap, each with the next "
            "by two thirds: take 30 or more on a walk round the object, of it and what is around it"
        )
    if turned > ONLY_TURNED * pairs:
        return f"no cameras found: {_turned(turned, pairs)}"
    groups = groups_of(seen)
    together = [_some(group) for group in groups if len(group) > 1]
    lone = [group[0] for group in groups if len(group) == 1]
    alone = f"; {len(lone)} match none ({_some(lone)})" if lone else ""
    return (
        f"no cameras found: only {pairs} of {count * (count - 1) // 2} pairs match: {' | '.join(together[:4])}{alone}; "
        "take photographs from places in between, each overlapping the next by two thirds"
    )


def _some(names: Sequence[str]) -> str:
    """The first names of several, and how many more there are."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if names[4:] else "")


def _turned(turned: int, pairs: int) -> str:
    return (
        f"{turned} of {pairs} pairs that match look as if the camera turned and did not move; walk round the object "
        "instead of turning on the spot"
    )


def unsound(seen: Mapping[str, Seen], posed: set[str], error: float, focal: Sequence[float]) -> str | None:
    """One line when what was found is not to be used. `focal`: lengths over the longer side of the picture."""
    pairs = sum(len(posed & seen[name].matches.keys()) for name in posed) // 2
    turned = sum(len(posed & seen[name].turned) for name in posed) // 2
    if turned > ONLY_TURNED * pairs:
        return _turned(turned, pairs)
    count = len(seen)
    if len(posed) < FEW_POSED * count:
        return (
            f"only {len(posed)} of {count} photographs have a pose; take photographs from places in between and go on "
            "with --resume, or remove those that show something else"
        )
    odd = [value for value in focal if not WIDE < value < NARROW]
    if odd:
        return (
            f"a focal length of {odd[0]:.2g} times the picture's longer side was found, which no lens has: the "
            "photographs say too little; take more, from more sides and distances"
        )
    if error > BLURRED:
        return f"points miss their features by {error:.1f} pixels; the photographs do not show one thing that is still"
    return None


def text_of(poses: Poses) -> str:
    """Lines for people."""
    count = len(poses.photographs)
    lines = [*poses.notes]
    if poses.posed:
        lines.append(
            f"poses: {poses.posed} of {count} photographs, {poses.points:,} points, {poses.error:.2f} pixels off; "
            f"{poses.cameras} camera{'s' if poses.cameras > 1 else ''} ({poses.lens})"
        )
    if len(poses.models) > 1:
        sizes = ", ".join(map(str, poses.models))
        lines.append(f"the photographs fall apart into models of {sizes}; the largest is taken")
    left = [photo for photo in poses.photographs if not photo.posed]
    if left:
        lines.append(f"without a pose: {len(left)} of {count}")
        lines += [f"  {photo.name}: {photo.why}" for photo in left[:LISTED]]
        if left[LISTED:]:
            lines.append(f"  ... and {len(left) - LISTED} more, in {poses.folder / 'poses.json'}")
    if left and poses.posed:
        lines.append(
            "what to do: take sharp photographs from places between these and their neighbours, put them beside the "
            "others and go on with --resume; or fit without them"
        )
    return "\n".join(lines)
