"""The rates of a consumer: those of the last minute, and the failures of the last hour."""

from __future__ import annotations

from pymq.client.consume_figures import ConsumeFigures
from pymq.protocol.bodies import ConsumeStatus
from tests.sim import SimClock


def test_nothing_has_happened() -> None:
    assert ConsumeFigures(SimClock()).status("orders") == ConsumeStatus()


def test_rates_and_times_of_each_topic() -> None:
    clock = SimClock()
    figures = ConsumeFigures(clock)
    for second in range(20):
        figures.pulled("orders", 32, 0.002 if second % 2 else 0.004)
        began_s = clock.monotonic()
        clock.advance(1000)
        for number in range(10):
            figures.handled("orders", began_s + 0.9, is_done=number > 0)
    figures.pulled("bills", 1, 1.5)
    status = figures.status("orders")
    assert round(status.pull_rt, 6) == 3.0
    assert (status.pull_tps, status.consume_ok_tps, status.consume_failed_tps) == (32.0, 9.0, 1.0)
    assert round(status.consume_rt, 6) == 100.0
    assert status.consume_failed_msgs == 20
    assert (figures.status("bills").pull_rt, figures.status("bills").pull_tps) == (1500.0, 0.05)


def test_rates_are_those_of_the_last_minute_and_failures_those_of_the_last_hour() -> None:
    clock = SimClock()
    figures = ConsumeFigures(clock)
    for _ in range(600):
        figures.handled("orders", clock.monotonic(), is_done=False)
        clock.advance(1000)
    assert figures.status("orders").consume_failed_tps == 1.0
    clock.advance(60_000)
    status = figures.status("orders")
    assert (status.consume_failed_tps, status.consume_failed_msgs) == (0.0, 600)
    clock.advance(3_600_000)
    assert figures.status("orders").consume_failed_msgs == 0
