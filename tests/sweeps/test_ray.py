"""The preset for Ray, where its package is installed: it is too large for the packages of dev."""

import pytest

from tests.outcomes import outcomes, started

pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="Ray is not installed")


def test_a_sweep_through_ray_ends_as_one_without(tmp_path):
    cells = ("-m", "seed=0,1", "model=resnet20", "epochs=1", "batch_size=32", "num_threads=1")
    small = ("dataset.source.num_images=100", "wandb.mode=disabled")
    for folder, launcher in (("plain", ()), ("ray", ("hydra/launcher=ray_local",))):
        (tmp_path / folder).mkdir()
        with started(tmp_path / folder, *cells, *small, *launcher) as process:
            said = tmp_path / folder / "started.log"
            assert process.wait(timeout=500) == 0, said.read_text()
    assert outcomes(tmp_path / "ray" / "runs") == outcomes(tmp_path / "plain" / "runs")
    assert len(outcomes(tmp_path / "ray" / "runs")) == 2
