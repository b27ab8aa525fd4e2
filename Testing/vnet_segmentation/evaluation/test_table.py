"""Tables say what came out of each case, of each site's and of all, missed glands included."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.evaluation.rows import Row
from vnet_segmentation.evaluation.table import format_table, summarise, write_table
from vnet_segmentation.images.metrics import Agreement, Comparison


def row(case: str, site: str, dice: float, volume_percent: float) -> Row:
    """Distances grow as the Dice falls; base and apex are a little worse than the whole."""
    whole = Agreement(dice, 10 * (1 - dice), 5 * (1 - dice), volume_percent)
    return Row(case, site, Comparison(whole, replace(whole, dice=dice - 0.1), replace(whole, dice=dice - 0.2)))


ROWS = [row("Case00", "UCL", 0.9, 10.0), row("Case01", "HK", 0.8, -30.0), row("Case02", "UCL", 0.7, 5.0)]


def test_table_has_a_line_per_case_then_sites_mean_and_worst() -> None:
    lines = format_table(ROWS).splitlines()
    assert max(map(len, lines)) <= 110
    assert lines[2].split() == ["Case00", "UCL", "0.900", "1.00", "0.50", "+10.0", "0.800", "1.00", "0.700", "1.00"]
    # Means of Case01 alone, of Case00 and Case02, of all three; the worst is Case02 but for the volume.
    assert lines[6].split()[:8] == ["mean", "of", "1", "HK", "0.800", "2.00", "1.00", "-30.0"]
    assert lines[7].split()[:8] == ["mean", "of", "2", "UCL", "0.800", "2.00", "1.00", "+7.5"]
    assert lines[8].split()[:8] == ["mean", "of", "3", "all", "0.800", "2.00", "1.00", "-5.0"]
    assert lines[9].split() == ["worst", "0.700", "3.00", "1.50", "-30.0", "0.600", "3.00", "0.500", "3.00"]
    # (10 + 30 + 5) / 3.
    assert lines[10].endswith("15.0 %")


def test_columns_of_the_table_stand_below_their_headings() -> None:
    lines = format_table(ROWS).splitlines()
    assert len({len(line) for line in lines[:-1]}) == 1


def test_table_says_what_the_confidence_is_worth() -> None:
    confidence_and_dice = [(0.5, 0.6), (0.6, 0.7), (0.7, 0.84), (0.95, 0.8), (0.95, 0.9)]
    # On the limits: high, and no poor mask.
    confidence_and_dice += [(0.94, 0.85), (0.939, 0.86), (0.2, 0.95)]
    rows = [replace(row("", "", dice, 0.0), confidence=confidence) for confidence, dice in confidence_and_dice]
    # Ranks 2 3 4 7.5 7.5 6 5 1 and 1 2 4 3 7 5 6 8: their covariance 5 over sqrt(41.5 * 42).
    assert format_table(rows).splitlines()[-2:] == [
        "Confidence of 8 cases: rank correlation with the Dice 0.12; not called high:",
        "3 of 4 masks under Dice 0.85, 2 of 4 others",
    ]
    # Not of few, and not where all are equally sure.
    assert "Confidence" not in format_table(rows[1:])
    assert "Confidence" not in format_table([replace(r, confidence=0.5) for r in rows])
    assert "Confidence" not in format_table(ROWS)


def test_table_without_sites() -> None:
    lines = format_table([replace(r, site="") for r in ROWS]).splitlines()
    assert "site" not in lines[0]
    assert lines[6].split()[:4] == ["mean", "of", "3", "0.800"]
    assert len(lines) == 9


def test_long_names_and_missed_glands_keep_the_table_narrow() -> None:
    missed = Agreement(0.0, 345.67, 345.67, -100.0)
    long = Row("a-very-long-hospital-name-Prostate3T-03-0001", "Elsewhere General", Comparison(missed, missed, missed))
    lines = format_table([*ROWS, long]).splitlines()
    assert max(map(len, lines)) <= 110
    assert "Prostate3T-03-0001" in lines[5]


def test_csv_has_every_metric_of_every_case(tmp_path: Path) -> None:
    write_table([replace(ROWS[0], confidence=0.912), *ROWS[1:]], tmp_path / "new" / "table.csv")
    with open(tmp_path / "new" / "table.csv", encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [line["case"] for line in table] == ["Case00", "Case01", "Case02"]
    assert set(table[0]) == {"case", "site", "confidence", *ROWS[0].metrics()}
    assert [line["confidence"] for line in table] == ["0.912", "", ""]
    assert float(table[1]["relative_volume_difference_percent"]) == -30
    assert float(table[2]["apex_dice"]) == pytest.approx(0.5)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["table.csv"]


def test_csv_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write") as caught:
        write_table(ROWS, tmp_path / "file" / "table.csv")
    assert caught.value.exit_code == ExitCode.CANNOT_WRITE


def test_summary_for_the_model() -> None:
    summary = json.loads(json.dumps(summarise(ROWS)))
    assert summary["n_cases"] == 3
    assert summary["mean"]["dice"] == 0.8
    assert summary["mean"]["relative_volume_difference_percent"] == -5.0
    assert summary["mean"]["absolute_volume_difference_percent"] == 15.0
    assert summary["worst"]["dice"] == 0.7
    assert summary["worst"]["hausdorff95_mm"] == 3.0
    assert [(site["site"], site["n_cases"], site["dice"]) for site in summary["by_site"]] == [
        ("HK", 1, 0.8),
        ("UCL", 2, 0.8),
    ]
    assert [(case["case"], case["site"], case["dice"]) for case in summary["by_case"]] == [
        ("Case00", "UCL", 0.9),
        ("Case01", "HK", 0.8),
        ("Case02", "UCL", 0.7),
    ]
