"""What tests of learners share."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def one_thread() -> None:
    """Volumes as small as in `small_learners` are no faster with more, and much slower on a busy machine."""
    torch.set_num_threads(1)
