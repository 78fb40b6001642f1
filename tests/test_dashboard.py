"""The dashboard's specification, and what is done with it, without the service."""

import json

import pytest

from expanders import dashboard
from expanders.errors import SettingError

pytest.importorskip("wandb_workspaces", reason="the dashboard needs wandb-workspaces")
# The package itself uses what its dependencies call deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ADDRESS = "https://wandb.ai/me/expanders?nw=abc"


@pytest.fixture
def logged_in(monkeypatch):
    """A user who is logged in, and a service that takes every workspace; returns what it took."""
    from wandb_workspaces import workspaces

    taken = []

    def save(self):
        taken.append((self._internal_name, dashboard.specification(self)))
        self._internal_name = "nw-abc-v"

    monkeypatch.setattr(dashboard, "_entity", lambda given: given or "me")
    monkeypatch.setattr(workspaces.Workspace, "save", save)
    monkeypatch.setattr(workspaces.Workspace, "url", property(lambda self: ADDRESS))
    return taken


def panels_of(specification):
    bank = specification["spec"]["section"]["panelBankConfig"]
    return {section["name"]: section["panels"] for section in bank["sections"]}


def test_the_views():
    specification = dashboard.specification(dashboard.build("study", "me"))
    assert (specification["entity"], specification["project"]) == ("me", "study")
    views = panels_of(specification)
    assert list(views) == [
        "Accuracy by graph and degree",
        "Accuracy against cost",
        "Accuracy against expansion",
        "Training, grouped by cell",
        "Layers",
    ]
    bars, _, degree = (panel["config"] for panel in views["Accuracy by graph and degree"])
    assert bars["metrics"] == ["test/accuracy"]
    assert (bars["groupBy"], bars["groupArea"]) == ("group", "stddev")
    assert degree["xAxis"] == "config:degree.value.value"
    costs = [panel["config"]["xAxis"] for panel in views["Accuracy against cost"]]
    assert costs == ["summary:params/live", "summary:flops/live", "summary:seconds"]
    gap, bound = (panel["config"] for panel in views["Accuracy against expansion"])
    assert (gap["xAxis"], gap["yAxis"]) == (
        "summary:graph/normalised_gap_mean",
        "summary:test/accuracy",
    )
    assert bound["xAxis"] == "summary:graph/ramanujan_ratio_mean"
    for panel in views["Training, grouped by cell"]:
        assert panel["config"]["groupBy"] == "group"
        assert panel["config"]["xAxis"] == "epoch"
    assert "graph/layers" in json.dumps(views["Layers"])


def test_without_a_login_the_file_is_all(tmp_path, monkeypatch, capsys):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    file = tmp_path / "dashboard.json"
    dashboard.main(["--project", "study", "--file", str(file)])
    said = capsys.readouterr().out
    assert said.startswith("Not logged in to W&B")
    assert "wandb login" in said
    content = json.loads(file.read_text())
    assert (content["project"], content["address"]) == ("study", None)
    assert "Layers" in panels_of(content["specification"])


def test_it_is_created_once_and_then_updated(tmp_path, monkeypatch, logged_in):
    from wandb_workspaces import workspaces

    opened = []

    def from_url(url):
        opened.append(url)
        saved = workspaces.Workspace(entity="me", project="study", name="renamed", sections=[])
        saved._internal_name = "nw-abc-v"
        return saved

    monkeypatch.setattr(workspaces.Workspace, "from_url", from_url)
    file = tmp_path / "dashboard.json"
    assert ADDRESS in dashboard.publish("study", None, file)
    assert json.loads(file.read_text())["address"] == ADDRESS
    assert opened == []
    assert ADDRESS in dashboard.publish("study", None, file)
    assert opened == [ADDRESS]
    (created, first), (updated, second) = logged_in
    assert (created, updated) == ("", "nw-abc-v")
    assert list(panels_of(second)) == list(panels_of(first))
    assert json.loads(file.read_text())["address"] == ADDRESS


def test_what_the_service_refuses_is_one_line_and_the_file_stays(tmp_path, monkeypatch, logged_in):
    from wandb_workspaces import workspaces

    def refuse(self):
        raise ValueError("project\nnot found")

    monkeypatch.setattr(workspaces.Workspace, "save", refuse)
    file = tmp_path / "dashboard.json"
    with pytest.raises(SystemExit, match=r"^error: project=team/study: .*\(project not found\)"):
        dashboard.main(["--project", "study", "--entity", "team", "--file", str(file)])
    assert json.loads(file.read_text())["entity"] == "team"


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', "\udcff"])
def test_a_foreign_file_is_not_overwritten(tmp_path, logged_in, text):
    file = tmp_path / "notes.json"
    content = text.encode("utf-8", "surrogateescape")
    file.write_bytes(content)
    with pytest.raises(SettingError, match="not written by this command"):
        dashboard.publish("study", None, file)
    assert file.read_bytes() == content


def test_files_of_other_projects_and_places_that_cannot_be_written(tmp_path, logged_in):
    file = tmp_path / "dashboard.json"
    dashboard.publish("study", None, file)
    for project, entity in (("other", None), ("study", "team")):
        with pytest.raises(SettingError, match=r"file=.*: is of the project me/study"):
            dashboard.publish(project, entity, file)
    with pytest.raises(SettingError, match=r"file=.*: cannot be written"):
        dashboard.publish("study", None, tmp_path / "absent" / "dashboard.json")


def test_without_the_package_there_is_one_line(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    with pytest.raises(SettingError, match=r"^wandb-workspaces=missing: .*pip install"):
        dashboard.build("study", "me")
