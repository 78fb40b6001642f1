"""What really lands in the file of an offline run."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch import nn

from expanders.errors import SettingError
from expanders.runs.tracking import WandbRun, WandbSettings
from expanders.wiring.draw import draw
from expanders.wiring.wire import wire


@pytest.fixture(autouse=True)
def not_logged_in(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)


def records(folder: Path) -> list[dict[str, Any]]:
    """All records of the run in `folder`, read with W&B's own tool."""
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    wandb = Path(sys.executable).with_name("wandb")
    printed = subprocess.run(
        [wandb, "leet", "inspect", "--json", path], capture_output=True, text=True, check=True
    ).stdout
    return [json.loads(line) for line in printed.splitlines()]


def of_type(rows: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [row[name] for row in rows if row["type"] == name]


def test_an_offline_run_holds_everything(tmp_path, caplog):
    caplog.set_level("INFO")
    model = nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3))
    wiring = draw(model, skip=())
    report = wire(model, wiring)
    settings = WandbSettings(tags=["mine"]).named(
        "vgg16bn-digits-rreg-d3-s7", "cell", ("vgg16bn", "digits", "rreg", "d3")
    )
    config = {"model": {"_target_": "x.y"}, "optimizer": {"lr": 0.1}, "seed": 7}

    run = WandbRun(settings, tmp_path, config, run_id="abc123")
    run.log_report(report)
    run.log_graphs(report, wiring)
    run.log_epoch({"epoch": 1, "train/loss": 2.0, "val/accuracy": 0.75})
    run.log_epoch({"epoch": 2, "train/loss": 1.0, "val/accuracy": 0.5})
    run.finish({"test/accuracy": 0.7, "val/accuracy": 0.75})

    assert "wandb sync" in caplog.text
    rows = records(tmp_path)
    first = of_type(rows, "run")[0]
    assert first["config"]["update"] | config == first["config"]["update"]
    assert first["display_name"] == "vgg16bn-digits-rreg-d3-s7"
    assert first["run_id"] == "abc123"
    assert first["run_group"] == "cell"
    assert first["job_type"] == "train"
    assert set(first["tags"]) == {"vgg16bn", "digits", "rreg", "d3", "mine"}
    history = of_type(rows, "history")
    assert [row["step"]["num"] for row in history] == [1, 2]
    assert [row["item"]["train/loss"] for row in history] == [2.0, 1.0]
    summary: dict[str, Any] = {}
    for update in of_type(rows, "summary"):
        summary |= update["update"]
    assert summary["test/accuracy"] == 0.7
    assert summary["val/accuracy"] == 0.75, "the best epoch's, not the last one's"
    (table,) = tmp_path.glob("wandb/offline-run-*/files/media/table/graph/*.json")
    content = json.loads(table.read_text())
    layers = [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]
    assert [layer["name"] for layer in layers] == ["0", "2"]
    assert [layer["edges"] for layer in layers] == [48, 48]
    assert all(layer["sigma2"] > 0 for layer in layers)
    (picture,) = tmp_path.glob("wandb/offline-run-*/files/media/images/graph/*.png")
    with Image.open(picture) as image:
        assert min(image.size) > 300
    assert picture.stat().st_size < 100_000
    assert of_type(rows, "exit")[0].get("exit_code", 0) == 0


def test_a_failed_run_is_marked(tmp_path):
    run = WandbRun(WandbSettings(), tmp_path, {}, run_id="abc")
    run.finish(failed=True)
    assert of_type(records(tmp_path), "exit")[0]["exit_code"] == 1


def test_a_run_that_continues_keeps_its_identity_and_axis(tmp_path):
    for epochs in ((1, 2), (3, 4)):
        run = WandbRun(WandbSettings(), tmp_path / str(epochs[0]), {}, run_id="same")
        for epoch in epochs:
            run.log_epoch({"epoch": epoch, "val/accuracy": epoch / 10})
        run.finish()
    rows = [row for part in ("1", "3") for row in records(tmp_path / part)]
    assert {row["run_id"] for row in of_type(rows, "run")} == {"same"}
    assert [row["step"]["num"] for row in of_type(rows, "history")] == [1, 2, 3, 4]


def test_disabled_writes_nothing(tmp_path):
    run = WandbRun(WandbSettings(mode="disabled"), tmp_path, {}, run_id="abc")
    run.log_epoch({"epoch": 1, "train/loss": 2.0})
    run.finish({})
    assert not list(tmp_path.glob("wandb/*"))


def test_online_without_a_login_is_refused_before_any_work():
    with pytest.raises(SettingError, match=r"wandb.mode=online: needs a login: `wandb login`"):
        WandbSettings(mode="online").checked()


def test_a_malformed_environment_variable_is_named(monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "banana")
    with pytest.raises(SettingError, match=r"WANDB_SILENT=banana: .*valid boolean.*unset this"):
        WandbSettings(mode="disabled").checked()


def test_what_wandb_does_not_take_is_named_before_any_work():
    odd = ({"notes": "\udcff"}, {"name": "\udcff"}, {"tags": "a,\udcff"}, {"project": "\udcff"})
    for given in ({"project": "a/b"}, {"project": "p" * 129}, {"tags": ["t" * 65]}, *odd):
        (name,) = given
        with pytest.raises(SettingError, match=rf"^wandb\.{name}=") as caught:
            WandbSettings(mode="disabled", **given).checked()
        assert "\n" not in str(caught.value)
    choices = WandbSettings(tags="mine, ").named("name", "group", ["d" * 100, "rreg"])
    assert choices.tags == ["d" * 64, "rreg", "mine"]


def test_under_an_agent_its_run_id_project_and_entity_win(tmp_path, monkeypatch):
    agent = {"SWEEP_ID": "s1", "RUN_ID": "r1", "PROJECT": "theirs", "ENTITY": "them"}
    for name, value in agent.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    settings = WandbSettings(project="typed", mode="offline", notes="why").checked()
    run = WandbRun(settings, tmp_path, {}, run_id="ours")
    run.finish()
    (first, *_) = of_type(records(tmp_path), "run")
    assert (first["run_id"], first["project"], first["entity"]) == ("r1", "theirs", "them")
    assert first["notes"] == "why"


def test_the_best_network_is_kept_as_an_artifact(tmp_path):
    (tmp_path / "best.pt").write_bytes(b"weights")
    run = WandbRun(WandbSettings(), tmp_path, {}, run_id="abc")
    run.log_model(tmp_path / "best.pt", {"test/accuracy": 0.5})
    run.finish({})
    text = json.dumps(records(tmp_path))
    assert "run-abc-best" in text
    assert "best.pt" in text
