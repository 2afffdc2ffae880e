"""The seam to a cluster and its two sides: a real API server and the local one."""
