"""Compose a configuration and run it.

python launch.py model=resnet18 graph=xnet degree=15 dataset=cifar10
python launch.py -m graph=rreg,xnet,random degree=3,15,30,60
"""

import difflib
import errno
import logging
import os
import re
import sys
import traceback
from dataclasses import fields
from pathlib import Path
from typing import Any

import hydra
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from expanders.errors import DivergedError, SettingError, TeamError, one_line
from expanders.runs import folders
from expanders.runs.settings import Config, Node
from expanders.runs.workers import name_command
from expanders.training import metrics
from hydra_plugins.expanders_sweeper.naming import (
    degree_as_value,
    instantiate,
    resolved,
    with_recipe,
)

log = logging.getLogger(__name__)


_USER_ERRORS = (
    SettingError,
    DivergedError,
    TeamError,
    HydraException,
    OmegaConfBaseException,
    YAMLError,
    OSError,
)
# Hydra is told to leave all reporting to `main`, so that this is asked before.
_SHOW_EVERYTHING = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("0", "")
# What PyTorch says where the system or a GPU gives no more memory, besides MemoryError.
_NO_MEMORY = r"can't allocate memory|out of memory"
_IN_A_NAME = r"^SettingError raised while resolving interpolation: (.*?)( full_key: \S+.*)?$"
# Of `model=null` and alike; Hydra has no exception of its own for it.
_NO_OPTION = "Config group override must be a string or a list."
_NO_KEY = r"Could not override '([^']+)'"
_NO_VARIABLE = r"Interpolation key '(.*?)' not found full_key: (\S+)"
_TWO_MODES = "Only one of --run"
# Of Hydra's own plugins, those that are packages of their own.
_PLUGIN = r"hydra/(launcher|sweeper)/(ax|joblib|nevergrad|optuna|ray|submitit)\b(?!_)"
_NO_SUCH_OPTION = r"Could not find '(\S+)/([^/']+)' Available options in \S+: (.*?) Config search"
_COMPOSING = str(Path("hydra", "_internal", "config_"))  # its modules that read YAML files
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_MISSING = r"Missing mandatory value: \S+ full_key: (\S+)"


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def task(cfg: DictConfig) -> Node | float:
    """One run of Hydra's: a single one, or one of a sweep; returns its summary or objective."""
    from expanders.runs.start import objective_of, run

    logging.raiseExceptions = False  # as in `main`, also in a process of a sweep
    hydra_cfg = HydraConfig.get()
    alone = hydra_cfg.mode == RunMode.RUN
    # Not resolved: the folder of the command may have ${} in its name.
    runtime: Any = OmegaConf.to_container(hydra_cfg.runtime, resolve=False)
    folder = Path(runtime["output_dir"])
    if not alone:
        speak_briefly(folder.name)
    try:
        check_mode(hydra_cfg)
        summary = run(
            resolved(cfg),
            hydra_cfg.runtime.choices,
            folder,
            instantiate=instantiate,
            turn=0 if alone else hydra_cfg.job.num,
        )
        if not alone and metrics.TEST_ACCURACY in summary:
            log.info("done, test accuracy %.2f%%", 100 * summary[metrics.TEST_ACCURACY])
        return summary if cfg.objective is None else objective_of(summary, cfg.objective)
    except Exception as error:
        known = user_error(error)
        if alone and known and not _SHOW_EVERYTHING:
            sys.exit(explained(known))  # before Hydra adds lines of its own
        if not alone and known:  # a sweep goes on, and would not show it
            log.error("%s", explained(known))
        elif not alone:
            log.exception("This run failed:")
        raise
    finally:
        folders.forget_if_unused(folder)  # Hydra made it; a dry run leaves it empty


def speak_briefly(name: str) -> None:
    """One line a run and epoch on the terminal, with the run's name, where runs may share it.

    The tables are in the run's own log.
    """

    def is_brief(record: logging.LogRecord) -> bool:
        return "\n" not in record.getMessage() or record.levelno >= logging.WARNING

    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler:
            handler.addFilter(is_brief)
            handler.setFormatter(logging.Formatter(f"{name}: %(message)s"))


def check_mode(hydra_cfg: HydraConf) -> None:
    """Refuse to run once what describes a sweep.

    Raises:
        SettingError: if the sweeper is given something to do without being asked.
    """
    for key in ("grids", "params"):
        if hydra_cfg.mode == RunMode.RUN and hydra_cfg.sweeper.get(key):
            remedy = "are for a sweep: add -m, or write hydra.mode: MULTIRUN into the file"
            raise SettingError(f"hydra.sweeper.{key}", hydra_cfg.sweeper[key], remedy)


def user_error(error: BaseException | None) -> BaseException | None:
    """The error that a user can mend, of those that caused an error; a wrong setting first."""
    known = []
    while error is not None:
        if (
            isinstance(error, _USER_ERRORS)
            or str(error).startswith((_NO_OPTION, _TWO_MODES))
            or _lacks_memory(error)
            or _cannot_be_composed(error)
        ):
            known.append(error)
        error = error.__cause__
    settings = [error for error in known if isinstance(error, SettingError)]
    return next(iter(settings + known), None)


def _cannot_be_composed(error: BaseException) -> bool:
    """Whether Hydra failed on files that are no text, or that refer to themselves."""
    if not isinstance(error, RecursionError | UnicodeDecodeError):
        return False
    frames = traceback.walk_tb(error.__traceback__)
    return any(_COMPOSING in frame.f_code.co_filename for frame, _ in frames)


def _lacks_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and re.search(_NO_MEMORY, str(error)) is not None
    )


def explained(error: BaseException) -> str:
    """What a user needs to know of an error that the user can mend."""
    text = one_line(error)
    if isinstance(error, OSError) and error.filename:
        text = f"{error.filename}: {error.strerror}; runs_dir=FOLDER chooses another place to write"
    elif isinstance(error, OSError) and error.errno in _FULL:  # as W&B reports it
        text = f"{error.strerror}; runs_dir=FOLDER chooses another place to write"
    elif _lacks_memory(error):
        remedy = "a smaller batch_size, or smaller images, need less"
        text = f"not enough memory ({text}); {remedy}"
    elif isinstance(error, RecursionError):
        text = "a YAML file refers to itself, by a name in its defaults or by an alias (*)"
    elif isinstance(error, UnicodeDecodeError):
        text = f"a YAML file is no text in UTF-8 ({text})"
    elif isinstance(error, MissingConfigException) and "primary config" in text:
        sweeps = sorted(path.stem for path in Path(__file__).with_name("sweeps").glob("*.yaml"))
        text = f"{text.split('.')[0]}; the sweeps are {', '.join(sweeps)}, with -cd sweeps -cn NAME"
    elif isinstance(error, MissingConfigException) and (plugin := re.search(_PLUGIN, text)):
        kind, name = plugin.groups()
        text = f"{plugin[0]}: needs the package hydra-{name}-{kind}; pip install it"
    elif isinstance(error, MissingConfigException) and (option := re.search(_NO_SUCH_OPTION, text)):
        group, name, options = option.groups()
        remedy = f"there are {', '.join(options.split())}; --config-dir FOLDER adds your own"
        text = f"{group}={name}: no such option; {remedy}"
    elif isinstance(error, OmegaConfBaseException) and (missing := re.search(_MISSING, text)):
        text = f"{missing[1]}: must be given, as {missing[1]}=VALUE"
    elif (unknown := re.match(_NO_KEY, text)) and "/" not in unknown[1]:
        text = _unknown_key(unknown[1], text)
    elif missing := re.match(_NO_VARIABLE, text):
        text = f"{missing[2]}: ${{{missing[1]}}} is no setting that there is"
    elif text.startswith(_TWO_MODES):
        text = "--cfg and --info are of one run: leave out -m, and the lists of values"
    elif text.startswith(_NO_OPTION):
        text = "a group takes the name of one of its options, no number and no null: see --help"
    elif in_a_name := re.match(_IN_A_NAME, text):
        text = in_a_name[1]
    return f"error: {text}"


def _unknown_key(key: str, text: str) -> str:
    """What to say of an override of a key that is not there."""
    if "." in key:  # one + would fail in those runs of a sweep that have the key
        return text.replace(" use +", " use ++")
    near = difflib.get_close_matches(key, [each.name for each in fields(Config)], n=1)
    return f"{key}: no such setting; " + (f"is it {near[0]}?" if near else "--help lists them")


def main() -> None:
    """The command line. Errors that a user can mend are one line; HYDRA_FULL_ERROR=1 shows all."""
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # Where standard output takes no more (`| head`, a full disk), a run goes on; it has a run.log.
    logging.raiseExceptions = False
    name_command()
    try:
        sys.argv[1:] = with_recipe(map(degree_as_value, sys.argv[1:]))
        task()
    except KeyboardInterrupt:
        remedy = "the same command continues after the last checkpoint, unless it says restart=true"
        sys.exit(f"interrupted; {remedy}")
    except Exception as error:
        known = user_error(error)
        if _SHOW_EVERYTHING or known is None:
            raise
        sys.exit(explained(known))


if __name__ == "__main__":
    main()
