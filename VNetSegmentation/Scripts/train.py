"""Trains a model on labelled cases without a window, and asks nothing, whatever happens:

Slicer --no-splash --no-main-window --python-script .../Scripts/train.py --data DIR --output MODEL
"""

import sys
import traceback
from pathlib import Path

import slicer

exit_code = 1
try:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from VNetSegmentationLib.headlessTraining import runHeadlessTraining

    exit_code = runHeadlessTraining(sys.argv[1:])
except SystemExit as wrong_arguments:
    exit_code = wrong_arguments.code
except BaseException:
    traceback.print_exc()
finally:
    # Slicer stays open after a script, otherwise.
    slicer.util.exit(exit_code)
