"""A training case, deformed as the training will see it, in the slice views."""

import os
import shutil
import tempfile

from slicer.i18n import tr as _

from vnet_segmentation.errors import UserError
from vnet_segmentation.images.volume_exchange import read_exchange
from VNetSegmentationLib.shownCase import ShownCase
from VNetSegmentationLib.workerClient import Job
from VNetSegmentationLib.wrappedText import showWrapped


class AugmentationPreview:
    """Asks the worker for a sample at each click.

    Args:
        ui: the panel's widgets.
        client: of the worker that computes.
        worker: see `panelWorker.PanelWorker`.
        cases: `trainingCases.TrainingCases`.
        options: gives base model and augmentation.
    """

    def __init__(self, ui, client, worker, cases, options):
        self._ui, self._client, self._worker, self._cases, self._options = ui, client, worker, cases, options
        self._shown = ShownCase(_("Preview"))
        self._isTraining = False
        self._seed = 0
        self._folder = None
        ui.previewAugmentationButton.connect("clicked()", self._ask)

    def update(self, isTraining: bool) -> None:
        """Follows whether a training runs."""
        self._isTraining = isTraining
        self._ui.previewAugmentationButton.enabled = (
            not isTraining and self._folder is None and self._cases.selected is not None
        )

    def _ask(self) -> None:
        self._worker.whenReady(self._start, self._fail)

    def _start(self) -> None:
        name = self._cases.selected
        if self._folder is not None or name is None:
            return
        self._folder = tempfile.mkdtemp(prefix="VNetSegmentation-")
        self._seed += 1
        fields = {
            "data": self._cases.data,
            "label": self._cases.label,
            "case": name,
            "others": self._cases.used,
            "options": self._options(),
            "seed": self._seed,
            "image": os.path.join(self._folder, "image.npy"),
            "mask": os.path.join(self._folder, "mask.npy"),
        }
        finish = lambda answer: self._show(name, answer)  # noqa: E731
        self._client.submit(Job("preview", fields, finish, self._fail, lambda: self._end("")))
        self.update(self._isTraining)

    def _show(self, name: str, answer: dict) -> None:
        try:
            image, mask = read_exchange(answer["image"]), read_exchange(answer["mask"])
        except UserError as error:
            self._end(str(error))
            return
        self._end("")
        self._shown.show(image, mask, _("{name}, sample {number}").format(name=name, number=self._seed))

    def _fail(self, sentence: str, code: int | None) -> None:
        self._end(sentence)

    def _end(self, message: str) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
        if message:
            showWrapped(self._ui.trainingStatusLabel, message)
        self.update(self._isTraining)
