"""Dark mode: what an invariant refuses is stored with its verdict and a mark, and is never called proven."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from somactl.errors import KeyNotFound, VerdictMissing
from somactl.store.contract import CommitMetadata, Receipt, Store, VerdictSummary, is_dark
from somactl.store.wrapper import Dark
from somactl.testing.contract_tests import ContractTests
from somactl.testing.values import VALID, content_of, envelope, fresh_id

VIOLATED = {"status": "violated", "psd_ok": False, "lambda_min_upper": -0.1, "trace_error": 0.5, "dark": True}
UNDECIDED = {"status": "undecided", "lambda_min_lower": -1e-7, "dark": True}
CLAMPABLE = {"status": "clampable", "psd_ok": False, "lambda_min_lower": -2e-9, "dark": True}


async def put(store: Store, verdicts: Mapping[str, Mapping[str, Any]], *, dark: bool) -> Receipt:
    """Commit a rho under each key, with that verdict."""
    data = {key: envelope(key, kind="rho") for key in verdicts}
    told = {content_of(data[key]): verdict for key, verdict in verdicts.items()}
    return await store.commit_matrix_update(
        data, CommitMetadata(verdicts=told, dark=dark), commit_id=fresh_id()
    )


class DarkChapter(ContractTests):
    @pytest.mark.parametrize("verdict", [VIOLATED, UNDECIDED, CLAMPABLE], ids=lambda each: each["status"])
    async def test_a_marked_verdict_is_kept_as_it_is(
        self, writer: Store, store: Store, verdict: dict[str, Any]
    ) -> None:
        receipt = await put(writer, {"a": verdict}, dark=True)
        assert (await store.read("a")).verdict == verdict
        assert (await store.read_many(["a"])).entries["a"].verdict == verdict
        assert (await store.history("a"))[0].verdict == verdict
        record = (await store.commit_status(receipt.commit_id)).record
        assert record is not None
        assert record.metadata is not None
        assert record.metadata.dark
        assert [*record.metadata.verdicts.values()] == [verdict]
        assert (await store.log())[0].metadata == record.metadata

    @pytest.mark.parametrize(
        ("verdict", "dark"),
        [
            (VIOLATED, False),
            ({**VIOLATED, "dark": False}, True),
            ({**VIOLATED, "dark": 1}, True),
            ({"status": "violated"}, True),
            ({"status": "proven", "dark": True}, True),
            ({"dark": True}, True),
            ({**VALID, "dark": True}, True),
        ],
    )
    async def test_any_other_verdict_is_refused(
        self, writer: Store, verdict: dict[str, Any], dark: bool
    ) -> None:
        with pytest.raises(VerdictMissing):
            await put(writer, {"good": VALID, "a": verdict}, dark=dark)
        for key in ("a", "good"):
            with pytest.raises(KeyNotFound):
                await writer.read(key)

    async def test_its_events_say_so_and_the_worst_there_is(self, writer: Store) -> None:
        await put(writer, {"a": VALID}, dark=False)
        await put(writer, {"a": VALID}, dark=True)
        await put(writer, {"a": VALID, "b": VIOLATED, "c": UNDECIDED}, dark=True)
        await put(writer, {"a": VALID, "c": UNDECIDED, "d": {"status": "clampable", "dark": True}}, dark=True)
        events = (await writer.events()).events
        assert [event.dark for event in events] == [False, True, True, True]
        assert [event.verdict for event in events] == [
            VerdictSummary("valid", 0.0),
            VerdictSummary("valid", 0.0),
            VerdictSummary("violated", 0.5, -1e-7, psd_ok=False, admitted_dark=True),
            VerdictSummary("undecided", 0.0, -1e-7, psd_ok=None, admitted_dark=True),
        ]

    async def test_the_mode_is_no_part_of_a_request(self, writer: Store) -> None:
        data = {"a": envelope("a", kind="rho")}
        metadata = CommitMetadata(verdicts={content_of(data["a"]): VALID}, dark=True)
        first = await writer.commit_matrix_update(data, metadata, commit_id="x")
        light = CommitMetadata(verdicts=metadata.verdicts)
        again = await writer.commit_matrix_update(data, light, commit_id="x")
        assert again.replayed
        assert again.version == first.version
        assert [event.dark for event in (await writer.events()).events] == [True]

    async def test_a_store_opened_in_dark_mode_marks_every_commit(self, writer: Store) -> None:
        dark = Dark(writer)
        assert is_dark(dark)
        assert not is_dark(writer)
        await put(dark, {"a": VIOLATED}, dark=False)
        await dark.commit_matrix_update({"a": None}, CommitMetadata(), commit_id=fresh_id())
        assert [event.dark for event in (await dark.events()).events] == [True, True]
