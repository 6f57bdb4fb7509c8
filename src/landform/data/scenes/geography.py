"""Regions that differ in style, context and what is common there."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor

from landform.data.counter import Field, hash_uniform
from landform.data.scenes.design import Design
from landform.data.scenes.draw import check_share, choose, weights
from landform.data.scenes.factors import REGIONS, SHAPES, Factors, uniform
from landform.data.scenes.regions import BACKGROUND_PRIOR, TEXTURE_PRIOR, tempered


class GeographyDesign(Design):
    """The region is drawn first; then background and texture by its priors, and the shape, which is the label.

    Priors are tempered by gamma, P_gamma = gamma P_r + (1 - gamma) mean_r P_r: at 0 all regions are alike. The colour
    is uniform. The group is the region.

    Arguments:
        region_prior: weights of the six regions.
        gamma: strength in [0, 1], of the priors' differences and of the style with which the scenes are drawn.
        label_prior_by_region: weights ``(6, 10)`` of the shapes in each region, tempered likewise; uniform by default.

    Raises:
        TypeError: a prior that is not of numbers.
        ValueError: a prior of another shape, negative or without mass, or gamma out of range.

    >>> GeographyDesign([1, 0, 0, 0, 0, 0], gamma=1.0)([0, 1], seed=0).region
    tensor([0, 0])
    """

    def __init__(
        self,
        region_prior: Float[Tensor, " regions"] | Sequence[float],
        gamma: float,
        label_prior_by_region: Float[Tensor, "regions shapes"] | Sequence[Sequence[float]] | None = None,
    ) -> None:
        self.region_prior = weights("region_prior", region_prior, len(REGIONS))
        self.gamma = check_share("gamma", gamma)
        self.label_prior = None
        if label_prior_by_region is not None:
            table = weights("label_prior_by_region", label_prior_by_region, len(REGIONS), len(SHAPES))
            if bool((table.sum(1) == 0).any()):
                raise ValueError("label_prior_by_region has a region without any mass")
            self.label_prior = tempered(table / table.sum(1, keepdim=True), self.gamma)

    @property
    def classes(self) -> tuple[str, ...]:
        return SHAPES

    def __call__(self, index: Int[Tensor, " n"] | Sequence[int], seed: int) -> Factors:
        drawn = uniform(index, seed)
        u = hash_uniform(seed, index, Field.REGION)
        region = drawn["region"] = choose(u, self.region_prior.to(u.device))
        priors = {"background": BACKGROUND_PRIOR, "texture": TEXTURE_PRIOR}
        for name, field in (("background", Field.BACKGROUND), ("texture", Field.TEXTURE)):
            prior = tempered(priors[name], self.gamma).to(u.device)
            drawn[name] = choose(hash_uniform(seed, index, field), prior[region])
        if self.label_prior is not None:
            u = hash_uniform(seed, index, Field.LABEL)
            drawn["shape"] = choose(u, self.label_prior.to(u.device)[region])
        return Factors(**drawn, label=drawn["shape"], group=region)
