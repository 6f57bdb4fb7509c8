"""A stack of models against the models one by one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from landform.training.many import Stack, seed_stream


def mlp() -> nn.Module:
    twice = nn.Tanh()
    return nn.Sequential(nn.Linear(6, 5), twice, nn.Sequential(nn.Linear(5, 5, bias=False), twice), nn.Linear(5, 3))


def normed_mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.BatchNorm1d(6, affine=False),
        nn.Linear(6, 5),
        nn.BatchNorm1d(5, momentum=0.3),
        nn.ReLU(inplace=True),
        nn.Linear(5, 7),
        nn.LayerNorm(7),
        nn.GELU(),
        nn.BatchNorm1d(7, track_running_stats=False),
        nn.Linear(7, 3),
    )


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False),  # a bias before batch norm has no gradient but rounding
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, stride=2),
        nn.GroupNorm(2, 6),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(24, 3),
    )


class Residual(nn.Module):
    """A forward of its own, and a buffer that is no batch statistic."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)
        self.register_buffer("shift", torch.randn(6), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(x + torch.tanh(self.a(x)) * self.shift)


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[str, ...]]] = {
    "mlp": (mlp, (6,), ("dense", "vmap", "loop", "auto")),
    "normed mlp": (normed_mlp, (2, 3), ("dense", "vmap", "loop", "auto")),
    "mlp on sequences": (mlp, (4, 6), ("vmap", "loop", "auto")),
    "cnn": (cnn, (2, 6, 6), ("vmap", "loop", "auto")),
    "residual": (Residual, (6,), ("vmap", "loop", "auto")),
}
RUNS = [(name, engine) for name, (_, _, engines) in CASES.items() for engine in engines]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("name", "engine"), RUNS)
def test_outputs_gradients_and_buffers_are_those_of_each_model(
    name: str, engine: str, training: bool, shared: bool
) -> None:
    make, shape, _ = CASES[name]
    torch.manual_seed(0)
    models = [make().double().train(training) for _ in range(3)]
    for buffer in [b for model in models for b in model.buffers() if b.is_floating_point()]:
        buffer.uniform_(0.5, 2.0)
    stack = Stack(models, engine=engine)
    assert stack.training is training
    x = torch.randn((4, *shape) if shared else (3, 4, *shape)).double()
    given = x.clone()
    out = stack(x, shared=shared)
    (out * torch.arange(1.0, 4).view(3, *[1] * (out.ndim - 1))).square().sum().backward()
    for m, model in enumerate(models):
        alone = model(given if shared else given[m])
        torch.testing.assert_close(out[m], alone, rtol=1e-12, atol=1e-12)
        (alone * (m + 1)).square().sum().backward()
        for key, param in model.named_parameters():
            torch.testing.assert_close(stack.params[key].grad[m], param.grad, rtol=1e-10, atol=1e-11)
        for key, buffer in model.named_buffers():
            torch.testing.assert_close(stack.buffers[key][m], buffer, rtol=1e-12, atol=1e-12)
    assert torch.equal(x, given)


def test_auto_takes_the_dense_form_where_it_applies_and_a_loop_for_large_convolutions() -> None:
    vectors, images = torch.zeros(4, 6), torch.zeros(4, 2, 6, 6)
    assert Stack([mlp()]).engine_for(vectors) == "dense"
    assert Stack([mlp()]).engine_for(torch.zeros(4, 2, 6)) == "vmap"
    assert Stack([Residual()]).engine_for(vectors) == "vmap"
    small = Stack([cnn()])
    # 36 positions of 4 channels by 18 weights, then 4 of 6 channels by 36
    assert small.cost(images).convolutions == 36 * 4 * 18 + 4 * 6 * 36
    assert small.engine_for(images) == "vmap"
    assert small.engine_for(torch.zeros(3000, 2, 6, 6)) == "loop"
    single = Stack([nn.Sequential(nn.Conv2d(2, 4, 6), nn.GroupNorm(4, 4), nn.Flatten())])
    assert single.engine_for(images) == "vmap"  # though one sample alone would have one value a group
    hooked = mlp()
    hooked[0].register_forward_hook(lambda module, args, out: 2 * out)
    stack = Stack([hooked])
    assert stack.engine_for(vectors) == "vmap"
    x = torch.randn(4, 6)
    torch.testing.assert_close(stack(x, shared=True)[0], hooked(x))


def test_an_ordinary_optimiser_on_the_stack_trains_every_model_as_it_would_alone() -> None:
    for optimiser in (
        lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
        lambda params: torch.optim.AdamW(params, lr=0.01, weight_decay=0.1),
    ):
        torch.manual_seed(1)
        models = [cnn().double() for _ in range(3)]
        stack = Stack(models)
        x, y = torch.randn(10, 3, 8, 2, 6, 6).double(), torch.randint(0, 3, (10, 3, 8))
        joint = optimiser(stack.parameters())
        for step in range(10):
            joint.zero_grad()
            logits = stack(x[step])
            sum(F.cross_entropy(logits[m], y[step, m]) for m in range(3)).backward()
            joint.step()
        for m, model in enumerate(models):
            alone = optimiser(model.parameters())
            for step in range(10):
                alone.zero_grad()
                F.cross_entropy(model(x[step, m]), y[step, m]).backward()
                alone.step()
            for key, value in model.state_dict().items():
                torch.testing.assert_close((stack.params | stack.buffers)[key][m], value, rtol=1e-10, atol=1e-11)


def test_models_do_not_meet() -> None:
    """Changing one model, or making it NaN, leaves the gradients of the others bit for bit what they were."""
    for make, shape, engine in ((mlp, (6,), "dense"), (cnn, (2, 6, 6), "vmap"), (cnn, (2, 6, 6), "loop")):
        torch.manual_seed(0)
        stack = Stack([make().double() for _ in range(4)], engine=engine)
        x = torch.randn(4, 5, *shape).double()
        before = torch.autograd.grad(stack(x).square().sum(), list(stack.parameters()))
        for change in (1.0, float("nan")):
            with torch.no_grad():
                for param in stack.parameters():
                    param[2] += change
            out = stack(x)
            after = torch.autograd.grad(out.square().sum(), list(stack.parameters()))
            others = [0, 1, 3]
            for one, two in zip(before, after, strict=True):
                assert torch.equal(one[others], two[others])
        assert bool(out[2].isnan().all())


def test_each_model_draws_its_own_dropout_mask_in_training_mode() -> None:
    for engine in ("dense", "vmap", "loop"):
        for shared in (True, False):
            torch.manual_seed(0)
            model = nn.Sequential(nn.Dropout(0.5), nn.Linear(64, 1, bias=False))
            nn.init.ones_(model[1].weight)
            stack = Stack([copy.deepcopy(model) for _ in range(4)], engine=engine)
            x = torch.ones(1, 64) if shared else torch.ones(4, 1, 64)
            assert len(stack(x, shared=shared).unique()) > 1
            assert stack.eval()(x, shared=shared).unique().tolist() == [64.0]


def test_from_factory_gives_each_model_its_own_stream_and_leaves_the_global_one() -> None:
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    joint = Stack.from_factory(mlp, 6, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    alone = Stack.from_factory(mlp, [4], seed=3)
    other = Stack.from_factory(mlp, [4], seed=4)
    assert joint.ids == [0, 1, 2, 3, 4, 5]
    assert alone.ids == [4]
    for name, value in joint.params.items():
        assert torch.equal(value[4], alone.params[name][0])
        assert not torch.equal(value[4], value[3])
        assert not torch.equal(value[4], other.params[name][0])


def test_streams_differ_by_seed_model_and_use() -> None:
    draws = {
        float(torch.rand((), generator=seed_stream(seed, model, use), dtype=torch.float64))
        for seed in (0, 1, 2**32, 2**40 + 1)
        for model in range(50)
        for use in ("init", "order")
    }
    assert len(draws) == 4 * 50 * 2
    for bad in ({"seed": -1, "model": 0}, {"seed": 0, "model": -1}, {"seed": 0, "model": 0, "use": "noise"}):
        with pytest.raises(ValueError, match=r"zero or more|must be one of"):
            seed_stream(**bad)


def test_module_and_subset_are_copies_of_the_models() -> None:
    torch.manual_seed(0)
    models = [Residual().double().eval() for _ in range(4)]
    models[0].b.bias.requires_grad_(False)
    stack = Stack(models, ids=[10, 11, 12, 13])
    x = torch.randn(5, 6).double()
    module = stack.module(2)
    assert isinstance(module, Residual)
    assert not module.training
    assert not module.b.bias.requires_grad
    torch.testing.assert_close(module(x), models[2](x), rtol=0, atol=0)
    part = stack.subset([3, 1])
    assert part.ids == [13, 11]
    assert not part.params["b.bias"].requires_grad
    assert all(param.is_leaf for param in part.parameters())
    torch.testing.assert_close(part(x, shared=True), stack(x, shared=True)[[3, 1]])
    with torch.no_grad():
        module.a.weight.zero_()
        part.params["a.weight"].zero_()
    part.train()
    torch.testing.assert_close(stack.module(2)(x), models[2](x), rtol=0, atol=0)
    assert not stack.training


def test_to_moves_and_casts() -> None:
    stack = Stack([cnn(), cnn()]).to(torch.float64)
    assert stack.params["0.weight"].dtype == torch.float64
    assert stack.params["0.weight"].requires_grad
    assert stack.params["0.weight"].is_leaf
    assert stack.buffers["1.running_mean"].dtype == torch.float64
    assert stack.buffers["1.num_batches_tracked"].dtype == torch.int64
    assert stack.module(0)(torch.zeros(2, 2, 6, 6).double()).dtype == torch.float64


def test_save_and_load_round_trip(tmp_path: Path) -> None:
    stack = Stack.from_factory(cnn, [7, 2], seed=0)
    stack(torch.randn(4, 2, 6, 6), shared=True)
    stack.save(tmp_path / "stack.safetensors")
    again = Stack.load(tmp_path / "stack.safetensors", cnn)
    assert again.ids == [7, 2]
    for name, value in (stack.params | stack.buffers).items():
        assert torch.equal((again.params | again.buffers)[name], value)
    assert again.params["0.weight"].requires_grad
    x = torch.randn(3, 2, 6, 6)
    torch.testing.assert_close(again.eval()(x, shared=True), stack.eval()(x, shared=True))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Stack.load(tmp_path / "nowhere", cnn)
    with pytest.raises(ValueError, match="only"):
        Stack.load(tmp_path / "stack.safetensors", mlp)
    with pytest.raises(ValueError, match="has shape"):
        Stack.load(tmp_path / "stack.safetensors", lambda: nn.Sequential(*cnn()[:-1], nn.Linear(24, 5)))
    save_file({"a": torch.zeros(2)}, str(tmp_path / "other.safetensors"))
    with pytest.raises(ValueError, match=r"not written by Stack.save"):
        Stack.load(tmp_path / "other.safetensors", cnn)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.b.weight = self.a.weight


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([], "at least one"),
        ([Tied()], r"'b.weight' is tied to 'a.weight'"),
        ([nn.ReLU()], "no parameters"),
        ([nn.Linear(3, 2), nn.Linear(3, 4)], "model 1 differs.*out_features=4"),
        ([nn.Sequential(nn.Linear(3, 3), nn.ReLU()), nn.Sequential(nn.Linear(3, 3), nn.Tanh())], "1 Tanh"),
        ([nn.Linear(3, 2), nn.Linear(3, 2).double()], "float64"),
        ([nn.Sequential(nn.Linear(3, 3)), nn.Sequential(nn.Linear(3, 3), nn.ReLU())], "model 1 differs"),
    ],
)
def test_models_that_cannot_be_stacked(models: list[nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Stack(models)


def test_bad_arguments_are_named() -> None:
    stack = Stack([mlp(), mlp()])
    for ids in ([0], [0, 0], [-1, 0]):
        with pytest.raises(ValueError, match="ids="):
            Stack([mlp(), mlp()], ids=ids)
    with pytest.raises(ValueError, match=r"not 2 models on its first axis.*shared=True"):
        stack(torch.zeros(5, 6))
    for positions in ([], [2], [-3]):
        with pytest.raises(ValueError, match="positions="):
            stack.subset(positions)
    with pytest.raises(ValueError, match="taken once"):
        stack.subset([0, 0])
    with pytest.raises(ValueError, match="count=0"):
        Stack.from_factory(mlp, 0, seed=0)
    stack.engine = "fast"
    with pytest.raises(ValueError, match="engine='fast'"):
        stack(torch.zeros(2, 5, 6))
    with pytest.raises(ValueError, match="engine='dense'"):
        Stack([cnn()], engine="dense")(torch.zeros(1, 5, 2, 6, 6))


def test_a_layer_that_cannot_be_vectorised_is_named_and_the_loop_runs_it() -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if bool(x.sum() > 0) else -x

    models = [nn.Sequential(nn.Linear(3, 2), Branches()) for _ in range(2)]
    x = torch.randn(2, 5, 3)
    with pytest.raises(ValueError, match=r"layer '1' \(Branches\) cannot be vectorised over models"):
        Stack(models)(x)
    out = Stack(models, engine="loop")(x)
    for m in range(2):
        torch.testing.assert_close(out[m], models[m](x[m]))
