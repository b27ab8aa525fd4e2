"""`python small_command.py ARGUMENTS`: the command line, with the preset "paper" on a field as small as in other tests.

The command has no option for it, and a field of the usual size takes a second for each iteration.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from vnet_segmentation.cli.main import run
from vnet_segmentation.images.preprocessing import Preprocessing
from vnet_segmentation.training import options
from vnet_segmentation.training.recipe import Recipe, load_recipe


def small_recipe(name: str = "paper") -> Recipe:
    """Stands in for `load_recipe`."""
    return replace(load_recipe("paper"), preprocessing=Preprocessing(spacing_mm=(2.0, 2.0, 3.0), size=(32, 32, 16)))


if __name__ == "__main__":
    options.load_recipe = small_recipe
    sys.exit(run(sys.argv[1:]))
