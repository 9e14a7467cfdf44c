"""Amounts of bytes as people write them."""

from __future__ import annotations

import re

from modist.errors import UserError

_UNITS = {
    "": 1,
    "k": 1000,
    "m": 1000**2,
    "g": 1000**3,
    "t": 1000**4,
    "ki": 1 << 10,
    "mi": 1 << 20,
    "gi": 1 << 30,
    "ti": 1 << 40,
}


def read_amount(text: str, flag: str) -> int:
    """Bytes from `1GiB`, `500MB`, `1.5g` or a plain number; UserError names the flag."""
    found = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,15})?)\s*([kmgt]?i?)b?\s*", text.lower())
    if not found or found[2] == "i" or not (amount := int(float(found[1]) * _UNITS[found[2]])):
        raise UserError(f"{flag} {text}: not an amount of memory; write it as 1GiB or 500MB")
    return amount


def show_amount(count: float) -> str:
    """`988 MB`, `15.2 GB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError
