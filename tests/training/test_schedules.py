import pytest
import torch

from expanders.errors import SettingError
from expanders.training import schedules


def rates(build, lr, epochs):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    schedule = build(optimizer)
    result = []
    for _ in range(epochs):
        result.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return result


def test_the_papers_vgg_rate_stops_above_its_floor():
    lrs = rates(lambda o: schedules.step(o, 30, 0.5, min_lr=5e-4), 0.05, 300)
    assert lrs[0] == lrs[29] == 0.05
    assert lrs[30] == 0.025
    assert lrs[179] == pytest.approx(0.05 / 2**5)
    assert lrs[180:] == [pytest.approx(7.8125e-4)] * 120


def test_the_papers_resnet_rate_never_meets_its_floor():
    lrs = rates(lambda o: schedules.step(o, 30, 0.5, min_lr=1e-5), 0.1, 300)
    assert lrs == [pytest.approx(0.1 * 0.5 ** (epoch // 30)) for epoch in range(300)]


def test_a_rate_that_would_just_reach_the_floor_is_skipped():
    assert rates(lambda o: schedules.step(o, 1, 0.5, min_lr=0.25), 1.0, 4) == [1, 0.5, 0.5, 0.5]


def test_a_rate_that_takes_no_step_is_said(caplog):
    assert rates(lambda o: schedules.step(o, 1, 0.5, min_lr=0.5), 1.0, 3) == [1, 1, 1]
    assert "the rate stays at 1: a step would not be above schedule.min_lr=0.5" in caplog.text


def test_several_numbers_are_one_step_each():
    lrs = rates(lambda o: schedules.step(o, [2, 5], 0.1), 1.0, 7)
    assert lrs == pytest.approx([1, 1, 0.1, 0.1, 0.1, 0.01, 0.01])
    with pytest.raises(SettingError, match=r"schedule\.step_size=\[2, 0\]"):
        rates(lambda o: schedules.step(o, [2, 0]), 1.0, 1)


def test_cosine_falls_from_the_rate_to_zero():
    lrs = rates(lambda o: schedules.cosine(o, 10), 1.0, 11)
    assert lrs[0] == 1
    assert lrs[5] == pytest.approx(0.5)
    assert lrs[10] == pytest.approx(0)


def test_constant_is_constant():
    assert rates(schedules.constant, 0.3, 5) == [0.3] * 5


@pytest.mark.parametrize(
    "options", [{"step_size": 0}, {"gamma": 0.0}, {"gamma": 1.5}, {"min_lr": -1}]
)
def test_refuses_settings_out_of_range(options):
    ((name, value),) = options.items()
    with pytest.raises(SettingError, match=f"schedule.{name}={value}"):
        rates(lambda o: schedules.step(o, **options), 1.0, 1)
