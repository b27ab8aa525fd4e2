"""A sample is drawn from the cases as the recipe says, and shows scan and mask in one place."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from vnet_segmentation.images.preprocessing import Preprocessing
from vnet_segmentation.training.appearance import AppearanceSettings
from vnet_segmentation.training.augmentation import Sample, draw_sample, make_sample
from vnet_segmentation.training.cache import TrainingCase
from vnet_segmentation.training.deformation import DeformationSettings
from vnet_segmentation.training.recipe import load_recipe

CPU = torch.device("cpu")
PLAIN = replace(
    load_recipe("paper"),
    preprocessing=Preprocessing(spacing_mm=(1.0, 1.0, 1.5), size=(32, 32, 16)),
    deformation=DeformationSettings(bspline_probability=0.0),
    appearance=AppearanceSettings(histogram_matching_probability=0.0),
)
"""Nothing random but the choice of the case, around the middle of which a crop is taken."""


def make_case(name: str = "case", brightness: float = 100.0) -> TrainingCase:
    """A bright ball of a radius of 4 voxels off the middle of 40 x 36 x 20 voxels (x, y, z)."""
    index = torch.stack(torch.meshgrid(*(torch.arange(n) for n in (20, 36, 40)), indexing="ij"), -1)
    ball = ((index - torch.tensor([8, 19, 23])) ** 2).sum(-1) <= 16
    return TrainingCase.from_arrays(name, brightness * (1 + ball), ball.to(torch.uint8) * 255)


CASE = make_case()


def drawn(n_samples: int = 50, cases: list[TrainingCase] | None = None, **changes: object) -> list[Sample]:
    generator = torch.Generator().manual_seed(0)
    recipe = replace(PLAIN, **changes)  # type: ignore[arg-type]
    return [draw_sample(recipe, cases or [CASE], [], generator) for _ in range(n_samples)]


def centres(**changes: object) -> Tensor:
    """(samples, 3): x, y, z in voxels."""
    return torch.stack([sample.centre_voxels for sample in drawn(**changes)])


def test_without_a_jitter_crops_are_centred_on_the_scan() -> None:
    assert centres().unique(dim=0).tolist() == [[19.5, 17.5, 9.5]]


def test_crops_are_centred_near_the_gland_to_either_side_of_it() -> None:
    # 3 mm are 3 voxels in plane and 2 through it.
    largest = torch.tensor([3.0, 3.0, 2.0])
    offsets = (centres(centre_jitter_mm=(3.0, 3.0, 3.0)) - torch.tensor([23.0, 19.0, 8.0])) / largest
    assert offsets.abs().max() <= 1
    # The outermost of 50 draws from -1 to 1 are hardly ever within 0.8.
    assert offsets.amin(0).max() < -0.8
    assert offsets.amax(0).min() > 0.8


def test_crops_centred_anywhere_are_in_all_of_the_scan() -> None:
    places = centres(anywhere_probability=1.0, centre_jitter_mm=(3.0, 3.0, 3.0)) / torch.tensor([39.0, 35.0, 19.0])
    assert places.min() >= 0
    assert places.max() <= 1
    assert places.amin(0).max() < 0.1
    assert places.amax(0).min() > 0.9


def test_scan_and_mask_of_a_sample_lie_in_one_place() -> None:
    bent = DeformationSettings(1.0, 5.0, 15.0, 0.2, 0.5)
    for sample in drawn(5, centre_jitter_mm=(6.0, 6.0, 3.0), deformation=bent):
        image, share = make_sample(sample, (16, 32, 32), PLAIN.preprocessing, CPU)
        assert image.shape == share.shape == (16, 32, 32)
        # The scan is 100 and the gland 200, each voxel between by the gland's share of it.
        inside, outside = image[share > 0.99].mean(), image[share == 0].median()
        between = (share > 0.1) & (share < 0.9)
        torch.testing.assert_close((image[between] - outside) / (inside - outside), share[between], atol=0.05, rtol=0)


def test_grey_levels_become_those_of_another_case() -> None:
    cases = [make_case("dark"), make_case("bright", 1000.0)]
    matching = AppearanceSettings(histogram_matching_probability=1.0)
    pairs = {
        (sample.case.name, next(case.name for case in cases if sample.matched_quantiles is case.quantiles))
        for sample in drawn(50, cases, appearance=matching)
    }
    assert pairs == {(one, other) for one in ("dark", "bright") for other in ("dark", "bright")}


def test_phantoms_take_their_grey_levels_from_real_cases() -> None:
    matching = AppearanceSettings(histogram_matching_probability=1.0)
    recipe = replace(PLAIN, synthetic_probability=1.0, appearance=matching)
    sample = draw_sample(recipe, [CASE], [make_case("phantom", 5.0)], torch.Generator())
    assert sample.case.name == "phantom"
    assert sample.matched_quantiles is CASE.quantiles
