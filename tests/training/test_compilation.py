import logging

import pytest
import torch
from torch import nn

from expanders.errors import SettingError
from expanders.training import compilation
from expanders.training.compilation import Compilation, chosen
from expanders.wiring import native

CPU = torch.device("cpu")
MANY, SOME, FEW = 1_000_000, 20_000, 1000


def compiled(model, mode, norm, device, num_images):
    return compilation.compiled(model, chosen(model, mode, norm, device, num_images))


@pytest.fixture
def asked(monkeypatch):
    """What is compiled how, the trial left out: a mode, or that of a backend that joins norms."""
    asked = []

    def compile(model, *, mode=None, backend=None, dynamic=None):
        asked.extend(["norms", backend.mode] if backend else [mode] if mode else [])
        return model

    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr(native, "is_available", lambda: True)
    return asked


@pytest.mark.parametrize(
    ("mode", "norm", "device", "num_images", "with_norm", "without"),
    [
        ("auto", "auto", "cpu", FEW, [], []),
        ("auto", "auto", "cpu", SOME, ["norms", None], []),
        ("auto", "auto", "cpu", MANY, ["norms", None], ["default"]),
        ("auto", "torch", "cpu", MANY, ["default"], ["default"]),
        ("none", "auto", "cpu", MANY, [], []),
        ("none", "native", "cpu", FEW, ["norms", None], ["norms", None]),
        ("default", "auto", "cpu", FEW, ["norms", "default"], ["default"]),
        ("reduce-overhead", "torch", "cpu", FEW, ["reduce-overhead"], ["reduce-overhead"]),
    ],
)
def test_compiles_where_it_pays_or_was_asked_for(
    asked, mode, norm, device, num_images, with_norm, without
):
    for model, expected in ((nn.BatchNorm2d(2), with_norm), (nn.Linear(2, 2), without)):
        compiled(model, mode, norm, torch.device(device), num_images)
        assert asked == expected
        asked.clear()


@pytest.mark.parametrize("before", [Compilation("none", "torch"), Compilation("default", "native")])
@pytest.mark.parametrize("num_images", [FEW, MANY])
def test_auto_stays_with_what_it_chose_before(asked, before, num_images):
    model = nn.BatchNorm2d(2)
    assert chosen(model, "auto", "auto", CPU, num_images, before) == before
    typed = Compilation("reduce-overhead", "torch")
    assert chosen(model, typed.compile, typed.norm, CPU, num_images, before) == typed


def test_auto_does_without_a_compiler_and_a_named_mode_is_refused(monkeypatch, caplog):
    def compile(*_, **__):
        raise RuntimeError("no C++ compiler\nand a long story")

    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr(native, "is_available", lambda: False)
    for model in (nn.Linear(2, 2), nn.BatchNorm2d(2)):
        caplog.clear()
        assert compiled(model, "auto", "auto", CPU, MANY) is model
        assert "not compiled, which is slower: no C++ compiler" in caplog.text
        refusal = r"^compile=default: nothing can be compiled here \(no C\+\+ compiler\); use comp"
        with pytest.raises(SettingError, match=refusal):
            compiled(model, "default", "auto", CPU, FEW)
        with pytest.raises(SettingError, match=r"^norm=native: needs a CPU and a C\+\+20 compiler"):
            compiled(model, "auto", "native", CPU, MANY)


@pytest.mark.filterwarnings("ignore")
def test_many_networks_one_after_the_other_are_all_compiled():
    """PyTorch compiles one piece of code at most eight times, unless it forgets."""
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for width in range(1, 11):
            model = compiled(nn.Linear(width, 1), "default", "torch", CPU, FEW)
            assert model(torch.zeros(3, width)).shape == (3, 1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(not native.is_available(), reason="no C++ compiler")
@pytest.mark.parametrize("mode", ["none", "default"])
def test_says_what_the_operator_computes(mode, caplog):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    x = torch.randn(8, 3, 6, 6)
    expected = torch.autograd.grad(model(x).square().sum(), model.parameters())
    with caplog.at_level(logging.INFO):
        run = compiled(model, mode, "native", CPU, FEW)
        got = torch.autograd.grad(run(x).square().sum(), model.parameters())
    assert "batch norm: 1 by the C++ operator" in caplog.text
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
