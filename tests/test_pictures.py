"""Training pictures of several sizes, through lenses, in memory and in a file."""

from __future__ import annotations

import dataclasses
import errno
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import hyperfields as hf
import hyperfields.scenes
from hyperfields.cameras import MODELS, Camera, Lens, look_at, orbit
from hyperfields.data import Concat, Pictures, Views, stays_on_device
from hyperfields.data.base import HostDrawn
from hyperfields.errors import InputError
from hyperfields.evaluation import uncertainty
from hyperfields.rendering.base import Rendered
from hyperfields.scenes import open_family

from .test_lenses import made

SIZES = ((4, 6), (7, 5), (3, 9))


def numbered(number: int, height: int, width: int) -> Tensor:
    """A picture whose pixel in row v, column u is (u, v, number, 255)."""
    v, u = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack((u, v, torch.full_like(u, number), torch.full_like(u, 255)), -1).to(torch.uint8)


def uneven(**options: Any) -> Views:
    """Two scenes with pictures of several sizes, between and within scenes."""
    cameras, pictures = [], []
    for number, (camera, size) in enumerate(zip(orbit(3, radius=4.0), SIZES, strict=True)):
        cameras.append(camera.resized(*size))
        pictures.append(numbered(number, *size))
    extra = [camera.resized(2, 2) for camera in orbit(2, radius=3.5, start=0.3)]
    return Views([cameras, extra], [pictures, [numbered(3, 2, 2), numbered(4, 2, 2)]], ["a", "b"], **options)


@pytest.mark.parametrize("memory", [2**30, 64])
def test_pictures_of_several_sizes(memory: int) -> None:
    views = uneven(memory=memory)
    assert views.on_disk == (memory == 64)
    assert views.sizes == ((2, 2), (3, 9), (4, 6), (7, 5))
    assert repr(views).startswith("Views(2 scenes: 'a', 'b'; 5 pictures of 2x2 to 7x5")
    batch = views.batch(torch.tensor([1, 0]), 3000, torch.Generator().manual_seed(0))
    byte = (batch.rgba * 255.0).round().long()
    assert batch.images is not None
    assert torch.equal(batch.images, byte[..., 2])
    cameras = [view.camera for scene in range(2) for view in views.reference(scene, "train")]
    for number, camera in enumerate(cameras):
        here = byte[..., 2] == number
        rays, pixel = camera.rays(), byte[here][:, 1] * camera.width + byte[here][:, 0]
        torch.testing.assert_close(batch.rays.directions[here], rays.directions[pixel], atol=1e-6, rtol=0.0)
        torch.testing.assert_close(batch.rays.origins[here], rays.origins[pixel])
        # Every pixel of a scene is as likely as any other, whatever the size of its picture.
        counts, pixels = torch.bincount(pixel, minlength=camera.height * camera.width), (86, 8)[number > 2]
        assert float(counts.min()) > 0.3 * 3000 / pixels
        assert abs(int(here.sum()) - 3000 * camera.height * camera.width / pixels) < 400
    for number, view in enumerate([*views.reference(0, "train"), *views.reference(1, "train")]):
        assert torch.equal((view.rgba * 255.0).round().to(torch.uint8), numbered(number, *view.rgba.shape[:2]))


@pytest.mark.parametrize("memory", [2**30, 64])
def test_pixels_that_do_not_count_are_never_drawn(memory: int) -> None:
    masks = [[torch.rand(size, generator=torch.Generator().manual_seed(1)) > 0.5 for size in SIZES], None]
    views = uneven(memory=memory, masks=masks)
    batch = views.batch(torch.tensor([0, 1]), 2000, torch.Generator().manual_seed(0))
    byte = (batch.rgba * 255.0).round().long()
    for number, mask in enumerate(masks[0] or []):
        here = byte[0][byte[0, :, 2] == number]
        drawn = torch.zeros(mask.shape, dtype=torch.bool)
        drawn[here[:, 1], here[:, 0]] = True
        assert torch.equal(drawn, mask)
    assert set(byte[1, :, 2].tolist()) == {3, 4}
    with pytest.raises(InputError, match="masks, a: no pixel counts"):
        uneven(memory=memory, masks=[[torch.zeros(size, dtype=torch.bool) for size in SIZES], None])
    with pytest.raises(InputError, match=r"masks, b: torch.bool \(3, 2\) came, wanted bool \(2, 2\)"):
        uneven(memory=memory, masks=[None, [torch.ones(3, 2, dtype=torch.bool), None]])
    with pytest.raises(InputError, match="masks: those of 1 scenes came for 2"):
        uneven(memory=memory, masks=[None])


def test_a_batch_from_a_file_depends_on_its_random_numbers_only() -> None:
    one, two = uneven(memory=64), uneven(memory=64)
    two.batch(torch.tensor([0]), 999, torch.Generator().manual_seed(5))
    two.reference(0, "train")[1]
    a, b = (v.batch(torch.tensor([0, 1]), 100, torch.Generator().manual_seed(3)) for v in (one, two))
    assert torch.equal(a.rgba, b.rgba)
    assert torch.equal(a.rays.directions, b.rays.directions)


def test_a_file_is_read_on_the_host() -> None:
    views = uneven(memory=64)
    assert views.to("cpu") is views
    assert isinstance(views.to("meta"), HostDrawn)
    assert not stays_on_device(views)
    assert not stays_on_device(Concat([views]))
    assert stays_on_device(uneven())


def test_what_is_in_a_file_is_not_in_memory() -> None:
    """48 pictures of 512 x 512 (50 MB) under a bound of 4 MB."""
    before = memory_now()
    store = Pictures(4 * 2**20)
    for number in range(48):
        store.add(np.full((512, 512, 4), number, dtype=np.uint8))
    assert store.on_disk
    cameras = [camera.resized(512, 512) for camera in orbit(48, radius=4.0)]
    views = Views([cameras], store)
    draws = torch.Generator().manual_seed(0)
    seen = {int(i) for _ in range(20) for i in batch_images(views, draws)}
    assert seen == set(range(48))
    assert memory_now() - before < 32 * 2**20


def batch_images(views: Views, generator: torch.Generator) -> Tensor:
    batch = views.batch(torch.tensor([0]), 2**12, generator)
    assert batch.images is not None
    assert torch.equal(batch.images, (batch.rgba[..., 0] * 255.0).round().long())
    return batch.images.unique()


def memory_now() -> int:
    """Bytes of this process in memory."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("needs Linux: /proc/self/status")
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return 1024 * int(fields["VmRSS"].split()[0])


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Pictures(100)
    store.add(numbered(0, 4, 4).numpy())

    class Full:
        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def seek(self, place: int) -> None:
            pass

        def close(self) -> None:
            pass

        def fileno(self) -> int:
            return 0

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Full())
    monkeypatch.setattr(os, "posix_fadvise", lambda *_: None, raising=False)
    with pytest.raises(InputError, match=r"cannot hold the decoded pictures \(No space left.*TMPDIR.*--size") as caught:
        store.add(numbered(1, 4, 4).numpy())
    assert "\n" not in str(caught.value)


def test_pictures_are_replaced_and_kept_apart() -> None:
    for memory in (2**20, 100):
        store = Pictures(memory)
        mask = np.zeros((4, 6), dtype=bool)
        mask[1, 2:4] = True
        store.add(numbered(0, 4, 6).numpy(), mask)
        store.add(numbered(1, 4, 6).numpy())
        clear = numbered(2, 4, 6).numpy()
        clear[0, :, 3] = 0
        store.replace(1, clear)
        assert (store[0] == numbered(0, 4, 6).numpy()).all()
        assert (store[1] == clear).all()
        assert store.opaque == [True, False]
        assert [store.visible_count(number) for number in range(2)] == [2, 18]
        assert store.visible(0, np.array([1, 0])).tolist() == [9, 8]
        assert store.visible(1, np.arange(18)).tolist() == list(range(6, 24))
        valid = store.valid(0)
        assert valid is not None
        assert (valid == mask).all()
        assert store.valid(1) is None
        with pytest.raises(IndexError):
            store[2]


def lensed(model: str, camera: Camera) -> Camera:
    """A camera with the pose of another and a lens."""
    return made(model, T_world_camera=camera.T_world_camera)


@pytest.mark.parametrize("models", [*((model,) for model in MODELS), tuple(MODELS)])
def test_batches_look_through_lenses(models: tuple[str, ...]) -> None:
    """The rays of drawn pixels are those of whole pictures, also of several lenses and a pinhole together."""
    around = orbit(len(models) + 1, radius=4.0)
    cameras = [lensed(model, camera) for model, camera in zip(models, around, strict=False)]
    cameras.append(dataclasses.replace(cameras[0], lens=None, T_world_camera=around[-1].T_world_camera))
    height, width = cameras[0].height, cameras[0].width
    rgba = torch.stack([numbered(number, height, width) for number in range(len(cameras))])
    views = Views(cameras, rgba, box=[(1.0, 0.0, 0.0, 0.0)])
    assert views.notes[-1:] == () or not views.notes[-1].startswith("lens")
    batch = views.batch(torch.tensor([0]), 4000, torch.Generator().manual_seed(0))
    byte = (batch.rgba[0] * 255.0).round().long()
    for number, camera in enumerate(cameras):
        here = byte[:, 2] == number
        pixel = byte[here, 1] * width + byte[here, 0]
        wanted = camera.rays()
        torch.testing.assert_close(batch.rays.directions[0, here], wanted.directions[pixel], atol=1e-6, rtol=0.0)
        torch.testing.assert_close(batch.rays.origins[0, here], wanted.origins[pixel])


def test_pixels_with_which_a_lens_sees_nothing_are_left_out_and_counted() -> None:
    lens = Lens("OPENCV", (-0.4, 0.0, 0.01, 0.0))
    cameras = [
        Camera(look_at(position, [0.0, 0.0, 0.0]), 55.0, 55.0, 32.0, 32.0, 64, 64, lens)
        for position in ([4.0, 0.0, 0.0], [0.0, 4.0, 0.0])
    ]
    seen = cameras[0].seen()
    assert seen is not None
    share = 1.0 - float(seen.float().mean())
    assert 0.05 < share < 0.5
    views = Views(cameras, torch.stack([numbered(number, 64, 64) for number in range(2)]))
    (note,) = [note for note in views.notes if note.startswith("lens")]
    assert f"with {share:.1%} of the pixels of 0 its lens sees nothing" in note
    batch = views.batch(torch.tensor([0]), 20_000, torch.Generator().manual_seed(0))
    assert bool(batch.rays.directions.isfinite().all())
    byte = (batch.rgba[0] * 255.0).round().long()
    drawn = torch.zeros(64, 64, dtype=torch.bool)
    drawn[byte[:, 1], byte[:, 0]] = True
    assert not bool((drawn & ~seen).any())
    assert float(drawn[seen].float().mean()) > 0.95


def test_cameras_of_any_unit_and_centre_are_brought_into_the_box() -> None:
    center = torch.tensor([500.0, -20.0, 3.0])
    plain = orbit(6, radius=4.0, height=8, width=8)
    poses = [camera.T_world_camera.clone() for camera in plain]
    for pose in poses:
        pose[:3, 3] = 25.0 * pose[:3, 3] + center
    far = [dataclasses.replace(camera, T_world_camera=pose) for camera, pose in zip(plain, poses, strict=True)]
    rgba = torch.full((6, 8, 8, 3), 128, dtype=torch.uint8)
    here, moved = Views(plain, rgba), Views(far, rgba, test=(far[:1], rgba[:1]))
    assert here.frames == ((1.0, 0.0, 0.0, 0.0),)
    assert not any(note.startswith("box: 0: side") for note in here.notes)
    assert "box: 0: side" in moved.notes[0]
    scale, *middle = moved.frames[0]
    assert middle == pytest.approx(center.tolist(), abs=1e-3)
    wanted = (torch.tensor([25.0 * 4.0]) / scale).item()
    for split in ("train", "test"):
        for view in moved.reference(0, split):
            assert float(view.camera.T_world_camera[:3, 3].norm()) == pytest.approx(wanted, rel=1e-4)
    batch = moved.batch(torch.tensor([0]), 50, torch.Generator().manual_seed(0))
    torch.testing.assert_close(batch.rays.origins.norm(dim=-1), torch.full((1, 50), wanted))
    kept_as = Views(far, rgba, box=[(1.0, 0.0, 0.0, 0.0)])
    assert torch.equal(kept_as.reference(0, "train")[2].camera.T_world_camera, poses[2])
    given = Views(far, rgba, box=[(50.0, 500.0, -20.0, 3.0)])
    assert given.frames == ((50.0, 500.0, -20.0, 3.0),)
    assert float(given.reference(0, "train")[0].camera.T_world_camera[:3, 3].norm()) == pytest.approx(2.0, rel=1e-4)
    with pytest.raises(InputError, match="box: 2 came for 1 scenes"):
        Views(far, rgba, box=[None, None])


# Fits ------------------------------------------------------------------------------------------------


def ball(camera: Camera) -> Tensor:
    """A ball of radius 0.6 as a camera sees it, clear around; its colour is that of the place."""
    origins, directions = camera.rays()
    directions = directions.nan_to_num(1.0)
    half = (origins * directions).sum(-1)
    root = half.square() - origins.square().sum(-1) + 0.36
    places = origins - (half + root.clamp(min=0.0).sqrt())[:, None] * directions
    rgba = torch.cat((0.5 + 0.5 * places, torch.ones_like(half)[:, None]), -1) * (root > 0.0)[:, None]
    return (rgba.clamp(0.0, 1.0) * 255.0).to(torch.uint8).reshape(camera.height, camera.width, 4)


def balls(**options: Any) -> Views:
    """A ball, by pinholes, fisheyes that see nothing in their corners and lenses that bend; each of its own size."""
    fisheye, bent = Lens("OPENCV_FISHEYE", (0.0,) * 4), Lens("OPENCV", (-0.1, 0.02, 0.002, 0.001))
    cameras = []
    for number, camera in enumerate(orbit(12, radius=3.0, fov=0.8)):
        height, width = ((24, 30), (20, 20), (32, 28))[number % 3]
        camera = camera.resized(height, width)
        if number % 3 == 1:
            camera = dataclasses.replace(camera, lens=fisheye, fx=4.0, fy=4.0)
        cameras.append(dataclasses.replace(camera, lens=bent) if number % 3 == 2 else camera)
    pictures = [ball(camera) for camera in cameras]
    held = cameras[1:4]
    return Views([cameras], [pictures], ["ball"], test=([held], [pictures[1:4]]), box=[(1.0, 0.0, 0.0, 0.0)], **options)


@pytest.mark.filterwarnings("ignore:fit:UserWarning")
def test_lenses_and_sizes_are_fitted_and_measured_view_by_view() -> None:
    data = balls()
    assert any(note.startswith("lens: with ") for note in data.notes)
    run = hf.fit(data, preset="tiny", steps=30, progress=False)
    report = hf.evaluate(run, data, perceptual=False)
    views = data.reference(0, "test")
    scores = []
    for view in views:
        assert view.camera.width == view.rgba.shape[1]
        assert (view.mask is not None) == (view.camera.lens is not None and view.camera.lens.is_fisheye)
        alone = Views([view.camera], [view.rgba[None]], ["ball"], box=[(1.0, 0.0, 0.0, 0.0)])
        scores.append(hf.evaluate(run, alone, "train", perceptual=False)["mean"]["psnr"])
    assert report["mean"]["psnr"] == pytest.approx(sum(scores) / 3, abs=0.05)
    assert min(scores) > 13.0


@pytest.mark.filterwarnings("ignore:fit:UserWarning")
def test_a_fit_from_a_file_resumes_exactly(tmp_path: Path) -> None:
    options: dict[str, Any] = {"preset": "tiny", "steps": 6}

    def stop(progress: hf.Progress) -> None:
        if progress.step == 3:
            raise KeyboardInterrupt

    whole = hf.fit(balls(memory=64), tmp_path / "whole", progress=False, **options)
    with pytest.raises(KeyboardInterrupt):
        hf.fit(balls(memory=64), tmp_path / "parts", progress=stop, **options)
    parts = hf.fit(balls(memory=64), tmp_path / "parts", resume=True, progress=False, **options)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, parts.model.state_dict()[name]), name


def test_a_family_keeps_to_its_memory(tmp_path: Path) -> None:
    samples = Path(hyperfields.scenes.__file__).parent / "samples" / "cars_views"
    plain, filed = (open_family(samples, limit=1, memory=memory) for memory in (None, 1000))
    assert isinstance(plain, Views)
    assert isinstance(filed, Views)
    assert (plain.on_disk, filed.on_disk) == (False, True)
    for one, two in zip(plain.reference(0, "train"), filed.reference(0, "train"), strict=True):
        assert torch.equal(one.rgba, two.rgba)
    with pytest.raises(InputError, match="memory: is for views, but the family holds images"):
        open_family(samples.parent / "emoji", memory=1000)


def test_how_sure_a_picture_is_where_its_lens_sees_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uncertainty, "SEEN", 1024)
    data = balls()
    run = hf.fit(data, preset="tiny", steps=2, progress=False)
    camera = data.reference(0, "train")[1].camera
    bound = run.bind("ball")
    color, std = uncertainty.std_picture(bound, uncertainty.misfit(bound, data, "ball"), camera, (8, 8), [])
    assert bool(std.isfinite().all())
    assert color[0, 0].tolist() == [1.0, 1.0, 1.0]


def test_how_sure_a_picture_is_that_is_known_over_its_own_colour_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of nothing but their colour, all of it taken for the scene: an empty field shows them exactly."""
    monkeypatch.setattr(uncertainty, "SEEN", 256)
    cameras, green = orbit(3, radius=3.0, height=6, width=5), (0.2, 0.8, 0.4)
    plain = torch.tensor([*green, 1.0]).expand(3, 6, 5, 4)
    masks = torch.ones(3, 6, 5, dtype=torch.bool)
    masks[0, 0] = False
    held = plain.clone()
    held[0, 0, :, :3] = 0.0  # does not count
    options: dict[str, Any] = {"behind": [green], "box": [(1.0, 0.0, 0.0, 0.0)]}
    data = Views([cameras], [list(plain)], ["x"], test=([cameras], [list(held)]), **options)
    views = [view._replace(mask=mask) for view, mask in zip(data.reference(0, "test"), masks, strict=True)]
    monkeypatch.setattr(data, "reference", lambda scene, split: views)
    run = hf.fit(balls(), preset="tiny", steps=1, progress=False)

    class Empty(type(run.task)):  # type: ignore[misc]
        def render_rays(self, bound: Any, rays: Any, **options: Any) -> Rendered:
            zero = torch.zeros_like(rays.origins)
            return Rendered(zero, zero[..., 0], torch.full_like(zero[..., 0], math.inf), None, 0)

    bound = run.bind("ball")
    found = uncertainty.misfit(bound, data, "x", task=Empty())
    assert found.empty is not None
    assert max(found.surface.mean, found.empty.mean) < 1e-9  # over white 0.34
    report = uncertainty.calibrate(["x"], lambda name: (bound, []), data, task=Empty())
    assert report["scenes"]["x"]["error"] == pytest.approx(0.0, abs=1e-7)
