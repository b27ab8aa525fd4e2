"""Masks against reference masks, case by case."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from vnet_segmentation.datasets.dataset import VOLUME_SUFFIXES, Case
from vnet_segmentation.errors import UserError, list_names
from vnet_segmentation.evaluation.rows import Row
from vnet_segmentation.images.apart import header_of
from vnet_segmentation.images.mask_files import read_mask
from vnet_segmentation.images.metrics import check_same_grid, compare
from vnet_segmentation.images.scans import MASK_STEMS, read_scan, scan_stem
from vnet_segmentation.paths import walk
from vnet_segmentation.segmentation.segmenter import Segmenter

_log = logging.getLogger(__name__)

_GLAND = "prostate"
"""A mask's name where its folder has the case's and other structures are beside it."""


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


def compare_results(results: Path, cases: Sequence[Case], others: Sequence[Case] = ()) -> Iterator[Row]:
    """Compares the masks in a folder with the cases' references.

    The result of a case is the file with the name of the case or of its image, as it is or with ``_prostate`` or
    ``_segmentation`` after it, in upper or lower case, in a sub-folder too. Of images with the same name, the folders
    that they and their masks are in tell which it is. Where no file is named so, a folder may be, if the masks in such
    folders have one name or one of them is "prostate". A case without one counts as a gland that was missed. Such
    cases, and masks that belong to no case, are named in warnings of this module's logger. The report beside a mask, if
    there is one, has its confidence, which says nothing of a mask that was corrected since.

    Args:
        results: folder of masks; the cases' own images and references may be in it, too.
        cases: what to evaluate; only their references are read.
        others: of the same data set; their masks are passed over.

    Raises:
        UserError: there is no such folder or it has no result for any case, a case has two results or a result two
            cases, or a result cannot be read or is not on the grid of its reference.
    """
    if not results.is_dir():
        raise UserError(f"There is no folder {results}. Give the folder with the masks to compare.")
    found = _results_by_case(results, [*cases, *others])
    if not any(case.name in found for case in cases):
        names = list_names([case.name for case in cases])
        raise UserError(
            f"{results} has no mask for {names}. Name the masks after the cases, for instance "
            f"{cases[0].name}_prostate.nii.gz."
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
    try:
        result = read_mask(file)
    except UserError:
        try:
            # One label is the prostate's, whatever the reference calls it; of several it is the same one.
            result = read_mask(file, case.label)
        except UserError as error:
            if scan_stem(file).lower() not in (case.name.lower(), scan_stem(case.image).lower()):
                raise
            sentence = f"{error} If it is the scan, take it out of the folder of the masks."
            raise UserError(sentence, error.exit_code, error.argument) from error
    check_same_grid(result, reference, str(file), str(case.mask))
    return Row(case.name, case.site, compare(result, reference), *_reported(file))


def _results_by_case(folder: Path, cases: Sequence[Case]) -> dict[str, Path]:
    given = {header_of(path).resolve() for case in cases for path in (case.image, case.mask)}
    by_path = _by_path(cases)
    volumes = [file.relative_to(folder) for file in _masks_in(folder) if file.resolve() not in given]
    scans = _scans_beside_glands(volumes, by_path)
    masks = [volume for volume in volumes if volume not in scans]
    owners = {mask: _owners(mask, by_path) for mask in masks}
    unlike: set[Path] = set()
    if not any(names for _, names in owners.values()):
        below = [mask for mask in masks if mask.parent.name]
        in_folders = {mask: owner for mask in below if (owner := _owners(mask.parent, by_path))[1]}
        owners = _called_alike(in_folders)
        unlike = in_folders.keys() - owners.keys()
    # Deeper than others lies what has the same names and is not meant: another site's masks, or earlier ones.
    depth = min((depth for depth, names in owners.values() if names), default=0)
    found: dict[str, Path] = {}
    for mask, (mask_depth, names) in owners.items():
        if not names or mask_depth > depth:
            continue
        if len(names) > 1:
            raise UserError(f"{mask} in {folder} may be of several cases, {list_names(names)}. Name it after its case.")
        if names[0] in found:
            both = f"{found[names[0]].relative_to(folder)} and {mask}"
            raise UserError(f"{names[0]} has two results in {folder}, {both}. Leave one of them there.")
        found[names[0]] = folder / mask
    taken = set(found.values())
    for reason, left_out in (
        ("masks in the folders of cases must have one name in all of them, or be called prostate", unlike),
        ("they belong to no case", set(masks) - unlike),
    ):
        extra = [str(mask) for mask in masks if mask in left_out and folder / mask not in taken]
        if extra:
            _log.warning("Left out, because %s: %s", reason, list_names(extra))
    return found


def _masks_in(folder: Path) -> Iterator[Path]:
    for directory, subfolders, files in walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        yield from (Path(directory, name) for name in sorted(files) if _is_mask_name(name))


def _by_path(cases: Sequence[Case]) -> dict[tuple[str, ...], list[str]]:
    """Names of the cases by what the path of a result, without its suffix, may end in: the case's name, or the path of
    its image from any folder on; as they are and in lower case."""
    found: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for case in cases:
        image = Path(os.path.abspath(case.image))
        path = (*image.parent.parts, scan_stem(image))
        for start in range(len(path)):
            found[path[start:]].append(case.name)
    # A case's name goes before the name of another one's image.
    found |= {(case.name,): [case.name] for case in cases}
    # What is spelt alike goes before what only capitals tell from it.
    in_lower_case: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for path, names in found.items():
        in_lower_case[_lower(path)].update(names)
    return {path: sorted(names) for path, names in in_lower_case.items()} | found


def _owners(mask: Path, by_path: dict[tuple[str, ...], list[str]]) -> tuple[int, list[str]]:
    """How many folders around a mask have to be passed over to find its case, and the names of those that fit.

    Args:
        mask: path below the folder of results.
        by_path: see `_by_path`.
    """
    # A batch keeps the scans' sub-folders: of images with one name these tell which it is.
    whole = (*mask.parent.parts, scan_stem(mask))
    for path in (whole, _lower(whole)):
        for ending in ("", *MASK_STEMS):
            named = (*path[:-1], path[-1].removesuffix(ending))
            for depth in range(len(named)):
                if names := by_path.get(named[depth:]):
                    return depth, names
    return 0, []


def _scans_beside_glands(volumes: Sequence[Path], by_path: dict[tuple[str, ...], list[str]]) -> set[Path]:
    """Of the files in folders with the names of their cases those that have the very name of the case or of its image,
    and a mask called "prostate" beside them."""
    stems = {volume: scan_stem(volume).lower() for volume in volumes if volume.parent.name}
    glands = {volume.parent for volume, stem in stems.items() if stem == _GLAND}
    return {
        volume
        for volume, stem in stems.items()
        if volume.parent in glands
        and stem != _GLAND
        and not stem.endswith(MASK_STEMS)
        and _owners(volume, by_path)[1] == _owners(volume.parent, by_path)[1] != []
    }


def _lower(path: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part.lower() for part in path)


def _called_alike(owners: dict[Path, tuple[int, list[str]]]) -> dict[Path, tuple[int, list[str]]]:
    """Of masks in folders with the names of their cases, and what `_owners` says of these folders, those to take."""
    names = {mask: scan_stem(mask).lower() for mask in owners}
    # A folder may have a mask for each organ.
    are_called_alike = len(set(names.values())) == 1
    return {mask: owner for mask, owner in owners.items() if are_called_alike or names[mask] == _GLAND}


def _is_mask_name(name: str) -> bool:
    is_volume = name.lower().endswith(VOLUME_SUFFIXES) and not name.startswith(".")
    return is_volume and not scan_stem(name).lower().endswith("_probability")


def _reported(file: Path) -> tuple[float | None, str | None]:
    """Confidence, and SHA-256 of the model's weights, by the report beside a mask."""
    # Masks from elsewhere have no report, or one of another kind.
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        report = json.loads((file.parent / f"{scan_stem(file)}.json").read_text("utf-8"))
        value = float(report["confidence"]["value"])
        return (value if 0 <= value <= 1 else None), str(report["model"]["sha256"])
    return None, None
