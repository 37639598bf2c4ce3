"""Writes the examples whose bodies are sealed: `python -m tests.contract.seal_examples`.

Each run seals anew, so run it when what is inside has changed. The records are those of three example events.
"""

from __future__ import annotations

import hmac
import json
from pathlib import Path
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from contracts.comparison import CODE_BYTES, PARTS, ROW_BYTES
from contracts.examples import HERE, throwaway_key
from contracts.messages import (
    BlockingToken,
    Content,
    Demographics,
    IdentifierToken,
    LinkReview,
    Measures,
    OppositionReach,
    PatientsMerged,
    PatientSplit,
    PermitClosed,
    PermitGranted,
    PermitKeyWrapped,
    RecordLinked,
    RecordPseudonymised,
    RecordReceived,
    RequestAct,
    Rescan,
    RulesSwitched,
    StewardDecision,
    SubjectsErased,
    SubjectsLinked,
    TokenBlock,
    ViewScan,
    associated,
    measures_associated,
    permit_associated,
    revision,
)
from contracts.permits import permit_from, read_permit
from runtime.messages import FlowSummary
from runtime.sealing import Sealer

ROOT: Final = Path(__file__).parents[2]
EVENTS: Final = ("hospital-stay", "dispensation", "hospital-stay-deleted")
RECORDS: Final = ("records-received", "records-pseudonymised", "records-linked")
OPPOSITIONS: Final = ("oppositions", "oppositions-pseudonymised", "oppositions-linked")
PERMIT: Final = "cardio-rennes"
ACCEPTED: Final = 1_772_359_205_000


def private_key(service: str) -> X25519PrivateKey:
    """The private key that a service has in the examples."""
    return X25519PrivateKey.from_private_bytes(throwaway_key(service))


def token(level: int, *words: str) -> bytes:
    """A token of 16 bytes, at level 1 or 2."""
    return hmac.digest(throwaway_key(f"secret {level}"), "\n".join(words).encode(), "sha256")[:16]


def block(event: dict[str, Any], level: int) -> TokenBlock:
    """The tokens of an event's identity, with codes that compare with nothing."""
    identity = event["data"].get("identity", {})
    identifiers = identity.get("identifiers", [])
    named = [f"{one['system']} {one.get('assigner', '')} {one['value']}" for one in identifiers]
    born = identity.get("birth_date")
    blocking = (BlockingToken("birth-date", token(level, "blocking", born)),) if born else ()
    return TokenBlock(
        subject=token(level, "subject", event["source"], json.dumps(identity, sort_keys=True)),
        source=event["source"],
        status=identity.get("identity_status", "provisional"),
        identifiers=tuple(
            IdentifierToken(one["system"], token(level, "identifier", name), one.get("rank"), one.get("scheme"))
            for one, name in zip(identifiers, named, strict=True)
        ),
        blocking=blocking,
        codes=b"".join(row(level, name) for name in (*named, *filter(None, (born,)))) if born else b"",
        code_version="1" if level == 1 else "1.1",
        present=("birth_date",) if born else (),
    )


def row(level: int, name: str) -> bytes:
    """A row of codes of a birth date, and of nothing else."""
    digits, either = PARTS["birth_digits"], PARTS["birth_swapped"]
    codes = hmac.digest(throwaway_key(f"codes {level}"), name.encode(), "sha256")[: CODE_BYTES * (digits.size + 1)]
    return bytes(CODE_BYTES * digits.start) + codes + bytes(ROW_BYTES - CODE_BYTES * either.stop)


def content(event: dict[str, Any]) -> Content:
    """What access reads of an event. The examples hold allowed values only, so nothing needs removing."""
    identity = event["data"].get("identity", {})
    born = [int(part) for part in identity.get("birth_date", "").split("-") if part]
    return Content(
        type=event["type"],
        time=event["time"],
        record=event["data"].get("record", {}),
        demographics=Demographics(
            sex=identity.get("sex"),
            birth_year=born[0] if born else None,
            birth_month=born[1] if len(born) > 1 else None,
            commune=identity.get("residence", {}).get("commune"),
        ),
    )


def main() -> None:
    """Write every sealed example."""
    subjects = write_records(EVENTS, RECORDS)
    write_links(subjects)
    write_oppositions(subjects)
    write_permits()
    write_measures()


def sealer(service: str) -> Sealer:
    """Seals to a service."""
    return Sealer(private_key(service).public_key())


def write_records(names: tuple[str, ...], topics: tuple[str, str, str]) -> list[bytes]:
    """Write the records of these events on each of their topics; returns their subjects at level 2."""
    received, pseudonymised, linked = topics
    to_pseudonym, to_linkage, to_access = sealer("pseudonym"), sealer("linkage"), sealer("access")
    subjects = []
    for number, name in enumerate(names):
        event = read_event(name)
        event_id = token(1, "event", event["source"], event["id"]).hex()
        digest = token(1, "digest", json.dumps(event["data"], sort_keys=True)).hex()
        bound = associated(event_id, event["type"], event["source"], digest)
        first, second, body = block(event, 1), block(event, 2), content(event)
        sealed = to_access.seal(msgspec.msgpack.encode(body), bound)
        stated = event.get("version", 0)
        headers = {
            "ce_id": event_id,
            "ce_source": event["source"],
            "ce_type": event["type"],
            "digest": digest,
            "revision": str(stated),
            "key_version": "1",
        }
        if "traceparent" in event:
            headers["traceparent"] = event["traceparent"]
        tokens = to_pseudonym.seal(msgspec.msgpack.encode(first), bound)
        write(received, name, event_id, headers, RecordReceived(tokens, sealed))

        headers |= {"revision": revision(str(stated), ACCEPTED, 41 + number), "key_version": "1.1"}
        tokens = to_linkage.seal(msgspec.msgpack.encode(second), bound)
        write(pseudonymised, name, event_id, headers, RecordPseudonymised(tokens, sealed))

        headers["patient_id"] = second.subject.hex()
        write(linked, name, event_id, headers, RecordLinked(second.subject, sealed))
        save("token-block", name, plain(first), version=2)
        save("content", name, plain(body))
        subjects.append(second.subject)
    return subjects


def write_links(subjects: list[bytes]) -> None:
    """Write what linkage says of the subjects."""
    first, second, third = subjects
    older, newer = first.hex(), second.hex()
    write("patient-links", "linked", older, {}, SubjectsLinked(101, older, (first,)))
    write("patient-links", "merged", older, {}, PatientsMerged(105, older, newer, (second, third)))
    write("patient-links", "split", older, {}, PatientSplit(112, older, newer, (second,)))
    evidence = {"birth_date": 1.0, "family_name": 0.5, "given_name": 0.0}
    doubtful = LinkReview(first, second, "alike, but not enough to be sure", evidence, "2026-1")
    flagged = LinkReview(first, third, "nir-contradicts-sex", {}, "2026-1")
    for name, review in (("doubtful-pair", doubtful), ("contradiction", flagged)):
        write("link-reviews", name, f"{review.left.hex()}-{review.right.hex()}", {}, review)
    words = (("together", True, ""), ("apart", False, ""), ("as-the-rules-say", None, ""), ("confirmed", True, "other"))
    for name, together, confirmed_by in words:
        said = StewardDecision(first, second, together, "steward", 1_772_359_200_000, confirmed_by)
        write("link-decisions", name, f"{first.hex()}-{second.hex()}", {}, said)
    version = msgspec.msgpack.encode({"name": "2026-2", "link": 2.0})
    write("link-rules", "switched", "rules", {}, RulesSwitched("2026-2", version, "operator", 1_772_359_200_000))
    until = bytes.fromhex("7f" + "ff" * 15)
    write("link-rules", "rescan", until.hex(), {}, Rescan("2026-2", first, until))


def write_permits() -> None:
    """Write the bundled permits as they travel, and the life of one."""
    for path in (ROOT / "estuaire" / "data" / "permits").glob("*.yaml"):
        save("permit", path.stem, json.loads(read_permit(path.read_text()).definition()))
    permit = permit_from(json.loads((HERE / "permit" / "1" / f"{PERMIT}.json").read_text()))
    wrapped = sealer("access").seal(throwaway_key(f"permit {PERMIT}"), permit_associated(PERMIT))
    write("permits", "granted", PERMIT, {}, PermitGranted(PERMIT, permit.definition(), "2026-03-01T08:00:00Z"))
    write("permits", "key-wrapped", f"{PERMIT}#key", {}, PermitKeyWrapped(PERMIT, wrapped))
    write("permits", "scan", f"{PERMIT}#scan-0", {}, ViewScan(PERMIT, 0, token(2, "after")))
    narrowed = permit.model_copy(update={"demographics": ()})
    changed = PermitGranted(PERMIT, narrowed.definition(), "2026-03-01T08:00:00Z", "officer:officer", 3, suspended=True)
    write("permits", "changed", PERMIT, {}, changed)
    write("permits", "closed", PERMIT, {}, PermitClosed(PERMIT, "expired"))


def write_oppositions(subjects: list[bytes]) -> None:
    """Write an opposition, its end, whom it may be about besides, a request to be erased, and what is done about it."""
    (objector, _, asking) = write_records(("opposition", "opposition-deleted", "erasure-request"), OPPOSITIONS)
    for name, version, suspects in (("suspects", 120, subjects[:2]), ("nobody", 121, [])):
        reach = OppositionReach(objector, version, tuple(sorted(suspects)))
        write("opposition-reach", name, objector.hex(), {}, reach)

    request = token(1, "event", read_event("erasure-request")["source"], read_event("erasure-request")["id"])
    paper = {"title": "letter.pdf", "date": "2026-05-20", "sha256": throwaway_key("letter").hex()}
    told = json.dumps({"document": paper}).encode()
    seen = json.dumps({"as_seen": throwaway_key("report").hex()[:32]}).encode()
    for name, act, says, erased in (("erased", "erase", seen, (asking, subjects[1])), ("answered", "answer", told, ())):
        done = RequestAct(request, throwaway_key(act).hex()[:32], act, "officer:camille", ACCEPTED, says, erased)
        write("request-acts", name, request.hex(), {}, done)
    for name, count in (("one", 1), ("several", 2)):
        write("erasures", name, request.hex(), {}, SubjectsErased(request, (asking, subjects[1])[:count]))


def write_measures() -> None:
    """Write what ingest has counted within two seconds, and the summary that the first of it travels in."""
    hospital, insurance = "urn:estuaire:producer:chu-rennes", "urn:estuaire:producer:cnam"
    stays = {"records": 2, "identity.birth_date": 2, "system.ins-nir": 1, "status.provisional": 2, "field.entry": 2}
    stays |= {"field.principal_diagnosis": 2, "invalid.associated_diagnoses": 1, "removed": 1, "late.week": 2}
    counted = {
        "stays": {hospital: {"hospital-stay.v1": stays, "": {"refused.not-json": 1}}},
        "claims": {insurance: {"claim.v1": {"retractions": 1, "refused.bad-nir-key": 3}}},
    }
    for number, (name, counts) in enumerate(counted.items(), 1):
        measures = Measures(throwaway_key("writer")[:8], number, counts)
        save("measures", name, plain(measures))
        if name == "stays":
            sealed = sealer("statistics").seal(msgspec.msgpack.encode(measures), measures_associated(ACCEPTED))
            write("flow-summaries", "ingest", "ingest-0", {}, FlowSummary("ingest", 0, ACCEPTED, (), measures=sealed))


def read_event(name: str) -> dict[str, Any]:
    """An example event."""
    event: dict[str, Any] = json.loads((HERE / "event" / "1" / f"{name}.json").read_text())
    return event


def write(topic: str, name: str, key: str, headers: dict[str, str], value: msgspec.Struct) -> None:
    """Write one envelope."""
    save(topic, name, {"key": key, "headers": headers, "value": plain(value)})


def save(name: str, example: str, value: Any, version: int = 1) -> None:
    """Write one file of examples."""
    path = HERE / name / str(version) / f"{example}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def plain(value: msgspec.Struct) -> Any:
    """The value as JSON has it."""
    return json.loads(msgspec.json.encode(value))


if __name__ == "__main__":
    main()
