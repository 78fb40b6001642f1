"""Submitit's launcher for Slurm, made to wait for all jobs also where one is lost."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class PatientSlurmLauncher(Launcher):
    """As `submitit_slurm`, with the same parameters.

    That launcher ends at the first job without a result (cancelled, out of memory), while the
    others still run. This one takes note of the lost job and waits for the rest.
    """

    def __init__(self, **parameters: Any) -> None:
        self.parameters = parameters

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Prepare submitit's launcher, which is imported only where it is used."""
        from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher

        self.launcher = SlurmLauncher(**self.parameters)
        self.launcher.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """One result per run; of a lost job, a failure that tells its state in Slurm."""
        with _lost_jobs_as_failures():
            results: Sequence[JobReturn] = self.launcher.launch(job_overrides, initial_job_idx)
        return results


@contextmanager
def _lost_jobs_as_failures() -> Iterator[None]:
    """Let a job without a result return a failure, instead of raising it.

    There is no option for this, and no method of the launcher between the jobs and their results.
    """
    from submitit.core.utils import UncompletedJobError
    from submitit.slurm.slurm import SlurmJob

    original = SlurmJob.results

    def results(job: Any) -> list[Any]:
        try:
            found: list[Any] = original(job)
        except UncompletedJobError:
            error = RuntimeError(f"Slurm job {job.job_id} ended without a result ({job.state})")
            return [JobReturn(status=JobStatus.FAILED, _return_value=error)]
        return found

    SlurmJob.results = results  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        SlurmJob.results = original  # type: ignore[method-assign]
