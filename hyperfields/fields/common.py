"""The parts that fields are made of: the spec of an MLP, and an MLP on encoded points, as one kernel where there is
one.

Points are `[s n d]`, or packed `[m d]` with `counts [s]`; the answer has the same leading axes.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Protocol, get_args, runtime_checkable

from torch import Tensor

from hyperfields import ops
from hyperfields.errors import InputError
from hyperfields.fields.encodings import TABLE, Encoding, GridEncoding
from hyperfields.weights import WeightEntry, Weights, WeightSpec, linear_spec

# Not plain ReLU: a latent can push all units of one scene below 0, and with no gradient it would never come back.
ACTIVATION: ops.Activation = "leaky_relu"
Layers = list[tuple[Tensor, Tensor | None]]  # weights `[s o i]` and biases `[s o]`
WIDEST, DEEPEST = 2**16, 64  # of MLPs: more comes from a damaged file
FREQUENCY = 30.0  # of the first layer of sine fields, for coordinates in [-1, 1] (Sitzmann et al. 2020, section 3.2)


@runtime_checkable
class Field(Protocol):
    """A function of points whose weights are an argument: a frozen config that owns no parameters.

    `kind` names the task that knows how such fields are fitted, measured and shown. `networks` gives the widths of each
    MLP, for counts of operations; it may be left out.
    """

    kind: ClassVar[str]

    @property
    def encoding(self) -> Encoding: ...

    @property
    def dims(self) -> int: ...

    @property
    def spec(self) -> WeightSpec: ...


def require_field(field: Any, hidden: tuple[int, ...]) -> None:
    """Raises InputError for an encoding of other points than the field's, or MLPs that cannot be."""
    name = type(field).__name__
    dims = getattr(field.encoding, "dims", None)
    if dims != field.dims:
        raise InputError(f"{name}: its encoding is of {dims} coordinates, wanted {field.dims}")
    if not all(0 < width <= WIDEST for width in hidden) or len(hidden) > DEEPEST:
        raise InputError(f"{name}: layers of {list(hidden)[:9]}: wanted at most {DEEPEST}, each of 1 to {WIDEST:,}")
    if field.activation not in get_args(ops.Activation):
        raise InputError(f"{name} activation {field.activation!r}: wanted one of {', '.join(get_args(ops.Activation))}")
    if not 0.0 < field.frequency < math.inf:
        raise InputError(f"{name} frequency {field.frequency}: wanted a number above 0")


def mlp_spec(
    prefix: str, widths: tuple[int, ...], activation: ops.Activation, frequency: float
) -> dict[str, WeightEntry]:
    """Entries of an MLP that reads coordinates, initialised for its activation."""
    return linear_spec(prefix, widths, frequency if activation == "sine" else None)


def encoded_mlp(
    encoding: Encoding,
    weights: Weights,
    network: Layers,
    activation: ops.Activation,
    x: Tensor,
    counts: Tensor | None,
    encoded: Tensor | None = None,
) -> Tensor:
    """Outputs of a network on encoded points in [0, 1]^d, `[... o]`; a grid and its network can be one kernel."""
    if isinstance(encoding, GridEncoding):
        return ops.encode_mlp(x, weights[TABLE], encoding.grid, network, activation, counts=counts, encoded=encoded)
    features = encoding(x, weights, counts)
    if features.shape[-1] != encoding.channels:  # an encoding of one's own can be wrong
        name = type(encoding).__name__
        raise InputError(f"{name}: gave {features.shape[-1]} features a point, its `channels` says {encoding.channels}")
    return ops.batched_mlp(features, network, activation, counts=counts)


def encoded_mlp_error(
    encoding: Encoding,
    weights: Weights,
    network: Layers,
    activation: ops.Activation,
    x: Tensor,
    target: Tensor,
    width: float,
    shift: float = 0.0,
) -> Tensor | None:
    """Mean error `[]` of `encoded_mlp(...) + shift`, see `ops.encode_mlp_error`.

    None for encodings without a grid, and for targets of another shape or dtype.
    """
    shape = (*x.shape[:-1], network[-1][0].shape[1])
    if not isinstance(encoding, GridEncoding) or target.shape != shape or target.dtype != x.dtype:
        return None
    return ops.encode_mlp_error(x, target, weights[TABLE], encoding.grid, network, activation, shift=shift, width=width)
