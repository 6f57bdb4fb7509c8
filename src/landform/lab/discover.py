"""Which studies there are, and loading one."""

from __future__ import annotations

import importlib
from pathlib import Path

from landform import studies
from landform.catalog import UnknownPaper, paper
from landform.lab.errors import StudyError, UsageError
from landform.study import Study


def study_slugs() -> list[str]:
    """The papers that have a study, sorted. No study is imported."""
    files = (file for folder in studies.__path__ for file in Path(folder).glob("[a-z]*.py"))
    return sorted(file.stem.replace("_", "-") for file in files)


def load_study(slug: str) -> Study:
    """The study of a paper.

    Raises:
        UsageError: no such paper, or none that has a study yet.
        StudyError: the study's file cannot be loaded, or lacks a part.
    """
    if slug not in study_slugs():
        try:
            paper(slug)
        except UnknownPaper as error:
            raise UsageError(str(error)) from error
        raise UsageError(f"the study of {slug} does not exist yet; `landform list` shows which do")
    name = f"landform.studies.{slug.replace('-', '_')}"
    try:
        study = getattr(importlib.import_module(name), "study", None)
    except Exception as error:
        raise StudyError(f"the study of {slug} cannot be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(study, Study) or study.slug != slug:
        raise StudyError(f"{name} has no `study = Study({slug!r}, ...)`")
    if study.run_trial is None or study.draw is None:
        raise StudyError(f"the study of {slug} has no @study.{'trial' if study.run_trial is None else 'figure'}")
    return study
