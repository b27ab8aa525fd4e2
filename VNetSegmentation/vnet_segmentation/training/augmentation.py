"""Training samples: what is random about one is drawn first, and then made, so that any sample can be made again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vnet_segmentation.images.preprocessing import Preprocessing, normalise
from vnet_segmentation.training.appearance import Appearance, change_appearance, match_histogram, sample_appearance
from vnet_segmentation.training.cache import TrainingCase
from vnet_segmentation.training.deformation import Deformation, deform, sample_deformation
from vnet_segmentation.training.recipe import Recipe


@dataclass(frozen=True)
class Sample:
    """Parameters of one sample."""

    case: TrainingCase
    centre_voxels: Tensor
    """(x, y, z) of the crop's centre in the case."""
    deformation: Deformation | None = None
    appearance: Appearance | None = None
    matched_quantiles: Tensor | None = None
    """The grey-level distribution that it gets; None: its own."""


def draw_sample(
    recipe: Recipe,
    cases: Sequence[TrainingCase],
    synthetic: Sequence[TrainingCase],
    generator: torch.Generator,
) -> Sample:
    """Draws a case, a place in it, a deformation and a change of appearance; the same generator state, the same ones.

    Args:
        cases: at least one; histograms are matched to theirs.
        synthetic: phantoms, drawn with the recipe's probability.
    """
    is_synthetic = bool(synthetic) and torch.rand((), generator=generator).item() < recipe.synthetic_probability
    case = _choose(synthetic if is_synthetic else cases, generator)
    centre = _centre(case, recipe, generator)
    deformation = sample_deformation(recipe.deformation, generator)
    appearance = sample_appearance(recipe.appearance, generator)
    matched = _choose(cases, generator).quantiles if appearance.matches_histogram else None
    return Sample(case, centre, deformation, appearance, matched)


def middle_sample(case: TrainingCase) -> Sample:
    """The case as it is, around the middle of the scan, as a new scan is first looked at."""
    return Sample(case, (torch.tensor(case.image.shape[::-1]) - 1) / 2)


def make_sample(
    sample: Sample, shape: tuple[int, int, int], preprocessing: Preprocessing, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Crops, deforms and normalises, on the device.

    Args:
        shape: (depth, height, width) of the crop, in voxels of the network's grid.

    Returns:
        Image as the network takes it, and the gland's share of each voxel, 0 to 1; both (depth, height, width),
        float32.
    """
    volumes = sample.case.volumes(device)
    (image, share), inside = deform(volumes, sample.centre_voxels, shape, sample.deformation, preprocessing.spacing_mm)
    if sample.matched_quantiles is not None:
        image = match_histogram(image, sample.case.quantiles.to(device), sample.matched_quantiles.to(device))
    if sample.appearance is not None:
        image = change_appearance(image, inside, sample.appearance)
    return normalise(image, inside, preprocessing.clip_percentiles), share


def _centre(case: TrainingCase, recipe: Recipe, generator: torch.Generator) -> Tensor:
    last = torch.tensor(case.image.shape[::-1]) - 1
    if torch.rand((), generator=generator).item() < recipe.anywhere_probability:
        return torch.rand(3, generator=generator) * last
    if not any(recipe.centre_jitter_mm):
        return last / 2
    jitter_voxels = torch.tensor(recipe.centre_jitter_mm) / torch.tensor(recipe.preprocessing.spacing_mm)
    return case.gland_centre + (2 * torch.rand(3, generator=generator) - 1) * jitter_voxels


def _choose(cases: Sequence[TrainingCase], generator: torch.Generator) -> TrainingCase:
    return cases[int(torch.randint(len(cases), (), generator=generator))]
