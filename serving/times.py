"""The supervisor's time limits in seconds; docs/reliability.md has them as a table.

A process is replaced if it has ended or is stopped, if its heartbeat is older than :data:`STALL_S`,
or if its batch is as late as :data:`BATCH_S` or :data:`ENDLESS_BATCH_S`; a slow answer alone is no
reason.
"""

from __future__ import annotations

START_STALL_S = 40.0
"""A start whose processes neither compute nor read nor grow for this time hangs."""
START_CHECK_S = 5.0
"""Between two checks of that."""
CHECK_S = 1.0
"""Between two checks of all processes. The end of a process is noticed within 0.1 s."""
STALL_S = 10.0
"""A main loop without a heartbeat for this time stalls; heartbeats come every second."""
BATCH_S = 7.0
"""A network's process is checked if a batch takes longer than this and BATCH_SLOWER times longer
than measured: a process that does not compute stalls."""
BATCH_SLOWER = 5.0
FIRST_BATCH_S = 300.0
"""Limit of the first batch of a network or of a size."""
ENDLESS_BATCH_S = 70.0
"""Limit of a late batch whose process still computes: it may get no core, or loop endlessly."""
COMPUTING_S = 0.03
"""CPU time between two checks of a computing process; a heartbeat takes less."""
CANARY_INTERVAL_S = 5.0
"""Between two canaries of an idle server."""
CANARY_RETRY_S = 2.5
"""After a failed canary."""
CANARY_LIMIT_S = 30.0
"""Time-out of a canary of an idle server."""
CANARY_FAILURES = 2
"""Failed canaries in a row after which an idle server is restarted."""
RELOADS = 3
"""Reloads of one model within RELOAD_WINDOW_S after which the server is restarted."""
RELOAD_WINDOW_S = 60.0
LOST_DRAIN_S = 4.0
"""Limit for requests in flight to end before a restart because of lost calls."""
HEALTHY_S = 10.0
"""If a server was ready for less than this, there is a pause before the next start."""
MOST_PAUSE_S = 60.0
"""Pauses double from 0 s up to this."""
