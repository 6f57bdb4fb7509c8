"""Data attribution, machine unlearning, and how close it comes to having retrained."""

from landform.training.many import subset_masks
from landform.unlearn.datamodels import centred, fit_datamodels, lds, predict_deletion
from landform.unlearn.gradient import ascent_descent_unlearn, gradient_ascent_unlearn, gradient_descent_unlearn
from landform.unlearn.klom import clipped_share, kl_of_margins
from landform.unlearn.margins import classification_margin
from landform.unlearn.matching import unlearn_by_matching
from landform.unlearn.principal import principal_forget_set
from landform.unlearn.retrain import retrain
from landform.unlearn.scrub import distillation_kl, scrub_learning_rate, scrub_retain_loss, scrub_unlearn
from landform.unlearn.trak import TrakAttribution, trak_scores
from landform.unlearn.ulira import ulira

__all__ = [
    "TrakAttribution",
    "ascent_descent_unlearn",
    "centred",
    "classification_margin",
    "clipped_share",
    "distillation_kl",
    "fit_datamodels",
    "gradient_ascent_unlearn",
    "gradient_descent_unlearn",
    "kl_of_margins",
    "lds",
    "predict_deletion",
    "principal_forget_set",
    "retrain",
    "scrub_learning_rate",
    "scrub_retain_loss",
    "scrub_unlearn",
    "subset_masks",
    "trak_scores",
    "ulira",
    "unlearn_by_matching",
]
