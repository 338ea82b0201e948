"""Kernels as functions that torch differentiates once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class _Refused(torch.autograd.Function):
    """The first `count` tensors as they are; that they depend on the others, and how, is an error to ask for."""

    @staticmethod
    def forward(ctx, name, count, *tensors):
        ctx.name = name
        return tuple(tensor.view_as(tensor) for tensor in tensors[:count])

    @staticmethod
    def backward(ctx, *_):
        raise RuntimeError(
            f"hyperfields::{ctx.name} has no autograd formula: kernels are differentiable once; within "
            "ops.twice_differentiable() the reference is taken"
        )


def first_derivative(name: str, backward: Callable[..., Any]) -> Callable[..., Any]:
    """`backward` of an autograd function, whose own derivative raises and names it: it would be lost in silence."""

    def once(ctx, *grads):
        with torch.no_grad():
            results = backward(ctx, *grads)
        if not torch.is_grad_enabled():
            return results
        known = [t for t in (*grads, *ctx.saved_tensors) if t is not None and t.requires_grad]
        if not known:
            return results
        places = [place for place, result in enumerate(results) if result is not None]
        refused = iter(_Refused.apply(name, len(places), *(results[place] for place in places), *known))
        return tuple(None if result is None else next(refused) for result in results)

    return once


def differentiable(
    forward: Callable[..., Any], context: Callable[..., None], backward: Callable[..., Any]
) -> Callable[..., Any]:
    """`forward` as an autograd function. `torch.library.custom_op` does the same in more than twice the time: 90 us
    that every op of a step takes on one thread.

    Args:
        context: (ctx, inputs, output), keeps what `backward` needs. As torch's `setup_context`, which looks at the
            signature of `forward` in every call.
        backward: (ctx, *grads) -> a gradient, or None, for each input.
    """

    def with_context(ctx, *inputs):
        output = forward(*inputs)
        context(ctx, inputs, output)
        return output

    once = first_derivative(f"{forward.__name__}_backward", backward)
    members = {"forward": staticmethod(with_context), "backward": staticmethod(once)}
    applied: Callable[..., Any] = type(forward.__name__, (torch.autograd.Function,), members).apply  # type: ignore[attr-defined]
    return applied


def with_gradients(forward: Callable[..., Any], count: int) -> Callable[..., Any]:
    """`forward` as an autograd function of its first `count` inputs, whose gradients it finds itself.

    It gives a scalar, the `count` gradients, and then what has no derivative.
    """

    def context(ctx, inputs, output):
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1 : 1 + count], *inputs[:count])  # inputs: to know whether they have derivatives
        ctx.others = len(inputs) - count

    def backward(ctx, grad, *_):
        factor, gradients = float(grad), ctx.saved_tensors[:count]
        if factor != 1.0:
            gradients = [gradient * factor for gradient in gradients]
        return *gradients, *(None,) * ctx.others

    return differentiable(forward, context, backward)
