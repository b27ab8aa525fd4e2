"""What is asked of a training: its options, its recipe, and its runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vnet_segmentation.datasets.dataset import Case
from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.images.preprocessing import Preprocessing
from vnet_segmentation.models.bundle import load_bundle
from vnet_segmentation.network.vnet import MAX_WIDTH, VNet
from vnet_segmentation.training.recipe import Recipe, load_recipe
from vnet_segmentation.training.splits import TrainingPlan, split_cases

_LARGEST_SCALING = 0.5
"""Nothing is made smaller than half, however strong the deformation."""


@dataclass(frozen=True)
class TrainingOptions:
    """What the user chooses."""

    base: Path | None = None
    """Folder of the model to start from, which also says layout, width and preprocessing; None: from scratch."""
    preset: str | None = None
    """None: "finetune" with a base, "default" without."""
    layout: str | None = None
    """None: the preset's."""
    width: int | None = None
    """None: the preset's."""
    validation: int | tuple[str, ...] | None = None
    """How many cases to set apart, or which; None: one in five, but with a base and fewer than 20 cases each is
    predicted by a model that has not learned from it (3 folds), and the model learns from all. A site keeps a case to
    learn from, unless one in five cannot be set apart so, nor 4. Where the data set says itself which cases are for
    validation, a number is ignored."""
    held_out: tuple[str, ...] = ()
    """Cases that this training must not see at all, not even to choose its best weights."""
    label: int | None = None
    """The label that is the prostate in masks with several; None: such masks are refused; 0: every label is."""
    iterations: int | None = None
    """Of each run; None: as many as the preset says."""
    minutes: float | None = None
    """For all runs together."""
    deformation_strength: float = 1.0
    """Factor on the recipe's B-spline coefficients, rotation and scaling; 0 switches them off."""
    histogram_matching: bool = True
    seed: int = 0
    preprocessing: Preprocessing | None = None
    """None: the base model's, or the preset's."""
    bias_correction: bool | None = None
    """N4, in training and whenever the model is used; None: as preprocessing or preset say. With a base, what that
    says."""
    title: str = ""
    data_terms: str = ""
    """Source, licence and citation of the data, for the model card."""
    names_cases: bool = False
    """Write the cases' names into the model, as for public data. They may be patients' names, so by default not."""

    @property
    def preset_name(self) -> str:
        return self.preset or ("default" if self.base is None else "finetune")


def check_options(options: TrainingOptions) -> None:
    """Refuses what would fail only after hours.

    Raises:
        UserError: a number out of range, or a title of several lines (`ExitCode.USAGE`).
    """
    for is_right, sentence in (
        (
            options.width is None or 1 <= options.width <= MAX_WIDTH,
            f"The width is {options.width}. Choose 1 to {MAX_WIDTH}.",
        ),
        (options.iterations is None or options.iterations >= 1, "A training has at least 1 iteration."),
        (options.minutes is None or options.minutes > 0, "The time for a training must be more than 0 minutes."),
        (0 <= options.seed < 2**63, f"The seed is {options.seed}. Choose 0 or a positive number below 2^63."),
        (0 <= options.deformation_strength <= 3, "The strength of the deformation must be 0 to 3."),
        (options.title.isprintable(), "The title must be one line of printable characters."),
    ):
        if not is_right:
            raise UserError(sentence, ExitCode.USAGE)


def plan_training(cases: Sequence[Case], options: TrainingOptions) -> TrainingPlan:
    """See `training.splits.split_cases`.

    Args:
        cases: without those that are held out.
    """
    return split_cases(cases, options.validation, options.base is not None, options.seed)


def load_base(options: TrainingOptions) -> tuple[TrainingOptions, VNet | None, dict[str, Any] | None]:
    """The model to start from and its description, and the options with what it decides; without one, as they are.

    Raises:
        UserError: the base model cannot be used (`ExitCode.BAD_MODEL`).
    """
    if options.base is None:
        return options, None, None
    base, description = load_bundle(options.base)
    preprocessing = Preprocessing.from_dict(description["preprocessing"])
    options = replace(
        options,
        layout=base.layout,
        width=base.width,
        preprocessing=preprocessing,
        bias_correction=preprocessing.bias_correction,
    )
    return options, base, description


def make_recipe(options: TrainingOptions, base: VNet | None, n_processes: int = 1) -> Recipe:
    """The preset with the user's changes.

    Args:
        options: as `load_base` returns them.
        base: the network of the model to start from.
        n_processes: that share a batch.
    """
    recipe = load_recipe(options.preset_name)
    strength, deformation = options.deformation_strength, recipe.deformation
    appearance = recipe.appearance
    if not options.histogram_matching:
        appearance = replace(appearance, histogram_matching_probability=0.0)
    preprocessing = options.preprocessing or recipe.preprocessing
    if options.bias_correction is not None:
        preprocessing = replace(preprocessing, bias_correction=options.bias_correction)
    iterations = options.iterations or recipe.iterations
    return replace(
        recipe,
        layout=options.layout or recipe.layout,
        width=options.width or recipe.width,
        normalisation=recipe.normalisation if base is None else base.normalisation,
        preprocessing=preprocessing,
        iterations=iterations,
        # Of a short run a tenth, or it would never come to its full rate.
        warm_up_iterations=min(recipe.warm_up_iterations, iterations // 10),
        # The processes share a batch; one that is too small for them grows.
        batch_size=-(-recipe.batch_size // n_processes) * n_processes,
        deformation=replace(
            deformation,
            bspline_sigma_mm=deformation.bspline_sigma_mm * strength,
            rotation_degrees=deformation.rotation_degrees * strength,
            scaling=min(_LARGEST_SCALING, deformation.scaling * strength),
        ),
        appearance=appearance,
    )
