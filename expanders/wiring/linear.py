"""A network reduced to what its paths are made of: layers, sums and skip connections."""

import copy
import itertools

from torch import Tensor, nn

_PASSED = (
    *(nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm),
    *(nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Hardswish, nn.Hardtanh, nn.Tanh, nn.Softplus),
)
_GATES = (nn.Sigmoid, nn.Hardsigmoid)


def linearised(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode that lets positive values pass: norms and activations are left out.

    A gate (a sigmoid) is open. The tensors are those of the model, not copies of them.
    """
    shared = {id(t): t for t in itertools.chain(model.parameters(), model.buffers())}
    whole = nn.ModuleDict({"network": copy.deepcopy(model, shared)})  # it may be a norm itself
    for parent in list(whole.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _PASSED):
                setattr(parent, name, nn.Identity())
            elif isinstance(child, _GATES):
                setattr(parent, name, _OpenGate())
    return whole.eval().network  # type: ignore[return-value]


class _OpenGate(nn.Module):
    """One, with a gradient: a gate scales what passes, but its own inputs lead on too."""

    def forward(self, x: Tensor) -> Tensor:
        """As `x` in shape."""
        return x - x.detach() + 1
