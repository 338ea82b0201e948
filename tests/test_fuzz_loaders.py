"""Files that are damaged or hostile: each loads, or is refused in one line that names it, and costs next to nothing."""

from __future__ import annotations

import copy
import json
import random
import resource
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hyperfields.codes import CAVIA
from hyperfields.data import Images
from hyperfields.errors import InputError
from hyperfields.fields import BoundField, ImageField
from hyperfields.fields.encodings import FactoredGrid, HashGrid
from hyperfields.hypernets import Extension, Hierarchical, LowRank
from hyperfields.model import HyperField, ModelConfig
from hyperfields.runs.field_file import load_field
from hyperfields.runs.inferred import load_codes
from hyperfields.runs.inspect import inspect_run
from hyperfields.runs.run import Run, load_run
from hyperfields.runs.tcnn import read_tcnn, write_tcnn
from hyperfields.tasks import TrainConfig
from hyperfields.training.fit import fit
from hyperfields.training.inference import infer

MOST = 2**20  # numbers of a tensor that a small file may lead to
GRID = FactoredGrid(2, 2, 2, 5, 3, 6, bases=2)
FIELD = ImageField(GRID, hidden=(5,))


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, codes of it, a standalone field and one in tiny-cuda-nn's layout."""
    folder = tmp_path_factory.mktemp("valid")
    torch.manual_seed(0)
    data = Images(torch.rand(3, 8, 8, 3))
    model = ModelConfig(FIELD, Hierarchical(2), 4)
    run = fit(data, folder / "run", steps=1, model=model, train=TrainConfig(3, 48), codes=CAVIA(), progress=False)
    infer(run, Images(torch.rand(2, 8, 8, 3)), folder / "codes.safetensors", steps=2, refine=True, progress=False)
    run["0"].save(folder / "field.safetensors")
    shared = ImageField(HashGrid(2, 2, 2, 5, 3, 6), hidden=(5,))
    with torch.no_grad():
        bound = HyperField(ModelConfig(shared, LowRank(2), 3, extensions=(Extension(1, 1),)), 1).bind(torch.ones(1, 3))
    write_tcnn(folder / "tcnn.safetensors", bound, {"name": "a"})
    return folder


class Small(TorchDispatchMode):
    """Refuses tensors with numbers in memory that are larger than `MOST`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in torch.utils._pytree.tree_leaves(result):
            if isinstance(value, Tensor) and value.device.type != "meta":
                assert value.untyped_storage().nbytes() <= 4 * MOST, (func, value.shape)
        return result


def check(load: Callable[[], Any], name: str, what: object) -> bool:
    """Whether a file was refused, as it has to be."""
    try:
        with Small():
            load()
    except InputError as error:
        text = str(error)
        assert name in text, (what, text)
        assert "\n" not in text, (what, text)
        assert len(text) < 1000, (what, text)
        return True
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {str(error)[:300]}") from error
    return False


def use(bound: BoundField) -> None:
    """A field that was loaded answers points; one that is of no use may say so."""
    for parameter in bound.weights.values():
        parameter.sum()
    with torch.no_grad():
        bound(torch.rand(bound.scenes, 4, 2))


# What a value in JSON becomes: of other types, out of every range, of the wrong length, deep.
DEEP: Any = 0
for _ in range(60):
    DEEP = [DEEP]
VALUES: list[Any] = [
    None, True, 0, 1, -1, 2**31, 2**62, 2**70, -(2**62), 10**400, 0.5, -0.5, 1e308, float("nan"), float("inf"), "", "x",
    "images", "shapes", "../../etc/passwd", "os:system", "x" * 999, [], [1], [1, 2, 3], [[]], [-1, 10**9], {}, {"a": 1},
    {"class": "Full", "hidden": 0}, {"class": "os:system"}, {"class": None}, {"class": "RunConfig"},
    {"function": "builtins:eval"}, {"function": 3}, DEEP, [2**30] * 8,
]  # fmt: skip


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to everything in a JSON value, but its root."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*place, key)
        yield from places(item, (*place, key))


def changed_json(text: str, rng: random.Random) -> tuple[str, object]:
    """A JSON text with one or two values replaced or taken away, and what was done."""
    value = json.loads(text)
    done: list[object] = []
    for _ in range(rng.choice((1, 1, 2))):
        place = rng.choice(list(places(value)))
        parent = value
        for key in place[:-1]:
            parent = parent[key]
        if rng.random() < 0.12:
            del parent[place[-1]]
            done.append(("deleted", place))
        else:
            parent[place[-1]] = copy.deepcopy(rng.choice(VALUES))
            done.append((place, str(parent[place[-1]])[:40]))
        if not list(places(value)):
            break
    return json.dumps(value), done


def changed_bytes(data: bytes, rng: random.Random) -> tuple[bytes, object]:
    """A file with bytes that are flipped, cut off, doubled or zero."""
    way, at = rng.choice(("flip", "flip", "header", "cut", "zeros", "double", "length")), rng.randrange(len(data))
    changed = bytearray(data)
    if way == "flip":
        for _ in range(rng.randint(1, 6)):
            changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif way == "header":
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(min(len(data), 600))] = rng.randrange(256)
    elif way == "cut":
        del changed[at:]
    elif way == "zeros":
        changed[at : at + 40] = bytes(len(changed[at : at + 40]))
    elif way == "double":
        changed[at:at] = changed[max(at - 100, 0) : at]
    else:
        changed[:8] = struct.pack("<Q", rng.choice((0, 1, 2**31, 2**63, len(data), len(data) - 8)))
    return bytes(changed), (way, at)


def with_header(data: bytes, change: Callable[[str], tuple[str, object]]) -> tuple[bytes, object]:
    """A safetensors file whose header is changed and whose length of it is right."""
    size = struct.unpack("<Q", data[:8])[0]
    header, what = change(data[8 : 8 + size].decode())
    coded = header.encode()
    return struct.pack("<Q", len(coded)) + coded + data[8 + size :], what


def with_metadata(data: bytes, key: str, change: Callable[[str], tuple[str, object]]) -> tuple[bytes, object]:
    """A safetensors file with a text of its metadata changed."""
    what: list[object] = []

    def edit(header: str) -> tuple[str, object]:
        value = json.loads(header)
        value["__metadata__"][key], done = change(value["__metadata__"][key])
        what.append(done)
        return json.dumps(value), done

    return with_header(data, edit)[0], what


def with_tensors(data: bytes, rng: random.Random) -> tuple[bytes, object]:
    """A safetensors file with a tensor of another shape or type, one less or one more."""
    tensors = safetensors.torch.load(data)
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size]).get("__metadata__")
    name = rng.choice(sorted(tensors))
    value, way = tensors[name], rng.randrange(10)
    ways: list[Any] = [
        lambda: value.flatten(), lambda: value[:0], lambda: value.reshape(-1)[:1].squeeze(), lambda: value.int(),
        lambda: value.double(), lambda: value.bool(), lambda: torch.full_like(value, float("nan")) if
        value.is_floating_point() else value * 0 - 1, lambda: torch.cat((value, value)) if value.dim() else value,
    ]  # fmt: skip
    if way < 8:
        tensors[name] = ways[way]().contiguous()
    elif way == 8:
        del tensors[name]
    else:
        tensors[rng.choice(("x", "", name + ".", "a/b"))] = torch.zeros(2)
    return safetensors.torch.save(tensors, header), (name, way)


NASTY = ["", "{", "[]", "null", "3", '"x"', "[" * 100_000, '{"a":' * 50_000, "NaN", "\x00", "{}", "\u00ed\u00a0\u0080"]


def test_a_config_of_a_run(valid: Path, tmp_path: Path) -> None:
    rng, run = random.Random(0), tmp_path / "run"
    shutil.copytree(valid / "run", run)
    good = (run / "config.json").read_text()
    refused, texts = 0, [changed_json(good, rng) for _ in range(260)] + [(text, text[:20]) for text in NASTY]
    texts += [(changed_bytes(good.encode(), rng)[0].decode("latin-1"), "bytes") for _ in range(40)]
    for text, what in texts:
        (run / "config.json").write_text(text)

        def load() -> None:
            loaded = load_run(run)
            use(loaded.bind(loaded.names[0]))
            loaded[loaded.names[-1]].render(size=(4, 4))

        refused += check(load, str(run), what)
        check(lambda: inspect_run(run), str(run), what)
    assert refused > 150


def test_a_model_of_a_run(valid: Path, tmp_path: Path) -> None:
    rng, run = random.Random(1), tmp_path / "run"
    shutil.copytree(valid / "run", run)
    good = (run / "model.safetensors").read_bytes()
    files = [changed_bytes(good, rng) for _ in range(60)] + [with_tensors(good, rng) for _ in range(40)]
    files += [with_header(good, lambda text: changed_json(text, rng)) for _ in range(60)] + [(b"", "empty")]
    refused = 0
    for data, what in files:
        (run / "model.safetensors").write_bytes(data)

        def load() -> None:
            use((loaded := load_run(run)).bind(*loaded.names))

        refused += check(load, str(run), what)
    assert refused > 80


def test_a_standalone_field(valid: Path, tmp_path: Path) -> None:
    rng, path = random.Random(2), tmp_path / "field.safetensors"
    good = (valid / "field.safetensors").read_bytes()
    files = [changed_bytes(good, rng) for _ in range(60)] + [with_tensors(good, rng) for _ in range(40)]
    files += [with_metadata(good, "field", lambda text: changed_json(text, rng)) for _ in range(160)]
    files += [with_metadata(good, "field", lambda _, text=text: (text, text[:20])) for text in NASTY]  # type: ignore[misc]
    files += [with_header(good, lambda text: changed_json(text, rng)) for _ in range(40)]
    refused = sum(check(lambda: use(load_field(path)), str(path), what) for data, what in files if put(path, data))
    assert refused > 150


def test_codes(valid: Path, tmp_path: Path) -> None:
    rng, path, run = random.Random(3), tmp_path / "codes.safetensors", load_run(valid / "run")
    good = (valid / "codes.safetensors").read_bytes()
    files = [changed_bytes(good, rng) for _ in range(60)] + [with_tensors(good, rng) for _ in range(60)]
    for key in ("names", "family", "run"):
        files += [with_metadata(good, key, lambda _, text=text: (text, text[:20])) for text in NASTY]  # type: ignore[misc]
    names = [f'["a", {value}]' for value in ("3", "null", "[]", '"a"', "1e999")] + ['["a"]', '{"a": 1, "b": 2}', '"ab"']
    files += [with_metadata(good, "names", lambda _, text=text: (text, text)) for text in names]  # type: ignore[misc]
    files += [with_header(good, lambda text: changed_json(text, rng)) for _ in range(60)]
    refused = sum(check(lambda: bind_all(path, run), str(path), what) for data, what in files if put(path, data))
    assert refused > 120


def test_a_field_in_the_layout_of_tiny_cuda_nn(valid: Path, tmp_path: Path) -> None:
    rng, path = random.Random(4), tmp_path / "tcnn.safetensors"
    good, text = (valid / "tcnn.safetensors").read_bytes(), (valid / "tcnn.json").read_text()
    files: list[tuple[bytes, str, object]] = [(*changed_bytes(good, rng)[:1], text, "bytes") for _ in range(40)]
    files += [(with_tensors(good, rng)[0], text, "tensors") for _ in range(40)]
    files += [(good, *changed_json(text, rng)) for _ in range(160)] + [(good, nasty, nasty[:20]) for nasty in NASTY]
    refused = 0
    for data, beside, what in files:
        path.write_bytes(data)
        path.with_suffix(".json").write_text(beside)
        refused += check(lambda: use(read_tcnn(path)[0]), str(path.with_suffix("")), what)
    assert refused > 120


def test_all_of_it_takes_little_memory() -> None:
    """The most that this process ever had, which no test above may have driven up."""
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < 4 * 2**30


def put(path: Path, data: bytes) -> bool:
    path.write_bytes(data)
    return True


def bind_all(path: Path, run: Run) -> None:
    codes = load_codes(path, run)
    use(codes.bind(*codes.names))
