"""The one file that talks to Weights & Biases.

Metric names are namespaced (`train/loss`, `val/accuracy`, `test/accuracy`, `graph/...`) and the
same as in the run's own files, so nothing depends on the service.
"""

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pydantic
import wandb
from PIL import Image

from expanders.errors import SettingError, one_line
from expanders.training import metrics
from expanders.wiring.draw import Wiring
from expanders.wiring.layer_report import Report

log = logging.getLogger(__name__)

Mode = Literal["online", "offline", "disabled"]

_CONNECT_SECONDS = 30
_LONGEST_TAG = 64  # characters that W&B takes
_PICTURED = 512 * 512  # the largest graph in a picture, in pairs of channels: 0.1 s


@dataclass(frozen=True)
class WandbSettings:
    """What a user may choose.

    Attributes:
        mode: `auto` is online when the user is logged in, otherwise offline.
        project, entity: where runs go; entity None is the user's own.
        name, group: of the run; None means made of the choices.
        job_type: of the run.
        tags: besides those made of the choices; in one text, with commas between them.
        notes: a longer description, which can be edited later.
        dir: where W&B's local files go, in `wandb/`; None means the run's folder.
        log_model: whether best.pt is kept on W&B too, as an artifact of type `model`.
    """

    mode: Literal["auto", Mode] = "auto"
    project: str = "expanders"
    entity: str | None = None
    name: str | None = None
    group: str | None = None
    job_type: str = "train"
    tags: Sequence[str] | str = ()
    notes: str | None = None
    dir: str | None = None
    log_model: bool = False

    def named(self, name: str, group: str, tags: Sequence[str]) -> Self:
        """The same, with this name and group where none was given, and these tags too."""
        return replace(
            self,
            name=self.name or name,
            group=self.group or group,
            tags=[*(tag[:_LONGEST_TAG] for tag in tags), *self._own_tags],
        )

    @property
    def _own_tags(self) -> list[str]:
        tags = self.tags.split(",") if isinstance(self.tags, str) else self.tags
        return [tag for each in tags if (tag := str(each).strip())]

    def checked(self) -> Self:
        """The same, once it is sure that W&B can start; under an agent, with the agent's project.

        Raises:
            SettingError: if W&B does not take the project, a tag, a text that is not UTF-8, or the
                value of one of its environment variables, if `dir` cannot be written, or if `mode`
                is online and nobody is logged in.
        """
        try:
            wandb.Settings().update_from_env_vars(dict(os.environ))
        except pydantic.ValidationError as error:
            wrong = error.errors()[0]
            name = f"WANDB_{str(wrong['loc'][0]).upper()}"
            remedy = f"{wrong['msg']}; change or unset this environment variable"
            raise SettingError(name, os.environ.get(name, ""), remedy) from None
        for name, value in {**vars(self), "tags": ",".join(self._own_tags)}.items():
            if isinstance(value, str) and not _is_utf8(value):
                raise SettingError(f"wandb.{name}", ascii(value), "is no text in UTF-8")
        checks: dict[str, tuple[str, Any]] = {
            "wandb.project": ("project", self.project),
            "wandb.tags": ("run_tags", tuple(self._own_tags)),
        }
        for setting, (name, value) in checks.items():
            try:
                wandb.Settings(**{name: value})
            except (wandb.Error, pydantic.ValidationError) as error:
                raise SettingError(setting, value, one_line(error)) from None
        if self.dir is not None and self.mode != "disabled" and not _can_write(Path(self.dir)):
            raise SettingError("wandb.dir", self.dir, "cannot be written; choose another folder")
        if self.mode == "online" and not wandb.login(prompt=False, verify=False):
            remedy = "needs a login: `wandb login`, or use wandb.mode=offline"
            raise SettingError("wandb.mode", self.mode, remedy)
        if "WANDB_SWEEP_ID" not in os.environ:
            return self
        project = os.environ.get("WANDB_PROJECT", self.project)
        return replace(self, project=project, entity=os.environ.get("WANDB_ENTITY", self.entity))


class WandbRun:
    """One run on Weights & Biases, from its start to its summary."""

    def __init__(
        self, settings: WandbSettings, folder: Path, config: Mapping[str, Any], run_id: str
    ) -> None:
        """Start the run, without ever asking anything.

        Args:
            settings: mode, names and tags.
            folder: where the run's local files go, in `wandb/`.
            config: the resolved configuration, nested.
            run_id: the run continues if this identity exists already.

        Raises:
            SettingError: if `mode` is online and the service cannot be had.
        """
        try:
            self._run = _init(settings, _mode(settings.mode), folder, config, run_id)
        except wandb.Error as error:
            if settings.mode != "auto":
                remedy = "log in with `wandb login`, or use wandb.mode=offline"
                raise SettingError("wandb.mode", settings.mode, f"{error}; {remedy}") from None
            log.warning("W&B cannot be reached (%s): this run is logged offline.", error)
            self._run = _init(settings, "offline", folder, config, run_id)
        self._is_disabled = settings.mode == "disabled"
        self._run.define_metric(metrics.EPOCH)
        self._run.define_metric("*", step_metric=metrics.EPOCH)
        if self._run.offline and settings.mode != "disabled":
            parts = Path(self._run.dir).parent.with_name("offline-run-*")  # one per continuation
            log.info("W&B: offline; to upload this run: wandb sync %s", parts)

    def log_report(self, report: Report) -> None:
        """Log the per-layer report as a table."""
        rows = [flatten_layer(layer) for layer in report.to_dict()["layers"]]
        columns: list[str | int] = list(dict.fromkeys(key for row in rows for key in row))
        data = [[row.get(str(column)) for column in columns] for row in rows]
        self._run.summary[metrics.LAYERS] = wandb.Table(columns=columns, data=data)

    def log_graphs(self, report: Report, wiring: Wiring) -> None:
        """Log one picture of some graphs: their matrices and spectra, where matplotlib is there."""
        shapes = {
            layer.name: layer.shape[:2]
            for layer in report.layers
            if layer.name in wiring.edges and math.prod(layer.shape[:2]) <= _PICTURED
        }
        if self._is_disabled or not shapes:
            return
        try:
            from expanders.graphs.picture import Panel, figure
        except ImportError:
            log.debug("no picture of the graphs: matplotlib is not installed")
            return
        names = list(shapes)
        panels = []
        for name in dict.fromkeys((names[0], names[len(names) // 2], names[-1])):
            num_right, num_left = shapes[name]
            panels.append(Panel(name, np.asarray(wiring.edges[name]), num_left, num_right))
        png = BytesIO()
        figure(panels).savefig(png)
        self._run.summary[metrics.PICTURE] = wandb.Image(Image.open(png))

    def log_model(self, path: Path, summary: Mapping[str, Any]) -> None:
        """Keep a best.pt as an artifact, with the run's summary as its metadata."""
        model = wandb.Artifact(f"run-{self._run.id}-best", type="model", metadata=dict(summary))
        model.add_file(str(path))
        self._run.log_artifact(model, aliases=["best"])

    def log_epoch(self, row: Mapping[str, Any]) -> None:
        """Log the metrics of one epoch; its number is the step."""
        # Committed at once: a row that waits for the next one would be written after the summary.
        self._run.log(dict(row), step=int(row[metrics.EPOCH]), commit=True)

    def finish(self, summary: Mapping[str, Any] | None = None, *, failed: bool = False) -> None:
        """Write the summary and close the run."""
        self._run.summary.update(dict(summary or {}))
        self._run.finish(exit_code=int(failed))


def flatten_layer(layer: Mapping[str, Any]) -> dict[str, Any]:
    """One layer of a report as a flat row: the shape as text, the measures beside the rest."""
    row = {key: value for key, value in layer.items() if key != "measures"}
    row["shape"] = "x".join(str(size) for size in layer["shape"])
    row.update(layer["measures"])
    return row


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a byte of an environment variable that is not
        return False
    return True


def _can_write(folder: Path) -> bool:
    """Whether files can be made in a folder, which may have to be made first."""
    places = (folder, *folder.absolute().parents)
    there = next(place for place in places if os.path.exists(place))
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def _agents_id() -> str | None:
    """The run's identity where an agent of a W&B sweep started this process."""
    return os.environ.get("WANDB_RUN_ID") if "WANDB_SWEEP_ID" in os.environ else None


def _mode(mode: Literal["auto", Mode]) -> Mode:
    if mode != "auto":
        return mode
    return "online" if wandb.login(prompt=False, verify=False) else "offline"


def _init(
    settings: WandbSettings,
    mode: Mode,
    folder: Path,
    config: Mapping[str, Any],
    run_id: str,
) -> wandb.Run:
    return wandb.init(
        project=settings.project,
        entity=settings.entity,
        dir=settings.dir or folder,
        config=dict(config),
        id=_agents_id() or run_id,
        notes=settings.notes,
        resume="allow" if mode == "online" else None,
        name=settings.name,
        group=settings.group,
        job_type=settings.job_type,
        tags=list(settings.tags),
        mode=mode,
        reinit="finish_previous",
        settings=wandb.Settings(console="off", silent=True, init_timeout=_CONNECT_SECONDS),
    )
