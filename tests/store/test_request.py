"""The pure decisions about a commit, which all stores share."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from somactl.errors import (
    CommitAborted,
    CommitExpired,
    CommitIdReused,
    InputRejected,
    LimitExceeded,
    VersionConflict,
)
from somactl.store import request
from somactl.store.contract import CommitMetadata, Expect, Expected, Retention
from somactl.store.request import KeyState, Request
from somactl.testing.values import commit_id_at, content_of, envelope, proof

names = st.sampled_from(["a", "b", "\u00e9", "c d"])
expectations = st.builds(
    Expect, st.none() | st.integers(0, 3), st.none() | st.just("i"), st.none() | st.just("c")
)


def prepared(
    seeds: dict[str, int | None], expected: Expected = None, user: dict[str, str] | None = None
) -> Request:
    data = {key: None if seed is None else envelope(key, seed) for key, seed in seeds.items()}
    return request.prepare("default", data, CommitMetadata(user or {}), expected, "id")


requests = st.tuples(
    st.dictionaries(names, st.none() | st.integers(0, 2), min_size=1),
    st.dictionaries(names, st.integers(0, 3)),
    st.dictionaries(names, names),
)


@given(requests, requests)
def test_two_requests_have_one_identity_exactly_if_they_ask_for_the_same(
    one: tuple[dict[str, int | None], dict[str, int], dict[str, str]],
    two: tuple[dict[str, int | None], dict[str, int], dict[str, str]],
) -> None:
    first, second = (prepared(seeds, dict(expected), user) for seeds, expected, user in (one, two))
    assert (first.identity == second.identity) == (one == two)
    shuffled = prepared(*(dict(reversed(part.items())) for part in one))  # type: ignore[arg-type]
    assert shuffled.identity == first.identity


orders = st.none() | st.sampled_from(["an order", "another order"])


@given(requests, requests, orders, orders)
def test_what_stands_for_something_is_known_by_that_and_its_labels_alone(
    one: tuple[dict[str, int | None], dict[str, int], dict[str, str]],
    two: tuple[dict[str, int | None], dict[str, int], dict[str, str]],
    first: str | None,
    second: str | None,
) -> None:
    def identity(
        parts: tuple[dict[str, int | None], dict[str, int], dict[str, str]], idempotency_key: str | None
    ) -> str:
        seeds, expected, user = parts
        data = {key: None if seed is None else envelope(key, seed) for key, seed in seeds.items()}
        metadata = CommitMetadata(user, idempotency_key=idempotency_key)
        return request.prepare("default", data, metadata, dict(expected), "id").identity

    same = one[2] == two[2] and first == second
    if first is None and second is None:
        same = one == two
    assert (identity(one, first) == identity(two, second)) == same


@pytest.mark.parametrize(
    "metadata",
    [
        CommitMetadata(grace=-0.5),
        CommitMetadata(grace=float("nan")),
        CommitMetadata(grace=request.MAX_GRACE_SECONDS * 1.01),
        CommitMetadata(facts={"x": float("inf")}),
        CommitMetadata(facts={"x": {1, 2}}),
        CommitMetadata(facts={7: "x"}),  # type: ignore[dict-item]
        CommitMetadata(facts={"x": {True: 1}}),
        CommitMetadata(facts={"x": [({7: "y"},)]}),
        CommitMetadata(facts={"x" * request.MAX_FACTS_BYTES: 0}),
        CommitMetadata(facts={"x": "\u00e9" * (request.MAX_FACTS_BYTES // 2)}),
        CommitMetadata(idempotency_key="\x7f"),
    ],
)
def test_metadata_out_of_bounds_are_refused(metadata: CommitMetadata) -> None:
    with pytest.raises(InputRejected):
        request.prepare("default", {"a": None}, metadata, None, "id")


def test_metadata_at_their_bounds_are_taken() -> None:
    facts = {"x": "y" * (request.MAX_FACTS_BYTES - len('{"x": ""}'))}
    metadata = CommitMetadata(facts=facts, grace=request.MAX_GRACE_SECONDS, idempotency_key="~" * 256)
    assert request.prepare("default", {"a": None}, metadata, None, "id").metadata == metadata
    assert request.prepare("default", {"a": None}, CommitMetadata(grace=0), None, "id").metadata.grace == 0


@given(st.dictionaries(names, expectations))
def test_normal_expectations_are_their_own_normal_form(expected: dict[str, Expect]) -> None:
    normal = request.normalise(expected, {})
    assert request.normalise(normal, {"other": None}) == normal
    assert Expect() not in normal.values()


@given(st.dictionaries(names, expectations), st.dictionaries(names, st.integers(0, 3)))
def test_a_conflict_names_exactly_the_keys_that_are_elsewhere(
    expected: dict[str, Expect], live: dict[str, int]
) -> None:
    found = {key: KeyState(version, "c" if version else None) for key, version in live.items()}
    wrong = {
        key
        for key, expect in expected.items()
        if expect.version not in (None, live.get(key, 0))
        or expect.incarnation not in (None, "i")
        or (expect.content is not None and not live.get(key))
    }
    named: set[str] = set()
    try:
        request.refuse_conflicts(expected, "i", found)
    except VersionConflict as exc:
        named = set(exc.conflicts)
    assert named == wrong


def test_the_message_of_a_conflict_names_three_keys_and_counts_the_rest() -> None:
    found = {"a": KeyState(4, "x"), "b": KeyState(deleted_since=7)}
    expected = {"a": Expect(3), "b": Expect(2), "c": Expect(1), "d": Expect(1), "e": Expect(1)}
    with pytest.raises(VersionConflict) as caught:
        request.refuse_conflicts(expected, "i", found)
    assert caught.value.message == (
        "'a' was expected at version 3 and is at version 4; "
        "'b' was expected at version 2 and is deleted since version 7; "
        "'c' was expected at version 1 and is absent; and 2 more"
    )


def test_a_conflict_with_an_incarnation_or_a_content_says_so() -> None:
    with pytest.raises(VersionConflict, match="incarnation old and has new"):
        request.refuse_conflicts({"a": Expect(incarnation="old")}, "new", {})
    with pytest.raises(VersionConflict, match="content 12ab and has none"):
        request.refuse_conflicts({"a": Expect(content="12ab")}, "new", {})


def test_settle_compares_with_what_is_recorded() -> None:
    sent = prepared({"a": 0})
    request.resolve_replay(sent, sent.identity)
    with pytest.raises(CommitAborted, match="id"):
        request.resolve_replay(sent, None)
    with pytest.raises(CommitIdReused, match="id"):
        request.resolve_replay(sent, prepared({"a": 1}).identity)


@pytest.mark.parametrize(
    ("created", "removed_until", "expired"),
    [(940.0, 0.0, False), (899.0, 0.0, True), (900.0, 0.0, True), (950.0, 960.0, True), (2000.0, 0.0, False)],
)
def test_an_id_is_expired_once_its_record_may_be_gone(
    created: float, removed_until: float, expired: bool
) -> None:
    def check(commit_id: str) -> None:
        request.refuse_expired(commit_id, 1000.0, Retention(record_seconds=100.0), removed_until)

    if expired:
        with pytest.raises(CommitExpired):
            check(commit_id_at(created))
    else:
        check(commit_id_at(created))
    check("no-time-in-it")


def test_a_request_keeps_only_the_verdicts_of_what_it_writes() -> None:
    rho, other = envelope("a", kind="rho"), envelope("a", 1, kind="rho")
    metadata = CommitMetadata({}, proof(rho, other), "commit")
    made = request.prepare("default", {"a": rho, "b": None}, metadata, None, "id")
    assert set(made.metadata.verdicts) == {content_of(rho)}
    assert made.metadata.command == "commit"
    assert made.contents == {"a": content_of(rho), "b": None}


def test_too_many_keys_are_refused() -> None:
    with pytest.raises(LimitExceeded):
        prepared({f"k{i}": None for i in range(request.MAX_COMMIT_KEYS + 1)})
