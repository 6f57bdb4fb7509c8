"""Networks and layers."""

from landform.models.convnet import ConvNet
from landform.models.mlp import MLP
from landform.models.resnet import ResNet
from landform.models.transformer import ByteTransformer, count_parameters

__all__ = ["MLP", "ByteTransformer", "ConvNet", "ResNet", "count_parameters"]
