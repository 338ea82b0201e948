"""What the fuzzer starts from and the files that it found are read, or refused in one line: see scripts/fuzz.py."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT, CORPUS = ROOT / "scripts" / "fuzz_targets.py", ROOT / "tests" / "corpus"
if not SCRIPT.is_file():
    pytest.skip("the scripts are not here: this is an installed wheel", allow_module_level=True)
for name in ("trimesh", "open3d", "OpenEXR", "websockets", "pycolmap", "av"):
    pytest.importorskip(name)


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPT.with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


fuzz_room, *_, fuzz_targets = map(load, ("fuzz_room", "fuzz_scenes", "fuzz_captures", "fuzz_runs", "fuzz_targets"))


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> object:
    return fuzz_room.Room(tmp_path_factory.mktemp("room"))


@pytest.mark.parametrize("name", fuzz_targets.TARGETS)
def test_files_of_a_target(room: object, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    target = fuzz_targets.TARGETS[name]
    first, *others = target.seeds(room)
    assert fuzz_room.outcome(target, room, first) == "read"
    kept = [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))]
    for data in (*others[:3], *kept, b"", b"\x00", b"{", b"[" * 100_000, first[: len(first) // 2], first + first):
        fuzz_room.outcome(target, room, data)
    assert capfd.readouterr() == ("", "")  # not even by libraries


def test_the_corpus_is_small_and_belongs_to_targets() -> None:
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} <= set(fuzz_targets.TARGETS)
    assert sum(path.stat().st_size for path in files) < 300_000
