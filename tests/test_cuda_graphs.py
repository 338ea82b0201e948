"""When steps are recorded and replayed, with a CUDA that is not there; tests/gpu compares the steps themselves."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hyperfields import Progress
from hyperfields.data import Images
from hyperfields.ops import devices
from hyperfields.runs.config import FitSettings
from hyperfields.training import cuda_graphs as graphs
from hyperfields.training.cuda_graphs import WARMUP_CALLS, Graphs
from hyperfields.training.fit import Fit
from hyperfields.training.step import StaticStep
from hyperfields.training.trainer import Trainer


class Generator(torch.Generator):
    def graphsafe_set_state(self, state: torch.Generator) -> None:
        self.set_state(state.get_state())


class Cuda:
    """What `Graphs` asks of torch.cuda: notes what happens, and a recording replays what was called in it."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.refusal = ""


class CudaGraph:
    cuda: Cuda

    def register_generator_state(self, generator: torch.Generator) -> None:
        self.cuda.events.append("register")

    def pool(self) -> str:
        return "pool"

    def replay(self) -> None:
        self.cuda.events.append("replay")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    there = Cuda()

    class Stream:
        device = torch.device("cpu")

        def __init__(self, device: object = None) -> None:
            pass

        def wait_stream(self, other: object) -> None:
            pass

    @contextlib.contextmanager
    def record(graph: CudaGraph, pool: object, stream: object, capture_error_mode: str) -> Iterator[None]:
        there.events.append(f"record, pool {pool}")
        yield
        if there.refusal:
            raise RuntimeError(there.refusal)

    CudaGraph.cuda = there
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: None)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", CudaGraph)
    monkeypatch.setattr(torch.cuda, "graph", record)
    return there


def run(recorder: Graphs, cuda: Cuda, kinds: list[Any]) -> list[str]:
    """What happens in some steps."""
    cuda.events.clear()
    for kind in kinds:
        recorder(kind, lambda: cuda.events.append("work"), Generator())
    return list(cuda.events)


def test_a_kind_of_step_that_has_come_often_is_recorded_and_replayed(cuda: Cuda) -> None:
    recorder = Graphs(torch.device("cpu"))
    assert run(recorder, cuda, ["a"] * (WARMUP_CALLS - 1)) == ["work"] * (WARMUP_CALLS - 1)
    assert run(recorder, cuda, ["a", "a", "b"]) == ["register", "record, pool None", "work", "replay", "replay", "work"]
    run(recorder, cuda, ["b"] * (WARMUP_CALLS - 2))
    assert run(recorder, cuda, ["b", "a"]) == ["register", "record, pool pool", "work", "replay", "replay"]
    recorder.reset()
    assert run(recorder, cuda, ["a"]) == ["work"]


def test_few_recordings_are_kept(cuda: Cuda) -> None:
    recorder = Graphs(torch.device("cpu"))
    for kind in range(graphs.MAX_GRAPHS + 1):
        run(recorder, cuda, [kind] * WARMUP_CALLS)
    assert list(recorder.recorded) == [graphs.MAX_GRAPHS]


def test_what_cannot_be_recorded_is_called_and_one_line_says_why(cuda: Cuda) -> None:
    recorder = Graphs(torch.device("cpu"))
    cuda.refusal = "operation not permitted when stream is capturing\nMore about it."
    with pytest.warns(UserWarning, match="^no CUDA graphs: operation not permitted when stream is capturing; fitting"):
        run(recorder, cuda, ["a"] * WARMUP_CALLS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(recorder, cuda, ["a", "b"] * WARMUP_CALLS) == ["work"] * 2 * WARMUP_CALLS


class Plain:
    """A family that draws its batches on the CPU."""

    kind, names = "images", ("a", "b")

    def __init__(self) -> None:
        self.pictures = Images(torch.rand(2, 4, 4, 3), names=self.names)
        self.batch, self.reference = self.pictures.batch, self.pictures.reference


@pytest.fixture
def ahead(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that passes for a GPU, which a step runs ahead of."""
    monkeypatch.setattr(devices, "is_async", lambda device: True)


@pytest.mark.usefixtures("ahead")
def test_a_family_without_a_device_of_its_own_cannot_be_recorded(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="^no CUDA graphs: the data set draws its batches on the CPU"):
        Fit(Plain(), tmp_path, FitSettings(steps=2))  # type: ignore[arg-type]


@pytest.mark.usefixtures("ahead")
@pytest.mark.parametrize("wanted", [True, False])
def test_a_fit_that_runs_ahead_replays_its_steps_and_goes_on_where_it_was_stopped(
    wanted: bool, cuda: Cuda, tmp_path: Path
) -> None:
    """On the CPU, where a recording is no recording: each replay calls the step."""
    family = Images(torch.rand(3, 8, 8, 3, generator=torch.Generator().manual_seed(0)))
    config = FitSettings(steps=60)
    fitting: list[Fit] = []

    def replay(graph: CudaGraph) -> None:
        cuda.events.append("replay")
        step = fitting[-1].trainer
        assert isinstance(step, Trainer)
        assert isinstance(step.execute, StaticStep)
        step.execute.work()

    def once(recorder: Graphs, kind: object, work: Any, generator: torch.Generator) -> None:
        graph = CudaGraph()
        recorder.recorded[kind] = graph  # type: ignore[assignment]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CudaGraph, "replay", replay)
        patch.setattr(Graphs, "_record", once)
        whole = Fit(family, tmp_path / "whole", config, graphs=wanted)
        fitting.append(whole)
        whole.run()
        assert (cuda.events.count("replay") == 60 - WARMUP_CALLS + 1) == wanted
        stopped = Fit(family, tmp_path / "parts", config, graphs=wanted)
        fitting.append(stopped)

        def stop(progress: Progress) -> None:
            if progress.step == 30:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            stopped.run(stop)
        again = Fit(family, tmp_path / "parts", config, graphs=wanted, resume=True)
        fitting.append(again)
        again.run()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name
    assert whole.progress.loss < 0.1
