"""Faults made on purpose against the real server under supervision, and what came of them."""
