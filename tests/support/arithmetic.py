"""Run Python code in a process of its own whose floating-point unit is set otherwise than by default."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from typing import Any

SET_UP = """
import ctypes, ctypes.util, json, struct, sys
_libm = ctypes.CDLL(ctypes.util.find_library("m"))
def rounding(mode):  # fenv.h; the numbers are those of the processor family
    numbers = {numbers}
    assert _libm.fesetround(numbers[mode]) == 0
def flush_to_zero():  # glibc's fenv_t on x86-64 ends with MXCSR: bit 15 flushes results, bit 6 reads zeros
    state = ctypes.create_string_buffer(32)
    assert _libm.fegetenv(state) == 0
    control = struct.unpack_from("<I", state, 28)[0] | 0x8040
    struct.pack_into("<I", state, 28, control)
    assert _libm.fesetenv(state) == 0
    tiny = float.fromhex("0x1p-1022")
    assert tiny / 2.0 == 0.0, "denormal numbers are not flushed"
"""
X86 = {"nearest": 0, "down": 0x400, "up": 0x800, "zero": 0xC00}
ARM = {"nearest": 0, "up": 0x400000, "down": 0x800000, "zero": 0xC00000}
IS_X86 = platform.machine().lower() in {"x86_64", "amd64"} and platform.libc_ver()[0] == "glibc"


def run(code: str, data: str = "") -> Any:
    """What `code` prints, as JSON. It may call `rounding(MODE)` and `flush_to_zero()`, and read `data`."""
    numbers = X86 if platform.machine().lower() in {"x86_64", "amd64"} else ARM
    done = subprocess.run(
        [sys.executable, "-c", SET_UP.replace("{numbers}", repr(numbers)) + code],
        input=data,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
