"""Dark mode from Python: the environment says it where it names the store, else the policy does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import somactl
from somactl.errors import ConfigurationError, InvariantViolated

BAD = np.diag([1.2, -0.2])


@pytest.fixture(autouse=True)
def dark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/dark.db"
    monkeypatch.setenv("SOMACTL_STORE", url)
    monkeypatch.setenv("SFM_DARK_MODE", "on")
    return url


async def test_a_store_that_the_environment_names_is_in_its_mode(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with somactl.open_store() as store:
        receipt = await somactl.commit_matrix_update(store, {"a": BAD, "b": np.eye(2) / 2})
        assert receipt.admitted_dark == ("a",)
        verdict = (await store.read("a")).verdict
        assert verdict is not None
        assert (verdict["status"], verdict["dark"]) == ("violated", True)
        assert np.array_equal(np.asarray(await somactl.read_matrix(store, "a")), BAD)
    assert any("dark mode is on (SFM_DARK_MODE)" in record.message for record in caplog.records)
    monkeypatch.delenv("SFM_DARK_MODE")
    async with somactl.open_store() as store:
        with pytest.raises(InvariantViolated):
            await somactl.commit_matrix_update(store, {"a": BAD})


async def test_with_a_url_the_policy_alone_says_it(dark: str) -> None:
    async with somactl.open_store(dark) as store:
        with pytest.raises(InvariantViolated):
            await somactl.commit_matrix_update(store, {"a": BAD})
        receipt = await somactl.commit_matrix_update(store, {"a": BAD}, policy=somactl.Policy(dark=True))
        assert receipt.admitted_dark == ("a",)
        assert [event.dark for event in (await store.events()).events] == [True]


async def test_a_wrong_word_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFM_DARK_MODE", "maybe")
    with pytest.raises(ConfigurationError, match="SFM_DARK_MODE"):
        async with somactl.open_store():
            pass
