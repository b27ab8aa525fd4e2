"""`python -m vnet_segmentation.worker`."""

import sys

from vnet_segmentation.worker.worker import main

sys.exit(main(sys.argv[1:]))
