"""Envelopes against their definition, and frontiers of surfaces whose best size is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from landform.scaling import TwoTermLaw, fit_frontier, lower_envelope

LAW = TwoTermLaw(1.7, 400.0, 0.34, 410.0, 0.28)


def curves_of(
    law: TwoTermLaw, sizes: np.ndarray, tokens: tuple[float, float] = (1, 400), noise: float = 0
) -> list[Any]:
    rng = np.random.default_rng(0)
    curves = []
    for size in sizes:
        D = np.geomspace(size * tokens[0], size * tokens[1], 60)
        loss = law(np.stack([np.full_like(D, size), D], -1)) * np.exp(noise * rng.standard_normal(60))
        curves.append((6 * size * D, loss))
    return curves


def test_the_envelope_is_the_least_of_all_curves_and_one_of_them() -> None:
    rng = np.random.default_rng(0)
    C = np.geomspace(1, 1e4, 9)
    losses = 1 + rng.random((5, 9))
    envelope = lower_envelope([(C, loss) for loss in losses], C)
    np.testing.assert_array_equal(envelope.loss, losses.min(0))
    np.testing.assert_array_equal(envelope.argmin, losses.argmin(0))
    between = np.geomspace(1, 1e4, 57)
    envelope = lower_envelope([(C, loss) for loss in losses], between)
    each = np.array([np.exp(np.interp(np.log(between), np.log(C), np.log(loss))) for loss in losses])
    assert (envelope.loss <= each + 1e-12).all()
    np.testing.assert_allclose(envelope.loss, each[envelope.argmin, np.arange(57)], rtol=1e-12)


def test_curves_count_only_where_they_were_measured() -> None:
    envelope = lower_envelope([([1, 10], [3, 2]), ([5, 100], [1.5, 1])], [1, 4, 5, 100])
    assert envelope.argmin.tolist() == [0, 0, 1, 1]
    assert envelope.loss[[0, 2, 3]].tolist() == [3, 1.5, 1]
    with pytest.raises(ValueError, match=r"0\.5 lies outside"):
        lower_envelope([([1, 10], [3, 2])], [0.5, 2])


@pytest.mark.parametrize("ratio", [1.5, 3.0])
@pytest.mark.parametrize("method", ["measured", "smoothed"])
def test_the_frontier_of_a_known_surface(ratio: float, method: Any) -> None:
    sizes = 1e6 * ratio ** np.arange(int(np.log(1e3) / np.log(ratio)) + 1)
    frontier = fit_frontier(curves_of(LAW, sizes), sizes, method=method, points=2000)
    assert frontier.beta == pytest.approx(LAW.beta, abs=2e-3)
    C = np.array([1e17, 1e19])
    np.testing.assert_allclose(frontier.optimal_size(C), LAW.allocate(C).size, rtol=0.02)
    exact = LAW.allocate(frontier.compute).loss
    assert (frontier.loss >= exact * (1 - 1e-4)).all()
    np.testing.assert_allclose(frontier.loss, exact, rtol=0.03)
    assert frontier.law.law.alpha == pytest.approx(LAW.a * LAW.b / (LAW.a + LAW.b), rel=0.05)  # type: ignore[union-attr]
    assert set(frontier.size) <= set(sizes)


def test_smoothing_keeps_noise_from_flickering() -> None:
    sizes = 1e6 * 2.0 ** np.arange(9)
    curves = curves_of(LAW, sizes, noise=0.003)
    rough, smooth = (fit_frontier(curves, sizes, method=method, points=2000) for method in ("measured", "smoothed"))
    assert len(rough.switches[0]) > len(smooth.switches[0])
    assert smooth.beta == pytest.approx(LAW.beta, abs=0.05)


def test_a_curve_that_ends_does_not_make_the_next_one_best() -> None:
    # Everything is trained too briefly: each model is still the best of its budget when its training ends.
    sizes = 1e6 * 4.0 ** np.arange(6)
    frontier = fit_frontier(curves_of(LAW, sizes, tokens=(0.1, 1.0)), sizes, method="measured")
    assert not len(frontier.switches[0])
    assert np.isnan(frontier.beta)
    # Here the large ones alone are: the frontier ends where the last natural winner's curve ends.
    curves = curves_of(LAW, sizes)
    cut = [(C[:20], loss[:20]) if i >= 3 else (C, loss) for i, (C, loss) in enumerate(curves)]
    frontier = fit_frontier(cut, sizes, method="measured", points=2000)
    assert frontier.compute[-1] <= cut[3][0][-1] * 1.001
    assert frontier.beta == pytest.approx(LAW.beta, abs=0.05)


def test_bad_arguments_are_named() -> None:
    sizes = 1e6 * 2.0 ** np.arange(4)
    curves = curves_of(LAW, sizes)
    for arguments, named in [
        ({"sizes": sizes[:3]}, "4 different numbers"),
        ({"sizes": np.full(4, 1e6)}, "4 different numbers"),
        ({"method": "guessed"}, "method='guessed'"),
        ({"first": 1e30}, "first=1e\\+30"),
        ({"curves": [(C[::-1], loss) for C, loss in curves]}, "compute of curve 0 must rise"),
        ({"curves": [(C[:5], loss) for C, loss in curves]}, "curve 0 has shapes"),
    ]:
        with pytest.raises(ValueError, match=named):
            fit_frontier(**({"curves": curves, "sizes": sizes, "method": "measured"} | arguments))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="there is none"):
        lower_envelope([], [1.0])
    with pytest.raises(ValueError, match="loss of curve 0"):
        lower_envelope([([1.0, 2.0], [1.0, -1.0])], [1.0])
