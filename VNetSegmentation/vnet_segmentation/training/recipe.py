"""How a model is trained: settings that recipes/*.json hold."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.images.preprocessing import Preprocessing
from vnet_segmentation.network.loss import LOSSES
from vnet_segmentation.network.vnet import LAYOUTS, NORMALISATIONS, SIDE_MULTIPLE
from vnet_segmentation.training.appearance import AppearanceSettings
from vnet_segmentation.training.deformation import DeformationSettings

RECIPES_FOLDER = Path(__file__).parent / "recipes"

_CHOICES = {
    "layout": tuple(LAYOUTS),
    "normalisation": NORMALISATIONS,
    "loss": tuple(LOSSES),
    "optimiser": ("adamw", "sgd"),
    "schedule": ("cosine", "steps"),
}


@dataclass(frozen=True)
class Recipe:
    """Settings of a training run. Sizes and lengths in axis order x, y, z."""

    title: str
    """For people."""
    layout: str
    """Of the network, a name in `vnet.LAYOUTS`. Where a model is trained further, layout, width and normalisation
    are its own."""
    normalisation: str
    """Of the network, see `network.vnet.VNet`."""
    loss: str
    """A name in `loss.LOSSES`."""
    optimiser: str
    """"adamw" or "sgd"."""
    learning_rate: float
    """The largest."""
    weight_decay: float
    """Of the kernels: how strongly they are pulled to 0."""
    schedule: str
    """"cosine", from the learning rate to 0, or "steps", divided by 10 every `iterations_per_step`."""
    iterations: int
    """Of a run."""
    batch_size: int
    """Crops that an iteration learns from."""
    width: int = 8
    """Channels of the network's first stage."""
    momentum: float = 0.9
    """Of "sgd"."""
    iterations_per_step: int = 25_000
    """Of the schedule "steps"."""
    warm_up_iterations: int = 0
    """In which the learning rate rises from 0, with the schedule "cosine"."""
    gradient_norm: float | None = None
    """Gradients longer than this are shortened to it."""
    averaging_decay: float = 0.0
    """Of the exponential average of the weights, which is the model that is kept; 0 keeps the last weights."""
    start_share: float = 0.0
    """Share of the initial weights in the model that is kept, where training starts from a model: what it knows of
    other scanners is not forgotten (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022)."""
    keeps_best: bool = False
    """Keep the weights with the best validation, if there are validation cases, instead of the last ones."""
    patience: int = 0
    """The run ends after so many validations without a gain, in the last quarter of a cosine schedule; 0 for never."""
    soft_masks: bool = False
    """Learn the gland's share of each voxel instead of a mask of 0 and 1: on a grid coarser than the scan's, this says
    where in a voxel the border lies."""
    synthetic_probability: float = 0.0
    """Share of the crops that come from synthetic phantoms."""
    n_synthetic_cases: int = 48
    """Phantoms to draw from; one takes about a second to make."""
    small_crop_until: float = 0.0
    """Part of the run that sees small crops instead of the model's whole field: most of the learning at less than half
    of the time."""
    small_crop_share: float = 0.75
    """Of each side of the field, see `small_crop_size`."""
    centre_jitter_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Largest distance between the crop's centre and the gland's. All 0: crops are centred on the scan, as in the
    paper's code."""
    anywhere_probability: float = 0.0
    """Share of the crops centred anywhere in the scan, with the gland or without it."""
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    """What the network sees, in training and whenever the model is used."""
    deformation: DeformationSettings = field(default_factory=DeformationSettings)
    """How crops are bent, turned and scaled."""
    appearance: AppearanceSettings = field(default_factory=AppearanceSettings)
    """How their grey levels are changed."""

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"Unknown {name} {getattr(self, name)!r}; known are {', '.join(choices)}.")

    @property
    def small_crop_size(self) -> tuple[int, int, int]:
        """(x, y, z) in voxels: the share of each side, rounded to the multiple that the network needs."""
        x, y, z = (
            max(1, round(side * self.small_crop_share / SIDE_MULTIPLE)) * SIDE_MULTIPLE
            for side in self.preprocessing.size
        )
        return x, y, z

    def learning_rate_at(self, iteration: int, progress: float) -> float:
        """Learning rate of an iteration (from 0), `progress` in [0, 1] being the part of the run that is done."""
        if self.schedule == "steps":
            return self.learning_rate / 10 ** (iteration // self.iterations_per_step)
        warm_up = min(1.0, (iteration + 1) / (self.warm_up_iterations + 1))
        return self.learning_rate * warm_up * (1 + math.cos(math.pi * min(progress, 1.0))) / 2

    def as_dict(self) -> dict[str, Any]:
        """For model.json and checkpoints."""
        return asdict(self)

    @staticmethod
    def from_dict(settings: dict[str, Any]) -> Recipe:
        """The inverse of `as_dict`.

        Raises:
            TypeError: an unknown or missing setting.
            ValueError: an unknown layout, normalisation, loss, optimiser or schedule, or ill-formed preprocessing
                settings.
        """
        settings = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
        settings["preprocessing"] = Preprocessing.from_dict(settings.get("preprocessing", {}))
        settings["deformation"] = DeformationSettings(**settings.get("deformation", {}))
        settings["appearance"] = AppearanceSettings(**settings.get("appearance", {}))
        return Recipe(**settings)


def recipe_names() -> list[str]:
    """Names of the presets."""
    return sorted(path.stem for path in RECIPES_FOLDER.glob("*.json"))


def load_recipe(name: str) -> Recipe:
    """A preset by its name.

    Raises:
        UserError: there is no such preset (`ExitCode.USAGE`).
    """
    path = RECIPES_FOLDER / f"{name}.json"
    if name not in recipe_names():
        raise UserError(f"Unknown preset {name!r}. Choose one of: {', '.join(recipe_names())}.", ExitCode.USAGE)
    return Recipe.from_dict(json.loads(path.read_text("utf-8")))
