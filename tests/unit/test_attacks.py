"""Every malformed envelope is refused, by the one error that names its defect."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from somactl import errors
from somactl.core.envelope import deserialize_matrix
from somactl.core.framing import verify

ATTACKS = Path(__file__).resolve().parents[1] / "attacks"
MANIFEST: dict[str, dict[str, Any]] = json.loads((ATTACKS / "manifest.json").read_text("utf-8"))


def test_manifest_names_every_file() -> None:
    assert set(MANIFEST) == {path.name for path in ATTACKS.iterdir() if path.suffix in (".bin", ".txt")}
    assert len(MANIFEST) > 90


def test_every_envelope_error_is_provoked() -> None:
    provoked = {entry["error"] for entry in MANIFEST.values()}
    assert provoked == {cls.__name__ for cls in errors.EnvelopeError.__subclasses__()}


@pytest.mark.parametrize("name", MANIFEST)
def test_is_refused(name: str) -> None:
    entry = MANIFEST[name]
    data = (ATTACKS / name).read_bytes()
    tracemalloc.start()
    try:
        with pytest.raises(errors.EnvelopeError) as caught:
            deserialize_matrix(data, namespace=entry.get("namespace"), key=entry.get("key"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert type(caught.value).__name__ == entry["error"]
    assert entry["says"] in caught.value.message
    assert caught.value.exit_code == 11
    assert peak < 1 << 20, "something of a claimed size was allocated"


@pytest.mark.parametrize("name", [name for name in MANIFEST if name.endswith(".bin")])
def test_frame_check_agrees(name: str) -> None:
    """Without numpy the same error, or none where only the numbers are wrong."""
    entry = MANIFEST[name]
    data = (ATTACKS / name).read_bytes()
    if not entry["framed"]:
        assert verify(data).total_length == len(data)
        return
    with pytest.raises(errors.EnvelopeError) as caught:
        verify(data, namespace=entry.get("namespace"), key=entry.get("key"))
    assert type(caught.value).__name__ == entry["error"]


@pytest.mark.parametrize("name", [name for name in MANIFEST if name.endswith(".txt")])
def test_text_as_str(name: str) -> None:
    text = (ATTACKS / name).read_bytes().decode("latin-1")
    with pytest.raises(errors.EnvelopeError):
        deserialize_matrix(text)
