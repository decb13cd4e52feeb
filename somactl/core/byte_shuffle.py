"""Compressed payloads: all first bytes of the numbers, then all second bytes, ..., in one zstd frame.

Numbers of like size share their sign and exponent bytes; side by side these compress, where the
mantissa bytes hardly do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from somactl.errors import BadPayload

LEVEL = 3


def compress(raw: NDArray[Any]) -> bytes:
    """One zstd frame that states its content size, of the shuffled bytes of a C-contiguous array."""
    shuffled = raw.reshape(-1).view(np.uint8).reshape(-1, _width(raw.dtype)).T.tobytes()
    return zstandard.ZstdCompressor(level=LEVEL, write_content_size=True).compress(shuffled)


def decompress(stored: memoryview, size: int, dtype: np.dtype[Any], key: str) -> NDArray[np.uint8]:
    """The `size` bytes of the array. The frame must state that size before anything is allocated for it.

    Raises BadPayload where the frame is malformed, states or has another size, or something follows it.
    """
    try:
        if zstandard.get_frame_parameters(stored).content_size != size:
            raise BadPayload(
                f"the compressed payload of {key!r} does not state the {size} bytes its header promises"
            )
        shuffled = zstandard.ZstdDecompressor(max_window_size=_window(size)).decompress(
            stored, max_output_size=size, allow_extra_data=False
        )
    except zstandard.ZstdError as exc:
        raise BadPayload(f"the compressed payload of {key!r} does not decompress: {exc}") from None
    if len(shuffled) != size:
        raise BadPayload(f"the compressed payload of {key!r} has {len(shuffled)} bytes where {size} belong")
    columns = np.frombuffer(shuffled, dtype=np.uint8).reshape(_width(dtype), -1)
    return np.ascontiguousarray(columns.T).reshape(-1)


def _width(dtype: np.dtype[Any]) -> int:
    """Bytes of one real number; a complex one is two of them."""
    return dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize


def _window(size: int) -> int:
    """No frame of `size` bytes needs a larger window than the power of two above it (1 KiB at least)."""
    return max(1 << 10, 1 << (size - 1).bit_length())
