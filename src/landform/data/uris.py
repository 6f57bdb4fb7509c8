"""What a URI names: an embedded world, or the user's own files."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

from landform.data.split import Split

# Each loader is imported when its scheme is asked for. What follows the scheme's colon is its positional argument.
LOADERS = {
    "digits": "landform.data.digits:digits",
}


def load(uri: str, **options: Any) -> dict[str, Split]:
    """The splits that ``uri`` names, by split name: always tensors in memory, the same at every call.

    ==================  ==============================================================================
    ``digits``          8 × 8 handwritten digits
    ==================  ==============================================================================

    Raises:
        ValueError: an unknown scheme, world or option, or data that cannot be read as what they are said to be.
        FileNotFoundError: a path where nothing is.

    >>> splits = load("digits")
    >>> splits["train"].x.shape, splits["test"].x.shape
    (torch.Size([1347, 1, 8, 8]), torch.Size([450, 1, 8, 8]))
    """
    scheme, colon, rest = uri.partition(":")
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
