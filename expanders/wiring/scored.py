"""Wirings from scores: the edges without which the dense model would lose most."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from expanders.errors import SettingError, check_choice
from expanders.graphs.edges import IntArray
from expanders.seeds import stream
from expanders.wiring import scores, selection
from expanders.wiring.draw import LabelledImages, Task
from expanders.wiring.scores import Batch, Score
from expanders.wiring.selection import BoolArray, FloatArray

BATCH_SIZE = 100  # images that a score sees at a time, whatever the training's batches are

Scope = Literal["network", "layer"]
Floor = Literal["edge", "vertex"]
Placement = Literal["scored", "random"]


@dataclass(frozen=True)
class Scored:
    """The wiring method that keeps the edges of the highest scores.

    Attributes:
        score: a function of `expanders.wiring.scores`, or a partial of one.
        images: how many labelled training images the score sees; 0 for one without data.
        rounds: how often to score anew what is left, and to remove more of it: exponentially, from
            all edges to the budget. What was removed stays so.
        scope: where edges compete. In the "network": the score spreads the policy's total of
            weights over the layers, by its value per weight (of single weights, as published);
            the total is never exceeded, and missed by less than one kernel. In a "layer": each
            layer has the policy's edges.
        floor: what a layer keeps whatever the scores: its best "edge", or for every "vertex", an
            input or output channel, its best edge (max(num_left, num_right) edges in all).
        placement: "random" draws as many edges in every layer at random: whether it matters which
            ones (Frankle et al., ICLR 2021; Su et al., NeurIPS 2020).
    """

    score: Score
    images: int = 0
    rounds: int = 1
    scope: Scope = "network"
    floor: Floor = "edge"
    placement: Placement = "scored"

    def __post_init__(self) -> None:
        check_choice("graph.scope", self.scope, Scope)
        check_choice("graph.floor", self.floor, Floor)
        check_choice("graph.placement", self.placement, Placement)
        if self.images < 0 or self.images == 1:
            remedy = "must be 2 or more, or 0 for a score without data"
            raise SettingError("graph.images", self.images, remedy)
        if self.images == 0 and self._function in (scores.snip, scores.grasp):
            remedy = f"{self.name} scores by training images: give 2 or more"
            raise SettingError("graph.images", self.images, remedy)
        if self.rounds < 1:
            raise SettingError("graph.rounds", self.rounds, "must be 1 or more")

    @property
    def _function(self) -> Score:
        return self.score.func if isinstance(self.score, partial) else self.score

    @property
    def name(self) -> str:
        """The score's name."""
        return getattr(self._function, "__name__", repr(self._function))

    @property
    def streams(self) -> tuple[str, ...]:
        """The initial weights; the training images, if any; random places, if asked for."""
        data = ("data",) if self.images else ()
        return ("init", *data, *(("graph",) if self.placement == "random" else ()))

    def draw(self, task: Task) -> tuple[dict[str, IntArray], dict[str, float]]:
        """The edges of every layer; see `expanders.wiring.draw.Method`."""
        kept, facts = _Pruning(self, task).run()
        if self.placement == "random":
            kept = {name: _at_random(edges, task.seed, name) for name, edges in kept.items()}
        return {name: _as_edges(edges) for name, edges in kept.items()}, facts


class _Pruning:
    """One model on its way from all edges to its budget.

    Arrays of a layer have the shape (num_right, num_left, taps), see `selection`.
    """

    def __init__(self, method: Scored, task: Task) -> None:
        self.method = method
        self.task = task
        taps = {s.name: s.taps(task.granularity) for s in task.shapes}
        self.sizes = {s.name: s.weights_per_edge // taps[s.name] for s in task.shapes}
        self.num_weights = {
            shape.name: budget * shape.weights_per_edge
            for shape, budget in zip(task.shapes, task.budgets, strict=True)
        }
        self.kept: dict[str, BoolArray] = {
            s.name: np.ones((s.num_right, s.num_left, taps[s.name]), dtype=bool)
            for s in task.shapes
        }
        self.reserved = self.kept
        self._check_floor()

    def run(self) -> tuple[dict[str, BoolArray], dict[str, float]]:
        """The edges kept at the end, and what the floor changed in the last round."""
        task, method = self.task, self.method
        task.model.requires_grad_(True)
        masks = {name: self._mask(name) for name in self.kept}
        batches = [] if task.images is None else _batches(task.images)
        for number in range(1, method.rounds + 1):
            for name, mask in masks.items():
                kept = torch.from_numpy(self.kept[name]).view(mask.shape)
                mask.data.copy_(kept)
            scored = method.score(task.model, masks, batches)
            scores = {name: self._removed(name, score) for name, score in scored.items()}
            self._check(scores, number)
            self.reserved = {n: self._reserve(n, values) for n, values in scores.items()}
            self.kept = self._select(scores, self.reserved, number / method.rounds)
        nothing = {name: np.zeros_like(edges) for name, edges in self.kept.items()}
        free = self._select(scores, nothing, 1.0)
        moved = sum(int((self.kept[name] & ~free[name]).sum()) for name in free)
        empty = sum(not edges.any() for edges in free.values())
        return self.kept, {"floor_edges": moved, "floor_layers": empty}

    def _mask(self, name: str) -> Tensor:
        weight = self.task.model.get_parameter(f"{name}.weight")
        num_right, num_left, taps = self.kept[name].shape
        kernel = weight.shape[2:] if taps > 1 else (1,) * (weight.ndim - 2)
        shape = (num_right, num_left, *kernel)
        return torch.ones(shape, dtype=torch.float64, device=weight.device, requires_grad=True)

    def _removed(self, name: str, score: Tensor) -> FloatArray:
        """Scores as an array, -inf where an edge was removed before."""
        kept = self.kept[name]
        values = score.detach().cpu().numpy().reshape(kept.shape)
        return np.where(kept, values, -np.inf)

    def _check(self, scores: dict[str, FloatArray], number: int) -> None:
        for name, values in scores.items():
            if not np.isfinite(values[self.kept[name]]).all():
                remedy = f"the scores of layer {name} are infinite or not numbers (round {number})"
                raise SettingError("graph", self.method.name, f"{remedy}; check weights and images")
        if any(values[self.kept[name]].any() for name, values in scores.items()):
            return
        if number > 1:
            remedy = f"after round {number - 1} no path through the network is left, and all scores"
            remedy += " are zero; choose more rounds, or graph.floor=vertex"
            raise SettingError("graph.rounds", self.method.rounds, remedy)
        remedy = "all scores are zero: no gradient reaches the weights; check weights and images"
        raise SettingError("graph", self.method.name, remedy)

    def _reserve(self, name: str, scores: FloatArray) -> BoolArray:
        """The edges of one layer that the floor keeps: the best ones of this round."""
        if self.method.floor == "edge":
            return selection.best_edge(scores)
        covering, before = selection.cover(scores), self.reserved[name]
        # After a round the edges left may have no cover this small but the one that was reserved.
        return covering if covering.sum() <= max(scores.shape[:2]) else before

    def _select(
        self, scores: dict[str, FloatArray], reserved: dict[str, BoolArray], progress: float
    ) -> dict[str, BoolArray]:
        """The edges to keep at this progress (0 to 1) of the pruning."""
        whole = {name: values.size * self.sizes[name] for name, values in scores.items()}
        if self.method.scope == "network":
            budget = selection.shrunk(sum(whole.values()), sum(self.num_weights.values()), progress)
            return selection.best_over(scores, self.sizes, budget, reserved)
        kept: dict[str, BoolArray] = {}
        for name, values in scores.items():
            budget = selection.shrunk(whole[name], self.num_weights[name], progress)
            kept |= selection.best_over({name: values}, self.sizes, budget, reserved)
        return kept

    def _check_floor(self) -> None:
        """Raise `SettingError` where the floor needs more than the budget."""
        if self.method.floor == "edge":
            return  # a degree policy gives every layer an edge
        needed = {n: max(kept.shape[:2]) * self.sizes[n] for n, kept in self.kept.items()}
        by_layer = self.method.scope == "layer"
        short = [n for n in needed if by_layer and needed[n] > self.num_weights[n]]
        total, given = sum(needed.values()), sum(self.num_weights.values())
        if short:
            total, given = needed[short[0]], self.num_weights[short[0]]
        if total > given:
            where = f"layer {short[0]}" if short else "the network"
            remedy = f"an edge for every channel of {where} takes {total} weights of {given}"
            raise SettingError("graph.floor", "vertex", f"{remedy}; raise degree, or use edge")


def _batches(images: LabelledImages) -> list[Batch]:
    """The images in batches of at most `BATCH_SIZE`, as equal as can be."""
    inputs, labels = images
    count = max(1, -(-len(labels) // BATCH_SIZE))
    pairs = zip(inputs.tensor_split(count), labels.tensor_split(count), strict=True)
    return [(x, y, len(y) / max(1, len(labels))) for x, y in pairs]


def _at_random(edges: BoolArray, seed: int, name: str) -> BoolArray:
    """As many edges, anywhere in the layer."""
    rng = stream(seed, "graph", name)
    places = np.zeros(edges.size, dtype=bool)
    places[rng.choice(edges.size, size=int(edges.sum()), replace=False)] = True
    return places.reshape(edges.shape)


def _as_edges(kept: BoolArray) -> IntArray:
    """A layer's edges, sorted; on the left are taps, those of each input channel in turn."""
    right, left = np.nonzero(kept.reshape(kept.shape[0], -1))
    return np.stack([left, right])


magnitude = partial(Scored, scores.magnitude)
snip = partial(Scored, scores.snip, images=100)
grasp = partial(Scored, scores.grasp, images=100)
synflow = partial(Scored, scores.synflow, rounds=100)
