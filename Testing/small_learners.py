"""Recipes, cases and learners that are small enough for tests, and what a learner has learned."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vnet_segmentation.device import Device
from vnet_segmentation.images.preprocessing import Preprocessing
from vnet_segmentation.network.vnet import VNet
from vnet_segmentation.training.appearance import AppearanceSettings
from vnet_segmentation.training.cache import TrainingCase
from vnet_segmentation.training.deformation import DeformationSettings
from vnet_segmentation.training.learner import Learner
from vnet_segmentation.training.recipe import Recipe, load_recipe

FIELD = Preprocessing(size=(32, 32, 16))

PAPER = replace(load_recipe("paper"), layout="monai", iterations=8, preprocessing=FIELD)
# All that is random, and all that is kept from one iteration to the next.
MODERN = replace(
    load_recipe("default"),
    layout="monai",
    iterations=8,
    warm_up_iterations=2,
    normalisation="batch",
    batch_size=2,
    preprocessing=FIELD,
    synthetic_probability=0.3,
    small_crop_until=0.6,
    small_crop_share=0.5,
    anywhere_probability=0.3,
    deformation=DeformationSettings(0.5, 5.0, 10.0, 0.1, 0.5),
    appearance=AppearanceSettings(*[0.5, 0.5, 0.4, 0.5, 0.25, 0.5, 4.0, 0.5, 0.15, 0.5]),
)
PLAIN = replace(
    MODERN,
    normalisation="instance",
    batch_size=1,
    synthetic_probability=0.0,
    small_crop_until=0.0,
    anywhere_probability=0.0,
    centre_jitter_mm=(0.0, 0.0, 0.0),
    deformation=DeformationSettings(bspline_probability=0.0),
    appearance=AppearanceSettings(histogram_matching_probability=0.0),
)
"""Nothing random but the choice of the case."""


def make_case(seed: int, radius: float = 6.0) -> TrainingCase:
    """A bright ball in noise, a bit off the middle of 40 x 40 x 20 voxels (x, y, z)."""
    generator = torch.Generator().manual_seed(seed)
    middle = torch.tensor([9.5, 19.5, 19.5]) + 6 * (torch.rand(3, generator=generator) - 0.5)
    index = torch.stack(torch.meshgrid(*(torch.arange(n) for n in (20, 40, 40)), indexing="ij"), -1)
    ball = ((index - middle) ** 2).sum(-1) <= radius**2
    image = 100 + 60 * ball + 20 * torch.randn(ball.shape, generator=generator)
    return TrainingCase.from_arrays(f"Case{seed:02}", image, ball.to(torch.uint8) * 255)


def make_learner(recipe: Recipe = PLAIN, cls: type[Learner] = Learner, width: int = 1, **changes: Any) -> Any:
    """A learner of three cases on the CPU."""
    settings: dict[str, Any] = {
        "cases": [make_case(seed) for seed in range(3)],
        "synthetic": [make_case(20)],
        "device": Device("cpu", "float32", "It is there."),
    }
    return cls(recipe=replace(recipe, width=width), **settings | changes)


def make_start(seed: int = 7) -> VNet:
    """A model to start from."""
    torch.manual_seed(seed)
    return VNet("monai", 1, "instance")


def state_of(learner: Learner) -> dict[str, Tensor]:
    """A copy of everything that it learned and draws from."""
    return {name: value.clone() for name, value in learner.tensors().items()}


def are_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two states are, bit for bit."""
    assert one.keys() == other.keys()
    return all(torch.equal(value, other[name]) for name, value in one.items())
