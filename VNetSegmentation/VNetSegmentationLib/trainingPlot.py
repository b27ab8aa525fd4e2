"""Loss and validation Dice of a training, live, in Slicer's plot view. No Qt here."""

import slicer
import vtk
from slicer.i18n import tr as _

_X = "Iteration"
_SERIES = {"Loss": (0.55, 0.55, 0.55), "Validation Dice": (0.0, 0.45, 0.75)}
"""Names with their colours."""


class TrainingPlot:
    """A chart of two series, each with a table of its own; the scene may be closed while they grow."""

    def __init__(self):
        self._tables = {}  # ID and name by label
        self._offset = self._lastIteration = 0

    def begin(self, name: str) -> None:
        """Starts a new plot and shows it where there are views."""
        self._offset = self._lastIteration = 0
        title = slicer.mrmlScene.GenerateUniqueName(_("Training of {name}").format(name=name))
        # Of the user's scene nothing of it is part: Slicer would ask to save each table.
        chart = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotChartNode", title)
        chart.SetSaveWithScene(False)
        for label, colour in _SERIES.items():
            table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", f"{title}: {label}")
            table.SetSaveWithScene(False)
            for column in (_X, label):
                array = vtk.vtkDoubleArray()
                array.SetName(column)
                table.AddColumn(array)
            self._tables[label] = (table.GetID(), table.GetName())
            chart.AddAndObservePlotSeriesNodeID(_addSeries(table, label, colour).GetID())
        chart.SetTitle(title)
        chart.SetXAxisTitle(_X)
        if slicer.app.layoutManager() is not None:
            slicer.modules.plots.logic().ShowChartInLayout(chart)

    def add(self, iteration: int, loss: float | None, validationDice: float | None) -> None:
        """Adds what was measured. The runs of a cross-validation come one after another."""
        if iteration < self._lastIteration:
            self._offset += self._lastIteration
        self._lastIteration = iteration
        for label, value in zip(_SERIES, (loss, validationDice), strict=True):
            tableId, name = self._tables[label]
            table = slicer.mrmlScene.GetNodeByID(tableId)
            # After the scene was closed, a table of the user's may have got the ID.
            if table is not None and table.GetName() == name and value is not None:
                row = table.AddEmptyRow()
                table.GetTable().GetColumn(0).SetValue(row, self._offset + iteration)
                table.GetTable().GetColumn(1).SetValue(row, value)
                table.GetTable().Modified()
                table.Modified()


def _addSeries(table, label: str, colour: tuple[float, float, float]):
    series = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", label)
    series.SetSaveWithScene(False)
    series.SetAndObserveTableNodeID(table.GetID())
    series.SetXColumnName(_X)
    series.SetYColumnName(label)
    series.SetPlotType(series.PlotTypeScatter)
    # A single point is no line yet.
    series.SetMarkerStyle(series.MarkerStyleCircle)
    series.SetColor(*colour)
    return series
