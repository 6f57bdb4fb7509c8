"""Server rules against closed forms and loops over clients."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from landform.federated import FedAdam, FedAvg, FedAvgM, FedMedian, FedTrimmedAvg, FedYogi, Krum, ServerRule

M = 5
N = torch.tensor([10, 40, 20, 5, 25])
P = N.double() / N.sum()
State = dict[str, Tensor]


def rounds(count: int = 3) -> tuple[State, list[State]]:
    """A server's first parameters, and the clients' ones of some rounds."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {"a": draw(3, 2), "b": draw(4)}, [{"a": draw(M, 3, 2), "b": draw(M, 4)} for _ in range(count)]


def course(rule: ServerRule, num_samples: Tensor = N) -> list[State]:
    params, clients = rounds()
    state = rule.init(params)
    found = []
    for client_params in clients:
        params, state = rule.aggregate(state, params, client_params, num_samples)
        found.append(params)
    return found


def same(one: State, other: State, atol: float = 1e-14) -> bool:
    return all(torch.allclose(value, other[name], rtol=0, atol=atol) for name, value in one.items())


def test_fedavg_is_the_weighted_mean() -> None:
    _, clients = rounds()
    for params, client_params in zip(course(FedAvg()), clients, strict=True):
        for name, value in client_params.items():
            expected = sum(float(p) * value[k] for k, p in enumerate(P))
            assert torch.allclose(params[name], expected, atol=1e-14)
    assert same(course(FedAvg(weighted=False))[0], {name: value.mean(0) for name, value in clients[0].items()})


def test_plain_server_step_is_fedavg_and_momentum_accumulates() -> None:
    assert all(same(a, b, 1e-13) for a, b in zip(course(FedAvgM()), course(FedAvg()), strict=True))
    params, clients = rounds()
    for name, w in params.items():
        m = torch.zeros_like(w)
        for found, client_params in zip(course(FedAvgM(lr=0.7, momentum=0.9)), clients, strict=True):
            delta = sum(float(p) * (client_params[name][k] - w) for k, p in enumerate(P))
            m = 0.9 * m + delta
            w = w + 0.7 * m
            assert torch.allclose(found[name], w, atol=1e-13)


@pytest.mark.parametrize("corrected", [True, False])
def test_fedadam_and_fedyogi_of_one_number_after_another(corrected: bool) -> None:
    params, clients = rounds()
    adam = course(FedAdam(lr=0.3, beta1=0.8, beta2=0.95, tau=1e-2, bias_correction=corrected))
    yogi = course(FedYogi(lr=0.3, beta1=0.8, beta2=0.95, tau=1e-2))
    for name, start in params.items():
        for place in np.ndindex(*start.shape):
            for rule, found in (("adam", adam), ("yogi", yogi)):
                w, m, v = float(start[place]), 0.0, 0.0
                for t, client_params in enumerate(clients, start=1):
                    delta = sum(float(p) * float(client_params[name][(k, *place)]) for k, p in enumerate(P)) - w
                    m = 0.8 * m + 0.2 * delta
                    if rule == "adam":
                        v = 0.95 * v + 0.05 * delta**2
                    else:
                        v = v - 0.05 * delta**2 * math.copysign(1, v - delta**2)
                    rate = 0.3
                    if rule == "adam" and corrected:
                        rate *= math.sqrt(1 - 0.95 ** (t + 1)) / (1 - 0.8 ** (t + 1))
                    w += rate * m / (math.sqrt(v) + 1e-2)
                    assert float(found[t - 1][name][place]) == pytest.approx(w, abs=1e-12)


def test_median_and_trimmed_mean_by_coordinate() -> None:
    _, clients = rounds()
    for name, value in clients[0].items():
        assert np.allclose(course(FedMedian())[0][name], np.median(value.numpy(), axis=0), atol=1e-15)
        kept = np.sort(value.numpy(), axis=0)[1:4].mean(0)
        assert np.allclose(course(FedTrimmedAvg(0.2))[0][name], kept, atol=1e-15)
        assert np.allclose(course(FedTrimmedAvg(0.39))[0][name], kept, atol=1e-15)
    even = {"w": torch.tensor([1.0, 2.0, 5.0, 9.0])}
    assert float(FedMedian().aggregate(None, {"w": torch.zeros(())}, even, torch.ones(4))[0]["w"]) == 3.5


def test_limits_of_robust_rules() -> None:
    mean = course(FedAvg(weighted=False))
    assert all(same(a, b) for a, b in zip(course(FedTrimmedAvg(0.0)), mean, strict=True))
    alike = {"w": torch.tensor([0.3, -2.0]).expand(4, 2)}
    for rule in (FedMedian(), FedTrimmedAvg(0.3), Krum(1), FedAvg(), FedAvgM()):
        found, _ = rule.aggregate(rule.init({"w": torch.zeros(2)}), {"w": torch.zeros(2)}, alike, torch.ones(4))
        assert torch.allclose(found["w"], torch.tensor([0.3, -2.0]), atol=1e-6)


@pytest.mark.parametrize("malicious", [0, 1, 2])
def test_krum_takes_the_client_with_the_nearest_neighbours(malicious: int) -> None:
    _, clients = rounds()
    for params, client_params in zip(course(Krum(malicious)), clients, strict=True):
        flat = [np.concatenate([client_params[n][k].numpy().ravel() for n in ("a", "b")]) for k in range(M)]
        scores = []
        for k in range(M):
            distances = sorted(float(((flat[k] - flat[j]) ** 2).sum()) for j in range(M) if j != k)
            scores.append(sum(distances[: max(1, M - malicious - 2)]))
        best = int(np.argmin(scores))
        assert same(params, {name: value[best] for name, value in client_params.items()}, 0.0)


def test_a_single_participant_is_followed_by_all() -> None:
    params, (client_params, *_) = rounds()
    one = {name: value[:1] for name, value in client_params.items()}
    for rule in (FedAvg(), FedAvgM(), FedMedian(), FedTrimmedAvg(), Krum()):
        found, _ = rule.aggregate(rule.init(params), params, one, torch.tensor([3]))
        assert same(found, {name: value[0] for name, value in one.items()}, 1e-13)


def averaged(name: str, shape: tuple[int, int], num_samples: Tensor) -> object:
    return FedAvg().aggregate(None, {"w": torch.zeros(2)}, {name: torch.zeros(shape)}, num_samples)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FedAvgM(momentum=1.0), "momentum=1.0"),
        (lambda: FedAvgM(lr=0.0), "lr=0.0"),
        (lambda: FedAdam(beta2=-0.1), "beta2=-0.1"),
        (lambda: FedYogi(tau=0.0), "tau=0.0"),
        (lambda: FedTrimmedAvg(0.5), "beta=0.5"),
        (lambda: Krum(-1), "malicious=-1"),
        (lambda: averaged("w", (3, 1), torch.ones(3)), r"\(3, 2\)"),
        (lambda: averaged("v", (3, 2), torch.ones(3)), "'v', 'w'"),
        (
            lambda: FedAvg().aggregate(None, {"w": torch.zeros(2)}, {"w": torch.zeros(0, 2)}, torch.ones(0)),
            "at least one",
        ),
        (
            lambda: FedAvg().aggregate(None, {"w": torch.zeros(2)}, {"w": torch.zeros(1, 2)}, torch.zeros(1)),
            "num_samples",
        ),
    ],
)
def test_what_cannot_be_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
