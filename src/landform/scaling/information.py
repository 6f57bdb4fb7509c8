"""What of a loss is entropy and what is still to be learned, and what one thing tells of another."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from landform.scaling.fit import PowerLawFit

Array = Float[np.ndarray, "..."]


class InformationGain(NamedTuple):
    """What a context tells of a text.

    Attributes:
        information: I = L(text) − L(text | context), the mutual information that the model finds, in nats.
        gain: I / L(text), the share of the text's information that the context holds.
    """

    information: Array
    gain: Array


def information_gain(loss_text: ArrayLike, loss_text_given_context: ArrayLike) -> InformationGain:
    """The empirical mutual information of a text and its context, from the losses of a model with and without it.

    Both losses are of the same tokens of text, in nats (a mean per token, or a sum per caption). Since a loss is the
    entropy and the model's divergence, I is too large by how much worse the model is without the context, and too small
    by how much worse it is with it; it may be below 0.

    Raises:
        ValueError: a loss that is negative or not finite, or a loss without context that is 0.

    Source: arXiv 2010.14701.

    >>> found = information_gain(4.0, 3.0)
    >>> float(found.information), float(found.gain)
    (1.0, 0.25)
    """
    alone = np.asarray(loss_text, dtype=np.float64)
    given = np.asarray(loss_text_given_context, dtype=np.float64)
    if not (np.isfinite(alone) & (alone > 0)).all():
        raise ValueError(f"loss_text={loss_text!r}: must be positive and finite")
    if not (np.isfinite(given) & (given >= 0)).all():
        raise ValueError(f"loss_text_given_context={loss_text_given_context!r}: must be zero or more, and finite")
    return InformationGain(alone - given, (alone - given) / alone)


def reducible_loss(fit: PowerLawFit, y: ArrayLike) -> Array:
    """y − L_inf: the part of measured losses that a larger model (more data, more compute) would take away.

    It is an estimate of the Kullback–Leibler divergence of the model from the data where L_inf is the data's entropy.
    A measurement below the fitted constant gives a negative one.
    """
    constant = fit.parameters[fit.names.index("E" if fit.form == "two-term" else "L_inf")]
    return np.asarray(y, dtype=np.float64) - constant
