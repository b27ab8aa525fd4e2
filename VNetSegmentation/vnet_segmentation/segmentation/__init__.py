"""From a scan to its mask, report and confidence."""
