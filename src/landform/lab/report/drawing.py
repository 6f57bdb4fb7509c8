"""A study's figure, drawn twice: for a light page and for a dark one."""

from __future__ import annotations

import io
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.resources import as_file, files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from landform.study import Arrays, Study

STYLES = ("light", "dark")
PIXELS_PER_INCH = 96


@dataclass(frozen=True)
class Drawn:
    """A figure as SVG texts by style, with its size on the page in pixels."""

    svg: dict[str, str]
    width: int
    height: int


@dataclass(frozen=True)
class NotDrawn:
    """Why there is no figure: one line, and the traceback where the study's own function raised."""

    why: str
    traceback: str = ""


def draw(study: Study, records: pd.DataFrame, arrays: Arrays) -> Drawn | NotDrawn:
    """The study's figure of these records in both styles. Whatever its function raises is told, not raised."""
    import matplotlib.pyplot as plt

    if study.draw is None:
        return NotDrawn("The study has no figure.")
    svg = {}
    with _no_window():
        for name in STYLES:
            before = set(plt.get_fignums())
            try:
                with as_file(files("landform.lab") / f"{name}.mplstyle") as style, plt.style.context(style, True):
                    # Copies, since a function that changed what it draws would make the second drawing differ.
                    figure = study.draw(records.copy(), arrays)
                    text = io.StringIO()
                    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": "landform"})
                    width, height = figure.get_size_inches() * PIXELS_PER_INCH
            except Exception as error:  # a study's own function: anything may go wrong in it
                reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
                return NotDrawn(
                    f"The figure could not be drawn from the stored records. {reason}", traceback.format_exc()
                )
            finally:
                for opened in set(plt.get_fignums()) - before:
                    plt.close(opened)
            svg[name] = text.getvalue()
    return Drawn(svg, round(width), round(height))


@contextmanager
def _no_window() -> Iterator[None]:
    """Draw without a display, and leave the caller's backend as it was."""
    import matplotlib
    import matplotlib.pyplot as plt

    backend = matplotlib.get_backend()
    plt.switch_backend("agg")
    try:
        yield
    finally:
        with suppress(ImportError):
            plt.switch_backend(backend)
