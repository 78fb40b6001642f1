import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import expanders
from expanders import graphs, models
from expanders.errors import DamagedError, SettingError
from expanders.runs import checkpoint
from expanders.runs.checkpoint import Blueprint, Origin, load_state, origin_of, read, wiring_of
from expanders.seeds import stream
from expanders.wiring.draw import draw
from expanders.wiring.layers import SparseConv2d, SparseLinear
from expanders.wiring.wire import sparsify, wire

VGG = Blueprint("expanders.models.vgg16bn", {"num_classes": 10})


def wired(seed=0, degree=3, graph=graphs.rreg):
    model = VGG.build()
    sparsify(model, graph, degree, seed)
    return model.eval()


@pytest.mark.parametrize("graph", [graphs.rreg, graphs.dense])
def test_one_call_loads_a_network_with_identical_outputs(tmp_path, graph):
    model = wired(graph=graph)
    model(torch.randn(4, 3, 32, 32))
    expanders.save(tmp_path / "best.pt", model, VGG)
    x = torch.randn(2, 3, 32, 32)
    loaded = expanders.load(tmp_path / "best.pt")
    assert not loaded.training
    assert torch.equal(loaded(x), model(x))


def test_a_degree_3_network_is_small_in_its_file(tmp_path):
    expanders.save(tmp_path / "best.pt", wired(), VGG)
    assert (tmp_path / "best.pt").stat().st_size < 1_500_000
    assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]


def test_networks_from_elsewhere_are_passed_in(tmp_path):
    path = tmp_path / "best.pt"

    def build():
        return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))

    model = build()
    sparsify(model)
    expanders.save(path, model, Blueprint("os.system", {"command": "touch harm"}))
    with pytest.raises(SettingError, match="was built by os.system: pass model= to load it"):
        expanders.load(path)
    expanders.save(path, model, Blueprint("expanders.models.torchvision.os.getcwd"))
    with pytest.raises(SettingError, match="pass model= to load it"):
        expanders.load(path)
    x = torch.randn(3, 8)
    assert torch.equal(expanders.load(path, build())(x), model(x))
    with pytest.raises(SettingError, match="does not fit the model"):
        expanders.load(path, nn.Sequential(nn.ReLU()))
    with pytest.raises(SettingError, match="does not fit"):
        expanders.load(path, nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)))


def by_hand(seed=0, num_edges=20):
    """A convolution and a linear layer made sparse by hand, and a dense layer to wire."""

    def edges(num_left, num_right):
        rng = stream(seed, "graph", num_left)
        return torch.from_numpy(graphs.random(num_left, num_right, num_edges, rng))

    conv = nn.Sequential(SparseConv2d(4, 8, (3, 3), edges(4, 8)), nn.ReLU(), nn.Flatten())
    return nn.Sequential(conv, SparseLinear(8, 6, edges(8, 6)), nn.ReLU(), nn.Linear(6, 5))


def test_layers_made_sparse_by_hand_are_filled_as_they_are(tmp_path):
    path = tmp_path / "best.pt"
    model = by_hand()
    sparsify(model, skip=[])  # the last layer
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    expanders.save(path, model, Blueprint("elsewhere.net"))
    x = torch.randn(3, 4, 3, 3)
    for other in (by_hand(), copy.deepcopy(model)):
        assert torch.equal(expanders.load(path, other)(x), model(x))
    other_graph, other_count = by_hand(seed=1), by_hand(num_edges=21)
    other_kind = by_hand()
    other_kind[1] = nn.ReLU()
    for other, words in (
        (other_graph, "does not fit: 0.0.edges is another graph"),
        (other_count, r"does not fit: 0.0.weight has shape \(20, 3, 3\), in the model \(21, 3, 3"),
        (other_kind, "does not fit the model: .*is a ReLU, not Conv2d or Linear"),
        (nn.Sequential(), "does not fit the model: .*the wiring has it, and the model has not"),
    ):
        with pytest.raises(SettingError, match=words):
            expanders.load(path, other)


def test_files_are_saved_where_they_are_loaded_from(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~").mkdir()
    model = by_hand()
    expanders.save("~/best.pt", model, Blueprint("elsewhere.net"))
    assert (tmp_path / "best.pt").is_file()
    assert list((tmp_path / "~").iterdir()) == []
    expanders.load("~/best.pt", model)


def change(state, name, value):
    return {**state, name: value}


def test_a_checkpoint_that_does_not_fit_is_refused_with_the_first_difference(tmp_path):
    model = wired()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    other_shape = wired(degree=4).state_dict()
    other_graph = wired(seed=1).state_dict()
    dense = VGG.build().state_dict()
    without = {name: value for name, value in before.items() if name != "classifier.0.bias"}
    for state, words in (
        (other_shape, r"features.3.weight has shape \(256, 3, 3\), in the model \(192, 3, 3\)"),
        (other_graph, "features.3.edges is another graph"),
        (dense, "features.0.weight has shape"),
        (without, "has no classifier.0.bias"),
        ({**before, "extra": torch.zeros(1)}, "has extra, which the model lacks"),
    ):
        with pytest.raises(SettingError, match=rf"checkpoint=some.pt: does not fit: {words}"):
            load_state(model, state, "some.pt")
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def flipped(content, position):
    """One bit of a weight is another."""
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


def test_what_is_no_checkpoint_is_refused(tmp_path):
    path = tmp_path / "file.pt"
    with pytest.raises(SettingError, match="no such file"):
        read(path)
    whole = tmp_path / "whole.pt"
    expanders.save(whole, models.resnet32(), Blueprint("expanders.models.resnet32"))
    torch.save({"state": {}}, tmp_path / "foreign.pt")
    for content in (
        b"",
        b"not a checkpoint",
        whole.read_bytes()[:1000],
        whole.read_bytes()[:-200],
        flipped(whole.read_bytes(), len(whole.read_bytes()) // 2),
        b"(foreign",
        (tmp_path / "foreign.pt").read_bytes(),
    ):
        path.write_bytes(content)
        with pytest.raises(DamagedError, match="is damaged, or not a checkpoint"):
            read(path)


def test_what_cannot_be_read_is_not_damaged(tmp_path, monkeypatch):
    """And says so, whatever keeps it from being read."""
    path = tmp_path / "best.pt"
    expanders.save(path, models.resnet32(), Blueprint("expanders.models.resnet32"))

    def fails_with(error):
        def fail(*_, **__):
            raise error

        return fail

    too_large = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")
    for target, name, error, words in (
        (Path, "read_bytes", PermissionError(13, "Permission denied"), "Permission denied"),
        (Path, "read_bytes", OSError(5, "Input/output error"), "Input/output error"),
        (Path, "is_file", OSError(24, "Too many open files"), "Too many open files"),
        (torch, "load", OSError(24, "Too many open files"), "Too many open files"),
        (Path, "read_bytes", MemoryError(), "not enough memory"),
        (torch, "load", MemoryError(), "not enough memory"),
        (torch, "load", too_large, "not enough memory"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, fails_with(error))
            with pytest.raises(SettingError, match=rf"cannot be read \({words}\); noth") as caught:
                read(path)
            assert not isinstance(caught.value, DamagedError)
    assert read(path)


def test_a_checkpoint_says_what_it_is_of_and_how_it_was_wired(tmp_path):
    model = VGG.build()
    wiring = draw(model, skip=["classifier.3"])
    wire(model, wiring)
    origin = Origin("run", 3, 2)
    checkpoint.save(tmp_path / "last.pt", model, VGG, {}, origin=origin, wiring=wiring)
    content = read(tmp_path / "last.pt")
    assert origin_of(content) == origin
    again = wiring_of(content)
    assert (again.method, again.kept) == ("rreg", wiring.kept)
    assert (again.streams, again.facts) == (wiring.streams, wiring.facts)
    for name, edges in wiring.edges.items():
        assert torch.equal(torch.as_tensor(again.edges[name]), torch.as_tensor(edges))


def test_checkpoints_of_the_first_format_still_load(tmp_path):
    model = wired()
    expanders.save(tmp_path / "best.pt", model, VGG)
    content = torch.load(tmp_path / "best.pt", weights_only=True)
    assert content.keys() == {"format", "model", "layers", "granularity", "state"}
    del content["granularity"]
    torch.save(content | {"format": 1}, tmp_path / "old.pt")
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(expanders.load(tmp_path / "old.pt")(x), model(x))
    assert origin_of(read(tmp_path / "old.pt")) is None
    torch.save(content | {"format": 3}, tmp_path / "new.pt")
    with pytest.raises(SettingError, match="not a checkpoint"):
        read(tmp_path / "new.pt")


class Harm:
    def __reduce__(self):
        return print, ("code from a checkpoint ran",)


def test_no_code_in_a_checkpoint_runs(tmp_path, capsys):
    torch.save({"format": 1, "state": Harm()}, tmp_path / "harm.pt")
    with pytest.raises(SettingError, match="not a checkpoint"):
        read(tmp_path / "harm.pt")
    assert capsys.readouterr().out == ""


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "best.pt"
    expanders.save(path, models.resnet32(), Blueprint("expanders.models.resnet32"))
    old = path.read_bytes()

    def disk_full(content, file):
        file.write(b"part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(OSError, match="No space left"):
        expanders.save(path, models.resnet32(), Blueprint("expanders.models.resnet32"))
    assert path.read_bytes() == old
    assert [file.name for file in tmp_path.iterdir()] == ["best.pt"]
