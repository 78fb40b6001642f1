"""Run a network's C file, compiled with the system's compiler: in this process, or as a program."""

import ctypes
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from ctypes import c_int, c_void_p
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expanders.errors import SettingError

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

_LIBRARY = """
void predict_every(int step, const uint8_t *pixels, float *logits, int first, int images);

void predict_every(int step, const uint8_t *pixels, float *logits, int first, int images) {
  for (size_t i = (size_t)first; i < (size_t)images; i += (size_t)step)
    predict(pixels + i * NETWORK_HEIGHT * NETWORK_WIDTH * NETWORK_CHANNELS,
            logits + i * NETWORK_CLASSES);
}
"""


class CNetwork:
    """A network's C file, compiled for this machine and loaded into this process.

    >>> expanders.export_network(model, "network.c", size=32, format="c", transform=transform)
    >>> predict = expanders.CNetwork("network.c")
    >>> logits = predict(pixels)

    Of a batch, every thread computes images of its own. Calls from several threads share them. What
    was loaded stays in memory until the process ends.

    Args:
        path: of the file.
        threads: images computed at a time; by default PyTorch's number of threads.
        flags: for the compiler.

    Attributes:
        shape: of an image, (channels, height, width).
        classes: the number of logits.

    Raises:
        SettingError: if the file is not one that `export_network` wrote, or for less than one
            thread.
        OSError: if the file cannot be read, or there is no compiler.
        subprocess.CalledProcessError: if the file does not compile.
    """

    def __init__(
        self, path: str | Path, *, threads: int | None = None, flags: tuple[str, ...] = NATIVE
    ) -> None:
        text = Path(path).expanduser().read_bytes()
        facts = dict(re.findall(rb"^#define NETWORK_(\w+) (\d+)$", text, re.M))
        try:
            channels, height, width = (int(facts[k]) for k in (b"CHANNELS", b"HEIGHT", b"WIDTH"))
            self.classes = int(facts[b"CLASSES"])
        except KeyError:
            remedy = "is no C file of a network; export_network writes them, with format='c'"
            raise SettingError("path", path, remedy) from None
        self.shape = channels, height, width
        self.threads = torch.get_num_threads() if threads is None else threads
        if self.threads < 1:
            raise SettingError("threads", threads, "must be at least 1")
        # Values between layers lie in static memory, so every thread loads a copy of its own.
        self._idle: SimpleQueue[Any] = SimpleQueue()
        with tempfile.TemporaryDirectory() as folder:
            source, library = Path(folder) / "library.c", Path(folder) / "library.so"
            source.write_bytes(text + _LIBRARY.encode())
            _compile((*_compiler(), *flags, "-shared", "-fPIC"), source, library)
            for number in range(self.threads):
                copy = shutil.copy(library, Path(folder) / f"{number}.so")
                predict_every = ctypes.CDLL(str(copy)).predict_every  # stays without its file
                predict_every.argtypes = (c_int, c_void_p, c_void_p, c_int, c_int)
                self._idle.put(partial(predict_every, self.threads))

    def __call__(self, pixels: Tensor) -> Tensor:
        """Logits, float32 (N, classes).

        Args:
            pixels: of 0 to 255, uint8 (N, channels, height, width), on the CPU.

        Raises:
            SettingError: if they have another type or shape.
        """
        wanted = f"expected a tensor, uint8 (N, {', '.join(map(str, self.shape))}), on the CPU"
        if not isinstance(pixels, Tensor):
            raise SettingError("pixels", type(pixels).__name__, wanted)
        given = pixels.device.type, pixels.dtype, pixels.dim(), pixels.shape[1:]
        if given != ("cpu", torch.uint8, 4, self.shape):
            what = f"{pixels.dtype} {tuple(pixels.shape)} on {pixels.device}".removeprefix("torch.")
            raise SettingError("pixels", what, wanted)
        pixels = pixels.permute(0, 2, 3, 1).contiguous()
        logits = torch.empty(len(pixels), self.classes, dtype=torch.float32, device="cpu")

        def compute_from(first: int) -> None:
            predict_every = self._idle.get()
            try:
                predict_every(pixels.data_ptr(), logits.data_ptr(), first, len(pixels))
            finally:  # an interrupt comes when the call returns
                self._idle.put(predict_every)

        if len(pixels) == 1:
            compute_from(0)  # other threads would take longer to start
        else:
            with ThreadPoolExecutor(self.threads) as pool:  # of this call: a fork has no threads
                list(pool.map(compute_from, range(self.threads)))
        return logits


def compiler() -> tuple[str, ...] | None:
    """The C compiler of this machine, `$CC` (it may have arguments) or `cc`; None without one."""
    command = _compiler()
    return command if shutil.which(command[0]) else None


def _compiler() -> tuple[str, ...]:
    return tuple(shlex.split(os.environ.get("CC", ""))) or ("cc",)


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
        _compile(command or (*_compiler(), "-O2"), main, program)
        ran = subprocess.run(
            [*emulator, str(program)], input=pixels, check=True, capture_output=True
        )
    logits = np.frombuffer(ran.stdout, np.float32).reshape(len(images), -1)
    return torch.from_numpy(logits.copy())


def _compile(command: tuple[str, ...], source: Path, target: Path) -> None:
    build = [*command, str(source), "-o", str(target), "-lm"]
    try:
        subprocess.run(build, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        error.add_note(error.stderr)
        raise
