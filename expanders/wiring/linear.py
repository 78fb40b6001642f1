"""A network reduced to what its paths are made of: layers, sums and skip connections."""

import copy
import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_HOMES = (F, torch, Tensor)  # where functions have their names


def _functions(*names: str) -> frozenset[Any]:
    """The functions of these names, wherever PyTorch has them."""
    homes = [(home, name) for home in _HOMES for name in (*names, *(f"{n}_" for n in names))]
    return frozenset(getattr(home, name) for home, name in homes if hasattr(home, name))


_PASSED = _functions(
    *("batch_norm", "instance_norm", "layer_norm", "group_norm", "rms_norm", "local_response_norm"),
    *("relu", "leaky_relu", "prelu", "elu", "selu", "celu", "gelu", "silu", "mish", "hardswish"),
)
# As functions these are often part of a gate or of an activation written out: x * relu6(x + 3) / 6.
_PASSED_MODULES = (nn.Hardtanh, nn.Tanh, nn.Softplus)
_SIGMOID = _functions("sigmoid", "hardsigmoid")
_SOFTMAX = _functions("softmax")


def linearised(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode, to be called within `linear_functions()`.

    It then lets positive values pass. Its tensors are those of the model, not copies of them.
    """
    shared = {id(t): t for t in itertools.chain(model.parameters(), model.buffers())}
    whole = nn.ModuleDict({"network": copy.deepcopy(model, shared)})  # it may be passed itself
    for parent in list(whole.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _PASSED_MODULES):
                setattr(parent, name, nn.Identity())
            elif type(child) is nn.MultiheadAttention:
                child.__class__ = _OpenAttention  # it is our copy; others read its attributes
    without_fused_transformers(whole)
    return whole.eval().network  # type: ignore[return-value]


def without_fused_transformers(model: nn.Module) -> None:
    """Have transformers call their layers, instead of one operation that takes dense weights.

    In evaluation they read the weights of their linear layers where they can.
    """
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0
        elif isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False


class linear_functions(TorchFunctionMode):
    """Within it norms and activations are left out, sigmoids are 1, and all tokens look alike.

    Gradients pass all of them. For a softmax saturates: only one token would count, and no gradient
    would come back. PyTorch's modules call the same functions as a `forward` without modules.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Called in place of every function of PyTorch."""
        kwargs = kwargs or {}
        x = args[0] if args else kwargs.get("input")
        if func in _PASSED:
            return x
        if func in _SIGMOID:  # a gate scales what passes, but its own inputs lead on too
            return _Constant.apply(x, 1.0)
        if func in _SOFTMAX:
            return _all_alike(x, kwargs["dim"] if "dim" in kwargs else args[1])
        if func is F.scaled_dot_product_attention:
            named = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
            return _attend(named["query"], named["key"], named["value"])
        return func(*args, **kwargs)


class _Constant(torch.autograd.Function):
    """The same value everywhere, with the gradient of the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: float) -> Tensor:
        return torch.full_like(x, value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class _OpenAttention(nn.MultiheadAttention):
    """Attention to all tokens alike, without biases; heads then make no difference."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, None]:
        """Of (N, tokens, features), or (tokens, N, features) where batches do not come first."""
        if self._qkv_same_embed_dim:
            weights = self.in_proj_weight.chunk(3)
        else:
            weights = self.q_proj_weight, self.k_proj_weight, self.v_proj_weight
        inputs = (query, key, value)
        q, k, v = (F.linear(x, w) for x, w in zip(inputs, weights, strict=True))
        if self.batch_first or query.ndim == 2:
            return F.linear(_attend(q, k, v), self.out_proj.weight), None
        mixed = _attend(*(x.transpose(0, 1) for x in (q, k, v))).transpose(0, 1)
        return F.linear(mixed, self.out_proj.weight), None


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return _all_alike(query @ key.mT, -1) @ value


def _all_alike(x: Tensor, dim: int) -> Tensor:
    return _Constant.apply(x, 1 / x.shape[dim])  # type: ignore[no-any-return]
