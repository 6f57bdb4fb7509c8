"""Writing the site: every page is rendered before the first file of an earlier report is touched."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from itertools import groupby
from pathlib import Path, PurePosixPath

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from landform.catalog import papers
from landform.lab.errors import UsageError
from landform.lab.report.drawing import Drawn
from landform.lab.report.marks import share_bar
from landform.lab.report.pages import OUTCOMES, SIGNS, Entry, entries
from landform.lab.store import Store

MANIFEST = ".landform-report.json"
"""Marks a folder as a report, and lists the files of it that may be replaced or removed."""

STAGING = ".landform-building-"
FOLDERS = {PurePosixPath("."): ".html", PurePosixPath("studies"): ".html", PurePosixPath("figures"): ".svg"}
"""Where a report has files, and of which kind."""


def write_report(store: Store, out: str | Path) -> Path:
    """Write the site of every paper and of the store's runs into the folder ``out``; the path of its ``index.html``.

    A report that is there is replaced, file by file and its index last, once the new one is complete; what else lies
    in the folder stays. Where anything fails before, the old report is as it was. The same store gives the same bytes.

    Raises:
        UsageError: ``out`` is a file, or a folder with something in it that is no landform report, or cannot be
            written to.
        StoreError: the store cannot be read.
    """
    out = Path(out)
    try:
        _check_folder(out)
        with _staging(out) as folder:
            written = _write_pages(entries(store), folder)
            _replace(folder, out, written)
    except OSError as error:
        raise UsageError(f"the report cannot be written to {out}: {error.strerror or error}") from error
    return out / "index.html"


def _write_pages(listed: list[Entry], folder: Path) -> list[str]:
    """Write every file of the site under ``folder``; their paths in it, ``index.html`` last."""
    pages = _environment()
    contents: dict[str, str] = {}
    for entry in listed:
        if entry.first:
            contents[f"studies/{entry.paper.slug}.html"] = pages.get_template("study.html").render(
                entry=entry, up="../"
            )
        for run in entry.runs:
            if isinstance(run.figure, Drawn):
                for style, svg in run.figure.svg.items():
                    contents[f"figures/{run.file}-{style}.svg"] = svg
    counts = Counter(entry.outcome for entry in listed)
    contents["index.html"] = pages.get_template("index.html").render(
        areas=[(area, list(group)) for area, group in groupby(listed, key=lambda entry: entry.paper.area)],
        counts=[(outcome, counts[outcome]) for outcome in OUTCOMES],
        shares=share_bar(
            [(outcome, counts[outcome]) for outcome in OUTCOMES],
            ", ".join(f"{counts[outcome]} {label.lower()}" for outcome, label in OUTCOMES.items()),
        ),
        papers=len(papers()),
        total=len(listed),
        up="",
    )
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8", newline="\n")
    return list(contents)


def _environment() -> Environment:
    """The templates, with everything escaped that is put into them, and what all of them need."""
    pages = Environment(
        loader=PackageLoader("landform.lab"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = (_template(name) for name in ("style.css", "index.js"))
    pages.globals.update(
        OUTCOMES=OUTCOMES,
        SIGNS=SIGNS,
        style=Markup(style),
        script=Markup(script),
        contours=Markup(_template("contours.svg")),
        # Nothing may be fetched but the figures beside the page; only our own style and script may take effect.
        policy="default-src 'none'; base-uri 'none'; form-action 'none'; img-src 'self' file:; "
        f"style-src '{_integrity(style)}'; script-src '{_integrity(script)}'",
    )
    pages.tests["drawn"] = lambda figure: isinstance(figure, Drawn)
    return pages


def _template(name: str) -> str:
    return files("landform.lab").joinpath("templates", name).read_text(encoding="utf-8")


def _integrity(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _check_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(f"the report needs a folder, and {out} is a file; nothing was written")
    if not out.is_dir() or (out / MANIFEST).is_file():
        return
    # What a report left that was killed while it was built is no one's.
    if any(not path.name.startswith(STAGING) for path in out.iterdir()):
        raise UsageError(f"{out} has something in it that is no landform report; name a new or an empty folder")


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """A folder on the same disk to build in, gone afterwards; ``out`` too if it was made here and stayed empty."""
    made = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=STAGING, dir=out))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if made and not any(out.iterdir()):
            out.rmdir()


def _replace(folder: Path, out: Path, written: list[str]) -> None:
    """Move the new files to their places, then remove those of the earlier report that the new one lacks."""
    earlier = _listed(out)
    manifest = out / MANIFEST
    # From here until the end both reports' files are known to be ours, also to whoever takes over after a crash.
    _write_manifest(manifest, sorted({*earlier, *written}))
    for name in written:
        (out / name).parent.mkdir(exist_ok=True)
        (folder / name).replace(out / name)
    for name in set(earlier) - set(written):
        (out / name).unlink(missing_ok=True)
    for kind in FOLDERS:
        if kind.name and (out / kind).is_dir() and not any((out / kind).iterdir()):
            (out / kind).rmdir()
    _write_manifest(manifest, sorted(written))


def _write_manifest(path: Path, names: list[str]) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"files": names}, indent=1) + "\n", encoding="utf-8")
    new.replace(path)


def _listed(out: Path) -> list[str]:
    """The files of the report that is in ``out``: only such as a report can have, whatever its manifest says."""
    try:
        names = json.loads((out / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    paths = [PurePosixPath(name) for name in names if isinstance(name, str)]
    return [str(path) for path in paths if FOLDERS.get(path.parent) == path.suffix]
