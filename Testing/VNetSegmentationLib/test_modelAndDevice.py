"""The choice of model and device, and what of it is remembered."""

from __future__ import annotations


def describe(models=(), gpus=()) -> dict:
    bundled = {"name": "prostate", "title": "", "bundled": True, "problem": None}
    return {
        "models": [bundled, *models],
        "default_model": "prostate",
        "gpus": [{"name": f"cuda:{i}", "title": title} for i, title in enumerate(gpus)],
        "automatic_device": {"name": "cpu", "reason": "There is no GPU."},
    }


def texts(comboBox) -> list[str]:
    return [comboBox.itemText(i) for i in range(comboBox.count)]


def test_models_that_cannot_be_used_are_not_offered(desktop):
    from VNetSegmentationLib.modelAndDevice import ModelAndDevice

    ui = desktop.open_module(enter=False).ui
    choice = ModelAndDevice(ui)
    own = [
        {"name": name, "title": "", "bundled": False, "problem": problem}
        for name, problem in (("mine", None), ("broken", "it is damaged"))
    ]
    choice.show(describe(own))
    assert texts(ui.modelComboBox) == ["prostate (bundled)", "mine"]
    assert choice.model is None
    ui.modelComboBox.currentIndex = 1
    assert choice.model == "mine"


def test_a_gpu_that_is_away_is_chosen_again_when_it_is_back(desktop):
    from VNetSegmentationLib.modelAndDevice import ModelAndDevice

    ui = desktop.open_module(enter=False).ui
    choice = ModelAndDevice(ui)
    choice.show(describe(gpus=["A GPU in a dock"]))
    assert texts(ui.deviceComboBox) == ["Automatic: cpu", "A GPU in a dock", "CPU"]
    ui.deviceComboBox.currentIndex = 1
    assert choice.device == "cuda:0"
    choice.show(describe())
    assert choice.device == "auto"
    choice.show(describe(gpus=["A GPU in a dock"]))
    assert choice.device == "cuda:0"
