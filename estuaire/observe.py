"""What lets one look at a platform on one machine: Prometheus, and Jaeger as the store of its traces."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from estuaire.process import Child, Lock, Report, StartError, free_port, wait_until_ready

INFRA = Path(__file__).resolve().parent.parent / "infra"
RULES = INFRA / "prometheus" / "rules"
START_SECONDS, BUILD_SECONDS = 60, 1800
GO = (1, 26)


class Observers:
    """Prometheus and the trace store, each if it can be had here; stopped by `stop`, what they hold kept or forgotten
    as each does: Prometheus keeps it in the home, the trace store has it in memory."""

    def __init__(self, home: Path, report: Report) -> None:
        self._home = home / "observe"
        self._logs = home / "logs"
        self._report = report
        self._stack = ExitStack()
        self.prometheus_url: str | None = None
        self.traces_url: str | None = None
        self.otlp_url: str | None = None

    def environment(self) -> dict[str, str]:
        """What a service needs so that its spans go to the trace store."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.otlp_url} if self.otlp_url else {}

    def addresses(self) -> dict[str, str]:
        """Where each listens, by its name."""
        found = {"prometheus": self.prometheus_url, "traces": self.traces_url}
        return {name: url for name, url in found.items() if url}

    def start_traces(self) -> None:
        """Start the trace store, and build it first if need be; without it, say what is missing. Raises StartError."""
        program, page = _jaeger(self._report)
        if program is None:
            return
        otlp, query, grpc = (f"127.0.0.1:{free_port()}" for _ in range(3))
        environment = os.environ | {
            "TRACES_OTLP": otlp,
            "TRACES_QUERY": query,
            "TRACES_GRPC": grpc,
            "TRACES_PAGE": str(page) if page else "",
        }
        command = [str(program), "--config", str(INFRA / "jaeger" / "jaeger.yaml")]
        self._run("the trace store", command, self._logs / "jaeger.log", f"http://{query}/api/services", environment)
        self.otlp_url, self.traces_url = f"http://{otlp}", f"http://{query}"

    def start_prometheus(self, services: Mapping[str, str], rules: Path = RULES, every: str = "5s") -> None:
        """Start Prometheus over these services' addresses; where it is not installed, say so. Raises StartError."""
        program = shutil.which("prometheus")
        if program is None:
            self._report(
                "Prometheus is not installed (apt install prometheus, brew install prometheus): no metrics kept"
            )
            return
        self._home.mkdir(parents=True, exist_ok=True)
        config = self._home / "prometheus.yaml"
        config.write_text(yaml.safe_dump(scrape_configuration(services, rules, every), sort_keys=False))
        port = free_port()
        command = [
            program,
            f"--config.file={config}",
            f"--storage.tsdb.path={self._home / 'prometheus'}",
            "--storage.tsdb.retention.time=7d",
            f"--web.listen-address=127.0.0.1:{port}",
            "--web.enable-lifecycle",
            "--log.level=warn",
        ]
        url = f"http://127.0.0.1:{port}"
        self._run("Prometheus", command, self._logs / "prometheus.log", f"{url}/-/ready", os.environ)
        self.prometheus_url = url

    def stop(self) -> None:
        """Stop both."""
        self._stack.close()

    def _run(self, name: str, command: list[str], log: Path, ready: str, environment: Mapping[str, str]) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        child = Child(command, log, environment=environment)
        self._stack.callback(child.stop)
        wait_until_ready(name, child, ready, time.monotonic() + START_SECONDS)


def scrape_configuration(services: Mapping[str, str], rules: Path, every: str) -> dict[str, Any]:
    """Prometheus's configuration for services on this machine: as infra/prometheus/prometheus.yaml has it, with these
    addresses, more often."""
    shared = yaml.safe_load((INFRA / "prometheus" / "prometheus.yaml").read_text())
    (job,) = (one for one in shared["scrape_configs"] if one["job_name"] == "estuaire")
    targets = [
        {"targets": [url.removeprefix("http://")], "labels": {"service": name}} for name, url in services.items()
    ]
    return {
        "global": {"scrape_interval": every, "evaluation_interval": every},
        "rule_files": [str(rules / "*.yaml")],
        "scrape_configs": [job | {"static_configs": targets}],
    }


def version() -> str:
    """The version of Jaeger that is pinned, as a Go module."""
    found = re.search(r"github.com/jaegertracing/jaeger v(\S+)", (INFRA / "jaeger" / "go.mod").read_text())
    assert found
    return found[1]


def _jaeger(report: Report) -> tuple[Path | None, Path | None]:
    """The program and the page that it lacks: a release has its own. None, which is reported, where none can be had."""
    if installed := shutil.which("jaeger"):
        return Path(installed), None
    try:
        return find_jaeger(report), INFRA / "jaeger" / "page"
    except StartError as missing:
        report(f"no trace store, spans go to files in logs/: {missing}")
        return None, None


def built_jaeger() -> Path:
    """Where Jaeger is in the user's cache, once it is built."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "estuaire" / f"jaeger-{version()}"


def find_jaeger(report: Report) -> Path:
    """Jaeger in the user's cache, built once from its Go module, whole or not at all. Raises StartError."""
    program = built_jaeger()
    if program.exists():
        return program
    go, cache = _go(), program.parent
    try:
        with Lock(cache / f"jaeger-{version()}.lock") as lock:
            if not lock.take(BUILD_SECONDS):
                raise StartError(f"another start still holds {lock.path}: end it")
            if not program.exists():
                report(f"building Jaeger {version()}, once: this takes minutes, and 2 GB of Go's own caches")
                _build(go, program)
    except OSError as error:
        raise StartError(f"Jaeger cannot be kept in {cache}: {error.strerror}; set XDG_CACHE_HOME") from None
    return program


def _go() -> str:
    go = shutil.which("go")
    said = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=False).stdout if go else ""
    found = re.match(r"go(\d+)\.(\d+)", said)
    if go is None or not found or (int(found[1]), int(found[2])) < GO:
        wanted = ".".join(map(str, GO))
        raise StartError(
            f"put a `jaeger` (2.x, from its releases) on the path, or install Go {wanted}+ to build it with"
        )
    return go


def _build(go: str, program: Path) -> None:
    partial = program.with_name(f"{program.name}.partial")
    flags = ("-buildvcs=false", "-ldflags=-s -w", "-o", str(partial))
    done = subprocess.run(
        [go, "build", *flags, "github.com/jaegertracing/jaeger/cmd/jaeger"],
        cwd=INFRA / "jaeger",
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise StartError(f"Jaeger could not be built: {(done.stderr.strip().splitlines() or ['no reason'])[-1][:300]}")
    partial.rename(program)


if __name__ == "__main__":
    print(find_jaeger(print))  # noqa: T201 - the result itself
