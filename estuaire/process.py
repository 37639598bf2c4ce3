"""Child processes that outlive Ctrl-C but never their parent, locks that die with their holder, and free ports."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import httpx

Report = Callable[[str], None]

FREE_MB = 500
HOLD_SECONDS = 5.0
_WATCH = 'read -r _; kill -s "$0" "$1" 2>/dev/null'


class StartError(Exception):
    """Something cannot start; the message is one line that says what to do about it."""


class Starting(Protocol):
    """What is on its way, and may end before it is ready."""

    @property
    def log(self) -> Path: ...
    def running(self) -> bool: ...
    def last_error(self) -> str: ...


def wait_until_ready(name: str, started: Starting, url: str, deadline: float) -> None:
    """Wait until it answers 200 at this URL, until the clock that is monotonic says `deadline`. Raises StartError."""
    while time.monotonic() < deadline:
        if not started.running():
            raise StartError(f"{name} ended while starting; see {started.log}: {started.last_error()}")
        try:
            if httpx.get(url, timeout=2).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise StartError(f"{name} is not ready in time; see {started.log}: {started.last_error()}")


class Child:
    """A process in a session of its own, so that Ctrl-C in the terminal does not reach it.

    Should this process end without `stop`, even by SIGKILL, the child gets `ending`: a shell waits for the end of a
    pipe that only we hold open. (Linux's PR_SET_PDEATHSIG is of no use here: it fires when the *thread* that started
    the child ends, is lost on a change of user, and macOS has none.)
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        folder: Path | None = None,
        ending: signal.Signals = signal.SIGTERM,
        user: int | None = None,
        group: int | None = None,
        held: Lock | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.log = log
        self._log_begin = log.stat().st_size if log.exists() else 0
        self._ending = ending
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                user=user,
                group=group,
                extra_groups=None if user is None else [],
                pass_fds=() if held is None else (held.fd,),
            )
        self._watch = subprocess.Popen(
            ["/bin/sh", "-c", _WATCH, ending.name.removeprefix("SIG"), str(self.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Its process id, which is also that of its session."""
        return self._process.pid

    def running(self) -> bool:
        """Whether it runs still."""
        return self._process.returncode is None and not self._ended(0)

    def wait(self, seconds: float) -> int | None:
        """Its exit code, or None if it runs on after this long."""
        self._ended(seconds)
        return self._process.returncode

    def stop(self, seconds: float = 30) -> None:
        """Ask it to end, wait, and kill it if it does not end in time. May be called twice."""
        if self.running():
            self._process.send_signal(self._ending)
            if not self._ended(seconds):
                self.kill()

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self.running():
            self._process.kill()
            self._ended(10)

    def last_error(self) -> str:
        """The last line it has logged that speaks of an error, else the last line."""
        with self.log.open("rb") as log:
            log.seek(self._log_begin)
            lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        words = ("ERROR", "FATAL", "PANIC", "Exception:", "Error:")
        errors = [line for line in lines if any(word in line for word in words)]
        return (errors or lines or ["nothing was logged"])[-1][:300]

    def _ended(self, seconds: float) -> bool:
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        # at once, or the watch could signal a later process that was given the same id
        self._watch.kill()
        self._watch.communicate()
        return True


class Lock:
    """A lock on a file, for this process and the children that inherit it; the system frees it when all are dead."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def take(self, seconds: float = 0) -> bool:
        """Take it, waiting at most this long; False if another has it."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    return False
                time.sleep(0.1)
            else:
                return True

    def note(self, text: str) -> None:
        """Write into the file who has it."""
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, text.encode(), 0)

    def close(self) -> None:
        """Let go; children that inherited the lock keep it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def hold(home: Path, name: str) -> Lock:
    """The lock of one home's `name`, which belongs to the server that runs on it.

    It is exact where a file with a process id only guesses: a crashed server has let go of it, whoever has its id now.
    Waits a little, since a server whose parent was killed is about to end. Raises StartError if one runs on.
    """
    lock = Lock(home / f"{name}.lock")
    if lock.take(HOLD_SECONDS):
        lock.note("is starting")
        return lock
    holder = lock.path.read_text()
    lock.close()
    raise StartError(f"a {name} {holder} on {home}: stop it, or set ESTUAIRE_HOME to another folder")


def require_home(home: Path) -> None:
    """Make the folder if need be. Raises StartError if it cannot be written or the disk is nearly full."""
    try:
        (home / "logs").mkdir(parents=True, exist_ok=True)
        probe = home / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise StartError(f"ESTUAIRE_HOME {home} is not writable: {error.strerror}") from None
    free = shutil.disk_usage(home).free // 1_000_000
    if free < FREE_MB:
        raise StartError(f"ESTUAIRE_HOME {home} has only {free} MB free; needs at least {FREE_MB} MB")


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
