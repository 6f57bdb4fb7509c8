"""Scaling laws: fitted robustly to measured losses, with intervals, checked on what was held out, and used."""

from landform.scaling.bootstrap import Bootstrap, bootstrap_fit
from landform.scaling.extrapolation import Extrapolation, extrapolation_score
from landform.scaling.fit import PowerLawFit, Prediction, fit_power_law
from landform.scaling.frontier import Envelope, Frontier, fit_frontier, lower_envelope
from landform.scaling.information import InformationGain, information_gain, reducible_loss
from landform.scaling.laws import Allocation, PowerLaw, TwoTermLaw
from landform.scaling.sources import ConditionalPairs, image_tokens

__all__ = [
    "Allocation",
    "Bootstrap",
    "ConditionalPairs",
    "Envelope",
    "Extrapolation",
    "Frontier",
    "InformationGain",
    "PowerLaw",
    "PowerLawFit",
    "Prediction",
    "TwoTermLaw",
    "bootstrap_fit",
    "extrapolation_score",
    "fit_frontier",
    "fit_power_law",
    "image_tokens",
    "information_gain",
    "lower_envelope",
    "reducible_loss",
]
