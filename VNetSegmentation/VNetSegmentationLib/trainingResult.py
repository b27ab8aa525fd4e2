"""The validation cases before and after a training, and what follows from them."""

import qt
from slicer.i18n import tr as _

from VNetSegmentationLib.wrappedText import showWrapped

_VOLUME = "relative_volume_difference_percent"
_METRICS = (("dice", "{:.3f}"), ("hausdorff95_mm", "{:.1f}"), (_VOLUME, "{:+.0f}"))


class TrainingResult:
    """Shows the result of a training.

    Args:
        ui: the panel's widgets.
    """

    def __init__(self, ui):
        self._ui = ui
        self.clear()

    def clear(self) -> None:
        """Nothing was trained yet."""
        self._ui.trainingResultCollapsibleButton.enabled = False
        self._ui.trainingResultCollapsibleButton.collapsed = True
        self._ui.trainingResultTable.setRowCount(0)
        showWrapped(self._ui.trainingVerdictLabel, "")

    def show(self, result: dict) -> None:
        """Fills the table with the fields of the worker's result."""
        before, after = result["before"], result["after"]
        table = self._ui.trainingResultTable
        table.setRowCount(0)
        befores = {case["case"]: case for case in before["cases"]}
        for case in after["cases"]:
            self._addRow(case["case"], befores.get(case["case"], {}), case)
        if after["cases"]:
            self._addRow(_("Mean"), _magnitude(before["mean"]), _magnitude(after["mean"]))
            self._addRow(_("Worst"), before["worst"], after["worst"])
        table.resizeColumnsToContents()
        self._ui.trainingResultCollapsibleButton.enabled = True
        self._ui.trainingResultCollapsibleButton.collapsed = False
        improvement = result["improvement"]
        showWrapped(
            self._ui.trainingVerdictLabel,
            improvement["sentence"]
            if improvement
            else _("There were no cases to compare the model with the one before it."),
        )

    def _addRow(self, name: str, before: dict, after: dict) -> None:
        table = self._ui.trainingResultTable
        number = table.rowCount
        table.setRowCount(number + 1)
        texts = [
            form.format(figures[metric]) if metric in figures else ""
            for metric, form in _METRICS
            for figures in (before, after)
        ]
        for column, text in enumerate([name, *texts]):
            table.setItem(number, column, qt.QTableWidgetItem(text))


def _magnitude(mean: dict) -> dict:
    """The means with the volume difference's magnitude in its place: too large and too small do not cancel out."""
    return {**mean, _VOLUME: mean["absolute_volume_difference_percent"]} if mean else mean
