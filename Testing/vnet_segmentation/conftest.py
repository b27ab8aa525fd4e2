"""A model that needs no training: it takes what is bright for the prostate."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from untrained_model import save_untrained_model

from vnet_segmentation.batch.tables import TABLE_NAME
from vnet_segmentation.device import choose_device
from vnet_segmentation.images.preprocessing import Preprocessing
from vnet_segmentation.segmentation.inference import Predictor
from vnet_segmentation.segmentation.segmenter import Segmenter


@pytest.fixture
def tiny_model(tmp_path: Path) -> Path:
    """Bundle of an untrained network of width 1 that sees 64 x 64 x 72 mm."""
    return save_untrained_model(tmp_path / "models" / "tiny", "paper", preprocessing=Preprocessing(size=(64, 64, 48)))


@pytest.fixture
def sees_bright(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network answers with the voxels that are bright, and bright on the average around them: a ball, not noise."""

    def probability(predictor: Predictor, crop: torch.Tensor) -> torch.Tensor:
        # The mean of 5 x 5 x 5 voxels, as avg_pool3d gives it, but far sooner.
        around = torch.nn.functional.pad(crop, [2] * 6)
        for axis, n in enumerate(crop.shape):
            around = sum(around.narrow(axis, first, n) for first in range(5)) / 5
        return torch.sigmoid(4 * (crop - 1)) * (around > 1.2)

    monkeypatch.setattr(Predictor, "probability", probability)


def bright_ball(
    centre_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
    radius_mm: float = 16.0,
    size: tuple[int, int, int] = (80, 80, 24),
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 3.0),
    brightness: float = 300.0,
) -> tuple[sitk.Image, sitk.Image]:
    """A noisy scan around the origin with one bright ball, and the ball's mask."""
    scan = sitk.Image(list(size), sitk.sitkFloat32)
    scan.SetSpacing(spacing_mm)
    scan.SetOrigin([-(n - 1) / 2 * s for n, s in zip(size, spacing_mm, strict=True)])
    z, y, x = np.meshgrid(
        *(np.arange(n) * s + o for n, s, o in zip(size[::-1], spacing_mm[::-1], scan.GetOrigin()[::-1], strict=True)),
        indexing="ij",
    )
    distance = np.sqrt((x - centre_mm[0]) ** 2 + (y - centre_mm[1]) ** 2 + (z - centre_mm[2]) ** 2)
    ball = distance <= radius_mm
    noise = np.random.default_rng(0).normal(100, 10, ball.shape)
    image = sitk.GetImageFromArray((noise + (brightness - 100) * ball).astype(np.float32))
    mask = sitk.GetImageFromArray(ball.astype(np.uint8))
    image.CopyInformation(scan)
    mask.CopyInformation(scan)
    return image, mask


@pytest.fixture(name="bright_ball")
def _bright_ball():
    return bright_ball


@pytest.fixture
def segmenter(tiny_model: Path, sees_bright: None) -> Segmenter:
    """Segments what is bright."""
    return Segmenter(tiny_model, choose_device("cpu", "float32"))


@pytest.fixture
def scans(tmp_path: Path, bright_ball: Any) -> Path:
    """Two scans, one of them in a sub-folder, and a damaged one."""
    folder = tmp_path / "scans"
    (folder / "größer").mkdir(parents=True)
    scan, _ = bright_ball()
    sitk.WriteImage(scan, str(folder / "a.nii.gz"))
    sitk.WriteImage(scan, str(folder / "größer" / "b.nrrd"))
    (folder / "damaged.nrrd").write_bytes((folder / "größer" / "b.nrrd").read_bytes()[:4000])
    return folder


@pytest.fixture
def table() -> Callable[[Path], list[dict[str, str]]]:
    """Function that reads the table of a batch's folder."""

    def read(folder: Path) -> list[dict[str, str]]:
        with open(folder / TABLE_NAME, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    return read
