"""What became of cases: a row for each, and the figures of several."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vnet_segmentation.images.metrics import Agreement, Comparison

_VOLUME_DIFFERENCE = "relative_volume_difference_percent"


@dataclass(frozen=True)
class Row:
    """What became of one case."""

    case: str
    site: str
    comparison: Comparison
    confidence: float | None = None
    """What the segmentation said of itself, in [0, 1], see `confidence`; None where that is not known."""
    model_sha256: str | None = None
    """Of the weights that made the mask; None where that is not known."""

    @staticmethod
    def from_dict(row: dict[str, Any]) -> Row:
        """The inverse of `dataclasses.asdict`."""
        parts = {part: Agreement(**agreement) for part, agreement in row["comparison"].items()}
        return Row(row["case"], row["site"], Comparison(**parts), row["confidence"], row["model_sha256"])

    def metrics(self) -> dict[str, float]:
        """By name: those of `metrics.Agreement` for the whole gland, then with base_ and with apex_ before the name."""
        return {
            prefix + name: value
            for prefix, agreement in (
                ("", self.comparison.whole),
                ("base_", self.comparison.base),
                ("apex_", self.comparison.apex),
            )
            for name, value in asdict(agreement).items()
        }


def mean_figures(rows: Sequence[Row]) -> dict[str, float]:
    """The mean of each metric of `Row.metrics`, and of the volume difference's magnitude
    (``absolute_volume_difference_percent``, the challenge's figure): too large and too small do not cancel out there.

    Args:
        rows: at least one.
    """
    metrics = [row.metrics() for row in rows]
    mean = {name: float(np.mean([of_case[name] for of_case in metrics])) for name in metrics[0]}
    differences = [abs(of_case[_VOLUME_DIFFERENCE]) for of_case in metrics]
    return mean | {"absolute_volume_difference_percent": float(np.mean(differences))}


def worst_figures(rows: Sequence[Row]) -> dict[str, float]:
    """The worst of each metric: the lowest Dice; of all else the farthest from 0.

    Args:
        rows: at least one.
    """
    metrics = [row.metrics() for row in rows]
    return {
        name: min(of_case[name] for of_case in metrics)
        if name.endswith("dice")
        else max((of_case[name] for of_case in metrics), key=abs)
        for name in metrics[0]
    }


def rows_by_site(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of each known site, sites in alphabetical order."""
    sites: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.site):
        if row.site:
            sites[row.site].append(row)
    return sites
