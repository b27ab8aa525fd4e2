"""A training's plot, which grows whatever becomes of the scene."""

from __future__ import annotations


def points(table) -> list[tuple[float, float]]:
    x, y = (table.GetTable().GetColumn(i) for i in range(2))
    return [(x.GetValue(i), y.GetValue(i)) for i in range(table.GetNumberOfRows())]


def test_the_runs_of_a_cross_validation_come_one_after_another(desktop):
    import slicer

    from VNetSegmentationLib.trainingPlot import TrainingPlot

    plot = TrainingPlot()
    plot.begin("mine")
    for iteration, loss, dice in ((0, None, 0.5), (4, 0.4, None), (8, 0.3, 0.7), (4, 0.5, None)):
        plot.add(iteration, loss, dice)
    loss, dice = slicer.util.getNodesByClass("vtkMRMLTableNode")
    assert points(loss) == [(4, 0.4), (8, 0.3), (12, 0.5)]
    assert points(dice) == [(0, 0.5), (8, 0.7)]
    assert not any(node.GetSaveWithScene() for node in (loss, dice))


def test_a_table_of_the_next_scene_is_left_alone(desktop):
    import slicer

    from VNetSegmentationLib.trainingPlot import TrainingPlot

    plot = TrainingPlot()
    plot.begin("mine")
    slicer.mrmlScene.Clear(0)
    users = [slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", "PSA values") for _ in range(4)]
    plot.add(1, 0.5, 0.6)
    assert [table.GetNumberOfRows() for table in users] == [0] * 4
