"""Times, sizes and rates as people write them."""

from __future__ import annotations

import pytest

from somactl.cli.quantities import parse_duration, parse_latency, parse_part, parse_rate, parse_size
from somactl.core.quantities import Share, Size
from somactl.errors import UsageError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("90", 90),
        ("90s", 90),
        ("30m", 1800),
        ("24h", 86_400),
        ("7d", 604_800),
        ("1.5h", 5400),
        ("20ms", 0.02),
    ],
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
    [
        ("200", (200.0, None)),
        ("0.5/s", (0.5, None)),
        ("5MB", (None, 5e6)),
        ("1.5MiB/s", (None, 1.5 * 2**20)),
        ("0", (None, None)),
    ],
)
def test_rates_are_things_or_bytes_per_second(text: str, rate: tuple[float | None, float | None]) -> None:
    assert parse_rate(text, "--rate") == rate


@pytest.mark.parametrize(
    "text", ["", "0.0", "-1", "fast", "5 MB", "5mb", "1e3", "inf", "0MB", "٣", "1/m", "5%"]
)
def test_other_rates_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no rate"):
        parse_rate(text, "--rate")


@pytest.mark.parametrize(("text", "seconds"), [("20ms", 0.02), ("0.5s", 0.5), ("1.5ms", 0.0015)])
def test_latencies(text: str, seconds: float) -> None:
    assert parse_latency(text, "--max-latency") == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "20", "0ms", "0", "-1ms", "20m", "20 ms", "20us", "5%"])
def test_a_latency_names_its_unit_and_is_more_than_none(text: str) -> None:
    with pytest.raises(UsageError, match=r"--max-latency .* is no latency") as caught:
        parse_latency(text, "--max-latency")
    assert "20ms" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "part", "of_a_thousand"),
    [
        ("5%", Share(0.05), 50),
        ("0.01%", Share(0.0001), 1),
        ("7%", Share(0.07), 70),
        ("100%", Share(1.0), 1000),
        ("0", Share(0.0), 0),
        ("0%", Share(0.0), 0),
        ("20GB", Size(20 * 10**9), 1000),
        ("0.5kB", Size(500), 500),
        ("1KiB", Size(1024), 1000),
    ],
)
def test_parts_are_shares_or_sizes(text: str, part: Share | Size, of_a_thousand: int) -> None:
    assert parse_part(text, "--recheck") == part
    assert part.of(1000) == of_a_thousand
    assert part.of(0) == 0
    assert parse_part(str(part), "--recheck") == part


@pytest.mark.parametrize("text", ["", "5", "-5%", "101%", "5 %", "%", "5gb", "5GB/s", "all", "nan%"])
def test_what_could_be_a_share_or_a_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--recheck .* is no share and no size") as caught:
        parse_part(text, "--recheck")
    assert "5% or 20GB" in (caught.value.hint or "")
