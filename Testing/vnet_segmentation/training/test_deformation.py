"""The B-spline deformation against SimpleITK's and the paper's code, and the crop it is applied to."""

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from vnet_segmentation.training.deformation import (
    Deformation,
    DeformationSettings,
    deform,
    displacement_field,
    sample_deformation,
)

NO_COEFFICIENTS = torch.zeros(3, 5, 5, 5)


def volume(shape=(12, 16, 20)):
    return torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))


def middle(shape):
    return (torch.tensor(shape[::-1]) - 1) / 2


def test_constant_coefficients_displace_by_that_constant():
    field = displacement_field(torch.full((3, 5, 5, 5), 2.5), (7, 8, 9))
    assert field.shape == (7, 8, 9, 3)
    torch.testing.assert_close(field, torch.full_like(field, 2.5))


def test_field_is_simpleitks_bspline():
    coefficients = torch.randn(3, 5, 5, 5, generator=torch.Generator().manual_seed(1))
    shape = (6, 7, 8)
    spline = sitk.BSplineTransform(3, 3)
    spline.SetTransformDomainMeshSize([2, 2, 2])
    spline.SetTransformDomainPhysicalDimensions([n - 1 for n in shape[::-1]])
    # ITK's parameters: all x components first, then y, then z; x runs fastest within each.
    spline.SetParameters(coefficients.double().flatten().tolist())
    field = displacement_field(coefficients, shape)
    for z, y, x in [(0, 0, 0), (2, 3, 4), (5, 1, 6), (3, 5, 1)]:
        expected = np.array(spline.TransformPoint((x, y, z))) - (x, y, z)
        np.testing.assert_allclose(field[z, y, x].numpy(), expected, atol=1e-4)


def test_deformation_of_the_papers_code_moves_by_five_voxels_in_plane_and_does_not_fold():
    settings = DeformationSettings(bspline_probability=1.0)
    generator = torch.Generator().manual_seed(0)
    fields = [displacement_field(sample_deformation(settings, generator).coefficients, (16, 32, 32)) for _ in range(60)]
    in_plane = torch.stack(fields)[..., :2]
    # Coefficients of 15 voxels displace by 4.7 to 5.0 voxels RMS, each component.
    assert 4.4 < in_plane.square().mean().sqrt() < 5.3
    assert all(not field[..., 2].any() for field in fields)
    # Folding is where the Jacobian's determinant is negative, on the paper's grid: 128 voxels, of which this is every
    # fourth, so that a step here is 4 voxels there.
    for field in fields:
        dx, dy = field[:, :, 1:, :2] - field[:, :, :-1, :2], field[:, 1:, :, :2] - field[:, :-1, :, :2]
        dx, dy = dx[:, :-1] * 31 / 127, dy[:, :, :-1] * 31 / 127
        assert ((1 + dx[..., 0]) * (1 + dy[..., 1]) - dx[..., 1] * dy[..., 0]).min() > 0


def test_half_of_the_samples_are_deformed():
    generator = torch.Generator().manual_seed(0)
    deformed = [sample_deformation(DeformationSettings(), generator).coefficients.any() for _ in range(400)]
    # Binomial with 400 draws of one half: 200 +- 10, five deviations wide.
    assert 150 < sum(deformed) < 250


def test_the_same_generator_state_gives_the_same_deformation():
    settings = DeformationSettings(rotation_degrees=10, scaling=0.2, flip_probability=0.5)
    first, again, other = (sample_deformation(settings, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first.matrix, again.matrix)
    assert torch.equal(first.coefficients, again.coefficients)
    assert not torch.equal(first.matrix, other.matrix)


def test_without_a_deformation_the_crop_is_the_volume():
    image = volume()
    crop, inside = deform(image, middle(image.shape[1:]), (12, 16, 20), None, (1, 1, 1.5))
    torch.testing.assert_close(crop, image, atol=1e-5, rtol=0)
    assert inside.all()


def test_a_crop_beyond_the_volume_is_zero_and_not_inside():
    image = volume((4, 4, 4)) + 1
    crop, inside = deform(image, torch.tensor([1.5, 1.5, 3.5]), (4, 4, 4), None, (1, 1, 1))
    # Two slices up: the last two have nothing.
    torch.testing.assert_close(crop[0, :2], image[0, 2:], atol=1e-5, rtol=0)
    assert not crop[0, 2:].any()
    assert inside[:2].all()
    assert not inside[2:].any()


def test_a_flip_exchanges_left_and_right_only():
    image = volume()
    flip = Deformation(NO_COEFFICIENTS, torch.diag(torch.tensor([-1.0, 1.0, 1.0])))
    crop, _ = deform(image, middle(image.shape[1:]), (12, 16, 20), flip, (1, 1, 1.5))
    torch.testing.assert_close(crop, image.flip(3), atol=1e-5, rtol=0)


def test_coefficients_are_in_mm():
    # 3 mm along x and y, on voxels of 1.5 mm and 1 mm: the crop shows what is 2 columns and 3 rows further on.
    image = volume()
    coefficients = torch.zeros(3, 5, 5, 5)
    coefficients[:2] = 3.0
    shifted = Deformation(coefficients, torch.eye(3))
    crop, inside = deform(image, middle(image.shape[1:]), (12, 16, 20), shifted, (1.5, 1.0, 2.0))
    torch.testing.assert_close(crop[:, :, :-3, :-2], image[:, :, 3:, 2:], atol=1e-4, rtol=0)
    assert not inside[:, -3:].any()
    assert not inside[:, :, -2:].any()


def test_rotation_keeps_distances_in_mm():
    # A quarter turn about x maps y to z: with voxels of 1 mm and 2 mm, a step of two rows becomes one of a slice.
    spacing_mm = (1.0, 1.0, 2.0)
    image = torch.zeros(1, 9, 9, 9)
    image[0, 5, 4, 4] = 1  # 2 mm above the centre
    turn = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    crop, _ = deform(image, torch.tensor([4.0, 4, 4]), (9, 9, 9), Deformation(NO_COEFFICIENTS, turn), spacing_mm)
    assert crop[0].argmax().item() == (4 * 9 + 6) * 9 + 4
    assert crop[0, 4, 6, 4].item() == pytest.approx(1, abs=1e-5)


def test_a_drawn_flip_is_one_of_left_and_right():
    settings = DeformationSettings(bspline_probability=0, flip_probability=1)
    matrix = sample_deformation(settings, torch.Generator()).matrix
    assert torch.equal(matrix, torch.diag(torch.tensor([-1.0, 1.0, 1.0])))


def test_angles_scales_and_flips_stay_in_their_ranges():
    settings = DeformationSettings(rotation_degrees=10, scaling=0.2, flip_probability=0.5)
    generator = torch.Generator().manual_seed(0)
    matrices = [sample_deformation(settings, generator).matrix for _ in range(200)]
    lengths = torch.stack([matrix.norm(dim=0) for matrix in matrices])
    assert 0.8 - 1e-5 < lengths.min() < 0.81
    assert 1.19 < lengths.max() < 1.2 + 1e-5
    assert 60 < sum(torch.linalg.det(matrix) < 0 for matrix in matrices) < 140
    # Three turns of at most 10 degrees tilt an axis by at most 30.
    z_axes = torch.stack([matrix[:, 2] / matrix[:, 2].norm() for matrix in matrices])
    assert z_axes[:, 2].min() > math.cos(math.radians(30))
    # About each axis either way, by up to 10 degrees and a bit, as one turn follows another.
    turns = torch.stack([matrix / matrix.norm(dim=0) for matrix in matrices])
    for i, j in ((2, 1), (0, 2), (1, 0)):
        assert 0.14 < turns[:, i, j].max() < 0.21
        assert -0.21 < turns[:, i, j].min() < -0.14
