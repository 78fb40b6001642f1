import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expanders.data import Images, batches, split
from expanders.errors import SettingError
from expanders.seeds import stream


def numbered(labels):
    """Images of one pixel each, whose values identify them."""
    values = torch.arange(len(labels)).to(torch.uint8)
    pixels = values[:, None, None, None].repeat(1, 3, 1, 1)
    return Images(pixels, torch.as_tensor(labels, dtype=torch.int64))


def numbers(images):
    return images.pixels[:, 0, 0, 0].tolist()


label_lists = st.lists(st.integers(0, 4), min_size=2, max_size=200)


@settings(max_examples=60, deadline=None)
@given(label_lists, st.floats(0, 0.95), st.integers(0, 99))
def test_split_is_exact_stratified_and_disjoint(labels, fraction, seed):
    images = numbered(labels)
    wanted = int(fraction * len(labels) + 0.5)
    if wanted == len(labels) or (wanted == 0 and fraction > 0):
        with pytest.raises(SettingError, match=r"dataset\.val_fraction"):
            split(images, fraction, stream(seed, "split"))
        return
    train, val = split(images, fraction, stream(seed, "split"))
    assert len(val) == wanted
    assert sorted(numbers(train) + numbers(val)) == numbers(images)
    for part in (train, val):
        assert numbers(part) == sorted(numbers(part))  # in the order of the source
        assert part.labels.tolist() == [labels[i] for i in numbers(part)]
    for label in set(labels):
        share = labels.count(label) * wanted / len(labels)
        assert abs(val.labels.tolist().count(label) - share) < 1


def test_split_depends_on_the_seed_alone():
    images = numbered([i % 5 for i in range(100)])
    first, again, other = (split(images, 0.2, stream(seed, "split"))[1] for seed in (1, 1, 2))
    assert numbers(first) == numbers(again) != numbers(other)


def test_split_draws_every_image_equally_often():
    images = numbered([0] * 6 + [1] * 2)
    counts = np.zeros(8)
    for seed in range(400):
        counts[numbers(split(images, 0.5, stream(seed, "split"))[1])] += 1
    assert abs(counts / 400 - 0.5).max() < 0.1


def test_split_of_nothing_leaves_an_empty_validation_part():
    train, val = split(numbered([0, 1, 1]), 0, stream(0, "split"))
    assert (len(train), len(val)) == (3, 0)
    assert val.pixels.shape == (0, 3, 1, 1)


@pytest.mark.parametrize("fraction", [-0.1, 1, 1.5, float("nan"), "half", None, True])
def test_split_refuses_other_fractions(fraction):
    with pytest.raises(SettingError, match=r"^dataset\.val_fraction=.*must be"):
        split(numbered([0, 1]), fraction, stream(0, "split"))


@pytest.mark.parametrize(("fraction", "empty"), [(0.01, "validation"), (0.99, "training")])
def test_split_refuses_to_leave_a_part_empty(fraction, empty):
    with pytest.raises(SettingError, match=f"leaves no {empty} image of 3"):
        split(numbered([0, 1, 1]), fraction, stream(0, "split"))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 70), st.booleans())
def test_batches_cover_the_epoch_in_order(num_images, batch_size, training):
    images = numbered([i % 3 for i in range(num_images)])
    order = torch.randperm(num_images) if training else None
    expected = order.tolist() if training else list(range(num_images))
    seen = list(batches(images, batch_size, order))
    assert [i for pixels, _ in seen for i in pixels[:, 0, 0, 0].tolist()] == expected
    assert [y for _, labels in seen for y in labels.tolist()] == [i % 3 for i in expected]
    assert all(len(pixels) == batch_size for pixels, _ in seen[:-1])


def test_a_process_gets_the_pixels_of_its_share_and_all_labels():
    images, order = numbered([0, 1, 2, 3, 4]), torch.tensor([4, 0, 3, 1, 2])
    seen = list(batches(images, 3, order, share=lambda batch: batch.tensor_split(2)[1]))
    assert [pixels[:, 0, 0, 0].tolist() for pixels, _ in seen] == [[3], [2]]
    assert [labels.tolist() for _, labels in seen] == [[4, 0, 3], [1, 2]]


def test_evaluation_batches_are_views():
    images = numbered([0, 1, 2])
    first, _ = next(batches(images, 2))
    assert first.data_ptr() == images.pixels.data_ptr()


def test_images_select_and_move():
    images = numbered([0, 1, 2, 3])
    assert numbers(images[torch.tensor([2, 0])]) == [2, 0]
    assert images[:2].labels.tolist() == [0, 1]
    assert images.to("meta").pixels.device.type == "meta"
