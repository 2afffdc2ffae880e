"""Memory of one GPU as far as a spec tells it: as given, or from the names of its products."""

from __future__ import annotations

import re

from finetune_api.compute_settings import TrainingCompute

_IN_NAME = re.compile(r"(\d+)gb\b", re.IGNORECASE)
_PRODUCTS = {
    "Tesla-T4": 16,
    "NVIDIA-L4": 24,
    "NVIDIA-A10": 24,
    "NVIDIA-A10G": 24,
    "NVIDIA-A40": 48,
    "NVIDIA-L40": 48,
    "NVIDIA-L40S": 48,
    "NVIDIA-H200": 141,
}
"""Data-centre products whose names do not tell, in GB as their data sheets do."""


def known_gpu_memory(compute: TrainingCompute) -> str | None:
    """Return gpuMemory, else the memory of the smallest of gpuProducts; None = not known.

    A name's GB are taken as 10**9 bytes: never more than the device has. A slice (MIG) tells its
    own size last: in the resource that is asked for, or behind the name of its device.
    """
    if compute.gpu_memory or not compute.gpu_products:
        return compute.gpu_memory
    if own := _IN_NAME.findall(compute.gpu_resource_name):
        return f"{own[-1]}G"
    sizes = [_gigabytes(product) for product in compute.gpu_products]
    known = [size for size in sizes if size is not None]
    return f"{min(known)}G" if len(known) == len(sizes) else None


def _gigabytes(product: str) -> int | None:
    told = _IN_NAME.findall(product)
    return int(told[-1]) if told else _PRODUCTS.get(product)
