"""How networks are connected in weight space: paths and barriers between them, what predicts these, and alignment."""

from landform.landscape.connectivity.barriers import STABLE_BELOW, barrier
from landform.landscape.connectivity.curves import Curve, interpolation_curve
from landform.landscape.connectivity.interpolation import interpolate
from landform.landscape.connectivity.layerwise import layerwise_barrier, layerwise_increase
from landform.landscape.connectivity.line import barrier_from_curvature, line_curvature
from landform.landscape.connectivity.local import layerwise_estimate, local_barrier_estimate
from landform.landscape.connectivity.matching import activation_matching, weight_matching
from landform.landscape.connectivity.mountainside import Mountainside, mountainside
from landform.landscape.connectivity.permutations import PermutationSpec, apply_permutation
from landform.landscape.connectivity.plane import LossPlane, loss_plane
from landform.landscape.connectivity.recalibration import recalibrate_batchnorm
from landform.landscape.connectivity.ridge import MountainRidge2D
from landform.landscape.connectivity.sinkhorn import SinkhornRebasin, sinkhorn
from landform.landscape.connectivity.spawning import Checkpoint, Spawned, SpawnExperiment

__all__ = [
    "STABLE_BELOW",
    "Checkpoint",
    "Curve",
    "LossPlane",
    "MountainRidge2D",
    "Mountainside",
    "PermutationSpec",
    "SinkhornRebasin",
    "SpawnExperiment",
    "Spawned",
    "activation_matching",
    "apply_permutation",
    "barrier",
    "barrier_from_curvature",
    "interpolate",
    "interpolation_curve",
    "layerwise_barrier",
    "layerwise_estimate",
    "layerwise_increase",
    "line_curvature",
    "local_barrier_estimate",
    "loss_plane",
    "mountainside",
    "recalibrate_batchnorm",
    "sinkhorn",
    "weight_matching",
]
