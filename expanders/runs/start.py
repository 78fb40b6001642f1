"""Start what settings describe: check them, name the run, and have it trained in its folder."""

import logging
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

from expanders.errors import SettingError
from expanders.runs import build, dry_run, folders
from expanders.runs.computed import with_computed
from expanders.runs.identity import Identity, identity_of, used_settings
from expanders.runs.lock import LostLockError, locked
from expanders.runs.run import Run
from expanders.runs.settings import Config, Instantiate, Node, checked
from expanders.runs.workers import end_with_parent
from expanders.training import processes
from expanders.training.device import choose_device
from expanders.training.processes import Team

log = logging.getLogger(__name__)


def run(
    plain: Node,
    choices: Mapping[str, str],
    folder: Path,
    instantiate: Instantiate,
    turn: int = 0,
) -> Node:
    """Build what the settings describe, train it, and return its summary.

    A run that finished in `folder` before is not run again; one that was cut off continues.

    Args:
        plain: all settings, in plain containers.
        choices: the chosen option of every group.
        folder: of the run; it exists.
        instantiate: builds what a node describes.
        turn: the run's number in a sweep.
    """
    end_with_parent()
    config, identity, record = _described(plain, choices, instantiate)
    if config.dry_run:
        dry_run.check(config, record, folder, instantiate)
        log.info("%-9s  %s", folders.state(folder), folder)
        return {}
    if "SLURM_JOB_ID" in os.environ and signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        signal.signal(signal.SIGTERM, wait_to_be_killed)
    rank = processes.local_rank()
    turn = turn if rank is None else rank
    team = processes.join(choose_device(config.device, turn))

    def ready(check: Callable[[], None] = lambda: None) -> Run:
        return build.prepare(config, identity, record, folder, turn, team, instantiate, check)

    if team.is_writer:
        return _write(config, record, folder, team, ready)
    logging.disable(logging.WARNING)
    if not team.from_writer(lambda: False):
        ready().follow()
    return {}


def check(plain: Node, choices: Mapping[str, str], folder: Path, instantiate: Instantiate) -> None:
    """Raise the error that would end this run before its first step, if there is one; see `run`."""
    config, _, record = _described(plain, choices, instantiate)
    dry_run.check(config, record, folder, instantiate)


def _described(
    plain: Node, choices: Mapping[str, str], instantiate: Instantiate
) -> tuple[Config, Identity, Node]:
    """The checked settings of a run, what defines it, and what its config.json says."""
    plain = with_computed(plain, choices, instantiate)
    config = checked(plain)
    used = used_settings(plain, choices)
    identity = identity_of(used)
    return config, identity, used | {"definition": identity.definition}


def objective_of(summary: Node, name: str) -> float:
    """The number of a summary that a sweeper searches by.

    Raises:
        SettingError: if it is not there, as of a loss that is not finite.
    """
    value = summary.get(name)
    if not isinstance(value, int | float):
        raise SettingError("objective", name, "the run's summary has no such number")
    return float(value)


def _write(
    config: Config,
    record: Node,
    folder: Path,
    team: Team,
    ready: Callable[[Callable[[], None]], Run],
) -> Node:
    """The part of the process that writes into the folder, which no other may meanwhile."""
    run = folders.run_digest(record)
    if not config.restart and (done := folders.summary(folder, run)):
        return _finished_before(folder, done, team)
    with locked(folder) as lock, folders.logging_to(folder):
        if config.restart and not lock.requeued:
            folders.clear(folder)
        if done := folders.summary(folder, run):
            return _finished_before(folder, done, team)
        folders.begin(folder, record)
        try:
            team.from_writer(lambda: False)
            return ready(lock.check).execute()
        except LostLockError:  # the folder is another's now
            raise
        except Exception as error:
            folders.mark_failed(folder, error)
            raise


def _finished_before(folder: Path, done: Node, team: Team) -> Node:
    """Tell the user, and the other processes."""
    log.info("Finished before, in %s; restart=true trains again.", folder)
    team.from_writer(lambda: True)
    return done


def wait_to_be_killed(signum: int, frame: object) -> None:
    """Do nothing more, after the SIGTERM that Slurm sends to all processes of a job it will end.

    Submitit would have training go on, but without W&B's process, which ends at once. The run would
    fail, and the job have a result, which is then not one that goes back to the queue.
    """
    log.warning("Slurm ends this job; the run can go on from its last checkpoint")
    while True:
        signal.pause()
