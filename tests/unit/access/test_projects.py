"""The life of a project: what may follow what, by whom, until when; and what the loop makes of two at once."""

from __future__ import annotations

import datetime as dt
import json
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import messages
from contracts.messages import PermitClosed, PermitGranted, ProjectStep
from contracts.permits import read_permit
from contracts.projects import ACTS, DocumentError, document_of
from runtime.messages import Emit, Message, Outputs
from services.access.domain.projects import Door, Refused, Register, Step, due, next_act, score, standing_on
from services.access.projects import PERMITS, PROJECTS, Registrar, register_of
from tests.unit.access.hub import TERMS, MemorySteps

pytestmark = pytest.mark.unit

START = dt.datetime(2026, 3, 2, 9, tzinfo=dt.UTC)
PAPER = {"title": "paper.pdf", "date": "2026-03-02", "sha256": "0" * 64}
CALL = {
    "id": "call-2026",
    "title": "Call for projects 2026",
    "themes": {"research": "Research", "care": "Information, follow-up and care of the patient"},
    "criteria": {"maturity": {"title": "Maturity", "weight": 3}, "novelty": {"title": "Novelty"}},
    "opens": "2026-03-01",
    "closes": "2026-03-31",
    "places": 1,
}
APPLICATION = {
    "id": "heart-paths",
    "title": "Paths of care after heart failure",
    "summary": "How people are followed up.",
    "organisation": {"name": "CHU de Rennes", "kind": "health-establishment"},
    "purposes": ["research"],
    "public_interest": "Better follow-up.",
}
PERMIT = {
    "id": "heart-paths",
    "title": "Heart paths",
    "purpose": "Research",
    "sources": ["urn:chu"],
    "types": ["hospital-stay.v1"],
    "environment": "Bubble of the CHU",
    "expires": "2029-12-31",
    "subscribers": ["team"],
}
REQUEST = {"path": "standard", "permit": PERMIT, "protocol": PAPER}
REVIEW = {"scores": {"maturity": 4, "novelty": 0}, "comment": "Sound.", "no_conflict_of_interest": True}
SAYS: dict[str, dict[str, Any]] = {
    "announce": CALL,
    "apply": APPLICATION,
    "review": REVIEW,
    "request": REQUEST,
    "find-incomplete": {"missing": ["The protocol's statistics"]},
    "give-opinion": {"verdict": "favourable", "document": PAPER},
    "extend": {"document": PAPER},
    "authorise": {"reference": "DR-2026-042", "document": PAPER},
    "refuse": {"reference": "DR-2026-042", "document": PAPER, "reason": "No."},
    "declare": {"document": PAPER},
    "sign": {"document": PAPER},
    "close": {"contributions": [{"kind": "code-list", "title": "Codes", "description": "Heart failure."}]},
    **{act: {"reason": "Because."} for act in ("choose", "pass-over", "suspend", "resume", "revoke", "withdraw")},
    "narrow": {"permit": PERMIT, "reason": "Because."},
    "ask-output": {"kind": "table", "document": PAPER, "description": "Stays by year.", "smallest_cell": 11},
    "check-output": {"output": PAPER["sha256"], "decision": "leaves", "reason": "Nobody is alone in it."},
}


Says = dict[str, Any] | None


class Office:
    """Does acts on one register, as whoever may do them, unless told otherwise."""

    def __init__(self) -> None:
        self.register = Register()
        self.now = START
        self.permits: set[str] = set()

    def do(self, act: str, says: Says = None, subject: str = "project/heart-paths", **more: Any) -> None:
        actor = {"lead": "team", "reviewer": "reviewer-1", "officer": "officer"}[ACTS[act].role]
        document = document_of(act, {**SAYS.get(act, {}), **(says or {})})
        step = Step(act, more.get("actor", actor), more.get("role", ACTS[act].role), self.now, document)
        self.register.check(subject, step, Door(TERMS, self.permits))
        self.register.add(subject, step)

    def do_all(self, *acts: str) -> None:
        for act in acts:
            self.do(act)

    def refused(self, words: str, act: str, says: Says = None, **more: Any) -> None:
        with pytest.raises(Refused) as refused:
            self.do(act, says, **more)
        assert words in f"{refused.value.title}: {refused.value.detail}"

    @property
    def project(self) -> Any:
        return self.register.projects["heart-paths"]


@pytest.fixture
def office() -> Office:
    return Office()


def test_every_path_leads_to_the_permit_by_its_own_acts_and_no_others(office: Office) -> None:
    for path, extra in {
        "standard": {},
        "mr-004": {},
        "mr-005": {},
        "mr-006": {"laboratory": "A research consultancy"},
        "permanent": {},
    }.items():
        office.register = Register()
        organisation = {
            "mr-006": {"name": "A company", "kind": "company"},
            "permanent": {"name": "Santé publique France", "kind": "public-body"},
        }.get(path, APPLICATION["organisation"])
        office.do("apply", {"organisation": organisation})
        office.do("request", {"path": path, **extra})
        done = []
        while (act := next_act(office.project)) is not None:
            for other in ("find-complete", "give-opinion", "authorise", "declare", "sign", "open"):
                if other != act:
                    office.refused(f"`{act}`", other)
            office.do(act)
            done.append(act)
        assert office.project.standing == "open"
        assert (
            done
            == {
                "standard": ["find-complete", "give-opinion", "authorise", "sign", "open"],
                "mr-004": ["find-complete", "declare", "sign", "open"],
                "mr-005": ["find-complete", "give-opinion", "declare", "sign", "open"],
                "mr-006": ["find-complete", "give-opinion", "declare", "sign", "open"],
                "permanent": ["find-complete", "sign", "open"],
            }[path]
        )


def test_the_forbidden_purposes_are_refused_at_once(office: Office) -> None:
    for purpose in ("promotion-of-products", "insurance-risk"):
        office.refused("L1461-1 V", "apply", {"purposes": ["research", purpose]})
    assert office.register.projects == {}


def test_a_path_is_for_its_sources_and_its_organisations(office: Office) -> None:
    office.do("apply")
    for sources in (["urn:cnam"], ["urn:chu", "urn:cnam"], ["*"], ["urn:unknown"]):
        office.refused("MR-004", "request", {"path": "mr-004", "permit": {**PERMIT, "sources": sources}})
        office.refused("MR-005 is for PMSI", "request", {"path": "mr-005", "permit": {**PERMIT, "sources": sources}})
    office.refused(
        "MR-005 is for PMSI", "request", {"path": "mr-005", "permit": {**PERMIT, "sources": ["urn:telesuivi"]}}
    )
    office.refused("MR-006 is for companies", "request", {"path": "mr-006", "laboratory": "A consultancy"})
    office.refused("no permanent access", "request", {"path": "permanent"})
    drawn = {**PERMIT, "sources": ["urn:chu"], "population": {"cohort": "urn:cnam"}}
    office.refused("MR-004", "request", {"path": "mr-004", "permit": drawn})
    office.refused("MR-005 is for PMSI", "request", {"path": "mr-005", "permit": drawn})
    office.do("request", {"path": "mr-004", "permit": {**PERMIT, "sources": ["urn:chu", "urn:telesuivi"]}})


def test_a_call_is_open_on_its_days_for_its_themes_and_chooses_by_its_reviews(office: Office) -> None:
    office.refused("no such call", "apply", {"call": "call-2026", "theme": "research"})
    office.do("announce", subject="call/call-2026")
    office.refused("already", "announce", subject="call/call-2026")
    office.refused("themes are research, care", "apply", {"call": "call-2026", "theme": "other"})
    office.now = dt.datetime(2026, 2, 28, 22, 59, tzinfo=dt.UTC)
    office.refused("not open", "apply", {"call": "call-2026", "theme": "research"})
    office.now = dt.datetime(2026, 3, 31, 21, 59, tzinfo=dt.UTC)  # a minute before midnight in Paris
    office.do("apply", {"call": "call-2026", "theme": "research"})
    office.refused("chosen in its call before", "request")
    office.refused("more reviews", "choose")
    office.do("review")
    office.refused("their own", "review", actor="team", role="reviewer")
    office.refused("maturity, novelty", "review", {"scores": {"maturity": 3}}, actor="reviewer-2")
    office.refused("It has 1 of 2", "choose")
    office.do("review", {"scores": {"maturity": 5, "novelty": 5}}, actor="reviewer-2")
    assert score(office.project, office.register.calls["call-2026"]) == pytest.approx((3 * 4 + 0 + 3 * 5 + 5) / 8)
    office.do("choose")
    office.refused("chosen", "review", actor="reviewer-3")
    assert (office.project.selection, office.project.standing) == ("chosen", "draft"), "chosen is not authorised"
    other = "project/another"
    office.do("apply", {"id": "another", "call": "call-2026", "theme": "care"}, subject=other)
    for name in ("reviewer-1", "reviewer-2"):
        office.do("review", subject=other, actor=name)
    office.refused("no place left", "choose", subject=other)
    office.do("pass-over", subject=other)
    office.refused("passed-over", "request", {"permit": {**PERMIT, "id": "another"}}, subject=other)
    office.do("request")


def test_each_act_is_for_its_role_and_its_lead(office: Office) -> None:
    office.refused("not yours", "apply", role="officer")
    office.do("apply")
    office.refused("not yours", "request", actor="another-team")
    office.refused("not yours", "request", role="officer")
    office.do("request")
    for act in ("find-complete", "find-incomplete"):
        office.refused("not yours", act, role="lead", actor="team")


def test_what_is_due_is_counted_in_working_days_and_months(office: Office) -> None:
    office.now = dt.datetime(2026, 4, 30, 9, tzinfo=dt.UTC)  # a Thursday; 1 and 8 May are holidays, 14 is Ascension
    office.do_all("apply", "request")
    assert due(office.project) == ("completeness check", dt.date(2026, 5, 13))
    office.do("find-incomplete")
    assert (office.project.standing, due(office.project), next_act(office.project)) == ("incomplete", None, "request")
    office.now = dt.datetime(2026, 8, 31, 9, tzinfo=dt.UTC)
    office.do_all("request", "find-complete")
    assert due(office.project) == ("opinion of the committee", dt.date(2026, 9, 30))
    office.refused("silence counts after 2026-09-30", "give-opinion", {"tacit": True})
    office.now = dt.datetime(2026, 9, 30, 22, 0, tzinfo=dt.UTC)  # the first of October in Paris
    office.do("give-opinion", {"tacit": True})
    assert due(office.project) == ("decision of the authority", dt.date(2026, 12, 1))
    office.do("extend")
    office.refused("can be once", "extend")
    assert due(office.project) == ("decision of the authority", dt.date(2027, 2, 1))
    office.refused("silence counts after 2027-02-01", "authorise", {"tacit": True})
    office.now = dt.datetime(2027, 2, 2, tzinfo=dt.UTC)
    assert office.project.standing == "opinion-given", "no time that passes authorises anything"
    office.do("authorise", {"tacit": True})


def test_an_end_is_an_end(office: Office) -> None:
    for acts, standing in (
        (("withdraw",), "withdrawn"),
        (("find-complete", "give-opinion", "refuse"), "refused"),
        (("find-complete", "give-opinion", "authorise", "sign", "open", "revoke"), "revoked"),
        (("find-complete", "give-opinion", "authorise", "sign", "open", "close"), "closed"),
    ):
        office.register = Register()
        office.do_all("apply", "request", *acts)
        assert office.project.standing == standing
        for act in ACTS:
            if act not in ("announce", "apply", "review", "choose", "pass-over"):
                office.refused(standing, act)
    assert [one.title for one in office.project.contributions] == ["Codes"]
    office.register = Register()
    office.do_all("apply", "request", "find-complete")
    office.do("give-opinion", {"verdict": "unfavourable"})
    assert office.project.standing == "refused"


def test_an_open_permit_ends_by_itself_and_one_that_is_over_is_not_opened(office: Office) -> None:
    office.do_all("apply", "request", "find-complete", "give-opinion", "authorise", "sign")
    office.permits.add("heart-paths")
    office.refused("taken", "open")
    office.permits.clear()
    office.now = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
    office.refused("has expired", "open")
    office.now = dt.datetime(2029, 12, 31, 23, 30, tzinfo=dt.UTC)  # in France another day has begun
    office.do("open")
    assert standing_on(office.project, office.now) == "open"
    assert standing_on(office.project, office.now + dt.timedelta(hours=1)) == "expired"
    office.do("close")


def test_an_open_project_is_narrowed_suspended_resumed_and_then_ends(office: Office) -> None:
    office.do_all("apply", "request", "find-complete", "give-opinion", "authorise", "sign")
    for act in ("narrow", "suspend", "resume"):
        office.refused("signed", act)
    office.do("open")
    office.refused("open", "resume")
    office.refused("permit: types, subscribers", "narrow", {
        "permit": {**PERMIT, "types": ["claim.v1"], "subscribers": ["team", "others"]}})  # fmt: skip
    office.refused("potential_identifiers", "narrow", {
        "permit": {**PERMIT, "potential_identifiers": 0}})  # fmt: skip
    office.do("narrow", {"permit": {**PERMIT, "expires": "2028-12-31"}})
    assert (office.project.standing, due(office.project).day) == ("open", dt.date(2028, 12, 31))  # type: ignore[union-attr]
    assert office.project.request.path == "standard"
    office.do("suspend")
    assert (office.project.standing, next_act(office.project)) == ("suspended", None)
    for act in ("narrow", "suspend", "open", "withdraw"):
        office.refused("suspended", act)
    office.do("resume")
    assert (office.project.standing, next_act(office.project)) == ("open", None)
    office.do("suspend")
    office.now = dt.datetime(2029, 1, 1, tzinfo=dt.UTC)
    assert standing_on(office.project, office.now) == "expired"
    office.refused("expired", "resume")
    office.do("close")
    assert office.project.standing == "closed"


def test_a_permit_has_an_id_of_its_own(office: Office) -> None:
    office.do_all("apply", "request")
    office.do("apply", {"id": "another"}, subject="project/another")
    office.refused("permit.id", "request", subject="project/another")
    office.permits.add("cardio")
    office.refused("permit.id", "request", {"permit": {**PERMIT, "id": "cardio"}}, subject="project/another")
    assert office.register.holder("heart-paths") == "heart-paths"
    office.do("withdraw")
    assert office.register.holder("heart-paths") is None
    office.do("request", subject="project/another")


def test_a_place_in_a_call_is_free_again_when_its_project_is_withdrawn(office: Office) -> None:
    office.do("announce", {"places": 1}, subject="call/call-2026")
    for name in ("one", "two"):
        office.do("apply", {"id": name, "call": "call-2026", "theme": "research"}, subject=f"project/{name}")
        for reviewer in ("reviewer-1", "reviewer-2"):
            office.do("review", subject=f"project/{name}", actor=reviewer)
    office.do("choose", subject="project/one")
    office.refused("no place left", "choose", subject="project/two")
    office.do("withdraw", subject="project/one")
    office.do("choose", subject="project/two")


def test_a_permit_that_cannot_be_granted_is_not_asked_for(office: Office) -> None:
    office.do("apply")
    wide = {**PERMIT, "demographics": ["birth_month"], "precision": {"time": "day"}}
    office.refused("permit.potential_identifiers: it releases birth month, day of care", "request", {"permit": wide})


@pytest.mark.parametrize(
    ("act", "says", "words"),
    [
        ("announce", {"closes": "2026-01-01"}, "`closes` is before `opens`"),
        ("announce", {"criteria": {}}, "criteria"),
        ("apply", {"purposes": ["money"]}, "purposes"),
        ("apply", {"call": "call-2026"}, "`call` and `theme` go together"),
        ("apply", {"tilte": "x"}, "tilte: no clause has this name"),
        ("request", {"permit": {**PERMIT, "environment": None}}, "name the secure environment"),
        ("request", {"permit": {"id": "x y"}}, "use 2 to 41 small letters"),
        ("request", {"laboratory": "x"}, "`laboratory` is for mr-006"),
        ("review", {"no_conflict_of_interest": False}, "no_conflict_of_interest"),
        ("give-opinion", {"verdict": "unfavourable", "tacit": True}, "silence recommends nothing"),
        ("sign", {"document": {**PAPER, "sha256": "abc"}}, "use the SHA-256 of the document"),
        ("close", {"contributions": []}, "say why nothing"),
    ],
)
def test_what_to_correct_is_said_in_sentences(act: str, says: dict[str, Any], words: str) -> None:
    with pytest.raises(DocumentError, match=words):
        document_of(act, {**SAYS[act], **says})


STANDARD = ("request", "find-complete", "give-opinion", "authorise", "sign", "open")
AFTER_COMPLETE = {"standard": ("give-opinion", "authorise", "sign"), "mr-004": ("declare", "sign")}


@given(
    st.lists(st.sampled_from([*STANDARD, "find-incomplete", "declare", "extend"]), min_size=10, max_size=60),
    st.sampled_from(list(AFTER_COMPLETE)),
)
def test_whatever_is_tried_in_whatever_order_nothing_opens_without_its_path(acts: list[str], path: str) -> None:
    office = Office()
    office.do("apply")
    done = []
    for act in acts:
        with suppress(Refused):
            office.do(act, {"path": path} if act == "request" else None)
            done.append(act)
    if "open" in done:
        path_taken = ("request", "find-complete", *AFTER_COMPLETE[path], "open")
        at = [len(done) - done[::-1].index(act) for act in path_taken]
        assert at == sorted(at)


# in the loop


class Run:
    """The step of the loop, over steps in memory."""

    def __init__(self) -> None:
        self.steps = MemorySteps()
        self._registrar = Registrar(self.steps)
        self._offset = 0

    def __call__(self, *batch: ProjectStep) -> Outputs:
        outputs = Outputs()
        self._registrar.handle([self._message(one) for one in batch], outputs)
        return outputs

    def _message(self, step: ProjectStep) -> Message:
        self._offset += 1
        return Message(PROJECTS, 0, self._offset, 0, step.id.encode(), messages.encode(step), {})


def wanted(number: int, act: str, **says: Any) -> ProjectStep:
    role = ACTS[act].role
    actor = "team" if role == "lead" else role
    details = json.dumps({**SAYS.get(act, {}), **says}).encode()
    return ProjectStep("project/heart-paths", number, f"{number}-{act}", act, actor, role, 1772442000000, details)


def leaves_of(outputs: Outputs) -> list[Emit]:
    return [one for _, one in outputs.emits if one.topic == "audit"]


PATH = ("apply", "request", "find-complete", "give-opinion", "authorise", "sign", "open")


def test_opening_a_project_grants_its_permit_and_closing_it_closes_that() -> None:
    loop = Run()
    outputs = loop(*(wanted(number, act) for number, act in enumerate(PATH, 1)))
    assert outputs.dead == []
    (emit,) = (one for _, one in outputs.emits if one.topic == PERMITS)
    granted = msgspec.msgpack.decode(emit.value or b"", type=messages.PermitMessage)
    assert isinstance(granted, PermitGranted)
    assert read_permit(granted.definition) == read_permit(json.dumps(PERMIT))
    assert granted.by == "officer:officer"
    (_, told), (_, emit) = loop(wanted(8, "close")).emits
    closed = msgspec.msgpack.decode(emit.value or b"", type=messages.PermitMessage)
    assert closed == PermitClosed("heart-paths", "project closed", f"{ACTS['close'].role}:{wanted(8, 'close').actor}")
    leaves = [msgspec.msgpack.decode(one.value or b"", type=messages.AuditLeaf) for one in (*leaves_of(outputs), told)]
    assert [one.about for one in leaves] == [f"project/heart-paths {act}" for act in (*PATH, "close")]
    assert leaves[0].actor == "lead:team"
    assert {one.action for one in leaves} == {"project-step"}


def test_what_changes_a_project_changes_its_permit() -> None:
    loop = Run()
    loop(*(wanted(number, act) for number, act in enumerate(PATH, 1)))
    fewer = {**PERMIT, "expires": "2028-12-31"}
    acts = wanted(8, "narrow", permit=fewer), wanted(9, "suspend"), wanted(10, "resume")
    outputs = loop(*(msgspec.structs.replace(one, at=one.at + 400 * 86_400_000) for one in acts))
    assert outputs.dead == []
    sent = [one for _, one in outputs.emits if one.topic == PERMITS]
    assert {one.key for one in sent} == {b"heart-paths"}
    changes = [msgspec.msgpack.decode(one.value or b"", type=messages.PermitMessage) for one in sent]
    assert [(one.revision, one.suspended) for one in changes] == [(1, False), (2, True), (3, False)]
    assert all(read_permit(one.definition) == read_permit(json.dumps(fewer)) for one in changes)
    assert {one.by for one in changes} == {"officer:officer"}
    # the depth of history counts from the grant, also where the topic has only the last of these left
    assert {one.granted for one in changes if isinstance(one, PermitGranted)} == {"2026-03-02T09:00:00+00:00"}


def test_what_was_done_stays_done_whatever_the_terms_and_the_rules_of_permits_say_later() -> None:
    """A rebuilt database reads the steps by their order alone."""
    loop = Run()
    wide = {**PERMIT, "demographics": ["birth_month"], "sources": ["urn:of-nobody"], "precision": {"time": "day"}}
    acts = (wanted(1, "apply"), wanted(2, "request", path="mr-004", permit=wide), wanted(3, "find-complete"))
    assert loop(*acts).dead == []
    assert register_of(loop.steps.rows).projects["heart-paths"].standing == "complete"


def test_of_two_acts_at_one_moment_the_first_is_done_and_the_log_gives_the_same_again() -> None:
    loop = Run()
    loop(wanted(1, "apply"), wanted(2, "request"))
    outputs = loop(wanted(3, "find-complete"), wanted(3, "find-incomplete"))
    ((_, why),) = outputs.dead
    assert why.detail == "another act was done before"
    assert register_of(loop.steps.rows).projects["heart-paths"].standing == "complete"
    assert [row.id for row in loop.steps.rows] == ["1-apply", "2-request", "3-find-complete"]


def test_what_the_log_should_not_have_is_a_dead_letter() -> None:
    loop = Run()
    outputs = loop(
        wanted(1, "sign"),
        ProjectStep("project/x", 1, "a", "no-act", "team", "lead", 0, b"{}"),
        ProjectStep("project/x", 1, "b", "apply", "team", "lead", 0, b"[1"),
        ProjectStep("project/x", 1, "c", "apply", "team", "officer", 0, json.dumps(APPLICATION).encode()),
    )
    assert [why.reason.value for _, why in outputs.dead] == ["conflict", "schema", "schema", "conflict"]
    nowhen = msgspec.structs.replace(wanted(1, "apply"), at=2**62)
    assert [why.reason.value for _, why in loop(nowhen).dead] == ["schema"]
    assert loop.steps.rows == []


def test_what_leaves_the_secure_environment_is_asked_for_and_checked_by_somebody_else(office: Office) -> None:
    office.do_all("apply", "request")
    office.refused("Outputs are of projects that have been opened", "ask-output")
    office.do_all("find-complete", "give-opinion", "authorise", "sign", "open")
    office.refused("nobody has asked for this output", "check-output")
    office.do("ask-output")
    assert office.project.outputs[PAPER["sha256"]].decision is None
    office.refused("its check is awaited", "ask-output")
    office.refused("nobody checks their own output", "check-output", actor="team")
    office.do("suspend")
    office.refused("nothing leaves now", "check-output")
    office.do("check-output", {"decision": "stays"})
    assert office.project.outputs[PAPER["sha256"]].decision == "stays"
    assert office.project.standing == "suspended", "an output moves no permit"
    office.refused("it stays; a changed file has another SHA-256", "check-output")
    office.refused("document.sha256: it stays", "ask-output")
    other = {**PAPER, "sha256": "b" * 64}
    office.do("resume")
    office.do("ask-output", {"document": other, "kind": "code", "smallest_cell": None})
    office.do("check-output", {"output": other["sha256"]})
    later = {**PAPER, "sha256": "c" * 64}
    office.do("ask-output", {"document": later})
    office.now += dt.timedelta(days=3650)
    office.refused("the permit has expired", "ask-output", {"document": {**PAPER, "sha256": "d" * 64}})
    office.refused("the permit has expired", "check-output", {"output": later["sha256"]})
    office.now -= dt.timedelta(days=3650)
    office.do("suspend")
    office.do("revoke")
    office.refused("the project is revoked", "check-output", {"output": later["sha256"]})


@pytest.mark.parametrize(
    ("says", "words"),
    [
        ({"smallest_cell": 10}, "group or withhold what stands for fewer than 11"),
        ({"smallest_cell": None}, "`smallest_cell` is for table, figure, model, which need it"),
        ({"kind": "text"}, "`smallest_cell` is for table, figure, model"),
        ({"document": {**PAPER, "sha256": "x"}}, "use the SHA-256 of the document"),
    ],
)
def test_an_output_says_how_few_people_it_stands_for(says: dict[str, Any], words: str) -> None:
    with pytest.raises(DocumentError, match=words):
        document_of("ask-output", SAYS["ask-output"] | says)
