"""A run that a sweep started ends with it: when the sweep is killed, the run saves and leaves.

Without this a sweep that was killed would leave its runs behind, and the next one find them locked.
"""

import ctypes
import os
import signal
import sys

VARIABLE = "QDREAMER_SWEEP"  # process id of the sweep, for the runs that it starts
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def exit_with_parent() -> None:
    """Have the system send SIGTERM to this process when its sweep ends. On Linux; elsewhere nothing."""
    sweep = os.environ.get(VARIABLE)
    if sweep is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(sweep):  # it ended before this call
        sys.exit(128 + signal.SIGTERM)
