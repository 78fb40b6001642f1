"""What several test modules share."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

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


@pytest.fixture(scope="session")
def fork_server() -> Iterator["subprocess.Popen[str]"]:
    """See `tests.fork_server`."""
    command = [sys.executable, "-m", "tests.fork_server"]
    with subprocess.Popen(
        command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        yield server
        assert server.stdin is not None
        server.stdin.close()


@pytest.fixture
def launch_forked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fork_server: "subprocess.Popen[str]"
) -> Launch:
    """As `launch`, in a process that has imported PyTorch already."""
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))

    def run(*arguments: str, folder: Path = tmp_path) -> "subprocess.CompletedProcess[str]":
        assert fork_server.stdin is not None
        assert fork_server.stdout is not None
        out, err = tmp_path / "forked.out", tmp_path / "forked.err"
        request = {
            "arguments": arguments, "folder": str(folder), "environment": dict(os.environ),
            "out": str(out), "err": str(err),
        }  # fmt: skip
        print(json.dumps(request), file=fork_server.stdin, flush=True)
        code = int(fork_server.stdout.readline())
        return subprocess.CompletedProcess(arguments, code, out.read_text(), err.read_text())

    return run


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
