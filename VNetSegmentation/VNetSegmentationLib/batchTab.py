"""A folder in, a folder out."""

import os
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from vnet_segmentation.images.scans import read_scan_and_series
from VNetSegmentationLib import settings
from VNetSegmentationLib.maskName import FORMATS
from VNetSegmentationLib.volumeNodes import addVolume
from VNetSegmentationLib.workerClient import Job
from VNetSegmentationLib.wrappedText import showWrapped

_STATUS = {"done": _("done"), "empty": _("no prostate found"), "skipped": _("was there already"), "failed": _("failed")}

_CANCEL_GRACE_MS = 5000


class BatchTab:
    """Runs the engine's batch in the worker and shows its table as it grows.

    Args:
        ui: the panel's widgets.
        worker: see `panelWorker.PanelWorker`.
        threshold: gives the probability from which a voxel is prostate.
        onOpened: called with the volume and the segmentation, or None, of a row that the user has opened.
    """

    def __init__(self, ui, worker, threshold, onOpened):
        self._ui = ui
        self._worker = worker
        self._threshold = threshold
        self._onOpened = onOpened
        self._job = None
        self._rows = []
        self._message = ""
        settings.bindPath(ui.batchInputPath, "BatchInput")
        settings.bindPath(ui.batchOutputPath, "BatchOutput")
        settings.bindText(ui.batchPatternEdit, "BatchPattern", "*")
        settings.bindChoice(ui.batchFormatComboBox, "BatchFormat", [(suffix, suffix) for suffix in FORMATS])
        settings.bindChoice(
            ui.batchExistingComboBox, "BatchExisting", [(_("Keep them"), "keep"), (_("Replace them"), "replace")]
        )
        ui.batchRunButton.connect("clicked()", self.run)
        ui.batchCancelButton.connect("clicked()", self._cancel)
        ui.batchTable.connect("cellDoubleClicked(int,int)", self._open)
        pathEdits = (ui.batchInputPath, ui.batchOutputPath)
        self._typing = [settings.afterPathChange(pathEdit, self.update) for pathEdit in pathEdits]
        self.update()

    def cleanup(self) -> None:
        """The module is unloaded, or Slicer ends."""
        for timer in self._typing:
            timer.stop()

    def update(self) -> None:
        """The worker's state or a path changed."""
        running = self._job is not None
        problem = self._problem()
        ui = self._ui
        ui.batchRunButton.enabled = problem is None and not running
        ui.batchRunButton.toolTip = problem or _("Segments every scan of the folder.")
        ui.batchCancelButton.visible = ui.batchProgressBar.visible = running
        if not running:
            showWrapped(ui.batchStatusLabel, problem or self._message)

    def run(self) -> None:
        """Starts the batch; installs what is missing first, if the user agrees."""
        self._message = ""
        self._worker.whenReady(self._start, self._fail)

    def _problem(self) -> str | None:
        """Why the button cannot be pressed."""
        if self._worker.busyWith:
            return self._worker.busyWith
        if not Path(self._ui.batchInputPath.currentPath or "missing").is_dir():
            return _("Choose the folder with the scans.")
        if not self._ui.batchOutputPath.currentPath:
            return _("Choose the folder for the results.")
        return None

    def _start(self) -> None:
        if self._problem() is not None:
            self.update()
            return
        ui = self._ui
        self._rows = []
        ui.batchTable.setRowCount(0)
        ui.batchProgressBar.setRange(0, 0)
        showWrapped(ui.batchStatusLabel, _("Starting"))
        fields = {
            # The worker has another current folder.
            "inputs": [os.path.abspath(ui.batchInputPath.currentPath)],
            "output": os.path.abspath(ui.batchOutputPath.currentPath),
            "model": self._worker.choice.model,
            "device": self._worker.choice.device,
            "options": {
                "suffix": settings.chosen(ui.batchFormatComboBox),
                "threshold": self._threshold(),
                "pattern": ui.batchPatternEdit.text.strip() or "*",
                "probabilities": ui.batchProbabilitiesCheckBox.checked,
                "overwrite": settings.chosen(ui.batchExistingComboBox) == "replace",
            },
        }
        self._job = Job(
            "batch",
            fields,
            self._finish,
            self._fail,
            self._cancelled,
            onProgress=self._showProgress,
            onCase=self._addRow,
        )
        self._worker.client.submit(self._job)
        self._worker.setBusy(_("A batch is running."))

    def _showProgress(self, fraction: float, sentence: str) -> None:
        text = _("Scan {number}: {sentence}").format(number=len(self._rows) + 1, sentence=sentence)
        showWrapped(self._ui.batchStatusLabel, text)

    def _addRow(self, case: dict) -> None:
        row = case["row"]
        self._rows.append(row)
        table = self._ui.batchTable
        number = table.rowCount
        table.setRowCount(number + 1)
        report = row["report"] or {}
        confidence = report.get("confidence")
        cells = (
            Path(row["scan"]).name,
            _STATUS[row["status"]],
            f"{report['volume_ml']:.1f}" if "volume_ml" in report else "",
            f"{confidence['level']} ({confidence['value']:.2f})" if confidence else "",
            row["message"],
        )
        for column, text in enumerate(cells):
            item = qt.QTableWidgetItem(text)
            item.setToolTip(text)
            table.setItem(number, column, item)
        table.resizeColumnsToContents()
        table.scrollToBottom()
        self._ui.batchProgressBar.setRange(0, case["total"])
        self._ui.batchProgressBar.value = case["number"]

    def _open(self, row: int, column: int) -> None:
        """Loads the scan of a row, and its mask if there is one, ready to be corrected."""
        case, segmentation = self._rows[row], None
        with slicer.util.tryWithErrorDisplay(_("The case could not be opened."), waitCursor=True):
            volume = _loadScan(Path(case["scan"]))
            if case["mask"] and Path(case["mask"]).is_file():
                segmentation = slicer.util.loadSegmentation(case["mask"])
                segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
            self._onOpened(volume, segmentation)
            slicer.util.setSliceViewerLayers(background=volume, fit=True)

    def _cancel(self) -> None:
        showWrapped(self._ui.batchStatusLabel, _("Stopping"))
        # Longer than a look of the network takes: what is being written is finished, not cut off.
        self._worker.client.cancel(self._job, _CANCEL_GRACE_MS)

    def _finish(self, result: dict) -> None:
        counts = [
            f"{sum(row['status'] == status for row in self._rows)} {text}"
            for status, text in _STATUS.items()
            if any(row["status"] == status for row in self._rows)
        ]
        self._end(
            _("{counts}. The table is results.csv in {folder}.").format(
                counts=", ".join(counts), folder=self._ui.batchOutputPath.currentPath
            )
        )

    def _fail(self, sentence: str, code: int | None) -> None:
        self._end(sentence)

    def _cancelled(self) -> None:
        self._end(_("Stopped after {number} scans. Run again to go on.").format(number=len(self._rows)))

    def _end(self, message: str) -> None:
        self._job = None
        self._message = message
        self._worker.setBusy(None)


def _loadScan(path: Path):
    """A volume node of a scan file, or of a folder of DICOM slices."""
    if path.is_file():
        return slicer.util.loadVolume(str(path))
    # Of several series in the folder the one that was segmented, and on the mask's grid.
    return addVolume(read_scan_and_series(path, subfolders=False)[0], path.name, isScan=True)
