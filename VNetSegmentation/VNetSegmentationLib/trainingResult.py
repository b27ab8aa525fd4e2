"""The validation cases before and after a training, and what follows from them."""

import qt
from slicer.i18n import tr as _

from VNetSegmentationLib.wrappedText import showWrapped

_METRICS = (
    ("dice", "{:.3f}"),
    ("hausdorff95_mm", "{:.1f}"),
    ("relative_volume_difference_percent", "{:+.0f}"),
)


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
        before = {row["case"]: row for row in result["before"]}
        pairs = [(row["case"], before.get(row["case"]), row) for row in result["after"]]
        table = self._ui.trainingResultTable
        table.setRowCount(0)
        for name, old, new in pairs:
            self._addRow(
                name, [value for metric, _form in _METRICS for value in ((old or {}).get(metric), new[metric])]
            )
        if pairs:
            for name, combine in ((_("Mean"), _mean), (_("Worst"), _worst)):
                values = []
                for metric, _form in _METRICS:
                    values.append(combine(metric, [old[metric] for _case, old, _new in pairs if old is not None]))
                    values.append(combine(metric, [new[metric] for _case, _old, new in pairs]))
                self._addRow(name, values)
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

    def _addRow(self, name: str, values: list) -> None:
        table = self._ui.trainingResultTable
        number = table.rowCount
        table.setRowCount(number + 1)
        forms = [form for _metric, form in _METRICS for _twice in range(2)]
        texts = [
            name,
            *("" if value is None else form.format(value) for form, value in zip(forms, values, strict=True)),
        ]
        for column, text in enumerate(texts):
            table.setItem(number, column, qt.QTableWidgetItem(text))


def _mean(metric: str, values: list[float]) -> float | None:
    """Of a volume error, the mean of its magnitude: too large and too small do not cancel out."""
    if not values:
        return None
    return sum(abs(value) for value in values) / len(values)


def _worst(metric: str, values: list[float]) -> float | None:
    if not values:
        return None
    return min(values) if metric == "dice" else max(values, key=abs)
