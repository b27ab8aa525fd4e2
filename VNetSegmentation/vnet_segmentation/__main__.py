"""`python -m vnet_segmentation`: the command line."""

from __future__ import annotations

import sys

from vnet_segmentation.openmp import wait_briefly


def main() -> int:
    """Runs the command line on the program's arguments; returns the exit code."""
    wait_briefly()
    try:
        from vnet_segmentation.cli.main import run

        return run(sys.argv[1:])
    except KeyboardInterrupt:
        # While packages are still being imported; `run` sees to what comes later.
        print("vnet-segmentation: stopped.", file=sys.stderr)
        return 130  # ExitCode.CANCELLED, which may not be imported yet
    except ModuleNotFoundError as error:
        from vnet_segmentation.errors import ExitCode

        package = (error.name or "vnet_segmentation").partition(".")[0]
        if package == "vnet_segmentation":
            raise
        print(f"The Python package {package} is missing. Install it: pip install {package}", file=sys.stderr)
        return ExitCode.MISSING_DEPENDENCY


if __name__ == "__main__":
    sys.exit(main())
