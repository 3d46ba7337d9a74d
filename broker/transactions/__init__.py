"""Transactional messages: half messages, how they end, and the check-back (semantics.md §6, store.md §10)."""
