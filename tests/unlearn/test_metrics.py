"""Margins, KLoM and U-LiRA against plain loops over points, NumPy's own binning, and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from landform.unlearn import classification_margin, clipped_share, kl_of_margins, ulira

FLOAT = torch.float64


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=FLOAT, generator=torch.Generator().manual_seed(seed))


# --- margins


def test_margin_is_the_log_odds() -> None:
    logits, y = 3 * normal(7, 20, 5), torch.arange(20) % 5
    p = logits.softmax(-1)[:, torch.arange(20), y]
    torch.testing.assert_close(classification_margin(logits, y), (p / (1 - p)).log(), rtol=1e-10, atol=1e-10)


def test_margin_of_two_classes_is_the_difference() -> None:
    logits, y = normal(9, 2), torch.tensor([0, 1, 1, 0, 1, 0, 0, 1, 1])
    own, other = logits[torch.arange(9), y], logits[torch.arange(9), 1 - y]
    torch.testing.assert_close(classification_margin(logits, y), own - other, rtol=0, atol=1e-12)


def test_margin_of_a_certain_model_is_finite() -> None:
    logits = torch.tensor([[60.0, 0.0, 0.0]])
    assert classification_margin(logits, torch.tensor([0])).item() == pytest.approx(60 - np.log(2), abs=1e-5)


@pytest.mark.parametrize(
    ("logits", "y", "error", "named"),
    [
        (torch.zeros(3, 1), torch.zeros(3).long(), ValueError, "K at least 2"),
        (torch.zeros(3, 4), torch.zeros(2).long(), ValueError, r"\(2,\)"),
        (torch.zeros(3, 4), torch.tensor([0, 1, 4]), ValueError, "y contain 4"),
        (torch.zeros(3, 4), torch.zeros(3), TypeError, "y have dtype"),
        (torch.zeros(3, 4).long(), torch.zeros(3).long(), TypeError, "logits are"),
    ],
)
def test_margin_refuses(logits: torch.Tensor, y: torch.Tensor, error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        classification_margin(logits, y)


# --- KLoM


def reference(
    first: NDArray[np.float64], second: NDArray[np.float64], bins: int, *, clip: float = 100, floor: float = 1e-5
) -> float:
    """One point's divergence as the benchmark computes it: digitised, and what lies on the last edge dropped."""
    first, second = np.clip(first, -clip, clip), np.clip(second, -clip, clip)
    low, high = min(first.min(), second.min()), max(first.max(), second.max())
    edges = np.linspace(low, high if low < high else low + 1, bins + 1)
    p, q = (np.bincount(np.digitize(v, edges), minlength=bins + 2)[1 : bins + 1] for v in (first, second))
    p, q = p / p.sum(), q / q.sum()
    q = np.where(p > 0, np.maximum(q, floor), q)
    return float(stats.entropy(p, q))


def early_reference(first: NDArray[np.float64], second: NDArray[np.float64], edges: int, floor: float = 1e-5) -> float:
    """As the paper's first code did: so many edges, all bins floored, with an empty one below the first edge."""
    first = np.clip(first, -100, 100)
    at = np.linspace(min(first.min(), second.min()), max(first.max(), second.max()), edges)
    p, q = (np.array([(np.digitize(v, at) == b).sum() for b in range(edges)]) for v in (first, second))
    return float(stats.entropy(p / p.sum(), np.clip(q / q.sum(), floor, None)))


def two_sets() -> tuple[torch.Tensor, torch.Tensor]:
    oracle, unlearned = 3 * normal(50, 30, seed=1), 2 * normal(40, 30, seed=2) + torch.linspace(0, 8, 30, dtype=FLOAT)
    oracle[0, 3] = 150.0
    return oracle, unlearned


@pytest.mark.parametrize("bins", [10, 20])
def test_klom_is_the_benchmarks(bins: int) -> None:
    oracle, unlearned = two_sets()
    o, u = oracle.numpy(), unlearned.numpy()
    expected = torch.tensor([reference(o[:, x], u[:, x], bins) for x in range(30)], dtype=FLOAT)
    torch.testing.assert_close(kl_of_margins(oracle, unlearned, bins), expected, rtol=0, atol=1e-12)
    back = torch.tensor([reference(u[:, x], o[:, x], bins) for x in range(30)], dtype=FLOAT)
    found = kl_of_margins(oracle, unlearned, bins, direction="unlearned||oracle")
    torch.testing.assert_close(found, back, rtol=0, atol=1e-12)
    assert (back - expected).abs().max() > 0.1


def test_klom_with_the_bins_of_the_first_code() -> None:
    oracle, unlearned = two_sets()
    expected = [early_reference(unlearned[:, x].numpy(), oracle[:, x].numpy(), 20) for x in range(30)]
    found = kl_of_margins(oracle, unlearned, direction="unlearned||oracle", legacy_bins=True)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=FLOAT), rtol=0, atol=1e-12)
    assert (found - kl_of_margins(oracle, unlearned, direction="unlearned||oracle")).abs().max() > 1e-2


def test_klom_by_hand() -> None:
    """p = (1/2, 1/2, 0), q = (1/4, 0, 3/4) with the top value dropped: floored and normalised."""
    oracle = torch.tensor([[0.0], [0.1], [1.0], [1.1], [3.0]], dtype=FLOAT)
    unlearned = torch.tensor([[0.0], [2.0], [2.1], [2.2]], dtype=FLOAT)
    total = 0.25 + 1e-5 + 0.75
    expected = 0.5 * np.log(0.5 / (0.25 / total)) + 0.5 * np.log(0.5 / (1e-5 / total))
    assert kl_of_margins(oracle, unlearned, bins=3).item() == pytest.approx(expected, abs=1e-12)


def test_klom_invariances() -> None:
    oracle, unlearned = two_sets()
    oracle[0, 3] = 1.0
    value = kl_of_margins(oracle, unlearned)
    assert (value >= 0).all()
    assert torch.equal(kl_of_margins(oracle, oracle), torch.zeros(30, dtype=FLOAT))
    assert torch.equal(kl_of_margins(oracle.flip(0), unlearned[torch.randperm(40)]), value)
    shifted = kl_of_margins(oracle + 16, unlearned + 16)
    torch.testing.assert_close(shifted, value, rtol=0, atol=1e-12)
    one = kl_of_margins(torch.ones(4, 1), torch.ones(3, 1))  # one and the same value everywhere
    assert one.item() == 0


def test_one_outlier_hides_a_difference_and_is_told_of() -> None:
    oracle = torch.linspace(0, 1, 50, dtype=FLOAT).unsqueeze(1)
    unlearned = oracle + 2
    assert kl_of_margins(oracle, unlearned).item() > 5
    oracle[-1] = 150.0
    assert kl_of_margins(oracle, unlearned).item() == 0
    assert clipped_share(oracle).item() == pytest.approx(1 / 50)


def test_a_set_that_is_all_at_the_top_still_counts() -> None:
    low, top = torch.linspace(0, 1, 20, dtype=FLOAT).unsqueeze(1), torch.full((20, 1), 5.0, dtype=FLOAT)
    assert kl_of_margins(low, top).item() > 5
    assert kl_of_margins(top, low).item() > 5


def test_noise_floor_of_two_sets_from_one_gaussian() -> None:
    """The sheet's simulated floors: 0.34 for N = 100 and 20 bins, 0.15 for 10 bins; 0.88 for N = 50."""
    for n, bins, floor in ((100, 20, 0.34), (100, 10, 0.15), (50, 20, 0.88)):
        value = kl_of_margins(normal(n, 4000, seed=3), normal(n, 4000, seed=4), bins)
        assert value.mean().item() == pytest.approx(floor, rel=0.08)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"oracle": torch.zeros(0, 2)}, "oracle"),
        ({"unlearned": torch.full((3, 2), torch.nan)}, "unlearned: 6 margins are NaN"),
        ({"unlearned": torch.zeros(3, 4)}, "2 points but 4"),
        ({"bins": 1}, "bins=1"),
        ({"clip": 0.0}, "clip=0"),
        ({"floor": 0.0}, "floor=0"),
        ({"direction": "both"}, "direction='both'"),
    ],
)
def test_klom_refuses(arguments: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        kl_of_margins(**{"oracle": torch.zeros(3, 2), "unlearned": torch.zeros(3, 2), **arguments})  # type: ignore[arg-type]


# --- U-LiRA


def test_ulira_is_a_loop_over_held_out_models() -> None:
    oracle, unlearned = normal(9, 6, seed=5), 1.5 * normal(7, 6, seed=6) + 0.7
    expected = []
    for x in range(6):
        rates = []
        o, u = oracle[:, x].numpy(), unlearned[:, x].numpy()
        for own, other in ((u, o), (o, u)):
            hits = []
            for i, value in enumerate(own):
                rest = np.delete(own, i)
                hits.append(
                    stats.norm.pdf(value, rest.mean(), rest.std()) > stats.norm.pdf(value, other.mean(), other.std())
                )
            rates.append(np.mean(hits))
        expected.append(np.mean(rates))
    torch.testing.assert_close(ulira(oracle, unlearned), torch.tensor(expected, dtype=FLOAT), rtol=0, atol=1e-12)


def test_ulira_at_chance_and_at_certainty() -> None:
    alike = ulira(normal(60, 500, seed=7), normal(60, 500, seed=8)).mean().item()
    assert alike == pytest.approx(0.5, abs=0.02)
    assert ulira(normal(20, 3), normal(20, 3) + 50).tolist() == [1.0] * 3
    # Gaussians d standard deviations apart: the best attack is right with probability Φ(d / 2).
    apart = ulira(normal(200, 400, seed=9), normal(200, 400, seed=10) + 2).mean().item()
    assert apart == pytest.approx(stats.norm.cdf(1), abs=0.02)


def test_ulira_refuses() -> None:
    with pytest.raises(ValueError, match="oracle"):
        ulira(torch.zeros(1, 2), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="unlearned: 1 margins are not finite"):
        ulira(torch.zeros(3, 1), torch.tensor([[0.0], [1.0], [torch.inf]]))
    with pytest.raises(ValueError, match="2 points but 3"):
        ulira(torch.zeros(3, 2), torch.zeros(3, 3))
