import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expanders.data import Transform
from expanders.errors import SettingError

PLAIN = {"mean": (0, 0, 0), "std": (1, 1, 1)}


def random_pixels(num, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (num, 3, height, width), generator=generator, dtype=torch.uint8)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pixel(image, channel, i, j, pad):
    """Pixel (i, j) of an image that was padded with black."""
    i, j = i - pad, j - pad
    inside = 0 <= i < image.shape[1] and 0 <= j < image.shape[2]
    return float(image[channel, i, j]) if inside else 0.0


def reference(pixels, parameters, pad, side):
    """Crop and flip, one pixel at a time."""
    out = np.zeros((len(pixels), 3, side, side))
    for n, (top, left, flip) in enumerate(parameters.tolist()):
        for c in range(3):
            for i in range(side):
                for j in range(side):
                    column = side - 1 - j if flip else j
                    out[n, c, i, j] = pixel(pixels[n], c, top + i, left + column, pad)
    return out


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 4), st.integers(3, 7), st.integers(3, 7), st.integers(0, 3), st.integers(1, 7),
    st.booleans(), st.integers(0, 99),
)  # fmt: skip
def test_train_equals_plain_loops(num, height, width, pad, crop, flip, seed):
    transform = Transform(**PLAIN, pad=pad, crop=min(crop, height, width), flip=flip)
    pixels = random_pixels(num, height, width, seed)
    parameters = transform.draw(num, height, width, generator(seed))
    out = transform.train(pixels, parameters)
    assert out.dtype == torch.float32
    assert out.is_contiguous()
    assert np.array_equal(out.numpy(), reference(pixels, parameters, pad, transform.crop))


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 8), st.integers(3, 8), st.integers(0, 3), st.integers(1, 8))
def test_eval_is_the_centre_of_the_image(height, width, pad, crop):
    crop = min(crop, height, width)
    pixels = random_pixels(2, height, width)
    out = Transform(**PLAIN, pad=pad, crop=crop, flip=True).eval(pixels)
    top, left = (height - crop) // 2, (width - crop) // 2
    assert torch.equal(out, pixels[..., top : top + crop, left : left + crop].float())
    assert out.is_contiguous()


def test_draws_cover_their_range_evenly():
    transform = Transform(**PLAIN, pad=4, crop=32, flip=True)
    top, left, flip = transform.draw(9000, 32, 32, generator()).unbind(1)
    for values, count in ((top, 9), (left, 9), (flip, 2)):
        shares = values.bincount(minlength=count) / 9000
        assert len(shares) == count
        assert (shares * count - 1).abs().max() < 0.15
    assert np.corrcoef(torch.stack([top, left, flip]))[np.triu_indices(3, 1)].max() < 0.05


def test_no_flip_unless_asked_and_no_shift_without_room():
    parameters = Transform(**PLAIN).draw(50, 32, 30, generator())
    assert parameters.eq(0).all()
    pixels = random_pixels(50, 32, 30)
    assert torch.equal(Transform(**PLAIN).train(pixels, parameters), pixels.float())


def test_same_seed_same_bits_and_a_rank_uses_its_slice():
    transform = Transform((125, 123, 114), (63, 62, 67), pad=4, crop=32, flip=True)
    pixels = random_pixels(8, 32, 32)
    parameters = transform.draw(8, 32, 32, generator(3))
    assert torch.equal(parameters, transform.draw(8, 32, 32, generator(3)))
    assert not torch.equal(parameters, transform.draw(8, 32, 32, generator(4)))
    whole = transform.train(pixels, parameters)
    halves = [transform.train(pixels[part], parameters[part]) for part in (slice(4), slice(4, 8))]
    assert torch.equal(torch.cat(halves), whole)


def test_normalisation_has_the_units_of_stored_pixels():
    mean, std = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
    pixels = random_pixels(4, 8, 8)
    expected = (pixels.double() - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(
        3, 1, 1
    )
    transform = Transform(list(mean), list(std))
    torch.testing.assert_close(transform.eval(pixels).double(), expected, rtol=1e-6, atol=1e-6)
    parameters = transform.draw(4, 8, 8, generator())
    assert torch.equal(transform.train(pixels, parameters), transform.eval(pixels))


def bilinear(image, side):
    """Bilinear enlargement with pixel centres at half integers, one pixel at a time."""
    _, height, width = image.shape
    out = np.zeros((3, side, side))
    for i in range(side):
        y = min(max((i + 0.5) * height / side - 0.5, 0), height - 1)
        y0, y1 = int(y), min(int(y) + 1, height - 1)
        for j in range(side):
            x = min(max((j + 0.5) * width / side - 0.5, 0), width - 1)
            x0, x1 = int(x), min(int(x) + 1, width - 1)
            upper = image[:, y0, x0] * (1 - x + x0) + image[:, y0, x1] * (x - x0)
            lower = image[:, y1, x0] * (1 - x + x0) + image[:, y1, x1] * (x - x0)
            out[:, i, j] = upper * (1 - y + y0) + lower * (y - y0)
    return out


def test_resize_is_bilinear_then_random_crop_and_flip():
    pixels = random_pixels(3, 6, 6)
    transform = Transform(**PLAIN, resize=20, crop=15, flip=True)
    large = np.stack([bilinear(image.double().numpy(), 20) for image in pixels])
    np.testing.assert_allclose(transform.eval(pixels), large[..., 2:17, 2:17], atol=1e-3)
    parameters = transform.draw(3, 6, 6, generator())
    assert parameters[:, :2].max() <= 5
    for image, expected, (top, left, flip) in zip(
        transform.train(pixels, parameters), large, parameters.tolist(), strict=True
    ):
        expected = expected[:, top : top + 15, left : left + 15]
        np.testing.assert_allclose(image, expected[..., ::-1] if flip else expected, atol=1e-3)


def test_shrinking_does_not_alias():
    stripes = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    stripes[..., ::2] = 255  # plain sampling would give stripes or black
    small = Transform(**PLAIN, resize=8).eval(stripes)
    assert small.shape == (1, 3, 8, 8)
    assert (small[..., 1:-1] - 127.5).abs().max() < 10


def test_stored_pixels_are_left_alone():
    pixels = random_pixels(2, 4, 4)
    before = pixels.clone()
    transform = Transform((9, 9, 9), (2, 2, 2), flip=True)
    transform.train(pixels, transform.draw(2, 4, 4, generator()))
    transform.eval(pixels)
    assert torch.equal(pixels, before)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mean", [1, 2]), ("mean", ["a", 2, 3]), ("mean", 7), ("mean", [float("nan")] * 3),
        ("std", [1, 0, 1]), ("std", None), ("resize", 0), ("resize", "big"), ("pad", -1),
        ("pad", None), ("crop", 2.5), ("crop", True), ("flip", "maybe"), ("flip", 1),
    ],
)  # fmt: skip
def test_wrong_settings_name_their_key(key, value):
    with pytest.raises(SettingError, match=rf"^dataset\.transform\.{key}=") as caught:
        Transform(**(PLAIN | {key: value}))
    assert "\n" not in str(caught.value)


def test_a_crop_larger_than_the_image_is_refused():
    transform = Transform(**PLAIN, pad=1, crop=11)
    with pytest.raises(SettingError, match=r"^dataset\.transform\.crop=11: .*8x8.*by 1"):
        transform.draw(1, 8, 8, generator())
    with pytest.raises(SettingError, match=r"dataset\.transform\.crop"):
        transform.eval(random_pixels(1, 8, 8))
