"""The audit log's pages: search, proof and export; and the acts on people's requests."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.console.adapters import Refusal
from services.console.domain.ledger import as_csv, checkpoint, entry, proven
from tests.unit.console.desk import ENTRY, LINE, REPORT, REQUEST, STATE, Console

pytestmark = pytest.mark.unit


@pytest.fixture
def console(tmp_path: Path) -> Console:
    return Console(tmp_path)


def test_days_are_those_of_france_and_the_last_is_included(console: Console) -> None:
    console.sign_in("auditor")
    console.http.get("/audit?actor=officer:ada&permit=&from=2026-03-01&to=2026-07-01&start=40")
    (asked,) = [path for _, path, _ in console.hub.asked if path.startswith("audit/v1/entries")]
    assert asked == (
        "audit/v1/entries?actor=officer%3Aada&from=2026-02-28T23%3A00%3A00Z&to=2026-07-01T22%3A00%3A00Z"
        "&order=newest&limit=50&start=40"
    )


@pytest.mark.parametrize("day", ["soon", "2026-13-01", "0001-01-01", "9999-12-31"])
def test_what_is_no_day_is_said(console: Console, day: str) -> None:
    console.sign_in("auditor")
    answer = console.http.get(f"/audit?to={day}")
    assert answer.status_code == 422
    assert "write a day such as 2026-03-01" in answer.text


def test_what_audit_refuses_is_said_beside_the_search(console: Console) -> None:
    console.sign_in("auditor")
    console.hub.answers["GET", "audit/v1/entries?permit=A+B&order=newest&limit=50"] = Refusal(422, "no", "query.permit")
    answer = console.http.get("/audit?permit=A+B")
    assert (answer.status_code, "query.permit" in answer.text, 'value="A B"' in answer.text) == (422, True, True)


def test_a_log_that_is_not_what_was_signed_is_said_loudly(console: Console) -> None:
    console.sign_in("auditor")
    trouble = "the audit log is not signed any more, run `estuaire audit verify`: nodes of the tree are missing"
    console.hub.answers["GET", "audit/v1/state"] = STATE | {"trouble": trouble, "distrusted": True}
    text = console.http.get("/audit").text
    assert '<section class="seal bad"' in text
    assert "Nothing is signed any more" in text
    assert "nodes of the tree are missing" in text
    assert "The log is not what was signed before." in text


def test_a_signer_that_cannot_write_is_no_tampering_and_a_log_without_a_checkpoint_is_not_signed(
    console: Console,
) -> None:
    console.sign_in("auditor")
    assert "The log is signed" in console.http.get("/audit").text
    late = STATE | {"trouble": "the head of the audit log is not signed yet (OSError)"}
    for state, said in ((late, "The newest is not signed yet"), (STATE | {"note": None}, "Not signed yet</h2>")):
        console.hub.answers["GET", "audit/v1/state"] = state
        text = console.http.get("/audit").text
        assert '<section class="seal wait"' in text
        assert said in text
        assert "The log is signed" not in text
        assert "The log is not what was signed before" not in text
    console.hub.answers["GET", "audit/v1/state"] = late
    text = console.http.get("/audit", headers={"Accept-Language": "fr"}).text
    assert "<span>la tête du journal d’audit n’est pas encore signée (OSError)</span>" in text


def test_a_proof_is_worked_out_and_a_forged_entry_fails_it(console: Console) -> None:
    console.sign_in("auditor")
    assert "is in the log that was signed, as it stands" in console.http.get("/audit/0").text
    forged = ENTRY | {"line": LINE.replace("hearts", "minds")}
    console.hub.answers["GET", "audit/v1/entries?start=0&limit=1"] = {"entries": [forged], "next_start": 1}
    text = console.http.get("/audit/0").text
    assert "is not in the log that was signed" in text
    assert "is another than the hash" in text
    console.hub.answers["GET", "audit/v1/state"] = STATE | {"note": None}
    assert "newer than the last signed checkpoint" in console.http.get("/audit/0").text
    assert console.http.get("/audit/7").status_code == 404


def test_notes_that_are_none_are_no_checkpoint() -> None:
    for note in ("", "x", "a\nb\nc\nd\n\n- e f\n", STATE["note"].rpartition("\n\n")[0]):
        assert checkpoint(note) is None
    head = checkpoint(STATE["note"])
    assert head
    assert (head.origin, head.size, head.signer, head.at) == ("log.example", 1, "log.example", "2026-03-01T10:00:10Z")
    shows = proven(entry(ENTRY), head, ["00" * 32])
    assert (shows.hash_fits, shows.root_fits) == (True, False)


def test_an_export_has_lines_as_they_are_hashed_and_cells_that_are_no_formula(console: Console) -> None:
    console.sign_in("auditor")
    answer = console.http.get("/audit/export?form=ndjson")
    assert answer.text == f"{LINE}\n"
    assert "attachment" in answer.headers["content-disposition"]
    text = console.http.get("/audit/export?form=csv").text
    assert ",'=officer:ada,released,hearts,3," in text
    assert as_csv([]).startswith("number,at,actor,")
    page = {"entries": [ENTRY] * 5000, "next_start": 0}
    console.hub.answers["GET", "audit/v1/entries?start=0&limit=5000"] = page
    assert console.http.get("/audit/export").status_code == 422, "rather nothing than a part that looks like all"


def test_a_person_is_erased_as_the_report_was_seen(console: Console) -> None:
    key, path = console.sign_in("officer"), f"/requests/{REQUEST['id']}"
    text = console.http.get(path).text
    assert f'{path}/erase?as_seen={REPORT["as_seen"]}"' in text
    assert f'value="{REPORT["as_seen"]}"' in console.http.get(f"{path}/erase?as_seen={REPORT['as_seen']}").text
    looks = [one for one in console.hub.asked if one[1] == f"/v1{path}"]
    assert len(looks) == 1, "a form is no look at the report"
    form = {"form_key": key, "as_seen": REPORT["as_seen"]}
    changed = Refusal(409, "something else is held by now", "Look at the report again, and say its `as_seen`.")
    console.hub.answers["POST", f"/v1{path}/erase"] = changed
    answer = console.http.post(f"{path}/erase", data=form)
    assert (answer.status_code, "something else is held by now" in answer.text) == (422, True)
    console.hub.answers["POST", f"/v1{path}/erase"] = {}
    assert "Done:" not in console.http.get(f"{path}?done=erase").text, "an address is not believed"
    assert console.http.post(f"{path}/erase", data=form).headers["location"] == path
    assert console.hub.asked[-1][2] == {"as_seen": REPORT["as_seen"]}
    assert "Done:" not in console.http.get("/permits").text, "that is another page"
    assert "Done: Erase the person." in console.http.get(path).text
    assert "Done:" not in console.http.get(path).text, "once"


def test_grounds_are_those_of_the_kind_of_request(console: Console) -> None:
    console.sign_in("officer")
    text = console.http.get(f"/requests/{REQUEST['id']}/refuse").text
    assert "17(3)(d)" in text
    assert "15(4)" not in text
    assert console.http.get(f"/requests/{REQUEST['id']}/forget").status_code == 404
    assert console.http.get(f"/requests/{'9' * 32}/refuse").status_code == 404
