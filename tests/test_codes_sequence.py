"""Weights that change along time: frames between the known ones are better than the nearest known frame."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hyperfields.codes import FrameTimes, Sequence, frame_times_from_names
from hyperfields.codes.sequence import SequenceCodes
from hyperfields.data import Kind, Mesh, Points
from hyperfields.errors import InputError
from hyperfields.fields import Field, ImageField, SDFField
from hyperfields.fields.encodings import Fourier
from hyperfields.hypernets import Dynamic, Full, Generator, Hypernet, Independent
from hyperfields.model import ModelConfig
from hyperfields.runs.codec import read_tensors
from hyperfields.runs.run import Run, load_run
from hyperfields.tasks import TrainConfig
from hyperfields.training.fit import fit
from hyperfields.weights import linear_spec, numel

from ._analytic import Discs

VIDEOS, KNOWN = 3, 5
GENERATORS: dict[str, Generator] = {
    "recurrent": Dynamic(),
    "outer products": Dynamic("outer", rank=2),
}
each_generator = pytest.mark.parametrize("generator", GENERATORS.values(), ids=GENERATORS.keys())


@dataclasses.dataclass(frozen=True)
class Moving:
    """Frames of a disc (of a ball) that moves along an arc, in each video another one, at another pace and size."""

    kind: Kind
    sequence: Tensor
    time: Tensor

    @property
    def names(self) -> tuple[str, ...]:
        pairs = zip(self.sequence.tolist(), self.time.tolist(), strict=True)
        return tuple(f"video{v}_{round(1000 * t):04}" for v, t in pairs)

    def target(self, scenes: Tensor, x: Tensor) -> Tensor:
        video = self.sequence[scenes].float()
        angle = 2.1 * video + (2.0 + 0.4 * video) * self.time[scenes]
        place = torch.stack((angle.cos(), angle.sin()), -1)[:, None]
        if self.kind == "images":
            inside = torch.sigmoid((0.2 + 0.03 * video[:, None] - (x - 0.5 - 0.2 * place).norm(dim=-1)) * 30.0)[
                ..., None
            ]
            color = torch.tensor([[0.9, 0.2, 0.1], [0.1, 0.7, 0.3], [0.2, 0.3, 0.9]])[self.sequence[scenes] % 3][
                :, None
            ]
            return inside * color + (1.0 - inside) * 0.5
        center = torch.cat((0.4 * place, torch.zeros(len(scenes), 1, 1)), -1)
        return (x - center).norm(dim=-1, keepdim=True) - 0.4 - 0.05 * video[:, None, None]

    def batch(self, scenes: Tensor, n: int, generator: torch.Generator) -> Points:
        x = torch.rand(len(scenes), n, 2 if self.kind == "images" else 3, generator=generator)
        x = x if self.kind == "images" else 2.0 * x - 1.0
        return Points(x, self.target(scenes, x))

    def reference(self, scene: int, split: str = "test") -> Tensor | Mesh:
        if self.kind == "shapes":
            raise NotImplementedError
        place = (torch.arange(8) + 0.5) / 8
        x = torch.stack(torch.meshgrid(place, place, indexing="xy"), -1).reshape(1, -1, 2)
        return self.target(torch.tensor([scene]), x).reshape(8, 8, 3)


def moving(kind: Kind, times: Tensor) -> Moving:
    return Moving(kind, torch.arange(VIDEOS).repeat_interleave(len(times)), times.repeat(VIDEOS))


FIELDS: dict[Kind, Field] = {
    "images": ImageField(Fourier(2, 2), hidden=(16, 16)),
    "shapes": SDFField(Fourier(3, 2), hidden=(16, 16)),
}


def codes_at(run: Run, sequences: Tensor, times: Tensor) -> Tensor:
    assert isinstance(run.source, SequenceCodes)
    return run.source.at(sequences, times)


@each_generator
@pytest.mark.parametrize("kind", FIELDS)
def test_frames_between_the_known_ones_are_better_than_the_nearest_known_one(kind: Kind, generator: Generator) -> None:
    known = moving(kind, torch.linspace(0.0, 1.0, KNOWN))
    between = moving(kind, (torch.arange(KNOWN - 1) + 0.5) / (KNOWN - 1))
    recipe = TrainConfig(VIDEOS * KNOWN, VIDEOS * KNOWN * 64, rate_networks=1e-2)
    config = ModelConfig(FIELDS[kind], generator, 7)
    run = fit(known, steps=700, model=config, train=recipe, codes=Sequence(), progress=False)
    frames = torch.arange(len(between.names))
    batch = between.batch(frames, 400, torch.Generator().manual_seed(5))
    with torch.no_grad():
        answer = run.model.bind(codes_at(run, between.sequence, between.time))(batch.x)
        wrong = run.model.bind(codes_at(run, (between.sequence + 1) % VIDEOS, between.time))(batch.x)
    earlier = known.target(between.sequence * KNOWN + torch.arange(KNOWN - 1).repeat(VIDEOS), batch.x)
    later = known.target(between.sequence * KNOWN + torch.arange(1, KNOWN).repeat(VIDEOS), batch.x)
    error = (answer - batch.target).square().mean((1, 2))
    nearest = torch.minimum(*((frame - batch.target).square().mean((1, 2)) for frame in (earlier, later)))
    assert float(error.mean()) < 0.65 * float(nearest.mean()), (float(error.mean()), float(nearest.mean()))
    assert float(error.mean()) < 0.2 * float((wrong - batch.target).square().mean())


SPEC = linear_spec("mlp", (6, 24, 24, 2))


@torch.no_grad()
@each_generator
def test_at_step_0_weights_have_the_variance_that_the_spec_asks_for(generator: Generator) -> None:
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(30):
        codes = torch.cat((torch.randn(16, 8), torch.rand(16, 1)), 1)
        for name, value in Hypernet(SPEC, 9, generator)(codes).items():
            wanted = SPEC[name].bound ** 2 / 3.0
            found.setdefault(name, []).append(
                (float(value.square().mean()) / wanted, float(value.var(0).mean()) / wanted)
            )
    for name, values in found.items():
        whole, between = torch.tensor(values).mean(0).tolist()
        assert 0.75 < whole < 1.3, (name, whole)
        assert 0.005 < between < 0.15, (name, between)


@each_generator
def test_weights_move_smoothly_and_a_batch_is_a_loop(generator: Generator) -> None:
    torch.manual_seed(3)
    net = Hypernet(SPEC, 5, generator).double()
    still = torch.randn(1, 4, dtype=torch.float64)
    times = torch.linspace(0.0, 1.0, 801, dtype=torch.float64)
    codes = torch.cat((still.expand(801, -1), times[:, None]), 1)
    together = {name: value.detach() for name, value in net(codes).items()}
    for name, value in together.items():
        alone = torch.cat([net(code[None])[name].detach() for code in codes[::160]])
        torch.testing.assert_close(value[::160], alone)
        whole = float((value[-1] - value[0]).abs().max())
        assert whole > 1e-3
        assert float((value[1:] - value[:-1]).abs().max()) < 0.05 * max(whole, float(value.std(0).max()))
    before, after = torch.tensor([[-1.0], [2.0]], dtype=torch.float64)
    torch.testing.assert_close(net(torch.cat((still, before[None]), 1))["mlp.0.weight"], together["mlp.0.weight"][:1])
    torch.testing.assert_close(net(torch.cat((still, after[None]), 1))["mlp.0.weight"], together["mlp.0.weight"][-1:])


@each_generator
def test_gradients_are_those_of_finite_differences(generator: Generator) -> None:
    net = Hypernet(linear_spec("mlp", (2, 3, 1)), 4, generator).double()
    codes = torch.cat((torch.randn(2, 3), torch.tensor([[0.31], [0.78]])), 1).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda c: tuple(net(c).values()), codes)


def test_what_is_written_fades_and_adds_up() -> None:
    """With constant writes W(t) = W0 + v k^T (1 - exp(-d t)) / d, to the width of a tick."""
    from hyperfields.hypernets.dynamic import DynamicGenerator

    spec = linear_spec("mlp", (3, 4))
    net = DynamicGenerator(spec, 4, Dynamic("outer", ticks=512, rank=1))
    writes = torch.randn(1, 1, 7).expand(512, 1, 7)
    decay = math.log(2.0)  # softplus(0)
    for t in (0.25, 0.7, 1.0):
        found = net._written(writes, (4, 3), 1, torch.tensor([512.0 * t]))[0]
        wanted = torch.outer(writes[0, 0, :4], writes[0, 0, 4:]) * (1.0 - math.exp(-decay * t)) / decay
        torch.testing.assert_close(found.detach(), wanted, rtol=5e-3, atol=1e-5)


def test_any_generator_can_read_the_time() -> None:
    known = moving("images", torch.linspace(0.0, 1.0, 3))
    model, train = ModelConfig(FIELDS["images"], Full(hidden=8), 4), TrainConfig(9, 9 * 16)
    run = fit(known, steps=2, model=model, train=train, codes=Sequence(), progress=False)
    codes = codes_at(run, torch.tensor([0, 2]), torch.tensor([0.1, 0.9]))
    assert codes[:, -1].tolist() == pytest.approx([0.1, 0.9])
    assert run.model.bind(codes)(torch.rand(2, 5, 2)).shape == (2, 5, 3)


def test_a_run_keeps_the_number_of_every_sequence(tmp_path: Path) -> None:
    """16 bits hold whole numbers up to 2,048 alone: numbers of sequences are not halved."""
    count = 2051
    frames = Moving("images", torch.arange(count), torch.zeros(count))
    model, train = ModelConfig(ImageField(Fourier(2, 1), hidden=(4,)), Full(), 3), TrainConfig(8, 64)
    run = fit(frames, tmp_path / "run", steps=1, model=model, train=train, codes=Sequence(), progress=False)
    stored, _ = read_tensors(tmp_path / "run/codes.safetensors")
    assert stored["frame_sequence"].dtype == torch.int64
    assert sorted(stored["frame_sequence"].tolist()) == list(range(count))
    assert isinstance(run.source, SequenceCodes)
    assert torch.equal(run.source.frame_sequence, stored["frame_sequence"])
    assert load_run(tmp_path / "run").names == frames.names


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="Dynamic mode 'fast': wanted recurrent or outer"):
        Hypernet(SPEC, 4, Dynamic("fast"))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="the last one is the time"):
        Hypernet(SPEC, 1, Dynamic())
    with pytest.raises(InputError, match="Dynamic ticks: got 0"):
        Hypernet(SPEC, 4, Dynamic(ticks=0))
    with pytest.raises(InputError, match="times from 0 to 2, wanted 0 to 1"):
        FrameTimes(torch.zeros(2, dtype=torch.int64), torch.tensor([0.0, 2.0]))
    with pytest.raises(InputError, match="wanted one of each a frame"):
        FrameTimes(torch.zeros(2, dtype=torch.int64), torch.tensor([0.0]))
    known, train = moving("images", torch.linspace(0.0, 1.0, 3)), TrainConfig(4, 64)
    alone = ModelConfig(FIELDS["images"], Independent(), numel(FIELDS["images"].spec))
    with pytest.raises(InputError, match="Sequence needs networks to serve, Independent has none"):
        fit(known, steps=1, model=alone, train=train, codes=Sequence())
    with pytest.raises(InputError, match="wanted a latent of 2 or more: the last number is the time"):
        fit(known, steps=1, model=ModelConfig(FIELDS["images"], Full(), 1), train=train, codes=Sequence())
    with pytest.raises(InputError, match="scene 'red': wanted frames with a number at the end"):
        fit(Discs(), steps=1, model=ModelConfig(FIELDS["images"], Full(), 4), train=train, codes=Sequence())


def test_the_clock_of_names() -> None:
    clock = frame_times_from_names(["run-2", "walk_00", "walk_05", "walk_20", "run-4", "7"])
    assert clock.sequence.tolist() == [1, 2, 2, 2, 1, 0]
    torch.testing.assert_close(clock.time, torch.tensor([0.0, 0.0, 0.25, 1.0, 1.0, 0.0]))
    with pytest.raises(InputError, match="scene 'cat': wanted frames with a number at the end"):
        frame_times_from_names(["walk_1", "cat"])
