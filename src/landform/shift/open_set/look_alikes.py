"""Splits of printed characters in which it is known beforehand which unknown ones are hard: those that look alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from landform.shift.open_set.splits import OpenSetSplit

FAMILIES = (
    "oOQ", "cCG", "bdpq", "Iil", "iJj", "kK", "pP", "sS", "uUvV", "wW", "xX", "yY", "zZ", "fF", "mM", "hn", "EF", "PR",
)  # fmt: skip
"""Latin letters that are each other's upper and lower case in one shape, or differ by a turn or a stroke."""

HOMOGLYPHS = "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧκνορυχАВЕКМНОРСТУХЬЅІЈЁаеорсухѕіјёкмтвнпигьл"
"""Greek and Cyrillic letters that are drawn as Latin ones are (upright or slanted), and so belong to no far script."""

NEAR = frozenset(map(chr, [*range(0x41, 0x5B), *range(0x61, 0x7B)]))


def look_alikes(character: str, among: Sequence[str]) -> list[str]:
    """The characters of ``among`` that are of one family of :data:`FAMILIES` with ``character``, but not itself.

    >>> look_alikes("o", "abcOQ")
    ['O', 'Q']
    """
    families = [family for family in FAMILIES if character in family]
    return [c for c in among if c != character and any(c in family for family in families)]


def character_split(
    characters: Sequence[str], n_known: int = 20, n_letters: int = 40, n_far: int = 20, *, seed: int
) -> OpenSetSplit:
    """A split of Latin letters, with unknown letters that look like known ones apart, and far characters besides.

    Of the letters, ``n_letters`` are drawn, and of these ``n_known`` are known. The groups of unknown classes, from
    hard to easy:

    * ``"look-alike"``: letters of one family with a known one (case or shape: o and O, b and d, I and l);
    * ``"letter"``: the other letters drawn;
    * ``"far"``: ``n_far`` characters of other scripts and symbols, none of which is drawn like a Latin letter.

    Arguments:
        characters: what the class numbers mean, such as ``data.load("glyphs")["train"].classes``.

    Raises:
        ValueError: counts that are out of range, or that the characters do not have.

    >>> split = character_split("abcdefghijklmnopqrstuvwxyzЖДФ∂∇→", 10, 20, 4, seed=0)
    >>> len(split.known), sum(map(len, split.unknown.values()))
    (10, 14)
    """
    if not 1 <= n_known < n_letters or n_far < 1:
        raise ValueError(f"n_known={n_known}, n_letters={n_letters}, n_far={n_far}: 1 ≤ n_known < n_letters, 1 ≤ n_far")
    letters = [i for i, c in enumerate(characters) if c in NEAR]
    far = [i for i, c in enumerate(characters) if c not in NEAR and c not in HOMOGLYPHS]
    for name, count, there in (("n_letters", n_letters, letters), ("n_far", n_far, far)):
        if count > len(there):
            raise ValueError(f"{name}={count}: the characters have only {len(there)} of this kind")
    generator = torch.Generator().manual_seed(seed)
    drawn = [letters[i] for i in torch.randperm(len(letters), generator=generator)[:n_letters].tolist()]
    known, others = drawn[:n_known], drawn[n_known:]
    known_letters = [characters[i] for i in known]
    alike = {i for i in others if look_alikes(characters[i], known_letters)}
    groups = {
        "look-alike": [i for i in others if i in alike],
        "letter": [i for i in others if i not in alike],
        "far": [far[i] for i in torch.randperm(len(far), generator=generator)[:n_far].tolist()],
    }
    return OpenSetSplit(known, {name: list(classes) for name, classes in groups.items() if classes})
