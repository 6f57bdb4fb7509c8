"""Adversarial examples of models held in memory: attacks, their parts, and how well examples transfer."""

from landform.attacks.apgd import apgd
from landform.attacks.auto_attack import RobustnessReport, auto_attack
from landform.attacks.balls import L2Ball, LinfBall
from landform.attacks.common_weakness import adam_common_weakness_attack, common_weakness_attack, scaled_inner_step
from landform.attacks.diagnostics import gradient_cosine, input_sharpness, loss_section
from landform.attacks.ensemble import EnsembleLogits
from landform.attacks.gradient import InputGradient
from landform.attacks.iterative import IterativeAttack
from landform.attacks.losses import dlr_loss, margin_loss, targeted_dlr_loss
from landform.attacks.normalized import Normalized
from landform.attacks.optimisers import MomentumIterative, NesterovIterative, VarianceTuned
from landform.attacks.pgd import fgsm, pgd, r_fgsm
from landform.attacks.square import square
from landform.attacks.svre import svre
from landform.attacks.transfer import Transfer, TransferTable, attack_success_rate, transfer_matrix
from landform.attacks.transforms import DiverseInput, ScaleInvariant, TranslationInvariant

__all__ = [
    "DiverseInput",
    "EnsembleLogits",
    "InputGradient",
    "IterativeAttack",
    "L2Ball",
    "LinfBall",
    "MomentumIterative",
    "NesterovIterative",
    "Normalized",
    "RobustnessReport",
    "ScaleInvariant",
    "Transfer",
    "TransferTable",
    "TranslationInvariant",
    "VarianceTuned",
    "adam_common_weakness_attack",
    "apgd",
    "attack_success_rate",
    "auto_attack",
    "common_weakness_attack",
    "dlr_loss",
    "fgsm",
    "gradient_cosine",
    "input_sharpness",
    "loss_section",
    "margin_loss",
    "pgd",
    "r_fgsm",
    "scaled_inner_step",
    "square",
    "svre",
    "targeted_dlr_loss",
    "transfer_matrix",
]
