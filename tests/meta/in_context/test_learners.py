"""In-context learners: causality, what they start from, and the size of their state."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from landform.meta import ICLLSTM, ICLTransformer, NoStateMLP, OuterProductLSTM, shift_labels

MAKE = {
    "transformer": lambda: ICLTransformer(d_model=16, n_layer=2, n_head=2, d_ff=32, max_len=12),
    "lstm": lambda: ICLLSTM(hidden=16, layers=2),
    "outer_product": lambda: OuterProductLSTM(rows=6, cols=5),
    "stateless": lambda: NoStateMLP(hidden=16),
}


@pytest.fixture
def sequences():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 10, 5, generator=generator)
    y = torch.randint(4, (64, 10), generator=generator)
    return x, y


def made(name):
    torch.manual_seed(0)
    return MAKE[name]().double()


@pytest.mark.parametrize("name", MAKE)
def test_logits_depend_on_the_past_alone(name, sequences):
    x, y = sequences[0].double(), sequences[1]
    model = made(name)
    logits = model(x, shift_labels(y, 4).double())
    assert logits.shape == (64, 10, 4)
    t = 5
    future_x, future_y = x.clone(), y.clone()
    future_x[:, t + 1 :] += 1
    future_y[:, t:] = (future_y[:, t:] + 1) % 4  # y_t too: it is what is to be predicted
    changed = model(future_x, shift_labels(future_y, 4).double())
    assert torch.allclose(changed[:, : t + 1], logits[:, : t + 1], atol=1e-12)
    assert not torch.isclose(changed[:, t + 1 :], logits[:, t + 1 :], atol=1e-9).all(2).any()


@pytest.mark.parametrize("name", MAKE)
def test_all_but_the_stateless_one_remember(name, sequences):
    x, y = sequences[0].double(), sequences[1]
    model = made(name)
    logits = model(x, shift_labels(y, 4).double())
    past = y.clone()
    past[:, 1] = (past[:, 1] + 1) % 4
    moved = (model(x, shift_labels(past, 4).double()) - logits).abs().amax((0, 2)) > 1e-9
    assert moved.tolist() == ([False, False, True] + [name != "stateless"] * 7)


@pytest.mark.parametrize("name", MAKE)
def test_a_new_learner_is_close_to_uniform(name, sequences):
    x, y = sequences
    torch.manual_seed(0)
    model = MAKE[name]()
    loss = F.cross_entropy(model(x, shift_labels(y, 4)).flatten(0, 1), y.flatten())
    assert abs(loss.item() - math.log(4)) < 0.1
    assert model.head.weight.std().item() == pytest.approx(0.02, rel=0.5)


@pytest.mark.parametrize("name", MAKE)
def test_learners_are_saved_and_loaded_and_gradients_reach_every_parameter(name, sequences):
    x, y = sequences
    model = MAKE[name]()
    logits = model(x, shift_labels(y, 4))
    fresh = MAKE[name]()
    fresh.load_state_dict(model.state_dict())  # before it has seen a batch
    assert torch.equal(fresh(x, shift_labels(y, 4)), logits)
    assert torch.equal(copy.deepcopy(model)(x, shift_labels(y, 4)), logits)
    F.cross_entropy(logits.flatten(0, 1), y.flatten()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_the_outer_product_cell_is_the_recurrence(sequences):
    x, y = sequences[0][:3].double(), sequences[1][:3]
    model = made("outer_product")
    prev_y = shift_labels(y, 4).double()
    logits = model(x, prev_y)
    weights, m, n = dict(model.named_parameters()), 6, 5
    for b in range(3):
        c, r = torch.zeros(m, n).double(), torch.zeros(m).double()
        for t in range(10):
            z = weights["embed.weight"] @ torch.cat([x[b, t], prev_y[b, t]]) + weights["embed.bias"]
            z = z + weights["recur.weight"] @ r
            f, i, g, k, q = z[:m], z[m : 2 * m], z[2 * m : 3 * m], z[3 * m : 3 * m + n], z[3 * m + n :]
            f, i, g = torch.sigmoid(f + 1), torch.sigmoid(i), torch.tanh(g)
            c = f[:, None] * c + torch.outer(i * g, k / k.norm())
            r = c @ (q / q.norm())
            expected = weights["head.weight"] @ torch.cat([r, x[b, t]]) + weights["head.bias"]
            assert torch.allclose(logits[b, t], expected, atol=1e-12)


def test_state_sizes():
    assert ICLTransformer(64, 3, 4, 128, 20).state_size(20) == 2 * 3 * 64 * 20
    assert ICLTransformer(64, 3, 4, 128, 20).state_size(0) == 0
    assert ICLLSTM(32, 1).state_size(7) == ICLLSTM(32, 1).state_size(70) == 2 * 32
    assert ICLLSTM(32, 3).state_size(7) == 2 * 32 * 3
    assert OuterProductLSTM(16, 8).state_size(7) == 16 * 8 + 16
    assert NoStateMLP().state_size(7) == 0
    with pytest.raises(ValueError, match="t=-1"):
        ICLLSTM(8).state_size(-1)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: ICLTransformer(10, 2, 3, 8, 8), "d_model=10.*n_head=3"),
        (lambda: ICLTransformer(8, 0, 2, 8, 8), "n_layer=0"),
        (lambda: ICLLSTM(0), "hidden=0"),
        (lambda: OuterProductLSTM(4, 0), "cols=0"),
        (lambda: NoStateMLP(layers=0), "layers=0"),
    ],
)
def test_impossible_sizes_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_impossible_sequences_are_refused(sequences):
    x, y = sequences
    prev_y = shift_labels(y, 4)
    model = MAKE["transformer"]()
    with pytest.raises(ValueError, match="x and prev_y have shapes"):
        model(x[:, :3], prev_y)
    with pytest.raises(TypeError, match=r"prev_y: is torch\.int64"):
        model(x, prev_y.long())
    with pytest.raises(ValueError, match="13 positions; max_len=12"):
        model(torch.zeros(1, 13, 5), torch.zeros(1, 13, 4))
    model(x, prev_y)
    with pytest.raises(ValueError, match="5 numbers and prev_y 3 classes, but the model was made for 5 and 4"):
        model(x, prev_y[:, :, :3])
