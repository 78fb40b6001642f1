from functools import partial

import pytest
import torch
import torch.nn.functional as F

from expanders.wiring import native
from expanders.wiring.norm import RELU, RELU6, UNBOUNDED, batch_norm, can_pool, is_supported

pytestmark = pytest.mark.skipif(not native.is_available(), reason="no C++ compiler")

FOLLOWERS = [{}, {"bounds": RELU}, {"residual": True, "bounds": RELU}, {"residual": True}]
FOLLOWERS += [{"bounds": RELU, "pool": True}, {"bounds": RELU6}]
FOLLOWERS += [{"residual": True, "bounds": (-1.0, 2.0)}]
SHAPES = [(4, 5, 6, 8), (3, 70, 2, 2), (2, 3, 40, 40), (5, 7, 8, 7), (130, 3, 2, 2), (2, 2, 64, 64)]


def arguments(shape, dtype=torch.float64, affine=True, residual=False):
    channels = shape[1]
    x = torch.randn(shape, dtype=dtype) * 2 + 3
    vectors = [torch.randn(channels, dtype=dtype) if affine else None for _ in range(2)]
    other = torch.randn(shape, dtype=dtype) if residual else None
    tensors = [x, *vectors, other]
    return [None if t is None else t.requires_grad_() for t in tensors]


def reference(
    x, mean, var, weight, bias, momentum=0.1, residual=None, bounds=UNBOUNDED, pool=False
):
    """The same, in PyTorch's operations."""
    y = F.batch_norm(x, mean, var, weight, bias, True, momentum, 1e-5)
    y = y if residual is None else y + residual
    y = F.relu(y) if bounds == RELU else F.hardtanh(y, *bounds) if bounds != UNBOUNDED else y
    return F.max_pool2d(y, 2) if pool else y


def ours(x, mean, var, weight, bias, momentum=0.1, **followers):
    return batch_norm(x, mean, var, weight, bias, True, momentum, 1e-5, **followers)


def evaluated(compute, tensors, followers, order=1):
    """Outputs, running statistics and gradients of all inputs, of first or second order."""
    x, weight, bias, residual = tensors
    mean, var = torch.zeros(x.shape[1], dtype=x.dtype), torch.ones(x.shape[1], dtype=x.dtype)
    y = compute(x, mean, var, weight, bias, **followers | {"residual": residual})
    inputs = [t for t in tensors if t is not None]
    torch.manual_seed(1)
    seed = torch.randn_like(y)
    grads = torch.autograd.grad(y, inputs, seed, create_graph=order == 2)
    if order == 2:
        total = sum((grad**2).sum() for grad in grads)
        grads = torch.autograd.grad(total, inputs, allow_unused=True)
        grads = [
            g if g is not None else torch.zeros_like(t) for g, t in zip(grads, inputs, strict=True)
        ]
    return [y, mean, var, *grads]


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("followers", FOLLOWERS, ids="-".join)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("order", [1, 2])
def test_equals_pytorch(shape, followers, affine, order):
    torch.manual_seed(0)
    if followers.get("pool") and not can_pool(torch.empty(shape), RELU):
        return
    tensors = arguments(shape, affine=affine, residual=followers.get("residual", False))
    for got, expected in zip(
        evaluated(ours, tensors, followers, order),
        evaluated(reference, tensors, followers, order),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8)


def test_float32_is_as_exact_as_pytorch_also_far_from_zero():
    torch.manual_seed(0)
    x = (
        torch.randn(64, 4, 16, 16, dtype=torch.float64)
        + torch.tensor([0, 10, 1e3, -1e4])[:, None, None].double()
    )
    exact = evaluated(reference, [x.requires_grad_(), None, None, None], {})
    single = x.detach().float().requires_grad_()
    errors = [
        [
            float((got - want).abs().max().detach())
            for got, want in zip(evaluated(f, *args), exact, strict=True)
        ]
        for f, args in (
            (ours, ([single, None, None, None], {})),
            (reference, ([single, None, None, None], {})),
        )
    ]
    assert all(mine <= 2 * theirs + 1e-6 for mine, theirs in zip(*errors, strict=True)), errors


def test_equal_numbers_in_a_pool_share_no_gradient():
    """The first of the largest gets all of it, as in PyTorch."""
    torch.manual_seed(0)
    x = torch.randint(3, (4, 3, 8, 8)).double().requires_grad_()
    tensors = [x, None, None, None]
    followers = {"bounds": RELU, "pool": True}
    for got, expected in zip(
        evaluated(ours, tensors, followers), evaluated(reference, tensors, followers), strict=True
    ):
        torch.testing.assert_close(got, expected)


def test_not_a_number_is_not_hidden_by_the_relu():
    x = torch.randn(2, 1, 4, 4)
    x[0, 0, 0, 0] = float("nan")
    for followers in ({"bounds": RELU}, {"bounds": RELU, "pool": True}, {"bounds": RELU6}):
        assert ours(x, None, None, None, None, **followers).isnan().all()


def test_an_infinite_output_of_a_relu_has_a_gradient():
    x = torch.randn(2, 1, 4, 4)
    for compute in (ours, reference):
        residual = torch.full_like(x, torch.inf).requires_grad_()
        compute(x, None, None, None, None, residual=residual, bounds=RELU).sum().backward()
        assert torch.equal(residual.grad, torch.ones_like(x))


def test_what_follows_an_addition_is_not_pooled_by_the_operator():
    x, residual = torch.randn(2, 2, 3, 4, 4)
    options = {"residual": residual, "bounds": RELU, "pool": True}
    arguments = (x, None, None, None, None)
    torch.testing.assert_close(ours(*arguments, **options), reference(*arguments, **options))


def test_the_bits_do_not_depend_on_the_number_of_threads():
    torch.manual_seed(0)
    tensors = arguments((32, 48, 16, 16), torch.float32)
    threads = torch.get_num_threads()
    results = []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            results.append(evaluated(ours, tensors, {"bounds": RELU}))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(4, 6),
        torch.randn(4, 6, 4, 4, dtype=torch.bfloat16),
        torch.randn(4, 6, 4, 4).to(memory_format=torch.channels_last),
        torch.randn(1, 6, 1, 1),
    ],
    ids=["vectors", "bf16", "channels_last", "one number a channel"],
)
def test_what_the_operator_cannot_do_is_left_to_pytorch(x):
    assert not is_supported(x, None)
    if x.numel() > x.shape[1]:
        mean, var = torch.zeros(6), torch.ones(6)
        args = (mean.to(x.dtype), var.to(x.dtype), None, None)
        torch.testing.assert_close(ours(x, *args), reference(x, *args))


def test_evaluation_uses_the_running_statistics():
    x, mean, var = torch.randn(2, 3, 4, 4), torch.randn(3), torch.rand(3)
    expected = F.max_pool2d(F.relu(F.batch_norm(x, mean, var)), 2)
    assert torch.equal(batch_norm(x, mean, var, bounds=RELU, pool=True), expected)


@pytest.mark.filterwarnings("ignore")
def test_declares_itself_correctly():
    """Schema, fake kernels and autograd, as PyTorch checks them for custom operators."""
    cases = (
        (False, RELU6, False),
        (False, RELU, True),
        (True, RELU, False),
        (True, UNBOUNDED, False),
    )
    for residual, bounds, pool in cases:
        x, weight, bias, other = arguments((3, 4, 4, 6), residual=residual)
        torch.library.opcheck(
            torch.ops.expanders.batch_norm, (x, weight, bias, other, 1e-5, *bounds, pool)
        )


def test_wrong_shapes_are_refused():
    norm = torch.ops.expanders.batch_norm
    with pytest.raises(RuntimeError, match="expected images"):
        norm(torch.randn(3, 4), None, None, None, 1e-5, *UNBOUNDED, False)
    with pytest.raises(RuntimeError, match=r"must be \(4,\)"):
        norm(torch.randn(3, 4, 2, 2), torch.ones(3), None, None, 1e-5, *UNBOUNDED, False)
    with pytest.raises(RuntimeError, match="even height"):
        norm(torch.randn(3, 4, 3, 2), None, None, None, 1e-5, *RELU, True)
    with pytest.raises(RuntimeError, match="pools after ReLU only"):
        norm(torch.randn(3, 4, 2, 2), None, None, None, 1e-5, *RELU6, True)
    with pytest.raises(RuntimeError, match="residual must be"):
        norm(torch.randn(3, 4, 2, 2), None, None, torch.ones(1), 1e-5, *RELU, False)


@pytest.mark.filterwarnings("ignore")
def test_transforms_of_functions():
    """They are left to PyTorch."""
    torch.manual_seed(0)
    x, direction = torch.randn(2, 2, 3, 4, 4, dtype=torch.float64)

    def loss(compute, x):
        return (compute(x, None, None, None, None, bounds=RELU) ** 3).sum()

    for derive in (
        lambda f: torch.func.jvp(f, (x,), (direction,))[1],
        lambda f: torch.func.grad(f)(x),
        lambda f: torch.func.vmap(f)(torch.stack([x, direction])),
        lambda f: torch.func.vmap(torch.func.grad(f))(torch.stack([x, direction])),
        lambda f: torch.func.jvp(torch.func.grad(f), (x,), (direction,))[1],
    ):
        torch.testing.assert_close(derive(partial(loss, ours)), derive(partial(loss, reference)))


@pytest.mark.filterwarnings("ignore")
def test_compiles():
    torch.manual_seed(0)
    tensors = arguments((4, 8, 6, 6), torch.float32, residual=True)
    followers = {"bounds": RELU}
    expected = evaluated(ours, tensors, followers)
    compiled = torch.compile(ours, backend="aot_eager")
    for got, want in zip(evaluated(compiled, tensors, followers), expected, strict=True):
        torch.testing.assert_close(got, want)
