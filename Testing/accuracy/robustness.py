"""Dice of labelled cases as they are and degraded, and a page of pictures for each degradation.

    python Testing/accuracy/robustness.py DATA [--cross-validation DIR | --model MODEL] [--cases NAME ...] [-o DIR]

With the folder of a cross-validation each case is segmented by the model that has not seen it.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import zlib
from collections import defaultdict
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "VNetSegmentation"))

from degradations import DEGRADATIONS, degrade

from vnet_segmentation.datasets.dataset import Case, find_cases
from vnet_segmentation.device import choose_device, set_cpu_threads
from vnet_segmentation.images.mask_files import read_mask
from vnet_segmentation.images.metrics import compare
from vnet_segmentation.images.picture import write_picture
from vnet_segmentation.images.scans import read_scan
from vnet_segmentation.models.library import find_model
from vnet_segmentation.segmentation.segmenter import Segmenter


def main() -> None:
    """Writes the table and the pictures."""
    names = [function.__name__ for function in DEGRADATIONS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    models = parser.add_mutually_exclusive_group()
    models.add_argument("--cross-validation", type=Path, metavar="DIR")
    models.add_argument("--model")
    parser.add_argument("--cases", nargs="+", metavar="NAME")
    parser.add_argument("--degradations", nargs="+", choices=names, default=names)
    parser.add_argument("-o", "--output", type=Path, default=Path("robustness"), metavar="DIR")
    options = parser.parse_args()
    set_cpu_threads()
    options.output.mkdir(parents=True, exist_ok=True)
    device = choose_device("auto")
    table = options.output / "results.csv"
    dice: dict[str, list[float]] = defaultdict(list)
    with open(table, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "site", "degradation", "dice", "hd95_mm", "confidence", "level", "warnings"])
        for model, cases in _cases_by_model(options).items():
            segmenter = Segmenter(model, device)
            for case in cases:
                for name in options.degradations:
                    row = _measure(segmenter, case, name, options.output)
                    writer.writerow(row)
                    file.flush()
                    dice[name].append(float(row[3]))
                    print(*row, flush=True)
    print(f"\n{'degradation':18}{'cases':>6}{'mean Dice':>11}{'worst':>8}{'under 0.7':>11}")
    for name, values in dice.items():
        print(f"{name:18}{len(values):6}{np.mean(values):11.3f}{min(values):8.3f}{sum(v < 0.7 for v in values):11}")
    print(f"\nTable and pictures: {options.output}")


def _cases_by_model(options: argparse.Namespace) -> dict[Path, list[Case]]:
    cases = [case for case in find_cases(options.data) if not options.cases or case.name in options.cases]
    if options.cross_validation is None:
        return {find_model(options.model): cases}
    plan = json.loads((options.cross_validation / "crossvalidation.json").read_text("utf-8"))
    models = {options.cross_validation / f"fold-{number}": unseen for number, unseen in enumerate(plan["folds"], 1)}
    return {
        model: [case for case in cases if case.name in unseen]
        for model, unseen in models.items()
        if (model / "model.json").exists()
    }


def _measure(segmenter: Segmenter, case: Case, name: str, output: Path) -> list[str]:
    seed = zlib.crc32(f"{case.name} {name}".encode())
    scan, truth = degrade(name, read_scan(case.image), read_mask(case.mask, case.label), seed)
    result = segmenter.segment(scan)
    agreement = compare(result.mask, truth).whole
    write_picture(scan, result.mask, output / f"{name}-{case.name}.png")
    confidence = result.report["confidence"]
    return [
        case.name,
        case.site,
        name,
        f"{agreement.dice:.3f}",
        f"{agreement.hausdorff95_mm:.1f}",
        f"{confidence['value']:.3f}",
        confidence["level"],
        " ".join(result.report["warnings"]),
    ]


if __name__ == "__main__":
    main()
