"""Kubernetes quantities: text to bytes and back, as far as memory needs it."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal

_UNITS = {
    "": Decimal(1),
    "m": Decimal(1) / 1000,
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTP", start=1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTP", start=1)},
}
_READABLE = ("KiB", "MiB", "GiB", "TiB")


def quantity_bytes(quantity: str) -> int:
    """Return a quantity as a whole number, rounded up."""
    number = quantity.rstrip("".join(_UNITS))
    exact = Decimal(number) * _UNITS[quantity[len(number) :]]
    return int(exact.to_integral_value(ROUND_CEILING))


def memory_quantity(size: int) -> str:
    """Return bytes as the shortest exact binary quantity."""
    for power, unit in ((4, "Ti"), (3, "Gi"), (2, "Mi"), (1, "Ki")):
        if size and size % 1024**power == 0:
            return f"{size // 1024**power}{unit}"
    return str(size)


def readable_size(size: int) -> str:
    """Return bytes as people read them: `3.4 MiB`."""
    if size < 1024:
        return f"{size} B"
    power = min((size.bit_length() - 1) // 10, len(_READABLE))
    return f"{size / 1024**power:.1f} {_READABLE[power - 1]}"
