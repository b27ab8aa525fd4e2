"""The short form of the fuzz test; the long one is a command of its own."""

from __future__ import annotations

from robustness.fuzz_inputs import FORMATS, fuzz


def test_200_damaged_inputs_are_read_or_refused_with_a_sentence(tmp_path):
    counts, failures = fuzz(200, seed=1, keep=tmp_path)
    assert failures == []
    for name in FORMATS:
        # Damage that a reader does not notice, such as another voxel value, is there as well as damage that it does.
        assert counts[f"{name} read"] + counts[f"{name} refused"] == 25
        assert counts[f"{name} refused"] > 0
