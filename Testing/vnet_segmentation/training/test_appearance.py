"""Histogram matching and the changes of appearance."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from vnet_segmentation.training.appearance import (
    Appearance,
    AppearanceSettings,
    change_appearance,
    match_histogram,
    quantiles,
    sample_appearance,
)

UNCHANGED = Appearance(
    matches_histogram=False,
    gamma=1.0,
    bias_coefficients=None,
    coil_gain=1.0,
    coil_position=(0.0, 0.0, 0.0),
    coil_radius=0.2,
    noise_sigma=0.0,
    noise_seed=0,
    blur_voxels=(1, 1, 1),
)


def crop(shape=(8, 10, 12)):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 300


def changed(appearance, values=None, inside=None):
    values = crop() if values is None else values
    return change_appearance(
        values, torch.ones_like(values, dtype=torch.bool) if inside is None else inside, appearance
    )


def test_matching_to_itself_changes_nothing():
    values = crop()
    torch.testing.assert_close(
        match_histogram(values, quantiles(values), quantiles(values)), values, rtol=1e-3, atol=0.1
    )


def test_matching_gives_the_other_distribution():
    values, other = crop(), crop() ** 2 / 100 + 50
    matched = match_histogram(values, quantiles(values), quantiles(other))
    torch.testing.assert_close(quantiles(matched), quantiles(other), rtol=0.01, atol=1.0)


def test_matching_survives_a_background_of_zeros_and_values_beyond_the_source():
    values = torch.cat([torch.zeros(500), torch.linspace(1, 100, 500)])
    matched = match_histogram(torch.tensor([-5.0, 0.0, 100.0, 200.0]), quantiles(values), quantiles(values))
    assert torch.isfinite(matched).all()
    assert matched.tolist() == pytest.approx([0, 0, 100, 100], abs=0.1)


@pytest.mark.parametrize("offset", [0.0, 32768.0, -1e6])
def test_matching_survives_an_offset_beside_which_the_background_is_constant(offset):
    values = offset + torch.cat([torch.zeros(500), torch.linspace(1, 1000, 500)])
    target = quantiles(torch.linspace(0, 100, 1000))
    matched = match_histogram(values, quantiles(values), target)
    assert torch.isfinite(matched).all()
    # A value at the middle of the bright half stands at 3/4 of the distribution.
    assert matched[749].item() == pytest.approx(75, abs=1)


def test_matching_survives_a_constant_scan():
    values = torch.full((10,), 7.0)
    assert torch.isfinite(match_histogram(values, quantiles(values), quantiles(crop()))).all()


def test_unchanged_is_the_crop_scaled_to_0_1():
    values = crop()
    expected = (values - values.min()) / (values.max() - values.min())
    torch.testing.assert_close(changed(UNCHANGED), expected)


def test_gamma_is_a_power_of_the_scaled_crop():
    torch.testing.assert_close(changed(replace(UNCHANGED, gamma=2.0)), changed(UNCHANGED) ** 2)


def test_bias_field_multiplies():
    # Constant coefficients of ln 2 double everything.
    coefficients = torch.full((1, 5, 5, 5), 2.0).log()
    torch.testing.assert_close(changed(replace(UNCHANGED, bias_coefficients=coefficients)), 2 * changed(UNCHANGED))


def test_coil_is_brightest_at_its_place_and_falls_to_exp_minus_a_half_at_its_radius():
    values = torch.ones(9, 21, 21)
    values[0, 0, 0] = 0  # contrast, so that the crop can be scaled
    gain = changed(replace(UNCHANGED, coil_gain=3.0, coil_radius=5 / 21), values)
    assert gain[4, 10, 10].item() == pytest.approx(3)
    # 1 + 2 exp(-1/2) = 2.213
    assert gain[4, 15, 10].item() == pytest.approx(2.213, abs=1e-3)


def test_blur_averages_boxes():
    values = torch.zeros(6, 4, 4)
    values[0:3] = 1
    blurred = changed(replace(UNCHANGED, blur_voxels=(1, 1, 3)), values)
    # Two boxes of three slices, 1 and 0; linear between their centres at slices 1 and 4.
    assert blurred[:, 0, 0].tolist() == pytest.approx([1, 1, 2 / 3, 1 / 3, 0, 0], abs=1e-6)


def test_noise_has_its_strength_and_comes_from_its_seed():
    values = crop((24, 24, 24))
    noisy = changed(replace(UNCHANGED, noise_sigma=0.5, noise_seed=1), values)
    again = changed(replace(UNCHANGED, noise_sigma=0.5, noise_seed=1), values)
    noise = noisy - changed(UNCHANGED, values)
    assert torch.equal(noisy, again)
    # 13,824 draws give the deviation to 1 %.
    assert (noise.std() / changed(UNCHANGED, values).std()).item() == pytest.approx(0.5, rel=0.05)


def test_a_crop_outside_the_scan_is_left_alone():
    values = torch.zeros(4, 4, 4)
    outside = torch.zeros_like(values, dtype=torch.bool)
    assert torch.equal(changed(replace(UNCHANGED, gamma=2.0), values, outside), values)


def test_default_settings_are_the_papers_histogram_matching_alone():
    generator = torch.Generator().manual_seed(0)
    drawn = [sample_appearance(AppearanceSettings(), generator) for _ in range(300)]
    assert 110 < sum(appearance.matches_histogram for appearance in drawn) < 190
    assert {appearance.gamma for appearance in drawn} == {1.0}
    assert {appearance.coil_gain for appearance in drawn} == {1.0}
    assert {appearance.noise_sigma for appearance in drawn} == {0.0}
    assert {appearance.blur_voxels for appearance in drawn} == {(1, 1, 1)}
    assert all(appearance.bias_coefficients is None for appearance in drawn)


def test_every_change_is_drawn_within_its_range_and_repeatably():
    names = {field.name for field in fields(AppearanceSettings) if field.name.endswith("probability")}
    settings = AppearanceSettings(**dict.fromkeys(names, 1.0))
    drawn = [sample_appearance(settings, torch.Generator().manual_seed(seed)) for seed in range(100)]
    assert all(0.67 <= appearance.gamma <= 1.5 for appearance in drawn)  # exp(+-0.4)
    assert all(1 <= appearance.coil_gain <= 4 for appearance in drawn)
    assert all(0 <= appearance.noise_sigma <= 0.15 for appearance in drawn)
    assert {appearance.blur_voxels for appearance in drawn} == {(1, 1, 2), (1, 1, 3), (2, 2, 1)}
    again = sample_appearance(settings, torch.Generator().manual_seed(7))
    assert torch.equal(again.bias_coefficients, drawn[7].bias_coefficients)
    assert replace(again, bias_coefficients=None) == replace(drawn[7], bias_coefficients=None)
