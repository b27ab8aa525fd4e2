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


@pytest.mark.parametrize("padding", [-1e3, 0.0, 1e3])
def test_what_lies_beyond_the_scan_changes_nothing_within_it(padding):
    values, inside = crop() + 100, torch.ones(8, 10, 12, dtype=torch.bool)
    inside[:3] = False
    expected = changed(replace(UNCHANGED, gamma=0.7), values[3:])
    values[~inside] = padding
    result = changed(replace(UNCHANGED, gamma=0.7), values, inside)
    torch.testing.assert_close(result[3:], expected)
    assert result.isfinite().all()


def test_bias_field_multiplies():
    # Constant coefficients of ln 2 double everything.
    coefficients = torch.full((1, 5, 5, 5), 2.0).log()
    torch.testing.assert_close(changed(replace(UNCHANGED, bias_coefficients=coefficients)), 2 * changed(UNCHANGED))


def test_coil_is_brightest_at_its_place_and_falls_to_exp_minus_a_half_at_its_radius():
    values = torch.ones(15, 21, 25)
    values[0, 0, 0] = 0  # contrast, so that the crop can be scaled
    # Of 25, 21 and 15 voxels (x, y, z), whose middles are 12, 10 and 7: at 14, 17 and 4.
    position = (2 / 25, 7 / 21, -3 / 15)
    gain = changed(replace(UNCHANGED, coil_gain=3.0, coil_position=position, coil_radius=5 / 25), values)
    assert gain[4, 17, 14].item() == gain.max().item() == pytest.approx(3)
    # 1 + 2 exp(-1/2) = 2.213
    assert gain[4, 12, 14].item() == pytest.approx(2.213, abs=1e-3)


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


def test_noise_is_relative_to_what_lies_inside_the_scan():
    # A sixth of the crop, of values far above the padding's 0.
    values, inside = torch.zeros(24, 24, 24), torch.zeros(24, 24, 24, dtype=torch.bool)
    inside[:4] = True
    values[inside] = crop((4, 24, 24)).flatten() + 100
    plain = changed(UNCHANGED, values, inside)
    noise = changed(replace(UNCHANGED, noise_sigma=0.5, noise_seed=1), values, inside) - plain
    assert (noise.std() / plain[inside].std()).item() == pytest.approx(0.5, rel=0.05)


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
    assert 30 < sum(appearance.gamma < 1 for appearance in drawn) < 70
    assert all(1 <= appearance.coil_gain <= 4 for appearance in drawn)
    assert all(0.12 <= appearance.coil_radius <= 0.3 for appearance in drawn)
    assert all(0 <= appearance.noise_sigma <= 0.15 for appearance in drawn)
    assert min(appearance.noise_sigma for appearance in drawn) < 0.02
    bias = torch.stack([appearance.bias_coefficients for appearance in drawn])
    assert bias.std().item() == pytest.approx(0.25, rel=0.05)
    assert {appearance.blur_voxels for appearance in drawn} == {(1, 1, 2), (1, 1, 3), (2, 2, 1)}
    # The coil lies in the rectum: behind the gland (y runs to the back), neither far to a side nor above or below it.
    x, y, z = torch.tensor([appearance.coil_position for appearance in drawn]).T
    assert (y.min() >= 0.1, y.max() <= 0.35) == (True, True)
    assert max(x.abs().max(), z.abs().max()) <= 0.15
    assert max(x.min(), z.min()) < 0 < min(x.max(), z.max())
    again = sample_appearance(settings, torch.Generator().manual_seed(7))
    assert torch.equal(again.bias_coefficients, drawn[7].bias_coefficients)
    assert replace(again, bias_coefficients=None) == replace(drawn[7], bias_coefficients=None)
