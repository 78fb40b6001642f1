"""The library of C++ operators: all of `csrc/*.cpp`, compiled at first use and kept in a cache.

It needs a C++20 compiler with OpenMP. Where there is none, `is_available` is False and one warning
says so; who uses the operators then computes with PyTorch's own.
"""

import hashlib
import logging
import os
import platform
import subprocess
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd import forward_ad

from expanders.wiring.derivatives import is_transformed

_log = logging.getLogger(__name__)
_SOURCES = Path(__file__).parent / "csrc"
_lock = threading.Lock()
_outcome: list[bool] = []
_registrations: list[Callable[[], None]] = []


def when_loaded(register: Callable[[], None]) -> Callable[[], None]:
    """Have `is_available` call `register` once the operators exist, to add their derivatives."""
    _registrations.append(register)
    return register


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def is_available() -> bool:
    """Build and load the operators, unless that was done before; False where it is impossible."""
    with _lock:
        if not _outcome:
            try:
                torch.ops.load_library(str(library()))  # type: ignore[no-untyped-call]
                _outcome.append(True)
            except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
                lines = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
                _log.warning(
                    "sparse layers compute densely, which is slower: "
                    "the C++ operators cannot be built (%s)",
                    next((line for line in lines if "error" in line), lines[0]),
                )
                _outcome.append(False)
        while _outcome[0] and _registrations:
            _registrations.pop()()
        return _outcome[0]


def takes(x: Tensor) -> bool:
    """Whether `x` is contiguous images (N, C, H, W) of the CPU that operators can compute on.

    Forward-mode derivatives and `torch.func` are left to PyTorch's own operations.
    """
    return (
        x.ndim == 4
        and x.numel() > 0
        and x.is_contiguous()
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and forward_ad._current_level < 0
        and not is_transformed()
        and is_available()
    )


def library() -> Path:
    """The compiled library in the user's cache; made now if it does not exist.

    Its name is a hash of all that it depends on. It appears in the cache in one step, so that
    several processes can build at the same time.

    Raises:
        OSError: if there is no compiler, or the cache cannot be written.
        RuntimeError: if the user has no home folder, and no other place for the cache is chosen.
        CalledProcessError: if the compiler fails; `stderr` has its words.
    """
    compiler = os.environ.get("CXX", "c++")
    torch_root = Path(torch.__file__).parent
    options = "-std=c++20 -O3 -march=native -fopenmp -fno-math-errno -fPIC"
    compile_command = [
        compiler,
        *options.split(),
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
        *(f"-I{torch_root / 'include' / path}" for path in (".", "torch/csrc/api/include")),
    ]
    link_command = [compiler, "-shared", "-fopenmp", f"-L{torch_root / 'lib'}"]
    version = subprocess.run([compiler, "--version"], check=True, capture_output=True, text=True)
    texts = [path.read_text() for path in sorted(_SOURCES.glob("*.[ch]*"))]
    facts = [*compile_command, *link_command, version.stdout, torch.__version__, _processor()]
    key = hashlib.sha256("\n".join([*facts, *texts]).encode()).hexdigest()[:16]
    chosen = os.environ.get("TORCH_EXTENSIONS_DIR")
    root = Path.home() / ".cache" / "torch_extensions" if chosen is None else chosen
    target = Path(root) / "expanders" / f"operators_{key}.so"
    if not target.exists():
        _log.info("compiling the operators, once for this machine: about a minute")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            built = Path(folder) / target.name
            with ThreadPoolExecutor() as pool:
                compile_one = partial(_compiled, compile_command, Path(folder))
                objects = list(pool.map(compile_one, sorted(_SOURCES.glob("*.cpp"))))
            _run([*link_command, *objects, "-ltorch_cpu", "-lc10", "-o", built])
            built.replace(target)
    return target


def _compiled(command: list[str], folder: Path, source: Path) -> Path:
    """The object file of one source."""
    target = folder / f"{source.stem}.o"
    _run([*command, "-c", source, "-o", target])
    return target


def _run(command: list[str | Path]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def _processor() -> str:
    """What distinguishes processors that need different machine code."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = [line for line in lines if line.startswith(("flags", "Features"))]
    return flags[0] if flags else f"{platform.machine()} {platform.processor()}"
