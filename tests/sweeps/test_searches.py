"""Sweepers that search, as docs/sweeps.md shows them."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest
import yaml

from tests.conftest import ROOT

DOCS = (ROOT / "docs" / "sweeps.md").read_text()
SMALL = ("model=resnet32", "epochs=1", "batch_size=32", "dataset.source.num_images=100")


@pytest.fixture
def launch_here(tmp_path, monkeypatch):
    """As `launch`, but W&B's variables that a test sets arrive."""
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))

    def run(*arguments, folder=tmp_path):
        command = [sys.executable, str(ROOT / "launch.py"), *arguments]
        return subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=600, check=False
        )

    return run


def test_optuna_searches_for_the_best_learning_rate(launch_here, tmp_path):
    pytest.importorskip("optuna")
    (shown,) = re.findall(r"python launch.py (-m hydra/sweeper=optuna.*?)```", DOCS, re.DOTALL)
    arguments = [word for word in shlex.split(shown.replace("\\\n", " ")) if "n_trials" not in word]
    result = launch_here(*arguments, "hydra.sweeper.n_trials=2", "wandb.mode=disabled", *SMALL)
    assert result.returncode == 0, result.stderr
    found = yaml.safe_load((tmp_path / "runs/optimization_results.yaml").read_text())
    done = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/summary.json")]
    assert len(done) == 2
    assert found["best_value"] == max(summary["val/accuracy"] for summary in done)
    assert 0.003 <= found["best_params"]["optimizer.lr"] <= 0.3


def test_the_command_that_an_agent_of_wandb_runs(launch_here, tmp_path, monkeypatch):
    (shown,) = re.findall(r"```yaml\n(program: launch.py.*?)```", DOCS, re.DOTALL)
    sweep = yaml.safe_load(shown)
    assert sweep["command"][2:] == ["${program}", "${args_no_hyphens}"]
    chosen = {"optimizer.lr": 0.01, "graph": sweep["parameters"]["graph"]["values"][1]}
    assert chosen.keys() == sweep["parameters"].keys()
    for name, value in {"SWEEP_ID": "s", "RUN_ID": "agents", "MODE": "offline"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    result = launch_here(*(f"{key}={value}" for key, value in chosen.items()), *SMALL)
    assert result.returncode == 0, result.stderr
    (folder,) = (path for path in tmp_path.glob("runs/*-xnet-*"))
    assert list(folder.glob("wandb/offline-run-*-agents"))


def test_a_sweep_prints_one_line_a_run_and_epoch(launch_here):
    result = launch_here("-m", "seed=0,1", "wandb.mode=disabled", *SMALL)
    assert result.returncode == 0, result.stderr
    for seed in (0, 1):
        lines = [row for row in result.stdout.splitlines() if f"rreg-d3-s{seed}-" in row]
        epochs = [row for row in lines if "epoch 1/1" in row]
        assert len(epochs) == 1
        assert sum("done, test accuracy" in row for row in lines) == 1
    assert "blocks.0.conv1" not in result.stdout


def test_the_folder_of_the_command_may_have_any_name(launch_here, tmp_path, monkeypatch):
    odd = tmp_path / "a${z}b"
    odd.mkdir()
    result = launch_here(
        "epochs=0", "model=resnet32", "dataset.source.num_images=100", "dry_run=true", folder=odd
    )
    assert result.returncode == 0, result.stderr
