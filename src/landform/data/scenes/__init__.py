"""Procedural scenes whose causes are known: images as functions of (seed, index, factors).

The strength of every shift here is a knob that was chosen by hand, so that absolute drops of accuracy are choices too;
only comparisons between methods on the same scenes mean something.
"""

from landform.data.scenes.captions import caption, tokenise, vocabulary
from landform.data.scenes.coco import to_coco
from landform.data.scenes.damage import DAMAGE_CLASSES, EVENTS
from landform.data.scenes.dataset import SceneDataset
from landform.data.scenes.design import Design
from landform.data.scenes.factors import BACKGROUNDS, COLOURS, REGIONS, SHAPES, TEXTURES, VALUES, Factors
from landform.data.scenes.few_shot import FewShotDesign
from landform.data.scenes.geography import GeographyDesign
from landform.data.scenes.overhead import OverheadScenes, overhead_scenes
from landform.data.scenes.placement import OVERHEAD_CLASSES
from landform.data.scenes.render import mask_boxes, render_scenes
from landform.data.scenes.roof_materials import CONTINENTS, ROOF_MATERIALS, ROOF_SHAPES, roof_material_prior
from landform.data.scenes.roofs import RoofTiles, roof_factors, roof_tiles
from landform.data.scenes.spurious import SpuriousDesign
from landform.data.scenes.subpopulation import SubpopulationDesign
from landform.data.scenes.zones import ZONES

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "CONTINENTS",
    "DAMAGE_CLASSES",
    "EVENTS",
    "OVERHEAD_CLASSES",
    "REGIONS",
    "ROOF_MATERIALS",
    "ROOF_SHAPES",
    "SHAPES",
    "TEXTURES",
    "VALUES",
    "ZONES",
    "Design",
    "Factors",
    "FewShotDesign",
    "GeographyDesign",
    "OverheadScenes",
    "RoofTiles",
    "SceneDataset",
    "SpuriousDesign",
    "SubpopulationDesign",
    "caption",
    "mask_boxes",
    "overhead_scenes",
    "render_scenes",
    "roof_factors",
    "roof_material_prior",
    "roof_tiles",
    "to_coco",
    "tokenise",
    "vocabulary",
]
