"""What the comparison of the paper's choices says of the runs, and that each changes one thing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from accuracy import paper_comparison
from accuracy.paper_comparison import BASE, VARIANTS, format_curves

from vnet_segmentation.training.training_run import Progress


def test_each_variant_changes_one_thing() -> None:
    base = asdict(BASE)
    changed = {
        name: {key for key, value in asdict(recipe).items() if value != base[key]} for name, recipe in VARIANTS.items()
    }
    assert changed == {
        "dice": set(),
        "logistic": {"loss"},
        "no-residual": {"layout"},
        "no-augmentation": {"deformation", "appearance"},
    }


class QuickRun:
    """Learns nothing."""

    def __init__(self, *settings: Any) -> None:
        self.history = [{"iteration": 10, "loss": 0.5, "validation_dice": 0.6}]

    def run(self, report: Callable[[Progress], None], **options: Any) -> None:
        report(Progress(10, 1.0, 0.5, 0.6, 0.0))


def test_only_the_runs_of_this_call_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(paper_comparison, "Learner", lambda *settings: None)
    monkeypatch.setattr(paper_comparison, "TrainingRun", QuickRun)
    for name, answer in (("find_cases", []), ("load_cases", []), ("folds", [([], [])])):
        monkeypatch.setattr(paper_comparison, name, lambda *arguments, answer=answer: answer)
    (tmp_path / "logistic-7.csv").write_text("iteration,loss,validation_dice\n9999,0.1,0.9\n")
    paper_comparison.main(["data", "-o", str(tmp_path), "--only", "no-residual", "dice", "--seed", "3"])
    table = capsys.readouterr().out.splitlines()[-3:]
    assert [line.split()[0] for line in table] == ["iterations", "no-residual-3", "dice-3"]


def test_table_of_curves() -> None:
    curve = [(50, 0.1), (100, 0.55), (150, 0.45), (200, 0.72), (250, 0.74)]
    header, line, short = format_curves({"dice-0": curve, "logistic-0": curve[:1]}).splitlines()
    assert header.split()[-8:] == ["until", "0.5", "until", "0.6", "until", "0.7", "until", "0.75"]
    # The mean of 0.55, 0.45, 0.72 and 0.74.
    assert line.split() == ["dice-0", "250", "0.615", "100", "200", "200", "never"]
    assert short.split() == ["logistic-0", "50", "0.100", "never", "never", "never", "never"]
