"""Blocks of a transformer, of plain operations, so that they are twice differentiable and take any dtype."""

from __future__ import annotations

import math

from torch import Tensor, nn

from hyperfields.errors import InputError


class Block(nn.Module):
    """Tokens `[s t w]` -> `[s t w]`: attention between the tokens of a scene, then a network on each token.

    Source: Vaswani et al. 2017, "Attention is all you need", section 3, with the norms before the layers.

    Raises:
        InputError: a width that the heads do not divide.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise InputError(f"attention: width {width} is not a multiple of its {heads} heads")
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.network = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        s, t, w = tokens.shape
        mixed = self.query_key_value(self.before(tokens)).reshape(s, t, 3, self.heads, w // self.heads)
        query, key, value = mixed.permute(2, 0, 3, 1, 4)  # [s heads t w/heads] each
        weight = (query @ key.mT / math.sqrt(w // self.heads)).softmax(-1)
        tokens = tokens + self.out((weight @ value).transpose(1, 2).reshape(s, t, w))
        answer: Tensor = tokens + self.network(self.between(tokens))
        return answer
