"""What every public loss must do, whatever it computes."""

from __future__ import annotations

import copy
import inspect
import io
import math
import pickle
from typing import Any

import pytest
import torch
from examples import ALL_LOSSES, Inputs, loss_example, make_loss
from torch import Tensor, nn

from landform.losses import ClassificationLoss

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
every_loss = pytest.mark.parametrize("name", ALL_LOSSES)


def inputs(name: str, dtype: torch.dtype = torch.float64, device: str = "cpu", seed: int = 0) -> Inputs:
    like = torch.empty(0, dtype=dtype, device=device)
    first, *rest = loss_example(name).inputs(like, torch.Generator().manual_seed(seed))
    return first.requires_grad_(), *rest


def value(loss: nn.Module, given: Inputs) -> Tensor:
    """What a loss gives, with the same random numbers each time if it draws any."""
    torch.manual_seed(1)
    return loss(*given)


def gradient(loss: nn.Module, given: Inputs) -> tuple[Tensor, Tensor]:
    result = value(loss, given)
    return result.detach(), torch.autograd.grad(result.sum(), given[0])[0]


@every_loss
def test_example_is_in_the_docstring(name: str) -> None:
    assert ">>> loss = " in (ALL_LOSSES[name].__doc__ or ""), f"{name} shows no example that doctest runs"


@every_loss
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_dtypes_and_devices(name: str, dtype: torch.dtype, device: str) -> None:
    """A scalar where the input is, and a gradient of the input's dtype. Half precision is computed in float32."""
    loss = make_loss(name).to(device)
    given = inputs(name, dtype, device)
    result, slope = gradient(loss, given)
    assert result.shape == ()
    assert result.device == given[0].device
    assert (slope.dtype, slope.shape) == (dtype, given[0].shape)
    assert result.isfinite()
    assert slope.isfinite().all()
    if dtype.itemsize == 2:
        wide = given[0].detach().float().requires_grad_()
        reference, _ = gradient(make_loss(name).to(device), (wide, *given[1:]))
        torch.testing.assert_close(result.float(), reference, rtol=1e-5, atol=1e-5)


@every_loss
def test_meta_device(name: str) -> None:
    """Shapes can be worked out without values."""
    loss = make_loss(name).to("meta")
    assert value(loss, tuple(t.to("meta") for t in inputs(name))).shape == ()


@every_loss
def test_reductions(name: str) -> None:
    if not loss_example(name).reduces:
        pytest.skip(f"{name} is no mean over samples")
    given = inputs(name)
    each, total, mean = (value(make_loss(name, reduction=how), given) for how in ("none", "sum", "mean"))
    assert each.shape == given[0].shape[:1]
    torch.testing.assert_close(total, each.sum(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mean, each.mean(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(value(make_loss(name), given), mean)


@every_loss
def test_unknown_reduction(name: str) -> None:
    if "reduction" not in inspect.signature(ALL_LOSSES[name]).parameters and not loss_example(name).reduces:
        pytest.skip(f"{name} is no mean over samples")
    with pytest.raises(ValueError, match="reduction='median'"):
        make_loss(name, reduction="median")


@every_loss
def test_gradient_is_that_of_finite_differences(name: str) -> None:
    """In evaluation mode: some losses' slopes in training are not those of their value, on purpose."""
    loss = make_loss(name).double().eval()
    first, *rest = inputs(name)
    assert torch.autograd.gradcheck(lambda x: value(loss, (x, *rest)), first)


@every_loss
def test_training_gives_a_gradient(name: str) -> None:
    _, slope = gradient(make_loss(name).train(), inputs(name))
    assert slope.abs().max() > 1e-6


@every_loss
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("pattern", ["mixed", "high", "low", "zero"])
def test_extreme_predictions(name: str, dtype: torch.dtype, pattern: str) -> None:
    """Networks that diverge, or have just been made with a last layer of zeros, must be told something finite."""
    first, *rest = inputs(name, dtype)
    size = loss_example(name).extreme
    filled = {
        "mixed": first.detach().sign() * size,
        "high": torch.full_like(first, size),
        "low": torch.full_like(first, -size),
        "zero": torch.zeros_like(first),
    }[pattern]
    loss = make_loss(name).to(dtype)
    for mode in (True, False):
        result, slope = gradient(loss.train(mode), (filled.requires_grad_(), *rest))
        assert result.isfinite()
        assert slope.isfinite().all()


@pytest.mark.parametrize("name", [name for name, kind in ALL_LOSSES.items() if issubclass(kind, ClassificationLoss)])
def test_psi_takes_leading_dimensions_and_vmap(name: str) -> None:
    """What lets many models share a loss: the same numbers in any arrangement of the samples."""
    loss: Any = make_loss(name)
    logits, target, *_ = inputs(name)
    expected = loss.psi(logits, target)
    arranged = logits.view(3, -1, logits.shape[1]), target.view(3, -1)
    torch.testing.assert_close(loss.psi(*arranged).flatten(), expected, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(torch.func.vmap(loss.psi)(*arranged).flatten(), expected, rtol=1e-13, atol=1e-13)


@every_loss
def test_empty_batch(name: str) -> None:
    with pytest.raises(ValueError, match=r"empty|at least|need"):
        make_loss(name)(*(t[:0] for t in inputs(name)))


@every_loss
def test_wrong_shapes(name: str) -> None:
    first, second, *rest = inputs(name)
    wrong = [(first[0, ...], second)]
    if loss_example(name).pairs:
        wrong += [(first, second[:-1]), (first[:-1], second)]
    if first.shape == second.shape:
        wrong += [(first, second[..., :-1])]
    for given in wrong:
        with pytest.raises(ValueError, match=r"shape|need|must be"):
            make_loss(name)(*given, *rest)
    for i in range(len(rest)):
        with pytest.raises(ValueError, match=r"shape|need|must be"):
            make_loss(name)(first, second, *rest[:i], rest[i][:-1], *rest[i + 1 :])


@every_loss
def test_wrong_dtypes(name: str) -> None:
    first, second, *rest = inputs(name)
    with pytest.raises(TypeError):
        make_loss(name)(first.detach().long(), second, *rest)
    if not second.is_floating_point() and second.max() > 1:  # class numbers
        with pytest.raises(TypeError):
            make_loss(name)(first, second.double(), *rest)


@every_loss
def test_targets_out_of_range(name: str) -> None:
    first, second, *rest = inputs(name)
    if second.is_floating_point() or not loss_example(name).bounds:
        pytest.skip(f"{name} has no class numbers")
    for wrong in (-1, 100):
        target = second.clone()
        target[3] = wrong
        with pytest.raises(ValueError, match=str(wrong) + r"|outside"):
            make_loss(name)(first, target, *rest)


@every_loss
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_predictions_that_are_not_finite(name: str, bad: float) -> None:
    first, *rest = inputs(name)
    spoiled = first.detach().clone()
    spoiled[2] = bad
    with pytest.raises(ValueError, match=r"NaN|finite"):
        make_loss(name)(spoiled, *rest)


@every_loss
def test_inputs_are_left_alone(name: str) -> None:
    given = inputs(name)
    before = [t.detach().clone() for t in given]
    gradient(make_loss(name), given)
    assert all(torch.equal(now, then) for now, then in zip(given, before, strict=True))


def visited(name: str) -> nn.Module:
    """A loss that has seen a batch, so that what it keeps of its samples is no longer what it was made with."""
    loss = make_loss(name)
    value(loss, inputs(name, seed=5))
    return loss


def assert_same(loss: nn.Module, other: nn.Module, name: str) -> None:
    for mode in (False, True):
        ours, theirs = (gradient(module.train(mode), inputs(name)) for module in (loss, other))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@every_loss
def test_state_dict_round_trip(name: str) -> None:
    loss = visited(name)
    file = io.BytesIO()
    torch.save(loss.state_dict(), file)
    file.seek(0)
    fresh = make_loss(name)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert_same(loss, fresh, name)


@every_loss
def test_deepcopy(name: str) -> None:
    loss = visited(name)
    before = {key: tensor.clone() for key, tensor in loss.state_dict().items()}
    copied = copy.deepcopy(loss)
    value(copied, inputs(name, seed=6))
    assert all(torch.equal(tensor, before[key]) for key, tensor in loss.state_dict().items())
    assert_same(copy.deepcopy(loss), loss, name)


@every_loss
def test_pickling(name: str) -> None:
    loss = visited(name)
    assert_same(pickle.loads(pickle.dumps(loss)), loss, name)


@every_loss
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_to_one_graph(name: str, backend: str) -> None:
    torch._dynamo.reset()
    compiled: Any = torch.compile(make_loss(name), fullgraph=True, backend=backend)
    expected = gradient(make_loss(name), inputs(name))
    torch.testing.assert_close(gradient(compiled, inputs(name)), expected, rtol=1e-12, atol=1e-12)


@every_loss
def test_representation_names_the_class(name: str) -> None:
    assert repr(make_loss(name)).startswith(ALL_LOSSES[name].__name__ + "(")


def test_what_cannot_be_built_fails_by_name() -> None:
    """The battery's own promise: a public class with arguments that nobody named is a failure, not a skip."""
    from examples import build

    class NeedsMore(nn.Module):
        def __init__(self, mystery: int) -> None:
            super().__init__()

    with pytest.raises(pytest.fail.Exception, match=r"NeedsMore is public.*mystery.*LOSSES of tests/conformance"):
        build(NeedsMore, "LOSSES")
