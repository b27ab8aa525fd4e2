"""Loss and validation Dice of a training, live, in Slicer's plot view. No Qt here."""

import math

import slicer
import vtk
from slicer.i18n import tr as _

_COLUMNS = ("Iteration", "Loss", "Validation Dice")
_COLOURS = {"Loss": (0.55, 0.55, 0.55), "Validation Dice": (0.0, 0.45, 0.75)}


class TrainingPlot:
    """A table, two series and a chart in the scene; the scene may be closed while they grow."""

    def __init__(self):
        self._tableId = None
        self._offset = 0
        self._lastIteration = 0

    def begin(self, name: str) -> None:
        """Starts a new plot and shows it where there are views."""
        self._offset = self._lastIteration = 0
        scene = slicer.mrmlScene
        title = scene.GenerateUniqueName(_("Training of {name}").format(name=name))
        table = scene.AddNewNodeByClass("vtkMRMLTableNode", title)
        for column in _COLUMNS:
            array = vtk.vtkDoubleArray()
            array.SetName(column)
            table.AddColumn(array)
        chart = scene.AddNewNodeByClass("vtkMRMLPlotChartNode", title)
        for column in _COLUMNS[1:]:
            series = scene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", column)
            series.SetAndObserveTableNodeID(table.GetID())
            series.SetXColumnName(_COLUMNS[0])
            series.SetYColumnName(column)
            series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
            series.SetColor(*_COLOURS[column])
            chart.AddAndObservePlotSeriesNodeID(series.GetID())
        chart.SetTitle(title)
        chart.SetXAxisTitle(_COLUMNS[0])
        self._tableId = table.GetID()
        if slicer.app.layoutManager() is not None:
            slicer.modules.plots.logic().ShowChartInLayout(chart)

    def add(self, iteration: int, loss: float | None, validationDice: float | None) -> None:
        """Adds a point; what is None leaves a gap. The runs of a cross-validation come one after another."""
        table = slicer.mrmlScene.GetNodeByID(self._tableId) if self._tableId else None
        if table is None:
            return
        if iteration < self._lastIteration:
            self._offset += self._lastIteration
        self._lastIteration = iteration
        row = table.AddEmptyRow()
        values = (self._offset + iteration, loss, validationDice)
        for column, value in enumerate(values):
            table.GetTable().GetColumn(column).SetValue(row, math.nan if value is None else value)
        table.GetTable().Modified()
        table.Modified()
