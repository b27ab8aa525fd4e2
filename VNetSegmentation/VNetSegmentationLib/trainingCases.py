"""The table of training cases: what is in the folder, what cannot be used and why, and what each case is for."""

import contextlib
import logging
import os
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from vnet_segmentation.datasets.case_folder import add_case
from vnet_segmentation.datasets.dataset import Case
from vnet_segmentation.errors import UserError
from vnet_segmentation.images.mask_files import read_mask
from vnet_segmentation.images.metrics import check_same_grid
from vnet_segmentation.images.scans import read_scan
from vnet_segmentation.training.splits import TrainingPlan, split_cases
from vnet_segmentation.user_folders import training_cases_folder
from VNetSegmentationLib import settings
from VNetSegmentationLib.dialogs import tellError
from VNetSegmentationLib.prostateSegment import ProstateSegment
from VNetSegmentationLib.segmentChoice import SegmentChoice
from VNetSegmentationLib.settings import chosen
from VNetSegmentationLib.shownCase import ShownCase
from VNetSegmentationLib.volumeNodes import imageFromVolume, volumeProblem
from VNetSegmentationLib.workerClient import Job
from VNetSegmentationLib.wrappedText import showWrapped

TRAIN, VALIDATE, LEAVE_OUT = "train", "validate", "leave out"
_USES = {TRAIN: _("train"), VALIDATE: _("validate only"), LEAVE_OUT: _("leave out")}

_N_LABELS = 5


class TrainingCases:
    """Reads a folder of cases by the worker and keeps what the user decides about each.

    Args:
        ui: the panel's widgets.
        client: of the worker that reads.
        worker: see `panelWorker.PanelWorker`.
        onChange: called when the cases or their use changed.
    """

    def __init__(self, ui, client, worker, onChange):
        self._ui, self._client, self._worker, self._onChange = ui, client, worker, onChange
        self._parameters = None
        self._rows = []
        self._uses = {}  # by name
        self._job = None
        self._readStamp = None
        self._isTraining = False
        self._message = ""
        self._shown = ShownCase(_("Training case"))
        self._pairSegment = SegmentChoice(ui.pairSegmentComboBox)
        settings.bindPath(ui.trainingFolderPath, "TrainingFolder", str(training_cases_folder()))
        labels = [(_("The only label"), ""), (_("All labels"), "0")]
        labels += [(_("Label {number}").format(number=n), str(n)) for n in range(1, _N_LABELS + 1)]
        settings.bindChoice(ui.prostateLabelComboBox, "ProstateLabel", labels)
        ui.readCasesButton.connect("clicked()", self.read)
        ui.prostateLabelComboBox.connect("currentIndexChanged(int)", lambda index: self.read())
        settings.onPathChange(ui.trainingFolderPath, self._forget)
        self._reading = settings.afterPathChange(ui.trainingFolderPath, self.readOnce)
        ui.trainingCasesTable.connect("cellClicked(int,int)", lambda row, column: self._show(row))
        for button, use in (
            (ui.useForTrainingButton, TRAIN),
            (ui.useForValidationButton, VALIDATE),
            (ui.leaveOutButton, LEAVE_OUT),
        ):
            button.connect("clicked()", lambda use=use: self._setUse(use))
        ui.addPairButton.connect("clicked()", self._addPair)
        # Segments that were added meanwhile.
        ui.scenePairCollapsibleButton.connect("contentsCollapsed(bool)", lambda isCollapsed: self._onChange())

    @property
    def data(self) -> str:
        """Path of the data set; empty if none is chosen."""
        path = self._ui.trainingFolderPath.currentPath
        # The worker has another current folder.
        return os.path.abspath(path) if path else ""

    @property
    def label(self) -> int | None:
        """See ``vnet_segmentation.images.mask_files.read_mask``."""
        value = chosen(self._ui.prostateLabelComboBox)
        return int(value) if value else None

    @property
    def validation(self) -> list[str]:
        """Names of the cases that are kept for validation."""
        return self._named(VALIDATE)

    @property
    def used(self) -> list[str]:
        """Names of the cases to learn from."""
        return self._named(TRAIN)

    @property
    def selected(self) -> str | None:
        """Name of the case that was clicked last, or of the first usable one."""
        row = self._ui.trainingCasesTable.currentRow()
        if 0 <= row < len(self._rows) and self._rows[row]["problem"] is None:
            return self._rows[row]["name"]
        return next((row["name"] for row in self._rows if row["problem"] is None), None)

    def problem(self) -> str | None:
        """Why these cases cannot be trained on."""
        if self._job is not None:
            return _("The cases are being read.")
        if not self._rows:
            return self._message or _("Choose the folder with the training cases and read it.")
        if not self.used:
            return _("There is no case to learn from.")
        try:
            self.plan(hasBase=False)
        except UserError as error:
            return str(error)
        return None

    @property
    def chosenValidation(self) -> list[str] | None:
        """Names of the cases for validation that were chosen, by the user or in the data set, where the user may have
        said no; None where the engine chooses."""
        hasSplit = bool(self.validation) or any(row["split"] == "validation" for row in self._rows)
        return self.validation if hasSplit else None

    def plan(self, hasBase: bool) -> TrainingPlan:
        """The engine's runs and what it judges them by; there is a case to learn from."""
        names = {*self.used, *self.validation}
        cases = [
            Case(row["name"], Path(row["image"]), Path(row["mask"]), row["site"], row["split"], patient=row["patient"])
            for row in self._rows
            if row["name"] in names
        ]
        chosen = self.chosenValidation
        return split_cases(cases, chosen if chosen is None else tuple(chosen), hasBase)

    def setParameters(self, parameters) -> None:
        """Takes the panel's parameters; None while a scene is closed or read."""
        self._parameters = parameters

    def cleanup(self) -> None:
        """The module is unloaded, or Slicer ends: nothing is read any more."""
        self._reading.stop()

    def update(self, isTraining: bool) -> None:
        """Follows the scene, and whether a training runs."""
        self._isTraining = isTraining
        ui, parameters = self._ui, self._parameters
        idle = not isTraining and self._job is None
        for widget in (ui.trainingFolderPath, ui.readCasesButton, ui.prostateLabelComboBox):
            widget.enabled = idle
        for button in (ui.useForTrainingButton, ui.useForValidationButton, ui.leaveOutButton):
            button.enabled = idle and bool(self._rows)
        self._pairSegment.offer(parameters.pairSegmentation if parameters else None)
        ui.addPairButton.enabled = bool(
            parameters and parameters.pairVolume and not self._pairSegment.isEmpty and not isTraining
        )

    def readOnce(self) -> None:
        """Reads the folder if it is there, was not read yet or has changed, and nothing need be installed for it."""
        stamp = self._stamp()
        idle = self._job is None and not self._isTraining
        if stamp is not None and stamp != self._readStamp and idle and self._worker.isInstalled:
            self.read()

    def read(self) -> None:
        """Reads the folder; installs what is missing first, if the user agrees."""
        if self._job is not None or self._isTraining:
            return
        if not self.data:
            self._end(_("Choose the folder with the training cases."))
        else:
            self._worker.whenReady(self._read, lambda sentence, code: self._end(sentence))

    def _read(self) -> None:
        # Between the click and now packages may have been installed, and the folder changed.
        if self._job is not None or not self.data:
            return
        self._readStamp = self._stamp()
        self._rows = []
        self._ui.trainingCasesTable.setRowCount(0)
        fields = {"data": self.data, "label": self.label}
        self._job = Job(
            "cases",
            fields,
            onResult=lambda result: self._end(""),
            onError=lambda sentence, code: self._end(sentence),
            onCancelled=lambda: self._end(""),
            onCase=self._addRow,
        )
        showWrapped(self._ui.trainingCasesStatusLabel, _("Reading the cases"))
        self._client.submit(self._job)
        self._onChange()

    def _addRow(self, event: dict) -> None:
        row = event["row"]
        self._rows.append(row)
        use = VALIDATE if row["split"] == "validation" else LEAVE_OUT if row["split"] == "test" else TRAIN
        self._uses.setdefault(row["name"], use)
        table = self._ui.trainingCasesTable
        table.setRowCount(len(self._rows))
        self._fill(len(self._rows) - 1)
        showWrapped(
            self._ui.trainingCasesStatusLabel,
            _("Reading case {number} of {total}").format(number=event["number"], total=event["total"]),
        )

    def _fill(self, number: int) -> None:
        row = self._rows[number]
        volume = "" if row["volume_ml"] is None else f"{row['volume_ml']:.1f}"
        use = _("cannot be used") if row["problem"] else _USES[self._uses[row["name"]]]
        for column, text in enumerate((row["name"], use, volume, row["site"], row["problem"] or "")):
            item = qt.QTableWidgetItem(text)
            item.setToolTip(text)
            self._ui.trainingCasesTable.setItem(number, column, item)

    def _end(self, message: str) -> None:
        self._job = None
        self._message = message
        self._ui.trainingCasesTable.resizeColumnsToContents()
        self._showSummary()
        self._onChange()

    def _showSummary(self) -> None:
        text = self._message
        if self._rows:
            nBad = sum(row["problem"] is not None for row in self._rows)
            text = _("{train} to learn from, {validate} for validation only, {bad} cannot be used.").format(
                train=len(self.used), validate=len(self.validation), bad=nBad
            )
        showWrapped(self._ui.trainingCasesStatusLabel, text)

    def _forget(self) -> None:
        if self._job is None:
            self._rows, self._readStamp, self._message = [], None, ""
            self._uses = {}
            self._ui.trainingCasesTable.setRowCount(0)
            self._onChange()

    def _stamp(self) -> tuple[str, float] | None:
        """Path and time of the last change; None if there is nothing."""
        with contextlib.suppress(OSError):
            return self.data, os.stat(self.data).st_mtime
        return None

    def _named(self, use: str) -> list[str]:
        return [row["name"] for row in self._rows if (LEAVE_OUT if row["problem"] else self._uses[row["name"]]) == use]

    def _setUse(self, use: str) -> None:
        table = self._ui.trainingCasesTable
        # Whole rows are selected.
        numbers = [number for number in range(len(self._rows)) if table.item(number, 0).isSelected()]
        # What the data set keeps for a test, no model may see.
        tests = [number for number in numbers if self._rows[number]["split"] == "test"]
        for number in numbers:
            if number not in tests:
                self._uses[self._rows[number]["name"]] = use
                self._fill(number)
        self._showSummary()
        self._onChange()
        if tests and use != LEAVE_OUT:
            showWrapped(
                self._ui.trainingCasesStatusLabel,
                _("The data set keeps {name} for tests. Change its table to train on it.").format(
                    name=self._rows[tests[0]]["name"]
                ),
            )

    def _show(self, number: int) -> None:
        row = self._rows[number]
        try:
            scan = read_scan(row["image"])
            try:
                mask = read_mask(row["mask"], self.label or 0)
                check_same_grid(mask, scan)
            except UserError:
                # The table says why; on the scan's grid it would look as if all were well.
                mask = None
            self._shown.show(scan, mask, row["name"])
        except UserError as error:
            showWrapped(self._ui.trainingCasesStatusLabel, str(error))

    def _addPair(self) -> None:
        volume, segmentation = self._parameters.pairVolume, self._parameters.pairSegmentation
        self._pairSegment.offer(segmentation)
        try:
            if not self.data:
                raise UserError(_("Choose the folder for the training cases."))
            if self._pairSegment.isEmpty:
                raise UserError(_("This segmentation has no segment any more. Choose another one."))
            segment = ProstateSegment(segmentation, self._pairSegment.segmentId, volume)
            problem = volumeProblem(volume) or segment.problem()
            if problem:
                raise UserError(problem)
            case = add_case(self.data, imageFromVolume(volume), segment.read())
        except UserError as error:
            self._refusePair(str(error))
            return
        except Exception as error:
            # Qt would only put it into the log, and the click would seem to do nothing.
            logging.exception("The pair could not be added")
            self._refusePair(_("The pair could not be added: {error}").format(error=error))
            return
        slicer.util.showStatusMessage(_("Added as {name}.").format(name=case.name), 3000)
        self.read()

    def _refusePair(self, sentence: str) -> None:
        showWrapped(self._ui.trainingCasesStatusLabel, sentence)
        tellError(sentence)
