"""The command line starts nothing and imports little until a command runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import httpx
import pytest
from confluent_kafka import KafkaError, KafkaException

from estuaire import files
from estuaire.cli import main, producers
from estuaire.subscriber import ViewError

pytestmark = pytest.mark.unit


def test_send_says_which_files_the_hub_takes() -> None:
    assert producers.KNOWN == files.KNOWN


def test_help_imports_nothing_that_only_commands_need() -> None:
    heavy = "{'confluent_kafka', 'fastapi', 'httpx', 'numpy', 'psycopg', 'pyarrow', 'pydantic'}"
    asked = f"import sys, estuaire.cli; print(*sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ViewError("the view is closed"), "error: the view is closed\n"),
        (KafkaException(KafkaError(KafkaError._TRANSPORT)), "error: the broker: "),
        (FileNotFoundError(2, "No such file or directory", "a.csv"), "error: a.csv: No such file or directory\n"),
        (
            httpx.ConnectError("refused", request=httpx.Request("GET", "http://hub.example/")),
            "error: no answer from http://hub.example/ (ConnectError)\n",
        ),
    ],
)
def test_what_goes_wrong_is_one_line(
    error: Exception, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("estuaire.cli.app", _raising(error))
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert told.startswith(said)
    assert len(told.splitlines()) == 1


def test_a_defect_is_no_line_but_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("estuaire.cli.app", _raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        main()


def _raising(error: Exception) -> Callable[[], None]:
    def app() -> None:
        raise error

    return app
