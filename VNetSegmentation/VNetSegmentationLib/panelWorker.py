"""The worker as the panel's tabs share it: installed when needed, warm while the panel is open, one task at a time."""

from collections.abc import Callable

import slicer
from slicer.i18n import tr as _

from VNetSegmentationLib.dependencies import installationAdvice, installationQuestion, missingPackages
from VNetSegmentationLib.dependencyInstaller import DependencyInstaller
from VNetSegmentationLib.dialogs import ask
from VNetSegmentationLib.modelAndDevice import ModelAndDevice
from VNetSegmentationLib.workerClient import Job, WorkerClient


class PanelWorker:
    """Hands out the worker's client, and knows why it cannot at the moment.

    Args:
        ui: the panel's widgets.
        client: of the worker.
        installer: installs what the worker needs.
        requirements: path of the file that lists it.
        onChange: called when `busyWith` changes.
    """

    def __init__(
        self, ui, client: WorkerClient, installer: DependencyInstaller, requirements: str, onChange: Callable[[], None]
    ):
        self.client = client
        client.onLog = self.log
        self.choice = ModelAndDevice(ui)
        self.busyWith = None
        """What is under way, in a sentence; None when a task can begin."""
        self.isInstalling = False
        self.onDescription: Callable[[dict], None] = lambda description: None
        """Gets the worker's answer to "describe", too."""
        self._log = ui.logText
        self._installer = installer
        self._requirements = requirements
        self._onChange = onChange

    @property
    def isInstalled(self) -> bool:
        """Whether the worker could start at once."""
        return not missingPackages(self._requirements)

    def setBusy(self, sentence: str | None) -> None:
        """Says what is under way, or that nothing is."""
        self.busyWith = sentence
        self._onChange()

    def log(self, line: str) -> None:
        """Adds a line to the log in the panel."""
        self._log.appendPlainText(line.rstrip())

    def warmUp(self) -> None:
        """Starts the worker and loads the model in the background, so that a click finds both there."""
        if self.client.isRunning or self.busyWith or not self.isInstalled:
            return
        self.client.submit(Job("describe", onResult=self._load, onError=lambda sentence, code: self.log(sentence)))

    def describe(self) -> None:
        """Asks the worker anew what there is, after models came or went."""
        if self.isInstalled:
            self.client.submit(Job("describe", onResult=self._show, onError=lambda sentence, code: self.log(sentence)))

    def _show(self, description: dict) -> None:
        self.choice.show(description)
        self.onDescription(description)

    def _load(self, description: dict) -> None:
        # Only now is it known whether the model that was chosen last time is still there.
        self._show(description)
        fields = {"model": self.choice.model, "device": self.choice.device}
        self.client.submit(Job("load", fields, onError=lambda sentence, code: self.log(sentence)))

    def whenReady(self, begin: Callable[[], None], onError: Callable[[str, int | None], None]) -> None:
        """Calls ``begin`` at once, or after what is missing was installed; or else ``onError`` with a sentence."""
        if self.isInstalling:
            onError(self.busyWith, None)
            return
        missing = missingPackages(self._requirements)
        if not missing:
            begin()
            return
        if slicer.util.mainWindow() is None:
            # Nobody can be asked.
            onError(installationAdvice(missing), None)
            return
        if not ask(installationQuestion(missing)):
            onError(_("Segmenting needs PyTorch, which is not installed. Press the button again to install it."), None)
            return

        def finished(problem: str | None) -> None:
            self.isInstalling = False
            self.setBusy(None)
            if problem is None:
                begin()
            else:
                onError(problem, None)

        self.isInstalling = True
        self.setBusy(_("Installing PyTorch. This takes minutes; the log below shows how far it is."))
        self._installer.install(missing, self.log, finished)

    def cancelInstallation(self) -> None:
        """Stops an installation that is under way."""
        self._installer.cancel()

    def stop(self) -> None:
        """Ends the worker process and an installation."""
        self.client.onLog = lambda line: None
        if self.isInstalling:
            self._installer.cancel()
        self.client.stop()
