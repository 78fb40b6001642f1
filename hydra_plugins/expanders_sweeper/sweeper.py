"""A sweep over a union of grids, which knows what is done and says what is not."""

import logging
import os
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf

from expanders.errors import SettingError, one_line
from expanders.runs import folders
from expanders.runs.folders import State
from expanders.runs.lock import owner
from hydra_plugins.expanders_sweeper.naming import (
    degree_as_value,
    instantiate,
    resolved,
    run_name,
    with_recipe,
)

log = logging.getLogger(__name__)

_UNTOLD = ("dry_run", "runs_dir")  # in the list of runs, whose folders tell them


class SweepError(HydraException):
    """The sweep cannot start, or some of its runs did not end well."""


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep: its overrides, and the folder that they lead to."""

    overrides: tuple[str, ...]
    folder: Path
    problem: str = ""  # found by a dry run

    @property
    def state(self) -> State:
        """Where the run stands now."""
        return folders.state(self.folder)

    def own(self, shared: Container[str]) -> str:
        """The overrides that not all runs share, as on the command line."""
        return " ".join(each for each in self.overrides if each not in shared)


class GridSweeper(BasicSweeper):
    """Runs every run of every grid once.

    A grid is a mapping from keys to values with commas, as on the command line; the command line's
    own axes are added to every grid and win over it; `grids=None` leaves all to them. Runs of the
    same settings are one run.
    Runs that are finished, or that another command is training, are skipped, the others are
    started; runs that fail do not stop the rest.
    """

    def __init__(
        self,
        grids: Sequence[dict[str, Any]] | None,
        max_batch_size: int | None,
        params: Any = None,
    ) -> None:
        _check_size(max_batch_size)
        super().__init__(max_batch_size, params)
        self.grids = _checked([{}] if grids is None else grids)
        self.params = dict(self.params)

    def sweep(self, arguments: list[str]) -> Any:
        """Start all runs that are not done, `max_batch_size` at a time, and wait for them.

        Raises:
            SweepError: under `torchrun`, without runs, if two runs share a folder, or if runs
                are not done at the end; they are then listed with the reasons.
        """
        assert self.launcher is not None
        if "LOCAL_RANK" in os.environ:
            raise SweepError("torchrun trains one run, not a sweep: leave out torchrun, or -m")
        runs, dry_run, restart = self._runs(arguments)
        skipped = {State.RUNNING} if restart else {State.RUNNING, State.DONE}
        to_do = [run for run in runs if run.state not in skipped]
        before = {run.folder: folders.finish(run.folder) for run in to_do}
        self._announce(runs, restart)
        if dry_run:
            self._conclude_dry_run(runs)
            return []
        results: list[JobReturn] = []
        overrides = [list(run.overrides) for run in to_do]
        try:
            size = self.max_batch_size or max(1, len(overrides))
            for batch in self.split_overrides_to_chunks(overrides, size):
                results.extend(self.launcher.launch(batch, initial_job_idx=len(results)))
        except Exception as error:  # a worker that was killed; the folders tell what is missing
            log.error("The launcher stopped: %s", error)
        errors = {
            run.folder: one_line(result._return_value)
            for run, result in zip(to_do, results, strict=False)
            if result.status == JobStatus.FAILED
        }
        # The folders tell: a job that was sent back to the queue may end well the second time.
        done = {run.folder for run in runs if run.state == State.DONE}
        if restart:  # a summary may be the old one
            done -= {folder for folder, old in before.items() if folders.finish(folder) == old}
        self._conclude(runs, done, errors, restart)
        return results

    def _runs(self, arguments: list[str]) -> tuple[list[SweepRun], bool, bool]:
        """All runs, once each; and whether `dry_run` and `restart` are set."""
        assert self.hydra_context is not None
        assert self.config is not None
        loader = self.hydra_context.config_loader
        parser = OverridesParser.create(config_loader=loader)
        _check_no_axis_is_lost(parser.parse_overrides(arguments))
        runs: dict[str, SweepRun] = {}
        dry_run = restart = False
        for grid in self.grids:
            own = [f"{key}={_commas(value)}" for key, value in {**self.params, **grid}.items()]
            axes = _without_degree(map(degree_as_value, own), arguments)
            overrides = parser.parse_overrides([*axes, *arguments])
            try:
                combinations = self.split_arguments(overrides, None)[0]
            except ValueError as error:  # as of range(0,3,0)
                raise SweepError(f"the values of an axis cannot be listed: {error}") from None
            for chosen in map(with_recipe, combinations):
                cfg = loader.load_sweep_config(self.config, chosen)
                OmegaConf.update(cfg, "hydra.job.num", len(runs), force_add=True)
                folder = Path(cfg.hydra.sweep.dir) / cfg.hydra.sweep.subdir
                dry_run, restart = bool(cfg.dry_run), bool(cfg.restart)
                if (name := run_name(_root_=cfg)) not in runs:
                    problem = _problem(cfg, folder) if dry_run else ""
                    runs[name] = SweepRun(tuple(chosen), folder, problem)
        shared = Counter(run.folder for run in runs.values()).most_common(1)
        if not shared:
            remedy = "give hydra.sweeper.grids a grid, and every axis a value"
            raise SweepError(f"the sweep has no runs: {remedy}")
        if shared[0][1] > 1:
            remedy = "leave hydra.sweep.subdir as it is, or name every axis in it"
            raise SweepError(f"{shared[0][1]} runs share the folder {shared[0][0]}: {remedy}")
        return list(runs.values()), dry_run, restart

    @staticmethod
    def _announce(runs: Sequence[SweepRun], restart: bool) -> None:
        """List the runs with their states, and count them; what all share is said once."""
        states = Counter(run.state for run in runs)
        shared = _shared(runs)
        if told := [each for each in shared if each.partition("=")[0] not in _UNTOLD]:
            log.info("all runs:  %s", " ".join(told))
        for run in runs:
            log.info("%-9s  %s  %s", run.state, run.folder, run.own(shared))
        counts = ", ".join(f"{states[state]} {state}" for state in State if states[state])
        over = restart and states[State.DONE]
        again = "; those that are done are trained again (restart=true)" if over else ""
        log.info("%s: %s%s", _counted(runs), counts, again)

    @staticmethod
    def _conclude_dry_run(runs: Sequence[SweepRun]) -> None:
        """List the runs that would fail, with the reasons."""
        failing = [run for run in runs if run.problem]
        shared = _shared(runs)
        for run in failing:
            log.error("%s  %s: %s", run.folder, run.own(shared), run.problem)
        if failing:
            raise SweepError(f"{len(failing)} of {_counted(runs)} would fail")

    @staticmethod
    def _conclude(
        runs: Sequence[SweepRun], done: Container[Path], errors: Mapping[Path, str], restart: bool
    ) -> None:
        """List the runs that are not done, with the reasons."""
        left = {run.folder: run.state for run in runs if run.folder not in done}
        for folder, state in left.items():
            reason = errors.get(folder) or folders.failure(folder) or "did not end"
            if state == State.RUNNING:
                reason = f"{owner(folder)} is training it"
            log.error("%-9s  %s: %s", state, folder, reason)
        if left:
            remedy = f"the same command{', without restart=true,' * restart} tries them again"
            raise SweepError(f"{len(left)} of {_counted(runs)} are not done; {remedy}")
        log.info("%s: all done", _counted(runs))


def _shared(runs: Sequence[SweepRun]) -> list[str]:
    """The overrides that all runs have, in their order."""
    return [o for o in runs[0].overrides if all(o in run.overrides for run in runs)]


def _without_degree(axes: Iterable[str], arguments: Iterable[str]) -> list[str]:
    """The axes of a grid, without its degree if the command line has one, in whichever form."""
    either = ("degree=", "degree.value=")
    typed = any(argument.startswith(either) for argument in arguments)
    return [axis for axis in axes if not (typed and axis.startswith(either))]


def _check_no_axis_is_lost(overrides: Sequence[Override]) -> None:
    """Of two values for a key the last one holds, which must not take the place of an axis.

    Raises:
        SweepError: if a later override replaces one of several values, by others.
    """
    last = {each.key_or_group: each for each in overrides}
    for each in overrides:
        winner = last[each.key_or_group]
        if each.is_sweep_override() and each.value() != winner.value():
            raise SweepError(f"{each.input_line} would be lost: {winner.input_line} replaces it")


def _problem(cfg: DictConfig, folder: Path) -> str:
    """What would end the run of a configuration before it begins, in one line, if anything."""
    from expanders.runs.start import check  # imports PyTorch, which takes seconds

    try:
        check(resolved(cfg), cfg.hydra.runtime.choices, folder, instantiate)
    except (SettingError, HydraException, OSError) as error:
        return one_line(error)
    return ""


def _counted(runs: Sequence[SweepRun]) -> str:
    return f"{len(runs)} run{'' if len(runs) == 1 else 's'}"


def _check_size(max_batch_size: Any) -> None:
    whole = isinstance(max_batch_size, int) and not isinstance(max_batch_size, bool)
    if max_batch_size is not None and not (whole and max_batch_size > 0):
        remedy = "must be an integer, at least 1, or null for all runs at once"
        raise SettingError("hydra.sweeper.max_batch_size", max_batch_size, remedy)


def _checked(grids: Any) -> list[Mapping[str, Any]]:
    """The grids, if that is what they are."""
    grids = OmegaConf.to_container(grids) if OmegaConf.is_config(grids) else grids
    if not isinstance(grids, list) or not all(isinstance(grid, dict) for grid in grids):
        remedy = "must be a list of mappings, from keys to values with commas"
        raise SettingError("hydra.sweeper.grids", grids, remedy)
    return grids


def _commas(value: Any) -> str:
    """The values of an axis as on the command line; a list in YAML is as good as commas."""
    values = value if isinstance(value, list | ListConfig) else [value]
    return ",".join("null" if each is None else str(each) for each in values)
