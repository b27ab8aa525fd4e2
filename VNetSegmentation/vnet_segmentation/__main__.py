"""`python -m vnet_segmentation`: the command line."""

from __future__ import annotations

import sys


def main() -> int:
    """Runs the command line on the program's arguments; returns the exit code."""
    try:
        from vnet_segmentation.cli import run
    except ModuleNotFoundError as error:
        from vnet_segmentation.errors import ExitCode

        package = (error.name or "vnet_segmentation").partition(".")[0]
        if package == "vnet_segmentation":
            raise
        print(f"The Python package {package} is missing. Install it: pip install {package}", file=sys.stderr)
        return ExitCode.MISSING_DEPENDENCY
    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
