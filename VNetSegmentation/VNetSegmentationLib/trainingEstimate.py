"""How far this computer comes in the time that the user gives a training."""

from slicer.i18n import tr as _

from VNetSegmentationLib.workerClient import Job
from VNetSegmentationLib.wrappedText import showWrapped


class TrainingEstimate:
    """Has an iteration timed, once for each base model and device, and says what follows from it.

    Args:
        ui: the panel's widgets.
        client: of the worker that measures.
        worker: see `panelWorker.PanelWorker`.
        cases: `trainingCases.TrainingCases`.
        options: gives the base model, see ``vnet_segmentation.worker.training_commands``.
    """

    def __init__(self, ui, client, worker, cases, options):
        self._ui, self._client, self._worker, self._cases, self._options = ui, client, worker, cases, options
        self._speeds = {}  # answers of the worker by base model and device
        self._job = None
        self._isTraining = False
        for spinBox in (ui.trainingMinutesSpinBox, ui.trainingIterationsSpinBox):
            spinBox.connect("valueChanged(int)", lambda value: self._show())
        ui.deviceComboBox.connect("currentIndexChanged(int)", lambda index: self.update(self._isTraining))

    def update(self, isTraining: bool) -> None:
        """The cases, the base model or the device changed, or a training began or ended."""
        self._isTraining = isTraining
        key = self._key()
        isReady = self._cases.problem() is None and not isTraining and not self._worker.isInstalling
        if isReady and key not in self._speeds and self._job is None:
            self._job = Job(
                "estimate",
                {"device": key[1], "options": {"base": key[0]}},
                lambda speed: self._measured(key, speed),
                lambda sentence, code: self._failed(),
                self._failed,
            )
            self._client.submit(self._job)
        self._show()

    def _key(self) -> tuple[str | None, str]:
        return self._options()["base"], self._worker.choice.device

    def _measured(self, key: tuple, speed: dict) -> None:
        self._job = None
        self._speeds[key] = speed
        # For what was chosen in the meantime.
        self.update(self._isTraining)

    def _failed(self) -> None:
        # Not tried again at once, but when something changes.
        self._job = None
        self._show()

    def _show(self) -> None:
        key = self._key()
        speed = self._speeds.get(key) if self._cases.problem() is None else None
        text = self._text(speed, key[0] is not None) if speed else _("Measuring how fast this computer trains")
        showWrapped(self._ui.trainingEstimateLabel, text if speed or self._job else "")

    def _text(self, speed: dict, hasBase: bool) -> str:
        plan = self._cases.plan(hasBase)
        seconds, nRuns = speed["iteration_s"], plan.n_runs
        iterations = self._ui.trainingIterationsSpinBox.value or speed["iterations"]
        minutes, limit = nRuns * iterations * seconds / 60, self._ui.trainingMinutesSpinBox.value
        if minutes <= limit:
            text = _("{runs} x {iterations} iterations take about {minutes:.0f} min here ({seconds:.2f} s each).")
        else:
            iterations = int(limit * 60 / seconds / nRuns)
            text = _(
                "{limit} min are enough for {runs} x {iterations} iterations here ({seconds:.2f} s each); "
                "all would take {minutes:.0f} min."
            )
        text = text.format(runs=nRuns, iterations=iterations, minutes=max(1, minutes), seconds=seconds, limit=limit)
        if nRuns > 1:
            return text + " " + _("Each case is judged by a model that has not learned from it.")
        if self._cases.chosenValidation is not None or not plan.judged:
            return text
        return (
            text
            + " "
            + _("{judges} of {cases} cases only judge the model.").format(
                judges=len(plan.judged), cases=len(self._cases.used)
            )
        )
