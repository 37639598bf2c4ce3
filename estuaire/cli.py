"""`estuaire`: the hub on one machine, and the clients of any hub."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import httpx
import msgspec
import typer
from confluent_kafka import KafkaException
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from contracts.messages import accepted_at
from contracts.permits import PermitError, read_permit
from estuaire import demo as demonstration
from estuaire import evaluation, gateway, topics, traps
from estuaire import link as linking
from estuaire.explanation import explain, hold
from estuaire.files import KNOWN, FileSender, Sent, groups_of
from estuaire.keyring import OFFICER, OPERATOR, STEWARD, Keyring
from estuaire.ledger import Ledger, ledger_of
from estuaire.platform import Platform, addresses, home_folder
from estuaire.process import StartError
from estuaire.producer import Producer, SendError, checked
from estuaire.quality import quality
from estuaire.relay import REFUSED, Relay, RelayError, Theirs, read_config
from estuaire.report import Report, render
from estuaire.reviews import Stewardship, described
from estuaire.rules import Switchboard, Workshop, index_url
from estuaire.rules import described as described_trial
from estuaire.subscriber import Subscriber, ViewError
from runtime.keys import KeyUnavailable
from runtime.settings import RuntimeSettings

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
permits = typer.Typer(no_args_is_help=True, help="Grant, close and list data permits.")
app.add_typer(permits, name="permit")
reviews = typer.Typer(no_args_is_help=True, help="See doubtful links and decide on them, as a data steward.")
app.add_typer(reviews, name="review")
rules = typer.Typer(no_args_is_help=True, help="Propose, try and switch the rules that linkage decides by.")
app.add_typer(rules, name="rules")
app.command()(quality)
err = Console(stderr=True, highlight=False)
out = Console(highlight=False)

Port = Annotated[
    int, typer.Option(help="Base port: ingest here, access one up, pseudonym, linkage and statistics after.")
]
Broker = Annotated[
    str, typer.Option("--broker", envvar=["KAFKA_BOOTSTRAP_SERVERS", "ESTUAIRE_BROKER"], help="The broker's address.")
]
IngestUrl = Annotated[str, typer.Option("--url", envvar="ESTUAIRE_INGEST_URL", help="Where ingest listens.")]
AccessUrl = Annotated[str, typer.Option("--access", envvar="ESTUAIRE_ACCESS_URL", help="Where access listens.")]
LinkageUrl = Annotated[str, typer.Option("--linkage", envvar="ESTUAIRE_LINKAGE_URL", help="Where linkage listens.")]
Estimated = Annotated[
    bool,
    typer.Option(
        "--estimated/--as-shipped", help="Weights estimated on the file, without the truth, or those a hub begins with."
    ),
]
Token = Annotated[
    str | None, typer.Option(envvar="ESTUAIRE_TOKEN", help="Bearer token; the local platform's if absent.")
]

INGEST, ACCESS, LINKAGE = "http://127.0.0.1:8000", "http://127.0.0.1:8001", "http://127.0.0.1:8003"
LOCAL_BROKER = "127.0.0.1:9092"

_ERRORS = (
    StartError,
    SendError,
    RelayError,
    KeyUnavailable,
    topics.TopicError,
    linking.LinkError,
    PermitError,
    ViewError,
)


def main() -> None:
    """Run a command; what goes wrong is one line on standard error and exit code 1."""
    for name, address in addresses(home_folder()).items():
        os.environ.setdefault(name, address)
    try:
        app()
    except _ERRORS as error:
        err.print(f"[red]error[/red]: {error}", soft_wrap=True)
        sys.exit(1)
    except KafkaException as error:
        err.print(f"[red]error[/red]: the broker: {error.args[0].str()}", soft_wrap=True)
        sys.exit(1)
    except OSError as error:
        err.print(f"[red]error[/red]: {error.filename or ''}: {error.strerror}", soft_wrap=True)
        sys.exit(1)
    except httpx.TransportError as error:
        err.print(f"[red]error[/red]: no answer from {error.request.url} ({type(error).__name__})", soft_wrap=True)
        sys.exit(1)


@app.command()
def up(port: Port = 8000) -> None:
    """Start broker, database and all services here; stop with Ctrl-C."""
    with Platform(home_folder(), port, report=_say) as platform:
        _addresses(platform)
        _until_interrupted()
        err.print("stopping")


@app.command()
def demo(
    port: Port = 8000,
    once: Annotated[bool, typer.Option("--once", help="Stop by itself at the end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object as the last line.")] = False,
    records: Annotated[Path | None, typer.Option(help="A file or folder to send in place of the sample.")] = None,
) -> None:
    """Start the platform, stream the sample (or FILE) through it, and print what came out of each step."""
    if records is not None:
        groups_of([records])
    with Platform(home_folder(), port, report=_say) as platform:
        err.print("streaming the sample" if records is None else f"streaming {records}")
        result = demonstration.run(platform, records)
        if not as_json or not once:
            _show(platform, result)
        if as_json:
            print(result.json(), flush=True)  # noqa: T201 - the result itself
        if not once:
            _addresses(platform)
            _until_interrupted()
            err.print("stopping")


@app.command()
def send(
    files: Annotated[
        list[Path],
        typer.Argument(help=f"Files or folders: {KNOWN}. Files of one format that are named belong together."),
    ],
    source: Annotated[str, typer.Option(help="The producer's source, e.g. urn:estuaire:producer:chu-rennes.")],
    url: IngestUrl = INGEST,
    token: Token = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until everything sent is in the views.")] = False,
    backfill: Annotated[bool, typer.Option("--backfill", help="Send on the lane of lower priority.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Send also what was kept before.")] = False,
    timezone: Annotated[str, typer.Option(help="Where times are from that do not say it (HL7 v2).")] = "Europe/Paris",
) -> None:
    """Send files of records. A repeated call sends what is new or corrected, and goes on where one was interrupted."""
    home = home_folder()
    total = Sent()
    try:
        zone = ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError):
        raise typer.BadParameter("not a time zone, such as Indian/Reunion", param_hint="--timezone") from None
    groups, left = groups_of(files)
    for path in left:
        err.print(f"{path}: left aside, no format knows it", soft_wrap=True)
    with (
        Producer(url, token or Keyring(home).token("producers", source), backfill=backfill) as producer,
        Ledger(ledger_of(home, url, source)) as ledger,
        _bar() as bar,
    ):
        sender = FileSender(producer, source, None if again else ledger, zone)
        for group in groups:
            task = bar.add_task(group.name, total=1.0, records=0)

            def show(done: Sent, share: float, task: Any = task) -> None:
                bar.update(task, completed=share, records=done.sent + done.known)

            mine = sender.send(group, show)
            bar.update(task, completed=1.0)
            total.include(mine)
            if mine.rejected:
                err.print(f"{group.name}: {mine.rejected} refused, see {group.reasons}", soft_wrap=True)
        if wait and not producer.wait_for_views(source):
            raise SendError("sent, but not everything is in the views yet")
    known = f", {total.known} kept before" if total.known else ""
    passed_over = ", ".join(f"{count} {kind}" for kind, count in sorted(total.not_taken.items()))
    out.print(f"sent {total.sent}: {total.accepted} accepted, {total.rejected} refused{known}")
    if passed_over:
        out.print(f"not taken: {passed_over}")
    if total.rejected:
        raise typer.Exit(1)


@app.command()
def relay(
    topic: Annotated[str, typer.Argument(help="A topic of CloudEvents on your own broker.")],
    broker: Annotated[str, typer.Option(help="Your broker's address.")],
    source: Annotated[str, typer.Option(help="The source of its events, e.g. urn:estuaire:producer:chu-rennes.")],
    url: IngestUrl = INGEST,
    token: Token = None,
    group: Annotated[str | None, typer.Option(help="The consumer group; estuaire-relay-TOPIC if absent.")] = None,
    once: Annotated[bool, typer.Option("--once", help="End where the topic ends now.")] = False,
    backfill: Annotated[bool, typer.Option("--backfill", help="Send on the lane of lower priority.")] = False,
    broker_config: Annotated[
        Path | None, typer.Option(help="A properties file with librdkafka's settings for your broker: SASL, TLS.")
    ] = None,
) -> None:
    """Send what comes in a topic of your own Kafka. What is refused is listed in TOPIC-refused, with its offset."""
    config = read_config(broker_config) if broker_config else {}
    theirs = Theirs(broker, topic, group or f"estuaire-relay-{topic}", config)
    relaying = Relay(theirs, url, token or Keyring(home_folder()).token("producers", source), _say, backfill=backfill)

    def stop(number: int, _frame: object) -> None:
        """Asked once, end after the request under way; asked again, at once."""
        signal.signal(number, signal.SIG_DFL)
        relaying.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    relayed = relaying.run(once=once)
    tombstones = f", {relayed.tombstones} tombstones passed over" if relayed.tombstones else ""
    out.print(f"relayed: {relayed.accepted} accepted, {relayed.refused} refused{tombstones}")
    if relayed.refused and once:
        err.print(f"see {topic}{REFUSED}", soft_wrap=True)
        raise typer.Exit(1)


@app.command()
def keys(
    folder: Annotated[Path, typer.Argument(help="The keys of an ingest at your own site.")],
    first: Annotated[bool, typer.Option("--first", help="Make secret 1 too: once, by who shares it out.")] = False,
) -> None:
    """Make what an edge gateway's own keys lack, and print each key's fingerprint, to compare with other sites."""
    for name, fingerprint in gateway.prepare(folder, first=first).items():
        shared = "" if name in gateway.OWN else "  the same at every site"
        _print(f"{name:17} {fingerprint}{shared}")


@app.command()
def link(
    file: Annotated[Path, typer.Argument(help="CloudEvents as NDJSON; `data.record` may be absent.")],
    output: Annotated[
        Path | None, typer.Option("--out", help="CSV `source,id,patient_id`; standard output if absent.")
    ] = None,
    estimated: Estimated = True,
) -> None:
    """Link a file without a broker, through the same code as the hub."""
    linked = linking.link_file(file, estimated)
    with output.open("w") if output else _standard_output() as csv:
        linking.write_csv(linked, csv)
    patients = len(set(linked.patients.values()))
    err.print(
        f"{len(linked.patients)} records, {patients} patients, {linked.refused} refused, {linked.seconds:.1f} s,"
        f" rules {linked.rules.name}"
    )
    if linked.refused:
        raise typer.Exit(1)


@app.command()
def evaluate(
    file: Annotated[Path, typer.Argument(help="CloudEvents as NDJSON; `data.record` may be absent.")],
    truth: Annotated[Path, typer.Option(help="CSV `source,id,person,trap`; labels of one record joined by `;`.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    report: Annotated[
        Path | None,
        typer.Option(help="Also write an HTML page here: the threshold curve, and what linkage saw of its mistakes."),
    ] = None,
    estimated: Estimated = True,
) -> None:
    """Link a file and compare the result with the truth: precision and recall over pairs, overall and per trap."""
    known = evaluation.read_truth(truth)
    if report is not None:
        _try_to_write(report)
    with linking.index_of(file, estimated) as (linked, index):
        found = evaluation.evaluate(linked.patients, known)
        if report is not None:
            held = hold(index, linked)
            curve = evaluation.threshold_curve(held, known)
            explained = explain(held, index, [*found.missed, *found.wrong])
            page = render(Report(file.name, linked, found, known, curve, explained))
            report.write_text(page, encoding="utf-8")
    if as_json:
        print(evaluation.as_json(found, linked.seconds))  # noqa: T201 - the result itself
        return
    out.print(evaluation.as_table(found, linked))


@app.command()
def population(
    output: Annotated[Path, typer.Option("--out", help="Where to write the events, as NDJSON.")],
    truth: Annotated[Path, typer.Option(help="Where to write whose they are: CSV `source,id,person,trap`.")],
    people: Annotated[int, typer.Option(min=100)] = 1000,
    records: Annotated[int, typer.Option(help="Two for each person at least.")] = 3000,
    seed: Annotated[int, typer.Option(help="The same seed writes the same files.")] = 1,
) -> None:
    """Write a made-up population as several sources record it, with labelled slips and relatives, for `evaluate`."""
    if records < 2 * people:
        raise typer.BadParameter("give two records for each person at least", param_hint="--records")
    traps.write(traps.labelled(seed, people, records), output, truth)
    err.print(f"{records} records of {people} people in {output}, whose they are in {truth}")


@app.command()
def tap(
    topic: str,
    most: Annotated[int | None, typer.Option("--max", help="Stop after so many.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on at the end.")] = False,
    broker: Broker = LOCAL_BROKER,
) -> None:
    """Print a topic as NDJSON: coordinates, headers, decoded envelope."""
    with _quiet_interrupt():
        topics.print_topic(_settings(broker), topic, most, follow, print)


@app.command()
def trace(
    source: str,
    record_id: Annotated[str, typer.Argument(metavar="ID")],
    url: IngestUrl = INGEST,
    access: AccessUrl = ACCESS,
    linkage: LinkageUrl = LINKAGE,
    token: Token = None,
) -> None:
    """Where a record is: every step it passed, when, how it was linked, which views it reached."""
    keyring = Keyring(home_folder())
    with Producer(url, token or keyring.token("producers", source)) as producer:
        event_id = producer.event_id(source, record_id)
    operator = {"Authorization": f"Bearer {keyring.token('operators', OPERATOR)}"}
    linked, stored = (_record(f"{base}/v1/records/{event_id}", operator) for base in (linkage, access))
    table = Table("step", "when", "what", title=f"{source} {record_id}")
    if linked is None and stored is None:
        raise SendError(f"nobody has seen {record_id} of {source}: never sent, refused, or among the dead letters")
    table.add_row("ingest", _accepted(linked or stored), f"accepted as {event_id}")
    if linked is None:
        table.add_row("linkage", "", "has not seen it")
    else:
        for state in linked["states"]:
            words = "a retraction" if state["retracted"] else "a correction" if state["correction"] else "a state"
            at = state["coordinates"]
            where = f"{at['topic']}/{at['partition']}@{at['offset']}"
            table.add_row("linkage", _moment(state["linked_at"]), f"{words} of the record, from {where}")
        table.add_row("linkage", "", f"patient {linked['patient_id']}, by {linked['method'] or 'itself'}")
    if stored is None:
        table.add_row("access", "", "has not seen it")
    else:
        held = "retracted" if stored["retracted"] else f"kept, {stored['type']}"
        table.add_row("access", _moment(stored["stored_at"]), f"{held}, revision {stored['revision']}")
        for permit, name in stored["views"].items():
            table.add_row("access", "", f"in view-{permit} as {name}")
    out.print(table)


def _record(url: str, headers: dict[str, str]) -> Any:
    response = httpx.get(url, headers=headers, timeout=10)
    if response.status_code == httpx.codes.NOT_FOUND:
        return None
    return checked(response)


def _accepted(record: Any) -> str:
    moment = accepted_at(record["revision"]) if record else 0
    return _moment(dt.datetime.fromtimestamp(moment / 1000, dt.UTC).isoformat()) if moment else ""


def _moment(text: str) -> str:
    return dt.datetime.fromisoformat(text).astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


@app.command()
def replay(
    topic: Annotated[str, typer.Argument(metavar="TOPIC-dlq")],
    most: Annotated[int, typer.Option("--max", help="At the most so many.")],
    broker: Broker = LOCAL_BROKER,
) -> None:
    """Send dead letters round again; each goes once, and keeps its revision."""
    if not topic.endswith("-dlq"):
        raise topics.TopicError(f"{topic} is no dead-letter topic: its name ends in -dlq")
    out.print(f"{topics.replay(_settings(broker), topic, most)} sent round again")


@app.command()
def subscribe(
    permit: str,
    form: Annotated[str, typer.Option("--format", help="ndjson, or parquet (with --out).")] = "ndjson",
    output: Annotated[Path | None, typer.Option("--out", help="A file, in place of standard output.")] = None,
    broker: Broker = LOCAL_BROKER,
) -> None:
    """A subscriber's client: read the view to its end, apply merges and withdrawals, print what holds."""
    view = Subscriber(_settings(broker), permit).read()
    lines = [event.model_dump(mode="json", exclude_none=True) for event in view.entries()]
    if form == "parquet":
        if output is None:
            raise SendError("a Parquet file needs --out FILE")
        _write_parquet(lines, output)
    elif form == "ndjson":
        with output.open("w") if output else _standard_output() as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    else:
        raise SendError(f"--format {form} is not known: ndjson or parquet")


@permits.command("grant")
def permit_grant(file: Path, access: AccessUrl = ACCESS, token: Token = None) -> None:
    """Grant the permit that FILE (YAML or JSON) describes."""
    keyring = Keyring(home_folder())
    permit = read_permit(file.read_text())
    keyring.ensure("subscribers", permit.subscribers)
    body = permit.model_dump(mode="json", by_alias=True)
    _officer("POST", f"{access}/v1/permits/{permit.id}/grant", keyring, token, body)
    out.print(f"granted {permit.id}")


@permits.command("close")
def permit_close(permit: str, access: AccessUrl = ACCESS, token: Token = None) -> None:
    """Close a permit: nothing more leaves under it, and its key is destroyed."""
    _officer("POST", f"{access}/v1/permits/{permit}/close", Keyring(home_folder()), token)
    out.print(f"closed {permit}")


@permits.command("list")
def permit_list(access: AccessUrl = ACCESS, token: Token = None) -> None:
    """All permits, their state and the size of their views."""
    listed = _officer("GET", f"{access}/v1/permits", Keyring(home_folder()), token)
    table = Table("permit", "state", "records", "expires", "title")
    for one in listed["permits"]:
        table.add_row(one["id"], one["state"], str(one["records"]), one["expires"], one["title"])
    out.print(table)


Pair = Annotated[str, typer.Argument(help="Two subjects' ids joined by a hyphen.")]


class Says(StrEnum):
    """What a steward may say of a pair."""

    TOGETHER = "together"
    APART = "apart"
    AS_THE_RULES_SAY = "as-the-rules-say"


@reviews.command("list")
def review_list(
    most: Annotated[int, typer.Option("--max", min=1, help="At the most so many.")] = 20,
    linkage: LinkageUrl = LINKAGE,
    token: Token = None,
) -> None:
    """The pairs that wait for a decision, those that decide most first."""
    waiting = [described(one) for one in _steward(linkage, token).waiting(most)]
    _print("\n\n".join(waiting) if waiting else "no pair waits for a decision")


@reviews.command("show")
def review_show(pair: Pair, linkage: LinkageUrl = LINKAGE, token: Token = None) -> None:
    """Any two subjects: what the rules make of them, whose they are, what was said of them."""
    _print(described(_steward(linkage, token).pair(pair)))


@reviews.command("decide")
def review_decide(pair: Pair, decision: Says, linkage: LinkageUrl = LINKAGE, token: Token = None) -> None:
    """Say that two subjects are one person, are not, or leave it to the rules again. It outranks every rule."""
    _print(described(_steward(linkage, token).decide(pair, decision.value)))


Version = Annotated[str, typer.Argument(metavar="VERSION", help="A rule version's name.")]
Index = Annotated[
    str | None,
    typer.Option(
        "--index",
        envvar="ESTUAIRE_LINKAGE_DATABASE_URL",
        help="The database of linkage; that of the platform here if absent.",
        show_envvar=True,
    ),
]


@rules.command("list")
def rules_list(linkage: LinkageUrl = LINKAGE, token: Token = None) -> None:
    """The version that decides, how far the index has followed it, and all versions that are kept."""
    found = _switchboard(linkage, token).versions()
    table = Table("version", "kept since", "")
    for one in found["kept"]:
        decides = one["name"] == found["active"]
        table.add_row(one["name"], one["kept_at"][:19], f"decides {_searched(found)}" if decides else "")
    out.print(table)


@rules.command("show")
def rules_show(version: Version, linkage: LinkageUrl = LINKAGE, token: Token = None) -> None:
    """What a version says, as JSON."""
    _print(json.dumps(_switchboard(linkage, token).version(version), indent=1))


@rules.command("propose")
def rules_propose(index: Index = None) -> None:
    """Estimate the version that fits the index best, without the truth, and keep it. It decides nothing yet."""
    proposed = Workshop(index or index_url(home_folder())).propose()
    _print(f"{proposed.name} is kept; `estuaire rules try {proposed.name}` says what it would change")


@rules.command("change")
def rules_change(
    version: Version,
    name: Annotated[str, typer.Option("--as", help="The new version's name.")],
    values: Annotated[list[str], typer.Argument(metavar="NAME=VALUE...", help="Thresholds, such as link=2.5.")],
    index: Index = None,
) -> None:
    """Keep a version like another but for some thresholds. It decides nothing yet."""
    kept = Workshop(index or index_url(home_folder())).change(version, name, dict(map(_number, values)))
    _print(f"{kept.name} is kept; `estuaire rules try {kept.name}` says what it would change")


@rules.command("try")
def rules_try(
    version: Version,
    examples: Annotated[int, typer.Option(min=0, help="So many pairs of each kind of change.")] = 3,
    index: Index = None,
    as_json: Annotated[bool, typer.Option("--json", help="Only the JSON object.")] = False,
) -> None:
    """Run a version over a copy of the index, and say what it would change. Nothing is changed."""
    workshop = Workshop(index or index_url(home_folder()))
    with _bar() as bar:
        task = bar.add_task("searching", total=None)
        trial = workshop.attempt(version, examples, lambda done, of: bar.update(task, completed=done, total=of))
    _print(msgspec.json.encode(trial).decode() if as_json else described_trial(trial))


@rules.command("switch")
def rules_switch(version: Version, linkage: LinkageUrl = LINKAGE, token: Token = None) -> None:
    """Let a version decide from now on, and wait until the index has followed. (Ctrl-C ends the waiting alone.)"""
    with _bar() as bar:
        task = bar.add_task("searching again", total=100)
        _switchboard(linkage, token).switch(version, lambda share: bar.update(task, completed=100 * share))
    _print(f"{version} decides")


def _switchboard(linkage: str, token: str | None) -> Switchboard:
    return Switchboard(linkage, token or Keyring(home_folder()).token("operators", OPERATOR))


def _searched(found: dict[str, Any]) -> str:
    since = f"since {found['switched_at'][:19]} ({found['operator']})" if found["operator"] else "from the beginning"
    return since + ("" if found["searched"] >= 1 else f"; {found['searched']:.0%} searched again")


def _number(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise SendError(f"{text}: write a threshold and a number, such as link=2.5") from None


def _steward(linkage: str, token: str | None) -> Stewardship:
    return Stewardship(linkage, token or Keyring(home_folder()).token("stewards", STEWARD))


def _print(text: str) -> None:
    """Text as it is, however wide: ids are there to be copied."""
    out.print(text, soft_wrap=True, markup=False)


def _officer(method: str, url: str, keyring: Keyring, token: str | None, body: Any = None) -> Any:
    headers = {"Authorization": f"Bearer {token or keyring.token('officers', OFFICER)}"}
    response = httpx.request(method, url, headers=headers, json=body, timeout=30)
    return checked(response)


def _settings(broker: str) -> RuntimeSettings:
    return RuntimeSettings(bootstrap_servers=broker)


def _show(platform: Platform, result: demonstration.Result) -> None:
    table = Table("step", "what came out", title=f"{result.sent} events in {result.seconds} s")
    table.add_row("ingest", f"{result.accepted} accepted, {result.rejected} refused with a reason")
    linked = f"{result.linked} linked, {result.duplicates} duplicates, {result.dead_lettered} dead letters"
    table.add_row("linkage", f"{linked}; {result.patients} patients")
    for permit, count in result.views.items():
        table.add_row("access", f"view-{permit}: {count} records")
    out.print(table)
    out.print(f"state and logs: {platform.home}")


def _addresses(platform: Platform) -> None:
    err.print(f"ingest    {platform.ingest_url}/docs")
    err.print(f"access    {platform.access_url}/docs")
    err.print(f"broker    {platform.bootstrap_servers}")
    err.print("Ctrl-C stops everything")


def _say(line: str) -> None:
    err.print(line, soft_wrap=True)


def _until_interrupted() -> None:
    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())
    done.wait()


def _write_parquet(lines: list[dict[str, Any]], path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [{**line, "data": json.dumps(line["data"], ensure_ascii=False)} for line in lines]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def _bar() -> Progress:
    count = TextColumn("{task.fields[records]} records")
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), count, TimeElapsedColumn())
    return Progress(*columns, console=err)


@contextmanager
def _standard_output() -> Iterator[Any]:
    yield sys.stdout


@contextmanager
def _quiet_interrupt() -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, BrokenPipeError):
        return


def _try_to_write(path: Path) -> None:
    """Say before the work that a file cannot be written, and leave nothing behind."""
    there = path.exists()
    path.open("ab").close()
    if not there:
        path.unlink()


@app.command()
def bench(
    name: Annotated[
        str,
        typer.Argument(
            help="flow: all services beside a pass-through; ingest: each format, beside a public reader;"
            " linkage: its step, beside Splink; loop: beside Faust."
        ),
    ] = "flow",
    people: Annotated[
        str, typer.Option(help="linkage: how many are in the index, one size after another.")
    ] = "10000,100000",
    records: Annotated[int, typer.Option(min=1000, help="ingest: about how many of each format.")] = 20_000,
    as_json: Annotated[bool, typer.Option("--json", help="Only the JSON object.")] = False,
    port: Port = 8000,
) -> None:
    """The benchmarks; figures of one run compare with each other, not with another machine's."""
    if name == "flow":
        from bench import flow

        with TemporaryDirectory(prefix="estuaire-bench-") as folder:
            result = flow.main(Path(folder), port)
    elif name == "ingest":
        from bench import ingest

        result = ingest.main(records)
    elif name == "loop":
        from bench import loop

        result = loop.main()
    elif name == "linkage":
        from bench import linkage

        sizes = [int(size) for size in people.split(",") if size.isdecimal()]
        if not sizes or min(sizes) < linkage.SMALLEST:
            raise SendError(f"--people takes numbers from {linkage.SMALLEST} on, with commas between them")
        result = linkage.main(sizes, as_json)
    else:
        raise SendError(f"there is no benchmark {name}: flow, ingest, linkage or loop")
    if not as_json:
        for key, value in result.items():
            err.print(f"{key}: {value}")
    print(json.dumps(result), flush=True)  # noqa: T201 - the result itself
