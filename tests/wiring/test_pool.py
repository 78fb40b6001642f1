import pytest
import torch
import torch.nn.functional as F

from expanders.wiring import native
from expanders.wiring.pool import max_pool2d

pytestmark = pytest.mark.skipif(not native.is_available(), reason="no C++ compiler")

# Size of a window, stride, padding.
WINDOWS = [(2, 2, 0), (3, 2, 1), (3, 1, 1), (2, 1, 0), (3, 3, 0), (1, 2, 0), (2, 4, 1), (5, 3, 2)]
WINDOWS += [(15, 1, 7), (3, 5, 1)]
SHAPES = [(2, 3, 32, 32), (3, 70, 2, 2), (1, 2, 15, 22), (5, 7, 8, 7), (2, 3, 1, 9), (1, 2, 70, 80)]
SHAPES += [(3, 40, 4, 8), (1, 1, 4, 600)]


def images(shape, dtype, kind):
    """Images of many equal numbers, or with numbers that compare in unusual ways."""
    torch.manual_seed(0)
    x = (
        torch.randint(-2, 3, shape).to(dtype)
        if kind == "equal"
        else torch.randn(shape, dtype=dtype)
    )
    if kind == "unusual":
        chance = torch.rand(shape)
        for number, below in ((0.0, 0.5), (-0.0, 0.4), (torch.inf, 0.3), (-torch.inf, 0.25)):
            x[chance < below] = number
        x[chance < 0.02] = torch.nan
        x[0, 0] = -torch.inf
    return x


def bits(x):
    """For comparison of all bits, of which NaN and -0 differ where numbers are equal."""
    return x.detach().contiguous().view(torch.int32 if x.dtype == torch.float32 else torch.int64)


@pytest.mark.parametrize("kind", ["normal", "equal", "unusual"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_has_the_bits_of_pytorch(window, shape, dtype, kind):
    x = images(shape, dtype, kind).requires_grad_()
    if min(shape[2:]) + 2 * window[2] < window[0]:
        with pytest.raises(RuntimeError, match=r"[Tt]oo small|smaller"):
            max_pool2d(x, *window)
        return
    results = []
    for compute in (max_pool2d, F.max_pool2d):
        y = compute(x, *window)
        seed = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        results.append((y, *torch.autograd.grad(y, x, seed)))
    for got, expected in zip(*results, strict=True):
        assert torch.equal(bits(got), bits(expected))
    with torch.no_grad():
        assert torch.equal(bits(max_pool2d(x, *window)), bits(results[1][0]))


def test_is_computed_by_the_operator():
    y = max_pool2d(torch.randn(2, 3, 8, 8, requires_grad=True), (3, 3), [2], 1)
    assert "_MaxPool" in y.grad_fn.name()


@pytest.mark.parametrize("window", [(2, 2, 0), (3, 2, 1)])
def test_second_derivatives(window):
    torch.manual_seed(0)
    x = torch.randn(2, 2, 6, 7, dtype=torch.float64, requires_grad=True)

    def compute(x):
        return max_pool2d(x, *window) ** 2

    assert torch.autograd.gradcheck(compute, x)
    assert torch.autograd.gradgradcheck(compute, x)


def test_the_bits_do_not_depend_on_the_number_of_threads():
    x = images((8, 16, 32, 32), torch.float32, "normal").requires_grad_()
    threads, results = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            y = max_pool2d(x, 3, 2, 1)
            results.append((y, *torch.autograd.grad(y.square().sum(), x)))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


X = torch.randn(2, 3, 9, 8)


@pytest.mark.parametrize(
    ("x", "options"),
    [
        (X, {"kernel_size": (3, 2)}),
        (X, {"kernel_size": 3, "stride": (1, 2)}),
        (X, {"kernel_size": 2, "dilation": 2}),
        (X, {"kernel_size": 2, "ceil_mode": True}),
        (X[0], {"kernel_size": 2}),
        (X.bfloat16(), {"kernel_size": 2}),
        (X.to(memory_format=torch.channels_last), {"kernel_size": 2}),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_the_operator_cannot_do_is_left_to_pytorch(x, options):
    assert torch.equal(max_pool2d(x, **options), F.max_pool2d(x, **options))


def test_places_are_those_of_pytorch():
    for got, expected in zip(
        max_pool2d(X, 2, return_indices=True), F.max_pool2d(X, 2, return_indices=True), strict=True
    ):
        assert torch.equal(got, expected)


@pytest.mark.filterwarnings("ignore")
def test_declares_itself_correctly():
    """Schema, fake kernels and autograd, as PyTorch checks them for custom operators."""
    for dtype in (torch.float32, torch.float64):
        x = torch.randn(2, 3, 7, 8, dtype=dtype)
        operator = torch.ops.expanders.max_pool2d
        torch.library.opcheck(operator, (x.clone().requires_grad_(), 3, 2, 1, True))
        torch.library.opcheck(operator, (x, 3, 2, 1, False))
        y, places = operator(x, 3, 2, 1, True)
        backward = torch.ops.expanders.max_pool2d_backward
        torch.library.opcheck(backward, (torch.randn_like(y), places, 7, 8, 3, 2, 1))


def test_wrong_arguments_are_refused():
    pool, backward = torch.ops.expanders.max_pool2d, torch.ops.expanders.max_pool2d_backward
    with pytest.raises(RuntimeError, match="expected images"):
        pool(torch.randn(3, 4), 2, 2, 0, False)
    for window in ((16, 2, 0), (2, 0, 0), (2, 2, 2), (0, 1, 0), (3, 1, -1)):
        with pytest.raises(RuntimeError, match="at most half a window"):
            pool(X, *window, False)
    with pytest.raises(RuntimeError, match="smaller than a window"):
        pool(X, 15, 2, 0, False)
    y, places = pool(X, 2, 2, 0, True)
    with pytest.raises(RuntimeError, match="a place for each window"):
        backward(y, places[:1], 9, 8, 2, 2, 0)
    with pytest.raises(RuntimeError, match="not of these windows"):
        backward(y, places, 20, 8, 2, 2, 0)


@pytest.mark.filterwarnings("ignore")
def test_transforms_of_functions_and_compilation():
    torch.manual_seed(0)
    x, direction = torch.randn(2, 2, 3, 6, 6, dtype=torch.float64)

    def loss(compute, x):
        return (compute(x, 3, 2, 1) ** 3).sum()

    for derive in (
        lambda f: torch.func.jvp(f, (x,), (direction,))[1],
        lambda f: torch.func.grad(f)(x),
        lambda f: torch.func.vmap(torch.func.grad(f))(torch.stack([x, direction])),
        lambda f: torch.autograd.grad(
            torch.compile(f, backend="aot_eager")(x.requires_grad_()), x.requires_grad_()
        )[0],
    ):
        got = derive(lambda x: loss(max_pool2d, x))
        torch.testing.assert_close(got, derive(lambda x: loss(F.max_pool2d, x)))
