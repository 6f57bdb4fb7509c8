"""The byte transformer against its definition written out, its parameter count, and what causality means."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call, grad, stack_module_state, vmap

from landform.models.transformer import ByteTransformer, count_parameters, rotate, rotation


def model(**options: Any) -> ByteTransformer:
    torch.manual_seed(0)
    defaults: dict[str, Any] = {"d_model": 24, "n_layer": 3, "n_head": 3, "context": 10}
    return ByteTransformer(**(defaults | options)).double()


def tokens(*shape: int, seed: int = 1, vocab: int = 256) -> torch.Tensor:
    return torch.randint(0, vocab, shape, generator=torch.Generator().manual_seed(seed))


def written_out(net: ByteTransformer, sequence: torch.Tensor) -> torch.Tensor:
    """The logits of one sequence from the state alone, a position and a head at a time."""
    w = {name: p.detach() for name, p in net.named_parameters()}
    if "unembed.weight" not in w:
        w["unembed.weight"] = w["tokens.weight"]
    n_layer, n_head, d_head = len(net.blocks), net.blocks[0].attention.n_head, net.d_head
    rotary = "positions.weight" not in w

    def norm(h: torch.Tensor, name: str) -> torch.Tensor:
        centred = h - h.mean()
        return centred / torch.sqrt((centred**2).mean() + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def turn(x: torch.Tensor, position: int) -> torch.Tensor:
        z = torch.complex(x[: d_head // 2], x[d_head // 2 :])
        angle = torch.tensor([position * 10_000.0 ** (-2 * i / d_head) for i in range(d_head // 2)], dtype=x.dtype)
        z = z * torch.polar(torch.ones_like(angle), angle).to(z.dtype)
        return torch.cat([z.real, z.imag])

    stream = [w["tokens.weight"][token].clone() for token in sequence]
    if not rotary:
        stream = [h + w["positions.weight"][t] for t, h in enumerate(stream)]
    for layer in range(n_layer):
        name = f"blocks.{layer}"
        projected = [
            w[f"{name}.attention.qkv.weight"] @ norm(h, f"{name}.norm_attention") + w[f"{name}.attention.qkv.bias"]
            for h in stream
        ]
        attended = []
        for t in range(len(stream)):
            heads = []
            for head in range(n_head):
                lane = slice(head * d_head, (head + 1) * d_head)
                q, k, v = zip(*[[part[lane] for part in p.chunk(3)] for p in projected[: t + 1]], strict=True)
                if rotary:
                    q = tuple(turn(x, s) for s, x in enumerate(q))
                    k = tuple(turn(x, s) for s, x in enumerate(k))
                scores = torch.stack([q[t] @ key / math.sqrt(d_head) for key in k]).softmax(0)
                heads.append(sum(score * value for score, value in zip(scores, v, strict=True)))
            attended.append(torch.cat(heads))
        for t, h in enumerate(stream):
            h = h + w[f"{name}.attention.out.weight"] @ attended[t] + w[f"{name}.attention.out.bias"]
            x = w[f"{name}.widen.weight"] @ norm(h, f"{name}.norm_mlp") + w[f"{name}.widen.bias"]
            x = x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
            stream[t] = h + w[f"{name}.narrow.weight"] @ x + w[f"{name}.narrow.bias"]
    return torch.stack([w["unembed.weight"] @ norm(h, "norm") for h in stream])


@pytest.mark.parametrize(
    "options", [{}, {"positions": "rotary"}, {"tie": True, "d_ff": 7}], ids=["learned", "rotary", "tied"]
)
def test_forward_is_the_definition(options: dict[str, Any]) -> None:
    net = model(n_layer=2, **options)
    with torch.no_grad():
        for p in net.parameters():  # away from the start, where biases are 0 and norms are 1
            p.add_(0.2 * torch.randn_like(p))
        sequence = tokens(6)
        torch.testing.assert_close(net(sequence), written_out(net, sequence), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_causality(positions: str) -> None:
    net = model(positions=positions)
    sequence = tokens(2, 10)
    changed = sequence.clone()
    changed[:, 6] = (changed[:, 6] + 1) % 256
    before, after = net(sequence), net(changed)
    torch.testing.assert_close(before[:, :6], after[:, :6], rtol=0, atol=1e-13)
    assert ((before[:, 6:] - after[:, 6:]).abs().amax(-1) > 1e-6).all()
    torch.testing.assert_close(net(sequence[:, :4]), before[:, :4], rtol=1e-12, atol=1e-12)


def test_positions_matter_and_rotary_ones_are_relative() -> None:
    for positions in ("learned", "rotary"):
        net = model(positions=positions)
        a, b, c = 65, 66, 67
        assert (net(torch.tensor([a, b, c]))[-1] - net(torch.tensor([b, a, c]))[-1]).abs().max() > 1e-9
    q, k = torch.randn(2, 8, dtype=torch.float64)
    turn = rotation(20, 8, q)
    products = rotate(q.expand(20, 8), turn) @ rotate(k.expand(20, 8), turn).T
    for distance in (-7, 0, 5):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-10, atol=1e-12)
    assert products.diagonal(5)[0] != products.diagonal(6)[0]


@pytest.mark.parametrize("d", [16, 48])
@pytest.mark.parametrize("layers", [1, 4])
@pytest.mark.parametrize("options", [{}, {"positions": "rotary"}, {"tie": True}, {"d_ff": 40}])
def test_parameter_count(d: int, layers: int, options: dict[str, Any]) -> None:
    net = ByteTransformer(d, layers, 2, context=12, **options)
    d_ff = options.get("d_ff", 4 * d)
    inner = layers * (4 * d * d + 2 * d * d_ff + (3 * d + d + d_ff + d) + 4 * d) + 2 * d
    if d_ff == 4 * d:
        assert inner == 12 * layers * d * d + 13 * layers * d + 2 * d
    tables = 256 * d * (1 if options.get("tie") else 2) + (0 if "positions" in options else 12 * d)
    assert count_parameters(net) == inner
    assert count_parameters(net, "total") == inner + tables == sum(p.numel() for p in net.parameters())


def test_loss_at_the_start_is_that_of_guessing() -> None:
    for options in ({}, {"positions": "rotary"}, {"vocab": 32}):
        net = model(d_model=64, n_head=4, context=64, **options)
        vocab = options.get("vocab", 256)
        sequence = tokens(8, 65, vocab=vocab)
        loss = F.cross_entropy(net(sequence[:, :-1]).flatten(0, 1), sequence[:, 1:].flatten())
        assert loss.item() == pytest.approx(math.log(vocab), abs=0.05)


def test_initialisation() -> None:
    net = ByteTransformer(128, 8, 4, context=64)
    for name, p in net.named_parameters():
        if name.endswith("bias"):
            assert (p == 0).all()
        elif "norm" in name:
            assert (p == 1).all()
        else:
            std = 0.02 / math.sqrt(16) if name.endswith(("out.weight", "narrow.weight")) else 0.02
            assert p.std().item() == pytest.approx(std, rel=0.03), name
            assert abs(p.mean().item()) < 5 * std / math.sqrt(p.numel())


def test_tied_tables_are_one() -> None:
    net = model(tie=True)
    assert net.unembed.weight is net.tokens.weight


def test_bytes_and_any_leading_axes_are_read() -> None:
    net = model()
    sequence = tokens(2, 3, 5)
    together = net(sequence.to(torch.uint8))
    assert together.shape == (2, 3, 5, 256)
    torch.testing.assert_close(together[1, 2], net(sequence[1, 2]))


def test_a_saved_model_is_the_same() -> None:
    net, other = model(), model(context=10)
    with torch.no_grad():
        other.tokens.weight.zero_()
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(other(tokens(4)), net(tokens(4)))


def test_it_learns_a_rule_that_needs_attention() -> None:
    torch.manual_seed(0)
    net = ByteTransformer(32, 2, 2, context=8, vocab=8)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    half = tokens(256, 4, vocab=8)
    copied = torch.cat([half, half], dim=1)  # the second half repeats the first
    for _ in range(150):
        loss = F.cross_entropy(net(copied[:, :-1])[:, 3:].flatten(0, 1), copied[:, 4:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_stacks_of_models_are_the_models() -> None:
    nets = [model(positions="rotary") for _ in range(2)]
    with torch.no_grad():
        nets[1].tokens.weight.mul_(-2)
    params, buffers = stack_module_state(nets)  # type: ignore[arg-type]
    sequence = tokens(4, 9)

    def loss(p: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> torch.Tensor:
        logits = functional_call(nets[0], (p, b), (sequence[:, :-1],))
        return F.cross_entropy(logits.flatten(0, 1), sequence[:, 1:].flatten())

    gradients = vmap(grad(loss))(params, buffers)
    for m, net in enumerate(nets):
        alone = torch.autograd.grad(
            F.cross_entropy(net(sequence[:, :-1]).flatten(0, 1), sequence[:, 1:].flatten()), list(net.parameters())
        )
        for (name, _), expected in zip(net.named_parameters(), alone, strict=True):
            torch.testing.assert_close(gradients[name][m], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "argument"),
    [
        (lambda: model(d_model=25), ValueError, "n_head"),
        (lambda: model(d_model=9, positions="rotary"), ValueError, "rotary"),
        (lambda: model(positions="none"), ValueError, "positions"),
        (lambda: model(n_layer=0), ValueError, "n_layer"),
        (lambda: model(context=2.5), TypeError, "context"),
        (lambda: model()(tokens(2, 11)), ValueError, "context=10"),
        (lambda: model()(tokens(2, 0)), ValueError, "tokens"),
        (lambda: model()(torch.rand(2, 4)), TypeError, "integers"),
        (lambda: count_parameters(model(), "some"), ValueError, "kind"),  # type: ignore[arg-type]
    ],
)
def test_bad_arguments_are_named(call: Callable[[], object], error: type[Exception], argument: str) -> None:
    with pytest.raises(error, match=argument):
        call()
