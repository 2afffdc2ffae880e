"""A real Kubernetes on one machine, for tests and for contributors.

API server, scheduler, kubelet, containerd, DNS, an S3 gateway and Prometheus are started from
built or packaged binaries, without Docker, a virtual machine or an image registry: a test then
fails for the reasons a user's cluster fails, not for those of a stand-in. Standard library only,
so that any Python from 3.11 starts it before anything is installed. docs/test-cluster.md is the
page for contributors; tests use `kubectl`, `namespaces`, `volumes`, `object_store`, `containers`,
`metrics_store` and `node`.
"""
