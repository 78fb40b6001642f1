"""A network reduced to what its paths are made of: layers, sums and skip connections."""

import copy
import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_PASSED = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    nn.ReLU,
    nn.LeakyReLU,
    nn.PReLU,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.Hardtanh,
    nn.Tanh,
    nn.Softplus,
)
_GATES = (nn.Sigmoid, nn.Hardsigmoid)


_SOFTMAX = (F.softmax, torch.softmax, Tensor.softmax)
_SIGMOID = (torch.sigmoid, Tensor.sigmoid, F.sigmoid, F.hardsigmoid)


def linearised(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode that lets positive values pass: norms and activations are left out.

    A gate (a sigmoid) is open, and attention looks at all tokens alike. The tensors are those of
    the model, not copies of them. To be called within `open_gates()`, as some models compute gates
    and attention without a module of their own.
    """
    shared = {id(t): t for t in itertools.chain(model.parameters(), model.buffers())}
    whole = nn.ModuleDict({"network": copy.deepcopy(model, shared)})  # it may be a norm itself
    for parent in list(whole.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _PASSED):
                setattr(parent, name, nn.Identity())
            elif isinstance(child, _GATES):
                setattr(parent, name, _OpenGate())
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


class open_gates(TorchFunctionMode):
    """Within it sigmoids are 1, and attention looks at all tokens alike; gradients pass both.

    For a softmax saturates: only one token would count, and no gradient would come back.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Called in place of every function of PyTorch."""
        kwargs = kwargs or {}
        if func in _SIGMOID:
            return _Constant.apply(args[0], 1.0)
        if func in _SOFTMAX:
            return _all_alike(args[0], kwargs["dim"] if "dim" in kwargs else args[1])
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


class _OpenGate(nn.Module):
    """One, with a gradient: a gate scales what passes, but its own inputs lead on too."""

    def forward(self, x: Tensor) -> Tensor:
        """As `x` in shape."""
        return _Constant.apply(x, 1.0)  # type: ignore[no-any-return]


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
