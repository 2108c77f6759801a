"""Being asked to stop: SIGTERM lets the step in hand finish, then the loop saves and leaves."""

import signal
import threading


class Stopped(SystemExit):
    """Left on request with everything saved; the exit status is the customary 128 + SIGTERM."""

    def __init__(self, step: int):
        super().__init__(128 + signal.SIGTERM)
        self.step = step


class StopRequest:
    """A context in which SIGTERM only sets `requested`; what handled it before comes back after."""

    requested = False

    def __enter__(self):
        self.before = None
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def _ask(self, *_):
        self.requested = True

    def __exit__(self, *_):
        if self.before is not None:
            signal.signal(signal.SIGTERM, self.before)
