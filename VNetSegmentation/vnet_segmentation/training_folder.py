"""The user's own training cases: a folder that grows by a scan and its corrected mask at a time."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from vnet_segmentation.dataset import VOLUME_SUFFIXES
from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.mask_files import write_mask, write_scan
from vnet_segmentation.metrics import check_same_grid
from vnet_segmentation.scans import check_scan, scan_stem

_SUFFIX = ".nrrd"
"""Keeps every pixel type, and the geometry in full precision."""

_MASK_ENDING = "_segmentation"

_NUMBER = re.compile(r"\.?Case(\d+)", re.IGNORECASE)
"""Of a case's files, and of the hidden folder in which a new case is made."""

_GEOMETRY_TOLERANCE = 1e-4
"""In mm and in direction cosines: more than a file in single precision loses, less than any two scans differ."""

_ABANDONED_S = 24 * 3600.0
"""After so long a case is not being made any more: its process has died. It takes seconds."""


@dataclass(frozen=True)
class AddedCase:
    """A case as it lies in the folder."""

    name: str
    image: Path
    mask: Path
    replaced: bool
    """The scan was in the folder already, and its mask was replaced."""


def add_case(folder: str | os.PathLike[str], scan: sitk.Image, mask: sitk.Image) -> AddedCase:
    """Adds a scan and its mask, in the naming that `dataset.find_cases` reads.

    The name is Case and the next number: it tells nothing of the patient. The files have voxels and geometry and no
    other header field. The same scan again (equal values on the same grid, from whichever file) replaces its mask
    instead of becoming a second case, which could end up in training and validation both.

    Both files appear, whole, or neither. What a process that was killed left half done, the next addition completes.
    Several processes may add to one folder; only the same scan added twice at the same moment is not recognised.

    Args:
        folder: of the training cases; made if need be.
        scan: 3D, scalar, of any pixel type, which is kept.
        mask: 0 where there is no prostate, on the scan's grid.

    Raises:
        UserError: the mask is empty, full or not on the scan's grid, the scan is none (`scans.check_scan`), the folder
            holds a data set of another layout, or it cannot be written (`ExitCode.CANNOT_WRITE`).
    """
    folder = Path(folder)
    check_scan(scan, "The scan")
    mask = _checked_mask(mask, scan)
    if (folder / "imagesTr").is_dir():
        raise UserError(
            f"{folder} is a data set in the layout of nnU-Net (imagesTr). "
            "Choose another folder for the training cases.",
            ExitCode.USAGE,
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _repair(folder)
        volumes = _volumes(folder)
        name = next((name for name, file in volumes.items() if _holds(file, scan)), None)
        if name is None:
            return _add(folder, scan, mask)
        mask_file = volumes.get(name + _MASK_ENDING, folder / f"{name}{_MASK_ENDING}{_SUFFIX}")
        case = AddedCase(name, volumes[name], mask_file, replaced=mask_file.exists())
        write_mask(mask, case.mask)
        return case
    except OSError as error:
        raise UserError(
            f"Cannot write to {folder}: {error.strerror or error}. Choose a folder that can be written and has space.",
            ExitCode.CANNOT_WRITE,
        ) from error


def _checked_mask(mask: sitk.Image, scan: sitk.Image) -> sitk.Image:
    """The mask as uint8 of 0 and 1, with the scan's geometry to the last digit."""
    check_same_grid(mask, scan, "The mask", "the scan")
    mask = mask != 0
    voxels = sitk.GetArrayViewFromImage(mask)
    if not voxels.any():
        raise UserError("The mask is empty: there is nothing to learn from it. Draw the prostate first.")
    if voxels.all():
        raise UserError("The mask covers the whole scan. Draw the prostate alone.")
    mask.CopyInformation(scan)
    return mask


def _add(folder: Path, scan: sitk.Image, mask: sitk.Image) -> AddedCase:
    with _claimed(folder) as making:
        case = _new_case(making)
        write_scan(scan, making / case.image.name)
        write_mask(mask, making / case.mask.name)
        try:
            # A mask without its scan is a case to `find_cases`, and one that names what is missing; a scan alone is
            # none, and as the folder's first file would make it no data set.
            os.replace(making / case.mask.name, case.mask)
            _bring_scan(making)
        except BaseException:
            case.mask.unlink(missing_ok=True)
            case.image.unlink(missing_ok=True)
            raise
    return case


@contextmanager
def _claimed(folder: Path) -> Iterator[Path]:
    """A hidden folder to make a case in, named by the number that is the case's: no other process takes the same."""
    making = _claim(folder)
    try:
        yield making
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _claim(folder: Path) -> Path:
    while True:
        number = 1 + max(_numbers(folder), default=0)
        making = folder / f".Case{number:03d}"
        try:
            making.mkdir()
        except FileExistsError:
            continue
        # Since the look at the folder another process may have claimed, used and released the number.
        if _numbers(folder).count(number) == 1:
            return making
        making.rmdir()


def _numbers(folder: Path) -> list[int]:
    return [int(found[1]) for file in folder.iterdir() if (found := _NUMBER.match(file.name))]


def _new_case(making: Path) -> AddedCase:
    folder, name = making.parent, making.name.removeprefix(".")
    return AddedCase(name, folder / f"{name}{_SUFFIX}", folder / f"{name}{_MASK_ENDING}{_SUFFIX}", replaced=False)


def _bring_scan(making: Path) -> None:
    image = _new_case(making).image
    # Another process may just have taken this addition for an interrupted one, and completed it.
    with suppress(FileNotFoundError):
        os.replace(making / image.name, image)


def _repair(folder: Path) -> None:
    """Completes cases of which only the mask had appeared, and clears away those that never will."""
    for making in folder.glob(".Case*"):
        with suppress(FileNotFoundError):
            half_done = _new_case(making).mask.exists()
            if half_done:
                _bring_scan(making)
            if half_done or time.time() - making.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(making, ignore_errors=True)


def _volumes(folder: Path) -> dict[str, Path]:
    """Scans and masks by their name without the suffix, as `dataset.find_cases` sees them."""
    return {
        scan_stem(file): file
        for file in sorted(folder.iterdir())
        if file.name.lower().endswith(VOLUME_SUFFIXES) and not file.name.startswith(".")
    }


def _holds(file: Path, scan: sitk.Image) -> bool:
    """Whether a file has the scan's voxels on the scan's grid. Most files are told apart by their header."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
        return _same_grid(reader, scan) and np.array_equal(
            sitk.GetArrayViewFromImage(reader.Execute()), sitk.GetArrayViewFromImage(scan)
        )
    except RuntimeError:
        # A damaged file is no reason not to add another; `dataset.check_cases` tells of it.
        return False


def _same_grid(one: sitk.Image | sitk.ImageFileReader, other: sitk.Image) -> bool:
    if one.GetSize() != other.GetSize():
        return False
    geometry = [(*each.GetSpacing(), *each.GetOrigin(), *each.GetDirection()) for each in (one, other)]
    return np.allclose(*geometry, rtol=0, atol=_GEOMETRY_TOLERANCE)
