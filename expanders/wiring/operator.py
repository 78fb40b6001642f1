"""How sparse layers compute: over their edges, or as the framework's dense operation.

Both give the same numbers to rounding. *Dense* scatters the live weights into a dense kernel.
*Sparse* runs `csrc/sparse_conv2d.cpp`, whose work and memory grow with the number of edges; it is
compiled at first use, needs a C++20 compiler with OpenMP, and runs on the CPU in float32 and
float64. Where there is none, the dense path computes everything and one warning says so. *Auto*
takes the path that was measured to be faster.
"""

import hashlib
import logging
import math
import os
import platform
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from expanders.errors import SettingError

Execution = Literal["auto", "dense", "sparse"]

_log = logging.getLogger(__name__)
_SOURCE = Path(__file__).parent / "csrc" / "sparse_conv2d.cpp"


def choose(
    execution: Execution, density: float, x: Tensor, weight: Tensor, stride: Sequence[int] = (1, 1)
) -> Literal["dense", "sparse"]:
    """The path on which a layer computes.

    Args:
        execution: what the layer asks for; "auto" leaves it to `is_faster_sparse`.
        density: share of the possible edges that exist.
        x: input of the layer.
        weight: live weights, (num_edges, *kernel_size).
        stride: vertical and horizontal, in pixels.

    Raises:
        SettingError: if `execution` is none of the three.
    """
    if execution not in ("auto", "dense", "sparse"):
        raise SettingError("execution", execution, "must be auto, dense or sparse")
    if execution == "dense" or not _is_supported(x, weight):
        return "dense"
    if execution == "auto" and not is_faster_sparse(density, weight.shape[1:], stride):
        return "dense"
    return "sparse" if is_available() else "dense"


def is_faster_sparse(
    density: float, kernel_size: Sequence[int], stride: Sequence[int] = (1, 1)
) -> bool:
    """Whether the sparse path is the faster one on a CPU, forward and backward together.

    The densities of equal speed, measured in float32 with AVX-512 against the better of oneDNN's
    contiguous and channels-last convolutions (64 to 512 channels, planes of 2x2 to 32x32 pixels):
    3x3 with stride 1: 0.3 to 0.5; with stride 2: 0.1 to 0.35; 1x1: 0.1 to 0.25. An input row that
    was loaded serves three kernel rows in the first case, and one in the others.
    """
    if math.prod(kernel_size) > 1 and math.prod(stride) == 1:
        return density <= 0.3
    return density <= 0.15


def _is_supported(x: Tensor, weight: Tensor) -> bool:
    """Whether there is a sparse operator for these tensors.

    Under autocast it computes in the weights' float32, whatever type its neighbours computed in.
    """
    return (
        x.device.type == weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.float64)
        and (x.dtype == weight.dtype or torch.is_autocast_enabled("cpu"))
    )


def conv2d(
    x: Tensor,
    weight: Tensor,
    edges: Tensor,
    num_right: int,
    stride: Sequence[int] = (1, 1),
    margins: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
) -> Tensor:
    """Convolution over edges only; differentiable in `x` and `weight`, once.

    Args:
        x: images, (N, num_left, H, W).
        weight: one kernel per edge, (num_edges, kh, kw).
        edges: int64, (2, num_edges), sorted by output, then by input channel.
        num_right: number of output channels.
        stride, dilation: vertical and horizontal, in pixels.
        margins: columns and rows of zeros to add: left, right, top, bottom.

    Returns:
        Contiguous images (N, num_right, H', W'), of the type of `weight`.

    Raises:
        RuntimeError: if the operator could not be built (see `is_available`), or on wrong shapes.
    """
    y: Tensor = torch.ops.expanders.sparse_conv2d(
        x.to(weight.dtype), weight, edges, num_right, stride, margins, dilation
    )
    return y


# ---------------------------------------------------------------------------- building the operator


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def is_available() -> bool:
    """Build and load the operator, unless that was done before; False where it is impossible."""
    with _lock:
        if not _outcome:
            try:
                torch.ops.load_library(str(_library()))  # type: ignore[no-untyped-call]
                _register_derivatives()
                _outcome.append(True)
            except (OSError, subprocess.CalledProcessError) as error:
                lines = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
                _log.warning(
                    "sparse layers compute densely, which is slower: "
                    "the sparse operator cannot be built (%s)",
                    next((line for line in lines if "error" in line), lines[0]),
                )
                _outcome.append(False)
        return _outcome[0]


_lock = threading.Lock()
_outcome: list[bool] = []


def _library() -> Path:
    """The compiled operator in the user's cache; made now if it does not exist.

    Its name is a hash of all that it depends on. It appears in the cache in one step, so that
    several processes can build at the same time.
    """
    compiler = os.environ.get("CXX", "c++")
    torch_root = Path(torch.__file__).parent
    command = [
        compiler,
        *("-std=c++20", "-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fPIC", "-shared"),
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
        *(f"-I{torch_root / 'include' / path}" for path in (".", "torch/csrc/api/include")),
        f"-L{torch_root / 'lib'}",
        str(_SOURCE),
        *("-ltorch_cpu", "-lc10"),
    ]
    version = subprocess.run([compiler, "--version"], check=True, capture_output=True, text=True)
    texts = [path.read_text() for path in sorted(_SOURCE.parent.glob("*.[ch]*"))]
    facts = [*command, version.stdout, torch.__version__, _processor(), *texts]
    key = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
    root = os.environ.get("TORCH_EXTENSIONS_DIR", Path.home() / ".cache" / "torch_extensions")
    library = Path(root) / "expanders" / f"{_SOURCE.stem}_{key}.so"
    if not library.exists():
        _log.info("compiling %s, once for this machine", _SOURCE.name)
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            built = Path(folder) / library.name
            subprocess.run([*command, "-o", built], check=True, capture_output=True, text=True)
            built.replace(library)
    return library


def _processor() -> str:
    """What distinguishes processors that need different machine code."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = [line for line in lines if line.startswith(("flags", "Features"))]
    return flags[0] if flags else f"{platform.machine()} {platform.processor()}"


# ---------------------------------------------------------------------------- autograd and tracing


def _register_derivatives() -> None:
    torch.library.register_fake("expanders::sparse_conv2d", _fake_forward)
    torch.library.register_fake("expanders::sparse_conv2d_backward", _fake_backward)
    torch.library.register_autograd(
        "expanders::sparse_conv2d", _backward, setup_context=_setup_context
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, edges, _, *ctx.geometry = inputs
    ctx.save_for_backward(x, weight, edges)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, edges = ctx.saved_tensors
    need_x, need_weight = ctx.needs_input_grad[:2]
    x_grad, weight_grad = torch.ops.expanders.sparse_conv2d_backward(
        grad, x, weight, edges, *ctx.geometry, need_x, need_weight
    )
    unused = (None,) * 5
    return (x_grad if need_x else None, weight_grad if need_weight else None, *unused)


def _fake_forward(
    x: Tensor,
    weight: Tensor,
    edges: Tensor,
    num_right: int,
    stride: Sequence[int],
    margins: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    left, right, top, bottom = margins
    height = (x.shape[2] + top + bottom - dilation[0] * (weight.shape[1] - 1) - 1) // stride[0] + 1
    width = (x.shape[3] + left + right - dilation[1] * (weight.shape[2] - 1) - 1) // stride[1] + 1
    return x.new_empty(x.shape[0], num_right, height, width)


def _fake_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    edges: Tensor,
    stride: Sequence[int],
    margins: Sequence[int],
    dilation: Sequence[int],
    need_x: bool,
    need_weight: bool,
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape if need_x else 0), weight.new_empty(
        weight.shape if need_weight else 0
    )
