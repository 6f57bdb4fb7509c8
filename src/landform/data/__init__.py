"""What goes in: embedded worlds that need no download, and the user's own files, as tensors."""

from landform.data.bigram import BigramLanguage, bigram_language
from landform.data.channel_statistics import ChannelStatistics
from landform.data.contact import contact_sheet
from landform.data.corpus import windows
from landform.data.corruptions import CORRUPTIONS, corrupt
from landform.data.counter import hash_normal, hash_uniform
from landform.data.crop_flip import random_crop, random_flip
from landform.data.episodes import EpisodeSampler
from landform.data.generators import generator_of
from landform.data.group_sampler import BalancedGroupSampler
from landform.data.indexed import IndexedDataset
from landform.data.jitter import affine_jitter
from landform.data.label_noise import cyclic_label_noise, pair_label_noise, uniform_label_noise
from landform.data.markov import MarkovSource, markov_source
from landform.data.populations import InteractingPopulations, PointPopulations
from landform.data.preprocess import Preprocess
from landform.data.randaugment import RandAugment, RandAugmentRecipe
from landform.data.scenes import (
    Factors,
    FewShotDesign,
    GeographyDesign,
    SceneDataset,
    SpuriousDesign,
    SubpopulationDesign,
    caption,
    overhead_scenes,
    render_scenes,
    roof_tiles,
    to_coco,
    tokenise,
    vocabulary,
)
from landform.data.split import Split, merge, standardise
from landform.data.streams import CorruptionStream, StreamBatch
from landform.data.uris import load
from landform.data.worlds import World, worlds

__all__ = [
    "CORRUPTIONS",
    "BalancedGroupSampler",
    "BigramLanguage",
    "ChannelStatistics",
    "CorruptionStream",
    "EpisodeSampler",
    "Factors",
    "FewShotDesign",
    "GeographyDesign",
    "IndexedDataset",
    "InteractingPopulations",
    "MarkovSource",
    "PointPopulations",
    "Preprocess",
    "RandAugment",
    "RandAugmentRecipe",
    "SceneDataset",
    "Split",
    "SpuriousDesign",
    "StreamBatch",
    "SubpopulationDesign",
    "World",
    "affine_jitter",
    "bigram_language",
    "caption",
    "contact_sheet",
    "corrupt",
    "cyclic_label_noise",
    "generator_of",
    "hash_normal",
    "hash_uniform",
    "load",
    "markov_source",
    "merge",
    "overhead_scenes",
    "pair_label_noise",
    "random_crop",
    "random_flip",
    "render_scenes",
    "roof_tiles",
    "standardise",
    "to_coco",
    "tokenise",
    "uniform_label_noise",
    "vocabulary",
    "windows",
    "worlds",
]
