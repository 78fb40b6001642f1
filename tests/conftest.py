"""What several test modules share."""

import logging
import os
import runpy
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

# Tests run side by side; one thread each. Read when NumPy and PyTorch are first imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The compiled operator is kept here also where a test has a home of its own.
os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(Path.home() / ".cache" / "torch_extensions"))

ROOT = Path(__file__).parent.parent

Launch = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    """Run launch.py as a user does: a process of its own, in another folder, not logged in."""

    def run(*arguments: str, script: str = "launch.py") -> "subprocess.CompletedProcess[str]":
        environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
        environment |= {"HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
        return subprocess.run(
            [sys.executable, str(ROOT / script), *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    return run


@pytest.fixture
def launch_forked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
    """As `launch`, in a fork of this process: PyTorch, which takes seconds, is imported already."""
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))

    def run(*arguments: str, folder: Path = tmp_path) -> "subprocess.CompletedProcess[str]":
        out, err = tmp_path / "forked.out", tmp_path / "forked.err"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python 3.12 warns of forks where there are threads
            child = os.fork()
        if child == 0:
            _become_launcher(arguments, folder, out, err)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return subprocess.CompletedProcess(arguments, code, out.read_text(), err.read_text())

    return run


def _become_launcher(arguments: Sequence[str], folder: Path, out: Path, err: Path) -> NoReturn:
    """Run launch.py's main in this process, which ends with it."""
    code = 1
    try:
        for path, descriptor in ((out, 1), (err, 2)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        os.chdir(folder)
        sys.argv = [str(ROOT / "launch.py"), *arguments]
        warnings.simplefilter("default")
        logging.getLogger().handlers.clear()
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@pytest.fixture(scope="session")
def few_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 2 classes, 12 training and 4 test JPEGs of 32x32 pixels."""
    import numpy as np
    from PIL import Image

    root = tmp_path_factory.mktemp("few") / "images"
    rng = np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 2)):
        for label, brightness in (("dark", 60), ("light", 190)):
            folder = root / part / label
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(brightness - 50, brightness + 50, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.jpg")
    return root
