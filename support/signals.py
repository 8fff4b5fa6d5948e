"""Ctrl-C, `kill` and a closed terminal end a run between two frames, with a checkpoint."""

import os
import signal
import threading
import time

# Closing a terminal, and some programs that end others, send a signal twice at once.
SAME_SIGNAL = 0.5  # seconds in which a signal is not yet the second one


class StopSignals:
    """Notes the first signal while it is entered; the second one is obeyed at once.

    Attributes:
        received: the number of the signal, or None.
    """

    def __init__(self):
        self.received = None
        self._handlers = {}

    def __enter__(self):
        # Python delivers signals to the main thread only, and lets no other set handlers.
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                # What is ignored stays so: SIGHUP under `nohup`.
                if signal.getsignal(signum) not in (signal.SIG_IGN, None):
                    self._handlers[signum] = signal.signal(signum, self._receive)
        return self

    def __exit__(self, *exception):
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler)

    def _receive(self, signum, frame):
        now = time.monotonic()
        if self.received is None:
            self.received, self._time = signum, now
        elif signum != signal.SIGHUP and now - self._time > SAME_SIGNAL:
            if signum == signal.SIGINT:  # an interrupted notebook lives on
                raise KeyboardInterrupt
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
