"""Training cases as plain arrays, prepared once, so that training itself needs torch and numpy only."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from vnet_segmentation.appearance import quantiles
from vnet_segmentation.atomic import atomic_path
from vnet_segmentation.dataset import Case
from vnet_segmentation.errors import UserError
from vnet_segmentation.mask_files import read_mask
from vnet_segmentation.phantom import make_phantom
from vnet_segmentation.preprocessing import Preprocessing, centre_mm, grid_around, orient, prepare
from vnet_segmentation.scans import read_scan

_FORMAT = 1
"""Raised when what is stored changes, so that older caches are not mistaken for current ones."""

_LARGEST_FIELD_MM = 256.0
"""What lies further out than half of this is not stored: memory for training, and no prostate is there."""


@dataclass(frozen=True)
class TrainingCase:
    """A case on the network's grid spacing, in its orientation, with its whole field of view."""

    name: str
    site: str
    volumes: Tensor
    """(2, depth, height, width), float32: the image in its own unit, and the mask's share of each voxel, 0 to 1."""
    quantiles: Tensor
    """Grey-level distribution, see `appearance.quantiles`."""
    gland_centre: Tensor
    """(x, y, z) in voxels; the volume's centre where there is no gland."""

    @staticmethod
    def from_arrays(name: str, site: str, image: Tensor, mask: Tensor) -> TrainingCase:
        volumes = torch.stack([image.float(), mask.float()])
        inside = (volumes[1] >= 0.5).nonzero().float()
        centre = inside.mean(0) if len(inside) else (torch.tensor(image.shape) - 1) / 2
        return TrainingCase(name, site, volumes, quantiles(volumes[0]), centre.flip(0))

    def to(self, device: torch.device) -> TrainingCase:
        return TrainingCase(self.name, self.site, self.volumes.to(device), self.quantiles.to(device), self.gland_centre)


def prepare_pair(scan: sitk.Image, mask: sitk.Image, preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
    """Scan and mask on the network's grid spacing.

    Args:
        scan, mask: on one grid, any orientation.

    Returns:
        Image, float32, and mask coverage in [0, 1], float32, both (depth, height, width).
    """
    prepared = prepare(scan, preprocessing)
    field_mm = [min(n * s, _LARGEST_FIELD_MM) for n, s in zip(prepared.GetSize(), prepared.GetSpacing(), strict=True)]
    x, y, z = (max(1, math.ceil(f / s)) for f, s in zip(field_mm, preprocessing.spacing_mm, strict=True))
    grid = grid_around(prepared, centre_mm(prepared), preprocessing.spacing_mm, (x, y, z))
    coverage = sitk.Resample(sitk.Cast(orient(mask), sitk.sitkFloat32), grid, sitk.Transform(), sitk.sitkLinear, 0.0)
    # The last half voxel at the border has no neighbour to interpolate with: its nearest value is better than 0.
    interpolator = sitk.ResampleImageFilter()
    interpolator.SetReferenceImage(grid)
    interpolator.SetInterpolator(sitk.sitkLinear)
    interpolator.SetUseNearestNeighborExtrapolator(True)
    image = interpolator.Execute(prepared)
    return torch.from_numpy(sitk.GetArrayFromImage(image)), torch.from_numpy(sitk.GetArrayFromImage(coverage))


def load_cases(
    cases: Sequence[Case],
    preprocessing: Preprocessing,
    cache_folder: Path,
    report: Callable[[str], None] = lambda _: None,
) -> list[TrainingCase]:
    """Prepared cases, from the cache where they are there already.

    An entry is used again only for the same file contents and settings.

    Args:
        report: is told the name of each case that has to be prepared.

    Raises:
        UserError: a scan or mask cannot be used, or the cache cannot be written.
    """
    return [_load_case(case, preprocessing, cache_folder, report) for case in cases]


def make_synthetic_cases(n_cases: int, preprocessing: Preprocessing) -> list[TrainingCase]:
    """Phantoms as training cases. Their seeds start at 1000, so that the demo's is not among them."""
    made = []
    for seed in range(1000, 1000 + n_cases):
        image, mask = prepare_pair(*make_phantom(seed), preprocessing)
        made.append(TrainingCase.from_arrays(f"phantom-{seed}", "synthetic", image, mask))
    return made


def _load_case(
    case: Case, preprocessing: Preprocessing, cache_folder: Path, report: Callable[[str], None]
) -> TrainingCase:
    path = cache_folder / f"{case.name}-{_fingerprint(case, preprocessing)}.npz"
    if path.is_file():
        try:
            with np.load(path, allow_pickle=False) as stored:
                image, mask = torch.from_numpy(stored["image"]), torch.from_numpy(stored["mask"])
            return TrainingCase.from_arrays(case.name, case.site, image, mask.float() / 255)
        except (ValueError, OSError, KeyError, EOFError):
            path.unlink()  # damaged: it is made anew below
    report(case.name)
    try:
        image, coverage = prepare_pair(read_scan(case.image), read_mask(case.mask), preprocessing)
    except UserError as error:
        raise UserError(f"Case {case.name}: {error}", error.exit_code) from error
    mask = (coverage * 255).round().to(torch.uint8)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, image=image.numpy(), mask=mask.numpy())
    return TrainingCase.from_arrays(case.name, case.site, image, mask.float() / 255)


def _fingerprint(case: Case, preprocessing: Preprocessing) -> str:
    digest = hashlib.sha256(json.dumps([_FORMAT, preprocessing.as_dict()]).encode())
    for path in (case.image, case.mask):
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()[:16]
