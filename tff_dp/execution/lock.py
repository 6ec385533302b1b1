"""A lock that lets one call run at a time.

The caches of graphs, the count of calls from which keys are derived, and the arrays on a device are
shared by the calls of a process, whichever context they are made in, and none of them is safe to
use from two threads. A call is long and uses all cores, so that running two at once would gain
nothing.
"""

from __future__ import annotations

import threading

# Reentrant, because a call that holds the lock may look up noise or run stock TFF.
lock = threading.RLock()
