"""How training steps are compiled: norms joined with their neighbours, the rest by Inductor.

`torch.compile` captures a network as a graph. On a CPU, batch norms in it are joined with what
follows them (see `expanders.training.fusion`). What is left is then left to PyTorch's operations,
or compiled by Inductor, which takes tens of seconds and gains little more.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from expanders.errors import SettingError
from expanders.training.fusion import fuse_norms
from expanders.wiring import native

CompileMode = Literal["auto", "none", "default", "reduce-overhead", "max-autotune"]
Norm = Literal["auto", "torch", "native"]

_log = logging.getLogger(__name__)

# vgg16bn at degree 3 on two cores: joining norms takes 3 s and saves 0.7 ms an image; compiling all
# of it takes 22 s and saves 0.4 ms.
_WORTH_JOINING = 10_000  # images
_WORTH_COMPILING = 100_000


def compiled(
    model: nn.Module, mode: CompileMode, norm: Norm, device: torch.device, num_images: int
) -> Callable[..., Tensor]:
    """`model` as training steps call it; if it is captured, then for inputs of one shape.

    What was captured before is forgotten: a process that trains one network after the other would
    else reach PyTorch's limit and stop capturing, and a run's bits depend on those before it.

    Args:
        model: the network, which stays as it is.
        mode: of Inductor, or `none`. `auto` compiles on a GPU, and on a CPU a network without batch
            norm for a training of so many images that it earns back the time of compiling.
        norm: what computes batch norms on a CPU: PyTorch, or the operator (`native`); `auto` is the
            operator, unless `mode` is `none` or the training too short to earn the time of
            capturing.
        device: of the network.
        num_images: those of all epochs.

    Raises:
        SettingError: if a mode or the native norm was asked for by name and is impossible here.
    """
    joins = _joins(model, mode, norm, device, num_images)
    inductor = mode not in ("none", "auto")
    if mode == "auto" and not joins:
        inductor = device.type == "cuda" or num_images >= _WORTH_COMPILING
    if joins or inductor:
        torch.compiler.reset()
    if inductor and not _can_compile(mode, device):
        inductor = False
    named = "default" if mode == "auto" else mode
    if joins:
        backend = _Joined(named if inductor else None)
        return torch.compile(model, backend=backend, dynamic=False)
    return torch.compile(model, mode=named, dynamic=False) if inductor else model


def _joins(
    model: nn.Module, mode: CompileMode, norm: Norm, device: torch.device, num_images: int
) -> bool:
    """Whether batch norms are computed by the operator."""
    if norm == "native":
        if device.type == "cpu" and native.is_available():
            return True
        raise SettingError("norm", norm, "needs a CPU and a C++20 compiler; use norm=torch")
    pays = mode != "none" and (mode != "auto" or num_images >= _WORTH_JOINING)
    # The norm over several processes is of another class.
    found = any(type(module) is nn.BatchNorm2d for module in model.modules())
    return norm == "auto" and device.type == "cpu" and pays and found and native.is_available()


class _Joined:
    """A backend of `torch.compile`: joins norms, then has Inductor compile what was captured.

    Args:
        mode: of Inductor; None leaves all but the norms to PyTorch's operations.
    """

    def __init__(self, mode: str | None) -> None:
        self.mode = mode

    def __call__(
        self, module: fx.GraphModule, inputs: Sequence[Any], **_: Any
    ) -> Callable[..., Any]:
        count = fuse_norms(module.graph)
        module.recompile()
        if count:
            _log.info("batch norm: %d by the C++ operator", count)
        if self.mode is None:
            return module
        from torch._inductor import compile_fx, list_mode_options

        patches = list_mode_options(self.mode)
        compiled = compile_fx.compile_fx(module, list(inputs), config_patches=patches)
        assert callable(compiled)
        return compiled


def _can_compile(mode: CompileMode, device: torch.device) -> bool:
    """Whether Inductor finds what it needs, such as a compiler."""
    try:
        torch.compile(torch.sin)(torch.zeros(2, device=device))
    except (RuntimeError, OSError) as error:  # no compiler, no headers, a driver too old, ...
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        if mode != "auto":
            remedy = f"nothing can be compiled here ({reason}); use compile=none"
            raise SettingError("compile", mode, remedy) from None
        _log.warning("not compiled, which is slower: %s", reason)
        return False
    return True
