"""Inside and outside of triangles as people make them, against distances that are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hyperfields.data import Mesh
from hyperfields.data.shapes import signed_distance
from hyperfields.data.solids import Clusters, Solid, is_simple, solid_of
from hyperfields.data.triangles import scene_mesh

pytest.importorskip("open3d", reason="distances need open3d (extra shapes)", exc_type=ImportError)

Triangles = tuple[NDArray[np.float64], NDArray[np.int64]]
CORNERS = np.array([(x, y, z) for z in (-1, 1) for y in (-1, 1) for x in (-1, 1)], dtype=np.float64)
QUADS = [(0, 2, 3, 1), (4, 5, 7, 6), (0, 1, 5, 4), (2, 6, 7, 3), (0, 4, 6, 2), (1, 3, 7, 5)]  # outward
FACES = np.array([t for a, b, c, d in QUADS for t in ((a, b, c), (a, c, d))])
OTHERWISE = np.array([t for a, b, c, d in QUADS for t in ((a, b, d), (b, c, d))])  # the other diagonals


def box(
    half: tuple[float, float, float], at: tuple[float, float, float] = (0, 0, 0), faces: NDArray[np.int64] = FACES
) -> Triangles:
    return CORNERS * half + at, faces


def inverted(part: Triangles) -> Triangles:
    return part[0], part[1][:, ::-1]


def together(*parts: Triangles) -> Mesh:
    points, faces, count = [], [], 0
    for vertices, triangles in parts:
        points.append(vertices)
        faces.append(triangles + count)
        count += len(vertices)
    mesh = scene_mesh(np.concatenate(points), np.concatenate(faces), "mesh")
    # Back to the size that it was given: what is known of it is in those units.
    return mesh._replace(vertices=mesh.vertices * mesh.scale + torch.tensor(mesh.center), scale=1.0, center=(0, 0, 0))


def to_box(
    p: NDArray[np.float64], half: tuple[float, float, float], at: tuple[float, float, float] = (0, 0, 0)
) -> NDArray[np.float64]:
    q = np.abs(p - at) - half
    distance: NDArray[np.float64] = np.linalg.norm(np.maximum(q, 0.0), axis=-1) + np.minimum(q.max(axis=-1), 0.0)
    return distance


Known = Callable[[NDArray[np.float64]], NDArray[np.float64]]
LONG = (0.8, 0.4, 0.4)  # two cubes beside one another
CUBE = (0.4, 0.4, 0.4)
LEFT, RIGHT = box(CUBE, (-0.4, 0, 0)), box(CUBE, (0.4, 0, 0))
ROD, BEAM = (0.7, 0.2, 0.2), (0.2, 0.7, 0.2)
OUTER, INNER = (0.8, 0.8, 0.8), (0.4, 0.4, 0.4)


def shell(p: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(to_box(p, OUTER), -to_box(p, INNER))


EXACT: dict[str, tuple[Mesh, Known]] = {
    "touching": (together(LEFT, RIGHT), lambda p: to_box(p, LONG)),
    "touching, other diagonals": (
        together(LEFT, box(CUBE, (0.4, 0, 0), OTHERWISE)),
        lambda p: to_box(p, LONG),
    ),
    "touching, one inverted": (together(LEFT, inverted(RIGHT)), lambda p: to_box(p, LONG)),
    "touching, one inverted, other diagonals": (
        together(LEFT, inverted(box(CUBE, (0.4, 0, 0), OTHERWISE))),
        lambda p: to_box(p, LONG),
    ),
    "four, two of them inverted": (
        together(
            *(
                (inverted if i == j else tuple)(
                    box((0.4, 0.4, 0.4), (0.8 * i - 0.4, 0.8 * j - 0.4, 0), (FACES, OTHERWISE)[i])
                )
                for i in (0, 1)
                for j in (0, 1)
            )
        ),
        lambda p: to_box(p, (0.8, 0.8, 0.4)),
    ),
    "touching, both inverted": (together(inverted(LEFT), inverted(RIGHT)), lambda p: to_box(p, LONG)),
    "doubled": (together(box(CUBE), box(CUBE)), lambda p: to_box(p, CUBE)),
    "doubled, with two sides": (together(box(CUBE), inverted(box(CUBE))), lambda p: to_box(p, CUBE)),
    "inverted": (together(inverted(box(CUBE))), lambda p: to_box(p, CUBE)),
    "some triangles inverted": (
        together((CORNERS * CUBE, np.concatenate((FACES[:5, ::-1], FACES[5:])))),
        lambda p: to_box(p, CUBE),
    ),
    "hollow": (together(box(OUTER), inverted(box(INNER))), shell),
    "hollow, inverted": (together(inverted(box(OUTER)), box(INNER)), shell),
    "apart": (
        together(box((0.2, 0.4, 0.4), (-0.6, 0, 0)), inverted(box((0.2, 0.4, 0.4), (0.6, 0, 0)))),
        lambda p: np.minimum(to_box(p, (0.2, 0.4, 0.4), (-0.6, 0, 0)), to_box(p, (0.2, 0.4, 0.4), (0.6, 0, 0))),
    ),
    "solid within a solid": (together(box(OUTER), box(INNER)), lambda p: to_box(p, OUTER)),
}


def probes(count: int = 20_000) -> NDArray[np.float32]:
    return np.random.default_rng(0).uniform(-1.0, 1.0, (count, 3)).astype(np.float32)


@pytest.mark.parametrize("name", EXACT)
def test_distances_are_those_of_the_solid(name: str) -> None:
    mesh, known = EXACT[name]
    points = probes()
    distance = signed_distance(mesh, points)
    np.testing.assert_allclose(distance, known(points.astype(np.float64)), atol=3e-6)


@pytest.mark.parametrize("turn", [1, -1])
def test_parts_that_run_into_each_other_are_one_solid(turn: int) -> None:
    """A cross of two beams: no cavity in the middle, and no surface there either."""
    second = box(BEAM) if turn == 1 else inverted(box(BEAM))
    points = probes()
    p = points.astype(np.float64)
    distance, known = signed_distance(together(box(ROD), second), points), np.minimum(to_box(p, ROD), to_box(p, BEAM))
    assert ((distance < 0) == (known < 0)).all()
    np.testing.assert_allclose(distance[known > 0], known[known > 0], atol=3e-6)
    # Inside, the true distance of the union is to what is left of the two surfaces: it is at least that of each.
    middle = np.abs(p).max(axis=-1) < 0.1
    assert middle.sum() > 10
    corner = np.linalg.norm(np.abs(p[:, :2]) - 0.2, axis=-1)  # the four edges where they meet
    wanted = -np.minimum(corner, 0.2 - np.abs(p[:, 2]))
    np.testing.assert_allclose(distance[middle], wanted[middle], atol=0.02)


def test_a_small_cube_on_a_large_one() -> None:
    """Their wall is shared in part only, and the large one has no corners there."""
    mesh = together(box((0.6, 0.6, 0.3), (0, 0, -0.3)), box((0.2, 0.2, 0.3), (0, 0, 0.3)))
    points = probes()
    p = points.astype(np.float64)
    known = np.minimum(to_box(p, (0.6, 0.6, 0.3), (0, 0, -0.3)), to_box(p, (0.2, 0.2, 0.3), (0, 0, 0.3)))
    distance = signed_distance(mesh, points)
    assert ((distance < 0) == (known < 0)).all()
    np.testing.assert_allclose(distance[known > 0], known[known > 0], atol=3e-6)
    under = (np.abs(p[:, :2]).max(axis=-1) < 0.1) & (np.abs(p[:, 2]) < 0.05)  # the wall is no surface
    assert distance[under].max() < -0.08


def test_an_open_surface_has_an_inside_where_it_closes_most() -> None:
    with pytest.warns(UserWarning, match="open surface"):
        mesh = together((CORNERS * CUBE, FACES[2:]))  # without its bottom
    points = probes()
    p = points.astype(np.float64)
    inside = signed_distance(mesh, points) < 0
    assert inside[(to_box(p, CUBE) < -0.05) & (p[:, 2] > -0.2)].all()
    assert not inside[(to_box(p, CUBE) > 0.01) & (p[:, 2] > -0.4)].any()
    assert not inside[p[:, 2] < -0.5].any()


def test_simple_surfaces_are_left_to_the_rays() -> None:
    assert solid_of(together(box(CUBE))) is None
    assert solid_of(together(box((0.2, 0.4, 0.4), (-0.6, 0, 0)), box((0.2, 0.4, 0.4), (0.6, 0, 0)))) is None
    assert not is_simple(*box(CUBE, faces=FACES[1:]))
    for name in ("touching", "doubled", "hollow", "some triangles inverted"):
        assert solid_of(EXACT[name][0]) is not None


def test_far_triangles_as_dipoles_give_the_winding_number() -> None:
    n = 60
    u, v = np.meshgrid(np.linspace(0, 2 * np.pi, n, endpoint=False), np.linspace(0, 2 * np.pi, n, endpoint=False))
    points = np.stack(
        ((0.6 + 0.25 * np.cos(v)) * np.cos(u), (0.6 + 0.25 * np.cos(v)) * np.sin(u), 0.25 * np.sin(v)), -1
    )
    i, j = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    a, b, c, d = (((i + di) % n) * n + (j + dj) % n for di, dj in ((0, 0), (0, 1), (1, 1), (1, 0)))
    faces = np.concatenate((np.stack((a, b, c), -1).reshape(-1, 3), np.stack((a, c, d), -1).reshape(-1, 3)))
    torus = points.reshape(-1, 3)
    assert is_simple(torus, faces)
    p = probes(5000).astype(np.float64)
    wanted = np.hypot(np.hypot(p[:, 0], p[:, 1]) - 0.6, p[:, 2]) - 0.25
    away = np.abs(wanted) > 0.005
    turns = Clusters(torus[faces]).winding(p)
    assert np.abs(np.abs(turns[away]) - (wanted < 0)[away]).max() < 0.05
    assert (Solid(torus, faces).inside(p)[away] == (wanted < 0)[away]).all()
