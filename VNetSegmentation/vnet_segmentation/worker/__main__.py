"""`python -m vnet_segmentation.worker`."""

import sys

from vnet_segmentation.openmp import wait_briefly
from vnet_segmentation.worker.worker import main

wait_briefly()
sys.exit(main(sys.argv[1:]))
