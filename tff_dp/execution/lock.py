"""One call at a time.

The caches of graphs, the count of calls that keys are drawn by, and the arrays on a device are
shared by the calls of a process, whichever context they are made in, and none of them is safe to
use from two threads. A call is long and uses all cores, so that side by side two would gain
nothing.
"""

from __future__ import annotations

import threading

# Reentrant: noise is looked up, and stock TFF is run, within a call.
lock = threading.RLock()
