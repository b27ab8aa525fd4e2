"""A model that needs no training, for tests of what is done with models."""

from __future__ import annotations

from pathlib import Path

import torch

from vnet_segmentation.images.preprocessing import Preprocessing
from vnet_segmentation.models.bundle import save_bundle
from vnet_segmentation.network.vnet import VNet


def save_untrained_model(
    folder: Path,
    layout: str = "monai",
    width: int = 1,
    preprocessing: Preprocessing = Preprocessing(spacing_mm=(3.0, 3.0, 4.5), size=(48, 48, 48)),  # noqa: B008
) -> Path:
    """Writes the bundle of a tiny network with random weights, always the same, named as its folder; returns it."""
    description = {
        "name": folder.name,
        "title": "For tests",
        "preprocessing": preprocessing.as_dict(),
        "labels": ["background", "prostate"],
        "training": {},
        "metrics": {},
        "parent": None,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = VNet(layout, width, "instance")
    save_bundle(folder, network, description, quantise=False)
    return folder
