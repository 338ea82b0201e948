"""What only a GPU can show: whole fits and pictures against the CPU's, and tinycudann where it is installed.

`make test-gpu` runs this, and the parity tests of the kernels (tests/ops/test_triton.py) on the card.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor

import hyperfields
from hyperfields import (
    FactoredGrid,
    ImageField,
    LowRank,
    ModelConfig,
    RadianceField,
    Rays,
    SDFField,
    TrainConfig,
    ops,
)
from hyperfields.data import Images, Kind, Pixels, Points
from hyperfields.fields import Field
from hyperfields.model import HyperField, parameter_groups
from hyperfields.ops.devices import Precision
from hyperfields.tasks import render_picture, task_of
from hyperfields.tasks.objective import RayObjective
from hyperfields.training.cuda_graphs import Graphs
from hyperfields.training.inference import By
from hyperfields.training.regularizers import GaussianPrior
from hyperfields.training.step import SYNC_STEPS, StaticStep
from hyperfields.training.trainer import Fields, Progress, Trainer

if not torch.cuda.is_available():
    pytest.skip("torch sees no CUDA device", allow_module_level=True)

MODEL = ModelConfig(ImageField(FactoredGrid(2, 4, 2, 10, 4, 32, bases=5)), LowRank(2), 16)
needs_tcnn = pytest.mark.skipif(bool(ops.backends()["tcnn"]), reason=ops.backends()["tcnn"] or "runs here")


def pictures() -> Images:
    v, u = torch.meshgrid(torch.linspace(0, 1, 32), torch.linspace(0, 1, 32), indexing="ij")
    scenes = [torch.stack((u, v, (u * (n + 1) * 5).sin() * 0.5 + 0.5), -1) for n in range(4)]
    return Images(torch.stack(scenes))


def psnr_of(run: Path, device: str) -> float:
    family, loaded = pictures(), hyperfields.load_run(run, device)
    seen = [hyperfields.sample_image(loaded.bind(n), 1, 32, 32, device).cpu()[0] for n in family.names]
    truth = torch.stack([family.reference(n) for n in range(4)])
    return float(hyperfields.psnr(torch.stack(seen).clamp(0, 1), truth).mean())


@pytest.mark.parametrize("precision", ["float32", "mixed"])
def test_a_fit_is_as_good_as_on_the_cpu(precision: Precision, tmp_path: Path) -> None:
    settings = {"steps": 600, "model": MODEL, "train": TrainConfig(4, 4096), "progress": False}
    for device, chosen in (("cpu", "float32"), ("cuda", precision)):
        hyperfields.fit(pictures(), tmp_path / device, device=device, precision=chosen, **settings)  # type: ignore[arg-type]
    cpu, cuda = psnr_of(tmp_path / "cpu", "cpu"), psnr_of(tmp_path / "cuda", "cuda")
    assert cpu > 25.0
    assert abs(psnr_of(tmp_path / "cuda", "cpu") - cuda) < 0.05
    assert cuda > cpu - 0.5, (cpu, cuda)


def test_a_fit_that_was_stopped_goes_on(tmp_path: Path) -> None:
    def stop(progress: hyperfields.Progress) -> None:
        if progress.step == 20:
            raise KeyboardInterrupt

    settings = {"steps": 40, "model": MODEL, "train": TrainConfig(4, 1024), "device": "cuda"}
    with pytest.raises(KeyboardInterrupt):
        hyperfields.fit(pictures(), tmp_path, progress=stop, **settings)  # type: ignore[arg-type]
    hyperfields.fit(pictures(), tmp_path, resume=True, progress=False, **settings)  # type: ignore[arg-type]
    assert (tmp_path / "model.safetensors").is_file()


def test_a_radiance_field_looks_as_on_the_cpu_and_has_its_gradients() -> None:
    torch.manual_seed(0)
    field = RadianceField(FactoredGrid(3, 4, 2, 10, 4, 32, bases=3), step=0.05)
    model = HyperField(ModelConfig(field, LowRank(2), 8), 2)
    camera = hyperfields.orbit(1, radius=3.0, height=24, width=24)[0]
    found: list[tuple[Tensor, Tensor]] = []
    for device in ("cpu", "cuda"):
        model = model.to(device)
        with torch.no_grad():
            picture = render_picture(model.bind(model.latents.codes[:1]), camera, (24, 24)).cpu()
        rays = camera.to(device).rays()
        rays = hyperfields.Rays(*(t[None].expand(2, -1, -1).contiguous() for t in rays))
        bound = model.bind(model.latents.codes)
        cells = torch.ones(2, 8, 8, 8, dtype=torch.bool, device=device)
        seen = hyperfields.render_volume(bound, rays, cells, step=0.05, visible=bound.visible_samples)
        model.zero_grad()
        seen.rgb.square().mean().backward()
        gradient = model.latents.codes.grad
        assert gradient is not None
        found.append((picture, gradient.cpu()))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=0.0, atol=5e-3)
    assert float((found[1][1] - found[0][1]).norm() / found[0][1].norm()) < 1e-2


class Boxes:
    """Views of scenes that are a coloured box each, drawn on the device; or distances to it."""

    names = ("a", "b", "c", "d")

    def __init__(self, kind: Kind) -> None:
        self.kind: Kind = kind

    def to(self, device: torch.device) -> Boxes:
        return self

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Points | Pixels:
        def rand(*shape: int) -> Tensor:
            return torch.rand(len(scenes), n, *shape, generator=generator, device=scenes.device)

        size = (0.2 + 0.1 * scenes.float())[:, None, None]
        if self.kind == "shapes":
            x = rand(3) * 2.0 - 1.0
            return Points(x, (x.abs() - size).amax(-1, keepdim=True))
        origins = torch.nn.functional.normalize(rand(3) - 0.5, dim=-1) * 3.0
        d = torch.nn.functional.normalize((rand(3) - 0.5) * 1.5 - origins, dim=-1)
        a, b = (-size - origins) / d, (size - origins) / d
        hit = torch.minimum(a, b).amax(-1) < torch.maximum(a, b).amin(-1)
        color = (scenes.float() / 4.0)[:, None, None].expand(-1, n, 3)
        return Pixels(Rays(origins, d), torch.cat((color, hit[..., None].float()), -1))


@pytest.mark.parametrize("by", ["descent", "posterior", "steps", "encoder"])
def test_unseen_scenes_are_inferred_where_the_model_is(by: By) -> None:
    codes = {"steps": hyperfields.CAVIA(), "encoder": hyperfields.Encoder(width=16, depth=1)}.get(by)
    settings = {"steps": 5, "model": MODEL, "train": TrainConfig(4, 1024), "device": "cuda", "progress": False}
    run = hyperfields.fit(pictures(), codes=codes, **settings)  # type: ignore[arg-type]
    length = {"steps": 4} if by in ("descent", "posterior") else {}
    inferred = hyperfields.infer(run, pictures(), by=by, refine=by == "descent", progress=False, **length)  # type: ignore[arg-type]
    assert inferred.codes.device.type == "cuda"
    assert inferred.codes.isfinite().all()
    assert inferred["0"].render(size=(8, 8)).shape == (8, 8, 3)


def trainer_of(kind: Kind, graphs: bool) -> tuple[Trainer, StaticStep]:
    torch.manual_seed(0)
    field: Field = MODEL.field
    if kind != "images":
        grid = FactoredGrid(3, 4, 2, 10, 4, 32, bases=5)
        field = SDFField(grid) if kind == "shapes" else RadianceField(grid, step=0.05, occupancy=16)
    family = pictures() if kind == "images" else Boxes(kind)
    model, train = HyperField(ModelConfig(field, LowRank(2), 16), 4, sparse=True).cuda(), TrainConfig(2, 2**12)
    objective = task_of(kind).objective(family, field, train, 4, device="cuda")  # type: ignore[arg-type]

    def bind(local: Tensor, generator: torch.Generator) -> Fields:
        codes = model.latents(local)
        return Fields(model.bind(codes), codes)

    trainer = Trainer(
        bind, parameter_groups(model), objective, torch.arange(4), train, 0,
        regularizers=(GaussianPrior(train.prior),), graphs=Graphs(torch.device("cuda")) if graphs else None,
    )  # fmt: skip
    assert isinstance(trainer.execute, StaticStep)
    return trainer, trainer.execute


each_kind = pytest.mark.parametrize("kind", ["images", "shapes", "views"])


@each_kind
@pytest.mark.parametrize("graphs", [False, True], ids=["eager", "graphs"])
def test_a_step_waits_for_nothing(kind: Kind, graphs: bool) -> None:
    """torch itself names what would make the host wait, and here that is an error."""
    (trainer, step), progress = trainer_of(kind, graphs), Progress()
    while trainer.steps % SYNC_STEPS != 1 or trainer.steps < 10 * SYNC_STEPS:
        trainer.step(progress)
    if graphs:
        assert step.graphs is not None
        assert step.graphs.recorded, step.graphs.reason
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(8):
            trainer.step(progress)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def places(trainer: Trainer) -> list[Tensor]:
    """All tensors that a step changes."""
    optimizers, objective = trainer.optimizers, trainer.objective
    tensors = [p for optimizer in optimizers.all for group in optimizer.param_groups for p in group["params"]]
    tensors += [value for optimizer in optimizers.all for state in optimizer.state.values() for value in state.values()]
    tensors += [optimizers.norm] if isinstance(optimizers.norm, Tensor) else []
    if isinstance(objective, RayObjective):
        assert objective.static is not None
        tensors += [objective.static.per_ray, objective.occupancy.density]
    return tensors


@each_kind
def test_replayed_steps_are_the_steps(kind: Kind) -> None:
    """20 replayed steps against 20 called ones from the same state; atomics add in any order, so only nearly the same.

    What a step changes stays where it is, which a replay relies on.
    """
    (trainer, step), progress = trainer_of(kind, True), Progress()
    while trainer.steps % SYNC_STEPS != 1 or trainer.steps < 10 * SYNC_STEPS:
        trainer.step(progress)
    graphs, before = step.graphs, [t.detach().clone() for t in places(trainer)]
    assert graphs is not None
    assert graphs.recorded, graphs.reason
    generator, sampler = trainer.generator.get_state(), trainer.sampler
    order, place, steps = sampler.order, sampler.place, trainer.steps
    address = [t.data_ptr() for t in places(trainer)]
    losses, last = [], []
    for recorder in (graphs, None):
        step.graphs = recorder
        with torch.no_grad():
            for there, value in zip(places(trainer), before, strict=True):
                there.copy_(value)
        trainer.generator.set_state(generator)
        sampler.order, sampler.place, trainer.steps = order, place, steps
        taken = []
        for _ in range(20):
            trainer.step(progress)
            taken.append(step.data.clone())
        losses.append(torch.stack(taken))
        last.append(torch.cat([p.detach().flatten() for p in trainer.optimizers.dense]))
        assert [t.data_ptr() for t in places(trainer)] == address
    torch.testing.assert_close(losses[0], losses[1], rtol=0.02, atol=1e-5)
    assert float((last[0] - last[1]).norm() / last[1].norm()) < 0.02


@needs_tcnn
@pytest.mark.parametrize("biases", [False, True])
def test_tinycudann_computes_our_networks(biases: bool) -> None:
    torch.manual_seed(0)
    sizes = (16, 32, 32, 4)
    layers: list[tuple[Tensor, Tensor | None]] = [
        (
            torch.randn(3, o, i, device="cuda") * (2.0 / i) ** 0.5,
            torch.randn(3, o, device="cuda") if biases else None,
        )
        for i, o in itertools.pairwise(sizes)
    ]
    x = torch.randn(3, 500, 16, device="cuda")
    got = ops.batched_mlp(x, layers, "leaky_relu", backend="tcnn")
    wanted = ops.batched_mlp(x, layers, "leaky_relu", backend="reference")
    assert float((got - wanted).norm() / wanted.norm()) < 1e-2  # it computes in float16


@needs_tcnn
@pytest.mark.parametrize("dims", [2, 3])
def test_tinycudann_reads_our_tables(dims: int) -> None:
    grid = FactoredGrid(dims, 6, 2, 12, 5, 64).grid
    x, table = torch.rand(2, 999, dims, device="cuda"), torch.randn(2, grid.rows, 2, device="cuda")
    got = ops.hash_encode(x, table, grid, backend="tcnn")
    wanted = ops.hash_encode(x, table, grid, backend="reference")
    assert float((got - wanted).norm() / wanted.norm()) < 1e-2
