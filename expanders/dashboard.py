"""Create or update a workspace on Weights & Biases that shows the runs of a project.

python -m expanders.dashboard --project expanders

Accuracy by graph and degree, accuracy against expansion, training curves grouped by cell, and the
tables of the layers, made with the package wandb-workspaces. The specification, with the address
of the workspace once it has one, is kept in a file: the next call with the same file updates that
workspace. Without a login only the file is written.

This has not been run against the live service: its specification is built and tested, but nobody
has looked at the panels in a browser, and saving was tested with a stand-in only.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from expanders.errors import SettingError, one_line
from expanders.files import write_json
from expanders.training import metrics

NAME = "Expander graphs"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; errors that a user can mend are one line."""
    parser = argparse.ArgumentParser(
        prog="python -m expanders.dashboard",
        description="Create or update a W&B workspace for the runs of a project.",
    )
    parser.add_argument("--project", default="expanders", help="the runs' wandb.project")
    parser.add_argument("--entity", help="user or team (default: the one that is logged in)")
    parser.add_argument(
        "--file",
        type=Path,
        default=Path("dashboard.json"),
        help="keeps the specification and the address (default: dashboard.json)",
    )
    options = parser.parse_args(arguments)
    try:
        print(publish(options.project, options.entity, options.file))
    except SettingError as error:
        sys.exit(f"error: {error}")


def publish(project: str, entity: str | None, file: Path) -> str:
    """Create the workspace, or update the one that `file` names; returns what to tell the user.

    Raises:
        SettingError: if wandb-workspaces is missing, `file` cannot be used, or W&B refuses.
    """
    address = _address(file, project, entity)
    owner = _entity(entity)
    workspace = build(project, owner or entity or "ENTITY")
    _keep(file, project, owner, address, workspace)
    if owner is None:
        return (
            f"Not logged in to W&B: the specification is in {file}, and nothing was published. "
            "Log in with `wandb login` or set WANDB_API_KEY, then run this again."
        )
    try:
        if address is not None:
            workspace = _updated(address, workspace)
        workspace.save()
        address = str(workspace.url)
    except Exception as error:  # whatever the package lets through of the service and the network
        reason = one_line(error)
        remedy = f"W&B did not take the workspace ({reason}); its specification is in {file}"
        raise SettingError("project", f"{owner}/{project}", remedy) from None
    _keep(file, project, owner, address, workspace)
    return f"The workspace is at {address}; the same command updates it."


def build(project: str, entity: str) -> Any:
    """The workspace, not yet saved.

    Raises:
        SettingError: if wandb-workspaces is not installed.
    """
    try:
        panels = import_module("wandb_workspaces.reports.v2")
        workspaces = import_module("wandb_workspaces.workspaces")
    except ImportError:
        remedy = "the dashboard needs it: python -m pip install wandb-workspaces"
        raise SettingError("wandb-workspaces", "missing", remedy) from None
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=[
            workspaces.Section(name=name, panels=each, is_open=True)
            for name, each in _sections(panels).items()
        ],
        settings=workspaces.WorkspaceSettings(x_axis=metrics.EPOCH, max_runs=100),
    )


def _sections(panels: Any) -> dict[str, list[Any]]:
    """The panels of each section, made by the package's module of panels."""
    accuracy = panels.SummaryMetric(metrics.TEST_ACCURACY)
    degree = panels.Config("degree.value")

    def against(x: Any, title: str, *, log: bool = False) -> Any:
        return panels.ScatterPlot(title=title, x=x, y=accuracy, log_x=log)

    def bars(title: str, by: Any) -> Any:
        return panels.BarPlot(
            title=title,
            metrics=[metrics.TEST_ACCURACY],
            groupby=by,
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
        )

    def curves(metric: str) -> Any:
        return panels.LinePlot(
            title=metric,
            x=metrics.EPOCH,
            y=[metric],
            groupby="Group",  # all settings but the seeds: one cell
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
        )

    return {
        "Accuracy by graph and degree": [
            bars("by cell", "Group"),
            bars("by graph", panels.Config("choices.graph")),
            against(degree, "against the degree", log=True),
        ],
        "Accuracy against cost": [
            against(panels.SummaryMetric(key), f"against {title}", log=True)
            for key, title in (
                (metrics.LIVE_PARAMETERS, "live parameters"),
                (metrics.LIVE_FLOPS, "FLOPs of an image"),
                (metrics.SECONDS, "seconds of training"),
            )
        ],
        "Accuracy against expansion": [
            panels.ScatterPlot(title=title, x=panels.SummaryMetric(key), y=accuracy, z=degree)
            for key, title in (
                (metrics.NORMALISED_GAP, "normalised gap (depth: degree)"),
                (metrics.RAMANUJAN_RATIO, "σ2 / Ramanujan bound (depth: degree)"),
            )
        ],
        "Training, grouped by cell": [
            curves(m) for m in (metrics.VAL_ACCURACY, metrics.TRAIN_LOSS)
        ],
        "Layers": [panels.WeavePanelSummaryTable(table_name=metrics.LAYERS)],
    }


def specification(workspace: Any) -> dict[str, Any]:
    """A workspace as plain containers, as it would be sent."""
    model = workspace._to_model()  # the package has no public way to it
    spec: dict[str, Any] = model.model_dump(mode="json", by_alias=True, exclude_none=True)
    return spec


def _entity(given: str | None) -> str | None:
    """Whose project it is: as given, or the user who is logged in. None without a login."""
    import wandb

    if not wandb.login(prompt=False, verify=False):
        return None
    if given is not None:
        return given
    try:
        entity: str | None = wandb.Api(timeout=20).default_entity
    except Exception as error:  # no network, or a key that is refused
        reason = one_line(error)
        raise SettingError("entity", None, f"W&B cannot be asked for it: {reason}") from None
    if entity is None:
        raise SettingError("entity", None, "W&B knows none; give a user or team: --entity NAME")
    return entity


def _updated(address: str, new: Any) -> Any:
    """The saved workspace at an address, with the contents of `new`."""
    workspaces = import_module("wandb_workspaces.workspaces")
    saved = workspaces.Workspace.from_url(address)
    saved.name, saved.sections, saved.settings = new.name, new.sections, new.settings
    return saved


def _address(file: Path, project: str, entity: str | None) -> str | None:
    """The address of the workspace in the file that an earlier call left, if there is one."""
    try:
        content = json.loads(file.read_bytes())
        known = (content["project"], content["entity"])
        address: str | None = content["address"]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SettingError("file", file, f"cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        remedy = "was not written by this command; choose another --file"
        raise SettingError("file", file, remedy) from None
    if known[0] != project or (address and entity not in (None, known[1])):
        remedy = f"is of the project {known[1]}/{known[0]}; choose another --file"
        raise SettingError("file", file, remedy)
    return address


def _keep(file: Path, project: str, entity: str | None, address: str | None, new: Any) -> None:
    """Write the file that the next call reads."""
    content = {"project": project, "entity": entity, "address": address}
    try:
        write_json(file, content | {"specification": specification(new)})
    except OSError as error:
        raise SettingError("file", file, f"cannot be written: {error.strerror}") from None


if __name__ == "__main__":
    main()
