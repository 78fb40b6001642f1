import copy

import numpy as np
import pytest
import torch
from torch import nn

from expanders.data import Images, Transform
from expanders.data.cache import Contents, cached
from expanders.data.stored import Storage
from expanders.errors import DivergedError, SettingError
from expanders.training import schedules
from expanders.training.history import History
from expanders.training.settings import Settings
from expanders.training.trainer import Trainer, evaluate
from expanders.wiring import native
from expanders.wiring.wire import sparsify
from tests.outcomes import without_times

TRANSFORM = Transform(mean=[128] * 3, std=[64] * 3, pad=1, crop=8, flip=True)


def images(count: int, seed: int = 0) -> Images:
    """Two classes that differ in brightness."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    noise = torch.randint(100, (count, 3, 8, 8), generator=generator)
    return Images((noise + 150 * labels[:, None, None, None]).to(torch.uint8), labels)


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 2),
    )
    sparsify(model)
    return model


def trainer(model: nn.Module | None = None, *, lr=0.1, num_val=20, seed=0, **options) -> Trainer:
    model = model or network()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    return Trainer(
        model=model,
        optimizer=optimizer,
        schedule=schedules.step(optimizer, step_size=2),
        train=images(65),
        val=images(num_val, seed=1),
        transform=TRANSFORM,
        settings=Settings(**{"epochs": 4, "batch_size": 16, **options}),
        seed=seed,
    )


def without_time(history):
    return [without_times(metrics) for metrics in history]


def run(it: Trainer, epochs: int) -> Trainer:
    for _ in range(epochs):
        it.run_epoch()
    return it


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def test_learns_and_reports():
    it = run(trainer(), 4)
    assert [metrics["epoch"] for metrics in it.history] == [1, 2, 3, 4]
    assert [metrics["lr"] for metrics in it.history] == [0.1, 0.1, 0.05, 0.05]
    assert it.history[-1]["val/accuracy"] == 1
    assert set(it.history[0]) == {
        "epoch", "train/loss", "train/accuracy", "val/loss", "val/accuracy", "lr",
        "images_per_second", "seconds", "first_step_seconds",
    }  # fmt: skip
    assert 0 < it.history[0]["first_step_seconds"] < it.history[0]["seconds"]
    assert "first_step_seconds" not in it.history[1]


def test_same_seeds_same_bits_whatever_the_global_generator():
    first = run(trainer(), 3)
    second = trainer()
    torch.manual_seed(77)
    before = torch.get_rng_state()
    run(second, 3)
    assert torch.equal(torch.get_rng_state(), before)
    assert same_weights(first.model, second.model)
    assert without_time(first.history) == without_time(second.history)
    assert not same_weights(first.model, run(trainer(seed=1), 3).model)


@pytest.mark.parametrize("options", [{}, {"compile": "default"}, {"norm": "native"}], ids=str)
def test_continues_bit_for_bit_from_its_state(options):
    if "norm" in options and not native.is_available():
        pytest.skip("no C++ compiler")
    whole = run(trainer(**options), 4)
    half = run(trainer(**options), 2)
    weights, state = copy.deepcopy((half.model.state_dict(), half.state_dict()))
    rest = trainer(**options)
    rest.model.load_state_dict(weights)
    rest.load_state_dict(state)
    run(rest, 2)
    assert same_weights(whole.model, rest.model)
    assert without_time(whole.history) == without_time(rest.history)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_continues_bit_for_bit_from_the_middle_of_an_epoch(steps):
    whole = run(trainer(), 3)
    cut = run(trainer(), 1)
    saved = []

    def save(images):
        if cut.steps == steps:
            saved.extend(copy.deepcopy((cut.model.state_dict(), cut.state_dict())))

    cut.run_epoch(save)
    rest = trainer()
    rest.model.load_state_dict(saved[0])
    rest.load_state_dict(saved[1])
    trained = []
    rest.run_epoch(trained.append)
    assert trained == [16, 16, 16, 16][steps:]
    rest.run_epoch()
    assert same_weights(whole.model, rest.model)
    assert without_time(whole.history) == without_time(rest.history)


def test_the_step_is_the_optimizers_on_the_mean_loss():
    """One epoch of one full batch without augmentation, against the formula."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    twin = copy.deepcopy(model)
    it = trainer(model, batch_size=65)
    it.transform = Transform(mean=[128] * 3, std=[64] * 3)
    it.run_epoch()
    loss = nn.functional.cross_entropy(twin(it.transform.eval(it.train.pixels)), it.train.labels)
    loss.backward()
    torch.testing.assert_close(model[1].weight, twin[1].weight - 0.1 * twin[1].weight.grad)
    assert it.history[0]["train/loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_a_gradient_is_clipped_to_the_norm():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    before = model[1].weight.detach().clone()
    it = trainer(model, batch_size=65, clip_grad_norm=1e-3)
    it.run_epoch()
    assert 0 < (model[1].weight - before).norm().item() <= 0.1 * 1e-3 * 1.001


def test_a_last_batch_of_one_image_does_not_break_batch_norm():
    assert run(trainer(batch_size=64), 1).epoch == 1


def test_too_few_images_for_a_step_are_refused_at_once():
    model = network()
    optimizer = torch.optim.SGD(model.parameters())
    schedule = schedules.constant(optimizer)
    settings = Settings(epochs=1, batch_size=16)
    with pytest.raises(SettingError, match="has 1 training images, too few for a step"):
        Trainer(model, optimizer, schedule, images(1), images(2), TRANSFORM, settings, 0)


def test_best_epoch_is_the_first_of_highest_validation_accuracy():
    it = History({"val/accuracy": value} for value in (0.1, 0.5, 0.5, 0.2))
    assert it.best_epoch == 2
    assert run(trainer(num_val=0), 3).history.best_epoch == 3


def test_a_loss_that_is_not_finite_stops_with_epoch_and_step():
    it = run(trainer(), 1)
    with torch.no_grad():
        it.model[-1].weight.fill_(float("nan"))
    with pytest.raises(DivergedError, match="training loss became nan in epoch 2, step 1: try"):
        it.run_epoch()
    assert it.epoch == 1
    with pytest.raises(DivergedError, match="nan in epoch 2, step 1"):
        it.state_dict()  # what a checkpoint within the epoch asks first
    with pytest.raises(DivergedError, match="in epoch"):
        run(trainer(lr=1e20), 4)


def test_an_overflow_in_evaluation_is_no_loss_at_all():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    with torch.no_grad():
        model[1].weight.fill_(1e38)
    assert evaluate(model, images(4), TRANSFORM, 2)["loss"] is None


@pytest.mark.parametrize(
    "options",
    [
        {"compile": "default"},
        {"norm": "native"},
        {"channels_last": True},
        {"precision": "bf16"},
        {"norm": "native", "precision": "bf16"},
    ],
)
def test_how_it_is_computed_changes_rounding_only(options):
    if "norm" in options and not native.is_available():
        pytest.skip("no C++ compiler")
    tolerance = 0.05 if "precision" in options else 1e-4
    models = [network(), network()]
    for model in models:
        model[3].p = 0.0  # dropout draws in the order of the memory, or as the compiler likes
    plain, other = run(trainer(models[0]), 2), run(trainer(models[1], **options), 2)
    for ours, theirs in zip(plain.history, other.history, strict=True):
        assert theirs["train/loss"] == pytest.approx(ours["train/loss"], abs=tolerance)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(not native.is_available(), reason="no C++ compiler")
def test_a_folded_copy_is_evaluated_where_the_operator_computes_norms(caplog):
    class Branching(nn.Sequential):
        def forward(self, x):
            return super().forward(x if x.mean() > -9 else -x)

    for make in (nn.Sequential, Branching):
        it = trainer(make(*network()), norm="native", epochs=2)
        run(it, 2)
        state = copy.deepcopy(it.model.state_dict())
        part = images(37, seed=2)
        expected = evaluate(it.model, part, TRANSFORM, 16)
        assert it.evaluate(part) == pytest.approx(expected, rel=1e-5)
        assert it.model.training
        torch.testing.assert_close(it.model.state_dict(), state, rtol=0, atol=0)
        assert caplog.text.count("not folded") == (make is Branching)  # once, not once an epoch


def test_five_guesses_count_where_there_are_more_than_20_classes():
    for num_classes in (20, 21):
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, num_classes))
        part = Images(images(30).pixels, torch.arange(30) % num_classes)
        results = evaluate(model, part, TRANSFORM, 7)
        ranks = model(TRANSFORM.eval(part.pixels)).argsort(1, descending=True)
        among_five = (ranks[:, :5] == part.labels[:, None]).any(1).float().mean().item()
        expected = pytest.approx(among_five) if num_classes == 21 else None
        assert results.get("top5_accuracy") == expected


def test_evaluates_without_dropout_and_restores_the_mode():
    model = network().train()
    part = images(37, seed=2)
    first = evaluate(model, part, TRANSFORM, 10)
    assert first == evaluate(model, part, TRANSFORM, 10)
    assert model.training
    model.eval()
    logits = model(TRANSFORM.eval(part.pixels))
    assert first["accuracy"] == pytest.approx((logits.argmax(1) == part.labels).float().mean())
    loss = nn.functional.cross_entropy(logits, part.labels)
    assert first["loss"] == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": -1},
        {"batch_size": 0},
        {"batch_size": 1},
        {"label_smoothing": 1.0},
        {"label_smoothing": -0.1},
        {"clip_grad_norm": 0.0},
    ],
)
def test_refuses_settings_out_of_range(options):
    ((name, value),) = options.items()
    with pytest.raises(SettingError, match=rf"^{name}={value}: must be"):
        Settings(**{"epochs": 1, "batch_size": 16, **options})


def test_images_on_a_disk_give_the_bits_of_images_in_memory(tmp_path):
    train, val = images(65), images(20, seed=1)

    def contents() -> Contents:
        pixels = torch.cat([train.pixels, val.pixels]).numpy()
        labels = train.labels.tolist(), val.labels.tolist()
        return Contents(tmp_path, labels, 8, 8, np.arange(85, dtype=np.uint64), pixels.__getitem__)

    def trained(storage: Storage) -> Trainer:
        it = trainer(clip_grad_norm=1.0)
        parts = cached(tmp_path / "set.cache", "key", storage, contents)
        it.train, it.val = (part.to("cpu") for part in parts)
        assert torch.is_tensor(it.train.pixels) == (storage == "memory")
        return run(it, 2)

    disk, memory, plain = trained("disk"), trained("memory"), run(trainer(clip_grad_norm=1.0), 2)
    for other in (memory, plain):
        assert without_time(disk.history) == without_time(other.history)
        for name, value in disk.model.state_dict().items():
            assert torch.equal(value, other.model.state_dict()[name]), name
