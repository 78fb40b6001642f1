"""Start what settings describe: check them, name the run, and have it trained in its folder."""

import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from expanders.errors import SettingError
from expanders.runs import build, dry_run, folders
from expanders.runs.folders import State
from expanders.runs.identity import described
from expanders.runs.lock import LostLockError, locked
from expanders.runs.settings import Instantiate, Node
from expanders.runs.workers import end_with_parent
from expanders.training import processes
from expanders.training.device import choose_device

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
    config, identity, record = described(plain, choices, instantiate)
    if config.dry_run:
        dry_run.check(config, record, folder, instantiate)
        log.info("%-9s  %s%s", folders.state(folder), folder, _remark(folder, config.restart))
        return {}
    if "SLURM_JOB_ID" in os.environ and signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        signal.signal(signal.SIGTERM, wait_to_be_killed)
    rank = processes.local_rank()
    turn = turn if rank is None else rank
    team = processes.join(choose_device(config.device, turn))

    if not team.is_writer:
        logging.disable(logging.WARNING)
    request = build.Request(config, identity, record, folder, turn, team, instantiate)
    with ExitStack() as stack:
        check_lock = _no_lock  # the other processes write nothing

        def check_settings() -> None:
            with _unheard():  # the run itself will say it
                dry_run.check(config, record, folder, instantiate)
            dry_run.forget()

        def opened() -> Node | None:
            nonlocal check_lock
            if folders.state(folder) == State.NEW:  # what cannot begin leaves nothing behind
                check_settings()
            opening = _folder(folder, record, config.restart, check_settings)
            done, check_lock = stack.enter_context(opening)
            return done

        done = team.from_writer(opened)
        if done is not None:
            log.info("Finished before, in %s; restart=true trains again.", folder)
            return done
        if not team.is_writer:
            build.prepare(request, check_lock).follow()
            return {}
        try:
            return build.prepare(request, check_lock).execute()
        except LostLockError:  # the folder is another's now
            raise
        except Exception as error:
            folders.mark_failed(folder, error)
            raise


def _remark(folder: Path, restart: bool) -> str:
    """What a dry run adds to the state of a run."""
    if restart and folders.state(folder) not in (State.NEW, State.RUNNING):
        return "; restart=true would train again"
    reason = folders.failure(folder)
    return f"; tried again, it failed before: {reason}" if reason else ""


@contextmanager
def _unheard() -> Iterator[None]:
    """Log nothing but errors meanwhile."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _no_lock() -> None:
    """There is none to check."""


@contextmanager
def _folder(
    folder: Path, record: Node, restart: bool, check_settings: Callable[[], None]
) -> Iterator[tuple[Node | None, Callable[[], None]]]:
    """Keep all other processes from writing into a run's folder.

    Where a run starts over, `check_settings` raises before its results are removed.

    Yields:
        The summary if the run is done, or None; and what raises if the folder is another's by now.
    """
    run = folders.run_digest(record)
    if not restart and (done := folders.summary(folder, run)):
        yield done, _no_lock  # nothing will be written, perhaps it cannot be
        return
    with locked(folder) as lock, folders.logging_to(folder):
        if restart and not lock.requeued:
            check_settings()
            folders.clear(folder)
        done = folders.summary(folder, run)
        if done is None:
            folders.begin(folder, record)
        yield done, lock.check


def check(plain: Node, choices: Mapping[str, str], folder: Path, instantiate: Instantiate) -> None:
    """Raise the error that would end this run before its first step, if there is one; see `run`."""
    config, _, record = described(plain, choices, instantiate)
    with _unheard():
        dry_run.check(config, record, folder, instantiate)


def objective_of(summary: Node, name: str) -> float:
    """The number of a summary that a sweeper searches by.

    Raises:
        SettingError: if it is not there, as of a loss that is not finite.
    """
    value = summary.get(name)
    if not isinstance(value, int | float):
        raise SettingError("objective", name, "the run's summary has no such number")
    return float(value)


def wait_to_be_killed(signum: int, frame: object) -> None:
    """Do nothing more, after the SIGTERM that Slurm sends to all processes of a job it will end.

    Submitit would have training go on, but without W&B's process, which ends at once. The run would
    fail, and the job have a result, which is then not one that goes back to the queue.
    """
    log.warning("Slurm ends this job; the run can go on from its last checkpoint")
    while True:
        signal.pause()
