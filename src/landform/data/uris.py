"""What a URI names: an embedded world, or the user's own files."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from importlib import import_module
from typing import Any

from landform.data.split import Split

# Each loader is imported when its scheme is asked for. What follows the scheme's colon is its positional argument.
LOADERS = {
    "digits": "landform.data.digits:digits",
    "glyphs": "landform.data.glyphs:glyphs",
    "corpus": "landform.data.corpus:corpus",
    "tabular": "landform.data.tabular:tabular",
    "scenes": "landform.data.scenes.world:scenes",
    "overhead": "landform.data.scenes.world:overhead",
    "roofs": "landform.data.scenes.world:roofs",
    "folder": "landform.data.folder:folder",
    "idx": "landform.data.idx:idx",
    "parquet": "landform.data.parquet:parquet",
    "omniglot": "landform.data.omniglot:omniglot",
    "hf": "landform.data.hub:hub",
}


def load(uri: str, **options: Any) -> dict[str, Split]:
    """The splits that ``uri`` names, by split name: tensors in memory, the same at every call.

    ========================  =====================================================================================
    ``digits``                handwritten digits of 8 × 8 pixels
    ``glyphs[:SCRIPT,...]``   printed characters of 13 scripts in 22 typefaces
    ``corpus``                Python's standard library, as bytes
    ``tabular[:TABLE]``       breast_cancer, wine, iris, diabetes, diabetes-high, hastie, madelon
    ``scenes``                drawn shapes, textures and colours on backgrounds that may go along with them
    ``overhead``              drawn scenes from above, of four climate zones
    ``roofs``                 drawn roof tiles, of 14 materials in six continents
    ``folder:PATH``           images in a folder for each class
    ``idx:PATH``              MNIST's format
    ``parquet:PATH``          tables of images or of numbers
    ``omniglot:PATH``         Omniglot's archives of handwritten characters
    ``hf:NAME[@CONFIG]``      a dataset of the Hugging Face hub, or one that its library saved
    ========================  =====================================================================================

    Options are those of each kind's own function, given as keywords or, as in ``folder:~/birds?size=32&limit=1000``,
    at the end of the URI, so that a command line can give them too.

    Raises:
        ValueError: an unknown scheme, world or option, or data that cannot be read as what they are said to be.
        FileNotFoundError: a path where nothing is.

    >>> splits = load("digits")
    >>> splits["train"].x.shape, splits["test"].x.shape
    (torch.Size([1347, 1, 8, 8]), torch.Size([450, 1, 8, 8]))
    >>> len(load("digits?limit=100")["train"])
    100
    """
    if not isinstance(uri, str):
        raise TypeError(f"uri is {type(uri).__name__}; a data URI is text, such as 'digits' or 'folder:PATH'")
    address, asked = _query(uri)
    if twice := sorted(asked.keys() & options.keys()):
        raise ValueError(f"option {twice[0]!r} is given twice, in the URI {uri!r} and as a keyword")
    options = asked | options
    scheme, colon, rest = address.partition(":")
    if scheme not in LOADERS:
        raise ValueError(f"unknown data URI {uri!r}: it must begin with one of {', '.join(LOADERS)}")
    module, _, function = LOADERS[scheme].partition(":")
    loader: Callable[..., dict[str, Split]] = getattr(import_module(module), function)
    parameters = inspect.signature(loader).parameters.values()
    takes_rest = any(p.kind is p.POSITIONAL_ONLY for p in parameters)
    if colon and not takes_rest:
        raise ValueError(f"data URI {uri!r}: {scheme} takes nothing after the colon")
    allowed = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    for name in options:
        if name not in allowed:
            raise ValueError(f"{scheme} has no option {name!r}; allowed: {', '.join(allowed)}")
    return loader(rest, **options) if takes_rest else loader(**options)


def _query(uri: str) -> tuple[str, dict[str, Any]]:
    """The URI without its options ``?name=value&...``, and the options as numbers, booleans or text."""
    match = re.fullmatch(r"(.*?)\?(\w+=[^&?]*(?:&\w+=[^&?]*)*)", uri, flags=re.DOTALL)
    if match is None:
        return uri, {}
    pairs = (pair.split("=", 1) for pair in match[2].split("&"))
    return match[1], {name: _value(text) for name, text in pairs}


def _value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
