"""Losses of few-shot episodes: prototypes, margins on distances, and how well classes keep apart, many at once."""

from landform.losses.episodic.batch_hard import BatchHardTripletLoss
from landform.losses.episodic.combined import TERMS, EpisodicLoss
from landform.losses.episodic.icnn import ICNNLoss, icnn_score
from landform.losses.episodic.network import PrototypicalNetwork
from landform.losses.episodic.proto_triplet import ProtoTripletLoss
from landform.losses.episodic.prototypes import PrototypicalLoss, episode_logits, prototype_logits, prototypes
from landform.models import Conv4, ResNet12

__all__ = [
    "TERMS",
    "BatchHardTripletLoss",
    "Conv4",
    "EpisodicLoss",
    "ICNNLoss",
    "ProtoTripletLoss",
    "PrototypicalLoss",
    "PrototypicalNetwork",
    "ResNet12",
    "episode_logits",
    "icnn_score",
    "prototype_logits",
    "prototypes",
]
