"""Cross-validation: every case is segmented, as a user would, by a model that has not seen it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from vnet_segmentation.atomic import atomic_path, remove_leftovers
from vnet_segmentation.datasets.dataset import Case, find_cases
from vnet_segmentation.datasets.inspection import refuse_problems
from vnet_segmentation.device import Device
from vnet_segmentation.errors import Cancelled, ExitCode, UserError, list_names
from vnet_segmentation.evaluation.dice_histogram import write_histogram
from vnet_segmentation.evaluation.evaluate import compare_result
from vnet_segmentation.evaluation.rows import Row
from vnet_segmentation.evaluation.table import write_table
from vnet_segmentation.models.bundle import read_description
from vnet_segmentation.models.library import known_cases
from vnet_segmentation.models.training_state import begun, discard, state_folder
from vnet_segmentation.segmentation.scan_job import Outputs, segment_file
from vnet_segmentation.segmentation.segmenter import Segmenter
from vnet_segmentation.training.cache import files_digest
from vnet_segmentation.training.folds import folds, site_folds
from vnet_segmentation.training.identity import refuse_other_cases, refuse_other_options
from vnet_segmentation.training.options import TrainingOptions
from vnet_segmentation.training.train_model import train_model
from vnet_segmentation.training.training_run import Progress

TABLE_NAME, HISTOGRAM_NAME = "results.csv", "dice_histogram.svg"
_PLAN_NAME, _MASKS_NAME = "crossvalidation.json", "masks"
_OTHERWISE = "choose another output"


def cross_validate(
    data: Path,
    output: Path,
    n_folds: int | None,
    options: TrainingOptions,
    device: Device,
    only: Sequence[int] = (),
    say: Callable[[str], None] = lambda sentence: None,
    report: Callable[[Progress], None] = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Row]:
    """Trains a model per fold, segments the cases that it has not seen, and measures their masks on their own grids.

    A fold's model is the end of its run (with the recipe's weight averaging): nothing is chosen by the cases it is
    measured on. What is done stays: the same call goes on with the fold, and in it with the iteration, where an earlier
    one was stopped. Processes or machines can share the folds by `only`: the table is of all that are done.

    Args:
        data: see `dataset.find_cases`; test cases are left out, other splits are not looked at.
        output: gets `fold-1` and so on (model bundles; one that is there is taken), `masks` (with a report each),
            `TABLE_NAME` and `HISTOGRAM_NAME`.
        n_folds: see `folds.folds`; None: a fold for each site, in the order of their names.
        options: of each fold's training; ``minutes`` is for one fold, ``validation`` and ``held_out`` are set here.
        only: numbers of the folds to do, from 1; empty: all.
        say, report, should_stop: see `train_model.train_model`.

    Returns:
        The metrics of every case of the folds that are done.

    Raises:
        UserError: there are no such folds (`ExitCode.USAGE`), cases have problems (all of them are listed, before
            anything starts), cases changed since the first call, the output is of another cross-validation, or a model
            in it, or the base, has learned from what it is to be judged by; or see `train_model.train_model`.
        Cancelled: `should_stop` said so.
    """
    cases = [replace(case, label=options.label) for case in find_cases(data) if case.split != "test"]
    parts = [unseen for _, unseen in (site_folds(cases) if n_folds is None else folds(cases, n_folds, options.seed))]
    unknown = set(only) - set(range(1, len(parts) + 1))
    if unknown:
        raise UserError(f"There is no fold {min(unknown)}. Choose of 1 to {len(parts)}.", ExitCode.USAGE)
    say(f"Checking {len(cases)} cases")
    voxel_hashes = refuse_problems(cases)
    digests = claim_folds(output, parts, options)
    for folder in (output, output / _MASKS_NAME):
        remove_leftovers(folder)
    for number, unseen in enumerate(parts, start=1):
        if only and number not in only:
            continue
        pending = [case for case in unseen if not _mask(output, case).exists()]
        model = output / f"fold-{number}"
        if not pending:
            say(f"Fold {number} of {len(parts)} is done")
            # It may have been killed after its last mask.
            discard(state_folder(model))
            continue
        made = (model / "model.json").exists()
        _refuse_learned(model if made else options.base, {case.name: voxel_hashes[case.name] for case in unseen})
        if not made:
            say(f"Fold {number} of {len(parts)}")
            settings = replace(options, validation=(), held_out=_held_out(data, digests, unseen))
            resume = begun(state_folder(model)) is not None
            train_model(data, model, settings, device, output / "cache", resume, say, report, should_stop)
        segmenter = Segmenter(model, device)
        for case in pending:
            if should_stop():
                raise Cancelled
            say(f"Segmenting {case.name}")
            mask = _mask(output, case)
            outputs = Outputs(mask, report=mask.with_name(f"{case.name}_prostate.json"))
            segment_file(segmenter, case.image, outputs, overwrite=True)
        discard(state_folder(model))
    cases = [case for unseen in parts for case in unseen if _mask(output, case).exists()]
    rows = [compare_result(case, _mask(output, case)) for case in sorted(cases, key=lambda case: case.name)]
    write_table(rows, output / TABLE_NAME)
    write_histogram([row.comparison.whole.dice for row in rows], output / HISTOGRAM_NAME)
    return rows


def claim_folds(output: Path, parts: Sequence[Sequence[Case]], options: TrainingOptions) -> dict[str, str]:
    """Writes the plan of a cross-validation, or refuses a folder of another one, whose models may have seen what they
    would be measured on.

    Args:
        parts: each fold's unseen cases.
        options: see `cross_validate`.

    Returns:
        A digest of the files of each case, by its name.

    Raises:
        UserError: the folder is of another plan, or has none but what a cross-validation would take for its own or
            replace; or cases changed since the plan was made.
    """
    plan: dict[str, Any] = {
        "folds": [[case.name for case in unseen] for unseen in parts],
        # As JSON gives them back: with lists for tuples.
        "options": json.loads(json.dumps({"folds": len(parts), **asdict(options)}, default=str)),
        "cases": _digests([case for unseen in parts for case in unseen]),
    }
    path = output / _PLAN_NAME
    if not path.exists():
        _refuse_foreign_files(output)
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(plan, indent=2) + "\n", "utf-8")
        return plan["cases"]
    try:
        stored = dict(json.loads(path.read_text("utf-8")))
    except (ValueError, TypeError):
        # Damaged: what it was made for cannot be told.
        stored = {}
    # Earlier versions did not keep any: what has changed since cannot be told.
    if isinstance(stored.get("cases"), dict):
        refuse_other_cases("cross-validation", stored["cases"], plan["cases"], _OTHERWISE)
    if isinstance(stored.get("options"), dict):
        refuse_other_options("cross-validation", stored["options"], plan["options"], _OTHERWISE)
    if stored != plan:
        raise UserError(
            f"{output} holds another cross-validation, or one of an earlier version. Give the same data and options as "
            "there, or choose another output."
        )
    return plan["cases"]


def _refuse_foreign_files(output: Path) -> None:
    """Masks of other models would count as results, and tables would be replaced."""
    for name in (_MASKS_NAME, TABLE_NAME, HISTOGRAM_NAME):
        if (output / name).exists():
            raise UserError(
                f"{output / name} exists already and is not of a cross-validation. Choose another output, or move it "
                "away.",
                ExitCode.CANNOT_WRITE,
            )


def _held_out(data: Path, digests: dict[str, str], unseen: Sequence[Case]) -> tuple[str, ...]:
    """What a fold must not learn from: the cases that judge it, and whatever is not in the plan, as it came since.

    Args:
        digests: of the cases in the plan.

    Raises:
        UserError: cases in the plan changed.
    """
    cases = find_cases(data)
    now = _digests([case for case in cases if case.name in digests])
    refuse_other_cases("cross-validation", digests, now, _OTHERWISE)
    learning = digests.keys() - {case.name for case in unseen}
    return tuple(case.name for case in cases if case.name not in learning)


def _refuse_learned(model: Path | None, voxel_hashes: dict[str, str]) -> None:
    """Refuses a model that has learned from the cases that it, or what is made of it, is to be judged by.

    Args:
        voxel_hashes: see `models.library.known_cases`.
    """
    known = known_cases(read_description(model), voxel_hashes) if model else []
    if known:
        raise UserError(
            f"{model} has learned from {list_names(known)}, and so cannot be judged by them. Choose another output, or "
            "another model to start from."
        )


def _digests(cases: Sequence[Case]) -> dict[str, str]:
    return {case.name: files_digest(case) for case in cases}


def _mask(output: Path, case: Case) -> Path:
    return output / _MASKS_NAME / f"{case.name}_prostate.nii.gz"
