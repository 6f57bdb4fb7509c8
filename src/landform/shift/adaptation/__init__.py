"""Test-time adaptation: models that learn from the unlabelled stream they predict."""

from landform.shift.adaptation.adapter import Adapter, Ledger
from landform.shift.adaptation.batch_renorm import BatchRenormTT
from landform.shift.adaptation.bn_adapt import BNAdapt
from landform.shift.adaptation.cloud_edge import CloudEdgeSession
from landform.shift.adaptation.eata import EATA
from landform.shift.adaptation.entropy import EntropyScreen, softmax_entropy
from landform.shift.adaptation.normalization import freeze_all_but_normalization, normalization_parameters
from landform.shift.adaptation.redundancy import RedundancyScreen
from landform.shift.adaptation.replay import ReplayBuffer
from landform.shift.adaptation.sar import SAR
from landform.shift.adaptation.tent import Tent

__all__ = [
    "EATA",
    "SAR",
    "Adapter",
    "BNAdapt",
    "BatchRenormTT",
    "CloudEdgeSession",
    "EntropyScreen",
    "Ledger",
    "RedundancyScreen",
    "ReplayBuffer",
    "Tent",
    "freeze_all_but_normalization",
    "normalization_parameters",
    "softmax_entropy",
]
