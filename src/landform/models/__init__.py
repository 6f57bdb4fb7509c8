"""Networks and layers."""

from landform.models.batch_norm_branches import BatchNormBranches, batch_norm_branch, branch_batch_norm
from landform.models.convnet import ConvNet
from landform.models.mlp import MLP
from landform.models.resnet import ResNet
from landform.models.transformer import ByteTransformer, count_parameters
from landform.models.vgg32 import VGG32
from landform.models.vit import ViT

__all__ = [
    "MLP",
    "VGG32",
    "BatchNormBranches",
    "ByteTransformer",
    "ConvNet",
    "ResNet",
    "ViT",
    "batch_norm_branch",
    "branch_batch_norm",
    "count_parameters",
]
