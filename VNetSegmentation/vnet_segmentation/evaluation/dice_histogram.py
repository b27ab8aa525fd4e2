"""How many cases have which Dice coefficient, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vnet_segmentation.atomic import atomic_path

_BIN = 0.05
"""Of Dice, as in figure 4 of the V-Net paper."""


def write_histogram(dice: Sequence[float], path: Path) -> None:
    """Draws how many cases have which Dice coefficient, as an SVG picture.

    Args:
        dice: 0 to 1 each; at least one.
    """
    n_bins = round(1 / _BIN)
    counts = [0] * n_bins
    for value in dice:
        # A perfect mask belongs to the last bin. The small addition undoes what 0.85 / 0.05 = 16.999... loses.
        counts[min(int(value / _BIN + 1e-9), n_bins - 1)] += 1
    first = min(next(i for i, count in enumerate(counts) if count), n_bins - 6)
    bar, height, left, bottom = 40, 200, 50, 240
    top = max(counts)
    shapes = []
    for column, i in enumerate(range(first, n_bins)):
        x, tall = left + column * bar, counts[i] / top * height
        shapes.append(
            f'<rect x="{x}" y="{bottom - tall:.1f}" width="{bar - 4}" height="{tall:.1f}" fill="#e69e8c"/>'
            f'<text x="{x + bar / 2 - 2}" y="{bottom - tall - 5:.1f}">{counts[i] or ""}</text>'
            f'<text x="{x - 2}" y="{bottom + 18}">{i * _BIN:.2f}</text>'
        )
    right = left + (n_bins - first) * bar
    shapes.append(f'<text x="{right - 2}" y="{bottom + 18}">1.00</text>')
    shapes.append(f'<line x1="{left - 6}" y1="{bottom}" x2="{right}" y2="{bottom}" stroke="black"/>')
    shapes.append(f'<text x="{(left + right) / 2}" y="{bottom + 40}">Dice coefficient ({len(dice)} cases)</text>')
    with atomic_path(path) as temporary:
        temporary.write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{right + 30}" height="{bottom + 55}" '
            f'font-family="sans-serif" font-size="12" text-anchor="middle">\n'
            f'<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(shapes) + "\n</svg>\n",
            "utf-8",
        )
