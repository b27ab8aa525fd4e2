"""A model with another threshold built in."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from accuracy import shift_threshold
from untrained_model import save_untrained_model

from vnet_segmentation.bundle import load_bundle
from vnet_segmentation.network import prostate_probability


@torch.inference_mode()
def test_its_masks_at_one_half_are_the_others_at_the_threshold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Compact, whose few large convolutions are all that is stored in 8 bits.
    old = save_untrained_model(tmp_path / "old", layout="compact", width=2)
    arguments = ["shift_threshold.py", str(old), str(tmp_path / "new"), "--threshold", "0.3"]
    monkeypatch.setattr(sys, "argv", arguments)
    shift_threshold.main()
    scan = torch.randn(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    before, after = (
        prostate_probability(load_bundle(tmp_path / name)[0].eval()(scan)).squeeze() for name in ("old", "new")
    )
    # Odds are multiplied by 0.7 / 0.3.
    expected = before * 7 / (before * 7 + (1 - before) * 3)
    torch.testing.assert_close(after, expected, atol=0.02, rtol=0)
    sure = (before - 0.3).abs() > 0.02
    assert torch.equal((after >= 0.5)[sure], (before >= 0.3)[sure])
    assert 0 < int((before >= 0.3)[sure].sum()) < int(sure.sum())
