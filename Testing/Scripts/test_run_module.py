"""A module in a process that ends with its input, as PythonSlicer runs it: behind a launcher."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "VNetSegmentation" / "Scripts" / "run_module.py"
TIMEOUT_S = 30


@pytest.fixture
def start(tmp_path):
    """Function that starts a module of the given source, and returns the process."""

    def start_module(source: str, *arguments: str) -> subprocess.Popen:
        (tmp_path / "probe.py").write_text(source)
        return subprocess.Popen(
            [sys.executable, SCRIPT, "probe", *arguments],
            env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start_module


def test_the_module_is_run_as_by_python_m_and_its_exit_code_is_passed_on(start):
    process = start("import sys\nprint(__name__, sys.argv[1:])\nimport vnet_segmentation\nsys.exit(7)", "a b", "--c")
    # With its input open: a module that is done does not wait for it.
    assert process.stdout.read() == "__main__ ['a b', '--c']\n"
    assert process.wait(TIMEOUT_S) == 7
    process.stdin.close()


STOPPED = """
import time
try:
    print("at work")
    time.sleep(600)
except KeyboardInterrupt:
    print("cleaned up")
"""

STUBBORN = """
import time
while True:
    try:
        print("at work")
        time.sleep(600)
    except KeyboardInterrupt:
        pass
"""


def test_when_its_input_closes_the_module_is_interrupted_and_can_clean_up(start):
    process = start(STOPPED)
    assert process.stdout.readline() == "at work\n"
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert output == "cleaned up\n"
    assert process.returncode == 0


def test_a_module_that_goes_on_nevertheless_is_ended(start):
    process = start(STUBBORN)
    assert process.stdout.readline() == "at work\n"
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert output == "at work\n"
    assert process.returncode == 130
