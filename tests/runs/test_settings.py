import json
from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from expanders.errors import SettingError
from expanders.runs.settings import check_arguments


def function(
    count: int = 1,
    rate: float = 0.5,
    mode: Literal["a", "b"] = "a",
    limit: float | None = None,
    flag: bool = False,
    sizes: Sequence[int] = (),
    name: str = "",
    free=None,
    any_: Any = None,
    number: Real = 1,
    path: Path = Path(),
) -> None: ...


def annotated_for_checkers(x: "NowhereToBeFound" = 1) -> None: ...  # noqa: F821


@pytest.mark.parametrize(
    "arguments",
    [
        {"count": 3, "rate": 2, "mode": "b", "limit": 1.5, "flag": True, "sizes": [1], "name": "x"},
        {"limit": None},
        {"free": "anything"},
        {"any_": "anything", "number": 3},
        {},
    ],
)
def test_takes_what_fits(arguments):
    check_arguments(function, arguments, "group")


def test_types_that_cannot_be_had_are_not_judged():
    check_arguments(annotated_for_checkers, {"x": "anything"}, "group")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("count", "ten", "must be an integer"),
        ("count", 1.5, "must be an integer"),
        ("count", True, "must be an integer"),
        ("rate", "abc", "must be a number"),
        ("rate", None, "must be a number"),
        ("mode", "c", "must be a or b"),
        ("limit", "x", "must be a number or null"),
        ("flag", 1, "must be true or false"),
        ("sizes", "12", "must be a list"),
        ("name", 3, "must be text"),
        ("path", "here", "must be <class 'pathlib.Path'>"),
        ("nmae", 3, "no such setting here; there are: count, rate"),
    ],
)
def test_refuses_what_does_not(name, value, words):
    shown = json.dumps(value) if value is None or value is True else value
    with pytest.raises(SettingError, match=rf"^group.{name}={shown}: {words}"):
        check_arguments(function, {name: value}, "group")
    with pytest.raises(SettingError, match=rf"^{name}="):
        check_arguments(function, {name: value}, "")


def test_reads_the_frameworks_optimizers():
    check_arguments(torch.optim.AdamW, {"lr": 1e-3, "betas": [0.9, 0.99]}, "optimizer")
    with pytest.raises(SettingError, match="optimizer.lr=fast: must be a number"):
        check_arguments(torch.optim.SGD, {"lr": "fast"}, "optimizer")
