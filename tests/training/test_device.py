import pytest
import torch
from torch import nn

from expanders.errors import SettingError
from expanders.training import device as devices

CPU = torch.device("cpu")
MANY, FEW = 1_000_000, 1000


@pytest.fixture
def modes(monkeypatch):
    """The modes that something is compiled with, the trial left out."""
    asked = []

    def compile(model, *, mode=None, dynamic=None):
        asked.extend([mode] if mode else [])
        return model

    monkeypatch.setattr(torch, "compile", compile)
    return asked


@pytest.mark.parametrize(
    ("mode", "device", "num_images", "expected"),
    [
        ("auto", "cpu", FEW, []),
        ("auto", "cpu", MANY, ["default"]),
        ("none", "cpu", MANY, []),
        ("default", "cpu", FEW, ["default"]),
        ("reduce-overhead", "cpu", FEW, ["reduce-overhead"]),
    ],
)
def test_compiles_where_it_pays_or_was_asked_for(modes, mode, device, num_images, expected):
    model = nn.Linear(2, 2)
    devices.compiled(model, mode, torch.device(device), num_images)
    assert modes == expected


def test_auto_does_without_a_compiler_and_a_named_mode_is_refused(monkeypatch, caplog):
    def compile(*_, **__):
        raise RuntimeError("no C++ compiler\nand a long story")

    monkeypatch.setattr(torch, "compile", compile)
    model = nn.Linear(2, 2)
    assert devices.compiled(model, "auto", CPU, MANY) is model
    assert "not compiled, which is slower: no C++ compiler" in caplog.text
    refusal = r"^compile=default: nothing can be compiled here \(no C\+\+ compiler\); use compile"
    with pytest.raises(SettingError, match=refusal):
        devices.compiled(model, "default", CPU, FEW)


@pytest.mark.filterwarnings("ignore")
def test_many_networks_one_after_the_other_are_all_compiled():
    """PyTorch compiles one piece of code at most eight times, unless it forgets."""
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for width in range(1, 11):
            model = devices.compiled(nn.Linear(width, 1), "default", CPU, FEW)
            assert model(torch.zeros(3, width)).shape == (3, 1)
