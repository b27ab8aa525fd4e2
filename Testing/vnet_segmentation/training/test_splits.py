"""Every case learns or judges, never both, and every site keeps one to learn from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vnet_segmentation.datasets.dataset import Case
from vnet_segmentation.errors import UserError
from vnet_segmentation.evaluation.improvement import MIN_CASES
from vnet_segmentation.training.options import TrainingOptions, plan_training
from vnet_segmentation.training.splits import TrainingPlan

BASE = TrainingOptions(base=Path("base"))


def make_cases(splits: dict[str, str], sites: str = "") -> list[Case]:
    return [
        Case(name, Path(f"{name}.nii"), Path(f"{name}_m.nii"), sites[i : i + 1], split)
        for i, (name, split) in enumerate(splits.items())
    ]


def chosen(cases: list[Case], validation: int | tuple[str, ...] | None = None) -> tuple[str, str]:
    """Names of the training and of the validation cases."""
    plan = plan_training(cases, TrainingOptions(validation=validation))
    assert plan.n_runs == 1
    return names(plan.final.training), names(plan.final.validation)


def names(cases: list[Case]) -> str:
    return "".join(case.name for case in cases)


@pytest.mark.parametrize(("n_cases", "n_apart"), [(1, 0), (4, 0), (5, 1), (14, 2), (26, 5)])
def test_one_case_in_five_is_set_apart(n_cases: int, n_apart: int) -> None:
    training, apart = chosen(make_cases(dict.fromkeys("abcdefghijklmnopqrstuvwxyz"[:n_cases], "")))
    assert (len(training), len(apart)) == (n_cases - n_apart, n_apart)


def test_each_site_keeps_a_case_for_training() -> None:
    _, apart = chosen(make_cases(dict.fromkeys("abcdefghij", ""), sites="uuvwxyzzst"))
    # 8 sites in 10 cases: a or b, and g or h.
    assert len(apart) == 2
    assert set(apart) <= set("abgh")


@pytest.mark.parametrize(("n_cases", "n_apart"), [(5, 1), (12, 2), (25, 5)])
def test_sites_of_one_case_each_do_not_keep_a_model_from_being_judged(n_cases: int, n_apart: int) -> None:
    names_of_cases = "abcdefghijklmnopqrstuvwxy"[:n_cases]
    training, apart = chosen(make_cases(dict.fromkeys(names_of_cases, ""), sites=names_of_cases))
    assert len(apart) == n_apart
    assert sorted(training + apart) == list(names_of_cases)


def test_cases_are_set_apart_by_name() -> None:
    assert chosen(make_cases(dict.fromkeys("abcd", "")), ("d", "b")) == ("ac", "bd")
    # Against what the data set says.
    assert chosen(make_cases({"a": "validation", "b": "training", "c": ""}), ("b",)) == ("ac", "b")


def test_the_data_sets_own_split_is_kept() -> None:
    assert chosen(make_cases({"a": "validation", "b": "training", "c": "", "d": "validation"})) == ("bc", "ad")


def test_test_cases_are_not_trained_on() -> None:
    splits = dict.fromkeys("abcdefgh", "test") | dict.fromkeys("xy", "")
    assert chosen(make_cases(splits)) == ("xy", "")
    assert chosen(make_cases(splits), 1) in {("x", "y"), ("y", "x")}
    assert chosen(make_cases(splits), ("x",)) == ("y", "x")
    # Unless a test case is what one wants to see while it trains.
    assert chosen(make_cases(splits), ("a",)) == ("xy", "a")


# With a model to start from


def planned(n_cases: int, options: TrainingOptions = BASE, **splits: str) -> TrainingPlan:
    return plan_training(make_cases(dict.fromkeys("abcdefghijklmnopqrstuvwxyz"[:n_cases], "") | splits), options)


@pytest.mark.parametrize("n_cases", [2, 3, 4, 19])
def test_each_of_few_cases_is_judged_by_a_model_that_has_not_seen_it(n_cases: int) -> None:
    plan = planned(n_cases)
    assert plan.n_runs == min(3, n_cases) + 1
    assert names(plan.final.training) == "abcdefghijklmnopqrs"[:n_cases]
    assert plan.final.validation == []
    assert sorted(names(plan.judged)) == sorted("abcdefghijklmnopqrs"[:n_cases])
    for fold in plan.folds:
        assert not set(fold.training) & set(fold.validation)
        assert len(fold.training) + len(fold.validation) == n_cases


def test_of_twenty_cases_some_are_set_apart() -> None:
    plan = planned(20)
    assert plan.folds == []
    assert len(plan.judged) == len(plan.final.validation) == 4


@pytest.mark.parametrize("n_cases", range(4, 27))
def test_so_many_judge_that_a_verdict_is_possible(n_cases: int) -> None:
    cases = make_cases(dict.fromkeys("abcdefghijklmnopqrstuvwxyz"[:n_cases], ""))
    for sites in ("", "uv" * 13, "abcdefghijklmnopqrstuvwxyz"):
        of_sites = [replace(case, site=sites[i : i + 1]) for i, case in enumerate(cases)]
        assert len(plan_training(of_sites, BASE).judged) >= MIN_CASES


@pytest.mark.parametrize("options", [replace(BASE, validation=1), replace(BASE, validation=("b",))])
def test_who_chooses_validation_cases_gets_no_folds(options: TrainingOptions) -> None:
    assert planned(4, options).n_runs == 1


def test_the_data_sets_own_validation_cases_do_without_folds() -> None:
    assert names(planned(4, b="validation").judged) == "b"


def test_test_cases_are_in_no_fold() -> None:
    plan = planned(4, b="test")
    assert names(plan.final.training) == "acd"
    assert sorted(names(plan.judged)) == list("acd")


@pytest.mark.parametrize("n_cases", [5, 19, 20, 26])
@pytest.mark.parametrize("base", [None, BASE.base])
def test_a_patients_scans_judge_together(n_cases: int, base: Path | None) -> None:
    cases = make_cases(dict.fromkeys("abcdefghijklmnopqrstuvwxyz"[:n_cases], ""))
    options = replace(BASE, base=base)
    for n_scans in (2, 3, n_cases):
        plan = plan_training([replace(case, patient=str(i // n_scans)) for i, case in enumerate(cases)], options)
        for split in [*plan.folds, plan.final]:
            assert not {case.patient for case in split.training} & {case.patient for case in split.validation}
        # Of a single patient nothing can be set apart.
        assert bool(plan.judged) == (n_scans < n_cases)


def test_a_patients_scans_are_not_chosen_apart() -> None:
    cases = [replace(case, patient="7") for case in make_cases(dict.fromkeys("ab", ""))]
    cases += make_cases({"c": ""})
    with pytest.raises(UserError, match="b and a are scans of the same patient"):
        chosen(cases, ("b",))
    assert chosen(cases, ("a", "b")) == ("c", "ab")
    # The other scan may be left out.
    assert chosen(cases[1:], ("b",)) == ("c", "b")


def test_a_single_case_cannot_judge() -> None:
    plan = planned(1)
    assert (plan.n_runs, plan.judged) == (1, [])
