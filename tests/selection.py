"""What `make test` leaves to `make test-full`, and which of the tests that stay hold the same.

A test is left out where it repeats, at length, what others hold: another seed, a second store behind the
same code, another moment of the same fault, a larger size. Never the only test of something.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

CHAPTERS = "Commit|Concurrency|StateMachine"
"""Parts of the contract that are repeated behind a pooler: statements of every kind, clients at once."""

LEFT_OUT: dict[str, str] = {
    # what is left out, searched in FILE::TEST CHAPTER: what holds it
    rf"store/test_postgres_contract.py::TestPostgresBehindPgBouncer::.* (?!{CHAPTERS})": (
        "store/test_postgres_contract.py::TestPostgres::"
    ),
    rf"store/test_postgres_contract.py::TestLargeCommits.*::.* (?!{CHAPTERS})": (
        "store/test_postgres_contract.py::TestLargeCommitsBehindPgBouncer::test_readers_see_whole_commits"
    ),
    r"store/test_hybrid_contract.py::TestHybridOnSqlite::": "store/test_hybrid_contract.py::TestHybrid::",
    r"store/test_redis_contract.py::TestFakeRedis::": "store/test_redis_contract.py::TestRedis::",
    r"store/test_redis_scripts.py::test_the_largest_number_of_keys_in_a_commit": (
        "store/test_redis_scripts.py::test_a_commit_of_many_thousand_keys"
    ),
    r"source/test_contract.py::TestPostgres(Behind|In).*::.*large": "source/test_contract.py::TestPostgres::",
    r"faults/.*py::.*seed-[1-9]": "faults/test_killed_servers.py::",
    r"faults/test_cancelled_reads.py::.*\[(postgres|hybrid)": "faults/test_cancelled_reads.py::",
    r"faults/test_connections.py::test_retrying_makes.*small": (
        "faults/test_connections.py::test_a_connection_cut_at_any_byte"
    ),
    r"faults/test_connections.py::test_a_connection_that_falls_silent\[.*small": (
        "faults/test_connections.py::test_a_connection_that_falls_silent"
    ),
    r"faults/test_migration_memory.py::": "source/test_memory.py::",
    r"faults/test_migration_kills.py::test_a_copy_killed_at_random.*\[(postgres|redis|hybrid)": (
        "faults/test_migration_kills.py::test_what_a_killed_run_committed_is_its_own_to_revert"
    ),
    r"faults/test_migration_finalize.py::test_killed_at_random": (
        "faults/test_migration_finalize.py::test_a_finalize_killed_between_any_two_writes"
    ),
    r"faults/test_migration_nodes.py::test_a_target_that_dies.*\[before": (
        "faults/test_migration_nodes.py::test_a_target_that_dies_ends_the_run_which_is_resumed"
    ),
    r"faults/test_migration_nodes.py::.*\[(after notes 9|before notes 9)": (
        "faults/test_migration_nodes.py::test_a_target_that_lost_its_newest_writes_gets_them_again"
    ),
    r"faults/test_migration_signals.py::test_of_two_runs.*-(postgres|redis)": (
        "faults/test_migration_signals.py::test_of_two_runs_the_one_that_was_overtaken_stops"
    ),
    r"packaging/test_containerfile.py::test_what_it_builds_starts": (
        "packaging/test_installed.py::test_the_wheel_does_the_main_job"
    ),
    r"cli/test_push.py::test_every_failure.*-json\]": "cli/test_push.py::test_every_failure_is_pushed",
    r"cli/test_push.py::test_a_failing_gateway.*\[(silent|400|killed)-(3|13)\]": (
        "cli/test_push.py::test_a_failing_gateway_makes_it_4_at_most"
    ),
    r"cli/test_push_elsewhere.py::.*silent": "cli/test_push_elsewhere.py::test_a_switch_that_fails",
    r"telemetry/test_questions.py::.*\[(nothing|corrupt|outdated|cache_down|never_read|a_spot)": (
        "telemetry/test_questions.py::test_every_question_is_answered_truthfully"
    ),
    r"prune/test_large.py::": "prune/test_two_runs.py::",
    r"prune/test_prefix.py::.*_on_every_store\[(postgres|hybrid)": "prune/test_prefix.py::",
    r"migration/test_state_machine.py::TestLongJourneys": "migration/test_state_machine.py::TestJourneys",
    r"cli/test_audit.py::test_a_signal_leaves_the_report\[(table|ndjson)-.*": (
        "cli/test_audit.py::test_a_signal_leaves_the_report[json-"
    ),
    r"cli/test_audit.py::test_a_deadline_leaves_a_line_that_goes_on\[(table|ndjson)": (
        "cli/test_audit.py::test_a_deadline_leaves_a_line_that_goes_on[json"
    ),
    r"fuzz/test_wire.py::.*\[[3-9]\]": "fuzz/test_wire.py::",
    r"serve/test_doors_on_servers.py::test_an_order_outlives.*\[(sqlite-after|hybrid-before)": (
        "serve/test_doors_on_servers.py::test_an_order_outlives_the_process_that_was_killed_in_the_middle"
    ),
    r"serve/test_doors_on_servers.py::test_the_description_holds_on_a_real_server": (
        "serve/test_openapi.py::test_every_answer_is_as_described"
    ),
    r"serve/test_openapi.py::test_every_answer_is_as_described\[head ": (
        "serve/test_openapi.py::test_every_answer_is_as_described[get "
    ),
    r"unit/test_certificate.py::test_exactly_known_spectra\[512": (
        "unit/test_certificate.py::test_exactly_known_spectra"
    ),
    r"unit/test_certificate.py::test_no_proof_is_false_for_middling_sizes": (
        "unit/test_certificate.py::test_no_proof_is_false_near_the_limit"
    ),
    r"unit/test_invariants.py::test_all_routes_agree\[530": "unit/test_invariants.py::test_all_routes_agree",
}


def may_have_one(path: str) -> bool:
    """Whether tests of that file may be left out."""
    return any(re.search(line.split("::")[0], path) for line in LEFT_OUT)


def mark(items: Sequence[pytest.Item], *, whole: bool) -> None:
    """Mark with `full` what is left out. Of the whole, each line must find tests, and name one that stays."""
    named = {name_of(item): item for item in items}
    kept = "\n".join(name for name in named if not any(re.search(line, name) for line in LEFT_OUT))
    for pattern, holder in LEFT_OUT.items():
        found = [item for name, item in named.items() if re.search(pattern, name)]
        for item in found:
            item.add_marker("full")
        if whole and not (found and f"tests/{holder}" in kept):
            raise pytest.UsageError(f"selection.py: {pattern!r} finds no test, or {holder!r} is left out")


def name_of(item: pytest.Item) -> str:
    """Its node id, and the class that defines it: parts of a contract are inherited by many tests."""
    written = getattr(getattr(item, "function", None), "__qualname__", "")
    return f"{item.nodeid} {written.partition('.')[0]}"
