"""What a run came to, as bits that can be compared, and how to interrupt one."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from expanders.files import read_sealed
from expanders.runs.folders import METRICS_DIGEST
from tests.conftest import ROOT

TIMES = {
    *("seconds", "images_per_second", "first_step_seconds", "wiring_seconds"),
    *("peak_memory_bytes", "computed_by", METRICS_DIGEST),
}


def outcome(folder: Path) -> dict[str, str]:
    """A digest of each of a run's results, without times and memory."""
    last = torch.load(folder / "last.pt", weights_only=True)
    best = torch.load(folder / "best.pt", weights_only=True)
    texts = {
        "weights": last["state"],
        "best weights": best["state"],
        "optimizer": last["training"]["optimizer"],
        "schedule": last["training"]["schedule"],
        "metrics": [without_times(row) for row in metrics(folder)],
        "summary": without_times(read_sealed(folder / "summary.json")),
        "graphs": json.loads((folder / "graph.json").read_text()),
    }
    return {name: _digest(content) for name, content in texts.items()}


def outcomes(runs: Path) -> dict[str, dict[str, str]]:
    """The outcomes of all runs that are done in a folder of runs."""
    return {path.parent.name: outcome(path.parent) for path in runs.glob("*/summary.json")}


def metrics(folder: Path) -> list[dict[str, object]]:
    """The rows of a run's metrics file; none if there is no file."""
    path = folder / "metrics.jsonl"
    return [json.loads(row) for row in path.read_text().splitlines()] if path.exists() else []


def without_times(row):
    return {name: value for name, value in row.items() if name not in TIMES}


def _digest(content) -> str:
    """Of nested containers; of tensors by their bits."""

    def plain(value):
        if isinstance(value, torch.Tensor):
            bits = value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
            return [str(value.dtype), list(value.shape), hashlib.sha256(bits).hexdigest()]
        if isinstance(value, dict):
            return [[plain(key), plain(item)] for key, item in value.items()]
        return [plain(item) for item in value] if isinstance(value, list | tuple) else repr(value)

    return hashlib.sha256(json.dumps(plain(content)).encode()).hexdigest()


@contextmanager
def started(folder: Path, *arguments: str, environment: Mapping[str, str] = os.environ):
    """launch.py in a process group of its own, killed at the end with all its workers.

    What it prints lies in `started.log`. It is not told of W&B's service in this process, where
    the runs of a killed one would go on.
    """
    environment = {k: v for k, v in environment.items() if not k.startswith("WANDB")}
    with (folder / "started.log").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "launch.py"), *arguments],
            cwd=folder, env=environment, stdout=output, stderr=output, process_group=0,
        )  # fmt: skip
    try:
        yield process
    finally:
        kill_group(process)


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    """SIGKILL, to a process and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for(condition: Callable[[], object], what: str, seconds: float = 400) -> None:
    """Look every now and then; too long a wait is a failure of the test."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.1)
