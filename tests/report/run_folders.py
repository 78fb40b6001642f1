"""Run folders as training leaves them, made in no time."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expanders.files import read_sealed, write_sealed
from expanders.runs.folders import run_digest, write_summary


def write_run(
    root: Path,
    graph: str = "rreg",
    degree: float = 3,
    seed: int = 0,
    accuracy: float | None = 0.9,
    *,
    model: str = "vgg16bn",
    dataset: str = "digits",
    epochs: int = 3,
    live: int = 130_000,
    measures: dict[str, float | None] | None = None,
    failure: str | None = None,
    seeds: dict[str, int] | None = None,
    options: dict[str, Any] | None = None,
    budget: str = "equal",
    fan: str = "dense",
    lr: float = 0.05,
    streams: Sequence[str] = ("graph",),
    val: float | None = None,
    redraw: bool = False,
) -> Path:
    """Write one run folder into `root` and return it.

    It finished if it has an `accuracy`, failed if it has a `failure`, and was cut off otherwise.
    `options` are the graph model's, `seeds` its pinned streams, `fan` the scale of first weights,
    `streams` those that its edges depend on, `val` its accuracy on the validation images, `redraw`
    whether the weights were drawn anew after the edges.
    """
    pinned = {"graph": None, "init": None, "data": None} | (seeds or {})
    words = "-".join(
        f"{k}{v}" for k, v in (*pinned.items(), *(options or {}).items()) if v is not None
    )
    degree_word = "" if graph == "dense" else f"-d{degree}"
    folder = (
        root
        / f"{model}-{dataset}-{graph}{degree_word}-s{seed}-{budget}{epochs}{words}{fan}{redraw}{lr}"
    )
    folder.mkdir(parents=True)
    choices = {"model": model, "graph": graph, "dataset": dataset, "optimizer": "sgd"}
    dense = graph == "dense"
    config: dict[str, Any] = {
        "choices": choices,
        "epochs": epochs,
        "seed": seed,
        "seeds": pinned,
        "init": {"fan": fan, "redraw": redraw},
        "model": {"_target_": f"expanders.models.{model}", "skip": []},
        "graph": {"_target_": f"expanders.graphs.{graph}", "measures": "default"},
        "dataset": {"root": "/data", "val_fraction": 0.1},
        "optimizer": {"lr": lr},
    }
    definition: dict[str, Any] = {"choices": choices, "seed": seed, "epochs": epochs}
    definition["seeds"] = {k: v for k, v in pinned.items() if v is not None}
    definition["optimizer"] = {"lr": lr} if lr != 0.05 else {}
    config["graph"] |= options or {}
    definition["graph"] = dict(options or {})
    if graph == "thin":
        config["model"]["width"] = definition.setdefault("model", {})["width"] = 0.1 * degree
    if not dense:
        choices["degree"] = "constant"
        policy = "expanders.wiring.degrees.constant"
        config["degree"] = {"_target_": policy, "value": degree, "budget": budget}
        definition["degree"] = {} if degree == 3 else {"value": degree}
        definition["degree"] |= {} if budget == "equal" else {"budget": budget}
        definition["init"] = {} if fan == "dense" else {"fan": fan}
        definition["init"] |= {"redraw": True} if redraw else {}
    config["definition"] = definition
    write_sealed(folder / "config.json", config)
    done = epochs if accuracy is not None else epochs // 2
    top = accuracy or 0.5
    rows = [_metrics(epoch, top * (1 - 0.5**epoch)) for epoch in range(1, done + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = [("features.0", "skipped"), ("features.3", ""), ("features.7", "")]
    edges = 4096 if dense else round(64 * degree)
    layers = [{"name": name, "edges": edges, "kept": kept} for name, kept in names]
    _json(folder / "graph.json", {"layers": layers, "streams": [] if dense else streams})
    (folder / "last.pt").write_bytes(b"")
    if accuracy is not None:
        gap = {"graph/normalised_gap_mean": 0.1, "graph/ramanujan_ratio_mean": 0.95}
        no_gap = dict.fromkeys(gap)
        size = {"params/live": 14_990_922 if dense else live, "params/dense": 14_990_922}
        if graph == "thin":
            size["params/dense"] = live
        size |= {"graph/effective_parameters": live - 1000, "seconds": 12.5}
        values = size | (no_gap if dense else gap | (measures or {}))
        scores = {"test/accuracy": accuracy, "val/accuracy": accuracy if val is None else val}
        write_summary(folder, scores | {"best_epoch": epochs, **values}, run_digest(config))
    elif failure is not None:
        _json(folder / "failure.json", {"error": failure, "traceback": "Traceback ..."})
    return folder


def change(path: Path, **changes: Any) -> None:
    """Write a sealed file of a run anew, with other values."""
    write_sealed(path, read_sealed(path) | changes)


def _metrics(epoch: int, accuracy: float) -> dict[str, float]:
    return {"epoch": epoch, "train/loss": 2 * (1 - accuracy), "val/accuracy": accuracy}


def _json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content))
