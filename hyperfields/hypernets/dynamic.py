"""Weights that change along time: the last dimension of a code is the time, from 0 to 1, of the weights.

A slow network reads the rest of the code and moves in small steps of time; where it has got to gives the weights.

    recurrent:  h' = f(h, z, t);   w_n(t) = w0_n * (1 + S h)_n,  b(t) = b0 + B h            a scale for each neuron
    outer:      h' = f(h, z, t);   W(t) = W0 + D(t),  D' = v(h) k(h)^T - d D        fast weights

Sources: Ha, Dai, Le 2016, "HyperNetworks", section 3.2 (dynamic: a small recurrent network rescales the rows of the
main one); Schmidhuber 1992, "Learning to control fast-weight memories" (a slow network writes outer products into the
fast one), with the decay of Schlag, Irie, Schmidhuber 2021; steps of an ordinary differential equation, so that there
is something between two frames, as in Irie, Faccio, Schmidhuber 2022, "Neural differential equations for learning to
program neural nets through continuous learning rules".
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import torch
from torch import Tensor, nn

from hyperfields.errors import InputError
from hyperfields.hypernets.base import Generator
from hyperfields.hypernets.init import LATENT_SHARE, Head, require_positive, std_of
from hyperfields.weights import Weights, WeightSpec

SPEED = 2.0  # how far a state can get in a unit of time; states start with a standard deviation of 1
GAIN = 1.0  # of the slow network; more makes paths of states that turn between known frames


@dataclasses.dataclass(frozen=True)
class Dynamic(Generator):
    """hidden: width of the slow network. ticks: its steps from time 0 to 1; between two ticks weights are interpolated.

    rank: outer products that are written in a tick (outer only), at most a matrix's own rank.
    """

    mode: Literal["recurrent", "outer"] = "recurrent"
    hidden: int = 32
    ticks: int = 16
    rank: int = 1

    def build(self, spec: WeightSpec, latent_size: int, share: float) -> nn.Module:
        """The network: codes `[s z]` -> weights of `spec`."""
        return DynamicGenerator(spec, latent_size, self, share)


class DynamicGenerator(nn.Module):
    """Codes `[s z]`, the last number of each a time in [0, 1], -> weights of `spec`. Times beyond are cut.

    Raises:
        InputError: a setting below 1, an unknown mode, or a code without room for anything but the time.
    """

    def __init__(self, spec: WeightSpec, latent_size: int, config: Dynamic, share: float = LATENT_SHARE) -> None:
        super().__init__()
        require_positive("Dynamic", hidden=config.hidden, ticks=config.ticks, rank=config.rank)
        if config.mode not in ("recurrent", "outer"):
            raise InputError(f"Dynamic mode {config.mode!r}: wanted recurrent or outer")
        if latent_size < 2:
            raise InputError("Dynamic: got a latent of 1 number, wanted at least 2: the last one is the time")
        self.spec, self.config = dict(spec), config
        width = config.hidden
        self.start = Head(latent_size - 1, torch.ones(width))
        self.slow = Head(width + latent_size - 1 + 2, torch.full((width,), GAIN))
        self.base = nn.ParameterDict()
        self.parts: dict[str, tuple[int, int]] = {}  # of each weight: (rank, outputs of the head for it)
        scales = []
        for name, entry in spec.items():
            matrix = len(entry.shape) == 2
            if matrix and config.mode == "outer":
                rank = min(config.rank, *entry.shape)
                # W moves by an integral over about half a unit of time: see the test of step 0.
                each = math.sqrt(2.0 * math.sqrt(share) * std_of(entry) / math.sqrt(rank))
                size, kept = rank * sum(entry.shape), 1.0 - share
            elif matrix:
                rank, each, size, kept = 0, math.sqrt(share), entry.shape[0], 1.0 / (1.0 + share)
            else:
                rank, each, size, kept = 0, std_of(entry) * math.sqrt(share), entry.numel, 1.0 - share
            self.parts[name] = rank, size
            # States have a mean square of about a half: they come out of a tanh.
            power = 0.25 if rank else 0.5
            scales.append(torch.full((size,), each / power**0.5))
            self.base[name.replace(".", "/")] = nn.Parameter(entry.initial() * math.sqrt(kept))
        self.head = Head(width, torch.cat(scales))
        self.decay = nn.Parameter(torch.zeros(()))

    def forward(self, codes: Tensor) -> Weights:
        still, time = codes[:, :-1], codes[:, -1].clamp(0.0, 1.0)
        states = self._states(still)  # [ticks + 1, s, h]
        place = time * self.config.ticks
        first = place.long().clamp(max=self.config.ticks - 1)
        rows = torch.arange(len(codes), device=codes.device)
        mix = (place - first)[:, None]
        # Only outer products add up over time; what a state gives directly is wanted at one time alone.
        at = states[first, rows] * (1.0 - mix) + states[first + 1, rows] * mix
        now = self.head(torch.tanh(at)).split([size for _, size in self.parts.values()], 1)
        ever = None
        if self.config.mode == "outer":
            ever = self.head(torch.tanh(states[:-1])).split([size for _, size in self.parts.values()], 2)
        weights: Weights = {}
        for index, (name, entry) in enumerate(self.spec.items()):
            base, rank = self.base[name.replace(".", "/")], self.parts[name][0]
            if rank and ever is not None:
                weights[name] = base + self._written(ever[index], entry.shape, rank, place)
            elif len(entry.shape) == 2:
                weights[name] = base * (1.0 + now[index][..., None])
            else:
                weights[name] = base + now[index].reshape(-1, *entry.shape)
        return weights

    def _states(self, still: Tensor) -> Tensor:
        """States of the slow network at each tick, `[ticks + 1, s, h]`; `still` is the code without the time."""
        states = [self.start(still)]
        for tick in range(self.config.ticks):
            t = tick / self.config.ticks
            phase = still.new_tensor([math.cos(math.pi * t), math.sin(math.pi * t)]).expand(len(still), 2)
            change = torch.tanh(self.slow(torch.cat((torch.tanh(states[-1]), still, phase), 1)))
            states.append(states[-1] + SPEED * change / self.config.ticks)
        return torch.stack(states)

    def _written(self, writes: Tensor, shape: tuple[int, ...], rank: int, place: Tensor) -> Tensor:
        """The sum of what was written until `place` `[s]` (ticks), older writes faded: `[s o i]`.

        The last tick counts by the part of it that has passed.
        """
        rows, columns = shape
        value = writes[..., : rank * rows].unflatten(-1, (rows, rank))
        key = writes[..., rank * rows :].unflatten(-1, (rank, columns))
        tick = torch.arange(self.config.ticks).to(place)[:, None]
        passed = (place - tick).clamp(0.0, 1.0) / self.config.ticks  # [ticks s]
        age = (place - tick).clamp(min=0.0) / self.config.ticks
        factor = passed * torch.exp(-nn.functional.softplus(self.decay) * age)
        return torch.einsum("ts,tsor,tsri->soi", factor, value, key)
