"""The fault suite: what is done to a running server, what users are promised, what was seen.

``python -m tests.faults`` or ``make faults``; some of the rows are in ``make test-all`` too.
"""
