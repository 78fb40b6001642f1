"""How training steps are compiled: by the C++ operators of this package, the rest by Inductor.

`torch.compile` captures a network as a graph. On a CPU, batch norms in it are joined with what
follows them, and some other operations replaced (see `expanders.training.fusion`). The rest is left
to PyTorch's operations, or compiled by Inductor, which takes tens of seconds and gains little more.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from expanders.errors import SettingError
from expanders.training import fusion
from expanders.wiring import native

CompileMode = Literal["auto", "none", "default", "reduce-overhead", "max-autotune"]
Norm = Literal["auto", "torch", "native"]

_log = logging.getLogger(__name__)

# vgg16bn at degree 3 on two cores: joining norms takes 3 s and saves 0.7 ms an image; compiling all
# of it takes 22 s and saves 0.4 ms.
_WORTH_JOINING = 10_000  # images
_WORTH_COMPILING = 100_000


@dataclass(frozen=True)
class Compilation:
    """How training steps are compiled.

    Attributes:
        compile: mode of Inductor, or `none`.
        norm: what computes batch norms, and the other operations of `fusion`, on a CPU.
    """

    compile: CompileMode
    norm: Norm


def chosen(
    model: nn.Module,
    mode: CompileMode,
    norm: Norm,
    device: torch.device,
    num_images: int,
    before: Compilation | None = None,
) -> Compilation:
    """What the settings come to here; nothing in it is `auto`.

    Args:
        model: the network.
        mode: of Inductor, or `none`. `auto` compiles on a GPU, and on a CPU a network without batch
            norm for a training of so many images that it earns back the time of compiling.
        norm: what computes batch norms, and the other operations of `fusion`, on a CPU: PyTorch
            (`torch`), or the C++ operators (`native`); `auto` is `native`, unless `mode` is `none`
            or the training too short to earn the time of capturing.
        device: of the network.
        num_images: those of all epochs.
        before: how the steps of this training so far were compiled; `auto` stays with it where that
            is possible.

    Raises:
        SettingError: if a mode or the native norm was asked for by name and is impossible here.
    """
    joins = _joins(model, mode, norm, device, num_images, before)
    wanted: CompileMode = mode
    if mode == "auto" and before is not None:
        wanted = before.compile
    elif mode == "auto":
        pays = not joins and (device.type == "cuda" or num_images >= _WORTH_COMPILING)
        wanted = "default" if pays else "none"
    if wanted != "none" and not _can_compile(mode, device):
        wanted = "none"
    return Compilation(wanted, "native" if joins else "torch")


def compiled(model: nn.Module, how: Compilation) -> Callable[..., Tensor]:
    """`model` as training steps call it; if it is captured, then for inputs of one shape.

    What was captured before is forgotten: a process that trains one network after the other would
    else reach PyTorch's limit and stop capturing, and a run's bits depend on those before it.

    Args:
        model: the network, which stays as it is.
        how: from `chosen`.
    """
    mode = None if how.compile == "none" else how.compile
    if how.norm == "native" or mode:
        torch.compiler.reset()
    if how.norm == "native":
        return torch.compile(model, backend=_Joined(mode), dynamic=False)
    return torch.compile(model, mode=mode, dynamic=False) if mode else model


def _joins(
    model: nn.Module,
    mode: CompileMode,
    norm: Norm,
    device: torch.device,
    num_images: int,
    before: Compilation | None,
) -> bool:
    """Whether batch norms are computed by the operator."""
    possible = device.type == "cpu" and native.is_available()
    if norm == "native" and not possible:
        raise SettingError("norm", norm, "needs a CPU and a C++20 compiler; use norm=torch")
    if norm != "auto":
        return norm == "native"
    if before is not None:
        return before.norm == "native" and possible
    pays = mode != "none" and (mode != "auto" or num_images >= _WORTH_JOINING)
    # The norm over several processes is of another class.
    found = any(type(module) is nn.BatchNorm2d for module in model.modules())
    return pays and found and possible


class _Joined:
    """A backend of `torch.compile`: puts operators in place, then has Inductor compile the rest.

    Args:
        mode: of Inductor; None leaves the rest to PyTorch's operations.
    """

    def __init__(self, mode: str | None) -> None:
        self.mode = mode

    def __call__(
        self, module: fx.GraphModule, inputs: Sequence[Any], **_: Any
    ) -> Callable[..., Any]:
        replacements = {
            "batch norm": fusion.fuse_norms,
            "max-pool": fusion.replace_max_pools,
            "depthwise convolution": fusion.replace_depthwise,
        }
        counts = {name: replace(module.graph) for name, replace in replacements.items()}
        module.recompile()
        for name, count in counts.items():
            if count:
                _log.info("%s: %d by the C++ operator", name, count)
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
