"""The validation Dice is the mean over the cases, and the best weights are those with the highest."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vnet_segmentation.device import Device
from vnet_segmentation.images.preprocessing import Preprocessing
from vnet_segmentation.segmentation.inference import Predictor
from vnet_segmentation.training.cache import TrainingCase
from vnet_segmentation.training.validation import mean_dice


class Threshold(nn.Module):
    """Takes what is brighter than the mean for prostate."""

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(image), image], 1)


def test_validation_dice_is_the_mean_over_the_cases() -> None:
    # Half of a voxel and more is gland, of 255 parts 128; less is none.
    nowhere = torch.full((16, 32, 32), 127, dtype=torch.uint8)

    def box(first: int) -> Tensor:
        volume = nowhere.clone()
        volume[4:8, 8:16, first : first + 8] = 128
        return volume

    masks = [box(8), box(12), nowhere]
    cases = [TrainingCase.from_arrays("", box(8).float(), mask) for mask in masks]
    predictor = Predictor(Threshold(), Device("cpu", "float32", ""))
    # All of 8 columns found, 4 of 8, and a gland where there is none: (1 + 0.5 + 0) / 3.
    assert mean_dice(predictor, cases, Preprocessing(size=(32, 32, 16))) == pytest.approx(0.5)
