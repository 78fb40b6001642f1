"""Settings that are computed from others, before a run is named, checked or built."""

import json
from collections.abc import Mapping
from functools import lru_cache
from inspect import signature
from typing import Any

from expanders.errors import SettingError
from expanders.runs.settings import OPTIONAL, Instantiate, Node, function_of, without

THIN = "thin"  # the option of the group `graph` that stands for a width


def with_computed(settings: Node, choices: Mapping[str, str], instantiate: Instantiate) -> Node:
    """The settings, with those in place that follow from others.

    `graph=thin` stands for a number as `model.width`. A seed for graphs counts for nothing where
    the wiring says that it depends on none, as that of `magnitude`: the run has the common seed.

    Args:
        settings: all settings, resolved, in plain containers.
        choices: the chosen option of every group.
        instantiate: builds what a node describes.

    Raises:
        SettingError: if the model has no width, or none of as many parameters.
    """
    changed: Node = {}
    if choices["graph"] == THIN:
        groups = {name: settings[name] for name in ("model", "degree", "dataset")}
        width = _width(json.dumps(groups, sort_keys=True), instantiate)
        changed["model"] = settings["model"] | {"width": width}
    seeds = settings.get("seeds", {})
    if seeds.get("graph") is not None and not _draws_graphs(settings["graph"], instantiate):
        changed["seeds"] = seeds | {"graph": None}
    return settings | changed


def _draws_graphs(node: Node, instantiate: Instantiate) -> bool:
    """Whether the wiring depends on the random stream of graphs, as all graph models do."""
    if node.get("_partial_"):
        return True
    from expanders.wiring.draw import streams_of  # imports PyTorch, as the wiring itself does

    return "graph" in streams_of(instantiate(without(node, *OPTIONAL["graph"])))


@lru_cache
def _width(groups: str, instantiate: Instantiate) -> float:
    from expanders.wiring.draw import live_parameters  # imports PyTorch, which takes seconds
    from expanders.wiring.thin import width_of

    node: dict[str, Node] = json.loads(groups)
    model = without(node["model"], "skip")
    if "width" not in signature(function_of(model, "model")).parameters:
        remedy = "this model has no width to make thin; vgg16bn and our ResNets have one"
        raise SettingError("graph", "thin", remedy)
    model["num_classes"] = instantiate(node["dataset"]["source"]).num_classes

    def build(width: float) -> Any:
        return instantiate(model | {"width": width})

    whole = build(model.get("width", 1))
    degree, skip = instantiate(node["degree"]), node["model"].get("skip")
    return width_of(build, live_parameters(whole, degree=degree, skip=skip))
