"""safetensors files that lie: each a header (bytes, or anything JSON can say) and the data after it."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any


def raw_file(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    """A file with a header of any kind: bytes as they are, anything else as JSON."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


LIES: dict[str, tuple[Any, bytes]] = {
    "overlap": ({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)),
    "same place": ({"a": entry(), "b": entry()}, bytes(8)),
    "gap": ({"a": entry(), "b": entry(offsets=(12, 20))}, bytes(20)),
    "gap at the start": ({"a": entry(offsets=(4, 12))}, bytes(12)),
    "data left over": ({"a": entry()}, bytes(9)),
    "data cut short": ({"a": entry()}, bytes(7)),
    "no data": ({"a": entry()}, b""),
    "offsets of another size": ({"a": entry(offsets=(0, 4))}, bytes(4)),
    "offsets backwards": ({"a": entry(offsets=(8, 0))}, bytes(8)),
    "offsets negative": ({"a": entry(offsets=(-8, 0))}, bytes(8)),
    "one offset": ({"a": entry(offsets=(0,))}, bytes(8)),
    "three offsets": ({"a": entry(offsets=(0, 4, 8))}, bytes(8)),
    "offsets as text": ({"a": entry(offsets="0, 8")}, bytes(8)),
    "offsets as floats": ({"a": entry(offsets=(0.0, 8.0))}, bytes(8)),
    "offsets beyond 64 bits": ({"a": entry(offsets=(0, 1 << 64))}, bytes(8)),
    "negative shape": ({"a": entry(shape=(-2,))}, bytes(8)),
    "two negative extents": ({"a": entry(shape=(-2, -1))}, bytes(8)),
    "shape as text": ({"a": entry(shape="2")}, bytes(8)),
    "shape as a number": ({"a": entry(shape=2)}, bytes(8)),
    "shape of floats": ({"a": entry(shape=(2.0,))}, bytes(8)),
    "shape of booleans": ({"a": entry(shape=(True, 2))}, bytes(8)),
    "shape missing": ({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, bytes(8)),
    "shape null": ({"a": entry(shape=None)}, bytes(8)),
    "shape that overflows": ({"a": entry(shape=(1 << 61, 1 << 61))}, bytes(8)),
    "shape of a million extents": ({"a": entry(shape=(1 << 61,) * 100_000)}, bytes(8)),
    "dtype unknown": ({"a": entry("F31")}, bytes(8)),
    "dtype in lower case": ({"a": entry("f32")}, bytes(8)),
    "dtype of torch": ({"a": entry("torch.float32")}, bytes(8)),
    "dtype a list": ({"a": entry(["F32"])}, bytes(8)),
    "dtype null": ({"a": entry(None)}, bytes(8)),
    "dtype complex": ({"a": entry("C64", (1,))}, bytes(8)),
    "entry a list": ({"a": []}, b""),
    "entry null": ({"a": None}, b""),
    "entry a number": ({"a": 1}, b""),
    "header a list": ([], b""),
    "header null": (b"null", b""),
    "header a number": (b"1", b""),
    "header empty": (b"", b""),
    "header blank": (b"        ", b""),
    "header not JSON": (b"{'a': 1}", b""),
    "header cut short": (b'{"a": {"dtype"', b""),
    "header not UTF-8": (b'{"\xff\xfe": 1}', b""),
    "header in UTF-16": (json.dumps({"a": entry()}).encode("utf-16"), bytes(8)),
    "header with a byte order mark": (b"\xef\xbb\xbf" + json.dumps({"a": entry()}).encode(), bytes(8)),
    "header nested deeply": (b'{"a":' * 100_000, b""),
    "header of brackets": (b"[" * 1_000_000, b""),
    "number of 5000 digits": (b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,8]}}', bytes(8)),
    "half a surrogate in a name": (b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
    "a name of 5000 letters": ({"a" * 5000: entry()}, bytes(8)),
    "the same name twice": (
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        bytes(8),
    ),
    "the same key twice": (b'{"a":{"dtype":"F32","dtype":"F16","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
}
