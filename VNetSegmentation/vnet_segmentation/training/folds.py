"""Cases dealt out, from every site: into training and validation, and into folds."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

from vnet_segmentation.datasets.dataset import Case
from vnet_segmentation.errors import ExitCode, UserError, list_names
from vnet_segmentation.evaluation.improvement import MIN_CASES

VALIDATION_SHARE = 5
"""One case in so many is set apart for validation unless the user says otherwise."""
_FEW_CASES = VALIDATION_SHARE * MIN_CASES
"""Of fewer, that share is too small to judge a model by."""
_N_FOLDS_OF_FEW = 3


def split_by_site(cases: Sequence[Case], n_validation: int, seed: int) -> tuple[list[Case], list[Case]]:
    """Training and validation cases, the latter drawn from every site in proportion to its patients.

    Every site stays in training; every site is in validation too, as far as `n_validation` and the site's patients
    reach. A patient's cases stay together. Where the data set itself names validation cases, they are taken instead.
    Test cases are in neither.

    Args:
        n_validation: how many cases to set apart; it can be some more, as the last patient's all are.
        seed: the same seed draws the same cases, whatever their order.

    Returns:
        (training, validation), each in the order of `cases`.

    Raises:
        UserError: there are not as many cases to set apart, or nothing is left to train on; a patient's cases are in
            both parts by the data set's own names.
    """
    cases = [case for case in cases if case.split != "test"]
    chosen = {case.name for case in cases if case.split == "validation"}
    if not chosen:
        line = _line_by_share(cases, seed)
        most = sum(map(len, line))
        if not 0 <= n_validation <= most:
            raise UserError(
                f"{n_validation} of {len(cases)} cases cannot be set apart for validation. At most {most} can: "
                "one patient is kept to learn from, or one of each site.",
                ExitCode.USAGE,
            )
        for patient in line:
            if len(chosen) < n_validation:
                chosen.update(case.name for case in patient)
    training = [case for case in cases if case.name not in chosen]
    validation = [case for case in cases if case.name in chosen]
    if not training:
        raise UserError("The data set has no case to train on: all are set apart for validation or test.")
    _refuse_shared_patients(training, validation)
    return training, validation


def n_separable(cases: Sequence[Case], seed: int) -> int:
    """The most cases that `split_by_site` can set apart."""
    return sum(map(len, _line_by_share(cases, seed)))


def folds_of_few(cases: Sequence[Case]) -> int:
    """How many folds cross-validate cases that are too few to set any apart; 0 if they are not, or of one patient."""
    n_patients = sum(map(len, _patients_by_site(cases)))
    return min(_N_FOLDS_OF_FEW, n_patients) if len(cases) < _FEW_CASES and n_patients > 1 else 0


def folds(cases: Sequence[Case], n_folds: int, seed: int) -> list[tuple[list[Case], list[Case]]]:
    """Training and validation cases of a cross-validation.

    Every case but the test cases is in the validation part of one fold, a patient's cases in that of the same one.
    Sites with at least `n_folds` patients are in every validation part; where no patient has several cases, the folds'
    sizes differ by one case at most.

    Args:
        n_folds: 2 or more.
        seed: the same seed gives the same folds, whatever the order of the cases.

    Returns:
        (training, validation) for each fold, in the order of `cases`.

    Raises:
        UserError: fewer than two folds, or more folds than patients.
    """
    cases = [case for case in cases if case.split != "test"]
    sites = _shuffled_by_site(cases, seed)
    n_patients = sum(map(len, sites))
    if not 2 <= n_folds <= n_patients:
        of_patients = "" if n_patients == len(cases) else f" of {n_patients} patients"
        raise UserError(
            f"{len(cases)} cases{of_patients} cannot be split into {n_folds} folds. Ask for 2 to {n_patients}.",
            ExitCode.USAGE,
        )
    fold_of: dict[str, int] = {}
    sizes = [0] * n_folds
    for site in sites:
        # Dealt out like cards, to whoever has the fewest of the site's patients, and of them the fewest cases.
        n_of_site = [0] * n_folds
        for patient in site:
            *_, fold = min(zip(n_of_site, sizes, range(n_folds), strict=True))
            n_of_site[fold] += 1
            sizes[fold] += len(patient)
            fold_of.update((case.name, fold) for case in patient)
    return [
        (
            [case for case in cases if fold_of[case.name] != fold],
            [case for case in cases if fold_of[case.name] == fold],
        )
        for fold in range(n_folds)
    ]


def site_folds(cases: Sequence[Case]) -> list[tuple[list[Case], list[Case]]]:
    """As `folds`, but each fold's validation cases are those of one site; sites in the order of their names.

    Raises:
        UserError: all cases are of one site, a case is of none, or a patient of two.
    """
    cases = [case for case in cases if case.split != "test"]
    sites = sorted({case.site for case in cases})
    if len(sites) < 2:
        raise UserError("The data set does not name two sites. Name them in cases.csv or in the column site.")
    unknown = [case.name for case in cases if not case.site]
    if unknown:
        # It may be of any site, the one that is left out, too.
        raise UserError(f"The data set names no site for {list_names(unknown)}. Name it, or leave the case out.")
    parts = [
        ([case for case in cases if case.site != site], [case for case in cases if case.site == site]) for site in sites
    ]
    for training, validation in parts:
        _refuse_shared_patients(training, validation)
    return parts


def _refuse_shared_patients(training: Sequence[Case], validation: Sequence[Case]) -> None:
    learned = {case.patient: case for case in training if case.patient}
    for case in validation:
        if case.patient in learned:
            raise UserError(
                f"{case.name} and {learned[case.patient].name} are scans of the same patient: a model cannot learn "
                "from one and be judged by the other. Use both for the same, or leave one out."
            )


def _line_by_share(cases: Sequence[Case], seed: int) -> list[list[Case]]:
    """Patients that can be set apart: any beginning of the line has every site by its share, and each keeps one."""
    # The r-th of a site's n patients stands at r / n.
    line = [
        (rank / len(site), -len(site), patient[0].site, patient[0].name, patient)
        for site in _shuffled_by_site(cases, seed)
        for rank, patient in enumerate(site[:-1])
    ]
    return [patient for *_, patient in sorted(line, key=lambda entry: entry[:-1])]


def _patients_by_site(cases: Sequence[Case]) -> list[list[list[Case]]]:
    """For each site, in the order of their names, its patients, each with all cases. A patient of several sites is one
    of the first."""
    patients: dict[tuple[str, str], list[Case]] = defaultdict(list)
    for case in sorted(cases, key=lambda case: (case.site, case.name)):
        patients[case.patient, "" if case.patient else case.name].append(case)
    by_site: dict[str, list[list[Case]]] = defaultdict(list)
    for patient in patients.values():
        by_site[patient[0].site].append(patient)
    return list(by_site.values())


def _shuffled_by_site(cases: Sequence[Case], seed: int) -> list[list[list[Case]]]:
    # random.random() is the one method whose numbers Python promises to keep between versions.
    generator = random.Random(seed)
    return [sorted(site, key=lambda _: generator.random()) for site in _patients_by_site(cases)]
