"""Timed messages through any story of kills, power cuts, lost journals and clocks put back."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymq.store.timer_journal import HOUR_MS, TIMER_TOPIC
from tests.broker.standing_loop import in_a_loop
from tests.broker.timing import TimedWorld

_steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("send"),
            st.sampled_from((1, 500, 30_000, 59_000, 61_000, 1_000_000, HOUR_MS, 7 * HOUR_MS)),
        ),
        st.tuples(st.just("cancel"), st.integers(0, 20)),
        st.tuples(st.just("wait"), st.sampled_from((1, 99, 1000, 31_000, 61_000, HOUR_MS, -1500))),
        st.tuples(st.sampled_from(("run", "slice", "save", "stop", "kill", "hold", "jobs", "lose", "roll"))),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(_steps)
def test_whatever_happens_each_comes_once_and_never_early(steps: list[tuple[object, ...]]) -> None:
    def story() -> None:
        world = TimedWorld(now_ms=HOUR_MS * 400_000 - 40_000)
        due: dict[bytes, int] = {}
        cancelled = set()
        for number, (step, *values) in enumerate(steps):
            if step == "send":
                body = b"%d" % number
                due[body] = world.clock.now_ms() + int(str(values[0]))
                world.send(due[body], body, unique_key=f"K{number}")
            elif step == "cancel":
                waiting = [body for body in due if due[body] > world.clock.now_ms() and body not in cancelled]
                if waiting:
                    body = waiting[int(str(values[0])) % len(waiting)]
                    if body in {record.body for record in world.delivered()}:
                        continue  # the clock was put back behind its delivery
                    cancelled.add(body)
                    world.cancel(due[body], f"K{body.decode()}")
            elif step == "wait":
                world.clock.advance(int(str(values[0])))
            elif step == "run":
                world.run()
            elif step == "slice":
                world.timers.deliver_due()
            elif step == "save":
                world.saves.save_soon()
            elif step == "hold":
                world.disk.hold_jobs = True
            elif step == "jobs":
                world.disk.run_jobs()
            elif step == "roll":
                world.rolls._until = world.store.commit_log_max_offset
                world.rolls.roll()
            else:
                world.disk.hold_jobs = False
                world.disk.run_jobs()
                world.stop() if step == "stop" else world.kill()
                if step == "lose":
                    world.lose_journal()
                world.begin()
        world.disk.hold_jobs = False
        world.disk.run_jobs()
        world.run()
        world.clock.advance(9 * HOUR_MS)
        world.run()
        delivered = world.delivered()
        assert Counter(record.body for record in delivered) == Counter(due.keys() - cancelled)
        assert all(record.store_timestamp >= due[record.body] for record in delivered)
        world.stop()

    in_a_loop(story)


@pytest.mark.parametrize("seed", range(40))
def test_after_power_cuts_the_log_holds_each_delivery_once(seed: int) -> None:
    """What was on the disk before a cut is delivered; a copy that the cut took is made again, no other."""

    def story() -> None:
        world = TimedWorld(now_ms=HOUR_MS * 400_000 - 300_000)
        luck = world.clock.random
        luck.seed(seed)
        safe: set[bytes] = set()
        sent: list[tuple[int, bytes]] = []
        for number in range(400):
            dice = luck.random()
            if dice < 0.5:
                body = b"%d" % number
                sent.append((world.after(luck.choice((1, 100, 5_000, 61_000, HOUR_MS)), body), body))
            elif dice < 0.8:
                world.clock.advance(luck.choice((10, 300, 900, 20_000)))
                world.run()
            elif dice < 0.9:
                world.saves.save_soon()
            elif dice < 0.95:
                world.store.tick()
            elif dice < 0.98:
                world.rolls._until = world.store.commit_log_max_offset
                world.rolls.roll()
            else:
                safe |= {body for end, body in sent if end <= world.store.flushed.position}
                sent.clear()
                world.cut(luck.randrange(1 << 30))
                if luck.random() < 0.3:
                    world.lose_journal()
                world.begin()
        safe |= {body for _, body in sent}
        world.run()
        world.clock.advance(2 * HOUR_MS)
        world.run()
        there = Counter(record.body for record in world.delivered())
        assert safe <= there.keys()
        assert set(there.values()) <= {1}
        waited = {record.body for record in world.records() if record.topic == TIMER_TOPIC}
        assert there.keys() == waited

    in_a_loop(story)
