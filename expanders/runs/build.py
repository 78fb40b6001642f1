"""Build what a configuration describes, and run it.

The groups of a configuration are nodes in plain containers: `_target_` names a function, the other
keys are its arguments, and `_partial_: true` leaves some of them to be given later. The function
that turns a node into an object is given by the caller (the launcher gives Hydra's, which refuses
functions such as `os.system`), and it is used for every node alike.
"""

import logging
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expanders.errors import SettingError
from expanders.runs import folders
from expanders.runs.computed import with_computed
from expanders.runs.identity import Identity, identity_of, used_settings
from expanders.runs.lock import LostLockError, locked
from expanders.runs.settings import Config, Instantiate, Node, checked
from expanders.runs.workers import end_with_parent

if TYPE_CHECKING:  # PyTorch takes seconds to import; runs that are done do without it
    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from expanders.runs.checkpoint import Blueprint
    from expanders.runs.resume import Saved
    from expanders.runs.run import Run
    from expanders.training.processes import Team
    from expanders.wiring.draw import LabelledImages, Wiring
    from expanders.wiring.layer_report import Report

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
    try:
        plain = with_computed(plain, choices, instantiate)
        config = checked(plain)
    except SettingError:
        folders.forget_if_unused(folder)
        raise
    used = used_settings(plain, choices)
    identity = identity_of(used)
    record = used | {"definition": identity.definition}
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

    def ready(check: Callable[[], None] = lambda: None) -> "Run":
        return prepare(config, identity, record, folder, turn, team, instantiate, check)

    if team.is_writer:
        return _write(config, record, folder, team, ready)
    logging.disable(logging.WARNING)
    if not team.from_writer(lambda: False):
        ready().follow()
    return {}


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
    team: "Team",
    ready: Callable[[Callable[[], None]], "Run"],
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


def _finished_before(folder: Path, done: Node, team: "Team") -> Node:
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


def prepare(
    config: Config,
    identity: Identity,
    record: Node,
    folder: Path,
    turn: int,
    team: "Team",
    instantiate: Instantiate,
    check: Callable[[], None],
) -> "Run":
    """Everything that one run needs. What is quick to check comes before what takes time.

    `check` raises if the folder is not this process's any more.
    """
    import torch

    from expanders import data
    from expanders.runs import resume, tracking
    from expanders.runs.predecessor import facts_of, read_predecessor
    from expanders.runs.run import Run
    from expanders.seeds import stream
    from expanders.training import device as devices
    from expanders.training.memory import PeakMemory
    from expanders.training.settings import Settings
    from expanders.training.trainer import Trainer

    wandb = tracking.WandbSettings(**config.wandb).checked()
    device = devices.choose_device(config.device, turn)
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    how = Settings(**{each.name: getattr(config, each.name) for each in fields(Settings)})
    if how.batch_size < team.size:
        remedy = f"must be at least the number of processes, {team.size}"
        raise SettingError("batch_size", how.batch_size, remedy)
    memory = PeakMemory(device)
    devices.set_arithmetic(how.precision, device)
    devices.keep_freed_memory()

    run = folders.run_digest(record)
    saved = resume.newest(folder, run, team)
    start = config.start_from and Path(config.start_from).expanduser()
    predecessor = read_predecessor(start, record) if start and saved is None else None
    source = instantiate(config.dataset["source"])
    trained = predecessor.saved if predecessor else saved
    began = dict(saved.began) if saved else {}
    if source.fingerprint is not None:
        began["images"] = team.from_writer(source.fingerprint)
        if trained:
            resume.check_images(trained, began["images"], config.dataset.get("root"))
    if start and "facts" not in began:
        began["facts"] = facts_of(start)
    transform = instantiate(config.dataset["transform"])
    data_seed = config.stream_seed("data")

    @cache
    def parts() -> tuple[data.Images, data.Images, data.Images]:
        """Training, validation and test images; read when first needed."""
        images, test = source.load()
        fraction = config.dataset["val_fraction"]
        return *data.split(images, fraction, stream(data_seed, "split")), test

    def sample(count: int) -> "LabelledImages":
        """Training images for a wiring method, prepared as for evaluation."""
        train = parts()[0]
        if count > len(train):
            remedy = f"there are {len(train)} training images; choose fewer"
            raise SettingError("graph.images", count, remedy)
        chosen = data.sample(train, max(count, 1), stream(data_seed, "wiring")).to(device)
        pixels, labels = next(data.batches(chosen, len(chosen)))
        return transform.eval(pixels), labels

    blueprint, model, wiring, report = network(
        config, source.num_classes, team, instantiate, sample, trained
    )
    optimizer, schedule = optimization(config, model, instantiate)
    train, val, test = parts()
    report = with_connectivity(report, model, transform, next(data.batches(train, 1))[0])
    model.to(device)
    trainer = Trainer(
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        train=train.to(device),
        val=val.to(device),
        transform=transform,
        settings=how,
        seed=data_seed,
        team=team,
        before=trained.arithmetic if trained else None,
    )
    return Run(
        folder=folder,
        config=record,
        report=report,
        trainer=trainer,
        test=test.to(device),
        wandb=wandb.named(identity.name, identity.cell, identity.words),
        checkpoints=resume.Checkpoints(folder, blueprint, run, wiring, began, check),
        saved=saved,
        predecessor=predecessor,
        facts=began.get("facts", {}),
        checkpoint_minutes=config.checkpoint_minutes,
        memory=memory,
    )


def network(
    config: Config,
    num_classes: int,
    team: "Team",
    instantiate: Instantiate,
    sample: Callable[[int], "LabelledImages"],
    trained: "Saved | None",
) -> tuple["Blueprint", "nn.Module", "Wiring", "Report"]:
    """The network, initialized and wired; how its dense twin is built; edges and their report.

    `sample` returns training images; it is called only for a wiring method that may look at some.
    A run that continues, or starts from another, has the edges of the network that was trained.
    """
    from torch import nn

    from expanders.runs import checkpoint
    from expanders.wiring.draw import Method, draw
    from expanders.wiring.initialization import initialize
    from expanders.wiring.wire import wire

    node, skip = without(config.model, "skip")
    node["num_classes"] = num_classes
    model = instantiate(node)
    if not isinstance(model, nn.Module):
        raise SettingError("model._target_", node["_target_"], "must return a torch.nn.Module")
    blueprint = checkpoint.Blueprint(node.pop("_target_"), node)
    initialize(model, config.stream_seed("init"))
    graph_node, measures = without(config.graph, "measures")
    graph_node, granularity = without(graph_node, "granularity")
    graph_node, _ = without(graph_node, "control")
    graph, degree = instantiate(graph_node), instantiate(config.degree)

    def chosen() -> "Wiring":
        images = sample(graph.images) if isinstance(graph, Method) else None
        seed = config.stream_seed("graph")
        options = {"skip": skip, "images": images, "granularity": granularity}
        return draw(model, graph, degree, seed, **options)

    wiring = team.from_writer(chosen) if trained is None else trained.wiring
    if config.init["redraw"]:
        initialize(model, config.stream_seed("init"), "redraw")
    fan = config.init["fan"]
    report = wire(model, wiring, fan=fan, measures=measures, execution=config.execution)
    if config.checkpoint is not None and trained is None:
        weights = checkpoint.read(config.checkpoint)
        checkpoint.load_state(model, weights["state"], config.checkpoint)
    return blueprint, model, wiring, report


def optimization(
    config: Config, model: "nn.Module", instantiate: Instantiate
) -> tuple["Optimizer", "LRScheduler"]:
    """The optimizer of a network's parameters, and the schedule of its rate."""
    try:
        optimizer = instantiate(config.optimizer)(model.parameters())
    except ValueError as error:  # the framework's own checks, such as a negative momentum
        raise SettingError("optimizer", config.optimizer["_target_"], str(error)) from None
    return optimizer, instantiate(config.schedule)(optimizer)


def with_connectivity(report: "Report", model: "nn.Module", transform: Any, image: Any) -> "Report":
    """The report, and what one image shows of how the layers hang together."""
    from expanders.wiring import connectivity
    from expanders.wiring.cost import count_flops

    inputs = transform.eval(image)
    try:
        size = tuple(inputs.shape[1:])
        flops = count_flops(model, size)
        report = replace(report, network=connectivity.measure(model, size))
        return replace(report, live_flops=flops.live, dense_flops=flops.dense)
    except RuntimeError as error:
        pixels = "x".join(str(side) for side in inputs.shape[2:])
        remedy = f"the model takes no images of {pixels} pixels ({error}); choose another size"
        raise SettingError("dataset.transform.crop", transform.crop, remedy) from None


def without(node: Node, key: str) -> tuple[Node, Any]:
    """A group's settings without the one that is not for its function, and that one."""
    return {name: value for name, value in node.items() if name != key}, node[key]
