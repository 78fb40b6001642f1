"""Wirings from scores: the edges without which the dense model would lose most."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from expanders.errors import SettingError
from expanders.graphs.edges import IntArray
from expanders.wiring import scores, selection
from expanders.wiring.draw import LabelledImages, Task
from expanders.wiring.scores import Batch, Score

BATCH_SIZE = 100  # images that a score sees at a time, whatever the training's batches are
Scope = Literal["network", "layer"]


@dataclass(frozen=True)
class Scored:
    """The wiring method that keeps the edges of the highest scores.

    Attributes:
        score: a function of `expanders.wiring.scores`, or a partial of one.
        images: how many labelled training images the score sees; 0 for one without data.
        scope: where edges compete. In the "network": the score spreads the policy's total of
            weights over the layers, by its value per weight; as published. In a "layer": each layer
            has the policy's edges.
    """

    score: Score
    images: int = 0
    scope: Scope = "network"

    def __post_init__(self) -> None:
        for setting, options in (("scope", get_args(Scope)),):
            if getattr(self, setting) not in options:
                remedy = f"must be {' or '.join(options)}"
                raise SettingError(f"graph.{setting}", getattr(self, setting), remedy)
        if self.images < 0 or self.images == 1:
            remedy = "must be 2 or more, or 0 for a score without data"
            raise SettingError("graph.images", self.images, remedy)

    @property
    def name(self) -> str:
        """The score's name."""
        function = self.score.func if isinstance(self.score, partial) else self.score
        return getattr(function, "__name__", repr(function))

    @property
    def streams(self) -> tuple[str, ...]:
        """The initial weights, and the training images where the score sees some."""
        return ("init", "data") if self.images else ("init",)

    def draw(self, task: Task) -> tuple[dict[str, IntArray], dict[str, float]]:
        """The edges of every layer; see `expanders.wiring.draw.Method`."""
        task.model.requires_grad_(True)
        masks = {shape.name: self._mask(task, shape.name) for shape in task.shapes}
        batches = _batches(task.images) if task.images and self.images else []
        scores = self.score(task.model, masks, batches)
        values = {name: score.cpu().numpy().ravel() for name, score in scores.items()}
        self._check(values)
        kept = self._select(task, values)
        edges = {
            shape.name: np.stack(np.nonzero(kept[shape.name].reshape(-1, shape.num_left))[::-1])
            for shape in task.shapes
        }
        return edges, {}

    def _mask(self, task: Task, name: str) -> Tensor:
        weight = task.model.get_parameter(f"{name}.weight")
        shape = (*weight.shape[:2], *[1] * (weight.ndim - 2))
        return torch.ones(shape, dtype=weight.dtype, device=weight.device, requires_grad=True)

    def _check(self, scores: Mapping[str, NDArray[np.float64]]) -> None:
        for name, values in scores.items():
            if not np.isfinite(values).all():
                remedy = f"scores of layer {name} are infinite or not numbers; check its weights"
                raise SettingError("graph", self.name, remedy)
        if not any(values.any() for values in scores.values()):
            remedy = "all scores are zero: no gradient reaches the weights"
            raise SettingError("graph", self.name, remedy)

    def _select(
        self, task: Task, scores: Mapping[str, NDArray[np.float64]]
    ) -> dict[str, NDArray[np.bool_]]:
        """Which edges of each layer to keep."""
        sizes = {s.name: np.full(s.pairs, s.weights_per_edge) for s in task.shapes}
        weights = {
            shape.name: budget * shape.weights_per_edge
            for shape, budget in zip(task.shapes, task.budgets, strict=True)
        }
        if self.scope == "layer":
            return {
                name: selection.best(values, sizes[name], weights[name])
                for name, values in scores.items()
            }
        names = [shape.name for shape in task.shapes]
        values, all_sizes = (np.concatenate([d[n] for n in names]) for d in (scores, sizes))
        kept = selection.best(values, all_sizes, sum(weights.values()))
        pieces = selection.split(kept, [shape.pairs for shape in task.shapes])
        return dict(zip(names, pieces, strict=True))


def _batches(images: LabelledImages) -> list[Batch]:
    """The images in batches of at most `BATCH_SIZE`, as equal as can be."""
    inputs, labels = images
    count = -(-len(labels) // BATCH_SIZE)
    pairs = zip(inputs.tensor_split(count), labels.tensor_split(count), strict=True)
    return [(x, y, len(y) / len(labels)) for x, y in pairs]


magnitude = partial(Scored, scores.magnitude)
snip = partial(Scored, scores.snip, images=100)
