"""Time of a training step with and without augmentation, in turns in the same run, and the memory it takes.

    python Testing/benchmarks/training_speed.py [--repeats 8] [--device cuda] [--width 16 --batch 2]

Steps are of the default recipe with the layout `paper` on whole fields of 128 x 128 x 64 voxels. The ratio is what
counts: it says the same on another machine.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "VNetSegmentation"))

from peak_memory import peak_memory_gb

from vnet_segmentation.device import choose_device, set_cpu_threads
from vnet_segmentation.images.preprocessing import Preprocessing
from vnet_segmentation.training.appearance import AppearanceSettings
from vnet_segmentation.training.cache import SyntheticCases
from vnet_segmentation.training.deformation import DeformationSettings
from vnet_segmentation.training.learner import Learner
from vnet_segmentation.training.preview import step_seconds
from vnet_segmentation.training.recipe import Recipe, load_recipe


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--recompute", action="store_true", help="compute activations twice instead of keeping them")
    parser.add_argument("--peak-memory", action="store_true", help="only make two steps and print the peak in GB")
    options = parser.parse_args()
    threads = set_cpu_threads()
    # The field of the paper.
    field = Preprocessing(spacing_mm=(1.0, 1.0, 1.5), size=(128, 128, 64))
    augmented = replace(
        load_recipe("default"), layout="paper", batch_size=options.batch, small_crop_until=0.0, preprocessing=field
    )
    if options.peak_memory:
        _peak_memory(options, augmented)
        return
    plain = replace(
        augmented,
        centre_jitter_mm=(0.0, 0.0, 0.0),
        anywhere_probability=0.0,
        deformation=DeformationSettings(bspline_probability=0.0),
        appearance=AppearanceSettings(histogram_matching_probability=0.0),
    )
    learners = [_make_learner(options, recipe) for recipe in (plain, augmented)]
    seconds: list[list[float]] = [[], []]
    # In turns, so that what else the machine does falls on both alike.
    for repeat in range(options.repeats + 1):
        for learner, times in zip(learners, seconds, strict=True):
            elapsed = step_seconds(learner, repeat, 0.0)
            if repeat:
                times.append(elapsed)
    device = learners[0].device
    print(f"{date.today()}, {platform.processor() or platform.machine()}, {threads} threads, torch {torch.__version__}")
    print(f"Device: {device.name} in {device.precision}. {device.reason}")
    print(f"Layout paper, width {options.width}, batch {options.batch}, 128 x 128 x 64\n")
    without, with_augmentation = map(statistics.median, seconds)
    print(f"step without augmentation {without:.3f} s")
    print(f"step with augmentation    {with_augmentation:.3f} s, {with_augmentation / without:.3f} times")
    for recompute in (False, True):
        command = [sys.executable, __file__, "--peak-memory", "--device", options.device]
        command += ["--width", str(options.width), "--batch", str(options.batch), *(["--recompute"] * recompute)]
        peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        print(f"peak memory, activations {'computed twice' if recompute else 'kept'}: {peak} GB")


def _make_learner(options: argparse.Namespace, recipe: Recipe) -> Learner:
    cases = SyntheticCases(2, recipe.preprocessing)
    learner = Learner(replace(recipe, width=options.width), cases, [], choose_device(options.device))
    learner.model.recomputes = options.recompute
    return learner


def _peak_memory(options: argparse.Namespace, recipe: Recipe) -> None:
    learner = _make_learner(options, recipe)
    for iteration in range(2):
        learner.step(iteration, 0.0)
    if learner.device.torch_device.type == "cuda":
        print(f"{torch.cuda.max_memory_allocated() / 1e9:.1f}")
        return
    print(peak_memory_gb())


if __name__ == "__main__":
    main()
