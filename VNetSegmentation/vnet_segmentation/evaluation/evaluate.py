"""Masks against reference masks, case by case: rows, a table for people, a CSV file for programs."""

from __future__ import annotations

import contextlib
import csv
import json
import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vnet_segmentation.atomic import atomic_path, check_writable
from vnet_segmentation.datasets.dataset import VOLUME_SUFFIXES, Case
from vnet_segmentation.errors import ExitCode, UserError, list_names
from vnet_segmentation.images.mask_files import read_mask
from vnet_segmentation.images.metrics import Agreement, Comparison, check_same_grid, compare
from vnet_segmentation.images.scans import MASK_STEMS, read_scan, scan_stem
from vnet_segmentation.segmentation.confidence import LEVELS
from vnet_segmentation.segmentation.segmenter import Segmenter

_VOLUME_DIFFERENCE = "relative_volume_difference_percent"

# Heading, metric, format; the CSV has every metric. A row stays within 110 characters.
_COLUMNS = (
    ("Dice", "dice", "7.3f"),
    ("HD95 mm", "hausdorff95_mm", "9.2f"),
    ("ABD mm", "average_boundary_distance_mm", "8.2f"),
    ("volume %", _VOLUME_DIFFERENCE, "+10.1f"),
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

_log = logging.getLogger(__name__)


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


def evaluate_cases(segmenter: Segmenter, cases: Iterable[Case], threshold: float = 0.5) -> Iterator[Row]:
    """Segments each case's scan as a user would and compares the mask with the reference.

    Raises:
        UserError: a scan or mask cannot be used, or they lie on different grids.
    """
    for case in cases:
        scan, reference = read_scan(case.image), read_mask(case.mask, case.label)
        check_same_grid(scan, reference, str(case.image), str(case.mask))
        result = segmenter.segment(scan, threshold)
        said = result.report
        comparison = compare(result.mask, reference)
        yield Row(case.name, case.site, comparison, said["confidence"]["value"], said["model"]["sha256"])


def compare_results(results: Path, cases: Sequence[Case]) -> Iterator[Row]:
    """Compares the masks in a folder with the cases' references.

    The result of a case is the file with the name of the case or of its image, as it is or with ``_prostate`` or
    ``_segmentation`` after it. A case without one counts as a gland that was missed. Such cases, and masks that belong
    to no case, are named in warnings of this module's logger. The report beside a mask, if there is one, has its
    confidence, which says nothing of a mask that was corrected since.

    Args:
        results: folder of masks; the cases' own images and references may be in it, too.
        cases: what to evaluate; only their references are read.

    Raises:
        UserError: there is no such folder or it has no result for any case, a case has two results, or a result cannot
            be read or is not on the grid of its reference.
    """
    if not results.is_dir():
        raise UserError(f"There is no folder {results}. Give the folder with the masks to compare.")
    found = _results_by_case(results, cases)
    if not found:
        raise UserError(
            f"{results} has no mask for any of the {len(cases)} cases. Name the masks after the cases, for instance "
            f"{cases[0].name}_prostate.nii.gz; sub-folders are not searched."
        )
    missing = [case.name for case in cases if case.name not in found]
    if missing:
        _log.warning("Counted as missed glands, because they have no mask in %s: %s", results, list_names(missing))
    return (compare_result(case, found.get(case.name)) for case in cases)


def compare_result(case: Case, file: Path | None) -> Row:
    """Compares the mask in a file with the case's reference; None: a gland that was missed.

    Raises:
        UserError: one of them cannot be read, or they lie on different grids.
    """
    reference = read_mask(case.mask, case.label)
    if file is None:
        return Row(case.name, case.site, compare(reference * 0, reference))
    result = read_mask(file)
    check_same_grid(result, reference, str(file), str(case.mask))
    return Row(case.name, case.site, compare(result, reference), *_reported(file))


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Figures for model.json: means over all cases and over each site's, the worst of each metric, every case.

    Args:
        rows: at least one.

    Returns:
        Plain values: ``n_cases``; ``mean`` and ``worst`` by metric, where the mean also has the volume difference's
        magnitude (``absolute_volume_difference_percent``, the challenge's figure); ``by_site`` and ``by_case``, lists
        of the metrics that `format_table` shows.
    """
    shown = [metric for _, metric, _ in _COLUMNS]

    def rounded(metrics: dict[str, float], names: Iterable[str]) -> dict[str, float]:
        return {name: round(metrics[name], 4) for name in names}

    mean, worst = _mean(rows), _worst(rows)
    return {
        "n_cases": len(rows),
        "mean": rounded(mean, mean),
        "worst": rounded(worst, worst),
        "by_site": [
            {"site": site, "n_cases": len(of_site), **rounded(_mean(of_site), shown)}
            for site, of_site in _by_site(rows).items()
        ],
        "by_case": [{"case": row.case, "site": row.site, **rounded(row.metrics(), shown)} for row in rows],
    }


def format_table(rows: Sequence[Row]) -> str:
    """Table for a terminal, at most 110 characters wide: a line per case, then the means and the worst of each metric.

    Where at least eight cases have a confidence, the last two lines say what it is worth: its rank correlation with the
    Dice (Spearman's), and how many masks are not called high, of those under Dice 0.85 and of the others.

    Args:
        rows: at least one. Means by site follow if any of them has a site.
    """
    by_site = _by_site(rows)
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
    mean = _mean(rows)
    return "\n".join(
        [
            header,
            "-" * len(header),
            *(line(row.case, row.site, numbers(row.metrics())) for row in rows),
            "-" * len(header),
            *(line(f"mean of {len(r)}", site, numbers(_mean(r))) for site, r in by_site.items()),
            line(f"mean of {len(rows)}", "all", numbers(mean)),
            line("worst", "", numbers(_worst(rows))),
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
    if os.path.exists(path) and not overwrite:
        raise UserError(f"{path} exists already. Choose another name, or add --overwrite.", ExitCode.CANNOT_WRITE)
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


def _results_by_case(folder: Path, cases: Sequence[Case]) -> dict[str, Path]:
    given = {path.resolve() for case in cases for path in (case.image, case.mask)}
    stems = [scan_stem(case.image) for case in cases]
    # A case's name goes before the name of another one's image; an image's name that is not unique names no case.
    case_of = {stem: case.name for stem, case in zip(stems, cases, strict=True) if stems.count(stem) == 1}
    case_of |= {case.name: case.name for case in cases}
    found: dict[str, Path] = {}
    extra = []
    for file in sorted(folder.iterdir()):
        if not _is_mask_name(file.name) or file.resolve() in given:
            continue
        stem = scan_stem(file)
        names = [stem, *(stem.removesuffix(ending) for ending in MASK_STEMS)]
        case_name = next((case_of[name] for name in names if name in case_of), None)
        if case_name is None:
            extra.append(file.name)
        elif case_name in found:
            both = f"{found[case_name].name} and {file.name}"
            raise UserError(f"{case_name} has two results in {folder}, {both}. Leave one of them there.")
        else:
            found[case_name] = file
    if extra:
        _log.warning("Left out, because they belong to no case: %s", list_names(extra))
    return found


def _is_mask_name(name: str) -> bool:
    is_volume = name.lower().endswith(VOLUME_SUFFIXES) and not name.startswith(".")
    return is_volume and not scan_stem(name).endswith("_probability")


def _reported(file: Path) -> tuple[float | None, str | None]:
    """Confidence, and SHA-256 of the model's weights, by the report beside a mask."""
    # Masks from elsewhere have no report, or one of another kind.
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        report = json.loads((file.parent / f"{scan_stem(file)}.json").read_text("utf-8"))
        value = float(report["confidence"]["value"])
        return (value if 0 <= value <= 1 else None), str(report["model"]["sha256"])
    return None, None


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


def _by_site(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of each known site, sites in alphabetical order."""
    sites: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.site):
        if row.site:
            sites[row.site].append(row)
    return sites


def _mean(rows: Sequence[Row]) -> dict[str, float]:
    metrics = [row.metrics() for row in rows]
    mean = {name: float(np.mean([of_case[name] for of_case in metrics])) for name in metrics[0]}
    differences = [abs(of_case[_VOLUME_DIFFERENCE]) for of_case in metrics]
    return mean | {"absolute_volume_difference_percent": float(np.mean(differences))}


def _worst(rows: Sequence[Row]) -> dict[str, float]:
    """The lowest Dice; of all else the farthest from 0."""
    metrics = [row.metrics() for row in rows]
    return {
        name: min(of_case[name] for of_case in metrics)
        if name.endswith("dice")
        else max((of_case[name] for of_case in metrics), key=abs)
        for name in metrics[0]
    }


def _fit(text: str, width: int) -> str:
    """The end of a long name tells cases apart."""
    return text if len(text) <= width else ".." + text[2 - width :]
