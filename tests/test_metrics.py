"""Metrics against published definitions: skimage's ssim, spheres and cubes whose answers are known."""

from __future__ import annotations

import math
import sys

import pytest
import torch

from hyperfields.data import Mesh
from hyperfields.errors import InputError
from hyperfields.tasks.metrics import psnr, sample_surface, shape_metrics, specks, ssim


def cube(low: float, high: float) -> Mesh:
    """An axis-aligned cube, triangles wound outwards."""
    steps = torch.tensor([low, high])
    vertices = torch.cartesian_prod(steps, steps, steps)  # index = 4 x + 2 y + z
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = [t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))]
    return Mesh(vertices, torch.tensor(faces))


def sphere(radius: float, center: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Mesh:
    """An octahedron divided five times: 8,192 triangles."""
    vertices = torch.cat((torch.eye(3), -torch.eye(3)))
    faces = torch.tensor([(0, 1, 2), (1, 3, 2), (3, 4, 2), (4, 0, 2), (1, 0, 5), (3, 1, 5), (4, 3, 5), (0, 4, 5)])
    for _ in range(5):
        corners = vertices[faces]
        a, b, c = corners.unbind(1)
        ab, bc, ca = (torch.nn.functional.normalize(p + q, dim=-1) for p, q in ((a, b), (b, c), (c, a)))
        parts = [torch.stack(t, 1) for t in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))]
        vertices = torch.cat(parts).reshape(-1, 3)
        faces = torch.arange(len(vertices)).reshape(-1, 3)
    return Mesh(vertices * radius + torch.tensor(center), faces)


def joined(a: Mesh, b: Mesh) -> Mesh:
    return Mesh(torch.cat((a.vertices, b.vertices)), torch.cat((a.faces, b.faces + len(a.vertices))))


@pytest.fixture
def open3d() -> None:
    pytest.importorskip("open3d", reason="open3d (hyperfields[shapes]) is missing", exc_type=ImportError)


def test_psnr_of_a_known_error() -> None:
    truth = torch.rand(2, 5, 7, 3, generator=torch.Generator().manual_seed(0)) * 0.5
    image = truth + torch.tensor([0.1, 0.01])[:, None, None, None]
    torch.testing.assert_close(psnr(image, truth), torch.tensor([20.0, 40.0]), atol=1e-4, rtol=0)
    assert psnr(truth[0], truth[0]) == math.inf


def test_psnr_refuses_broadcasting() -> None:
    with pytest.raises(ValueError, match=r"psnr: image \[4, 4, 3\] and truth \[4, 4, 1\]"):
        psnr(torch.zeros(4, 4, 3), torch.zeros(4, 4, 1))


@pytest.mark.parametrize("shape", [(11, 11, 3), (24, 31, 3), (40, 17, 1)])
def test_ssim_equals_skimage(shape: tuple[int, int, int]) -> None:
    metrics = pytest.importorskip("skimage.metrics", reason="scikit-image (hyperfields[shapes]) is missing")
    generator = torch.Generator().manual_seed(1)
    truth = torch.rand(shape, generator=generator).cumsum(0) / shape[0]
    image = (truth + 0.1 * torch.randn(shape, generator=generator)).clamp(0, 1)
    wanted = metrics.structural_similarity(
        image.double().numpy(),
        truth.double().numpy(),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1,
        channel_axis=-1,
    )
    assert 0.05 < wanted < 0.95
    assert float(ssim(image, truth)) == pytest.approx(wanted, abs=1e-6)


def test_ssim_of_a_batch_is_that_of_each_image() -> None:
    generator = torch.Generator().manual_seed(2)
    image, truth = (torch.rand(2, 3, 16, 12, 3, generator=generator) for _ in range(2))
    value = ssim(image, truth)
    assert value.shape == (2, 3)
    each = torch.stack([torch.stack([ssim(image[i, j], truth[i, j]) for j in range(3)]) for i in range(2)])
    torch.testing.assert_close(value, each)
    torch.testing.assert_close(ssim(truth, truth), torch.ones(2, 3))


def test_specks_are_counted_beyond_what_is_around() -> None:
    truth = torch.full((2, 10, 10, 3), 0.5)
    truth[:, 5:] = 0.9
    image = truth.clone()
    assert specks(image, truth).tolist() == [0.0, 0.0]
    image[0, 4, 4] = 0.9  # as the row below has it
    image[0, 3, 3, 1] = 0.64  # within the margin
    assert specks(image, truth)[0] == 0.0
    image[0, 0, 0, 2] = 0.0
    image[0, 9, 9] = 0.7  # in three channels, and one speck
    image[0, 2, 7] = 0.9  # two rows from where the truth has it
    torch.testing.assert_close(specks(image, truth), torch.tensor([30.0, 0.0]))
    with pytest.raises(ValueError, match="specks: image"):
        specks(image, truth[0])


def test_ssim_says_when_an_image_is_too_small() -> None:
    with pytest.raises(ValueError, match="image is 16x10, needs at least 11 pixels a side"):
        ssim(torch.zeros(16, 10, 3), torch.zeros(16, 10, 3))


@pytest.mark.usefixtures("open3d")
def test_concentric_spheres() -> None:
    truth, mesh = sphere(0.5), sphere(0.55)  # longest side 1
    found = shape_metrics(mesh, truth)
    assert found["iou"] == pytest.approx((0.5 / 0.55) ** 3, abs=0.006)
    assert found["surface_distance"] == pytest.approx(0.05, abs=2e-4)
    assert found["chamfer"] == pytest.approx(2 * 0.05**2, rel=0.01)
    assert found["f_score"] == 0.0  # 5 % away
    assert found["normal_consistency"] == pytest.approx(1.0, abs=2e-3)
    assert shape_metrics(sphere(0.505), truth, samples=2000)["f_score"] == 1.0  # 0.5 % away


@pytest.mark.usefixtures("open3d")
def test_equal_and_shifted_cubes() -> None:
    truth = cube(-0.5, 0.5)
    same = shape_metrics(truth, truth)
    assert same["iou"] > 0.999
    assert same["surface_distance"] == pytest.approx(0.0, abs=1e-7)
    assert same["f_score"] == 1.0
    assert same["normal_consistency"] == pytest.approx(1.0, abs=1e-6)
    shifted = Mesh(truth.vertices + torch.tensor([0.5, 0.0, 0.0]), truth.faces)
    found = shape_metrics(shifted, truth)
    assert found["iou"] == pytest.approx(1 / 3, abs=0.006)


@pytest.mark.usefixtures("open3d")
def test_f_score_is_the_harmonic_mean_of_precision_and_recall() -> None:
    truth = sphere(0.5)
    with_another = joined(truth, sphere(0.5, (3.0, 0.0, 0.0)))  # precision 1/2, recall 1
    found = shape_metrics(with_another, truth)
    assert found["f_score"] == pytest.approx(2 / 3, abs=0.005)
    assert found["iou"] == pytest.approx(0.5, abs=0.02)
    swapped = shape_metrics(truth, Mesh(*with_another[:2]))
    assert swapped["f_score"] == pytest.approx(2 / 3, abs=0.005)


@pytest.mark.usefixtures("open3d")
def test_scale_and_winding_do_not_matter_and_the_seed_fixes_the_result() -> None:
    truth, mesh = cube(-0.5, 0.5), sphere(0.55)
    first = shape_metrics(mesh, truth, samples=5000)
    assert first == shape_metrics(mesh, truth, samples=5000)
    assert first != shape_metrics(mesh, truth, samples=5000, seed=1)
    larger = Mesh(mesh.vertices * 3, mesh.faces), Mesh(truth.vertices * 3, truth.faces)
    assert shape_metrics(*larger, samples=5000) == pytest.approx(first, rel=1e-3)
    turned = shape_metrics(Mesh(mesh.vertices, mesh.faces.flip(1)), truth, samples=5000)
    assert turned == pytest.approx(first, abs=0.02)


@pytest.mark.usefixtures("open3d")
def test_vertices_that_no_face_uses_do_not_count() -> None:
    truth = sphere(0.5)
    stray = Mesh(torch.cat((truth.vertices, torch.tensor([[9.0, 9.0, 9.0]]))), truth.faces)
    assert shape_metrics(truth, stray, samples=2000) == shape_metrics(truth, truth, samples=2000)


def test_a_mesh_without_area_has_the_documented_values() -> None:
    truth = cube(-0.5, 0.5)
    flat = Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2]]))
    for empty in (Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64)), flat):
        found = shape_metrics(empty, truth)
        assert (found["iou"], found["f_score"]) == (0.0, 0.0)
        assert (found["surface_distance"], found["chamfer"]) == (math.inf, math.inf)
        assert math.isnan(found["normal_consistency"])
        with pytest.raises(ValueError, match="truth has no area"):
            shape_metrics(truth, empty)


def test_vertices_that_are_not_finite_raise() -> None:
    truth = cube(-0.5, 0.5)
    broken = Mesh(truth.vertices.clone(), truth.faces)
    broken.vertices[3, 1] = math.nan
    with pytest.raises(ValueError, match="mesh has vertices that are not finite"):
        shape_metrics(broken, truth)


def test_without_open3d_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(InputError, match=r"hyperfields\[shapes\]"):
        shape_metrics(cube(-0.5, 0.5), cube(-0.5, 0.5))


def test_surface_samples_are_uniform_by_area_and_carry_normals() -> None:
    # A right triangle of area 3 at z = 0 and one of area 1 at z = 2, facing up and down.
    vertices = torch.tensor([[0, 0, 0], [3, 0, 0], [0, 2, 0], [0, 0, 2], [0, 2, 2], [1, 0, 2]], dtype=torch.float32)
    mesh = Mesh(vertices, torch.tensor([[0, 1, 2], [3, 4, 5]]))
    found = sample_surface(mesh, 40_000, torch.Generator().manual_seed(0))
    low = found.points[:, 2] < 1
    assert float(low.double().mean()) == pytest.approx(0.75, abs=0.01)
    torch.testing.assert_close(found.points[low].mean(0), torch.tensor([1.0, 2 / 3, 0.0]), atol=0.02, rtol=0)
    torch.testing.assert_close(found.normals[low].mean(0), torch.tensor([0.0, 0.0, 1.0]))
    torch.testing.assert_close(found.normals[~low].mean(0), torch.tensor([0.0, 0.0, -1.0]))


@pytest.mark.usefixtures("open3d")
def test_a_truth_of_two_cubes_that_share_a_wall_is_one_solid() -> None:
    left, right = cube(-0.5, 0.0), cube(0.0, 0.5)
    squeeze = torch.tensor([1.0, 0.4, 0.4])
    low, high = (
        m._replace(vertices=(m.vertices - c) * torch.tensor([1.0, 0.8, 0.8]) + torch.tensor([s, 0.0, 0.0]))
        for m, c, s in ((left, -0.25, -0.25), (right, 0.25, 0.25))
    )
    truth = Mesh(torch.cat((low.vertices, high.vertices)), torch.cat((low.faces, high.faces + len(low.vertices))))
    whole = cube(-0.5, 0.5)._replace(vertices=cube(-0.5, 0.5).vertices * squeeze)
    found = shape_metrics(whole, truth)
    assert found["iou"] > 0.995
    assert found["surface_distance"] < 1e-5
    assert found["f_score"] == 1.0
