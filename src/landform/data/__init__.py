"""What goes in: embedded worlds that need no download, and the user's own files, as tensors."""

from landform.data.bigram import BigramLanguage, bigram_language
from landform.data.contact import contact_sheet
from landform.data.corpus import windows
from landform.data.jitter import affine_jitter
from landform.data.markov import MarkovSource, markov_source
from landform.data.split import Split, merge, standardise
from landform.data.uris import load
from landform.data.worlds import World, worlds

__all__ = [
    "BigramLanguage",
    "MarkovSource",
    "Split",
    "World",
    "affine_jitter",
    "bigram_language",
    "contact_sheet",
    "load",
    "markov_source",
    "merge",
    "standardise",
    "windows",
    "worlds",
]
