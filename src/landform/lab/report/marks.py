"""Small marks of the report: numbers in as many digits as they deserve, and intervals drawn as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from landform.claims import Finding, Region

THIN_SPACE = "\N{NARROW NO-BREAK SPACE}"
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float, spread: float = math.nan, *, signed: bool = False) -> str:
    """A number, to the second significant digit of ``spread`` (half an interval), or else to its own fourth.

    >>> number(0.123456, 0.0123), number(-0.123456, 0.0123, signed=True), number(2.5e-9)
    ('0.123', '−0.123', '2.5×10⁻⁹')
    """
    if math.isnan(value):
        return "undefined"
    sign = "−" if value < 0 else "+" if signed and value > 0 else ""
    if math.isinf(value):
        return f"{sign}∞"
    size = abs(value)
    if not size:
        return "0"
    if not 1e-4 <= max(size, spread if math.isfinite(spread) else 0.0) < 1e6:
        digits, _, power = f"{size:.2e}".partition("e")
        return f"{sign}{digits.rstrip('0').rstrip('.')}×10{str(int(power)).translate(SUPERSCRIPT)}"
    if math.isfinite(spread) and spread > 0:
        decimals = min(1 - math.floor(math.log10(spread)), 8)
        text = f"{round(size, decimals):,.{max(decimals, 0)}f}"
    else:
        decimals = min(max(3 - (math.floor(math.log10(size)) if size else 0), 0), 8)
        text = f"{size:,.{decimals}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    zero = not text.strip("0.")
    return text if zero else sign + text.replace(",", THIN_SPACE)


def interval_text(low: float, high: float, *, signed: bool = False) -> str:
    """``[low, high]``, both ends in the digits that the width deserves; a dash where there is no interval."""
    if math.isnan(low) or math.isnan(high):
        return "—"
    half = (high - low) / 2
    return f"[{number(low, half, signed=signed)}, {number(high, half, signed=signed)}]"


def half_width(finding: Finding) -> float:
    return (finding.high - finding.low) / 2 if math.isfinite(finding.low) and math.isfinite(finding.high) else math.nan


@dataclass(frozen=True)
class _Axis:
    """Maps values to pixels; whatever is infinite lies at the edge."""

    low: float
    high: float
    width: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if math.isfinite(value) else float(value > 0)
        return round(min(max(share, 0.0), 1.0) * self.width, 1)


def interval_plot(finding: Finding, region: Region, words: str, *, width: int = 240, ticks: bool = False) -> Markup:
    """The finding's interval over the claimed region, as inline SVG; nothing where there is no finite effect.

    The region of effects for which the claim is true is shaded, so that the verdict is seen: supported where the
    interval lies wholly in the shade, contradicted where wholly outside.
    """
    bounds = [bound for bound in region if math.isfinite(bound)]
    ends = [finding.effect, finding.low, finding.high]
    inside = [value for value in ends if math.isfinite(value)]
    if not inside or math.isnan(finding.effect):
        return Markup("")
    low, high = min(*inside, *bounds), max(*inside, *bounds)
    margin = 0.12 * (high - low) or 0.5 * abs(high) or 1.0
    axis = _Axis(low - margin, high + margin, width)
    height = 34 if ticks else 22
    start, end = axis(region[0]), axis(region[1])
    parts = [f'<rect class="claimed" x="{start}" y="1" width="{round(end - start, 1)}" height="20" rx="2"/>']
    parts += [f'<line class="bound" x1="{axis(b)}" x2="{axis(b)}" y1="1" y2="21"/>' for b in bounds]
    if not (math.isnan(finding.low) or math.isnan(finding.high)):
        left, right = axis(finding.low), axis(finding.high)
        parts.append(f'<line class="reach" x1="{left}" x2="{right}" y1="11" y2="11"/>')
        caps = [x for x, value in ((left, finding.low), (right, finding.high)) if math.isfinite(value)]
        parts += [f'<line class="cap" x1="{x}" x2="{x}" y1="7" y2="15"/>' for x in caps]
    parts.append(f'<circle class="effect" cx="{axis(finding.effect)}" cy="11" r="4"/>')
    if ticks:
        parts += [_tick(axis(bound), bound, width) for bound in bounds]
    return Markup(
        '<svg class="interval" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img"'
        ' aria-label="{words}">{parts}</svg>'
    ).format(width=width, height=height, words=words, parts=Markup("".join(parts)))


def _tick(x: float, bound: float, width: float) -> str:
    anchor = "start" if x < 20 else "end" if x > width - 20 else "middle"
    return f'<text class="tick" x="{x}" y="32" text-anchor="{anchor}">{number(bound)}</text>'


def share_bar(counts: Sequence[tuple[str, int]], words: str) -> Markup:
    """One bar divided in proportion to the counts, each part of the class that its name says."""
    total = sum(count for _, count in counts) or 1
    parts, x = [], 0.0
    for name, count in counts:
        width = 1000 * count / total
        if count:
            shown = max(width - 3, 1)
            parts.append(f'<rect class="part {name}" x="{x:.1f}" y="0" width="{shown:.1f}" height="14"/>')
        x += width
    return Markup(
        '<svg class="shares" viewBox="0 0 1000 14" preserveAspectRatio="none" role="img" aria-label="{words}">'
        "{parts}</svg>"
    ).format(words=words, parts=Markup("".join(parts)))
