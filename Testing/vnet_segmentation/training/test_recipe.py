"""The presets say what they are meant to say, and learning rates follow them."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import pytest

from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.images.preprocessing import Preprocessing
from vnet_segmentation.network.loss import LOSSES
from vnet_segmentation.network.vnet import LAYOUTS, NORMALISATIONS, SIDE_MULTIPLE
from vnet_segmentation.training.appearance import AppearanceSettings
from vnet_segmentation.training.deformation import DeformationSettings
from vnet_segmentation.training.recipe import Recipe, load_recipe, recipe_names


def test_presets_are_found() -> None:
    assert recipe_names() == ["default", "finetune", "paper", "paper-logistic"]


@pytest.mark.parametrize("name", ["default", "finetune", "paper", "paper-logistic"])
def test_a_preset_has_known_names_and_sensible_numbers(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.title
    assert recipe.normalisation in NORMALISATIONS
    assert recipe.loss in LOSSES
    assert recipe.optimiser in {"adamw", "sgd"}
    assert recipe.schedule in {"cosine", "steps"}
    assert recipe.iterations > recipe.warm_up_iterations
    assert recipe.layout in LAYOUTS
    assert all(side % SIDE_MULTIPLE == 0 for side in recipe.preprocessing.size)
    # In the fourth stage, at 1/8, the feature map is at least as large as the kernel: on a CPU with bfloat16 the stage
    # would be computed in float32 otherwise, see VNet.
    assert min(recipe.small_crop_size) >= 8 * LAYOUTS[recipe.layout].kernel_size
    settings = recipe.as_dict()
    probabilities = [
        value
        for group in (settings, settings["deformation"], settings["appearance"])
        for key, value in group.items()
        if key.endswith("probability")
    ]
    assert len(probabilities) == 10
    assert all(0 <= probability <= 1 for probability in probabilities)


@pytest.mark.parametrize("name", ["default", "finetune", "paper", "paper-logistic"])
def test_a_recipe_comes_back_from_json(name: str) -> None:
    recipe = load_recipe(name)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe


def test_small_crops_are_a_share_of_each_side() -> None:
    # 80 x 0.75 = 60, 48 x 0.75 = 36 and 16 x 0.75 = 12, each to the nearest multiple of 16.
    recipe = replace(load_recipe("default"), preprocessing=Preprocessing(size=(80, 48, 16)))
    assert recipe.small_crop_size == (64, 32, 16)
    assert replace(recipe, small_crop_share=0.1).small_crop_size == (16, 16, 16)


def test_the_paper_preset_is_the_paper() -> None:
    # Milletari et al., sections 3 and 4: SGD, momentum 0.99, rate 1e-4, divided by 10 every 25,000 iterations, batches
    # of two, Dice loss, no normalisation; their code: weight decay 5e-4. About 30,000 iterations.
    paper = load_recipe("paper")
    assert (paper.optimiser, paper.momentum, paper.learning_rate) == ("sgd", 0.99, 1e-4)
    assert (paper.schedule, paper.iterations_per_step, paper.iterations) == ("steps", 25_000, 30_000)
    assert (paper.batch_size, paper.weight_decay) == (2, 5e-4)
    assert (paper.layout, paper.loss, paper.normalisation) == ("paper", "dice", "none")
    assert not paper.soft_masks
    assert paper.width == 16
    assert paper.preprocessing == Preprocessing((1.0, 1.0, 1.5), (128, 128, 64), bias_correction=True)
    # B-spline coefficients from N(0, 15 voxels) for half of the samples, and histogram matching; nothing else.
    assert paper.deformation == DeformationSettings(bspline_probability=0.5, bspline_sigma_mm=15.0)
    assert paper.deformation.rotation_degrees == paper.deformation.scaling == paper.deformation.flip_probability == 0
    assert paper.appearance == AppearanceSettings(histogram_matching_probability=0.5)
    others = {key: value for key, value in asdict(paper.appearance).items() if key.endswith("_probability")}
    assert others.pop("histogram_matching_probability") == 0.5
    assert set(others.values()) == {0.0}
    # What came after the paper is off: the whole field, centred on the scan, real cases only, the last weights.
    assert paper.small_crop_until == paper.anywhere_probability == paper.synthetic_probability == 0
    assert paper.centre_jitter_mm == (0, 0, 0)
    assert paper.averaging_decay == paper.warm_up_iterations == 0
    assert paper.gradient_norm is None


def test_the_papers_baseline_differs_in_its_loss_alone() -> None:
    paper, baseline = load_recipe("paper"), load_recipe("paper-logistic")
    assert baseline.loss == "logistic"
    assert replace(baseline, loss=paper.loss, title=paper.title) == paper


@pytest.mark.parametrize(
    ("iteration", "expected"), [(0, 1e-4), (24_999, 1e-4), (25_000, 1e-5), (49_999, 1e-5), (50_000, 1e-6)]
)
def test_the_paper_divides_its_rate_by_ten_every_25000_iterations(iteration: int, expected: float) -> None:
    for progress in (0.0, 1.0):
        assert load_recipe("paper").learning_rate_at(iteration, progress) == pytest.approx(expected, rel=1e-12)


def test_the_default_preset_is_a_modern_one() -> None:
    default = load_recipe("default")
    assert (default.optimiser, default.schedule) == ("adamw", "cosine")
    assert default.layout == "compact"
    assert default.soft_masks
    assert default.warm_up_iterations > 0
    assert 0.9 < default.averaging_decay < 1


def test_cosine_falls_from_the_rate_to_zero_with_progress() -> None:
    recipe = replace(load_recipe("default"), learning_rate=0.002, warm_up_iterations=0)
    # (1 + cos(pi p)) / 2 is 1, 1/2 + sqrt(1/8), 1/2 and 0 at p = 0, 1/4, 1/2 and 1.
    assert recipe.learning_rate_at(7, 0.0) == pytest.approx(0.002)
    assert recipe.learning_rate_at(7, 0.25) == pytest.approx(0.002 * (0.5 + math.sqrt(1 / 8)))
    assert recipe.learning_rate_at(7, 0.5) == pytest.approx(0.001)
    assert recipe.learning_rate_at(7, 1.0) == pytest.approx(0.0, abs=1e-12)
    # Past the end of the time the rate does not rise again.
    assert recipe.learning_rate_at(7, 1.5) == pytest.approx(0.0, abs=1e-12)


def test_warm_up_rises_in_equal_steps() -> None:
    recipe = replace(load_recipe("default"), learning_rate=1.0, warm_up_iterations=3)
    assert [recipe.learning_rate_at(i, 0.0) for i in range(6)] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


@pytest.mark.parametrize("name", ["nnunet", "", "../recipes/paper", "paper.json"])
def test_unknown_presets_name_the_known_ones(name: str) -> None:
    with pytest.raises(UserError, match="default, finetune, paper, paper-logistic") as raised:
        load_recipe(name)
    assert raised.value.exit_code == ExitCode.USAGE


def test_unknown_and_missing_settings_are_refused() -> None:
    settings = load_recipe("paper").as_dict()
    with pytest.raises(TypeError, match="dropout"):
        Recipe.from_dict(settings | {"dropout": 0.5})
    with pytest.raises(TypeError, match="elastic"):
        Recipe.from_dict(settings | {"deformation": {"elastic": 1}})
    del settings["loss"]
    with pytest.raises(TypeError, match="loss"):
        Recipe.from_dict(settings)


@pytest.mark.parametrize("name", ["layout", "normalisation", "loss", "optimiser", "schedule"])
def test_a_slip_in_a_name_is_not_taken_for_something_else(name):
    settings = load_recipe("default").as_dict()
    with pytest.raises(ValueError, match=f"Unknown {name} 'dyce'"):
        Recipe.from_dict({**settings, name: "dyce"})
