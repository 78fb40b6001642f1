"""The names of metrics stand in one place."""

import ast
import subprocess
import sys
from dataclasses import replace

from expanders import models, sparsify
from expanders.training import metrics
from expanders.wiring import connectivity
from expanders.wiring.scored import magnitude
from tests.conftest import ROOT

NAMES = {
    value for name, value in vars(metrics).items() if name.isupper() and isinstance(value, str)
}
QUALIFIED = {name for name in NAMES if "/" in name}


def test_no_other_module_spells_a_metric():
    """`epoch` and `seconds` are words of the language too; names with a slash are metrics only."""
    paths = [*(ROOT / "expanders").rglob("*.py"), *(ROOT / "hydra_plugins").rglob("*.py")]
    spelt = {
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value}"
        for path in [*paths, ROOT / "launch.py"]
        if path.name != "metrics.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in QUALIFIED
    }
    assert not spelt
    assert len(QUALIFIED) > 10


def test_names_are_distinct_and_made_alike():
    assert metrics.VAL_ACCURACY == metrics.of("val", metrics.ACCURACY) == "val/accuracy"
    assert metrics.EDGES == metrics.graph("edges") == "graph/edges"
    values = [
        value for name, value in vars(metrics).items() if name.isupper() and isinstance(value, str)
    ]
    assert len(values) == len(set(values))


def test_a_wiring_tells_each_measure_that_has_a_name():
    model = models.vgg16bn(num_classes=10, width=0.1)
    report = sparsify(model, magnitude(), degree=3)
    told = replace(report, network=connectivity.measure(model, (3, 32, 32))).summary()
    on_wandb_only = {metrics.LAYERS, metrics.PICTURE}
    named = {name for name in NAMES if name.startswith("graph/")} - on_wandb_only
    assert len(named) > 10
    assert named <= {metrics.graph(key) for key in told}


def test_names_are_had_without_pytorch():
    code = "import expanders.training.metrics, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
