"""The choice of model and device; the worker says what there is."""

from slicer.i18n import tr as _

from VNetSegmentationLib import settings


def usableModels(description: dict) -> list[tuple[str, str]]:
    """Choices of a model, text and value, from the worker's answer to "describe"; the default one's value is empty."""
    return [
        (
            _("{name} (bundled)").format(name=model["name"]) if model["bundled"] else model["name"],
            "" if model["name"] == description["default_model"] else model["name"],
        )
        for model in description["models"]
        if model["problem"] is None
    ]


class ModelAndDevice:
    """The combo boxes under "Advanced". Until the worker has answered they offer what every computer has."""

    def __init__(self, ui):
        self._model, self._device = ui.modelComboBox, ui.deviceComboBox
        settings.bindChoice(self._model, "Model", [(_("Bundled model"), "")])
        settings.bindChoice(self._device, "Device", self._devices([]))

    @property
    def model(self) -> str | None:
        """Name of the chosen model; None for the default one."""
        return settings.chosen(self._model) or None

    @property
    def device(self) -> str:
        """As ``vnet_segmentation.device.choose_device`` takes it."""
        return settings.chosen(self._device)

    def show(self, description: dict) -> None:
        """Fills the boxes with the worker's answer to "describe", and keeps the choices if they are there."""
        settings.refillChoice(self._model, "Model", usableModels(description))
        settings.refillChoice(self._device, "Device", self._devices(description["gpus"]))
        automatic = description["automatic_device"]
        self._device.setItemText(0, _("Automatic: {device}").format(device=automatic["name"]))
        self._device.toolTip = _("Processor that computes. {reason}").format(reason=automatic["reason"])

    @staticmethod
    def _devices(gpus: list[dict]) -> list[tuple[str, str]]:
        found = [(gpu["title"], gpu["name"]) for gpu in gpus]
        return [(_("Automatic"), "auto"), *found, (_("CPU"), "cpu")]
