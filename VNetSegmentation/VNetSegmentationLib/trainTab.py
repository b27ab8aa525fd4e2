"""Training a model on the user's own cases."""

from slicer.i18n import tr as _

from vnet_segmentation.user_folders import MODEL_NAME
from VNetSegmentationLib import settings
from VNetSegmentationLib.augmentationPreview import AugmentationPreview
from VNetSegmentationLib.dialogs import ask
from VNetSegmentationLib.modelAndDevice import usableModels
from VNetSegmentationLib.ownModels import OwnModels
from VNetSegmentationLib.trainingCases import TrainingCases
from VNetSegmentationLib.trainingEstimate import TrainingEstimate
from VNetSegmentationLib.trainingPlot import TrainingPlot
from VNetSegmentationLib.trainingResult import TrainingResult
from VNetSegmentationLib.workerClient import Job
from VNetSegmentationLib.wrappedText import showWrapped

PAUSE_GRACE_MS = 60_000
"""For the iteration under way and the state to be written; on a slow computer an iteration takes seconds."""

_STOP_MS = 4000
"""For a training to write its state when Slicer ends."""

FROM_SCRATCH = "-"
"""Value of the choice of no base model; none can have this name."""


class TrainTab:
    """Coordinates the sections of the tab. Trainings run in a worker process of their own, so that the other tabs stay
    usable.

    Args:
        ui: the panel's widgets.
        worker: see `panelWorker.PanelWorker`.
        client: `workerClient.WorkerClient` of the trainings.
    """

    def __init__(self, ui, worker, client):
        self._ui = ui
        self._worker = worker
        self._client = client
        client.onLog = worker.log
        self._job = None
        self._isClosed = False
        self._ending = None  # "pause" or "cancel", once the user wants the training to end
        self._message = ""
        self._trained = None  # name of the model that the message and the result are about
        self._unfinished = []
        self._plot = TrainingPlot()
        self._result = TrainingResult(ui)
        self._cases = TrainingCases(ui, client, worker, self._casesChanged)
        self._preview = AugmentationPreview(ui, client, worker, self._cases, self._options)
        self._models = OwnModels(ui, client, worker, self._deleted)
        self._estimate = TrainingEstimate(ui, client, worker, self._cases, self._options)
        settings.bindChoice(
            ui.baseModelComboBox,
            "BaseModel",
            [(_("Bundled model"), ""), (_("From scratch"), FROM_SCRATCH)],
        )
        settings.bindText(ui.newModelNameEdit, "NewModelName", "my-model")
        settings.bindNumber(ui.trainingMinutesSpinBox, "TrainingMinutes")
        settings.bindNumber(ui.trainingIterationsSpinBox, "TrainingIterations")
        ui.trainButton.connect("clicked()", self.train)
        ui.pauseTrainingButton.connect("clicked()", self._pause)
        ui.cancelTrainingButton.connect("clicked()", self._cancel)
        ui.resumeTrainingButton.connect("clicked()", self._resume)
        ui.discardTrainingButton.connect("clicked()", self._discard)
        ui.newModelNameEdit.connect("textChanged(QString)", lambda text: self.update())
        ui.baseModelComboBox.connect("currentIndexChanged(int)", lambda index: self._casesChanged())
        ui.tabs.connect("currentChanged(int)", lambda index: self._entered())
        self.update()

    def show(self, description: dict) -> None:
        """Takes the worker's answer to "describe"."""
        choices = [*usableModels(description), (_("From scratch"), FROM_SCRATCH)]
        settings.refillChoice(self._ui.baseModelComboBox, "BaseModel", choices)
        self._models.show(description["models"])
        self._unfinished = description["unfinished_trainings"]
        self.update()

    def setParameters(self, parameters) -> None:
        """Takes the panel's parameters; None while a scene is closed or read."""
        self._cases.setParameters(parameters)

    def cleanup(self) -> None:
        """The module is unloaded, or Slicer ends: a training keeps its state for another day."""
        self._isClosed = True
        self._cases.cleanup()
        self._client.onLog = lambda line: None
        self._client.stop(_STOP_MS)

    def update(self) -> None:
        """The worker's state, a name or the cases changed."""
        ui, running = self._ui, self._job is not None
        problem = self._problem()
        ui.trainButton.enabled = problem is None and not running
        ui.trainButton.toolTip = problem or _("Trains a new model. Slicer can be used meanwhile.")
        ui.pauseTrainingButton.visible = ui.cancelTrainingButton.visible = running
        ui.pauseTrainingButton.enabled = ui.cancelTrainingButton.enabled = self._ending is None
        ui.trainingProgressBar.visible = running
        offers = bool(self._unfinished) and not running
        for widget in (ui.unfinishedTrainingLabel, ui.resumeTrainingButton, ui.discardTrainingButton):
            widget.visible = offers
        if offers:
            text = _("The training of {name} is unfinished.").format(name=self._unfinished[0]["name"])
            showWrapped(ui.unfinishedTrainingLabel, text)
        ui.resumeTrainingButton.enabled = not self._worker.isInstalling
        self._cases.update(running)
        self._preview.update(running)
        self._models.update(running)
        if not running:
            showWrapped(ui.trainingStatusLabel, "\n".join(filter(None, (self._message, problem))))

    def train(self) -> None:
        """Starts the training; installs what is missing first, if the user agrees."""
        if self._problem() is not None:
            self.update()
            return
        request = {
            "name": self._ui.newModelNameEdit.text.strip(),
            "data": self._cases.data,
            "device": self._worker.choice.device,
            "options": {
                **self._options(),
                "minutes": self._ui.trainingMinutesSpinBox.value,
                "iterations": self._ui.trainingIterationsSpinBox.value or None,
                "validation": self._cases.chosenValidation,
                "label": self._cases.label,
            },
            "cases": self._cases.used + self._cases.validation,
        }
        self._begin({**request, "resume": False})

    def _entered(self) -> None:
        if self._ui.tabs.currentWidget().objectName == "trainTab":
            self._cases.readOnce()

    def _options(self) -> dict:
        """What preview, estimate and training have in common."""
        base = settings.chosen(self._ui.baseModelComboBox)
        return {
            "base": None if base == FROM_SCRATCH else base,
            "deformation_strength": round(self._ui.deformationSlider.value, 2),
            "histogram_matching": self._ui.histogramMatchingCheckBox.checked,
        }

    def _problem(self) -> str | None:
        """Why the button cannot be pressed."""
        if self._worker.isInstalling:
            return self._worker.busyWith
        problem = self._cases.problem()
        if problem:
            return problem
        name = self._ui.newModelNameEdit.text.strip()
        if not MODEL_NAME.fullmatch(name):
            return _(
                "Give the new model a name of at most 64 letters, digits, dots, - and _, with no dot at the end, and "
                "not one that Windows keeps for itself, such as CON."
            )
        if any(model["name"] == name for model in self._models.all):
            return _("There is a model {name} already. Choose another name.").format(name=name)
        if any(request["name"] == name for request in self._unfinished):
            return _("The training of {name} is unfinished. Resume or discard it, or choose another name.").format(
                name=name
            )
        return None

    def _begin(self, request: dict) -> None:
        self._message, self._trained = "", None
        self._worker.whenReady(lambda: self._start(request), self._fail)

    def _start(self, request: dict) -> None:
        if self._job is not None:
            return
        self._ending = None
        self._result.clear()
        self._plot.begin(request["name"])
        self._ui.trainingProgressBar.setRange(0, 0)
        showWrapped(self._ui.trainingStatusLabel, _("Starting"))
        self._job = Job(
            "train",
            request,
            self._finish,
            self._fail,
            self._cancelled,
            onProgress=lambda fraction, sentence: showWrapped(self._ui.trainingStatusLabel, sentence),
            onTraining=self._showTraining,
        )
        self._client.submit(self._job)
        self.update()

    def _showTraining(self, progress: dict) -> None:
        self._plot.add(progress["iteration"], progress["loss"], progress["validation_dice"])
        bar = self._ui.trainingProgressBar
        bar.setRange(0, 1000)
        bar.value = round(1000 * progress["fraction"])
        text = _("Iteration {iteration}").format(iteration=progress["iteration"])
        if progress["remaining_s"] is not None:
            text = _("{iteration}, {minutes:.0f} min left").format(
                iteration=text, minutes=max(1, progress["remaining_s"] / 60)
            )
        if self._ending is None:
            showWrapped(self._ui.trainingStatusLabel, text)

    def _pause(self) -> None:
        self._ending = "pause"
        showWrapped(self._ui.trainingStatusLabel, _("Stopping after this iteration"))
        self._client.cancel(self._job, PAUSE_GRACE_MS)
        self.update()

    def _cancel(self) -> None:
        if not ask(_("Drop what the model has learned so far?")):
            return
        if self._job is None:
            return
        self._ending = "cancel"
        showWrapped(self._ui.trainingStatusLabel, _("Stopping"))
        self._client.cancel(self._job)
        self.update()

    def _resume(self) -> None:
        # On the device that is chosen now: the one of then may be gone.
        self._begin({**self._unfinished[0], "device": self._worker.choice.device, "resume": True})

    def _discard(self) -> None:
        # While the dialog is open another one may become the first.
        name = self._unfinished[0]["name"]
        if ask(_("Drop what {name} has learned so far?").format(name=name)):
            self._drop(name)

    def _drop(self, name: str) -> None:
        self._client.submit(Job("discard_training", {"name": name}, onResult=lambda result: self._worker.describe()))

    def _finish(self, result: dict) -> None:
        self._result.show(result)
        self._ui.newModelNameEdit.text = _nextName(result["name"])
        isBetter = result["improvement"] is not None and result["improvement"]["verdict"] == "better"
        if isBetter:
            settings.setSetting("Model", result["name"])
        chosen = (
            _("It is chosen in the Segment tab.")
            if isBetter
            else _("To try it, choose it in the Segment tab under Advanced.")
        )
        self._end(_("The model {name} is ready. {chosen}").format(name=result["name"], chosen=chosen))
        self._trained = result["name"]

    def _deleted(self, name: str) -> None:
        if name == self._trained:
            self._message, self._trained = "", None
            self._result.clear()
            self.update()

    def _fail(self, sentence: str, code: int | None) -> None:
        self._end(sentence)

    def _cancelled(self) -> None:
        if self._ending == "cancel":
            self._drop(self._job.fields["name"])
            self._end(_("The training was cancelled."))
        else:
            self._end(_("The training is paused."))

    def _end(self, message: str) -> None:
        self._job = self._ending = None
        self._message = message
        self.update()
        if not self._isClosed:
            self._worker.describe()

    def _casesChanged(self) -> None:
        if self._isClosed:
            return
        self.update()
        self._estimate.update(self._job is not None)


def _nextName(name: str) -> str:
    """my-model-3 after my-model-2, and my-model-2 after my-model."""
    stem, dash, number = name.rpartition("-")
    return f"{stem}-{int(number) + 1}" if dash and number.isdigit() else f"{name}-2"
