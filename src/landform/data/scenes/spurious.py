"""A label, and an attribute that goes along with it more often than not."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from landform.data.counter import Field, hash_uniform
from landform.data.scenes.design import Design
from landform.data.scenes.draw import check_share, check_values, choose, weights
from landform.data.scenes.factors import VALUES, Factors, check_name, uniform


class SpuriousDesign(Design):
    """With probability ``strength`` the attribute is mapping(label), otherwise uniform over its K values.

    So P(attribute = mapping(label)) = rho + (1 - rho)/K = m, and for uniform labels and a one-to-one mapping of K
    values the mutual information is ln K + m ln m + (1 - m) ln((1 - m)/(K - 1)) nats. All other factors are uniform.
    The group is label · K + attribute.

    Arguments:
        label: the factor to predict.
        attribute: the factor that goes along.
        strength: rho, in [0, 1].
        mapping: the attribute of each label; by default label modulo K.
        anti: with probability rho the attribute is any *but* mapping(label), uniformly.
        prior: weights of the labels; by default all alike. A label of weight 0 does not occur.

    Raises:
        ValueError: an unknown factor, label = attribute, or another argument out of range.

    >>> factors = SpuriousDesign(strength=1.0, mapping=[3] * 10)([0, 1, 2], seed=0)
    >>> factors.background, torch.equal(factors.label, factors.shape)
    (tensor([3, 3, 3]), True)
    """

    def __init__(
        self,
        label: str = "shape",
        attribute: str = "background",
        strength: float = 0.0,
        mapping: Sequence[int] | None = None,
        anti: bool = False,
        prior: Sequence[float] | None = None,
    ) -> None:
        self.label, self.attribute = check_name("label", label), check_name("attribute", attribute)
        if label == attribute:
            raise ValueError(f"attribute={attribute!r}: is the label itself")
        labels, values = len(VALUES[label]), len(VALUES[attribute])
        self.strength = check_share("strength", strength)
        if mapping is None:
            mapping = [y % values for y in range(labels)]
        self.mapping = check_values("mapping", mapping, values, labels)
        self.anti = bool(anti)
        self.prior = weights("prior", [1.0] * labels if prior is None else prior, labels)

    @property
    def classes(self) -> tuple[str, ...]:
        return VALUES[self.label]

    def __call__(self, index: Int[Tensor, " n"] | Sequence[int], seed: int) -> Factors:
        drawn = uniform(index, seed)
        device, values = drawn["shape"].device, len(VALUES[self.attribute])
        label = choose(hash_uniform(seed, index, Field.LABEL), self.prior.to(device))
        coupled = hash_uniform(seed, index, Field.COUPLED) < self.strength
        u = hash_uniform(seed, index, Field.ATTRIBUTE)
        own = self.mapping.to(device)[label]
        if self.anti:
            own = (own + 1 + (u * (values - 1)).long()) % values
        drawn[self.label] = label
        drawn[self.attribute] = attribute = torch.where(coupled, own, (u * values).long())
        return Factors(**drawn, label=label, group=label * values + attribute)
