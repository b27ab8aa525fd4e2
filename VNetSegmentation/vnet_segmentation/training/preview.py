"""What a training will do, before it starts: how long an iteration takes here, what augmentation makes of a case."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import SimpleITK as sitk
import torch

from vnet_segmentation.arrays import to_array
from vnet_segmentation.datasets.dataset import Case
from vnet_segmentation.device import Device
from vnet_segmentation.images.mask_files import read_mask
from vnet_segmentation.images.preprocessing import grid_around
from vnet_segmentation.images.scans import read_scan
from vnet_segmentation.training.appearance import quantiles
from vnet_segmentation.training.augmentation import draw_sample, make_sample
from vnet_segmentation.training.cache import SyntheticCases, TrainingCase, case_grid, prepare_pair
from vnet_segmentation.training.learner import Learner
from vnet_segmentation.training.options import TrainingOptions, load_base, make_recipe

_N_TIMED = 3


def iteration_seconds(options: TrainingOptions, device: Device) -> float:
    """How long an iteration takes on this computer, on the average over a run; measured on a phantom.

    Args:
        options: of which base, preset, layout and width count.

    Raises:
        UserError: the base model cannot be used.
    """
    options, base, _ = load_base(options)
    recipe = make_recipe(options, base)
    learner = Learner(recipe, SyntheticCases(1, recipe.preprocessing), [], device, start=base)
    # The first step of a shape is slower: memory is taken, kernels are chosen.
    learner.step(0, 0.0)
    small_s = min(step_seconds(learner, 0, 0.0) for _ in range(_N_TIMED))
    last = recipe.iterations - 1, 1 - 1 / recipe.iterations
    learner.step(*last)
    return recipe.small_crop_until * small_s + (1 - recipe.small_crop_until) * step_seconds(learner, *last)


def step_seconds(learner: Learner, iteration: int, fraction: float) -> float:
    """How long a step takes, see `Learner.step`."""
    started = time.perf_counter()
    learner.step(iteration, fraction)
    if learner.device.torch_device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def preview_sample(
    case: Case, options: TrainingOptions, seed: int, other: Case | None = None
) -> tuple[sitk.Image, sitk.Image]:
    """A case as a training may see it, where it lies in the patient: always deformed, and matched to another case.

    A training leaves some samples as they are, mirrors some, and looks beside the gland, too.

    Args:
        options: of which base, preset, deformation and histogram matching count.
        seed: another seed, another sample.
        other: whose grey-level distribution the case gets, if histogram matching is on.

    Returns:
        Image, float32, normalised, and mask, uint8; both on the network's grid around the gland.

    Raises:
        UserError: a case or the base model cannot be used.
    """
    options, base, _ = load_base(options)
    recipe = make_recipe(options, base)
    preprocessing = recipe.preprocessing
    recipe = replace(
        recipe,
        anywhere_probability=0.0,
        deformation=replace(recipe.deformation, bspline_probability=1.0, flip_probability=0.0),
        appearance=replace(recipe.appearance, histogram_matching_probability=0.0),
    )
    mask = read_mask(case.mask, case.label)
    prepared = TrainingCase.from_arrays(case.name, *prepare_pair(read_scan(case.image), mask, preprocessing))
    sample = draw_sample(recipe, [prepared], [], torch.Generator().manual_seed(seed))
    sample = replace(sample, centre_voxels=prepared.gland_centre)
    if other is not None and options.histogram_matching:
        look, _ = prepare_pair(read_scan(other.image), read_mask(other.mask, other.label), preprocessing)
        sample = replace(sample, matched_quantiles=quantiles(look))
    x, y, z = preprocessing.size
    image, share = make_sample(sample, (z, y, x), preprocessing, torch.device("cpu"))
    kept = case_grid(mask, preprocessing)
    centre_mm = np.array(kept.TransformContinuousIndexToPhysicalPoint(prepared.gland_centre.tolist()))
    grid = grid_around(kept, centre_mm, preprocessing.spacing_mm, preprocessing.size)
    pictures = []
    for values in (image, (share >= 0.5).to(torch.uint8)):
        picture = sitk.GetImageFromArray(to_array(values))
        picture.CopyInformation(grid)
        pictures.append(picture)
    return pictures[0], pictures[1]
