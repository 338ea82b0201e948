"""Data sets in memory: the protocol, the three kinds, composition, the loader, the fingerprint of a resumed fit."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hyperfields.cameras import Camera, Rays, orbit
from hyperfields.data import (
    Concat,
    Images,
    Kind,
    Mesh,
    Movable,
    Pixels,
    Points,
    Sampling,
    SceneDataset,
    SceneLoader,
    Shapes,
    Subset,
    View,
    Views,
    fingerprint,
    on_device,
    stays_on_device,
)
from hyperfields.data.base import HostDrawn
from hyperfields.errors import InputError


@dataclasses.dataclass
class Noise:
    """A data set of a user's own: the four members of `SceneDataset` and nothing else."""

    kind: Kind = "images"
    names: tuple[str, ...] = ("a", "b", "c")
    brightness: float = 1.0

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Points | Pixels:
        draw = torch.rand(len(scenes), n, 6, generator=generator) + scenes[:, None, None]
        if self.kind == "views":
            rgba = torch.cat((draw[..., 3:], draw[..., :1]), -1) * self.brightness
            return Pixels(Rays(draw[..., :3], draw[..., 3:]), rgba)
        return Points(draw[..., :2], draw[..., 3:] * self.brightness)

    def reference(self, scene: int, split: str = "test") -> Tensor | Mesh | list[View]:
        return torch.zeros(2, 2, 3)


@dataclasses.dataclass
class Nameless:
    kind: Kind = "images"

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Points:
        return Points(torch.zeros(1), torch.zeros(1))

    def reference(self, scene: int, split: str = "test") -> Tensor:
        return torch.zeros(1)


def test_a_class_with_the_four_members_is_a_family_and_another_is_not() -> None:
    assert isinstance(Noise(), SceneDataset)
    assert not isinstance(Nameless(), SceneDataset)


@pytest.mark.parametrize("kind", ["images", "views"])
def test_the_same_data_have_the_same_fingerprint(kind: Kind) -> None:
    torch.manual_seed(1)
    one = fingerprint(Noise(kind))
    torch.manual_seed(2)  # the global generator has no part in it
    assert fingerprint(Noise(kind)) == one
    assert len(one) == 16
    assert int(one, 16) >= 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Noise(), Noise("shapes")),
        (Noise(), Noise(names=("a", "b", "d"))),
        (Noise(), Noise(names=("b", "a", "c"))),
        (Noise(), Noise(names=("a", "b"))),
        (Noise(), Noise(brightness=0.999)),
        (Noise("views"), Noise("views", brightness=0.999)),
    ],
    ids=["kind", "a name", "order", "number", "targets", "colours of rays"],
)
def test_other_data_have_another_fingerprint(one: Noise, other: Noise) -> None:
    assert fingerprint(one) != fingerprint(other)


def test_a_fingerprint_of_many_scenes_asks_for_a_few() -> None:
    asked: list[int] = []

    class Counting(Noise):
        def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Points | Pixels:
            asked.extend(scenes.tolist())
            return super().batch(scenes, n, generator)

    fingerprint(Counting(names=tuple(str(i) for i in range(1000))))
    assert len(asked) == 8
    assert asked == sorted(asked)
    assert (asked[0], asked[-1]) == (0, 999)


def test_a_family_of_one_scene_has_a_fingerprint() -> None:
    assert fingerprint(Noise(names=("only",))) != fingerprint(Noise(names=("other",)))


def test_a_mesh_in_the_scene_frame_is_its_file_when_nothing_is_said() -> None:
    mesh = Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2]]))
    assert (mesh.scale, mesh.center) == (1.0, (0.0, 0.0, 0.0))


class Still:
    """A data set without `to`."""

    def __init__(self, dataset: SceneDataset) -> None:
        self.kind, self.names = dataset.kind, dataset.names
        self.batch, self.reference = dataset.batch, dataset.reference


def test_a_data_set_is_moved_or_its_batches_are_copied() -> None:
    pictures = Images(torch.rand(2, 4, 4, 3, generator=torch.Generator().manual_seed(0)))
    still = Still(pictures)
    assert isinstance(pictures, Movable)
    assert stays_on_device(pictures)
    assert on_device(still, "cpu") is still
    moved, copied = on_device(pictures, "meta"), on_device(still, "meta")
    assert isinstance(moved, Images)
    assert isinstance(copied, SceneDataset)
    batch = copied.batch(torch.arange(2), 5, torch.Generator().manual_seed(0))
    assert isinstance(batch, Points)
    assert (batch.x.device.type, batch.x.shape) == ("meta", (2, 5, 2))
    assert torch.equal(copied.reference(0), pictures.reference(0))  # type: ignore[arg-type]
    here = on_device(pictures, "cpu").batch(torch.arange(2), 5, torch.Generator().manual_seed(0))
    again = HostDrawn(still, "cpu").batch(torch.arange(2), 5, torch.Generator().manual_seed(0))
    for a, b in zip(here, again, strict=True):
        assert torch.equal(a, b)  # type: ignore[arg-type]
    assert not stays_on_device(still)
    assert not stays_on_device(Subset(still, [0]))
    assert not stays_on_device(Concat([Subset(pictures, [1]), still.__class__(Images(torch.zeros(1, 4, 4, 3), ["z"]))]))
    assert stays_on_device(Concat([pictures, Images(torch.zeros(1, 4, 4, 3), ["z"])]))


# Images


def test_images_from_memory() -> None:
    images = Images(torch.full((1, 2, 2, 3), 0.25))
    assert isinstance(images, SceneDataset)
    assert images.names == ("0",)
    assert torch.equal(images.reference(0), torch.full((2, 2, 3), 0.25))
    bytes_ = Images(torch.full((2, 2, 2, 3), 51, dtype=torch.uint8), ["a", "b"])
    assert bytes_.names == ("a", "b")
    torch.testing.assert_close(bytes_.reference(1), torch.full((2, 2, 3), 0.2))
    assert Images(torch.zeros(1, 2, 2, 3, dtype=torch.float64)).reference(0).dtype == torch.float32


PICTURE = torch.zeros(1, 2, 2, 3)


@pytest.mark.parametrize(
    ("pixels", "names", "complaint"),
    [
        (torch.zeros(1, 2, 2, 4), None, r"pixels: \(1, 2, 2, 4\) came, wanted \[s h w 3\]"),
        (torch.zeros(2, 2, 3), None, r"pixels: \(2, 2, 3\) came"),
        (torch.zeros(0, 2, 2, 3), None, r"pixels: \(0, 2, 2, 3\) came"),
        (PICTURE + torch.nan, None, "pixels: values from nan to nan"),
        (PICTURE + 1.5, None, r"pixels: values from 1.5 to 1.5 came, wanted floats in \[0, 1\]"),
        (PICTURE.long(), None, "pixels: torch.int64 came"),
        (PICTURE, ["a", "b"], "names: 2 came for 1 scenes"),
        (PICTURE.repeat(2, 1, 1, 1), ["a", "a"], "names: a came more than once"),
        (PICTURE, "a", "names: 'a' came"),
        (PICTURE, [""], "names: "),
    ],
)
def test_images_that_cannot_be(pixels: Tensor, names: list[str] | None, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        Images(pixels, names)


# Views


def views(count: int = 3, *, first: int = 0, **changes: Any) -> tuple[list[Camera], Tensor]:
    """Cameras on a circle and pictures whose red is the number of the view."""
    cameras = [dataclasses.replace(camera, **changes) for camera in orbit(count, radius=3.0, height=4, width=6)]
    rgba = torch.zeros(count, 4, 6, 4, dtype=torch.uint8)
    rgba[..., 0] = torch.arange(first, first + count)[:, None, None]
    rgba[..., 3] = 255
    return cameras, rgba


def same_views(one: Views, other: Views) -> bool:
    generators = [torch.Generator().manual_seed(2) for _ in range(2)]
    scenes = torch.arange(len(one.names))
    a, b = (data.batch(scenes, 50, g) for data, g in zip((one, other), generators, strict=True))
    return torch.equal(a.rgba, b.rgba) and torch.equal(a.rays.origins, b.rays.origins)


def test_views_from_memory() -> None:
    cameras, rgba = views()
    one = Views(cameras, rgba)
    assert isinstance(one, SceneDataset)
    assert (one.names, one.sizes, one.pictures) == (("0",), ((4, 6),), 3)
    batch = one.batch(torch.tensor([0]), 200, torch.Generator().manual_seed(0))
    for number, camera in enumerate(cameras):
        here = (batch.rgba[0, :, 0] * 255.0).round() == number
        assert bool(here.any())
        torch.testing.assert_close(batch.rays.origins[0][here], camera.T_world_camera[:3, 3].expand(int(here.sum()), 3))
    assert len(one.reference(0, "train")) == 3
    with pytest.raises(InputError, match=r"scene 0: has no views to test with; splits: train; wanted 'test'.*test="):
        one.reference(0)
    held_out = Views(cameras, rgba, test=views(1, first=9))
    (view,) = held_out.reference(0)
    assert float(view.rgba[0, 0, 0]) == pytest.approx(9 / 255)
    lazy = Views(cameras, rgba, reference=lambda scene, split: [View(cameras[scene], rgba[0] / 255.0)] * len(split))
    assert len(lazy.reference(0, "four")) == 4


def test_views_come_in_several_forms() -> None:
    cameras, rgba = views()
    poses = torch.stack([camera.T_world_camera for camera in cameras])
    c = cameras[0]
    lens = torch.tensor([c.fx, c.fy, c.cx, c.cy])
    one = Views(cameras, rgba)
    for form in (
        Views([cameras], [rgba]),
        Views((poses, lens), rgba),
        Views([(poses, lens.expand(3, 4))], [rgba]),
        Views(cameras, rgba[..., :3]),  # opaque
        Views(cameras, rgba / 255.0),
    ):
        assert same_views(one, form)
    two = Views([cameras, cameras], torch.stack((rgba, rgba)), ["a", "b"])
    assert same_views(two, Views((torch.stack((poses, poses)), lens), torch.stack((rgba, rgba))))
    uneven = Views([cameras, cameras[:1]], [rgba, rgba[:1]])  # scenes may have as many views as they like
    assert len(uneven.reference(1, "train")) == 1


TURNED = torch.eye(4) * torch.tensor([1.0, 1.0, -1.0, 1.0])


@pytest.mark.parametrize(
    ("cameras", "rgba", "complaint"),
    [
        (views()[0], torch.zeros(4, 6, 4), r"rgba: \(4, 6, 4\) came"),
        (views()[0], torch.zeros(3, 4, 6, 2), r"rgba, scene 0: \(3, 4, 6, 2\) came"),
        (views(2)[0], views(3)[1], "scene 0: 2 cameras came for 3 pictures"),
        ([views()[0]] * 2, [views()[1]], "pictures of 1 scenes came with cameras of 2"),
        ([], [], "pictures of 0 scenes"),
        (views()[0], torch.full((3, 4, 6, 4), torch.nan), "scene 0: values from nan"),
        (views()[0], torch.zeros(3, 6, 4, 4), "camera 0: is for 4x6 pixels but its picture has 6x4"),
        (["a", "b", "c"], views()[1], "pictures of 1 scenes came with cameras of 3"),
        ([["a", "b", "c"]], views()[1], "camera 0: str came"),
        (views(T_world_camera=torch.zeros(4, 4))[0], views()[1], "camera 0: T_world_camera is not a rigid pose"),
        (views(T_world_camera=TURNED)[0], views()[1], "not a rigid pose .*determinant -1"),
        ((torch.eye(4)[None], torch.ones(3)), views(1)[1], r"intrinsics \(3,\) came"),
        ((torch.eye(4)[None], torch.zeros(4)), views(1)[1], "scene 0, camera 0: fx 0, .*focal lengths above 0"),
        ((torch.eye(4)[None] + torch.nan, torch.ones(4)), views(1)[1], "camera 0: T_world_camera has NaN"),
        (
            [views(1)[0], views(1)[0]],
            [torch.zeros(1, 4, 6, 4), torch.zeros(1, 5, 6, 4)],
            "scene 1, camera 0: is for 4x6",
        ),
        (views(2)[0], [torch.zeros(4, 6, 4), torch.zeros(5, 6, 4)], "scene 0, camera 1: is for 4x6 .*has 5x6"),
    ],
)
def test_views_that_cannot_be(cameras: Any, rgba: Any, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint) as caught:
        Views(cameras, rgba)
    assert "\n" not in str(caught.value)


# Shapes

CUBE = torch.tensor([[x, y, z] for x in (0.0, 1.0) for y in (0.0, 1.0) for z in (0.0, 1.0)])
SIDES = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
FACES = torch.tensor([t for a, b, c, d in SIDES for t in ((a, b, c), (a, c, d))])
FEW = Sampling(points=2000)


@pytest.fixture
def open3d() -> None:
    pytest.importorskip("open3d", reason="distances need open3d (extra shapes)", exc_type=ImportError)


@pytest.mark.usefixtures("open3d")
def test_shapes_from_memory() -> None:
    done: list[tuple[int, int, str]] = []
    inside = Mesh(CUBE * 1.2 - 0.6, FACES)
    state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    shapes = Shapes([inside, (CUBE * 4.0 + 7.0, FACES)], sampling=FEW, progress=lambda *a: done.append(a))
    assert torch.equal(state[0], torch.random.get_rng_state())
    assert (state[1] == np.random.get_state()[1]).all()  # type: ignore[index]
    assert isinstance(shapes, SceneDataset)
    assert done == [(1, 2, "0"), (2, 2, "1")]
    x, target = shapes.batch(torch.tensor([0, 1]), 1500, torch.Generator().manual_seed(0))
    for points, distance, half in zip(x, target, (0.6, 0.9), strict=True):
        q = points.abs() - half
        wanted = q.clamp(min=0.0).norm(dim=-1, keepdim=True) + q.amax(-1, keepdim=True).clamp(max=0.0)
        torch.testing.assert_close(distance, wanted, atol=2e-6, rtol=0.0)
    assert torch.equal(shapes.reference(0).vertices, inside.vertices)  # as it was given
    scaled = shapes.reference(1)
    assert scaled.scale == pytest.approx(4.0 / 1.8)
    assert scaled.center == pytest.approx((9.0, 9.0, 9.0))
    assert fingerprint(shapes) == fingerprint(Shapes([inside, (CUBE * 4.0 + 7.0, FACES)], sampling=FEW))


@pytest.mark.usefixtures("open3d")
def test_a_mesh_of_trimesh_is_a_shape() -> None:
    trimesh = pytest.importorskip("trimesh", reason="needs trimesh (extra shapes)")
    shapes = Shapes([trimesh.creation.icosphere(), trimesh.creation.box()], ["ball", "box"], sampling=FEW)
    x, target = shapes.batch(torch.tensor([0]), 1000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(target, x.norm(dim=-1, keepdim=True) - 0.9, atol=0.02, rtol=0.0)


@pytest.mark.parametrize(
    ("mesh", "complaint"),
    [
        (Mesh(CUBE * 2.0, FACES), r"mesh 0: reaches 2, out of the box.*\(vertices, faces\)"),
        (Mesh(CUBE, FACES + 5), "mesh 0: a face names vertex 12 of 8"),
        (Mesh(CUBE, FACES - 1), "mesh 0: a face names vertex -1 of 8"),
        (Mesh(CUBE + torch.nan, FACES), "mesh 0: has NaN"),
        (Mesh(CUBE, FACES[:0]), r"mesh 0: has no faces \(8 vertices\)"),
        (Mesh(CUBE * 0.0, FACES), "mesh 0: every face is without area"),
        ((CUBE * 0.0, FACES), "mesh 0: all vertices are at one place"),
        ((CUBE[:, :2], FACES), r"mesh 0: vertices \[8, 2\] and faces \[12, 3\] came"),
        ((CUBE, FACES.float()), "mesh 0: faces of float32 came"),
        (3, "mesh 0: int came, wanted a Mesh, a pair"),
        ((CUBE,), "mesh 0: tuple came"),
    ],
)
def test_shapes_that_cannot_be(mesh: Any, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        Shapes([mesh])


def test_an_open_shape_is_said_to_be_open() -> None:
    with pytest.warns(UserWarning, match="mesh lid: an open surface"):
        Shapes([(CUBE, FACES[2:])], ["lid"], pool=torch.zeros(1, 5, 4))
    with pytest.raises(InputError, match=r"pool: \(2, 5, 4\) came for 1 meshes"):
        Shapes([(CUBE, FACES)], pool=torch.zeros(2, 5, 4))


# Composition


def greys(*levels: float, names: list[str] | None = None, side: int = 4) -> Images:
    return Images(torch.stack([torch.full((side, side, 3), level) for level in levels]), names)


def test_a_subset_has_the_scenes_of_its_numbers() -> None:
    part = Subset(greys(0.1, 0.2, 0.3), [2, 0])
    assert isinstance(part, SceneDataset)
    assert part.names == ("2", "0")
    x, target = part.batch(torch.tensor([1, 0, 0]), 3, torch.Generator().manual_seed(0))
    torch.testing.assert_close(target[:, 0, 0], torch.tensor([0.1, 0.3, 0.3]))
    assert x.shape == (3, 3, 2)
    torch.testing.assert_close(part.reference(0), torch.full((4, 4, 3), 0.3))
    assert Subset(part, [1]).names == ("0",)
    for scenes in ([], [3], [-1], [0, 0]):
        with pytest.raises(InputError, match="different numbers from 0 to 2"):
            Subset(greys(0.1, 0.2, 0.3), scenes)


def test_data_sets_behind_one_another() -> None:
    both = Concat([greys(0.1, 0.2, names=["a", "b"]), greys(0.3, names=["c"]), greys(0.4, names=["d"])])
    assert isinstance(both, SceneDataset)
    assert both.names == ("a", "b", "c", "d")
    scenes = torch.tensor([3, 0, 2, 1, 2])
    batch = both.batch(scenes, 5, torch.Generator().manual_seed(0))
    assert isinstance(batch, Points)
    torch.testing.assert_close(batch.target, ((scenes + 1) * 0.1)[:, None, None].expand(5, 5, 3))
    assert len(torch.unique(batch.x[1], dim=0)) > 1
    again = both.to("cpu").batch(scenes, 5, torch.Generator().manual_seed(0))
    assert torch.equal(batch.x, again.x)
    torch.testing.assert_close(both.reference(2), torch.full((4, 4, 3), 0.3))
    with pytest.raises(IndexError, match="scene 4 of 4"):
        both.reference(4)


def test_views_behind_one_another_keep_rays_and_colours_together() -> None:
    both = Concat([Views(*views(2), ["a"]), Views(*views(3, first=2), ["b"])])
    batch = both.batch(torch.tensor([1, 0]), 100, torch.Generator().manual_seed(0))
    assert isinstance(batch, Pixels)
    assert set((batch.rgba[0, :, 0] * 255.0).round().tolist()) == {2.0, 3.0, 4.0}
    assert set((batch.rgba[1, :, 0] * 255.0).round().tolist()) == {0.0, 1.0}
    cameras = views(2)[0]
    for number in (0, 1):
        origins = batch.rays.origins[1][(batch.rgba[1, :, 0] * 255.0).round() == number]
        torch.testing.assert_close(origins, cameras[number].T_world_camera[:3, 3].expand_as(origins))


def test_views_carry_the_colour_that_their_pictures_were_cut_out_of() -> None:
    one, two = views(2), views(3)
    cut = Views([one[0], two[0]], [one[1], two[1]], ["a", "b"], behind=[None, (0.25, 0.5, 1.0)])
    batch = Concat([cut, Views(*views(2), ["c"])]).batch(torch.tensor([2, 1, 0]), 5, torch.Generator())
    assert isinstance(batch, Pixels)
    assert batch.behind is not None
    torch.testing.assert_close(batch.behind[1], torch.tensor([[0.25, 0.5, 1.0]]))
    assert bool(batch.behind[[0, 2]].isnan().all())
    assert cut.reference(0, "train")[0].behind is None
    assert torch.equal(torch.stack([view.behind for view in cut.reference(1, "train")]), batch.behind[1].expand(3, 3))
    known = Views(*one, ["a"]).batch(torch.tensor([0]), 5, torch.Generator())
    assert known.behind is None


@pytest.mark.parametrize("first", [0, 1])
def test_pictures_of_several_sizes_give_batches_of_one(first: int) -> None:
    sets = [greys(0.1, names=["a"], side=2), greys(0.3, names=["b"], side=8)]
    both = Concat(sets[first:] + sets[:first])
    batch = both.batch(torch.tensor([0, 1]), 30, torch.Generator().manual_seed(0))
    assert isinstance(batch, Points)
    assert batch.x.shape == (2, 4, 2)
    assert len(torch.unique(batch.x[first], dim=0)) == 4  # all of the small one


def test_data_sets_that_cannot_be_behind_one_another() -> None:
    with pytest.raises(InputError, match="none came"):
        Concat([])
    with pytest.raises(InputError, match="images and views came together"):
        Concat([greys(0.1), Views(*views(), ["v"])])
    with pytest.raises(InputError, match="scenes called a are in more than one"):
        Concat([greys(0.1, names=["a"]), greys(0.2, names=["a"])])


def test_a_loader_gives_batches_for_ever_and_draws_from_itself() -> None:
    data = greys(0.1, 0.2, 0.3, 0.4, 0.5)
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    loader = SceneLoader(data, scenes=2, samples=6, seed=3)
    steps = list(itertools.islice(loader, 5))
    assert torch.equal(state, torch.random.get_rng_state())
    for scenes, batch in steps:
        assert isinstance(batch, Points)
        assert batch.x.shape == (2, 3, 2)
        torch.testing.assert_close(batch.target[:, 0, 0], (scenes + 1) * 0.1)
    assert len({int(scene) for scenes, _ in steps[:2] for scene in scenes}) == 4  # each once before one comes again
    again = list(itertools.islice(SceneLoader(data, scenes=2, samples=6, seed=3), 5))
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1].x, b[1].x) for a, b in zip(steps, again, strict=True))  # type: ignore[union-attr]
    scenes, _ = next(SceneLoader(data, scenes=100, samples=3))
    assert len(scenes) == 5
    for wrong in ({"scenes": 0}, {"samples": 0}):
        with pytest.raises(InputError, match="0 came, wanted at least 1"):
            SceneLoader(data, **wrong)


def test_numbers_of_training_pictures_count_over_all_scenes() -> None:
    """Each drawn colour is that of the picture whose number comes with it, also through `Concat`."""

    def views(value: int, count: int) -> tuple[list[Camera], Tensor]:
        levels = torch.arange(value, value + count, dtype=torch.uint8)
        return orbit(count, radius=4.0, height=3, width=4), levels[:, None, None, None].expand(count, 3, 4, 3)

    one, two = views(0, 2), views(2, 3)
    alone = Views([one[0], two[0]], [one[1], two[1]], ["a", "b"])
    both = Concat([alone, Views(*views(5, 2), ["c"])])
    assert alone.pictures == 5
    batch = both.batch(torch.tensor([2, 0, 1]), 40, torch.Generator().manual_seed(0))
    assert isinstance(batch, Pixels)
    assert batch.images is not None
    assert torch.equal((batch.rgba[..., 0] * 255).round().long(), batch.images)
    assert [sorted(set(row)) for row in batch.images.tolist()] == [[5, 6], [0, 1], [2, 3, 4]]
