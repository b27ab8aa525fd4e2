"""The comparisons of the V-Net paper on your own cases: one network, one recipe, one thing changed at a time.

    python Testing/accuracy/paper_comparison.py DATA [--iterations 800] [--only NAME ...] [-o DIR]

Milletari et al., 3DV 2016: Dice loss against the weighted logistic loss (section 5, table 2), and stages with and
without residual functions (section 2). With and without augmentation is ours. The network is the paper's with a quarter
of its width, and sees the paper's field at half its resolution, so that two cores can do it; normalisation, optimiser,
schedule, warm-up and gradient length are about those of the default recipe, as the paper's training took 48 hours of a
GPU. Dice is that of the thresholded probability on the network's grid, the mean over a fold's cases that no run has
seen: always the first fold, whatever the seed.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "VNetSegmentation"))

from vnet_segmentation.datasets.dataset import find_cases
from vnet_segmentation.device import choose_device, set_cpu_threads
from vnet_segmentation.images.preprocessing import Preprocessing
from vnet_segmentation.training.appearance import AppearanceSettings
from vnet_segmentation.training.cache import load_cases
from vnet_segmentation.training.deformation import DeformationSettings
from vnet_segmentation.training.folds import folds
from vnet_segmentation.training.learner import Learner
from vnet_segmentation.training.recipe import Recipe, load_recipe
from vnet_segmentation.training.training_run import Progress, TrainingRun

FIELD = Preprocessing(spacing_mm=(2.0, 2.0, 3.0), size=(64, 64, 32))
# The paper's recipe, but for optimiser, normalisation and length.
MODERN = load_recipe("default")
BASE = replace(
    load_recipe("paper"),
    width=4,
    normalisation=MODERN.normalisation,
    optimiser=MODERN.optimiser,
    learning_rate=MODERN.learning_rate,
    weight_decay=MODERN.weight_decay,
    schedule=MODERN.schedule,
    warm_up_iterations=50,
    gradient_norm=1.0,
    preprocessing=FIELD,
)
STILL = replace(
    BASE,
    deformation=DeformationSettings(bspline_probability=0.0),
    appearance=AppearanceSettings(histogram_matching_probability=0.0),
)
MILESTONES = (0.5, 0.6, 0.7, 0.75)
VARIANTS: dict[str, Recipe] = {
    "dice": BASE,
    "logistic": replace(BASE, loss="logistic"),
    "no-residual": replace(BASE, layout="plain"),
    "no-augmentation": STILL,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains each variant, writes its validation Dice as it goes, and compares them; not with runs of earlier calls in
    the same folder, which may have had other settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--iterations", type=int, default=800)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--every", type=int, default=50, help="iterations between measurements")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path("paper-comparison"), metavar="DIR")
    options = parser.parse_args(arguments)
    set_cpu_threads()
    options.output.mkdir(parents=True, exist_ok=True)
    training, validation = (
        load_cases(cases, FIELD, options.output / "cache") for cases in folds(find_cases(options.data), 5, 0)[0]
    )
    tables = [options.output / f"{name}-{options.seed}.csv" for name in options.only]
    for name, table in zip(options.only, tables, strict=True):
        recipe = replace(VARIANTS[name], iterations=options.iterations)
        learner = Learner(recipe, training, [], choose_device("auto"), options.seed)
        _follow(TrainingRun(learner, validation), options.every, table)
    print(format_curves({path.stem: _read_curve(path) for path in tables}))


def _follow(run: TrainingRun, every: int, table: Path) -> None:
    """Runs to the end; the table is written at each report, so that a stopped run leaves what there is."""

    def report(progress: Progress) -> None:
        print(table.stem, progress.iteration, progress.validation_dice, flush=True)
        with open(table, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["iteration", "loss", "validation_dice"])
            writer.writeheader()
            writer.writerows(run.history)

    run.run(report, store=lambda: None, report_every=every, validate_every=every)


def format_curves(curves: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    """A line per run: the Dice at its end, and when it first reached some others.

    Args:
        curves: by name, (iteration, Dice) in the order of the iterations, at least one. The end is the mean of the last
            four: single ones jump.
    """
    lines = [f"{'':20}{'iterations':>11}{'Dice at the end':>17}" + "".join(f"{f'until {d}':>12}" for d in MILESTONES)]
    for name, curve in curves.items():
        end = statistics.fmean(dice for _, dice in curve[-4:])
        reached = [next((str(n) for n, dice in curve if dice >= milestone), "never") for milestone in MILESTONES]
        lines.append(f"{name:20}{curve[-1][0]:11}{end:17.3f}" + "".join(f"{when:>12}" for when in reached))
    return "\n".join(lines)


def _read_curve(path: Path) -> list[tuple[int, float]]:
    with open(path, newline="", encoding="utf-8") as file:
        # The first iteration is reported, but not measured.
        rows = [row for row in csv.DictReader(file) if row["validation_dice"]]
    return [(int(row["iteration"]), float(row["validation_dice"])) for row in rows]


if __name__ == "__main__":
    main()
