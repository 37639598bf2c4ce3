"""A service's process: HTTP in front, the loop behind, and an orderly end of both."""

from __future__ import annotations

import faulthandler
import logging
import signal
import threading
from collections.abc import Sequence
from typing import Protocol

import uvicorn
from fastapi import FastAPI

from runtime.loop import Stopped
from runtime.settings import ServiceSettings
from runtime.telemetry import where

log = logging.getLogger("estuaire.service")


class Worker(Protocol):
    """Something that runs until it is asked to stop: a loop, or a reader of summaries."""

    def run(self) -> None: ...
    def stop(self) -> None: ...


def serve(app: FastAPI, settings: ServiceSettings, workers: Sequence[Worker]) -> int:
    """Run the workers and the application until SIGTERM or SIGINT, or until a worker fails; returns the exit code.

    At SIGUSR1 it writes to standard error where each thread is, by file, line and function and without a value.
    """
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=5,
        )
    )
    failed: list[str] = []

    def work(worker: Worker) -> None:
        try:
            worker.run()
        except Stopped as stop:
            failed.append(str(stop))
        except Exception as error:
            failed.append(where(error))
        if failed:
            log.critical("stopping: %s", failed[-1])
            server.should_exit = True

    threads = [
        threading.Thread(target=work, args=[worker], name=type(worker).__name__, daemon=True) for worker in workers
    ]
    for thread in threads:
        thread.start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn raises it again once it has ended, before the workers have
    try:
        server.run()
    finally:
        for worker in workers:
            worker.stop()
        for thread in threads:
            thread.join(timeout=20)
    return 1 if failed else 0
