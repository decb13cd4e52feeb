"""Times, sizes and rates as people write them."""

from __future__ import annotations

import pytest

from somactl.cli.inputs import parse_duration, parse_rate, parse_size
from somactl.errors import UsageError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("90", 90), ("90s", 90), ("30m", 1800), ("24h", 86_400), ("7d", 604_800), ("1.5h", 5400)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text, "--grace") == seconds


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("1000000", 1_000_000),
        ("10MB", 10_000_000),
        ("10MiB", 10 << 20),
        ("1.5GB", 1_500_000_000),
        ("1.5GiB", 3 << 29),
        ("9007199254740993", 2**53 + 1),
        ("0.1kB", 100),
        ("2TiB", 2 << 40),
    ],
)
def test_sizes(text: str, count: int) -> None:
    assert parse_size(text, "--max-bytes") == count


@pytest.mark.parametrize(
    "text", ["", " ", "banana", "-1", "+1", "1 h", "h", "1e3", "inf", "nan", "1.", ".5", "1h30m", "٣", "1\n"]
)
def test_what_is_neither_is_refused(text: str) -> None:
    for parse in (parse_duration, parse_size):
        with pytest.raises(UsageError, match="--option"):
            parse(text, "--option")


@pytest.mark.parametrize("text", ["10mb", "10M", "5b", "10Mib"])
def test_a_unit_that_could_mean_two_things_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_size(text, "--max-bytes")
    assert "10MiB" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "rate"),
    [("200", (200.0, None)), ("0.5/s", (0.5, None)), ("5MB", (None, 5e6)), ("1.5MiB/s", (None, 1.5 * 2**20))],
)
def test_rates_are_things_or_bytes_per_second(text: str, rate: tuple[float | None, float | None]) -> None:
    assert parse_rate(text, "--rate") == rate


@pytest.mark.parametrize("text", ["", "0", "-1", "fast", "5 MB", "5mb", "1e3", "inf", "0MB", "٣", "1/m"])
def test_other_rates_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no rate"):
        parse_rate(text, "--rate")
