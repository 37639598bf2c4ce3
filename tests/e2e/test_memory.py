"""No file is held in memory, whatever its size: `make volumes` does it with two gigabytes."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import pytest

from bench.ingest import bulk_export
from estuaire.generate import dcir, pmsi
from tests.hub import Hub
from tests.people import people

pytestmark = [pytest.mark.e2e, pytest.mark.long]
log = logging.getLogger("estuaire.tests")

BYTES: Final = int(os.environ.get("ESTUAIRE_VOLUME_BYTES", str(12 * 2**20)))
MOST: Final = 300 * 2**20


def fhir(folder: Path, size: int) -> None:
    """A bulk export, its resources as wide as servers make them."""
    narrative = {"status": "generated", "div": "<div>" + "x" * 4000 + "</div>"}
    with (folder / "bulk.ndjson").open("wb") as out:
        for one in bulk_export():
            out.write(msgspec.json.encode(one | {"text": narrative}) + b"\n")
            if out.tell() >= size:
                return


def bundle(folder: Path, size: int) -> None:
    """One document with all resources in it."""
    with (folder / "bundle.json").open("wb") as out:
        out.write(b'{"resourceType":"Bundle","type":"collection","entry":[')
        for number, one in enumerate(bulk_export()):
            out.write((b"," if number else b"") + b'{"resource":' + msgspec.json.encode(one) + b"}")
            if out.tell() >= size:
                break
        out.write(b"]}")


def claims(folder: Path, size: int) -> None:
    dcir.write_dcir(folder, [one.insured() for one in people(5000)], size // 310, seed=1, shuffled=True)


def stays(folder: Path, size: int) -> None:
    pmsi.write(folder, [one.patient() for one in people(5000)], size // 900, seed=1)


Write = Callable[[Path, int], None]
DRAIN: Final = """
import sys
from pathlib import Path
from estuaire.files import Reading, groups_of
count = sum(isinstance(one.event, bytes) for group in groups_of([Path(sys.argv[1])])[0]
            for one in Reading(group, "urn:x").records())
print(count)
print(Path("/proc/self/status").read_text())
"""


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("write", [fhir, bundle, claims, stays], ids=lambda one: one.__name__)
def test_reading_holds_no_file(tmp_path: Path, write: Write) -> None:
    write(tmp_path, BYTES)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) > 0.8 * BYTES
    done = subprocess.run([sys.executable, "-c", DRAIN, str(tmp_path)], capture_output=True, text=True, check=True)
    told, _, status = done.stdout.partition("\n")
    count, peak = int(told), _peak(status)
    log.warning("%s: %d records, at most %d MiB", write.__name__, count, peak // 2**20)
    assert count > BYTES // 6000
    assert peak < MOST


@pytest.mark.timeout(7200)
def test_sending_holds_no_file(hub: Hub, tmp_path: Path) -> None:
    """Neither the client nor ingest: the peak of each process as the kernel counted it."""
    source = hub.source()
    fhir(tmp_path, BYTES)
    command = [sys.executable, "-m", "estuaire", "send", str(tmp_path), "--source", source, "--backfill"]
    environment = os.environ | {"ESTUAIRE_HOME": str(hub.platform.home)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as send:
        peak = 0
        while send.poll() is None:
            peak = max(peak, _peak_of(send.pid))
            with suppress(subprocess.TimeoutExpired):
                send.wait(0.25)
        assert send.stdout is not None
        told = send.stdout.read()
    assert " 0 refused" in told, told
    process = hub.platform.services["ingest"].process
    assert process is not None
    ingest = _peak_of(process.pid)
    log.warning("send: at most %d MiB, ingest: at most %d MiB", peak // 2**20, ingest // 2**20)
    assert 0 < peak < MOST
    assert 0 < ingest < MOST


def _peak_of(pid: int) -> int:
    """The most bytes that a process has held; 0 when it is gone."""
    try:
        return _peak(Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0


def _peak(status: str) -> int:
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)
