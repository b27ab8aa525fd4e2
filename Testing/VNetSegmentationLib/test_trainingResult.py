"""The table of a training's result."""

from __future__ import annotations

from vnet_segmentation.evaluation.rows import Row
from vnet_segmentation.images.metrics import Agreement, Comparison


def row(case: str, dice: float, hd95_mm: float, volume_percent: float) -> Row:
    whole = Agreement(dice, hd95_mm, hd95_mm / 3, volume_percent)
    return Row(case, "", Comparison(whole, whole, whole))


def shown(ui) -> list[list[str]]:
    table = ui.trainingResultTable
    return [[table.item(i, j).text() for j in range(table.columnCount)] for i in range(table.rowCount)]


def test_each_case_then_the_mean_and_the_worst(desktop):
    from vnet_segmentation.worker.training_commands import figures
    from VNetSegmentationLib.trainingResult import TrainingResult

    ui = desktop.open_module().ui
    before = figures([row("b", 0.7, 9.0, 10.0), row("a", 0.8, 6.0, -30.0)])
    after = figures([row("a", 0.9, 3.0, 4.0), row("b", 0.85, 4.0, -12.0)])
    result = TrainingResult(ui)
    result.show({"before": before, "after": after, "improvement": {"sentence": "Better.", "verdict": "better"}})
    assert shown(ui) == [
        ["a", "0.800", "0.900", "6.0", "3.0", "-30", "+4"],
        ["b", "0.700", "0.850", "9.0", "4.0", "+10", "-12"],
        # Of the volume the mean of the magnitude: (30 + 10) / 2 and (4 + 12) / 2.
        ["Mean", "0.750", "0.875", "7.5", "3.5", "+20", "+8"],
        ["Worst", "0.700", "0.850", "9.0", "4.0", "-30", "-12"],
    ]
    assert ui.trainingVerdictLabel.text == "Better."
    result.show({"before": figures([]), "after": after, "improvement": None})
    assert shown(ui)[2] == ["Mean", "", "0.875", "", "3.5", "", "+8"]
    assert "no cases to compare" in ui.trainingVerdictLabel.text
    result.show({"before": figures([]), "after": figures([]), "improvement": None})
    assert shown(ui) == []
