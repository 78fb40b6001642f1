"""Run a network's C file: compile it with the system's compiler, as a program that reads pixels."""

import ctypes
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

NATIVE = ("-O3", "-march=native")  # the fastest code for this machine

_MAIN = """
#include "{network}"
#include <stdio.h>

int main(void) {{
  static uint8_t pixels[NETWORK_HEIGHT * NETWORK_WIDTH * NETWORK_CHANNELS];
  float logits[NETWORK_CLASSES];
  while (fread(pixels, sizeof pixels, 1, stdin) == 1) {{
    predict(pixels, logits);
    fwrite(logits, sizeof logits, 1, stdout);
  }}
  return 0;
}}
"""


def compiler() -> str | None:
    """The C compiler of this machine, `$CC` or `cc`; None if there is none."""
    return shutil.which(os.environ.get("CC", "cc"))


def run_c(
    path: Path, images: Tensor, command: tuple[str, ...] = (), emulator: tuple[str, ...] = ()
) -> Tensor:
    """Logits (N, classes) of the network in a C file.

    Args:
        path: of the file.
        images: pixels of 0 to 255, float32 (N, channels, height, width).
        command: compiler and flags; by default the machine's, with `-O2`.
        emulator: what runs the program, if the machine itself cannot.

    Raises:
        OSError: if there is no compiler.
        subprocess.CalledProcessError: if the file does not compile or its program fails.
    """
    pixels = images.permute(0, 2, 3, 1).to(torch.uint8).contiguous().numpy().tobytes()
    with tempfile.TemporaryDirectory() as folder:
        main, program = Path(folder) / "main.c", Path(folder) / "main"
        main.write_text(_MAIN.format(network=path.resolve()))
        build = [*(command or (compiler() or "cc", "-O2")), str(main), "-o", str(program), "-lm"]
        subprocess.run(build, check=True, capture_output=True, text=True)
        ran = subprocess.run(
            [*emulator, str(program)], input=pixels, check=True, capture_output=True
        )
    logits = np.frombuffer(ran.stdout, np.float32).reshape(len(images), -1)
    return torch.from_numpy(logits.copy())


def c_function(
    path: Path, flags: tuple[str, ...]
) -> Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]:
    """`predict` of a C file, compiled with these flags and loaded into this process.

    Returns:
        From pixels of 0 to 255, uint8 (height, width, channels), to logits (1, classes).

    Raises:
        OSError: if there is no compiler.
        subprocess.CalledProcessError: if the file does not compile.
    """
    (num_classes,) = re.findall(r"^#define NETWORK_CLASSES (\d+)$", path.read_text(), re.M)
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "network.so"
        build = [
            compiler() or "cc",
            *flags,
            "-shared",
            "-fPIC",
            str(path),
            "-o",
            str(library),
            "-lm",
        ]
        subprocess.run(build, check=True, capture_output=True, text=True)
        predict = ctypes.CDLL(str(library)).predict  # it stays loaded without its file
    logits = np.zeros((1, int(num_classes)), np.float32)

    def run(pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        predict(ctypes.c_void_p(pixels.ctypes.data), ctypes.c_void_p(logits.ctypes.data))
        return logits

    return run
