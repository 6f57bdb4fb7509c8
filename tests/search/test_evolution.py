"""Searches: budgets kept, the ageing and the tournament by hand, the filter's order statistics, published averages."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from landform.search import (
    NAS_BENCH_201,
    ArchitecturePool,
    ArchitectureTable,
    Cell201,
    SearchSpace,
    proposal_filter,
    random_search,
    regularised_evolution,
    reinforce_search,
)

SEARCHES = [random_search, regularised_evolution, reinforce_search]


def convolutions(cell: Cell201) -> float:
    return float(cell.ops.count(3))


@pytest.mark.parametrize("search", SEARCHES)
def test_a_search_pays_for_exactly_its_budget_and_repeats_with_its_generator(search):
    def run(seed):
        return search(NAS_BENCH_201, convolutions, budget=25, rng=np.random.default_rng(seed))

    result = run(0)
    assert len(result.architectures) == 25
    np.testing.assert_array_equal(result.spent, np.arange(1, 26))
    np.testing.assert_array_equal(result.values, [convolutions(cell) for cell in result.architectures])
    assert convolutions(result.best) == result.values.max()
    assert run(0).architectures == result.architectures
    assert run(1).architectures != result.architectures


@pytest.mark.parametrize("search", SEARCHES)
def test_with_a_cost_the_budget_is_simulated_time_that_is_never_overdrawn(search):
    result = search(
        NAS_BENCH_201, convolutions, budget=30, rng=np.random.default_rng(0), cost=lambda cell: 1 + cell.ops.count(3)
    )
    costs = [1 + cell.ops.count(3) for cell in result.architectures]
    np.testing.assert_array_equal(result.spent, np.cumsum(costs))
    assert result.spent[-1] <= 30
    assert result.spent[-1] > 30 - 7  # the next one, at most 7, did not fit


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"budget": 0}, "budget=0"),
        ({"budget": float("inf")}, "budget=inf"),
        ({"budget": 0.5}, "not enough"),
        ({"budget": 5, "cost": lambda cell: 0.0}, "must cost something"),
    ],
)
def test_impossible_budgets_are_refused(search, options, match):
    with pytest.raises(ValueError, match=match):
        search(NAS_BENCH_201, convolutions, rng=np.random.default_rng(0), **options)


@pytest.mark.parametrize("search", SEARCHES)
def test_a_value_that_is_no_number_is_refused(search):
    with pytest.raises(ValueError, match="must be finite"):
        search(NAS_BENCH_201, lambda cell: float("nan"), budget=3, rng=np.random.default_rng(0))


class Line:
    """Integers: random ones are negative, a mutation is one more. So a child names its parent."""

    def draw(self, rng: np.random.Generator) -> int:
        return -int(rng.integers(1, 10**6)) * 1000

    def mutate(self, architecture: int, rng: np.random.Generator) -> int:
        return architecture + 1


def test_evolution_lets_only_the_living_reproduce_and_the_oldest_die():
    population = 4
    # Younger is worse, so the oldest living member wins every tournament that it is in.
    ages = {}

    def evaluate(number: int) -> float:
        return -float(ages.setdefault(number, len(ages)))

    result = regularised_evolution(
        Line(), evaluate, budget=60, rng=np.random.default_rng(0), population=population, sample=50
    )
    # With 50 draws of 4 the parent is (but for chance 4·(3/4)^50) the oldest living, which then dies.
    history = list(result.architectures)
    for t in range(population, 60):
        assert history[t] == history[t - population] + 1


def test_a_tournament_of_one_takes_parents_at_random_and_larger_ones_the_better():
    def mean_of_last(sample):
        space = SearchSpace((2,) * 12, tuple, lambda a, rng: (*a[: (i := rng.integers(12))], 1 - a[i], *a[i + 1 :]))
        runs = [
            regularised_evolution(space, sum, budget=120, rng=np.random.default_rng(s), sample=sample).values[-20:]
            for s in range(8)
        ]
        return np.mean(runs)

    assert abs(mean_of_last(1) - 6) < 1
    assert mean_of_last(5) > 8.5


@pytest.mark.parametrize("search", [random_search, regularised_evolution])
def test_the_filter_evaluates_the_best_of_k_proposals(search):
    scored = []

    def score(cell):
        scored.append(cell)
        return convolutions(cell)

    result = search(
        NAS_BENCH_201,
        lambda cell: 0.0,
        budget=30,
        rng=np.random.default_rng(0),
        proposal_filter=proposal_filter(score, k=7),
    )
    filtered = result.architectures if search is random_search else result.architectures[10:]
    proposals = [scored[i : i + 7] for i in range(0, len(scored), 7)]
    for chosen, candidates in zip(filtered, proposals, strict=False):
        assert chosen == max(candidates, key=convolutions)
    # random_search draws one more set of proposals, which it cannot pay for, and so does evolution.
    assert len(proposals) == len(filtered) + 1


def test_the_filter_of_random_search_draws_the_maximum_of_k_uniform_numbers():
    space = SearchSpace((1000,), lambda a: a[0], lambda a, rng: a)
    result = random_search(
        space, float, budget=4000, rng=np.random.default_rng(0), proposal_filter=proposal_filter(float, k=3)
    )
    # E max = Σ_m P(max ≥ m); the standard error of the mean is 194 / √4000 ≈ 3.
    expected = sum(1 - (m / 1000) ** 3 for m in range(1, 1000))
    assert abs(result.values.mean() - expected) < 12


def test_an_undefined_score_loses_to_any_other():
    keep = proposal_filter(lambda number: float("nan") if number % 2 else -1e300, k=4)
    numbers = iter([1, 3, 4, 5])
    assert keep(lambda: next(numbers)) == 4
    with pytest.raises(ValueError, match="k=0"):
        proposal_filter(convolutions, k=0)


def test_reinforce_learns_which_operation_pays():
    result = reinforce_search(NAS_BENCH_201, convolutions, budget=400, rng=np.random.default_rng(0), lr=0.1)
    assert result.values[:20].mean() < 2.5
    assert result.values[-50:].mean() > 5


def test_reinforce_takes_the_adam_step_of_its_policy_gradient():
    # One decision of two: the only randomness is the action, so the policy can be followed by hand.
    space = SearchSpace((2,), lambda a: a[0], lambda a, rng: a)
    lr, momentum, steps = 0.3, 0.5, 12
    result = reinforce_search(
        space, lambda a: 3.0 * a, budget=steps, rng=np.random.default_rng(5), lr=lr, momentum=momentum
    )
    rng = np.random.default_rng(5)
    logits = 1e-3 * rng.standard_normal(2)
    m = v = np.zeros(2)
    total = weight = 0.0
    for step in range(1, steps + 1):
        p = np.exp(logits) / np.exp(logits).sum()
        action = int(rng.choice(2, p=p))
        assert action == result.architectures[step - 1]
        reward = 3.0 * action
        total, weight = momentum * total + (1 - momentum) * reward, momentum * weight + (1 - momentum)
        gradient = (p - np.eye(2)[action]) * (reward - total / weight)
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        logits = logits - lr * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)


@pytest.mark.parametrize("options", [{"lr": 0}, {"momentum": 1.0}])
def test_reinforce_refuses_impossible_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        reinforce_search(NAS_BENCH_201, convolutions, budget=3, rng=np.random.default_rng(0), **options)


@pytest.mark.parametrize("options", [{"population": 0}, {"sample": 0}])
def test_evolution_refuses_impossible_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        regularised_evolution(NAS_BENCH_201, convolutions, budget=3, rng=np.random.default_rng(0), **options)


def test_a_pool_mutates_to_a_nearest_other_member():
    pool = ArchitecturePool("abcd", [(0, 0, 0), (0, 0, 1), (1, 0, 0), (1, 1, 1)])
    rng = np.random.default_rng(0)
    assert {pool.mutate("a", rng) for _ in range(60)} == {"b", "c"}
    assert {pool.mutate("d", rng) for _ in range(60)} == {"b", "c"}
    assert {pool.draw(rng) for _ in range(100)} == set("abcd")


def test_in_a_whole_space_the_pool_edits_one_decision():
    cells = [Cell201(ops) for ops in itertools.product(range(5), repeat=6)]
    pool = ArchitecturePool(cells, [cell.ops for cell in cells])
    rng = np.random.default_rng(0)
    children = {pool.mutate(Cell201("012340"), rng) for _ in range(400)}
    assert len(children) == 24
    assert all(sum(a != b for a, b in zip(child.ops, (0, 1, 2, 3, 4, 0), strict=True)) == 1 for child in children)


@pytest.mark.parametrize(
    ("architectures", "decisions", "match"),
    [
        ("a", [(0,)], "at least two"),
        ("aa", [(0,), (1,)], "no repeats"),
        ("ab", [(0,)], "one row"),
        ("ab", [0, 1], "row"),
    ],
)
def test_impossible_pools_are_refused(architectures, decisions, match):
    with pytest.raises(ValueError, match=match):
        ArchitecturePool(architectures, decisions)


@pytest.mark.parametrize(
    ("search", "low", "high"),
    # The benchmark's paper reports test accuracies of 93.70 ± 0.36, 93.92 ± 0.30 and 93.85 ± 0.37 for 12,000 s of
    # simulated search, which is about a hundred 12-epoch evaluations.
    [(random_search, 93.5, 94.0), (regularised_evolution, 93.8, 94.2), (reinforce_search, 93.5, 94.1)],
)
def test_on_the_real_table_each_search_finds_what_the_benchmark_reports(shared_data, search, low, high):
    table = ArchitectureTable.from_csv(shared_data("gradsign") / "nasbench201_accuracy.csv")
    evaluate, outcome = table.lookup("cifar10_val_12ep"), table.lookup("cifar10_test_200ep")
    found = [
        outcome(search(NAS_BENCH_201, evaluate, budget=100, rng=np.random.default_rng(seed)).best) for seed in range(20)
    ]
    assert low < np.mean(found) < high
