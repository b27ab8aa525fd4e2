"""What a run is worth so far: the Dice of cases that it does not learn from, and the weights with the best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vnet_segmentation.images.preprocessing import Preprocessing
from vnet_segmentation.network.vnet import VNet
from vnet_segmentation.segmentation.inference import Predictor
from vnet_segmentation.training.augmentation import make_sample, middle_sample
from vnet_segmentation.training.cache import TrainingCase

_SMALLEST_GAIN = 0.0005
"""Of Dice; less does not count as one."""


def mean_dice(predictor: Predictor, cases: Sequence[TrainingCase], preprocessing: Preprocessing) -> float:
    """Mean Dice of the thresholded probability, on the network's grid, on crops centred on the scan.

    Args:
        cases: at least one; two empty masks agree.

    Raises:
        UserError: not even tiles on the CPU fit into memory (`ExitCode.OUT_OF_MEMORY`).
    """
    x, y, z = preprocessing.size
    total = 0.0
    for case in cases:
        image, share = make_sample(middle_sample(case), (z, y, x), preprocessing, torch.device("cpu"))
        prediction, target = predictor.probability(image) >= 0.5, share >= 0.5
        both, size = (prediction & target).sum().item(), (prediction.sum() + target.sum()).item()
        total += 2 * both / size if size else 1.0
    return total / len(cases)


@dataclass
class Best:
    """The best validation so far."""

    dice: float = -math.inf
    n_without_gain: int = 0
    """Validations since then."""
    iteration: int | None = None
    """Of the weights; 0: those the run started from; None where none are kept."""
    weights: dict[str, Tensor] = field(default_factory=dict)

    def update(self, dice: float) -> bool:
        """Takes a validation into account; returns whether it is the best so far."""
        if dice > self.dice + _SMALLEST_GAIN:
            self.dice, self.n_without_gain = dice, 0
            return True
        self.n_without_gain += 1
        return False

    def keep(self, network: VNet, iteration: int) -> None:
        """Keeps a copy of the weights, on the CPU."""
        self.iteration = iteration
        self.weights = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
