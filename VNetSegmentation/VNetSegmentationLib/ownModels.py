"""The user's own models: exported as a file, imported, deleted."""

import os

from slicer.i18n import tr as _

from VNetSegmentationLib import settings
from VNetSegmentationLib.dialogs import ask
from VNetSegmentationLib.settings import chosen
from VNetSegmentationLib.workerClient import Job
from VNetSegmentationLib.wrappedText import showWrapped


class OwnModels:
    """The section "My models".

    Args:
        ui: the panel's widgets.
        client: of the worker that does it.
        worker: see `panelWorker.PanelWorker`.
    """

    def __init__(self, ui, client, worker):
        self._ui, self._client, self._worker = ui, client, worker
        self._isTraining = False
        self.all = []
        """Every model of this computer, as the worker describes it."""
        settings.bindPath(ui.modelFilePath, "ModelFile")
        ui.exportModelButton.connect("clicked()", self._export)
        ui.importModelButton.connect("clicked()", self._import)
        ui.deleteModelButton.connect("clicked()", self._delete)
        ui.modelFilePath.connect("currentPathChanged(QString)", lambda path: self.update(self._isTraining))

    def show(self, models: list[dict]) -> None:
        """Takes the models of the worker's answer to "describe"."""
        self.all = models
        own = [model["name"] for model in models if not model["bundled"]]
        comboBox = self._ui.ownModelComboBox
        before = chosen(comboBox)
        comboBox.clear()
        for name in own:
            comboBox.addItem(name, name)
        settings.choose(comboBox, before)

    def update(self, isTraining: bool) -> None:
        """Follows whether a training runs, whose worker is the one that is asked."""
        self._isTraining = isTraining
        ui, hasModel = self._ui, bool(chosen(self._ui.ownModelComboBox))
        hasFile = bool(ui.modelFilePath.currentPath)
        ui.deleteModelButton.enabled = hasModel and not isTraining
        ui.exportModelButton.enabled = hasModel and hasFile and not isTraining
        ui.importModelButton.enabled = hasFile and not isTraining

    @property
    def _file(self) -> str:
        # The worker has another current folder.
        return os.path.abspath(self._ui.modelFilePath.currentPath)

    def _export(self) -> None:
        file = self._file
        if os.path.exists(file) and not ask(_("{path} exists already. Replace it?").format(path=file)):
            return
        fields = {"model": chosen(self._ui.ownModelComboBox), "file": file}
        self._submit("export_model", fields, lambda result: _("Saved {path}").format(path=file))

    def _import(self) -> None:
        fields = {"file": self._file}
        self._submit("import_model", fields, lambda result: _("Added the model {name}.").format(name=result["name"]))

    def _delete(self) -> None:
        name = chosen(self._ui.ownModelComboBox)
        if ask(_("Delete the model {name}? It cannot be brought back.").format(name=name)):
            self._submit("delete_model", {"model": name}, lambda result: _("Deleted {name}.").format(name=name))

    def _submit(self, command: str, fields: dict, sentence) -> None:
        def finish(result: dict) -> None:
            showWrapped(self._ui.ownModelsStatusLabel, sentence(result))
            self._worker.describe()

        def fail(message: str, code: int | None) -> None:
            showWrapped(self._ui.ownModelsStatusLabel, message)

        self._worker.whenReady(lambda: self._client.submit(Job(command, fields, finish, fail)), fail)
