"""A sample is drawn from the cases as the recipe says, and shows scan and mask in one place."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vnet_segmentation.images.preprocessing import Preprocessing
from vnet_segmentation.training.appearance import AppearanceSettings, sample_appearance
from vnet_segmentation.training.augmentation import Sample, draw_sample, make_sample, middle_sample
from vnet_segmentation.training.cache import TrainingCase
from vnet_segmentation.training.deformation import Deformation, DeformationSettings
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


def noise_case(power: float = 1.0) -> TrainingCase:
    """From 0 to 1, without a gland, on the same grid."""
    noise = torch.rand(20, 36, 40, generator=torch.Generator().manual_seed(0))
    return TrainingCase.from_arrays("noise", noise**power, torch.zeros_like(noise, dtype=torch.uint8))


def drawn(n_samples: int = 50, cases: list[TrainingCase] | None = None, **changes: object) -> list[Sample]:
    generator = torch.Generator().manual_seed(0)
    recipe = replace(PLAIN, **changes)  # type: ignore[arg-type]
    return [draw_sample(recipe, cases or [CASE], [], generator) for _ in range(n_samples)]


def sample_of(sample: Sample) -> Tensor:
    """Its image."""
    return make_sample(sample, (16, 32, 32), PLAIN.preprocessing, CPU)[0]


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


def test_a_sample_has_the_grey_levels_that_it_was_given() -> None:
    # The same noise, once with as many bright voxels as dark ones, once mostly dark.
    plain, dark = noise_case(), noise_case(power=3)
    middle = middle_sample(plain).centre_voxels
    expected = sample_of(Sample(dark, middle))
    torch.testing.assert_close(
        sample_of(Sample(plain, middle, matched_quantiles=dark.quantiles)), expected, atol=0.05, rtol=0
    )
    # So does a power, of values from 0 to 1.
    never = sample_appearance(AppearanceSettings(0.0), torch.Generator())
    torch.testing.assert_close(
        sample_of(Sample(plain, middle, appearance=replace(never, gamma=3.0))), expected, atol=0.02, rtol=0
    )
    assert (sample_of(Sample(plain, middle)) - expected).abs().max() > 0.5


def test_beyond_the_scan_a_sample_is_of_medium_grey_and_no_gland() -> None:
    # Half a voxel into the scan: of 16, 32 and 32 voxels the last 9, 17 and 17 are within it.
    case = replace(noise_case(), coverage=torch.full((20, 36, 40), 255, dtype=torch.uint8))
    image, share = make_sample(Sample(case, torch.full((3,), 0.5)), (16, 32, 32), PLAIN.preprocessing, CPU)
    within = share > 0.5
    assert within[7:, 15:, 15:].all()
    assert within.sum() == 9 * 17 * 17
    assert not image[~within].any()
    assert image[within].std().item() == pytest.approx(1, abs=1e-3)
    # Nor does it count where grey levels are raised to a power, from the darkest to the brightest of the scan.
    changed = replace(sample_appearance(AppearanceSettings(0.0), torch.Generator()), gamma=3.0)
    images = [
        sample_of(Sample(replace(case, image=case.image + offset), torch.full((3,), 0.5), appearance=changed))
        for offset in (0.0, 5.0)
    ]
    torch.testing.assert_close(*images, atol=1e-3, rtol=0)


def test_a_sample_is_bent_as_it_was_drawn() -> None:
    case = noise_case()
    flip = Deformation(torch.zeros(3, 5, 5, 5), torch.diag(torch.tensor([-1.0, 1.0, 1.0])))
    plain = middle_sample(case)
    torch.testing.assert_close(sample_of(replace(plain, deformation=flip)), sample_of(plain).flip(2), atol=0.02, rtol=0)


def test_phantoms_take_their_grey_levels_from_real_cases() -> None:
    matching = AppearanceSettings(histogram_matching_probability=1.0)
    recipe = replace(PLAIN, synthetic_probability=1.0, appearance=matching)
    sample = draw_sample(recipe, [CASE], [make_case("phantom", 5.0)], torch.Generator())
    assert sample.case.name == "phantom"
    assert sample.matched_quantiles is CASE.quantiles
