"""Build what a configuration describes.

The groups of a configuration are nodes in plain containers: `_target_` names a function, the other
keys are its arguments, and `_partial_: true` leaves some of them to be given later. The function
that turns a node into an object is given by the caller (the launcher gives Hydra's, which refuses
functions such as `os.system`), and it is used for every node alike.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from expanders import data
from expanders.errors import SettingError, one_line
from expanders.runs import checkpoint, folders, resume
from expanders.runs.checkpoint import Blueprint
from expanders.runs.identity import Identity
from expanders.runs.images import RunImages
from expanders.runs.predecessor import facts_of, read_predecessor
from expanders.runs.provenance import provenance
from expanders.runs.resume import Saved
from expanders.runs.run import Run
from expanders.runs.settings import OPTIONAL, Config, Instantiate, Node, without
from expanders.runs.tracking import WandbSettings
from expanders.seeds import derive
from expanders.training import device as devices
from expanders.training import metrics
from expanders.training.memory import PeakMemory
from expanders.training.processes import Team
from expanders.training.settings import Settings
from expanders.training.trainer import Trainer
from expanders.wiring import connectivity
from expanders.wiring.cost import count_flops
from expanders.wiring.draw import Method, Wiring, draw
from expanders.wiring.initialization import initialize
from expanders.wiring.layer_report import Report
from expanders.wiring.wire import wire

# What models raise for images of a size that they do not take.
SIZE_ERRORS = (RuntimeError, AssertionError, ValueError)


@dataclass(frozen=True)
class Request:
    """What a run is built from.

    Attributes:
        config: its settings.
        identity: what defines it, and its names.
        record: what its config.json says.
        folder: where it is written.
        turn: its number in a sweep, which chooses a GPU.
        team: the processes that train it together.
        instantiate: builds what a node describes.
    """

    config: Config
    identity: Identity
    record: Node
    folder: Path
    turn: int
    team: Team
    instantiate: Instantiate


def prepare(request: Request, check: Callable[[], None]) -> Run:
    """Everything that one run needs. What is quick to check comes before what takes time.

    `check` raises if the folder is not this process's any more.
    """
    config, team = request.config, request.team
    wandb = WandbSettings(**config.wandb).checked()
    device = devices.choose_device(config.device, request.turn)
    how = training_settings(config, team)
    memory = PeakMemory(device)
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    devices.set_arithmetic(how.precision, device)
    devices.keep_freed_memory()

    run_digest = folders.run_digest(request.record)
    saved = resume.newest(request.folder, run_digest, team)
    first = Path(config.start_from).expanduser() if config.start_from else None
    predecessor = read_predecessor(first, request.record) if first and saved is None else None
    trained = predecessor.saved if predecessor else saved
    images = RunImages(config, request.instantiate)
    began = what_began(config, team, images.source, saved, trained)

    blueprint, model, wiring, report = network(request, images, device, trained)
    optimizer, schedule = optimization(config, model, request.instantiate)
    inputs = images.transform.eval(next(data.batches(images.parts[0], 1))[0])
    report = with_connectivity(report, model, inputs, images.crop)
    model.to(device)
    trainer = Trainer(
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        train=images.parts[0].to(device),
        val=images.parts[1].to(device),
        transform=images.transform,
        settings=how,
        seed=images.seed,
        team=team,
        before=trained.arithmetic if trained else None,
    )
    identity = request.identity
    return Run(
        folder=request.folder,
        config=request.record | {"choices": identity.choices},
        report=report,
        trainer=trainer,
        test=images.parts[2].to(device),
        wandb=wandb.named(identity.name, identity.cell, identity.words),
        checkpoints=resume.Checkpoints(request.folder, blueprint, run_digest, wiring, began, check),
        saved=saved,
        predecessor=predecessor,
        facts={**began.get("facts", {}), metrics.COMPUTED_BY: provenance(trainer.arithmetic)},
        checkpoint_minutes=config.checkpoint_minutes,
        memory=memory,
    )


def training_settings(config: Config, team: Team) -> Settings:
    """How to train; every process has an image of each batch."""
    how = Settings(**{each.name: getattr(config, each.name) for each in fields(Settings)})
    if how.batch_size < team.size:
        remedy = f"must be at least the number of processes, {team.size}"
        raise SettingError("batch_size", how.batch_size, remedy)
    return how


def what_began(
    config: Config, team: Team, source: data.Source, saved: Saved | None, trained: Saved | None
) -> dict[str, Any]:
    """What a run's checkpoints keep of its beginning; see `expanders.runs.resume.Checkpoints`.

    Raises:
        SettingError: if the training goes on with other images than it began with.
    """
    began = dict(saved.began) if saved else {}
    if source.fingerprint is not None:
        began["images"] = team.from_writer(source.fingerprint)
        if trained:
            resume.check_images(trained, began["images"], config.dataset.get("root"))
    if config.start_from and "facts" not in began:
        began["facts"] = facts_of(Path(config.start_from).expanduser())
    return began


def network(
    request: Request, images: RunImages, device: torch.device, trained: Saved | None
) -> tuple[Blueprint, nn.Module, Wiring, Report]:
    """The network, initialized and wired; how its dense twin is built; edges and their report.

    A wiring method that may look at images gets some on `device`. A run that continues, or starts
    from another, has the edges of the network that was `trained`.
    """
    config, instantiate = request.config, request.instantiate
    start = config.stream_seed("init")
    with torch.random.fork_rng(devices=[]):  # for the values that `initialize` leaves as they are
        torch.default_generator.manual_seed(derive(start, "init"))
        blueprint, model = dense_network(config.model, images.source.num_classes, instantiate)
    if images.side is not None:
        check_size(model, images.side, images.crop)
    initialize(model, start)
    skip, measures = config.model["skip"], config.graph["measures"]
    granularity = config.graph["granularity"]
    graph, degree = instantiate(graph_node(config)), instantiate(config.degree)

    def drawn() -> Wiring:
        seen = images.sample(graph.images, device) if isinstance(graph, Method) else None
        seed = config.stream_seed("graph")
        options = {"skip": skip, "images": seen, "granularity": granularity}
        return draw(model, graph, degree, seed, **options)

    wiring = request.team.from_writer(drawn) if trained is None else trained.wiring
    if config.init["redraw"]:
        initialize(model, start, "redraw")
    fan = config.init["fan"]
    report = wire(model, wiring, fan=fan, measures=measures, execution=config.execution)
    if config.checkpoint is not None and trained is None:
        weights = checkpoint.read(config.checkpoint)
        checkpoint.load_state(model, weights["state"], config.checkpoint)
    return blueprint, model, wiring, report


def dense_network(
    node: Node, num_classes: int, instantiate: Instantiate
) -> tuple[Blueprint, nn.Module]:
    """The network of the group `model` before it is wired, and how it is built."""
    node = without(node, "skip") | {"num_classes": num_classes}
    model = instantiate(node)
    if not isinstance(model, nn.Module):
        raise SettingError("model._target_", node["_target_"], "must return a torch.nn.Module")
    return Blueprint(node.pop("_target_"), node), model


def graph_node(config: Config) -> Node:
    """What is for the function of the group `graph`; the other keys say how it is used."""
    return without(config.graph, *OPTIONAL["graph"])


def optimization(
    config: Config, model: nn.Module, instantiate: Instantiate
) -> tuple[Optimizer, LRScheduler]:
    """The optimizer of a network's parameters, and the schedule of its rate."""
    try:
        optimizer = instantiate(config.optimizer)(model.parameters())
    except ValueError as error:  # the framework's own checks, such as a negative momentum
        raise SettingError("optimizer", config.optimizer["_target_"], str(error)) from None
    return optimizer, instantiate(config.schedule)(optimizer)


def with_connectivity(report: Report, model: nn.Module, inputs: Tensor, crop: int | None) -> Report:
    """The report, and what an input of one image shows of how the layers hang together."""
    size = tuple(inputs.shape[1:])
    try:
        flops = count_flops(model, size)
        report = replace(report, network=connectivity.measure(model, size))
    except SettingError:
        raise
    except SIZE_ERRORS as error:
        raise _bad_size(inputs, crop, error) from error
    return replace(report, live_flops=flops.live, dense_flops=flops.dense)


def check_size(model: nn.Module, side: int, crop: int | None) -> None:
    """Compute the logits of one image of `side` x `side` pixels.

    Args:
        model: the network, on any device.
        side: in pixels.
        crop: what images are cropped to, for the message; None where they are not cropped.

    Raises:
        SettingError: if the model takes no such image.
    """
    modes = {module: module.training for module in model.modules()}
    image = torch.zeros(1, 3, side, side, device=next(model.parameters(), torch.zeros(())).device)
    try:
        with torch.inference_mode():
            model.eval()(image)
    except SettingError:
        raise
    except SIZE_ERRORS as error:
        raise _bad_size(image, crop, error) from error
    finally:
        for module, mode in modes.items():
            module.training = mode


def _bad_size(inputs: Tensor, crop: int | None, error: Exception) -> SettingError:
    """What to say where a model takes no images of the size of `inputs`."""
    height, width = inputs.shape[2:]
    remedy = (
        f"the model takes no images of {height}x{width} pixels ({one_line(error)}); "
        f"choose another size, or tell a vision transformer with +model.image_size={height}"
    )
    return SettingError("dataset.transform.crop", "null" if crop is None else crop, remedy)
