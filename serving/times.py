"""All times by which the supervisor judges a server, in seconds; docs/reliability.md has them as a
table.

A process is replaced when it is gone or stopped, or when its own main loop has not moved for
:data:`STALL_S`; never because an answer is slow.
"""

from __future__ import annotations

CHECK_S = 1.0
"""Between two looks at all processes. The end of one is seen within 0.1 s."""
STALL_S = 10.0
"""A main loop that has not moved for so long stalls; heartbeats come every second."""
BATCH_S = 7.0
"""A network's batch may take so long, and BATCH_SLOWER times longer than measured, before its
process is looked at: one that does not compute stalls."""
BATCH_SLOWER = 5.0
FIRST_BATCH_S = 300.0
"""The first batch of a network or of a size may take so long."""
ENDLESS_BATCH_S = 70.0
"""A late batch whose process still computes may take so long at least: it may be starved of a
core, or in a loop without end."""
COMPUTING_S = 0.03
"""Of CPU time between two looks; a heartbeat takes less."""
CANARY_INTERVAL_S = 5.0
"""Between two canaries of an idle server."""
CANARY_RETRY_S = 2.5
"""After a canary that failed."""
CANARY_LIMIT_S = 30.0
"""For the answer to a canary of an idle server."""
CANARY_FAILURES = 2
"""So many in a row, of an idle server, have it started again."""
RELOADS = 3
"""So many reloads of one model within RELOAD_WINDOW_S, then the server is started again."""
RELOAD_WINDOW_S = 60.0
LOST_DRAIN_S = 4.0
"""For requests in flight to end before a server is started again that has lost too many calls."""
HEALTHY_S = 10.0
"""A server that was ready for less is in a loop of crashes, and pauses before the next start."""
MOST_PAUSE_S = 60.0
"""Pauses double from 0 s up to this."""
