"""Designs: the laws of the factors by closed forms and counting, and that each image's factors are its own."""

from __future__ import annotations

import math

import pytest
import torch

from landform.data.counter import Field, hash_uniform
from landform.data.scenes import (
    BACKGROUNDS,
    VALUES,
    Design,
    Factors,
    FewShotDesign,
    GeographyDesign,
    SpuriousDesign,
    SubpopulationDesign,
    caption,
    tokenise,
    vocabulary,
)
from landform.data.scenes.regions import BACKGROUND_PRIOR, TEXTURE_PRIOR

N = 200_000
TABLE = torch.tensor([[3.0, 0, 1, 0], [0, 2, 0, 5], [1, 1, 0, 0]])
DESIGNS: list[Design] = [
    SpuriousDesign(strength=0.7),
    SpuriousDesign("texture", "colour", 0.5, anti=True),
    SubpopulationDesign(TABLE),
    GeographyDesign([5, 1, 1, 1, 1, 1], 0.5),
    FewShotDesign(4, 2, 3, (0, 1), (2, 3)),
]


def information(label: torch.Tensor, attribute: torch.Tensor, labels: int, values: int) -> float:
    """The mutual information of the counts, in nats."""
    joint = (label * values + attribute).bincount(minlength=labels * values).double().view(labels, values) / len(label)
    product = joint.sum(1, keepdim=True) * joint.sum(0)
    return float(torch.where(joint > 0, joint * (joint / product).clamp(min=1e-300).log(), 0.0).sum())


def frequencies_agree(counts: torch.Tensor, law: torch.Tensor, sigmas: float = 4.0) -> bool:
    law = (law / law.sum()).double()
    n = counts.sum()
    return bool(((counts / n - law).abs() <= sigmas * (law * (1 - law) / n).sqrt() + 1e-12).all())


@pytest.mark.parametrize("design", DESIGNS, ids=lambda design: type(design).__name__)
def test_factors_are_each_image_s_own_and_in_range(design):
    index = torch.arange(3000)
    whole = design(index, 5)
    for name, values in VALUES.items():
        found = getattr(whole, name)
        assert found.dtype == torch.int64
        assert found.min() >= 0
        assert found.max() < len(values)
    assert whole.label.max() < len(design.classes)
    order = torch.randperm(3000, generator=torch.Generator().manual_seed(1))[:500]
    assert all(torch.equal(a, b[order]) for a, b in zip(design(order, 5), whole, strict=True))
    assert all(torch.equal(a, b[7:8]) for a, b in zip(design([7], 5), whole, strict=True))
    assert not torch.equal(design(index, 6).background, whole.background)
    assert all(len(values) == 0 for values in design([], 5))


def test_mutual_information_is_the_closed_form():
    factors = SpuriousDesign("texture", "colour", 0.5, mapping=[3, 1, 0, 2, 7, 6, 5, 4])(torch.arange(N), 0)
    m = 0.5 + 0.5 / 8
    expected = math.log(8) + m * math.log(m) + (1 - m) * math.log((1 - m) / 7)
    assert information(factors.texture, factors.colour, 8, 8) == pytest.approx(expected, abs=0.01)


def test_mutual_information_of_more_labels_than_values():
    """Ten shapes over eight backgrounds, two of which go with two shapes: summed over the cells."""
    factors = SpuriousDesign(strength=0.95)(torch.arange(N), 0)
    m = 0.95 + 0.05 / 8
    joint = torch.full((10, 8), (1 - m) / 7 / 10, dtype=torch.float64)
    joint[torch.arange(10), torch.arange(10) % 8] = m / 10
    expected = float((joint * (joint / (joint.sum(0) * 0.1)).log()).sum())
    assert information(factors.label, factors.background, 10, 8) == pytest.approx(expected, abs=0.01)


def test_strength_zero_is_independence():
    factors = SpuriousDesign(strength=0.0)(torch.arange(N), 1)
    assert information(factors.label, factors.background, 10, 8) < 0.001
    assert frequencies_agree(factors.label.bincount(), torch.ones(10))


def test_the_attribute_follows_or_avoids_its_label():
    mapping = [7, 6, 5, 4, 3, 2, 1, 0, 0, 1]
    along = torch.tensor(mapping)
    for rho in (0.0, 0.6, 1.0):
        factors = SpuriousDesign(strength=rho, mapping=mapping)(torch.arange(N), 2)
        m = rho + (1 - rho) / 8
        found = (factors.background == along[factors.label]).double().mean().item()
        assert abs(found - m) <= 4 * math.sqrt(m * (1 - m) / N)
        factors = SpuriousDesign(strength=rho, mapping=mapping, anti=True)(torch.arange(N), 2)
        m = (1 - rho) / 8
        found = (factors.background == along[factors.label]).double().mean().item()
        assert abs(found - m) <= 4 * math.sqrt(m * (1 - m) / N)
    others = factors.background[factors.label == 0]  # at rho = 1 and anti: any but 7, alike
    assert frequencies_agree(others.bincount(minlength=8), torch.tensor([1.0] * 7 + [0]))


def test_labels_follow_their_prior():
    prior = [0, 1, 0, 3, 0, 0, 0, 0, 0, 4]
    factors = SpuriousDesign(prior=prior)(torch.arange(40_000), 0)
    assert frequencies_agree(factors.label.bincount(minlength=10), torch.tensor(prior).double())
    assert torch.equal(factors.group, factors.label * 8 + factors.background)


def test_a_table_is_reproduced_and_its_zeros_never_occur():
    design = SubpopulationDesign(TABLE)
    factors = design(torch.arange(N), 0)
    counts = factors.group.bincount(minlength=12)
    assert frequencies_agree(counts, TABLE.flatten())
    assert counts[TABLE.flatten() == 0].sum() == 0
    assert torch.equal(factors.group, factors.shape * 4 + factors.background)
    assert design.classes == ("disk", "square", "triangle")
    three = SubpopulationDesign(torch.rand(2, 3, 4), ("colour", "shape", "region"))(torch.arange(1000), 0)
    assert torch.equal(three.group, (three.colour * 3 + three.shape) * 4 + three.region)
    assert torch.equal(three.label, three.colour)


@pytest.mark.parametrize("gamma", [0.0, 0.4, 1.0])
def test_geography_follows_its_tempered_priors(gamma):
    region_prior = torch.tensor([0.9, 0.02, 0.02, 0.02, 0.02, 0.02])
    labels = torch.eye(6, 10) + 0.1
    factors = GeographyDesign(region_prior, gamma, labels)(torch.arange(N), 3)
    assert frequencies_agree(factors.group.bincount(minlength=6), region_prior)
    labels = labels.double() / labels.double().sum(1, keepdim=True)
    for region in range(6):
        inside = factors.region == region
        for found, prior in (
            (factors.background, BACKGROUND_PRIOR),
            (factors.texture, TEXTURE_PRIOR),
            (factors.shape, labels),
        ):
            law = gamma * prior[region] + (1 - gamma) * prior.mean(0)
            assert frequencies_agree(found[inside].bincount(minlength=len(law)), law, 4.5)
    assert torch.equal(factors.label, factors.shape)


def test_priors_are_distributions():
    for prior in (BACKGROUND_PRIOR, TEXTURE_PRIOR):
        torch.testing.assert_close(prior.sum(1), torch.ones(6).double())


def test_episodes_have_their_ways_shots_and_contexts():
    design = FewShotDesign(5, 2, 3, context_support=(0, 4), context_query=(1, 2, 7))
    assert design.episode_length == 25
    factors = design(torch.arange(25 * 400), 0)
    columns = (factors.shape, factors.label, factors.group, factors.background)
    shape, label, query, ground = (values.view(400, 25) for values in columns)
    assert torch.equal(query[0], torch.tensor([0] * 10 + [1] * 15))
    for way in range(5):
        of_way = shape[label == way].view(400, 5)
        assert torch.equal(of_way, of_way[:, :1].expand(-1, 5))
        assert (label[:, :10] == way).sum(1).eq(2).all()
    assert all(len(set(row.tolist())) == 5 for row in shape)
    assert frequencies_agree(shape[:, :5].flatten().bincount(), torch.ones(10))
    assert set(ground[query == 0].tolist()) == {0, 4}
    assert frequencies_agree(ground[query == 1].bincount(minlength=8), torch.tensor([0, 1.0, 1, 0, 0, 0, 0, 1]))


def test_geometry_and_light_say_nothing_of_the_factors():
    index = torch.arange(40_000)
    factors = SpuriousDesign()(index, 0)
    for field in range(13):
        u = (10 * hash_uniform(0, index, Field(field))).long()
        for name, values in VALUES.items():
            k = len(values)
            # Twice n times the information of independent counts is chi-squared of 9 (k - 1) degrees.
            degrees = 9 * (k - 1)
            statistic = 2 * len(index) * information(getattr(factors, name), u, k, 10)
            assert statistic < degrees + 5 * math.sqrt(2 * degrees), (field, name)


def test_captions_are_in_the_vocabulary():
    factors = SpuriousDesign()(torch.arange(500), 0)
    texts = caption(factors)
    words = vocabulary()
    k = 17
    texture, colour, shape = (VALUES[name][getattr(factors, name)[k]] for name in ("texture", "colour", "shape"))
    assert texts[k] == f"a {texture} {colour} {shape} on {BACKGROUNDS[factors.background[k]]}"
    tokens = tokenise(texts)
    assert tokens.shape == (500, 6)
    assert [" ".join(words[t] for t in row) for row in tokens.tolist()] == texts
    assert len(set(words)) == len(words)
    assert 40 <= len(words) <= 60
    assert tokenise(["disk"], 3).tolist() == [[words.index("disk"), 0, 0]]
    with pytest.raises(ValueError, match="'dog'"):
        tokenise(["a dog"])
    with pytest.raises(ValueError, match="length=2"):
        tokenise(["a red disk"], 2)
    with pytest.raises(IndexError, match="colour holds 9"):
        caption(factors._replace(colour=torch.full((500,), 9)))


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: SpuriousDesign(label="size"), ValueError, "label='size'.*shape, texture"),
        (lambda: SpuriousDesign(attribute="shape"), ValueError, "attribute='shape'"),
        (lambda: SpuriousDesign(strength=1.2), ValueError, "strength=1.2"),
        (lambda: SpuriousDesign(strength=math.nan), ValueError, "strength=nan"),
        (lambda: SpuriousDesign(mapping=[0, 1]), ValueError, "mapping has 2"),
        (lambda: SpuriousDesign(mapping=[8] * 10), ValueError, "mapping"),
        (lambda: SpuriousDesign(prior=[1.0, 2.0]), ValueError, r"prior has shape \(2,\)"),
        (lambda: SpuriousDesign(prior=[0.0] * 10), ValueError, "prior has no mass"),
        (lambda: SubpopulationDesign([[1, -1]]), ValueError, "table holds a negative"),
        (lambda: SubpopulationDesign([[1, math.nan]]), ValueError, "table holds"),
        (lambda: SubpopulationDesign([1, 2]), ValueError, r"table has shape \(2,\)"),
        (lambda: SubpopulationDesign(torch.ones(11, 2)), ValueError, "11 values of shape"),
        (lambda: SubpopulationDesign([[1]], ("shape", "shape")), ValueError, "factors"),
        (lambda: SubpopulationDesign([["a"]]), TypeError, "table"),
        (lambda: GeographyDesign([1.0], 0.5), ValueError, "region_prior"),
        (lambda: GeographyDesign([1.0] * 6, -0.1), ValueError, "gamma=-0.1"),
        (lambda: GeographyDesign([1.0] * 6, 1, torch.eye(6, 10).roll(1, 0).tril()), ValueError, "without any mass"),
        (lambda: FewShotDesign(11, 1, 1, (0,), (1,)), ValueError, "n_way=11"),
        (lambda: FewShotDesign(2, 0, 1, (0,), (1,)), ValueError, "k_shot=0"),
        (lambda: FewShotDesign(2, 1, 1, (), (1,)), ValueError, "context_support"),
        (lambda: FewShotDesign(2, 1, 1, (0,), (8,)), ValueError, "context_query"),
    ],
)
def test_designs_that_make_no_sense_are_refused(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_factors_put_together_by_hand_need_no_label():
    zero = torch.zeros(2, dtype=torch.int64)
    assert caption(Factors(zero, zero, zero, zero, zero)) == ["a plain red disk on grass"] * 2
