"""Writing masks and other volumes, and reading reference masks.

A ``.seg.nrrd`` is a NRRD file whose header tells 3D Slicer which segment each label is; the fields are those that
Slicer's vtkMRMLSegmentationStorageNode reads and writes.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from vnet_segmentation.atomic import atomic_path, check_writable
from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.images.scans import MASK_SUFFIX, read_volume

WRITABLE_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")

_SEGMENT_PRESET = Path(__file__).parent / "prostate_segment.json"


def check_output_path(path: str | os.PathLike[str], *, segmentation: bool = True) -> None:
    """Fails before any work is done where a volume could not be written afterwards; writes nothing.

    Args:
        path: file to write.
        segmentation: whether ``.seg.nrrd`` is allowed, as it is for a mask.

    Raises:
        UserError: the suffix is none of `WRITABLE_SUFFIXES` (`ExitCode.USAGE`), or the place cannot be written
            (`ExitCode.CANNOT_WRITE`).
    """
    path = Path(path)
    check_suffix(path.name or str(path), segmentation=segmentation)
    check_writable(path)


def check_suffix(name: str, *, segmentation: bool = True) -> None:
    """Raises `UserError` (`ExitCode.USAGE`) unless a volume can be written under such a name, in either case."""
    lower = name.lower()
    if not lower.endswith(WRITABLE_SUFFIXES) or (lower.endswith(MASK_SUFFIX) and not segmentation):
        suffixes = ", ".join((MASK_SUFFIX,) * segmentation + WRITABLE_SUFFIXES)
        why = " A .mhd is two files, which cannot appear at once; .mha is the same in one." * lower.endswith(".mhd")
        raise UserError(f"Cannot write {name}: its name must end in one of {suffixes}.{why}", ExitCode.USAGE)


def write_mask(mask: sitk.Image, path: str | os.PathLike[str]) -> None:
    """Writes a mask, compressed, under its final name only when it is whole.

    Args:
        mask: 3D image, uint8, 0 and 1.
        path: file to write; ``.seg.nrrd`` becomes a Slicer segmentation with one segment, the prostate.

    Raises:
        UserError: see `check_output_path`; or the disk is full.
        ValueError: the mask is not uint8.
    """
    if mask.GetPixelID() != sitk.sitkUInt8:
        raise ValueError(f"A mask is uint8, this one is {mask.GetPixelIDTypeAsString()}.")
    check_output_path(path)
    _write(mask, Path(path), _segmentation_header(mask) if Path(path).name.lower().endswith(MASK_SUFFIX) else {})


def write_probability(probability: sitk.Image, path: str | os.PathLike[str]) -> None:
    """Writes a probability volume, compressed, under its final name only when it is whole.

    Args:
        probability: 3D image, float32, in [0, 1].
        path: file to write, of `WRITABLE_SUFFIXES`; a ``.seg.nrrd`` cannot hold it.

    Raises:
        UserError: see `check_output_path`; or the disk is full.
    """
    check_output_path(path, segmentation=False)
    _write(probability, Path(path), {})


def write_scan(scan: sitk.Image, path: str | os.PathLike[str]) -> None:
    """Writes a scan, compressed and in its own pixel type, with no header fields but the geometry.

    Args:
        scan: 3D image.
        path: file to write, of `WRITABLE_SUFFIXES`.

    Raises:
        UserError: see `check_output_path`; or the disk is full.
    """
    check_output_path(path, segmentation=False)
    _write(scan, Path(path), {})


def read_mask(path: str | os.PathLike[str], label: int | None = None) -> sitk.Image:
    """Reads a reference mask.

    Args:
        path: file with labels above 0 on a background of 0; an empty mask is allowed.
        label: which of them is the prostate; 0: all together are; None: there must be no more than one.

    Returns:
        3D image, uint8, 0 and 1.

    Raises:
        UserError: see `scans.read_volume`; or several labels of which none was chosen, not the chosen one, or values
            that are not whole numbers.
    """
    image = read_volume(path)
    name = Path(path).name
    voxels = sitk.GetArrayViewFromImage(image)
    labels = np.unique(voxels)
    labels = labels[labels != 0]
    # A NaN is unequal to itself and so is refused, too.
    if not np.array_equal(labels, np.abs(np.round(labels))):
        raise UserError(f"{name} is not a mask: it has values that are negative or not whole. Give a mask of 0 and 1.")
    named = ", ".join(f"{label:g}" for label in labels[:8]) + ", ..." * (labels.size > 8)
    if label and labels.size and label not in labels:
        raise UserError(f"{name} has no label {label}; it has {named}. Choose one of these.")
    if label:
        return image == label
    if labels.size > 1 and label is None:
        sentence = f"{name} has {labels.size} labels ({named}). Choose the label of the prostate."
        raise UserError(sentence, argument="label")
    return image != 0


def _write(image: sitk.Image, path: Path, header: dict[str, str]) -> None:
    """Writes the image with these header fields only: a scan's own may name the patient."""
    bare = sitk.Image(image)
    for key in bare.GetMetaDataKeys():
        bare.EraseMetaData(key)
    for key, value in header.items():
        bare.SetMetaData(key, value)
    with atomic_path(path) as temporary:
        try:
            sitk.WriteImage(bare, str(temporary), useCompression=True)
            # On a full disk ITK's NIfTI writer stops early and says nothing; a file that is too short is not read.
            read_volume(temporary)
        except (RuntimeError, UserError) as error:
            raise UserError(
                f"Cannot write {path}: the disk may be full. Choose a folder that can be written and has space.",
                ExitCode.CANNOT_WRITE,
            ) from error


def _segmentation_header(mask: sitk.Image) -> dict[str, str]:
    """Slicer's header fields for a segmentation with one segment, on the mask's own grid."""
    preset = json.loads(_SEGMENT_PRESET.read_text(encoding="utf-8"))
    extent = " ".join(f"0 {n - 1}" for n in mask.GetSize())
    segment = {
        "ID": preset["id"],
        "Name": preset["name"],
        "Color": " ".join(f"{channel / 255:.6g}" for channel in preset["color_rgb"]),
        "LabelValue": "1",
        "Layer": "0",
        "Extent": extent,
        "NameAutoGenerated": "0",
        "ColorAutoGenerated": "0",
        "Tags": f"TerminologyEntry:{preset['terminology']}|",
    }
    return {f"Segment0_{field}": value for field, value in segment.items()} | {
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
        # With it Slicer edits the segment on the whole scan's grid, not only where the gland is.
        "Segmentation_ConversionParameters": f"Reference image geometry|{_ras_geometry(mask)}|&",
    }


def _ras_geometry(image: sitk.Image) -> str:
    """Slicer's text for a grid: the 16 entries of the matrix from (i, j, k) to RAS in mm, then the extent."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    # LPS to RAS: the first two world axes point the other way.
    matrix[:2] *= -1
    extent = [bound for n in image.GetSize() for bound in (0, n - 1)]
    return "".join(f"{value:.17g};" for value in [*matrix.ravel(), *extent])
