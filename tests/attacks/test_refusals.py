"""What attacks refuse, with the argument's name, before they begin."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

from landform.attacks import (
    EnsembleLogits,
    InputGradient,
    IterativeAttack,
    L2Ball,
    LinfBall,
    MomentumIterative,
    apgd,
    auto_attack,
    common_weakness_attack,
    fgsm,
    gradient_cosine,
    input_sharpness,
    pgd,
    square,
    svre,
)

BALL = LinfBall(0.1)
ATTACKS = {
    "fgsm": lambda m, x, y: fgsm(m, x, y, ball=BALL),
    "pgd": lambda m, x, y: pgd(m, x, y, ball=BALL, steps=2, step_size=0.1),
    "iterative": lambda m, x, y: IterativeAttack(InputGradient(m), [], MomentumIterative(), BALL)(x, y),
    "apgd": lambda m, x, y: apgd(m, x, y, ball=BALL, steps=2),
    "square": lambda m, x, y: square(m, x, y, ball=BALL, queries=2),
    "auto_attack": lambda m, x, y: auto_attack(m, x, y, BALL, steps=2, queries=2),
    "cwa": lambda m, x, y: common_weakness_attack([m], x, y, ball=BALL, steps=1),
    "svre": lambda m, x, y: svre([m], x, y, ball=BALL, steps=1),
    "sharpness": lambda m, x, y: input_sharpness([m], x, y, 0.1, 1),
}


def replaced(x: torch.Tensor, value: float) -> torch.Tensor:
    x = x.clone()
    x[0, 0, 0, 0] = value
    return x


class Counting(nn.Module):
    """A model that tells how often it was asked."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.calls = model, 0
        self.eval()

    def forward(self, x):
        self.calls += 1
        return self.model(x)


@pytest.mark.parametrize("name", list(ATTACKS))
@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda x, y: (replaced(x, 1.001), y), ValueError, "1.001"),
        (lambda x, y: (replaced(x, -0.001), y), ValueError, r"\[0, 1\]"),
        (lambda x, y: (replaced(x, float("nan")), y), ValueError, "finite"),
        (lambda x, y: (x.half(), y), TypeError, "float16"),
        (lambda x, y: (x[:0], y[:0]), ValueError, "empty"),
        (lambda x, y: (x, y[:-1]), ValueError, "y has shape"),
        (lambda x, y: (x, y - 1), ValueError, "label -1"),
        (lambda x, y: (x, y.double()), TypeError, "y is torch.float64"),
    ],
)
def test_inputs(name, change, error, match, model, batch):
    counting = Counting(model)
    with pytest.raises(error, match=match):
        ATTACKS[name](counting, *change(*batch))
    assert counting.calls == 0


@pytest.mark.parametrize("name", list(ATTACKS))
def test_labels_beyond_the_classes(name, model, batch):
    x, y = batch
    with pytest.raises(ValueError, match="label 5, but the model has 5 classes"):
        ATTACKS[name](model, x, torch.where(y == 4, 5, y))


@pytest.mark.parametrize("name", list(ATTACKS))
@pytest.mark.parametrize(
    ("layers", "match"),
    [
        ([nn.Conv2d(2, 5, 1)], r"shape \(4, 5, 6, 6\)"),
        ([nn.Flatten(), nn.Linear(72, 1)], "classes"),
        ([nn.Flatten(0), nn.Unflatten(0, (-1, 8))], "for 4 inputs"),
    ],
)
def test_outputs_that_are_not_logits(name, layers, match, batch):
    with pytest.raises(ValueError, match=match):
        ATTACKS[name](nn.Sequential(*layers).double().eval(), *batch)


@pytest.mark.parametrize("name", list(ATTACKS))
def test_a_model_that_gives_nan(name, batch):
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 5)).double().eval()
    nn.init.constant_(model[1].bias, float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        ATTACKS[name](model, *batch)


@pytest.mark.parametrize("name", ["pgd", "apgd", "cwa"])
def test_a_model_whose_gradients_are_nan(name, batch):
    class Rooted(nn.Module):
        def forward(self, x):
            return torch.stack([(0 * x.flatten(1)).abs().sqrt().sum(1), x.flatten(1).sum(1)], 1).repeat(1, 3)

    with pytest.raises(ValueError, match="not finite"):
        ATTACKS[name](Rooted().eval(), *batch)


@pytest.mark.parametrize("name", list(ATTACKS))
@pytest.mark.parametrize("layer", [nn.Dropout(0.1), nn.BatchNorm1d(72)])
def test_a_model_in_training_mode(name, layer, batch):
    model = nn.Sequential(nn.Flatten(), copy.deepcopy(layer), nn.Linear(72, 5)).double()
    with pytest.raises(ValueError, match=r"'1'.*training mode"):
        ATTACKS[name](model, *batch)
    model.eval()
    ATTACKS[name](model, *batch)


def test_the_mode_of_layers_that_have_none_is_only_warned_of(model, batch):
    model.train()
    with pytest.warns(UserWarning, match="training mode"):
        fgsm(model, *batch, ball=BALL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fgsm(model.eval(), *batch, ball=BALL)


def test_models(model, batch):
    with pytest.raises(ValueError, match="at least one model"):
        common_weakness_attack([], *batch, ball=BALL)
    with pytest.raises(ValueError, match="at least one model"):
        EnsembleLogits([])
    with pytest.raises(TypeError, match="function"):
        pgd(lambda x: x, *batch, ball=BALL, steps=1, step_size=0.1)
    with pytest.raises(ValueError, match="there is 1 model"):
        gradient_cosine([model], *batch)
    other = nn.Sequential(nn.Flatten(), nn.Linear(72, 6)).double().eval()
    with pytest.raises(ValueError, match="5 and 6 classes"):
        EnsembleLogits([model, other])(batch[0])
    with pytest.raises(ValueError, match="reduce='max'"):
        EnsembleLogits([model], "max")


@pytest.mark.parametrize(
    ("attack", "match"),
    [
        (lambda m, x, y: pgd(m, x, y, ball=BALL, steps=0, step_size=0.1), "steps=0"),
        (lambda m, x, y: pgd(m, x, y, ball=BALL, steps=2, step_size=0.0), "step_size=0"),
        (lambda m, x, y: pgd(m, x, y, ball=BALL, steps=2, step_size=0.1, loss="mse"), "loss='mse'"),
        (lambda m, x, y: pgd(m, x, y, ball=BALL, steps=2, step_size=0.1, loss="dlr", targeted=True), "targeted"),
        (lambda m, x, y: pgd(m, x, y, ball=BALL, steps=2, step_size=0.1, loss=lambda z, y: z.sum()), "one number"),
        (lambda m, x, y: apgd(m, x, y, ball=BALL, rho=1.0), "rho=1"),
        (lambda m, x, y: square(m, x, y, ball=BALL, p=0.0), "p=0"),
        (lambda m, x, y: auto_attack(m, x, y, BALL, "standard"), "version='standard'"),
        (lambda m, x, y: common_weakness_attack([m], x, y, ball=BALL, reverse_step=-1.0), "reverse_step=-1"),
        (lambda m, x, y: common_weakness_attack([m], x, y, ball=BALL, outer_norm="l2"), "outer_norm='l2'"),
        (lambda m, x, y: svre([m], x, y, ball=BALL, inner_iterations=0), "inner_iterations=0"),
        (lambda m, x, y: IterativeAttack(InputGradient(m), [], MomentumIterative(-1.0), BALL), "momentum=-1"),
        (lambda m, x, y: IterativeAttack(InputGradient(m)), "ball"),
    ],
)
def test_settings(attack, match, model, batch):
    with pytest.raises(ValueError, match=match):
        attack(model, *batch)


def test_square_is_for_images_in_an_linf_ball(model, batch):
    with pytest.raises(TypeError, match="L2Ball"):
        square(model, *batch, ball=L2Ball(0.1))
    flat = nn.Linear(72, 5).double().eval()
    with pytest.raises(ValueError, match="must be images"):
        square(flat, batch[0].flatten(1), batch[1], ball=BALL)
