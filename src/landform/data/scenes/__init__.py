"""Procedural scenes whose causes are known: images as functions of (seed, index, factors).

The strength of every shift here is a knob that was chosen by hand, so that absolute drops of accuracy are choices too;
only comparisons between methods on the same scenes mean something.
"""

from landform.data.scenes.dataset import SceneDataset
from landform.data.scenes.design import Design
from landform.data.scenes.factors import BACKGROUNDS, COLOURS, REGIONS, SHAPES, TEXTURES, VALUES, Factors
from landform.data.scenes.few_shot import FewShotDesign
from landform.data.scenes.geography import GeographyDesign
from landform.data.scenes.render import mask_boxes, render_scenes
from landform.data.scenes.spurious import SpuriousDesign
from landform.data.scenes.subpopulation import SubpopulationDesign

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "REGIONS",
    "SHAPES",
    "TEXTURES",
    "VALUES",
    "Design",
    "Factors",
    "FewShotDesign",
    "GeographyDesign",
    "SceneDataset",
    "SpuriousDesign",
    "SubpopulationDesign",
    "mask_boxes",
    "render_scenes",
]
