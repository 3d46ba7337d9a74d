"""Property-based tests find the same examples every time, and no loaded machine makes them fail."""

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
