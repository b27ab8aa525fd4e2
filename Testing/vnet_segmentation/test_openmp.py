"""That the processes which compute read the setting in time: libgomp prints what it has read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ENGINE = Path(__file__).resolve().parents[2] / "VNetSegmentation"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have another OpenMP")
@pytest.mark.parametrize(("own", "read"), [({}, "3000"), ({"GOMP_SPINCOUNT": "77"}, "77")])
@pytest.mark.parametrize("arguments", [["vnet_segmentation", "models"], ["vnet_segmentation.worker"]])
def test_threads_wait_briefly_unless_the_environment_says_otherwise(
    arguments: list[str], own: dict[str, str], read: str
) -> None:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP_", "OMP_", "KMP_"))}
    process = subprocess.run(
        [sys.executable, "-m", *arguments],
        env={**inherited, "PYTHONPATH": str(ENGINE), "OMP_DISPLAY_ENV": "VERBOSE", **own},
        # The worker ends with its input.
        input='{"id": 1, "command": "describe"}\n',
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert f"GOMP_SPINCOUNT = '{read}'" in process.stderr
