"""Threads that do the disk's jobs, and tell their owner how these ended."""

from __future__ import annotations

import contextlib
import functools
import queue
import threading
from collections import deque

from pymq.disk import Deliver, Done, Job
from pymq.errors import StoreBroken, StoreError

_Order = tuple[Job | None, Done | None]
"""What a worker is to do, and who is told; no job: to end."""


class Worker:
    """A thread, or a few, that do jobs one by one, urgent ones first."""

    def __init__(self, name: str, deliver: Deliver, threads: int = 1) -> None:
        """Start the threads, called `name`; `deliver` brings what they tell into the owner's."""
        # A token in the queue stands for one job in one of the two rows: cheaper than a queue that sorts,
        # and each flush that senders wait for goes through here.
        self._tokens: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._urgent: deque[_Order] = deque()
        self._others: deque[_Order] = deque()
        self._deliver = deliver
        self._threads = [threading.Thread(target=self._run, name=name, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job | None, done: Done | None, urgent: bool) -> None:
        """Have a job done, and `done` told of its end; no job: let one thread end."""
        (self._urgent if urgent else self._others).append((job, done))
        self._tokens.put(None)

    def drain(self) -> None:
        """Wait for the jobs given so far; only where there is one thread."""
        done = threading.Event()
        self.submit(done.set, None, False)
        done.wait()

    def stop(self) -> None:
        """Do the jobs given so far, and end the threads."""
        for _ in self._threads:
            self.submit(None, None, False)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while True:
            self._tokens.get()
            job, done = self._next()
            if job is None:
                return
            error = outcome(job)
            if done is None:
                continue
            with contextlib.suppress(RuntimeError):  # the owner's loop is closed: nobody waits for it
                self._deliver(functools.partial(done, error))

    def _next(self) -> _Order:
        """The job of a token taken; another thread may take the last urgent one between look and pop."""
        try:
            return self._urgent.popleft()
        except IndexError:
            return self._others.popleft()


def outcome(job: Job) -> StoreError | None:
    """Run a job; an error that it does not know is as bad as a broken disk."""
    try:
        job()
    except StoreError as e:
        return e
    except Exception as e:
        return StoreBroken(f"a background job of the disk failed: {e!r}")
    return None
