"""Networks and layers."""

from landform.models.batch_norm_branches import BatchNormBranches, batch_norm_branch, branch_batch_norm
from landform.models.conv4 import Conv4, conv_block
from landform.models.convnet import ConvNet
from landform.models.image_statistics import ImageStatistics
from landform.models.mlp import MLP
from landform.models.random_conv import RandomConvFeatures
from landform.models.resnet import ResNet
from landform.models.resnet9 import ResNet9
from landform.models.resnet12 import ResNet12
from landform.models.resnet_weights import load_resnet_weights
from landform.models.transformer import ByteTransformer, count_parameters
from landform.models.vgg32 import VGG32
from landform.models.vit import ViT
from landform.models.with_head import WithHead, train_with_frozen_norm

__all__ = [
    "MLP",
    "VGG32",
    "BatchNormBranches",
    "ByteTransformer",
    "Conv4",
    "ConvNet",
    "ImageStatistics",
    "RandomConvFeatures",
    "ResNet",
    "ResNet9",
    "ResNet12",
    "ViT",
    "WithHead",
    "batch_norm_branch",
    "branch_batch_norm",
    "conv_block",
    "count_parameters",
    "load_resnet_weights",
    "train_with_frozen_norm",
]
