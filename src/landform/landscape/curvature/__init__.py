"""Curvature of the loss: products with the Hessian and its parts, extreme eigenvalues, spectral density and trace."""

from landform.landscape.curvature.classes import ClassStructure, class_structure
from landform.landscape.curvature.density import SpectralDensity, spectral_density
from landform.landscape.curvature.eigen import Eigenpairs, top_eigenpairs
from landform.landscape.curvature.krylov import Lanczos, lanczos
from landform.landscape.curvature.operators import CurvatureOperator, SymmetricMatrix, SymmetricOperator
from landform.landscape.curvature.parameters import ParameterVector
from landform.landscape.curvature.products import ggn_vp, hvp
from landform.landscape.curvature.sharpness import Sharpness, sharpness
from landform.landscape.curvature.spectrum import Spectrum, near_zero_fraction, split_spectrum
from landform.landscape.curvature.trace import Trace, hutchinson_trace

__all__ = [
    "ClassStructure",
    "CurvatureOperator",
    "Eigenpairs",
    "Lanczos",
    "ParameterVector",
    "Sharpness",
    "SpectralDensity",
    "Spectrum",
    "SymmetricMatrix",
    "SymmetricOperator",
    "Trace",
    "class_structure",
    "ggn_vp",
    "hutchinson_trace",
    "hvp",
    "lanczos",
    "near_zero_fraction",
    "sharpness",
    "spectral_density",
    "split_spectrum",
    "top_eigenpairs",
]
