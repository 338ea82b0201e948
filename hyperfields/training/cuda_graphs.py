"""CUDA graphs: a fitting step recorded once and then replayed, so that the host launches one thing and not hundreds."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Hashable

import torch

from hyperfields.data import SceneDataset, stays_on_device
from hyperfields.ops import devices

WARMUP_CALLS = 16  # calls of a step shape before it is captured; a capture costs as much as some steps
MAX_GRAPHS = 8  # captured shapes; more mean that steps keep changing


class Graphs:
    """`graphs(kind, work)` calls `work()`; after WARMUP_CALLS of one kind it is captured and from then on replayed.

    `work` reads and writes tensors that stay in their places, does the same for the same kind, and leaves nothing
    behind on the host. Where it cannot be recorded, one warning says why and it goes on being called.

    reason: why nothing can be captured; empty while that is possible.
    """

    def __init__(self, device: torch.device) -> None:
        self.reason = ""
        self.seen: Counter[Hashable] = Counter()
        self.recorded: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self.stream = torch.cuda.Stream(device)

    def __call__(self, kind: Hashable, work: Callable[[], None], generator: torch.Generator) -> None:
        """generator: the one that `work` draws from, on the GPU; a replay draws the same random numbers as a call."""
        if kind not in self.recorded and not self.reason:
            self.seen[kind] += 1
            if self.seen[kind] >= WARMUP_CALLS:
                self._record(kind, work, generator)
        if kind in self.recorded:
            self.recorded[kind].replay()
        else:
            self.call(work)

    def reset(self) -> None:
        """Tensors have moved: record anew."""
        self.seen.clear()
        self.recorded.clear()

    def call(self, work: Callable[[], None]) -> None:
        """On the stream of the recordings: autograd remembers on which one it has met a parameter."""
        outside = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(outside)
        with torch.cuda.stream(self.stream):
            work()
        outside.wait_stream(self.stream)

    def _record(self, kind: Hashable, work: Callable[[], None], generator: torch.Generator) -> None:
        if len(self.recorded) >= MAX_GRAPHS:
            self.recorded.clear()
        pool = next(iter(self.recorded.values())).pool() if self.recorded else None
        graph, spare = torch.cuda.CUDAGraph(), generator.clone_state()
        outside = torch.cuda.current_stream(self.stream.device)
        try:
            graph.register_generator_state(generator)
            with torch.cuda.graph(graph, pool=pool, stream=self.stream, capture_error_mode="thread_local"):
                work()
        except RuntimeError as error:
            # A recording that breaks off may leave its stream current, and numbers that only a replay could draw.
            torch.cuda.set_stream(outside)
            generator.graphsafe_set_state(spare)
            self.disable(next(iter(str(error).strip().splitlines()), type(error).__name__))
        else:
            self.recorded[kind] = graph

    def disable(self, reason: str) -> None:
        """Disable capture from now on, with one warning that names the reason."""
        self.reason = reason
        self.reset()
        warnings.warn(f"no CUDA graphs: {reason}; fitting goes on without them, more slowly", stacklevel=2)


def graphs_for(data: SceneDataset, device: torch.device, table: bool) -> Graphs | None:
    """Graphs for the steps of a fit; None where the host waits for each.

    table: its codes are rows of one.
    """
    if not devices.is_async(device):
        return None
    graphs = Graphs(device)
    if not stays_on_device(data):
        graphs.disable("the data set draws its batches on the CPU, as it has no `to`")
    if not table:
        graphs.disable("codes that do not come from a table take steps of their own")
    return graphs
