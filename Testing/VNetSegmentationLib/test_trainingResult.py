"""The table of a training's result: means and worst values that hide no error."""

from __future__ import annotations


def row(case: str, dice: float, hausdorff95_mm: float, volume_percent: float) -> dict:
    return {
        "case": case,
        "dice": dice,
        "hausdorff95_mm": hausdorff95_mm,
        "relative_volume_difference_percent": volume_percent,
    }


def test_a_mask_that_is_too_large_and_one_that_is_too_small_do_not_cancel_out(desktop):
    ui = desktop.open_module(enter=False).ui
    from VNetSegmentationLib.trainingResult import TrainingResult

    before = [row("a", 0.8, 4.0, 30.0), row("b", 0.7, 8.0, -10.0)]
    after = [row("b", 0.9, 3.0, 4.0), row("a", 0.86, 5.0, -8.0)]
    TrainingResult(ui).show({"before": before, "after": after, "improvement": None})
    table = ui.trainingResultTable
    cells = [[table.item(line, column).text() for column in range(7)] for line in range(table.rowCount)]
    # Dice, distance and volume, each before and after.
    assert cells == [
        ["b", "0.700", "0.900", "8.0", "3.0", "-10", "+4"],
        ["a", "0.800", "0.860", "4.0", "5.0", "+30", "-8"],
        ["Mean", "0.750", "0.880", "6.0", "4.0", "+20", "+6"],
        ["Worst", "0.700", "0.860", "8.0", "5.0", "+30", "-8"],
    ]


def test_without_a_model_before_there_is_nothing_to_compare_with(desktop):
    ui = desktop.open_module(enter=False).ui
    from VNetSegmentationLib.trainingResult import TrainingResult

    TrainingResult(ui).show({"before": [], "after": [row("a", 0.9, 3.0, 4.0)], "improvement": None})
    assert [ui.trainingResultTable.item(1, column).text() for column in (0, 1, 2)] == ["Mean", "", "0.900"]
    assert "no cases to compare" in ui.trainingVerdictLabel.text
