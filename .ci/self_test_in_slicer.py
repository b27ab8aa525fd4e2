"""Runs the module's self test in a real Slicer: `Slicer --testing --python-script .ci/self_test_in_slicer.py`."""

import traceback

import slicer

code = 1
try:
    import VNetSegmentation

    VNetSegmentation.VNetSegmentationTest().runTest()
    code = 0
except Exception:
    traceback.print_exc()
finally:
    # Slicer stays open after a script, whatever became of it.
    slicer.util.exit(code)
