"""The contact sheet is a picture with something of each world on it."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
from PIL import Image

from landform import data
from landform.data.contact import PAGE


def test_the_contact_sheet_is_a_picture_full_of_samples(tmp_path):
    before = dict(matplotlib.rcParams)
    path = data.contact_sheet(tmp_path / "sheet.png")
    assert path == tmp_path / "sheet.png"
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert picture.shape[0] > 2000
    assert picture.shape[1] > 2000
    page = np.array([int(PAGE[i : i + 2], 16) for i in (1, 3, 5)])
    inked = (np.abs(picture - page).max(axis=2) > 30).astype(float)
    rows, columns = np.array_split(inked, 3), 2
    for band in rows:
        for part in np.array_split(band, columns, axis=1):
            assert part.mean() > 0.02
    assert dict(matplotlib.rcParams) == before


def test_a_path_that_cannot_be_written_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr("landform.data.contact.load", lambda *_: pytest.fail("began to work"))
    with pytest.raises(ValueError, match=r"sheet.pdf.*PNG"):
        data.contact_sheet(tmp_path / "sheet.pdf")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        data.contact_sheet(tmp_path / "nowhere" / "sheet.png")
