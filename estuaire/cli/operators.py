"""For operators: look into topics, follow a record, send dead letters round again, and see the quality of sources."""

from __future__ import annotations

import datetime as dt
import json
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from estuaire.cli.options import (
    ACCESS,
    INGEST,
    LINKAGE,
    LOCAL_BROKER,
    STATISTICS,
    AccessUrl,
    Broker,
    IngestUrl,
    LinkageUrl,
    Token,
    at_broker,
    local_token,
    out,
)
from estuaire.home import home_folder

if TYPE_CHECKING:
    from rich.console import RenderableType


def tap(
    topic: str,
    most: Annotated[int | None, typer.Option("--max", help="Stop after so many.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on at the end.")] = False,
    broker: Broker = LOCAL_BROKER,
) -> None:
    """Print a topic as NDJSON: coordinates, headers, decoded envelope."""
    from estuaire.topics import print_topic

    with _quiet_interrupt():
        print_topic(at_broker(broker), topic, most, follow, print)


def trace(
    source: str,
    record_id: Annotated[str, typer.Argument(metavar="ID")],
    url: IngestUrl = INGEST,
    access: AccessUrl = ACCESS,
    linkage: LinkageUrl = LINKAGE,
    token: Token = None,
    producer_token: Annotated[
        str | None,
        typer.Option(envvar="ESTUAIRE_PRODUCER_TOKEN", help="The producer's, for ingest tells an id to no other."),
    ] = None,
) -> None:
    """Where a record is: every step it passed, when, how it was linked, which views it reached."""
    from estuaire.client import SendError
    from estuaire.keyring import OPERATOR
    from estuaire.producer import Producer
    from estuaire.trace import follow, trace_table

    with Producer(url, producer_token or local_token("producers", source)) as producer:
        event_id = producer.event_id(source, record_id)
    linked, stored = follow(event_id, linkage, access, token or local_token("operators", OPERATOR))
    if linked is None and stored is None:
        raise SendError(f"nobody has seen {record_id} of {source}: never sent, refused, or among the dead letters")
    out.print(trace_table(f"{source} {record_id}", event_id, linked, stored))


def replay(
    topic: Annotated[str, typer.Argument(metavar="TOPIC-dlq")],
    most: Annotated[int, typer.Option("--max", min=1, max=1000, help="At the most so many.")],
    token: Token = None,
) -> None:
    """Send dead letters round again; each goes once, and keeps its revision."""
    from estuaire.dead_letters import owners_of
    from estuaire.dead_letters import replay as send_again
    from estuaire.keyring import OPERATOR
    from estuaire.local import service_url

    token = token or local_token("operators", OPERATOR)
    count = sum(send_again(service_url(one), topic, most, token) for one in owners_of(topic))
    out.print(f"{count} sent round again")


def rights(
    follow: Annotated[
        bool, typer.Option("--follow", help="Write them to the broker, and go on as permits open and end.")
    ] = False,
    site: Annotated[
        list[str] | None,
        typer.Option(envvar="ESTUAIRE_SITES", help="An account that runs an ingest of its own; may be given again."),
    ] = None,
    accounts: Annotated[
        bool,
        typer.Option(
            "--accounts", help="With --follow: make subscribers and sites accounts, as $ESTUAIRE_HOME has them."
        ),
    ] = False,
    metrics: Annotated[
        int | None, typer.Option(help="With --follow: the port at which Prometheus is told when they were checked.")
    ] = None,
    broker: Broker = LOCAL_BROKER,
) -> None:
    """Who may do what at the broker, by the contracts and the permits that are open; the rest is denied."""
    from estuaire.keyring import Keyring
    from estuaire.rights import RightsKeeper, rights_table, tell_metrics, write_accounts
    from runtime.telemetry import start_logging

    settings = at_broker(broker)

    def introduce(names: Iterable[str]) -> None:
        if accounts:
            write_accounts(settings, Keyring(home_folder()).passwords(names))

    keeper = RightsKeeper(settings, introduce, sites=site or ())
    if not follow:
        out.print(rights_table(keeper.wanted()))
        return
    start_logging("INFO")
    if metrics is not None:
        tell_metrics(metrics)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: keeper.stop())
    keeper.run()


def quality(
    source: Annotated[
        str | None,
        typer.Argument(help="The producer's source; without one, all producers are listed.", show_default=False),
    ] = None,
    begin: Annotated[
        dt.datetime | None,
        typer.Option("--from", formats=["%Y-%m-%d"], metavar="DAY", help="First day (UTC); 29 days before the last."),
    ] = None,
    end: Annotated[
        dt.datetime | None,
        typer.Option("--to", formats=["%Y-%m-%d"], metavar="DAY", help="Last day, included; today, if absent."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The JSON document.")] = False,
    page: Annotated[Path | None, typer.Option(help="Write an HTML page here, which needs nothing else.")] = None,
    url: Annotated[
        str, typer.Option("--url", envvar="ESTUAIRE_STATISTICS_URL", help="Where statistics listens.")
    ] = STATISTICS,
    linkage: Annotated[
        str,
        typer.Option("--linkage", envvar="ESTUAIRE_LINKAGE_URL", help="Where linkage listens, for the linkage rate."),
    ] = LINKAGE,
    token: Token = None,
) -> None:
    """The producers, or the quality of what one sent: completeness, wrong values, refusals, lateness, linkage."""
    from estuaire.keyring import OPERATOR
    from estuaire.quality import Statistics, quality_table, sources_table
    from estuaire.quality_page import render_quality, render_sources

    statistics = Statistics(url, linkage, token or local_token("operators", OPERATOR))
    if source is None:
        listed = statistics.sources()
        _show_report(listed, sources_table(listed), render_sources(listed), as_json, page)
    else:
        found = statistics.quality(source, begin and begin.date(), end and end.date())
        _show_report(found, quality_table(found), render_quality(found), as_json, page)


def _show_report(found: Any, table: RenderableType, html: str, as_json: bool, page: Path | None) -> None:
    if page is not None:
        page.write_text(html, encoding="utf-8")
    if as_json:
        print(json.dumps(found, ensure_ascii=False))  # noqa: T201 - the result itself
    elif page is None:
        out.print(table)


@contextmanager
def _quiet_interrupt() -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, BrokenPipeError):
        return
