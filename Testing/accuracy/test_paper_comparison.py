"""What the comparison of the paper's choices says of the runs, and that each changes one thing."""

from __future__ import annotations

from dataclasses import asdict

from accuracy.paper_comparison import BASE, VARIANTS, format_curves


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


def test_table_of_curves() -> None:
    curve = [(50, 0.1), (100, 0.55), (150, 0.45), (200, 0.72), (250, 0.74)]
    header, line, short = format_curves({"dice-0": curve, "logistic-0": curve[:1]}).splitlines()
    assert header.split()[-8:] == ["until", "0.5", "until", "0.6", "until", "0.7", "until", "0.75"]
    # The mean of 0.55, 0.45, 0.72 and 0.74.
    assert line.split() == ["dice-0", "250", "0.615", "100", "200", "200", "never"]
    assert short.split() == ["logistic-0", "50", "0.100", "never", "never", "never", "never"]
