"""What is asked of a training decides on its recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from untrained_model import save_untrained_model

from vnet_segmentation.images.preprocessing import Preprocessing
from vnet_segmentation.training.options import TrainingOptions, load_base, make_recipe


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"preset": "paper"}, (16, True)),
        ({"preset": "paper", "width": 4, "bias_correction": False}, (4, False)),
        ({}, (8, False)),
        ({"bias_correction": True}, (8, True)),
        ({"preset": "paper", "preprocessing": Preprocessing(size=(32, 32, 16))}, (16, False)),
    ],
)
def test_the_preset_decides_on_the_network_unless_the_user_does(
    changes: dict[str, Any], expected: tuple[int, bool]
) -> None:
    recipe = make_recipe(TrainingOptions(**changes), None)
    assert (recipe.width, recipe.preprocessing.bias_correction) == expected


@pytest.mark.parametrize(("iterations", "n_warm_up"), [(5, 0), (200, 20), (None, 100)])
def test_of_a_short_run_a_tenth_is_warm_up(iterations: int | None, n_warm_up: int) -> None:
    assert make_recipe(TrainingOptions(iterations=iterations), None).warm_up_iterations == n_warm_up


def test_the_strength_of_the_deformation_scales_it_all_and_makes_nothing_smaller_than_half() -> None:
    once, thrice, off = (make_recipe(TrainingOptions(deformation_strength=n), None).deformation for n in (1, 3, 0))
    assert (once.bspline_sigma_mm, once.rotation_degrees, once.scaling) == (13.5, 15, 0.2)
    assert (thrice.bspline_sigma_mm, thrice.rotation_degrees, thrice.scaling) == (40.5, 45, 0.5)
    assert (off.bspline_sigma_mm, off.rotation_degrees, off.scaling) == (0, 0, 0)


def test_a_model_to_start_from_keeps_its_network(tmp_path: Path) -> None:
    model = save_untrained_model(tmp_path / "base", width=2)
    options, base, _ = load_base(TrainingOptions(base=model, preset="paper"))
    recipe = make_recipe(options, base)
    assert (recipe.layout, recipe.width, recipe.preprocessing.bias_correction) == ("monai", 2, False)
