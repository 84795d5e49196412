"""Numbers and pictures as text, small: what the page's script reads."""

import base64
import json
import math
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

GRID = 0.01
"""Å, to which coordinates are rounded."""
LARGEST = 32767
"""Of a 16-bit number."""


def packed(values: ArrayLike) -> dict[str, Any]:
    """Encode an array as base64 of 32-bit floats; NaN is kept."""
    return _packed(np.asarray(values), "<f4", "f4")


def packed_bytes(values: NDArray[np.uint8]) -> dict[str, Any]:
    """Encode whole numbers from 0 to 255."""
    return _packed(values, "u1", "u1")


def packed_grid(values: ArrayLike, grid: float = GRID) -> dict[str, Any]:
    """Encode an array as base64 of 16-bit integers, multiples of `grid` or, where the range is too wide, of more."""
    numbers = np.asarray(values, dtype=np.float64)
    largest = float(np.abs(numbers).max(initial=0.0))
    grid = max(grid, largest / LARGEST)
    return _packed(np.rint(numbers / grid), "<i2", "i2") | {"scale": grid}


def _packed(values: NDArray[Any], dtype: str, kind: str) -> dict[str, Any]:
    data = np.ascontiguousarray(values.astype(dtype)).tobytes()
    return {"type": kind, "shape": list(values.shape), "data": base64.b64encode(data).decode("ascii")}


def rounded(values: ArrayLike, digits: int = 5) -> list[Any]:
    """Return numbers as a list, with so many significant digits; what is no finite number becomes None."""
    return [_number(value, digits) for value in np.asarray(values, dtype=np.float64).ravel().tolist()]


def _number(value: float, digits: int) -> float | None:
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def as_json(data: Any) -> str:
    """Return JSON that may stand in a `<script>`: no text in it can end that, or begin a comment."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def png(image: NDArray[np.uint8]) -> str:
    """Return a grey image (rows, columns) as a PNG data URI."""
    rows, columns = image.shape
    scanlines = np.zeros((rows, columns + 1), dtype=np.uint8)  # each begins with its filter, none
    scanlines[:, 1:] = image
    header = struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(scanlines.tobytes(), 9)), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + body).decode("ascii")
