"""For producers: send files, relay a topic of their own, and keep the keys of an ingest at their site."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import typer

from estuaire.cli.options import INGEST, IngestUrl, Token, bar, err, local_token, out, say, show
from estuaire.home import home_folder

if TYPE_CHECKING:
    from estuaire.files import Sent

KNOWN = "CloudEvents or FHIR as .json or .ndjson, HL7 v2, pmsi-mco, dcir, ir-ben-r, cepidc; each also with .gz"
"""As `estuaire.files` says it, without the formats that it would import; a test holds that both say the same."""


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
    removed: Annotated[
        bool, typer.Option("--report", help="Print which elements the hub does not keep, and why.")
    ] = False,
) -> None:
    """Send files of records. A repeated call sends what is new or corrected, and goes on where one was interrupted."""
    from estuaire.client import SendError
    from estuaire.files import FileSender, Sent, groups_of
    from estuaire.ledger import Ledger, ledger_of
    from estuaire.producer import Producer
    from estuaire.removed import WatchedProducer, removed_table

    try:
        zone = ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError):
        raise typer.BadParameter("not a time zone, such as Indian/Reunion", param_hint="--timezone") from None
    groups, left = groups_of(files)
    for path in left:
        say(f"{path}: left aside, no format knows it")
    parts: list[Sent] = []
    with (
        (WatchedProducer if removed else Producer)(
            url, token or local_token("producers", source), backfill=backfill
        ) as producer,
        Ledger(ledger_of(home_folder(), url, source)) as ledger,
        bar("records") as progress,
    ):
        sender = FileSender(producer, source, ledger, zone, again=again)
        try:
            sender.look_ahead(groups)
            for group in groups:
                task = progress.add_task(group.name, total=1.0, count=0)
                parts.append(Sent())

                def report(done: Sent, share: float, task: Any = task) -> None:
                    parts[-1] = done
                    progress.update(task, completed=share, count=done.sent + done.known)

                mine = sender.send(group, report)
                progress.update(task, completed=1.0)
                if mine.rejected:
                    say(f"{group.name}: {mine.rejected} refused, see {group.reasons}")
        except KeyboardInterrupt:
            say(f"stopped: {sum(one.accepted for one in parts)} accepted so far; the same command goes on from there")
            raise typer.Exit(130) from None
        if wait and not producer.wait_for_views(source):
            raise SendError("sent, but not everything is in the views yet")
    total = Sent()
    for one in parts:
        total.include(one)
    known = f", {total.known} kept before" if total.known else ""
    passed_over = ", ".join(f"{count} {kind}" for kind, count in sorted(total.not_taken.items()))
    out.print(f"sent {total.sent}: {total.accepted} accepted, {total.rejected} refused{known}")
    if passed_over:
        out.print(f"not taken: {passed_over}")
    if isinstance(producer, WatchedProducer):
        out.print(removed_table(producer.removed))
    if total.rejected:
        raise typer.Exit(1)


def oppose(
    file: Annotated[Path, typer.Argument(help="Who objects: id, identity and scope, as YAML or JSON; - reads them.")],
    source: Annotated[str, typer.Option(help="The source that sends it, e.g. urn:estuaire:producer:chu-rennes.")],
    lift: Annotated[bool, typer.Option("--lift", help="The person no longer objects.")] = False,
    url: IngestUrl = INGEST,
    token: Token = None,
) -> None:
    """Send a person's opposition: nothing about them leaves the hub from then on, until it is lifted."""
    from estuaire.client import SendError
    from estuaire.producer import Producer
    from estuaire.projects import read_document

    said = read_document(Path("/dev/stdin") if str(file) == "-" else file)
    if lift:
        said["made"] = False
    with Producer(url, token or local_token("producers", source)) as producer:
        answer = producer.oppose(said)
    for refused in answer.rejected:
        raise SendError(f"{refused['reason']}: {refused['detail']}")
    (kept,) = answer.accepted
    show(f"{'lifted' if said.get('made') is False else 'in force'}: {kept['id']}, kept as {kept['event_id']}")


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
    from estuaire.relay import REFUSED, Relay, Theirs, read_config

    config = read_config(broker_config) if broker_config else {}
    theirs = Theirs(broker, topic, group or f"estuaire-relay-{topic}", config)
    relaying = Relay(theirs, url, token or local_token("producers", source), say, backfill=backfill)

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


def keys(
    folder: Annotated[Path, typer.Argument(help="The keys of an ingest at your own site.")],
    first: Annotated[bool, typer.Option("--first", help="Make secret 1 too: once, by who shares it out.")] = False,
) -> None:
    """Make what an edge gateway's own keys lack, and print each key's fingerprint, to compare with other sites."""
    from estuaire import gateway

    for name, fingerprint in gateway.prepare(folder, first=first).items():
        shared = "" if name in gateway.OWN else "  the same at every site"
        show(f"{name:17} {fingerprint}{shared}")
