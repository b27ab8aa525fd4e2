"""Training cases as plain arrays, prepared once, so that training itself needs torch and numpy only."""

from __future__ import annotations

import glob
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from vnet_segmentation.arrays import to_array, to_tensor
from vnet_segmentation.atomic import atomic_path, remove_leftovers
from vnet_segmentation.datasets.dataset import Case
from vnet_segmentation.errors import UserError
from vnet_segmentation.images.apart import other_of_pair
from vnet_segmentation.images.mask_files import read_mask
from vnet_segmentation.images.masks import bounding_box
from vnet_segmentation.images.phantom import make_phantom
from vnet_segmentation.images.preprocessing import Preprocessing, grid_around, orient, prepare, smooth_for_spacing
from vnet_segmentation.images.scans import read_scan
from vnet_segmentation.training.appearance import quantiles

_FORMAT = 4
"""Raised when what is stored changes (the phantoms, too), so that older caches are not mistaken for current ones."""

_TEXT_HEADERS = (".mhd", ".nhdr")
"""These name the files with the voxels."""

_FIRST_PHANTOM = 1000
"""Seed of the first synthetic case; the others have the next ones."""

_LARGEST_FIELD_MM = 256.0
"""More of a scan, along an axis, is not stored: memory for training, and the gland is far from there."""


@dataclass(frozen=True)
class TrainingCase:
    """A case on the network's grid spacing, in its orientation, with its whole field of view.

    It stays in the main memory, about 5 bytes a voxel, whatever device trains: a data set need not fit on a GPU.
    """

    name: str
    image: Tensor
    """(depth, height, width), float32, in the scan's own unit."""
    coverage: Tensor
    """(depth, height, width), uint8: the mask's share of each voxel, in parts of 255."""
    quantiles: Tensor
    """Grey-level distribution, see `appearance.quantiles`."""
    gland_centre: Tensor
    """(x, y, z) in voxels; the volume's centre where there is no gland."""
    source: str = ""
    """Tells the files that it was made from apart from all others."""
    label: int | None = None
    """That is the prostate in them, see `dataset.Case`."""

    @staticmethod
    def from_arrays(
        name: str, image: Tensor, coverage: Tensor, source: str = "", label: int | None = None
    ) -> TrainingCase:
        """A case from its image, float32, and coverage, uint8; see the fields."""
        inside = (coverage >= 128).nonzero().float()
        centre = inside.mean(0) if len(inside) else (torch.tensor(image.shape) - 1) / 2
        return TrainingCase(name, image, coverage, quantiles(image), centre.flip(0), source, label)

    def volumes(self, device: torch.device) -> Tensor:
        """(2, depth, height, width), float32, on the device: the image, and the mask's share of each voxel, 0 to 1."""
        return torch.stack([self.image.to(device), self.coverage.to(device) / 255])


def prepare_pair(scan: sitk.Image, mask: sitk.Image, preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
    """Scan and mask on the network's grid spacing.

    Args:
        scan, mask: on one grid, any orientation.

    Returns:
        Image, float32, in the scan's unit; and the mask's share of each voxel, uint8, in parts of 255. Both (depth,
        height, width).
    """
    prepared = prepare(scan, preprocessing)
    grid = case_grid(mask, preprocessing)
    # Smoothed like the scan: of finer voxels, all that lie in a coarse one count.
    fine = smooth_for_spacing(sitk.Cast(orient(mask), sitk.sitkFloat32), preprocessing.spacing_mm)
    coverage = sitk.Resample(fine, grid, sitk.Transform(), sitk.sitkLinear, 0.0)
    # The last half voxel at the border has no neighbour to interpolate with: its nearest value is better than 0.
    interpolator = sitk.ResampleImageFilter()
    interpolator.SetReferenceImage(grid)
    interpolator.SetInterpolator(sitk.sitkLinear)
    interpolator.SetUseNearestNeighborExtrapolator(True)
    image = interpolator.Execute(prepared)
    parts = to_tensor(sitk.GetArrayFromImage(coverage)) * 255
    # The Gaussian, which is recursive, swings by a thousandth.
    return to_tensor(sitk.GetArrayFromImage(image)), parts.round().clamp(0, 255).to(torch.uint8)


def case_grid(mask: sitk.Image, preprocessing: Preprocessing) -> sitk.Image:
    """The grid that a case is kept on: the scan's whole field of view; of a longer one, 256 mm with the gland.

    Args:
        mask: on the scan's grid, any orientation.

    Returns:
        An empty image in the network's orientation and spacing.
    """
    mask = orient(mask)
    full_mm = np.multiply(mask.GetSize(), mask.GetSpacing())
    field_mm = np.minimum(full_mm, _LARGEST_FIELD_MM)
    middle = (np.array(mask.GetSize()) - 1) / 2
    box = bounding_box(sitk.Cast(mask, sitk.sitkUInt8))
    if box is not None:
        # Towards the gland as far as the field stays within the scan: where all of it is kept, not at all.
        room = (full_mm - field_mm) / 2 / mask.GetSpacing()
        middle += np.clip((box[0] + box[1]) / 2 - middle, -room, room)
    x, y, z = (max(1, math.ceil(f / s)) for f, s in zip(field_mm, preprocessing.spacing_mm, strict=True))
    point_mm = np.array(mask.TransformContinuousIndexToPhysicalPoint(middle.tolist()))
    return grid_around(mask, point_mm, preprocessing.spacing_mm, (x, y, z))


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
    remove_leftovers(cache_folder)
    return [_load_case(case, preprocessing, cache_folder, report) for case in cases]


def files_digest(case: Case) -> str:
    """Tells the contents of a case's files apart from all others, wherever they lie and whatever they are called."""
    digest = hashlib.sha256()
    for path in (case.image, case.mask):
        for file in _files_of(path):
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


class SyntheticCases(Sequence[TrainingCase]):
    """Phantoms as training cases: always the same ones, and never the demo's. Each is made when it is first asked for,
    so that no training waits for phantoms that it may never draw.

    Args:
        n_cases: how many there are.
        cache_folder: where they are stored, and taken from where they are there already; None: nowhere.

    Raises:
        UserError: when one is asked for: the cache cannot be written.
    """

    def __init__(self, n_cases: int, preprocessing: Preprocessing, cache_folder: Path | None = None) -> None:
        self._n_cases, self._preprocessing, self._folder = n_cases, preprocessing, cache_folder
        self._made: dict[int, TrainingCase] = {}

    def __len__(self) -> int:
        return self._n_cases

    def __getitem__(self, number: int) -> TrainingCase:  # type: ignore[override]  # no parts are taken
        if not 0 <= number < self._n_cases:
            raise IndexError(f"There is no synthetic case {number} of {self._n_cases}.")
        if number not in self._made:
            self._made[number] = self._make(number)
        return self._made[number]

    def _make(self, number: int) -> TrainingCase:
        seed = _FIRST_PHANTOM + number
        name = f"phantom-{seed}"

        def make() -> tuple[Tensor, Tensor]:
            return prepare_pair(*make_phantom(seed), self._preprocessing)

        if self._folder is None:
            return TrainingCase.from_arrays(name, *make())
        path = self._folder / f"{name}-{_settings_digest(self._preprocessing)}.npz"
        return TrainingCase.from_arrays(name, *_stored(path, make))


def _load_case(
    case: Case, preprocessing: Preprocessing, cache_folder: Path, report: Callable[[str], None]
) -> TrainingCase:
    def make() -> tuple[Tensor, Tensor]:
        report(case.name)
        try:
            return prepare_pair(read_scan(case.image), read_mask(case.mask, case.label), preprocessing)
        except UserError as error:
            raise UserError(f"Case {case.name}: {error}", error.exit_code) from error

    source = files_digest(case)
    settings = _settings_digest(preprocessing, case.label, source)
    arrays = _stored(cache_folder / f"{case.name}-{settings}.npz", make)
    return TrainingCase.from_arrays(case.name, *arrays, source, case.label)


def _stored(path: Path, make: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Image and coverage of an entry, which is made where it is not there."""
    arrays = _read_entry(path)
    if arrays is None:
        arrays = make()
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, image=to_array(arrays[0]), coverage=to_array(arrays[1]))
    return arrays


def _read_entry(path: Path) -> tuple[Tensor, Tensor] | None:
    """Image and coverage; None where there is no entry or it is damaged, and so has to be made."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return to_tensor(stored["image"]), to_tensor(stored["coverage"])
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None


def _settings_digest(preprocessing: Preprocessing, *others: Any) -> str:
    return hashlib.sha256(json.dumps([_FORMAT, preprocessing.as_dict(), *others]).encode()).hexdigest()[:16]


def _files_of(path: Path) -> Iterator[Path]:
    """The files that an image is made of: itself, the raw data beside a header, or the slices in a DICOM folder."""
    if path.is_dir():
        yield from sorted(file for file in path.rglob("*") if file.is_file())
    elif path.is_file():
        yield path
        beside = other_of_pair(path)
        if path.suffix.lower() in _TEXT_HEADERS:
            # "ElementDataFile = x.raw", "data file: x%03d.raw 1 32 1", or a list with a name on each line.
            lines = path.read_text("utf-8", "surrogateescape").splitlines()
            names = [re.split("[=:]", line)[-1].strip() for line in lines]
            beside = [path.parent / name for name in [*names, *_files_of_patterns(path.parent, names)]]
        # Not Path.is_file, which raises where a line is too long to be a name.
        yield from (file for file in beside if os.path.isfile(file))


def _files_of_patterns(folder: Path, names: Sequence[str]) -> Iterator[str]:
    """Files that fit those names that are patterns, whatever numbers these ask for: a slice more is no harm."""
    for name in names:
        if "%" in name:
            pattern = re.sub("%[0-9]*[diu]", "*", glob.escape(name.split()[0]))
            yield from sorted(glob.glob(pattern, root_dir=folder))
