"""What is wrong with the cases of a data set: every pair is read, and all faults are listed, not only the first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk

from vnet_segmentation.datasets.dataset import Case
from vnet_segmentation.errors import UserError
from vnet_segmentation.images.mask_files import read_mask
from vnet_segmentation.images.masks import part_sizes
from vnet_segmentation.images.metrics import check_same_grid
from vnet_segmentation.images.scans import read_scan, voxel_hash

_MIN_GLAND_ML = 0.1
"""A smaller mask is a slip of the hand: glands have 10 ml and more."""
_MAX_STRAY_SHARE = 0.1
"""Of the largest part; stray voxels at a gland's border are far fewer."""


@dataclass(frozen=True)
class Inspection:
    """What reading a case has shown."""

    case: Case
    problems: list[str]
    """A sentence for each thing that is wrong, with the file's name; empty if the case can be used."""
    volume_ml: float | None
    """Of the gland; None if the mask cannot be read."""
    voxel_hash: str
    """Of the scan, see `scans.voxel_hash`; empty if it cannot be read."""
    argument: str | None = None
    """See `UserError`."""


def inspect_cases(cases: Iterable[Case], for_training: bool = True) -> Iterator[Inspection]:
    """Reads one pair after another and finds all that is wrong with each: files missing or unfit, an empty mask, one
    that is too small or in two parts, several labels, other geometry, the scan of an earlier case (it could be trained
    on and validated with).

    Args:
        for_training: False allows what only a training cannot use: a mask whose extent is no gland's, and the same
            scan in several cases, as where two readers drew it.
    """
    first: dict[str, str] = {}
    for case in cases:
        found = _inspect(case, for_training)
        name = first.setdefault(found.voxel_hash, case.name) if found.voxel_hash else case.name
        if for_training and name != case.name:
            found.problems.append(f"{case.image.name} is the same scan as that of {name}. Remove one of the two cases.")
        yield found


def refuse_problems(cases: Iterable[Case], for_training: bool = True) -> dict[str, str]:
    """Reads every pair and refuses what cannot be used.

    Returns:
        `scans.voxel_hash` of each case's scan, by the case's name: it is known from the check.

    Raises:
        UserError: with all problems of all cases, see `inspect_cases`.
    """
    inspected = list(inspect_cases(cases, for_training))
    unfit = [found for found in inspected if found.problems]
    if unfit:
        have = "A case has a problem" if len(unfit) == 1 else f"{len(unfit)} cases have problems"
        lines = [f"  {found.case.name}: {problem}" for found in unfit for problem in found.problems]
        argument = next((found.argument for found in unfit if found.argument), None)
        raise UserError("\n".join([f"{have}; mend or remove what is listed:", *lines]), argument=argument)
    return {found.case.name: found.voxel_hash for found in inspected}


def _inspect(case: Case, for_training: bool) -> Inspection:
    scan = _read(case.image, read_scan)
    mask = _read(case.mask, lambda file: read_mask(file, case.label))
    refused = [read for read in (scan, mask) if isinstance(read, UserError)]
    problems = [str(error) for error in refused]
    if isinstance(mask, sitk.Image):
        found = [_extent_problem(case, mask) if for_training else None]
        if isinstance(scan, sitk.Image):
            found.append(_geometry_problem(case, scan, mask))
        problems += filter(None, found)
    return Inspection(
        case,
        problems,
        _volume_ml(mask) if isinstance(mask, sitk.Image) else None,
        voxel_hash(scan) if isinstance(scan, sitk.Image) else "",
        next((error.argument for error in refused if error.argument), None),
    )


def _read(file: Path, reader: Callable[[Path], sitk.Image]) -> sitk.Image | UserError:
    """The image, or what is wrong with the file."""
    if not file.exists():
        return UserError(f"{file.name} is missing in {file.parent}.")
    try:
        return reader(file)
    except UserError as error:
        return error


def _extent_problem(case: Case, mask: sitk.Image) -> str | None:
    voxels = sitk.GetArrayViewFromImage(mask)
    if not voxels.any():
        return f"{case.mask.name} is empty: no voxel belongs to the prostate. Draw the gland, or leave the case out."
    if voxels.all():
        return f"{case.mask.name} covers the whole image. Draw the gland, or leave the case out."
    volume_ml = _volume_ml(mask)
    if volume_ml < _MIN_GLAND_ML:
        return f"{case.mask.name} has {volume_ml:.2g} ml: too little for a gland. Draw it, or leave the case out."
    largest, second, *_ = [*part_sizes(mask), 0]
    # One of several labels may be a zone, which lies in parts.
    if not case.label and second > _MAX_STRAY_SHARE * largest:
        return (
            f"{case.mask.name} has a second part, of {second / largest:.0%} of the largest one. Remove what is not "
            "prostate, or join the parts."
        )
    return None


def _volume_ml(mask: sitk.Image) -> float:
    return int(sitk.GetArrayViewFromImage(mask).sum()) * math.prod(mask.GetSpacing()) / 1000


def _geometry_problem(case: Case, scan: sitk.Image, mask: sitk.Image) -> str | None:
    try:
        check_same_grid(mask, scan, case.mask.name, case.image.name)
    except UserError as error:
        return str(error)
    return None
