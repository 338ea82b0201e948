"""Pictures of scenes of all kinds."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hyperfields.cameras import Camera, Rays, orbit
from hyperfields.data import Kind
from hyperfields.errors import InputError
from hyperfields.fields import BoundField
from hyperfields.rendering import pictures
from hyperfields.rendering.base import Rendered
from hyperfields.rendering.pictures import CHANNELS, Channel
from hyperfields.runs.cameras import native_size, orbit_cameras
from hyperfields.tasks import render_picture, task_of

from ._octahedra import RED, run_of

SIZE = (24, 32)
SOLID: tuple[Kind, ...] = ("shapes", "views")


def bound_of(kind: Kind, name: str = "big") -> BoundField:
    return run_of(kind).bind(name)


def rendered(bound: BoundField, camera: Camera) -> Rendered:
    return task_of(bound.field.kind).render_rays(bound, Rays(*(part[None] for part in camera.rays())))


def picture_of(kind: Kind, channel: Channel = "rgb", bound: BoundField | None = None, **options: float) -> Tensor:
    options = {"supersample": 1, **options}
    bound = bound or bound_of(kind)
    camera = orbit(1, radius=3.0, elevation=0.0, start=0.0, height=SIZE[0], width=SIZE[1])[0]  # looks along -X
    return render_picture(bound, camera, SIZE, channel, **options)  # type: ignore[arg-type]


def test_an_image_needs_no_camera() -> None:
    seen = render_picture(run_of("images").bind("small"), None, (3, 5))
    torch.testing.assert_close(seen, torch.full((3, 5, 3), 0.5))


@pytest.mark.parametrize("kind", SOLID)
def test_the_octahedron_covers_what_geometry_says(kind: Kind) -> None:
    """Seen along an axis it is a square that stands on its tip."""
    camera = orbit(1, radius=3.0, elevation=0.0, height=SIZE[0], width=SIZE[1])[0]
    alpha = rendered(bound_of(kind), camera).alpha.reshape(SIZE)
    rows, columns = torch.meshgrid(torch.arange(24) - 11.5, torch.arange(32) - 15.5, indexing="ij")
    radius = (rows.abs() + columns.abs()) / camera.fx * 3.0
    assert float(alpha[radius < 0.7].min()) > 0.98
    assert float(alpha[radius > 0.9].max()) < 0.02


@pytest.mark.parametrize("kind", SOLID)
def test_the_background_is_what_is_asked_for(kind: Kind) -> None:
    for background in (1.0, 0.25):
        corner = picture_of(kind, background=background)[0, 0]
        torch.testing.assert_close(corner, torch.full((3,), background))


@pytest.mark.parametrize("kind", SOLID)
def test_mixed_precision_is_for_networks_alone(kind: Kind) -> None:
    """What else goes into a picture keeps its digits within torch.autocast; on a CPU the networks do too."""
    bound = bound_of(kind)
    plain = picture_of(kind, bound=bound)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(picture_of(kind, bound=bound), plain)


def test_views_show_their_colours() -> None:
    torch.testing.assert_close(picture_of("views")[12, 16], torch.tensor(RED), rtol=0, atol=5e-3)


@pytest.mark.parametrize("kind", SOLID)
def test_depth_runs_from_yellow_to_violet_as_things_get_farther(kind: Kind) -> None:
    seen = picture_of(kind, "depth")
    lightness = seen.mean(-1)[12, 16:24]  # from the tip towards the right, where it recedes
    assert bool((lightness.diff() < 0).all())
    near, far = seen[12, 16], seen[12, 23]
    assert near[1] > near[2]  # yellow
    assert far[2] > far[1]  # violet
    torch.testing.assert_close(seen[0, 0], torch.ones(3))


@pytest.mark.parametrize("kind", SOLID)
def test_normals_are_those_of_the_faces(kind: Kind) -> None:
    """The camera is on the +X axis and sees +Y on its right, +Z on top."""
    seen = picture_of(kind, "normals")
    for row, column, y, z in ((9, 19, 1, 1), (14, 19, 1, -1), (9, 12, -1, 1), (14, 12, -1, -1)):
        wanted = 0.5 + 0.5 * torch.tensor([1.0, y, z]) / 3.0**0.5
        torch.testing.assert_close(seen[row, column], wanted, rtol=0, atol=0.06)
    torch.testing.assert_close(seen[0, 0], torch.ones(3))


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize("kind", SOLID)
def test_blocks_do_not_change_a_picture(monkeypatch: pytest.MonkeyPatch, kind: Kind, channel: Channel) -> None:
    whole = picture_of(kind, channel)
    monkeypatch.setattr(pictures, "RAYS_PER_BLOCK", 100)
    torch.testing.assert_close(picture_of(kind, channel), whole, rtol=0, atol=1e-5)


def test_supersampling_is_the_mean_of_a_larger_picture() -> None:
    fine = render_picture(bound_of("shapes"), orbit(1, radius=3.0, height=48, width=64)[0], (48, 64), supersample=1)
    mean = fine.reshape(24, 2, 32, 2, 3).mean((1, 3))
    seen = render_picture(bound_of("shapes"), orbit(1, radius=3.0, height=24, width=32)[0], SIZE, supersample=2)
    torch.testing.assert_close(seen, mean, rtol=0, atol=1e-5)


@pytest.mark.parametrize("channel", ["depth", "normals"])
def test_images_have_colours_only(channel: Channel) -> None:
    with pytest.raises(InputError, match=f"channel '{channel}': these scenes give rgb"):
        render_picture(bound_of("images"), None, SIZE, channel)


def test_an_unknown_channel_is_named_with_those_there_are() -> None:
    with pytest.raises(InputError, match="channel 'alpha': these scenes give rgb, depth, normals"):
        picture_of("views", "alpha")  # type: ignore[arg-type]


def test_several_scenes_or_no_camera_are_refused() -> None:
    camera = orbit(1, radius=3.0)[0]
    with pytest.raises(ValueError, match="got 2 scenes, wanted one"):
        render_picture(run_of("views").bind("small", "big"), camera, SIZE)
    with pytest.raises(ValueError, match="no camera"):
        render_picture(bound_of("shapes"), None, SIZE)


def test_cameras_are_those_that_the_run_was_fitted_to() -> None:
    run = run_of("views")
    cameras = orbit_cameras(run, 4, (10, 20))
    first = cameras[0].T_world_camera[:3, 3]
    assert float(first.norm()) == pytest.approx(3.5)
    assert math.asin(float(first[2]) / 3.5) == pytest.approx(0.5, abs=1e-6)
    assert first[0] < 0.0  # from the left
    assert first[1] < 0.0  # and the front
    assert 2.0 * math.atan(5.0 / cameras[0].fx) == pytest.approx(0.7)  # across the shorter side
    total = sum(camera.T_world_camera[:2, 3] for camera in cameras)
    torch.testing.assert_close(torch.as_tensor(total), torch.zeros(2), rtol=0, atol=1e-5)
    assert native_size(run) == (20, 20)


def test_shapes_have_cameras_that_see_all_of_the_longest_side() -> None:
    run = run_of("shapes", ball=0.9)  # the octahedron reaches 0.9 along each axis, as shapes do
    size = native_size(run)
    assert size == (256, 256)
    for camera in orbit_cameras(run, 4, (32, 32)):
        alpha = rendered(run.bind("ball"), camera).alpha.reshape(32, 32)
        assert float(alpha.sum()) > 100.0
        assert float(torch.cat((alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1])).max()) == 0.0


def test_occupancy_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = bound_of("views")
    cells = bound.occupancy()
    assert cells.shape == (1, 16, 16, 16)
    assert bool(cells[0, 8, 8, 8])
    assert not bool(cells[0, 0, 0, 0])
    monkeypatch.setattr(BoundField, "density", None)
    assert bound.occupancy() is cells
    with pytest.raises(TypeError, match="a SDFField has none; wanted a RadianceField"):
        bound_of("shapes").occupancy()


def test_a_finer_occupancy_skips_more_and_shows_the_same() -> None:
    bound = bound_of("views")
    shares = [bound.occupancy(size).float().mean() for size in (16, 32, 64)]
    assert shares[0] > shares[1] > shares[2] > 4.0 / 3.0 * 0.8**3 / 8.0  # the volume of the octahedron
