"""A sweep on a real Slurm: started, requeued, cancelled, continued."""

import os
import re

import pytest

from tests.conftest import ROOT
from tests.outcomes import metrics, outcomes, started, wait_for
from tests.sweeps.slurm_cluster import cluster, missing

SWEEP = (
    *("-cd", str(ROOT / "sweeps"), "-cn", "smoke", "model=resnet32", "degree.value=3"),
    *("dataset.source.num_images=200", "epochs=20", "num_threads=1", "wandb.mode=offline"),
    "checkpoint_minutes=0.01",
)
ON_SLURM = (
    *("hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.gpus_per_node=0"),
    "hydra.launcher.mem_gb=1",
)


def slurm_job(folder):
    """The job that trains in a folder."""
    named = re.search(r"Slurm job (\S+)\)", (folder / "lock").read_text())
    return named[1]


def in_training(runs):
    """The folders of the runs that are beyond their first epoch and not done."""
    folders = [path.parent for path in runs.glob("*/metrics.jsonl")]
    return [f for f in folders if len(metrics(f)) > 1 and not (f / "summary.json").exists()]


@pytest.mark.slurm
@pytest.mark.skipif(bool(missing()), reason=f"Slurm is {missing()}")
def test_a_sweep_outlives_requeue_preemption_and_a_cancelled_job(tmp_path):
    """The smoke sweep, narrowed to four runs, on two nodes; three are interrupted in training."""
    for name in ("undisturbed", "work"):
        (tmp_path / name).mkdir()
    work = tmp_path / "work"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    with cluster(tmp_path / "slurm", environment) as slurm:
        with started(work, *SWEEP, *ON_SLURM, environment=slurm.environment) as sweep:
            log = work / "started.log"
            wait_for(
                lambda: sweep.poll() is not None or len(in_training(work / "runs")) >= 2, "jobs"
            )
            assert sweep.poll() is None, log.read_text()
            cancelled, requeued = sorted(in_training(work / "runs"), key=slurm_job)[:2]
            slurm.run("scontrol", "requeue", slurm_job(requeued))
            lost = slurm_job(cancelled)
            slurm.run("scancel", lost)
            done = len(metrics(requeued))
            wait_for(lambda: len(in_training(work / "runs")) >= 3, "a third job in training", 100)
            slurm.run("sbatch", "--partition=urgent", "--nodes=2", "--output=/dev/null", "--wrap=:")
            wait_for(lambda: sweep.poll() is not None, "the end of the sweep")
            restarts = re.findall(r"Restarts=(\d)", slurm.run("scontrol", "show", "job"))
            assert sum(map(int, restarts)) >= 2, "one requeued, one or two preempted"
        assert sweep.returncode == 1
        assert "error: 1 of 4 runs are not done; the same command tries them" in log.read_text()
        assert f"Slurm job {lost} ended without a result (CANCELLED)" in log.read_text()
        assert set(outcomes(work / "runs")) == {
            path.name for path in (work / "runs").iterdir() if path.is_dir()
        } - {cancelled.name, ".submitit"}
        assert "Continuing after" in (requeued / "run.log").read_text()
        assert len(metrics(requeued)) == 20 > done

        with started(work, *SWEEP, *ON_SLURM, environment=slurm.environment) as sweep:
            wait_for(lambda: sweep.poll() is not None, "the end of the second sweep")
        assert sweep.returncode == 0, log.read_text()
        assert "4 runs: 1 to resume, 3 done" in log.read_text()
        assert "Continuing after" in (cancelled / "run.log").read_text()

    with started(tmp_path / "undisturbed", *SWEEP[:-1], "hydra/launcher=local") as sweep:
        wait_for(lambda: sweep.poll() is not None, "the undisturbed sweep")
    assert outcomes(work / "runs") == outcomes(tmp_path / "undisturbed" / "runs")
