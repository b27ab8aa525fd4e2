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
    """Training and validation cases, the latter drawn from every site in proportion to its cases.

    Every site stays in training; every site is in validation too, as far as `n_validation` and the site's cases
    reach. Where the data set itself names validation cases, they are taken instead. Test cases are in neither.

    Args:
        n_validation: how many cases to set apart.
        seed: the same seed draws the same cases, whatever their order.

    Returns:
        (training, validation), each in the order of `cases`.

    Raises:
        UserError: there are not as many cases to set apart, or nothing is left to train on.
    """
    cases = [case for case in cases if case.split != "test"]
    chosen = {case.name for case in cases if case.split == "validation"}
    if not chosen:
        by_site = _shuffled_by_site(cases, seed)
        # The r-th of a site's n cases stands at r / n: any beginning of the line has every site by its share.
        line = sorted(
            (rank / len(site), -len(site), case.site, case.name)
            for site in by_site
            for rank, case in enumerate(site[:-1])
        )
        if not 0 <= n_validation <= len(line):
            raise UserError(
                f"{n_validation} of {len(cases)} cases cannot be set apart for validation. At most {len(line)} can: "
                "one is kept to learn from, or one of each site.",
                ExitCode.USAGE,
            )
        chosen = {name for *_, name in line[:n_validation]}
    training = [case for case in cases if case.name not in chosen]
    if not training:
        raise UserError("The data set has no case to train on: all are set apart for validation or test.")
    return training, [case for case in cases if case.name in chosen]


def folds_of_few(n_cases: int) -> int:
    """How many folds cross-validate cases that are too few to set any apart; 0 if they are not, or a single one."""
    return min(_N_FOLDS_OF_FEW, n_cases) if 1 < n_cases < _FEW_CASES else 0


def folds(cases: Sequence[Case], n_folds: int, seed: int) -> list[tuple[list[Case], list[Case]]]:
    """Training and validation cases of a cross-validation.

    Every case but the test cases is in the validation part of one fold. Sites with at least `n_folds` cases are in
    every validation part; the folds' sizes differ by one case at most.

    Args:
        n_folds: 2 or more.
        seed: the same seed gives the same folds, whatever the order of the cases.

    Returns:
        (training, validation) for each fold, in the order of `cases`.

    Raises:
        UserError: fewer than two folds, or more folds than cases.
    """
    cases = [case for case in cases if case.split != "test"]
    if not 2 <= n_folds <= len(cases):
        raise UserError(
            f"{len(cases)} cases cannot be split into {n_folds} folds. Ask for 2 to {len(cases)}.", ExitCode.USAGE
        )
    # Dealt out like cards, site after site: n neighbours in the line fall into n different folds.
    line = [case.name for site in _shuffled_by_site(cases, seed) for case in site]
    fold_of = {name: place % n_folds for place, name in enumerate(line)}
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
        UserError: all cases are of one site, or a case is of none.
    """
    cases = [case for case in cases if case.split != "test"]
    sites = [site[0].site for site in _by_site(cases)]
    if len(sites) < 2:
        raise UserError("The data set does not name two sites. Name them in cases.csv or in the column site.")
    unknown = [case.name for case in cases if not case.site]
    if unknown:
        # It may be of any site, the one that is left out, too.
        raise UserError(f"The data set names no site for {list_names(unknown)}. Name it, or leave the case out.")
    return [
        ([case for case in cases if case.site != site], [case for case in cases if case.site == site]) for site in sites
    ]


def _by_site(cases: Sequence[Case]) -> list[list[Case]]:
    """Sites, and their cases, in the order of their names."""
    by_site: dict[str, list[Case]] = defaultdict(list)
    for case in sorted(cases, key=lambda case: (case.site, case.name)):
        by_site[case.site].append(case)
    return list(by_site.values())


def _shuffled_by_site(cases: Sequence[Case], seed: int) -> list[list[Case]]:
    # random.random() is the one method whose numbers Python promises to keep between versions.
    generator = random.Random(seed)
    return [sorted(site, key=lambda _: generator.random()) for site in _by_site(cases)]
