"""The `glyphs` world: characters of many scripts in the typefaces that come with matplotlib."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
import torch
from matplotlib import ft2font
from numpy.typing import NDArray
from torch import Tensor

from landform.data.cache import Arrays, cached
from landform.data.jitter import affine_jitter
from landform.data.split import Split, check_count, holdout, limited

# The letters and signs of each script: inclusive ranges of code points, without marks that only combine with others.
# Of two that some typeface draws alike to the pixel only one is there (U+1429, U+157D and U+2219 are not).
SCRIPTS: dict[str, tuple[tuple[int, int], ...]] = {
    "latin": ((0x41, 0x5A), (0x61, 0x7A)),
    "digits": ((0x30, 0x39),),
    "greek": ((0x391, 0x3A1), (0x3A3, 0x3A9), (0x3B1, 0x3C9)),
    "cyrillic": ((0x401, 0x401), (0x410, 0x44F), (0x451, 0x451)),
    "armenian": ((0x531, 0x556), (0x561, 0x586)),
    "georgian": ((0x10D0, 0x10F0),),
    "hebrew": ((0x5D0, 0x5EA),),
    "arabic": ((0x621, 0x63A), (0x641, 0x64A)),
    "lao": ((0xE81, 0xEB0), (0xEC0, 0xEC4), (0xEDC, 0xEDD)),
    "lisu": ((0xA4D0, 0xA4F7),),
    "syllabics": ((0x1401, 0x1428), (0x142A, 0x157C), (0x157E, 0x166C), (0x166F, 0x1676)),
    "math": ((0x2200, 0x2218), (0x221A, 0x22FF)),
    "arrows": ((0x2190, 0x21FF),),
}

# The typefaces whose character map means what Unicode says, by their file. STIX's other files hold private characters
# and pieces of delimiters; of the Computer Modern files only ASCII letters and digits keep their Unicode places, in
# cmmi10 only the letters, and in cmex10 and cmsy10 none; LastResort draws one box for a whole script.
TYPEFACES = {
    "DejaVu Sans": "DejaVuSans",
    "DejaVu Sans Bold": "DejaVuSans-Bold",
    "DejaVu Sans Oblique": "DejaVuSans-Oblique",
    "DejaVu Sans Bold Oblique": "DejaVuSans-BoldOblique",
    "DejaVu Sans Mono": "DejaVuSansMono",
    "DejaVu Sans Mono Bold": "DejaVuSansMono-Bold",
    "DejaVu Sans Mono Oblique": "DejaVuSansMono-Oblique",
    "DejaVu Sans Mono Bold Oblique": "DejaVuSansMono-BoldOblique",
    "DejaVu Serif": "DejaVuSerif",
    "DejaVu Serif Bold": "DejaVuSerif-Bold",
    "DejaVu Serif Italic": "DejaVuSerif-Italic",
    "DejaVu Serif Bold Italic": "DejaVuSerif-BoldItalic",
    "STIX": "STIXGeneral",
    "STIX Bold": "STIXGeneralBol",
    "STIX Italic": "STIXGeneralItalic",
    "STIX Bold Italic": "STIXGeneralBolIta",
    "Computer Modern Roman": "cmr10",
    "Computer Modern Bold": "cmb10",
    "Computer Modern Sans": "cmss10",
    "Computer Modern Typewriter": "cmtt10",
    "Computer Modern Italic": "cmti10",
    "Computer Modern Math Italic": "cmmi10",
}

# A character is in the world when so many typefaces have it, so that its class can be split and few-shot tasks drawn.
LEAST_TYPEFACES = 4
# Counts up when this file draws glyphs in another way than before, so that nothing older is read from the cache.
DRAWING = 1
# The jitter of `copies`: degrees and fractions, see affine_jitter.
JITTER = {"rotation": 10.0, "scale": 0.1, "shear": 0.1, "shift": 0.06}

By = Literal["sample", "character", "typeface"]


def glyphs(
    rest: str = "",
    /,
    *,
    scripts: str | Sequence[str] | None = None,
    typefaces: str | Sequence[str] | None = None,
    size: int = 28,
    by: By = "sample",
    test_fraction: float = 0.25,
    copies: int = 1,
    seed: int = 0,
    limit: int | None = None,
) -> dict[str, Split]:
    """Printed characters: x is float32 ``(N, 1, size, size)`` in [0, 1], white on black; y the character.

    One sample is one character in one typeface, where that typeface has it, antialiased and centred, all at the same
    type size (a glyph too large for the image is drawn smaller). The classes are the characters, so that Latin A and
    Cyrillic А are two; fields are ``typeface``, ``script`` and ``codepoint``.

    Arguments:
        rest: scripts joined by commas, as in ``glyphs:latin,greek``.
        scripts: the same as an option; all when None.
        typefaces: names of typefaces; all when None.
        size: the images' side in pixels.
        by: what the test split holds that the training split has not: of every character some ``"sample"``s,
            whole ``"character"``s (of every script some), or whole ``"typeface"``s (less the characters that no other
            typeface has). ``y`` counts the characters of both splits in each case.
        test_fraction: the share of samples, characters or typefaces that the test split holds.
        copies: 1 gives every glyph as drawn, k > 1 gives k copies of it, each jittered in its own way (at most 10
            degrees, 10 % of size, a shear of 0.1, and shifts of 6 %). Copies of a glyph stay in one split.
        seed: draws the split and the jitter (and the samples that ``limit`` keeps).
        limit: at most so many samples a split.

    Raises:
        ValueError: an unknown script or typeface, an amount out of range, or a choice that leaves a split empty.
    """
    if rest and scripts is not None:
        raise ValueError(f"scripts={scripts!r} is given twice: the URI says {rest!r}")
    chosen_scripts = _chosen("script", rest or scripts, list(SCRIPTS))
    chosen_typefaces = _chosen("typeface", typefaces, list(TYPEFACES))
    check_count("size", size, 8)
    if by not in ("sample", "character", "typeface"):
        raise ValueError(f"by={by!r}: must be 'sample', 'character' or 'typeface'")
    check_count("copies", copies, 1)

    whole = _select(atlas(size), chosen_scripts, chosen_typefaces)
    train, test = _parts(whole, by, test_fraction, seed)
    if not len(train) or not len(test):
        raise ValueError(
            f"by={by!r}, test_fraction={test_fraction}: {len(chosen_typefaces)} typeface(s) and {len(whole.classes)} "
            f"character(s) leave {len(train)} samples to train and {len(test)} to test; both must hold some"
        )
    splits = limited({"train": whole[train], "test": whole[test]}, limit if copies == 1 else None, seed)
    if copies > 1:
        generator = torch.Generator().manual_seed(seed)
        splits = {name: _jittered(split, copies, generator) for name, split in splits.items()}
        splits = limited(splits, limit, seed)
    return splits


def atlas(size: int) -> Arrays:
    """Every glyph of the world as drawn: ``images`` uint8 ``(N, size, size)``, ``codepoint`` and ``typeface`` ``(N,)``.

    ``typeface`` counts :data:`TYPEFACES`. Glyphs are in order of typeface, then of script and code point. Drawn once
    and then read from the cache.
    """
    recipe = (SCRIPTS, TYPEFACES, LEAST_TYPEFACES, DRAWING, size)
    versions = (matplotlib.__version__, ft2font.__freetype_version__)
    key = hashlib.sha256(repr((recipe, versions, _font_hashes())).encode()).hexdigest()[:24]
    return cached(f"glyphs-{size}-{key}", lambda: _draw_all(size))


def ink(character: str, typeface: str, em: float) -> NDArray[np.uint8]:
    """One character of one of :data:`TYPEFACES` at ``em`` pixels an em, antialiased and cut to its ink.

    Raises:
        ValueError: an unknown typeface, a size that is not positive, or a character that the typeface has no ink for.
    """
    _chosen("typeface", typeface, list(TYPEFACES))
    if len(character) != 1:
        raise ValueError(f"character={character!r}: must be one character")
    if not em > 0:
        raise ValueError(f"em={em}: must be positive")
    font = ft2font.FT2Font(str(_font_file(typeface)))
    found = _ink(font, ord(character), em) if ord(character) in _covered(typeface, font) else None
    if found is None:
        raise ValueError(f"character={character!r}: the typeface {typeface!r} has no ink for it")
    return found


def _chosen(what: str, choice: str | Sequence[str] | None, allowed: list[str]) -> list[str]:
    """The names chosen, in the order of ``allowed``."""
    if choice is None:
        return allowed
    names = [name.strip() for name in choice.split(",")] if isinstance(choice, str) else list(choice)
    if unknown := [name for name in names if name not in allowed]:
        raise ValueError(f"unknown {what} {unknown[0]!r}; allowed: {', '.join(allowed)}")
    if not names:
        raise ValueError(f"{what}s is empty; allowed: {', '.join(allowed)}")
    return [name for name in allowed if name in names]


def _codepoints(script: str) -> list[int]:
    return [code for first, last in SCRIPTS[script] for code in range(first, last + 1)]


def _select(everything: Arrays, scripts: list[str], typefaces: list[str]) -> Split:
    """The glyphs of these scripts and typefaces, with characters, scripts and typefaces numbered from 0."""
    script_of = {code: number for number, script in enumerate(scripts) for code in _codepoints(script)}
    typeface_of = {list(TYPEFACES).index(name): number for number, name in enumerate(typefaces)}
    keep = np.isin(everything["codepoint"], list(script_of)) & np.isin(everything["typeface"], list(typeface_of))
    codes = everything["codepoint"][keep]
    present = set(codes.tolist())
    characters = [code for code in script_of if code in present]
    number_of = {code: number for number, code in enumerate(characters)}
    images = torch.from_numpy(everything["images"][keep])
    return Split(
        x=images.unsqueeze(1).to(torch.float32) / 255,
        y=_renumber(codes, number_of),
        classes=tuple(map(chr, characters)),
        fields={
            "typeface": _renumber(everything["typeface"][keep], typeface_of),
            "script": _renumber(codes, script_of),
            "codepoint": torch.from_numpy(codes).long(),
        },
        names={"typeface": tuple(typefaces), "script": tuple(scripts)},
    )


def _renumber(values: NDArray[np.generic], number_of: Mapping[int, int]) -> Tensor:
    return torch.tensor([number_of[value] for value in values.tolist()], dtype=torch.int64)


def _parts(whole: Split, by: By, test_fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Positions of the training and of the test samples."""
    if by == "sample":
        return holdout(whole.y, test_fraction, seed)
    if by == "character":
        script = torch.zeros(len(whole.classes), dtype=torch.int64)
        script[whole.y] = whole.fields["script"]
        held, of = holdout(script, test_fraction, seed)[1], whole.y
    else:
        of = whole.fields["typeface"]
        held = holdout(torch.zeros(len(whole.names["typeface"]), dtype=torch.int64), test_fraction, seed)[1]
    test = torch.isin(of, held)
    train = ~test
    if by == "typeface":
        test &= torch.isin(whole.y, whole.y[train])
    return train.nonzero().squeeze(1), test.nonzero().squeeze(1)


def _jittered(split: Split, copies: int, generator: torch.Generator) -> Split:
    """``copies`` of every sample, each with an affine jitter of its own."""
    many = split[torch.arange(len(split)).repeat_interleave(copies)]
    x = affine_jitter(many.x, **JITTER, generator=generator)
    return Split(x, many.y, many.classes, many.fields, many.names)


def _font_file(typeface: str) -> Path:
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{TYPEFACES[typeface]}.ttf"


@cache
def _font_hashes() -> tuple[str, ...]:
    return tuple(hashlib.sha256(_font_file(name).read_bytes()).hexdigest() for name in TYPEFACES)


def _covered(typeface: str, font: ft2font.FT2Font) -> set[int]:
    """The code points for which the typeface has a glyph that means what Unicode says."""
    mapped = {code for code, glyph in font.get_charmap().items() if glyph != 0}
    if typeface == "Computer Modern Math Italic":
        return mapped & set(_codepoints("latin"))
    if typeface.startswith("Computer Modern"):
        return mapped & {*_codepoints("latin"), *_codepoints("digits")}
    return mapped


def _draw_all(size: int) -> Arrays:
    """Draw what :func:`atlas` returns."""
    wanted = [code for script in SCRIPTS for code in _codepoints(script)]
    images, codes, typefaces = [], [], []
    for number, typeface in enumerate(TYPEFACES):
        font = ft2font.FT2Font(str(_font_file(typeface)))
        covered = _covered(typeface, font)
        for code in wanted:
            if code in covered and (image := _draw(font, code, size)) is not None:
                images.append(image)
                codes.append(code)
                typefaces.append(number)
    found, count = np.unique(codes, return_counts=True)
    keep = np.isin(codes, found[count >= LEAST_TYPEFACES])
    return {
        "images": np.stack(images)[keep],
        "codepoint": np.array(codes, dtype=np.int32)[keep],
        "typeface": np.array(typefaces, dtype=np.int32)[keep],
    }


def _draw(font: ft2font.FT2Font, code: int, size: int) -> NDArray[np.uint8] | None:
    """One glyph, centred in a square of ``size`` pixels; None for a glyph without ink."""
    em, room = 0.9 * size, size - 2 * max(1, round(size / 14))
    ink = _ink(font, code, em)
    if ink is not None and max(ink.shape) > room:
        ink = _ink(font, code, em * (room - 1) / max(ink.shape))
    if ink is None:
        return None
    top, left = ((size - side) // 2 for side in ink.shape)
    image = np.zeros((size, size), dtype=np.uint8)
    image[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return image


def _ink(font: ft2font.FT2Font, code: int, em: float) -> NDArray[np.uint8] | None:
    """The glyph at ``em`` pixels an em, cut to its ink."""
    font.set_size(em, 72)
    font.set_text(chr(code), 0.0, flags=ft2font.LoadFlags.NO_HINTING)
    font.draw_glyphs_to_bitmap(antialiased=True)
    bitmap = np.array(font.get_image(), dtype=np.uint8)
    rows, columns = np.flatnonzero(bitmap.any(axis=1)), np.flatnonzero(bitmap.any(axis=0))
    if not len(rows):
        return None
    return bitmap[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
