"""A service's process, as far as it needs no broker."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest

pytestmark = pytest.mark.unit

SERVICE = """
from threading import Event

from fastapi import FastAPI

from runtime.service import serve
from runtime.settings import ServiceSettings
from runtime.telemetry import start_logging


class Standing:
    stopped = Event()

    def run(self):
        value = "Marie"
        while not self.stopped.wait(0.05):
            print(value, flush=True)

    def stop(self):
        self.stopped.set()


start_logging("INFO")
raise SystemExit(serve(FastAPI(), ServiceSettings(), [Standing()]))
"""


def test_a_process_says_where_its_threads_are_and_goes_on(tmp_path: Path) -> None:
    def wait_for(happened: Callable[[], bool]) -> None:
        for _ in range(200):
            if happened():
                return
            Event().wait(0.1)
        raise AssertionError(log.read_text())

    log, out = tmp_path / "log", tmp_path / "out"
    with log.open("wb") as errors, out.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-c", SERVICE], stdout=output, stderr=errors)
        try:
            wait_for(lambda: "Uvicorn running" in log.read_text())
            process.send_signal(signal.SIGUSR1)
            wait_for(lambda: "most recent call first" in log.read_text() and " in serve\n" in log.read_text())
            assert " in run\n" in log.read_text()
            assert "Marie" not in log.read_text()
            said = out.stat().st_size
            wait_for(lambda: out.stat().st_size > said)
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()
