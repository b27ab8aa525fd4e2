"""Many scans: in this process or on a cluster."""
