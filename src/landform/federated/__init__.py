"""Federated learning: clients that hold their own data, and a server that combines what they learn."""

from landform.federated.adaptive import FedAdam, FedAvgM, FedYogi
from landform.federated.client import SGD, Batch, ClientUpdate, Context
from landform.federated.data import ClientData, FederatedData
from landform.federated.decomposition import Decomposition, decompose, loss_decomposition
from landform.federated.fedld import FedLDStrategy, MarginControl, PrincipalGradient
from landform.federated.fedprox import FedProx
from landform.federated.flower import to_flower
from landform.federated.local_grid import LocalGrid
from landform.federated.moon import MOON
from landform.federated.pairwise import FedGH, pcgrad_pairwise
from landform.federated.partitions import (
    PartitionStats,
    partition_by_group,
    partition_dirichlet,
    partition_iid,
    partition_packages,
    partition_quantity,
    partition_shards,
)
from landform.federated.personal import normalisation_names
from landform.federated.principal import principal_gradient_aggregate, principal_shares
from landform.federated.robust import FedMedian, FedTrimmedAvg, Krum
from landform.federated.rounds import LocalRound, sample_clients, train_clients
from landform.federated.scaffold import SCAFFOLD
from landform.federated.server import FedAvg, ServerRule
from landform.federated.simulation import History, Round, simulate
from landform.losses.margin_control import MarginControlLoss

__all__ = [
    "MOON",
    "SCAFFOLD",
    "SGD",
    "Batch",
    "ClientData",
    "ClientUpdate",
    "Context",
    "Decomposition",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedGH",
    "FedLDStrategy",
    "FedMedian",
    "FedProx",
    "FedTrimmedAvg",
    "FedYogi",
    "FederatedData",
    "History",
    "Krum",
    "LocalGrid",
    "LocalRound",
    "MarginControl",
    "MarginControlLoss",
    "PartitionStats",
    "PrincipalGradient",
    "Round",
    "ServerRule",
    "decompose",
    "loss_decomposition",
    "normalisation_names",
    "partition_by_group",
    "partition_dirichlet",
    "partition_iid",
    "partition_packages",
    "partition_quantity",
    "partition_shards",
    "pcgrad_pairwise",
    "principal_gradient_aggregate",
    "principal_shares",
    "sample_clients",
    "simulate",
    "to_flower",
    "train_clients",
]
