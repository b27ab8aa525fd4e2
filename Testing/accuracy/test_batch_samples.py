"""Samples in batches are those that the program makes one at a time, and are made without waiting for the device."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from accuracy.batch_samples import N_NORMAL, N_UNIFORM, BatchMaker, CaseTable, SampleParameters
from torch.utils._python_dispatch import TorchDispatchMode

from vnet_segmentation.training.augmentation import Sample, draw_sample, make_sample
from vnet_segmentation.training.cache import TrainingCase
from vnet_segmentation.training.recipe import load_recipe

RECIPE = load_recipe("default")
SHAPE = (16, 32, 32)
BOXES = {(1, 1, 1): 0, (1, 1, 2): 1, (1, 1, 3): 2, (2, 2, 1): 3}


@pytest.fixture(scope="module")
def cases() -> list[TrainingCase]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for number, shape in enumerate(((20, 40, 44), (24, 30, 36), (18, 50, 40))):
        image = 100 * torch.rand(shape, generator=generator) + torch.arange(shape[2])
        coverage = torch.zeros(shape, dtype=torch.uint8)
        coverage[6:12, 10:20, 12:24] = 255
        made.append(TrainingCase.from_arrays(str(number), image, coverage))
    return made


@pytest.fixture
def maker(cases: list[TrainingCase]) -> BatchMaker:
    return BatchMaker(RECIPE, CaseTable.of(cases, torch.device("cpu")), [0, 1], [2], SHAPE)


def as_parameters(sample: Sample, cases: list[TrainingCase]) -> SampleParameters:
    look, deformation = sample.appearance, sample.deformation
    assert look is not None
    assert deformation is not None
    bias = torch.zeros(1, 5, 5, 5) if look.bias_coefficients is None else look.bias_coefficients
    target = cases[0].quantiles if sample.matched_quantiles is None else sample.matched_quantiles
    return SampleParameters(
        case=torch.tensor([cases.index(sample.case)]),
        centre_voxels=sample.centre_voxels[None],
        coefficients=deformation.coefficients[None, :2],
        matrix=deformation.matrix[None],
        matches_histogram=torch.tensor([sample.matched_quantiles is not None]),
        matched_quantiles=target[None],
        gamma=torch.tensor([look.gamma]),
        bias_coefficients=bias,
        coil_gain=torch.tensor([look.coil_gain]),
        coil_position=torch.tensor([look.coil_position]),
        coil_radius=torch.tensor([look.coil_radius]),
        noise_sigma=torch.tensor([look.noise_sigma]),
        blur=torch.tensor([BOXES[look.blur_voxels]]),
    )


def noise_of(sample: Sample) -> torch.Tensor:
    assert sample.appearance is not None
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(sample.appearance.noise_seed))[None]


def test_a_batch_is_the_samples_that_the_program_makes(cases: list[TrainingCase], maker: BatchMaker) -> None:
    generator = torch.Generator().manual_seed(4)
    samples = [draw_sample(RECIPE, cases[:2], cases[2:], generator) for _ in range(40)]
    parts = [as_parameters(sample, cases) for sample in samples]
    batch = SampleParameters(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(SampleParameters)))
    images, shares = maker.make(batch, torch.cat([noise_of(sample) for sample in samples]))
    for sample, image, share in zip(samples, images, shares, strict=True):
        expected_image, expected_share = make_sample(sample, SHAPE, RECIPE.preprocessing, torch.device("cpu"))
        torch.testing.assert_close(share, expected_share, atol=1e-4, rtol=0)
        # The percentiles are those of other voxels: the clip, and so the scale, differ a little.
        assert (image - expected_image).abs().mean() < 0.05
        assert torch.corrcoef(torch.stack([image.flatten(), expected_image.flatten()]))[0, 1] > 0.995


def test_an_offset_beside_which_the_background_is_constant_keeps_the_contrast() -> None:
    image = torch.full((20, 40, 44), 32768.0)
    image[8:, :, 10:] += 1000 * torch.rand(12, 40, 34, generator=torch.Generator().manual_seed(0))
    case = TrainingCase.from_arrays("offset", image, torch.zeros(image.shape, dtype=torch.uint8))
    maker = BatchMaker(RECIPE, CaseTable.of([case], torch.device("cpu")), [0], [], SHAPE)
    drawn = maker.draw(torch.rand(4, N_UNIFORM), torch.randn(4, N_NORMAL))
    matching = replace(drawn, matches_histogram=torch.ones(4, dtype=torch.bool))
    images, _ = maker.make(matching, torch.randn(4, *SHAPE))
    # What is not finite in the end becomes 0.
    assert (images.std((1, 2, 3)) > 0.5).all()


def test_parameters_are_drawn_as_the_program_draws_them(cases: list[TrainingCase], maker: BatchMaker) -> None:
    generator = torch.Generator().manual_seed(1)
    n = 1500
    drawn = maker.draw(torch.rand(n, N_UNIFORM, generator=generator), torch.randn(n, N_NORMAL, generator=generator))
    parts = [as_parameters(draw_sample(RECIPE, cases[:2], cases[2:], generator), cases) for _ in range(n)]
    for field in fields(SampleParameters):
        mine = getattr(drawn, field.name).float().reshape(n, -1)
        theirs = torch.cat([getattr(part, field.name) for part in parts]).float().reshape(n, -1)
        if field.name == "matched_quantiles":
            # Drawn there only where it is needed.
            used = torch.cat([part.matches_histogram for part in parts])
            theirs = theirs[used]
        deviation = theirs.std(0).clamp(min=1e-3)
        # A mean of so many differs by 0.05 deviations at most; a coefficient is one of 250.
        assert ((mine.mean(0) - theirs.mean(0)).abs() < 0.2 * deviation).all(), field.name
        assert ((mine.std(0) - theirs.std(0)).abs() < 0.35 * deviation + 1e-3).all(), field.name


class HostTraffic(TorchDispatchMode):
    """Collects operations that copy to or from the device, or wait for it."""

    FORBIDDEN = ("lift_fresh", "_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal.default")

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        if any(word in name for word in self.FORBIDDEN):
            self.seen.add(name)
        return function(*args, **(kwargs or {}))


def test_nothing_waits_for_the_device(maker: BatchMaker) -> None:
    uniform, normal, noise = torch.rand(2, N_UNIFORM), torch.randn(2, N_NORMAL), torch.randn(2, *SHAPE)
    with HostTraffic() as traffic:
        maker.make(maker.draw(uniform, normal), noise)
    assert not traffic.seen
    with HostTraffic() as traffic:
        torch.tensor([1.0])
        noise.sum().item()
    assert len(traffic.seen) == 2
