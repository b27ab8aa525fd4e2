"""Whose the files are that lie where a case's would be written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from vnet_segmentation.batch.cases import Case
from vnet_segmentation.batch.tables import BatchRow, failed_row, is_report
from vnet_segmentation.errors import UserError


def earlier_row(case: Case, model: str) -> BatchRow | None:
    """The row of a case that needs no work, because its mask is there, or must not get any, see `refused_row`; None for
    the others.

    Args:
        model: SHA-256 of the weights that would segment it.
    """
    outputs = case.outputs
    report = _earlier_report(outputs.report)
    refused = _refused_row(case, report)
    if refused or case.overwrite or not os.path.exists(outputs.mask):
        return refused
    return BatchRow(case.name, case.scan, "skipped", outputs.mask, report, _why_skipped(case, report, model))


def refused_row(case: Case) -> BatchRow | None:
    """The row of a case whose files must not be written, because what is there is not its own; None for the others."""
    return _refused_row(case, _earlier_report(case.outputs.report))


def _refused_row(case: Case, report: dict[str, Any] | None) -> BatchRow | None:
    outputs = case.outputs
    has_mask = os.path.exists(outputs.mask)
    owner = Path(report["scan"]) if report else Path()
    # A scan that has moved is not there any more under its old name, and is still the same one.
    is_of_another = owner.is_absolute() and os.path.exists(owner) and not owner.samefile(case.scan)
    if has_mask and is_of_another:
        return failed_row(
            case, UserError(f"{outputs.mask} is the mask of another scan, {owner}. Choose another output folder.")
        )
    if has_mask or case.overwrite:
        return None
    others = [path for path in outputs.all if os.path.exists(path)]
    # The report is written first: with it the others are what an interrupted run left, and are replaced.
    if others and (report is None or is_of_another):
        return failed_row(
            case, UserError(f"{others[0]} exists already and is not of this scan. Move it, or choose to overwrite.")
        )
    return None


def _why_skipped(case: Case, report: dict[str, Any] | None, model: str) -> str:
    """What the mask that is there lacks of what was asked for now, and what its own report warns of."""
    outputs = case.outputs
    wanted = (("probability volume", outputs.probability), ("picture", outputs.picture))
    missing = [what for what, path in wanted if path and not os.path.exists(path)]
    sentences = ["Had a mask already."]
    if report and report["threshold"] != case.threshold:
        sentences.append(f"It was made with the threshold {report['threshold']}.")
    if report and report["model"]["sha256"] != model:
        sentences.append(f"It was made by another model, {report['model']['name']}.")
    if missing:
        sentences.append(f"There is no {' and no '.join(missing)}.")
    if len(sentences) > 1:
        sentences.append("Choose to overwrite to have it as asked for now.")
    return " ".join([*sentences, *(report["warnings"] if report else [])])


def _earlier_report(path: Path | None) -> dict[str, Any] | None:
    try:
        report = json.loads(path.read_text("utf-8")) if path else None
    except (OSError, ValueError):
        return None
    return report if is_report(report) else None
