"""One server process on this machine that never outlives the program that started it.

A handler registered with ``atexit`` ends it when the interpreter exits. A guard, a shell that
waits for the end of a pipe held by this program, ends it when the program is killed so hard that
no handler runs. Both act on nothing but the process started here.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

# $1 signal, $2 process id. The pipe's other end closes when the program dies, however it dies.
_GUARD_SCRIPT = 'cat >/dev/null; kill -"$1" "$2" 2>/dev/null'


class ChildProcess:
    """A running process, its log file and its guard.

    It has its own session, so that an interrupt typed at the terminal reaches this program only,
    which then decides in which order its servers stop.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log_path: Path,
        stop_signal: signal.Signals,
        user_id: int | None = None,
    ) -> None:
        """Start ``command``.

        Args:
            command: program and arguments; no shell is involved.
            log_path: standard output and error are appended here.
            stop_signal: asks the program to end in good order.
            user_id: run as this user (needs root), ``None`` for the present one.

        Raises:
            OSError: the program cannot be executed.
        """
        self._stop_signal = stop_signal
        self._owner = os.getpid()
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=user_id,
                extra_groups=None if user_id is None else (),
            )
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD_SCRIPT, "guard", str(stop_signal.value), str(self.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        atexit.register(self._end_at_exit)

    @property
    def pid(self) -> int:
        """Process id; it may have ended, see :meth:`exit_code`."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """Exit status, negative for a signal, ``None`` while the process runs."""
        code = self._process.poll()
        if code is not None:
            self._release()
        return code

    def send_signal(self, signal_: signal.Signals) -> None:
        """Send a signal; without effect when the process has ended."""
        self._process.send_signal(signal_)

    def end(self, timeout_s: float) -> None:
        """Ask the process to end, kill it after ``timeout_s`` seconds. Ended already: no effect."""
        if self.exit_code() is not None:
            return
        self._process.send_signal(self._stop_signal)
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
        self._release()

    def kill(self) -> None:
        """SIGKILL, the crash test: no handler of the process runs. Returns when it is gone."""
        self._process.kill()
        self._process.wait()
        self._release()

    def _release(self) -> None:
        """Dismiss the guard at once: the process id it watches is free for others from now on."""
        if self._guard.returncode is not None:
            return
        self._guard.kill()
        self._guard.wait()
        if self._guard.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._guard.stdin.close()
        atexit.unregister(self._end_at_exit)

    def _end_at_exit(self) -> None:
        if os.getpid() == self._owner:
            self.end(timeout_s=5.0)
