"""Packed families: the batches and references of what was packed, from folders and URLs, and what damage says."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import hyperfields as hf
from hyperfields.data import expect, fingerprint
from hyperfields.data.packed import Packer, open_pack
from hyperfields.data.store import Writer, location
from hyperfields.errors import InputError
from hyperfields.runs import codec
from hyperfields.scenes import family_names, open_family, pack_family

SIDE = 6


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(folder: Path, count: int = 9) -> Path:
    folder.mkdir()
    for number in range(count):
        values = np.random.default_rng(number).integers(0, 255, (SIDE, SIDE + 1, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"p{number}.png")
    return folder


def images() -> hf.Images:
    return hf.Images(torch.rand(7, SIDE, SIDE + 1, 3, generator=generator()))


def shapes() -> hf.Shapes:
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    faces = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    pool = torch.rand(5, 30, 4, generator=generator())
    return hf.Shapes([(corners * (1.0 + k), faces) for k in range(5)], pool=pool)


def views(one_size: bool = True, lens: bool = False, masked: bool = False, cut: bool = False) -> hf.Views:
    """Four scenes with 1 to 4 pictures each."""
    cameras, rgba, masks = [], [], []
    for scene in range(4):
        sizes = [(SIDE, SIDE + (0 if one_size else number)) for number in range(scene + 1)]
        cameras.append(
            [
                hf.Camera(
                    hf.look_at([3.0, 1.0 + n, scene], [0.0, 0.0, 0.0]), 5.0, 6.0, w / 2, h / 2, w, h,
                    hf.Lens("OPENCV", (0.1, 0.01 * scene, 0.01, 0.0)) if lens else None,
                )
                for n, (h, w) in enumerate(sizes)
            ]
        )  # fmt: skip
        rgba.append([torch.randint(0, 255, (h, w, 4), generator=generator(scene), dtype=torch.uint8) for h, w in sizes])
        hidden = [torch.rand(h, w, generator=generator(scene)) > 0.3 for h, w in sizes]
        masks.append(hidden if scene % 2 else None)
    held_out = [posed[:1] for posed in cameras], [held[:1] for held in rgba]
    return hf.Views(
        cameras, rgba, test=held_out, masks=masks if masked else None, box=[(2.0, 0.0, 0.1, 0.2)] * 4,
        behind=[None, (1.0, 1.0, 1.0), None, (0.25, 0.5, 1.0)] if cut else None,
    )  # fmt: skip


FAMILIES: dict[str, Callable[[], Any]] = {
    "images": images,
    "shapes": shapes,
    "views": views,
    "views of several sizes": lambda: views(one_size=False),
    "views with masks": lambda: views(one_size=False, masked=True),
    "views cut out of a colour": lambda: views(cut=True),
    "views with lenses": lambda: views(lens=True, masked=True),
}


def packed(data: Any, folder: Path) -> Path:
    folder.mkdir()
    packer = Packer(Writer(folder, shard=2000))  # several files
    packer.add(data)
    packer.close({})
    return folder


def flat(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple):
        for part in value:
            yield from flat(part)
    else:
        yield value


def assert_same(a: Any, b: Any) -> None:
    for one, other in zip(flat(tuple(a)), flat(tuple(b)), strict=True):
        if isinstance(one, Tensor):
            torch.testing.assert_close(one, other, rtol=0.0, atol=0.0, equal_nan=True)
        else:
            assert one == other


@pytest.mark.parametrize("name", FAMILIES)
def test_batches_are_those_that_were_packed(name: str, tmp_path: Path) -> None:
    """Whatever is in memory: here two records of all, so that they come and go, read ahead or not."""
    data = FAMILIES[name]()
    folder = packed(data, tmp_path / "pack")
    largest = max(entry for entry in open_pack(str(folder)).store.parts["data"].size.tolist())
    again: Any = open_pack(str(folder), memory=2 * largest)
    assert again.names == data.names
    assert fingerprint(again) == fingerprint(data)  # of all scenes, for which the memory grows
    again = open_pack(str(folder), memory=2 * largest)
    ours, theirs = generator(1), generator(1)
    order = generator(2)
    for step in range(30):
        scenes = torch.randperm(len(data.names), generator=order)[: 1 + step % 3]
        assert_same(data.batch(scenes, 9, ours), again.batch(scenes, 9, theirs))
        if step % 4:  # what is expected may come or not
            expect(again, torch.randperm(len(data.names), generator=order)[: 1 + step % 2])
    assert len(again._cache.block) <= 3  # as many as a batch had
    assert_same(data.batch(torch.tensor([1, 1]), 2**10, ours), again.batch(torch.tensor([1, 1]), 2**10, theirs))


@pytest.mark.parametrize("name", FAMILIES)
def test_references_and_facts_are_those_that_were_packed(name: str, tmp_path: Path) -> None:
    data = FAMILIES[name]()
    again: Any = open_pack(str(packed(data, tmp_path / "pack")))
    task = hf.task_of(data.kind)
    assert json.dumps(task.describe(again)) == json.dumps(task.describe(data))
    for scene in range(len(data.names)):
        for split in ("train", "test"):
            ours, theirs = data.reference(scene, split), again.reference(scene, split)
            if data.kind == "images":
                assert torch.equal(ours, theirs)
            elif data.kind == "shapes":
                assert_same(ours, theirs)
            else:
                for a, b in zip(ours, theirs, strict=True):
                    assert_same((a.rgba, a.mask, a.name, a.behind), (b.rgba, b.mask, b.name, b.behind))
                    assert_same(a.camera.rays(), b.camera.rays())
    if data.kind == "views":
        assert again.frames == data.frames
        assert again.up == data.up
        assert again.files == data.files
        for a, b in zip(data.cameras[3], again.cameras[3], strict=True):
            assert_same(a.rays(), b.rays())
        with pytest.raises(InputError, match=r"has no val views in .*; splits: train, test"):
            again.reference(0, "val")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("family") / "pictures")


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    out = folder.parent / "pack"
    out.mkdir()
    assert pack_family(folder, out) == [f"p{number}" for number in range(9)]
    return out


def test_a_fit_is_the_same(folder: Path, whole: Path) -> None:
    options: dict[str, Any] = {"steps": 3, "preset": "tiny", "progress": False}
    ours, theirs = hf.fit(open_family(folder), **options), hf.fit(open_family(whole, memory=1), **options)
    for name, value in ours.model.state_dict().items():
        assert torch.equal(value, theirs.model.state_dict()[name])


def test_some_scenes(whole: Path) -> None:
    data = open_family(whole, scenes=["p3", "p1"])
    assert data.names == ("p1", "p3")
    expect(data, torch.tensor([1]))
    assert family_names(whole, scenes=["p[2-5]"], limit=2) == ["p2", "p3"]
    with pytest.raises(InputError, match="no scene called 'p77'"):
        open_family(whole, scenes=["p77"])


def test_options_of_reading_were_decided(folder: Path, whole: Path, tmp_path: Path) -> None:
    assert open_family(whole, size=(SIDE, SIDE + 1)).names == open_family(folder).names
    for option, text in (({"size": (4, 4)}, "size: 4x4 came"), ({"aspect": "pad"}, "aspect: pad came")):
        with pytest.raises(InputError, match=f"{text}, but .*pack was packed with"):
            open_family(whole, **option)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="holds no views, but images"):
        open_family(whole, kind="views")
    with pytest.raises(InputError, match="is packed already"):
        pack_family(whole, tmp_path)


def test_from_a_url(whole: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    there = fsspec.filesystem("memory")
    for file in whole.iterdir():
        there.pipe_file(f"/store/pack/{file.name}", file.read_bytes())
    assert location(Path("memory://store/pack")) == "memory://store/pack"  # a path drops a slash
    assert location(Path(f"file://{whole}")) == f"file://{whole}"
    local = open_family(whole)
    for place in ("memory://store/pack", f"file://{whole}"):
        data = open_family(place, memory=1)
        scenes = torch.tensor([8, 0, 4])
        expect(data, scenes)
        for _ in range(2):
            assert_same(data.batch(scenes, 5, generator()), local.batch(scenes, 5, generator()))
    there.pipe_file("/store/pack/data-00000.bin", b"")
    with pytest.raises(InputError, match=r"memory://store/pack/data-00000.bin: ends too early; pack the family again"):
        open_family("memory://store/pack").reference(0)
    with pytest.raises(InputError, match=r"holds no pack.json"):
        open_family("memory://store")
    with pytest.raises(InputError, match="nowhere://x: cannot be opened"):
        open_family("nowhere://x")


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "no index": (lambda pack: (pack / "index.safetensors").unlink(), "index.safetensors: cannot be read"),
    "no data": (lambda pack: (pack / "data-00000.bin").unlink(), "data-00000.bin: is missing; pack the family again"),
    "short data": (lambda pack: cut(pack / "data-00000.bin"), r"data-00000.bin: has [\d,]+ bytes, not [\d,]+;"),
    "short index": (lambda pack: cut(pack / "index.safetensors"), "index.safetensors: damaged"),
    "short head": (lambda pack: cut(pack / "pack.json"), "pack.json: damaged"),
    "a bit of the index": (lambda pack: flip(pack / "index.safetensors"), "index.safetensors: damaged"),
    "a bit of the data": (lambda pack: flip(pack / "data-00000.bin"), "data-00000.bin: scene p4 is damaged in it"),
    "another version": (
        lambda pack: change(pack / "pack.json", '"format": 1', '"format": 9'),
        "pack.json: of format 9, wanted 1",
    ),
    "a kind that is none": (
        lambda pack: change(pack / "pack.json", '"kind": "images"', '"kind": "sounds"'),
        "pack.json: holds 'sounds', wanted images, shapes, views",
    ),
    "another kind": (
        lambda pack: change(pack / "pack.json", '"kind": "images"', '"kind": "shapes"'),
        "pack.json: damaged: it does not fit the index",
    ),
}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def read_all(pack: Path) -> Any:
    data = open_family(pack)
    return data.batch(torch.arange(len(data.names)), 2, generator())


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_named(what: str, whole: Path, tmp_path: Path) -> None:
    pack = tmp_path / "pack"
    shutil.copytree(whole, pack)
    spoil, text = DAMAGE[what]
    spoil(pack)
    with pytest.raises(InputError, match=text) as caught:
        read_all(pack)
    assert "\n" not in str(caught.value)


def test_any_change_of_the_head_is_seen(whole: Path, tmp_path: Path) -> None:
    pack = tmp_path / "pack"
    shutil.copytree(whole, pack)
    head, before = (pack / "pack.json").read_bytes(), read_all(whole)
    random = np.random.default_rng(0)
    for _ in range(150):
        data = bytearray(head)
        data[random.integers(len(data))] = random.integers(32, 127)
        (pack / "pack.json").write_bytes(data)
        with contextlib.suppress(InputError):  # a blank may become another one
            assert_same(read_all(pack), before)


def test_a_reader_ahead_tells_of_damage(whole: Path, tmp_path: Path) -> None:
    pack = tmp_path / "pack"
    shutil.copytree(whole, pack)
    flip(pack / "data-00000.bin")
    data = open_family(pack, memory=1)
    data.batch(torch.tensor([0]), 2, generator())
    expect(data, torch.tensor([4]))
    data.batch(torch.tensor([0]), 2, generator())
    with pytest.raises(InputError, match="scene p4 is damaged in it"):
        data.batch(torch.tensor([4]), 2, generator())
    data.batch(torch.tensor([3]), 2, generator())  # the others are still there


def test_pictures_of_16_bits_after_others(tmp_path: Path) -> None:
    """All are floats then, as those of a folder."""
    family = pictures(tmp_path / "family", 3)
    deep = np.arange(SIDE * (SIDE + 1), dtype=np.uint16).reshape(SIDE, SIDE + 1) * 1500
    Image.fromarray(deep).save(family / "q.png")
    (tmp_path / "pack").mkdir()
    pack_family(family, tmp_path / "pack")
    ours, theirs = open_family(family), open_family(tmp_path / "pack")
    for scene in range(4):
        assert torch.equal(ours.reference(scene), theirs.reference(scene))  # type: ignore[arg-type]


def test_files_in_pieces_are_safetensors(tmp_path: Path) -> None:
    """Written tensor by tensor, read by the library of the format."""
    tensors = {
        "a": torch.rand(3, 5), "b": torch.tensor(7), "c": torch.rand(3).half(), "d": torch.tensor([True, False, True]),
        "e": torch.zeros(0, 4), "f": torch.rand(4, 3).T, "g": torch.rand(3, dtype=torch.float64),
        "h": torch.arange(5, dtype=torch.uint8), "i": torch.rand(5).bfloat16(),
    }  # fmt: skip
    (tmp_path / "x.safetensors").write_bytes(b"".join(codec.pieces(tensors, {"format": "2"})))
    read, header = codec.read_tensors(tmp_path / "x.safetensors")
    assert header == {"format": "2"}
    assert read.keys() == tensors.keys()
    for name, value in tensors.items():
        assert torch.equal(read[name], value)
        assert read[name].dtype == value.dtype
