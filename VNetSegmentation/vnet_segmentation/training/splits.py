"""The runs of a training: which cases each learns from, and which judge it. Needs no torch: the panel asks, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vnet_segmentation.datasets.dataset import Case, check_names
from vnet_segmentation.evaluation.improvement import MIN_CASES
from vnet_segmentation.training.folds import VALIDATION_SHARE, folds, folds_of_few, n_separable, split_by_site


@dataclass(frozen=True)
class Split:
    """Cases to learn from, and cases to judge by."""

    training: list[Case]
    validation: list[Case]


@dataclass(frozen=True)
class TrainingPlan:
    """The runs of a training: those that only judge, one per fold, and the one that makes the model."""

    folds: list[Split]
    final: Split

    @property
    def n_runs(self) -> int:
        return len(self.folds) + 1

    @property
    def judged(self) -> list[Case]:
        """The cases that the model is judged by."""
        return [case for fold in self.folds for case in fold.validation] or self.final.validation


def split_cases(
    cases: Sequence[Case], validation: int | tuple[str, ...] | None, has_base: bool, seed: int = 0
) -> TrainingPlan:
    """Splits the cases. Test cases are in no part, unless they are chosen by name.

    Args:
        validation: see `training.options.TrainingOptions`.
        has_base: the training starts from a model.

    Raises:
        UserError: a name that no case has, too many cases set apart, none left to learn from, or cases of one patient
            to learn from and to judge by.
    """
    has_split = any(case.split == "validation" for case in cases)
    usable = [case for case in cases if case.split != "test"]
    n_folds = folds_of_few(usable)
    sets_none_apart = validation == () or (validation is None and not has_split)
    # Each case is needed both to learn from and to judge by.
    if has_base and sets_none_apart and n_folds:
        return TrainingPlan([Split(*part) for part in folds(usable, n_folds, seed)], Split(usable, []))
    if isinstance(validation, tuple):
        return TrainingPlan([], _by_name(cases, validation, seed))
    if validation is not None:
        return TrainingPlan([], Split(*split_by_site(cases, validation, seed)))
    return TrainingPlan([], _one_in_five(cases, seed))


def _by_name(cases: Sequence[Case], names: Sequence[str], seed: int) -> Split:
    check_names(names, cases)
    asked = [replace(case, split="validation" if case.name in names else "training") for case in cases]
    tests = {case.name for case in cases if case.split == "test"} - set(names)
    return Split(*split_by_site([case for case in asked if case.name not in tests], 0, seed))


def _one_in_five(cases: Sequence[Case], seed: int) -> Split:
    usable = [case for case in cases if case.split != "test"]
    wanted = len(usable) // VALIDATION_SHARE
    most = n_separable(usable, seed)
    if most >= min(wanted, MIN_CASES):
        return Split(*split_by_site(usable, min(wanted, most), seed))
    # Nearly every case has a site of its own: rather a site that is not learned from than a model that nothing judges.
    of_one_site = [replace(case, site="") for case in usable]
    _, apart = split_by_site(of_one_site, min(wanted, n_separable(of_one_site, seed)), seed)
    names = {case.name for case in apart}
    return Split([case for case in usable if case.name not in names], [case for case in usable if case.name in names])
