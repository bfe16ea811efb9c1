"""A bar chart as SVG, without a library: rates differ by powers of ten, so the axis is logarithmic."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from math import ceil, floor, log10
from pathlib import Path

_LEFT, _WIDTH, _BAR, _GAP = 190, 520, 16, 34


def bars(file: Path, title: str, groups: Mapping[str, Mapping[str, float]], ours: str) -> None:
    """Write a chart with one group of bars for each entry of `groups`; names that begin with `ours` stand out."""
    values = [value for group in groups.values() for value in group.values()]
    low, high = floor(log10(min(values))), ceil(log10(max(values)))
    scale = _WIDTH / max(1, high - low)
    parts = []
    y = 40
    for name, group in groups.items():
        parts.append(f'<text x="8" y="{y + 12}" font-weight="bold">{escape(name)}</text>')
        y += 22
        for subject, value in sorted(group.items(), key=lambda item: -item[1]):
            width = max(1.0, (log10(value) - low) * scale)
            colour = "#2563eb" if subject.startswith(ours) else "#9ca3af"
            parts.append(f'<text x="{_LEFT - 6}" y="{y + 12}" text-anchor="end">{escape(subject)}</text>')
            parts.append(f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR - 2}" fill="{colour}"/>')
            parts.append(f'<text x="{_LEFT + width + 5:.1f}" y="{y + 12}">{value:,.0f}</text>')
            y += _BAR
        y += _GAP - _BAR
    for power in range(low, high + 1):
        x = _LEFT + (power - low) * scale
        parts.insert(0, f'<line x1="{x:.1f}" y1="34" x2="{x:.1f}" y2="{y}" stroke="#e5e7eb"/>')
        parts.append(f'<text x="{x:.1f}" y="{y + 12}" text-anchor="middle" fill="#6b7280">{10**power:,}</text>')
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 80}" height="{y + 24}" '
        'font-family="sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="white"/><text x="8" y="22" font-size="15">{escape(title)}</text>'
    )
    file.write_text("\n".join([head, *parts, "</svg>", ""]), encoding="utf-8")
