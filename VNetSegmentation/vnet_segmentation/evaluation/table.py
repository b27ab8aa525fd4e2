"""Tables of rows: for a person, for a program, and for a model's description."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vnet_segmentation.atomic import atomic_path, check_writable, refuse_existing
from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.evaluation.rows import Row, mean_figures, rows_by_site, worst_figures
from vnet_segmentation.segmentation.confidence import LEVELS

# Heading, metric, format; the CSV has every metric. A row stays within 110 characters.
_COLUMNS = (
    ("Dice", "dice", "7.3f"),
    ("HD95 mm", "hausdorff95_mm", "9.2f"),
    ("ABD mm", "average_boundary_distance_mm", "8.2f"),
    ("volume %", "relative_volume_difference_percent", "+10.1f"),
    ("base Dice", "base_dice", "11.3f"),
    ("HD95 mm", "base_hausdorff95_mm", "9.2f"),
    ("apex Dice", "apex_dice", "11.3f"),
    ("HD95 mm", "apex_hausdorff95_mm", "9.2f"),
)
_POOR_DICE = 0.85
"""A mask under it should not be called sure: readers agree better with each other."""
_MIN_CASES_TO_RANK = 8
_MAX_CASE_WIDTH = 24
_MAX_SITE_WIDTH = 9


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Figures for model.json: means over all cases and over each site's, the worst of each metric, every case.

    Args:
        rows: at least one.

    Returns:
        Plain values: ``n_cases``; ``mean`` and ``worst`` by metric, where the mean also has the volume difference's
        magnitude (``absolute_volume_difference_percent``, the challenge's figure); ``by_site``, if any row has a site,
        and ``by_case``, lists of the metrics that `format_table` shows.
    """
    shown = [metric for _, metric, _ in _COLUMNS]

    def rounded(metrics: dict[str, float], names: Iterable[str]) -> dict[str, float]:
        return {name: round(metrics[name], 4) for name in names}

    mean, worst = mean_figures(rows), worst_figures(rows)
    by_site = [
        {"site": site, "n_cases": len(of_site), **rounded(mean_figures(of_site), shown)}
        for site, of_site in rows_by_site(rows).items()
    ]
    return {
        "n_cases": len(rows),
        "mean": rounded(mean, mean),
        "worst": rounded(worst, worst),
        **({"by_site": by_site} if by_site else {}),
        "by_case": [{"case": row.case, "site": row.site, **rounded(row.metrics(), shown)} for row in rows],
    }


def format_table(rows: Sequence[Row]) -> str:
    """Table for a terminal, at most 110 characters wide: a line per case, then the means and the worst of each metric.

    Where at least eight cases have a confidence, the last two lines say what it is worth: its rank correlation with the
    Dice (Spearman's), and how many masks are not called high, of those under Dice 0.85 and of the others.

    Args:
        rows: at least one. Means by site follow if any of them has a site.
    """
    by_site = rows_by_site(rows)
    labels = [row.case for row in rows] + [f"mean of {len(rows)}"]
    case_width = min(_MAX_CASE_WIDTH, max(map(len, labels)))
    site_width = min(_MAX_SITE_WIDTH, max(map(len, [*by_site, "site"]))) if by_site else 0

    def line(case: str, site: str, cells: Iterable[str]) -> str:
        names = f"{_fit(case, case_width):{case_width}}" + f"  {_fit(site, site_width):{site_width}}" * bool(by_site)
        return names + "".join(cells)

    def numbers(metrics: dict[str, float]) -> list[str]:
        return [f"{metrics[name]:{form}}" for _, name, form in _COLUMNS]

    headings = [f"{heading:>{form.lstrip('+').split('.')[0]}}" for heading, _, form in _COLUMNS]
    header = line("case", "site", headings)
    mean = mean_figures(rows)
    return "\n".join(
        [
            header,
            "-" * len(header),
            *(line(row.case, row.site, numbers(row.metrics())) for row in rows),
            "-" * len(header),
            *(line(f"mean of {len(r)}", site, numbers(mean_figures(r))) for site, r in by_site.items()),
            line(f"mean of {len(rows)}", "all", numbers(mean)),
            line("worst", "", numbers(worst_figures(rows))),
            f"Mean volume difference without its sign: {mean['absolute_volume_difference_percent']:.1f} %",
            *_confidence_lines(rows),
        ]
    )


def check_table(path: Path, overwrite: bool) -> None:
    """Fails before any work is done where `write_table` could not or must not write afterwards.

    Raises:
        UserError: the name does not end in ``.csv`` (`ExitCode.USAGE`), the file exists, or the place cannot be written
            (`ExitCode.CANNOT_WRITE`).
    """
    if path.suffix.lower() != ".csv":
        raise UserError(f"The table {path} must end in .csv.", ExitCode.USAGE)
    if not overwrite:
        refuse_existing(path)
    check_writable(path)


def write_table(rows: Sequence[Row], path: Path) -> None:
    """Writes every metric of every case as CSV, whole or not at all.

    Args:
        rows: at least one.

    Raises:
        UserError: the file cannot be written.
    """
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ["case", "site", "confidence", *rows[0].metrics()])
        table.writeheader()
        for row in rows:
            values = {name: f"{value:.4f}" for name, value in row.metrics().items()}
            confidence = "" if row.confidence is None else f"{row.confidence:.3f}"
            table.writerow({"case": row.case, "site": row.site, "confidence": confidence, **values})


def _confidence_lines(rows: Sequence[Row]) -> list[str]:
    known = [(row.confidence, row.comparison.whole.dice) for row in rows if row.confidence is not None]
    if len(known) < _MIN_CASES_TO_RANK:
        return []
    of_confidence, of_dice = (_centred_ranks(np.array(values)) for values in zip(*known, strict=True))
    size = np.linalg.norm(of_confidence) * np.linalg.norm(of_dice)
    if size == 0:
        return []
    name, least = LEVELS[0]
    poor = [confidence < least for confidence, dice in known if dice < _POOR_DICE]
    others = [confidence < least for confidence, dice in known if dice >= _POOR_DICE]
    return [
        f"Confidence of {len(known)} cases: rank correlation with the Dice {of_confidence @ of_dice / size:.2f}; "
        f"not called {name}:",
        f"{sum(poor)} of {len(poor)} masks under Dice {_POOR_DICE}, {sum(others)} of {len(others)} others",
    ]


def _centred_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Around 0, in half steps; equal values share a rank."""
    ranks: NDArray[np.float64] = np.sign(values[:, None] - values).sum(1) / 2
    return ranks


def _fit(text: str, width: int) -> str:
    """The end of a long name tells cases apart."""
    return text if len(text) <= width else ".." + text[2 - width :]
