"""What would stop a run, found without training it: before a run begins, and by `dry_run=true`.

The network is built on PyTorch's meta device, where tensors have shapes but no values, and of
layers of one size only one gets a graph. So a check takes a fraction of a second, and what the runs
of a sweep share is made once.

Only the run itself can find an image that cannot be decoded, a drive or a memory that is too small,
and a loss that diverges.
"""

import copy
import json
from dataclasses import dataclass
from functools import lru_cache, partial, update_wrapper
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from expanders.errors import SettingError
from expanders.graphs.edges import GraphModel, IntArray
from expanders.graphs.simple import is_dense
from expanders.runs import checkpoint, folders, resume
from expanders.runs.build import (
    check_size,
    dense_network,
    graph_node,
    optimization,
)
from expanders.runs.folders import State
from expanders.runs.images import RunImages
from expanders.runs.predecessor import read_predecessor
from expanders.runs.settings import Config, Instantiate, Node
from expanders.runs.tracking import WandbSettings
from expanders.training.device import choose_device
from expanders.wiring.draw import Method, Task, WiringMethod, draw
from expanders.wiring.wire import swap


def check(config: Config, record: Node, folder: Path, instantiate: Instantiate) -> None:
    """Raise the error that would end a run before its first step, if there is one.

    A run that is done is not checked. Nothing is written.

    Args:
        config: the run's settings, which fit the signatures of their functions.
        record: the same as they would stand in the folder's config.json.
        folder: of the run.
        instantiate: builds what a node describes.

    Raises:
        SettingError: as the run would.
    """
    if not config.restart:
        if folders.summary(folder, folders.run_digest(record)) is not None:
            return
        folders.check_unchanged(folder, record)
    WandbSettings(**config.wandb).checked()
    choose_device(config.device)
    images = RunImages(config, instantiate)
    source = images.source
    before = None
    begins = config.restart or folders.state(folder) == State.NEW
    if begins and config.start_from is not None:
        before = read_predecessor(Path(config.start_from).expanduser(), record)
        if source.fingerprint is not None:
            root = config.dataset.get("root")
            resume.check_images(before.saved, source.fingerprint(), root)
    model = json.dumps(config.model, sort_keys=True), source.num_classes, instantiate
    if images.side is not None:
        _check_size(images.side, images.crop, *model)
    graph: WiringMethod = instantiate(graph_node(config))
    if isinstance(graph, Method) and config.start_from is None:
        images.check_sample(graph.images)
    _check_wiring(config, _shapes(*model), graph, instantiate)
    if config.checkpoint is not None and config.start_from is None and begins:
        _check_checkpoint(config, _shapes(*model), graph, instantiate)
    _, schedule = optimization(config, _shapes(*model), instantiate)
    if before is not None:
        before.check_schedule(schedule)


@lru_cache(maxsize=64)
def _shapes(model: str, num_classes: int, instantiate: Instantiate) -> nn.Module:
    """The dense network that a node, in JSON, describes; without values, if it can be had so."""
    node = json.loads(model)
    try:
        with torch.device("meta"):
            return dense_network(node, num_classes, instantiate)[1]
    except SettingError:
        raise
    except Exception:  # it reads or computes with values while it is built
        return dense_network(node, num_classes, instantiate)[1]


@lru_cache(maxsize=64)
def _check_size(
    side: int, crop: int | None, model: str, num_classes: int, instantiate: Instantiate
) -> None:
    """Whether the network takes images of `side` x `side` pixels."""
    try:
        check_size(_shapes(model, num_classes, instantiate), side, crop)
    except SettingError:  # perhaps for lack of values only
        check_size(dense_network(json.loads(model), num_classes, instantiate)[1], side, crop)


def _check_wiring(
    config: Config, model: nn.Module, graph: WiringMethod, instantiate: Instantiate
) -> None:
    """Whether every layer can have the edges that it would get."""
    node, degree = graph_node(config), instantiate(config.degree)
    if isinstance(graph, Method):
        chosen: WiringMethod = _Unscored(graph.name)
    else:
        chosen = graph if is_dense(graph) else _once_a_size(graph, node, instantiate)
    draw(
        model,
        chosen,
        lambda network, _: degree(network, graph),
        skip=config.model["skip"],
        granularity=config.graph["granularity"],
    )


def _check_checkpoint(
    config: Config, dense: nn.Module, graph: WiringMethod, instantiate: Instantiate
) -> None:
    """Whether the run's checkpoint can be read, and fits a network with the run's own graphs."""
    assert config.checkpoint is not None
    state = checkpoint.read(config.checkpoint)["state"]
    if isinstance(graph, Method):  # its edges are known when it has seen weights and images
        return
    skip, granularity = config.model["skip"], config.graph["granularity"]
    seed, degree = config.stream_seed("graph"), instantiate(config.degree)
    model = copy.deepcopy(dense).to_empty(device="cpu")
    swap(model, draw(dense, graph, degree, seed, skip=skip, granularity=granularity))
    checkpoint.check_state(model, state, config.checkpoint)


def forget() -> None:
    """Drop what checks of other runs could share."""
    for shared in (_shapes, _check_size, _drawn):
        shared.cache_clear()


@dataclass(frozen=True)
class _Unscored:
    """Stands for a method that needs weights and images: it leaves the choice of edges open."""

    name: str
    images = 0
    streams = ()

    def draw(self, task: Task) -> tuple[dict[str, IntArray], dict[str, float]]:
        """No edges."""
        return {}, {}


def _once_a_size(graph: GraphModel, node: Node, instantiate: Instantiate) -> GraphModel:
    """A graph model that returns the same graph for layers of the same size, also of other runs."""
    key = json.dumps(node, sort_keys=True)

    def drawn(num_left: int, num_right: int, num_edges: int, rng: Any) -> IntArray:
        return _drawn(key, instantiate, num_left, num_right, num_edges)

    return update_wrapper(drawn, graph.func if isinstance(graph, partial) else graph)


@lru_cache(maxsize=256)
def _drawn(
    node: str, instantiate: Instantiate, num_left: int, num_right: int, num_edges: int
) -> IntArray:
    graph: GraphModel = instantiate(json.loads(node))
    return graph(num_left, num_right, num_edges, np.random.default_rng(0))
