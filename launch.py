"""Compose a configuration and run it.

python launch.py model=resnet18 graph=xnet degree=15 dataset=cifar10
python launch.py -m graph=rreg,xnet,random degree=3,15,30,60
"""

import logging
import os
import re
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from expanders.errors import DivergedError, SettingError
from expanders.runs.settings import Node
from hydra_plugins.expanders_sweeper.naming import instantiate, resolved

log = logging.getLogger(__name__)


_USER_ERRORS = (SettingError, DivergedError, HydraException, OmegaConfBaseException, OSError)
_MISSING = r"Missing mandatory value: \S+ full_key: (\S+)"


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def task(cfg: DictConfig) -> Node:
    """One run of Hydra's: a single one, or a cell of a sweep."""
    from expanders.runs.build import run

    hydra_cfg = HydraConfig.get()
    alone = hydra_cfg.mode == RunMode.RUN
    try:
        return run(
            resolved(cfg),
            hydra_cfg.runtime.choices,
            Path(hydra_cfg.runtime.output_dir),
            instantiate=instantiate,
            turn=0 if alone else hydra_cfg.job.num,
        )
    except _USER_ERRORS as error:
        if alone:
            sys.exit(one_line(error))
        log.error("%s", one_line(error))
        raise
    except Exception:
        if not alone:  # a sweep goes on, and would not show it
            log.exception("This run failed:")
        raise


def one_line(error: BaseException) -> str:
    """What a user needs to know of an error that the user can mend."""
    if isinstance(error.__cause__, SettingError):  # Hydra wraps what a group's function raises
        error = error.__cause__
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.filename:
        text = f"{error.filename}: {error.strerror}; runs_dir=FOLDER chooses another place to write"
    elif isinstance(error, MissingConfigException) and "primary config" in text:
        sweeps = sorted(path.stem for path in Path(__file__).with_name("sweeps").glob("*.yaml"))
        text = f"{text.split('.')[0]}; the sweeps are {', '.join(sweeps)}, with -cd sweeps -cn NAME"
    elif isinstance(error, OmegaConfBaseException) and (missing := re.search(_MISSING, text)):
        text = f"{missing[1]}: must be given, as {missing[1]}=VALUE"
    return f"error: {text}"


def degree_as_value(argument: str) -> str:
    """`degree=15` as `degree.value=15`: Hydra takes no number for the name of a group's option."""
    return re.sub(r"^degree=(?=[\d.,\s+-]+$)", "degree.value=", argument)


def main() -> None:
    """The command line. Errors that a user can mend are one line; HYDRA_FULL_ERROR=1 shows all."""
    sys.argv[1:] = [degree_as_value(argument) for argument in sys.argv[1:]]
    if os.environ.get("HYDRA_FULL_ERROR", "0") not in ("0", ""):
        task()
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then leaves the reporting to what follows
    try:
        task()
    except KeyboardInterrupt:
        remedy = "the same command continues after the last checkpoint, unless it says restart=true"
        sys.exit(f"interrupted; {remedy}")
    except _USER_ERRORS as error:
        sys.exit(one_line(error))


if __name__ == "__main__":
    main()
