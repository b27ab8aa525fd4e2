"""Makes a model whose masks at the threshold 0.5 are those of another model at a given one.

    python Testing/accuracy/shift_threshold.py MODEL OUTPUT --threshold 0.44

The threshold with the best expected Dice is half of that Dice where the probability is right (Lipton, Elkan,
Narayanaswamy, "Optimal thresholding of classifiers to maximize F1 measure", ECML 2014): 0.44 where 0.88 can be had. The
shift is in the bias of the last convolution: nothing else has to know of it.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "VNetSegmentation"))

from vnet_segmentation.bundle import load_bundle, save_bundle


def main() -> None:
    """Writes the new model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--threshold", type=float, required=True)
    options = parser.parse_args()
    network, description = load_bundle(options.model)
    bias = network.output[-1].bias
    with torch.no_grad():
        bias[1] += math.log((1 - options.threshold) / options.threshold)
    kept = {
        field: description[field] for field in ("title", "preprocessing", "labels", "training", "metrics", "parent")
    }
    save_bundle(options.output, network, kept | {"name": options.output.resolve().name}, quantise=True)


if __name__ == "__main__":
    main()
