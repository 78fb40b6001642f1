"""Compose a configuration and run it.

python launch.py model=resnet18 graph=xnet degree=15 dataset=cifar10
python launch.py -m graph=rreg,xnet,random degree=3,15,30,60
"""

import logging
import os
import re
import signal
import sys
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from expanders.errors import DivergedError, SettingError
from expanders.files import write_json
from expanders.runs import folders
from expanders.runs.settings import Config, Node, checked
from hydra_plugins.expanders_sweeper.naming import cell_of, definition_of, label_of, resolved

if TYPE_CHECKING:  # PyTorch takes seconds to import; --help and --cfg do without it
    from expanders.runs.run import Run
    from expanders.training.processes import Team

log = logging.getLogger(__name__)


_USER_ERRORS = (SettingError, DivergedError, HydraException, OmegaConfBaseException, OSError)
_MISSING = r"Missing mandatory value: \S+ full_key: (\S+)"


def run(cfg: DictConfig, folder: Path, choices: Mapping[str, str], turn: int = 0) -> Node:
    """Build what the configuration describes, train it, and return its summary.

    `turn` is the run's number in a sweep. A run that finished in `folder` before is not run again;
    one that was cut off continues.
    """
    plain = resolved(cfg)
    config = checked(plain)
    definition = definition_of(plain, choices)
    if config.dry_run:
        log.info("%-9s  %s", folders.state(folder), folder)
        folders.forget_if_unused(folder)
        return {}
    from expanders.training import processes
    from expanders.training.device import choose_device

    if "SLURM_JOB_ID" in os.environ and signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        signal.signal(signal.SIGTERM, wait_to_be_killed)
    rank = processes.local_rank()
    turn = turn if rank is None else rank
    team = processes.join(choose_device(config.device, turn))
    if not team.is_writer:
        logging.disable(logging.WARNING)
        team.wait()  # for the writer, who sees to the folder
        if folders.state(folder) != folders.State.DONE:
            prepare(config, definition, folder, turn, team).follow()
        return {}
    with folders.locked(folder) as requeued:
        if config.restart and not requeued:
            folders.clear(folder)
        folders.check_unchanged(folder, definition)
        if folders.state(folder) == folders.State.DONE:
            log.info("Finished before, in %s; restart=true trains again.", folder)
            team.wait()
            return folders.summary(folder)
        try:
            (folder / "failure.json").unlink(missing_ok=True)
            write_json(folder / "config.json", definition)
            team.wait()
            return prepare(config, definition, folder, turn, team).execute()
        except Exception as error:
            folders.mark_failed(folder, error)
            raise


def wait_to_be_killed(signum: int, frame: object) -> None:
    """Do nothing more, after the SIGTERM that Slurm sends to all processes of a job it will end.

    Submitit would have training go on, but without W&B's process, which ends at once. The run would
    fail, and the job have a result, which is then not one that goes back to the queue.
    """
    log.warning("Slurm ends this job; the run can go on from its last checkpoint")
    while True:
        signal.pause()


def prepare(config: Config, definition: Node, folder: Path, turn: int, team: "Team") -> "Run":
    """Everything that one run needs. What is quick to check comes before what takes time."""
    import torch

    from expanders import data
    from expanders.runs import checkpoint, tracking
    from expanders.runs.run import Run
    from expanders.seeds import stream
    from expanders.training import device as devices
    from expanders.training.settings import Settings
    from expanders.training.trainer import Trainer
    from expanders.wiring import connectivity
    from expanders.wiring.initialization import initialize
    from expanders.wiring.wire import sparsify

    build = partial(hydra.utils.instantiate, _convert_="all")
    device = devices.choose_device(config.device, turn)
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    names = [field.name for field in fields(Settings)]
    how = Settings(**{name: getattr(config, name) for name in names})
    if how.batch_size < team.size:
        remedy = f"must be at least the number of processes, {team.size}"
        raise SettingError("batch_size", how.batch_size, remedy)
    devices.set_arithmetic(how.precision, device)
    devices.keep_freed_memory()
    source = build(config.dataset["source"])
    transform = build(config.dataset["transform"])

    network, skip = without(config.model, "skip")
    wiring, measures = without(config.graph, "measures")
    target = network.pop("_target_")
    blueprint = checkpoint.Blueprint(target, network | {"num_classes": source.num_classes})
    model = blueprint.build()
    initialize(model, config.stream_seed("init"))
    report = sparsify(
        model,
        build(wiring),
        build(config.degree),
        config.stream_seed("graph"),
        skip=skip,
        fan=config.init["fan"],
        measures=measures,
        execution=config.execution,
    )
    if config.checkpoint is not None:
        weights = checkpoint.read(config.checkpoint)
        checkpoint.load_state(model, weights["state"], config.checkpoint)
    try:
        optimizer = build(config.optimizer)(model.parameters())
    except ValueError as error:  # the framework's own checks, such as a negative momentum
        raise SettingError("optimizer", config.optimizer["_target_"], str(error)) from None
    schedule = build(config.schedule)(optimizer)

    data_seed = config.stream_seed("data")
    images, test = source.load()
    inputs = transform.eval(test.pixels[:1])
    try:
        report = replace(report, network=connectivity.measure(model, tuple(inputs.shape[1:])))
    except RuntimeError as error:
        size = "x".join(str(side) for side in inputs.shape[2:])
        remedy = f"the model takes no images of {size} pixels ({error}); choose another size"
        raise SettingError("dataset.transform.crop", transform.crop, remedy) from None
    model.to(device)
    train_part, val = data.split(images, config.dataset["val_fraction"], stream(data_seed, "split"))
    trainer = Trainer(
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        train=train_part.to(device),
        val=val.to(device),
        transform=transform,
        settings=how,
        seed=data_seed,
        team=team,
    )
    wandb = tracking.WandbSettings(**config.wandb).named(
        label_of(definition), config.seed, cell_of(definition)
    )
    return Run(
        folder=folder,
        config=definition,
        blueprint=blueprint,
        report=report,
        trainer=trainer,
        test=test.to(device),
        wandb=wandb,
        checkpoint_minutes=config.checkpoint_minutes,
    )


def without(node: Node, key: str) -> tuple[Node, Any]:
    """A group's settings without the one that is not for its function, and that one."""
    return {name: value for name, value in node.items() if name != key}, node[key]


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def task(cfg: DictConfig) -> Node:
    """One run of Hydra's: a single one, or a cell of a sweep."""
    hydra_cfg = HydraConfig.get()
    alone = hydra_cfg.mode == RunMode.RUN
    turn = 0 if alone else hydra_cfg.job.num
    try:
        return run(cfg, Path(hydra_cfg.runtime.output_dir), hydra_cfg.runtime.choices, turn)
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
