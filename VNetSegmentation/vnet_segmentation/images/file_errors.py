"""The sentences for files that are damaged, or that say what cannot be."""

from __future__ import annotations

from vnet_segmentation.errors import UserError


def bad_spacing(name: str, spacing: str) -> UserError:
    return UserError(
        f"The header of {name} has an impossible voxel spacing ({spacing} mm). Correct it or export the scan again."
    )


def bad_direction(name: str) -> UserError:
    return UserError(
        f"The header of {name} has axes that are not at right angles to each other, or not of length 1. "
        f"Correct its direction, or resample the scan to a straight grid."
    )


def damaged(name: str) -> UserError:
    return UserError(f"{name} is damaged or incomplete. Copy, download or export it again.")


def not_finite(name: str, n_bad: int, n_voxels: int) -> UserError:
    """`n_bad` of all voxels are NaN or infinite."""
    return UserError(
        f"{name} has voxels that are not a number or infinite ({n_bad:,} of {n_voxels:,}). "
        f"Replace them, or export the scan again."
    )


def reader_error(itk_error: RuntimeError, name: str) -> UserError:
    """The sentence for an error of ITK's readers."""
    text = str(itk_error)
    if "orthonormal" in text or "determinant is 0" in text:
        return bad_direction(name)
    if "spacing (0) invalid" in text:
        return bad_spacing(name, "0")
    if "Unable to determine ImageIO" in text:
        return UserError(
            f"{name} is no image that can be read, or it is damaged. Give a NIfTI, NRRD, MetaImage or DICOM scan."
        )
    return damaged(name)
