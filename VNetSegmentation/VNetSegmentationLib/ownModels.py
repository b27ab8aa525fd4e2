"""The user's own models: exported as a file, imported, deleted."""

import os
from collections.abc import Callable

from slicer.i18n import tr as _

from VNetSegmentationLib import settings
from VNetSegmentationLib.dialogs import ask, chooseFile, chooseNewFile
from VNetSegmentationLib.settings import chosen
from VNetSegmentationLib.workerClient import Job
from VNetSegmentationLib.wrappedText import showWrapped

_SUFFIX = ".zip"


class OwnModels:
    """The section "My models".

    Args:
        ui: the panel's widgets.
        client: of the worker that does it.
        worker: see `panelWorker.PanelWorker`.
        onDeleted: gets the name of a model that was deleted.
    """

    def __init__(self, ui, client, worker, onDeleted: Callable[[str], None]):
        self._ui, self._client, self._worker, self._onDeleted = ui, client, worker, onDeleted
        self.all = []
        """Every model of this computer, as the worker describes it."""
        ui.exportModelButton.connect("clicked()", self._export)
        ui.importModelButton.connect("clicked()", self._import)
        ui.deleteModelButton.connect("clicked()", self._delete)

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
        ui, hasModel = self._ui, bool(chosen(self._ui.ownModelComboBox))
        ui.deleteModelButton.enabled = ui.exportModelButton.enabled = hasModel and not isTraining
        ui.importModelButton.enabled = not isTraining

    def _export(self) -> None:
        name = chosen(self._ui.ownModelComboBox)
        suggestion = os.path.join(settings.setting("ModelFolder"), name + _SUFFIX)
        file = chooseNewFile(_("Export the model {name}").format(name=name), suggestion, _filter(), _SUFFIX)
        if file:
            settings.setSetting("ModelFolder", os.path.dirname(file))
            fields = {"model": name, "file": file}
            self._submit("export_model", fields, lambda result: _("Saved {path}").format(path=file))

    def _import(self) -> None:
        file = chooseFile(_("Import a model"), settings.setting("ModelFolder"), _filter())
        if file:
            settings.setSetting("ModelFolder", os.path.dirname(file))
            sentence = _("Added the model {name}.")
            self._submit("import_model", {"file": file}, lambda result: sentence.format(name=result["name"]))

    def _delete(self) -> None:
        name = chosen(self._ui.ownModelComboBox)
        if ask(_("Delete the model {name}? It cannot be brought back.").format(name=name)):
            self._submit("delete_model", {"model": name}, lambda result: self._deleted(name))

    def _deleted(self, name: str) -> str:
        self._onDeleted(name)
        return _("Deleted {name}.").format(name=name)

    def _submit(self, command: str, fields: dict, sentence) -> None:
        def finish(result: dict) -> None:
            showWrapped(self._ui.ownModelsStatusLabel, sentence(result))
            self._worker.describe()

        def fail(message: str, code: int | None) -> None:
            showWrapped(self._ui.ownModelsStatusLabel, message)

        self._worker.whenReady(lambda: self._client.submit(Job(command, fields, finish, fail)), fail)


def _filter() -> str:
    """The files that a dialog offers."""
    return _("Model (*{suffix})").format(suffix=_SUFFIX)
