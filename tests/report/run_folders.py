"""Run folders as training leaves them, made in no time."""

import json
from pathlib import Path
from typing import Any


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
) -> Path:
    """Write one run folder into `root` and return it.

    It finished if it has an `accuracy`, failed if it has a `failure`, and was cut off otherwise.
    `options` are the graph model's, `seeds` its pinned streams, `fan` the scale of first weights.
    """
    pinned = {"graph": None, "init": None, "data": None} | (seeds or {})
    words = "-".join(
        f"{k}{v}" for k, v in (*pinned.items(), *(options or {}).items()) if v is not None
    )
    degree_word = "" if graph == "dense" else f"-d{degree}"
    folder = root / f"{model}-{dataset}-{graph}{degree_word}-s{seed}-{budget}{epochs}{words}{fan}"
    folder.mkdir(parents=True)
    choices = {"model": model, "graph": graph, "dataset": dataset, "optimizer": "sgd"}
    config: dict[str, Any] = {
        "choices": choices,
        "epochs": epochs,
        "seed": seed,
        "seeds": pinned,
        "init": {"fan": fan},
        "model": {"_target_": f"expanders.models.{model}", "skip": []},
        "graph": {
            "_target_": f"expanders.graphs.{graph}",
            "measures": "default",
            **(options or {}),
        },
        "dataset": {"root": "/data", "val_fraction": 0.1},
    }
    if graph != "dense":
        choices["degree"] = "constant"
        policy = "expanders.wiring.degrees.constant"
        config["degree"] = {"_target_": policy, "value": degree, "budget": budget}
    _json(folder / "config.json", config)
    done = epochs if accuracy is not None else epochs // 2
    top = accuracy or 0.5
    rows = [_metrics(epoch, top * (1 - 0.5**epoch)) for epoch in range(1, done + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = [("features.0", "kept: skipped"), ("features.3", ""), ("features.7", "")]
    edges = 4096 if graph == "dense" else round(64 * degree)
    report = [{"name": name, "edges": edges, "note": note} for name, note in names]
    _json(folder / "graph.json", {"layers": report})
    (folder / "last.pt").write_bytes(b"")
    if accuracy is not None:
        gap = {"graph/normalised_gap_mean": 0.1, "graph/ramanujan_ratio_mean": 0.95}
        no_gap = dict.fromkeys(gap)
        size = {"params/live": 14_990_922 if graph == "dense" else live, "params/dense": 14_990_922}
        size |= {"graph/effective_parameters": live - 1000, "seconds": 12.5}
        values = size | (no_gap if graph == "dense" else gap | (measures or {}))
        _json(folder / "summary.json", {"test/accuracy": accuracy, "best_epoch": epochs, **values})
    elif failure is not None:
        _json(folder / "failure.json", {"error": failure, "traceback": "Traceback ..."})
    return folder


def _metrics(epoch: int, accuracy: float) -> dict[str, float]:
    return {"epoch": epoch, "train/loss": 2 * (1 - accuracy), "val/accuracy": accuracy}


def _json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content))
