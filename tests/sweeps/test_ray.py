"""The preset for Ray, where its package is installed or `.ci/run` has put it in a folder."""

import importlib.util
import os
import tempfile

import pytest

from tests.conftest import ROOT
from tests.outcomes import outcomes, started

BESIDE = ROOT / ".ray"  # not in the environment, where its requirements would change others


@pytest.mark.skipif(
    not (BESIDE / "ray").exists() and importlib.util.find_spec("ray") is None,
    reason="Ray is not installed; .ci/run says how",
)
def test_a_sweep_through_ray_ends_as_one_without(tmp_path):
    axes = ("-m", "seed=0,1", "model=resnet20", "model.width=0.25", "epochs=1", "num_threads=1")
    small = ("dataset.source.num_images=60", "batch_size=16", "wandb.mode=disabled")
    path = os.pathsep.join(filter(None, (str(BESIDE), os.environ.get("PYTHONPATH"))))
    # Ray's own files, in a folder whose name is short enough for its sockets.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as own:
        environment = dict(os.environ) | {"PYTHONPATH": path, "RAY_TMPDIR": own}
        for folder, launcher in (("plain", ()), ("ray", ("hydra/launcher=ray_local",))):
            (tmp_path / folder).mkdir()
            words = (*axes, *small, *launcher)
            with started(tmp_path / folder, *words, environment=environment) as process:
                code = process.wait(timeout=500)
            said = (tmp_path / folder / "started.log").read_text()
            if "node timed out during startup" in said:
                pytest.skip("this machine is too busy for Ray, which gives itself 30 s to start")
            assert code == 0, said
    assert outcomes(tmp_path / "ray" / "runs") == outcomes(tmp_path / "plain" / "runs")
    assert len(outcomes(tmp_path / "ray" / "runs")) == 2
