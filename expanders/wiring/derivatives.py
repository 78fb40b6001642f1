"""Calls of C++ operators that have derivatives, with little work in Python.

An operator's derivatives are a `torch.autograd.Function`. `torch.func` can transform it if its
`forward` takes no context, but PyTorch then looks up the signature of `forward` at every call,
which takes longer than a small layer. Where nothing is transformed, `call` therefore uses another
function, whose `forward` takes one; where nothing is differentiated, the operator alone.
"""

from functools import cache
from typing import Any

import torch
from torch.autograd import Function


def call(function: type[Function], *arguments: Any) -> Any:
    """What `function.apply(*arguments)` returns.

    Callers make sure that no tensor has a forward-mode tangent: it would be lost here. A function
    that defines no `vmap` must not be called within a transform of `torch.func` either.
    """
    if is_transformed():
        return function.apply(*arguments)
    if torch.is_grad_enabled():
        return _joined(function).apply(*arguments)
    return _computed(function, arguments)


def is_transformed() -> bool:
    """Whether a transform of `torch.func` is at work."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def register(operator: str, function: type[Function]) -> None:
    """Give an operator the derivatives of a function, for those who call it directly."""
    torch.library.register_autograd(
        operator, function.backward, setup_context=function.setup_context
    )


def _computed(function: type[Function], arguments: tuple[Any, ...]) -> Any:
    """The outputs alone: operators do not look for what `register` gave them."""
    with torch._C._AutoDispatchBelowAutograd():
        return function.forward(*arguments)


@cache
def _joined(function: type[Function]) -> type[Function]:
    """The same function, whose forward sets up its context itself."""

    def forward(ctx: Any, *arguments: Any) -> Any:
        output = _computed(function, arguments)
        function.setup_context(ctx, arguments, output)
        return output

    parts = {"forward": staticmethod(forward), "backward": staticmethod(function.backward)}
    return type(function.__name__, (Function,), parts)
