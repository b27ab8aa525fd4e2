"""What a model's model.json says of its training and of what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from vnet_segmentation.datasets.dataset import Case
from vnet_segmentation.evaluation.improvement import Improvement, judge
from vnet_segmentation.evaluation.rows import Row
from vnet_segmentation.evaluation.table import summarise
from vnet_segmentation.models.library import learned_scans
from vnet_segmentation.training.options import TrainingOptions
from vnet_segmentation.training.splits import Split
from vnet_segmentation.training.training_run import TrainingRun


def describe_model(
    name: str,
    run: TrainingRun,
    split: Split,
    options: TrainingOptions,
    base: dict[str, Any] | None,
    voxel_hashes: Mapping[str, str],
    n_folds: int = 0,
) -> dict[str, Any]:
    """model.json, but for what `bundle.save_bundle` fills in.

    Args:
        name: of the model.
        run: that made it of `split`.
        base: model.json of the model to start from.
        voxel_hashes: of the scans, by the cases' names, see `scans.voxel_hash`.
        n_folds: that were trained to judge it.
    """
    title = f"Prostate in T2-weighted MR: V-Net {run.learner.recipe.layout}, width {options.width}"
    if base is not None:
        title = f"{base['title']}, fine-tuned on {len(split.training)} cases"
    training = {
        "data_terms": _data_terms(options, base),
        "training_cases": _case_names(options, split.training),
        "validation_cases": _case_names(options, split.validation),
        "voxel_hashes": _learned_scans(split, base, voxel_hashes),
        "preset": options.preset_name,
        "recipe": run.learner.recipe.as_dict(),
        "iterations": run.iteration,
        "minutes": round(run.elapsed_s / 60, 1),
        "seed": options.seed,
        "device": asdict(run.learner.device),
    }
    if n_folds:
        # None are set apart, and yet cases judge it.
        del training["validation_cases"]
        training["cross_validation"] = (
            f"{n_folds} folds: each case is judged by a model that has not learned from it; iterations and minutes are "
            "those of the last run"
        )
    return {
        "name": name,
        "title": options.title or title,
        "preprocessing": run.learner.recipe.preprocessing.as_dict(),
        "labels": ["background", "prostate"],
        "training": training,
        "metrics": {},
        "parent": base and {"name": base["name"], "sha256": base["weights"]["sha256"]},
    }


def describe_metrics(
    options: TrainingOptions,
    before: Sequence[Row],
    after: Sequence[Row],
    improvement: Improvement | None,
    n_folds: int = 0,
) -> dict[str, Any]:
    """The field "metrics"; without the names of cases and sites, unless the user wants them there.

    Args:
        before, after: of the model to start from and of the new one; `after` has at least one.
        n_folds: whose models `after` is of.
    """
    if not options.names_cases:
        numbers = {row.case: f"case {number}" for number, row in enumerate(after, start=1)}
        # Sites may be hospitals' names.
        named = sorted({row.site for row in after if row.site})
        sites = {site: f"site {number}" for number, site in enumerate(named, start=1)}
        after = [replace(row, case=numbers[row.case], site=sites.get(row.site, "")) for row in after]
        before = [replace(row, case=numbers[row.case], site=sites.get(row.site, "")) for row in before]
    metrics = summarise(after)
    if n_folds:
        # Of a model on a part of the cases; the bundle's own has learned from all and cannot be judged by any.
        metrics["method"] = f"cross-validation, {n_folds} folds"
    if improvement is not None:
        metrics["parent"] = summarise(before)
        metrics["against_parent"] = improvement.as_dict()
    return metrics


def compare_rows(before: Sequence[Row], after: Sequence[Row], warnings: Sequence[str]) -> Improvement | None:
    """Whether the new model is better on the cases that both were measured on; None where there are none.

    Args:
        warnings: what a person should know of it, sentences.
    """
    dice_before = {row.case: row.comparison.whole.dice for row in before}
    pairs = [(dice_before[row.case], row.comparison.whole.dice) for row in after if row.case in dice_before]
    if not pairs:
        return None
    improvement = judge([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    return replace(improvement, sentence=" ".join([improvement.sentence, *warnings]))


def _data_terms(options: TrainingOptions, base: dict[str, Any] | None) -> str:
    """Those of the data, and those that come with the base model."""
    terms = [options.data_terms] if options.data_terms else []
    if base is not None and base["training"].get("data_terms"):
        terms.append(f"Started from {base['name']}, which learned from: {base['training']['data_terms']}")
    return " ".join(terms)


def _learned_scans(split: Split, base: dict[str, Any] | None, voxel_hashes: Mapping[str, str]) -> list[str]:
    """Hashes of the split's scans and of those of the models before, which may be gone one day."""
    own = {voxel_hashes[case.name] for case in split.training}
    # In an order that tells nothing.
    return sorted(own | (learned_scans(base) if base else set()))


def _case_names(options: TrainingOptions, cases: Sequence[Case]) -> list[str] | int:
    """The names where the user wants them in the model, else how many there are."""
    return [case.name for case in cases] if options.names_cases else len(cases)
