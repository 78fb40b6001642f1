"""On what and how a process computes: device, arithmetic, memory."""

import contextlib
import ctypes
from typing import Literal

import torch

from expanders.errors import SettingError

Precision = Literal["auto", "fp32", "tf32", "bf16"]


def choose_device(name: str, turn: int = 0) -> torch.device:
    """The device that the user named, if it is there.

    `cuda` is a GPU, of several the one whose turn it is; `auto` that, or else the CPU.
    """
    gpus = torch.cuda.device_count()
    if name in ("auto", "cuda") and gpus:
        return torch.device("cuda", turn % gpus)
    if name == "auto":
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise SettingError("device", name, "must be auto, cpu, cuda or cuda:NUMBER") from None
    if device.type not in ("cpu", "cuda"):
        raise SettingError("device", name, "must be auto, cpu, cuda or cuda:NUMBER")
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise SettingError("device", name, "there is no such GPU here; use device=cpu or auto")
    return device


def chosen_precision(precision: Precision, device: torch.device) -> Precision:
    """The precision, where `auto` is tf32 on a GPU and fp32 on a CPU."""
    if precision == "auto":
        return "tf32" if device.type == "cuda" else "fp32"
    return precision


def set_arithmetic(precision: Precision, device: torch.device) -> None:
    """Allow or forbid tf32 on GPUs, for the whole process. Only a program's start should call it.

    PyTorch's own default is tf32 for convolutions and float32 for matrix products.
    """
    tf32 = chosen_precision(precision, device) == "tf32" and device.type == "cuda"
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h


def keep_freed_memory() -> None:
    """Have this process keep the memory that it frees; for whole programs, not for libraries.

    By default, the GNU C library gives large blocks back to the system. Each training step then
    gets its activations as new pages, and faulting them in takes time: a ReLU of 33 MB took 8.5 ms
    instead of 1.2 ms, a whole step of vgg16bn 5 % longer. Elsewhere this does nothing.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)
