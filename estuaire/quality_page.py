"""The registry and a quality report as pages: one HTML file each, without a script, that loads nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any, Final

Found = Mapping[str, Any]

LATENESS: Final[Mapping[str, str]] = {
    "future": "ahead of the clock, by more than 5 minutes",
    "hour": "within an hour",
    "day": "within a day",
    "week": "within a week",
    "month": "within 31 days",
    "year": "within a year",
    "more": "later",
    "unknown": "without a time of the event",
    "backfill": "sent as history",
}
"""How late a record is, in words."""


def percent(share: float | None) -> str:
    """A share as people read it; less than all is never written as all, nor more than nothing as nothing."""
    if share is None:
        return ""
    if share in (0, 1):
        return f"{share:.0%}"
    digits = 2 if share < 0.001 or 0.999 < share < 1 else 1
    return f"{share:.{digits}%}"


def render_sources(sources: Sequence[Found]) -> str:
    """The registry as a page."""
    rows = [
        (
            _producer(one),
            _status(one["status"]),
            _moment(one["last_seen"]),
            _number(one["accepted"]),
            _number(one["refused"]),
            f"{one['per_day']:,.0f}",
            percent(one["expected_share"]),
        )
        for one in sources
    ]
    headings = ("producer", "status", "last seen (UTC)", "accepted", "refused", "a day", "of expected")
    body = (
        "<h1>Producers</h1><p>Those of the registry, then those that were seen without being in it. Events are of the"
        " last seven days; <em>a day</em> is their mean from the first one on.</p>"
        f"{_table('All producers', headings, rows, words=(1, 2))}"
    )
    return _page("Producers", body)


def render_quality(found: Found) -> str:
    """A report, with its linkage rate under `linkage`, as a page."""
    title = found["title"] or found["source"]
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p><code>{escape(found['source'])}</code></p>" if found["title"] else "",
        "" if found["registered"] else "<p>Not in the registry.</p>",
        f"<p>Data quality from {found['from']} to {found['to']} (days in UTC, by arrival).</p>",
        _tiles(found),
        *_volume(found["days"]),
        *_linkage(found),
        *_identity(found),
        *_lateness(found),
        *_refused(found),
        "<h2>Fields, by type of record</h2>"
        "<p>Complete is the share of records that have the field with a value that is kept. Invalid are records with a"
        " value in it that its grammar does not take, such as a code that its system does not have: that value is not"
        " kept.</p>",
        *(_fields(one) for one in found["types"] if one["records"]),
        '<p class="soft">Everything here is a count of records. A record counts once the hub has answered for it.</p>',
    ]
    return _page(f"Data quality of {title}", "\n".join(parts))


def _tiles(found: Found) -> str:
    linkage = found["linkage"]
    dead = sum(one["records"] for one in found["dead_letters"])
    tiles = [
        ("accepted", _number(found["accepted"]), f"{_number(found['retractions'])} of them retractions"),
        ("refused", _number(found["refused"]), f"{percent(found['refused_share'])} of all" if found["refused"] else ""),
        ("duplicates", _number(found["duplicates"]), f"{percent(found['duplicates_share'])} of accepted"),
        ("corrections", _number(found["corrections"]), ""),
        ("linkage rate", (linkage and percent(linkage["rate"])) or "–", "" if linkage else "linkage did not answer"),
        ("unlinkable", _number(found["unlinkable"]["records"]), f"{percent(found['unlinkable']['share'])} of records"),
        ("dead letters", _number(dead), f"{_number(found['conflicts'])} of them conflicts"),
    ]
    cells = (f"<div><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>" for name, value, note in tiles)
    return f'<dl class="tiles">{"".join(cells)}</dl>'


def _volume(days: Sequence[Found]) -> Iterable[str]:
    if not days:
        return
    most = max(one["accepted"] + one["refused"] for one in days)
    bars = []
    for at, one in enumerate(days):
        accepted, refused = (100 * one[name] / most for name in ("accepted", "refused"))
        top = 100 - accepted
        bars.append(
            f"<g><title>{one['day']}: {one['accepted']:,} accepted, {one['refused']:,} refused</title>"
            f'<rect class="fill" x="{at + 0.1:g}" width=".8" y="{top:.2f}" height="{accepted:.2f}"/>'
            f'<rect class="fill bad" x="{at + 0.1:g}" width=".8" y="{top - refused:.2f}" height="{refused:.2f}"/></g>'
        )
    wide = max(len(days), 20)
    rows = [(str(one["day"]), _number(one["accepted"]), _number(one["refused"])) for one in days]
    table = _table("Events by day of arrival", ("day", "accepted", "refused"), rows)
    last = days[-1]["day"] if len(days) > 1 else ""
    yield (
        '<h2>Volume</h2><figure class="wide">'
        f'<svg viewBox="0 0 {wide} 100" preserveAspectRatio="none" role="img" aria-label="Events by day">'
        f'{"".join(bars)}</svg><div class="ends"><span>{days[0]["day"]}</span><span>{last}</span></div>'
        f"<figcaption>Days on which something came; the highest has {most:,} events. Refused ones stand on top."
        f"</figcaption></figure><details><summary>The same as a table</summary>{table}</details>"
    )


def _linkage(found: Found) -> Iterable[str]:
    linkage = found["linkage"]
    yield "<h2>Linkage, and what became of the records</h2>"
    if linkage:
        of = "" if linkage["share"] == 1 else f" (estimated from {linkage['sampled']:,}, a random sample)"
        yield f"<p>Linkage rate, now: {escape(linkage['definition'])}</p>"
        linkable = linkage["sampled"] - linkage["unlinkable"]
        rows = [
            _part("identities with something to be linked by", linkable, linkage["sampled"]),
            _part("whose patient has another identity", linkage["with_another_identity"], linkable),
            _part("whose patient has an identity of another source", linkage["with_another_source"], linkable),
        ]
        yield _bars(f"{linkage['subjects']:,} distinct identities{of}", "identities", rows)
    else:
        yield "<p>Linkage did not answer, so there is no linkage rate here.</p>"
    if found["dead_letters"]:
        letters = [
            (escape(one["step"]), escape(one["reason"]), _number(one["records"])) for one in found["dead_letters"]
        ]
        caption = "Dead letters: accepted, but a later step could not take them"
        yield _table(caption, ("step", "reason", "records"), letters, words=(1,))


def _identity(found: Found) -> Iterable[str]:
    yield "<h2>Identity</h2>"
    yield _bars("Completeness of the identity", "records", _parts(found["identity"]))
    yield _bars("Numbers it has, by system", "records", _parts(found["identifiers"], only_some=True))
    yield _bars("Status of the identity", "records", _parts(found["statuses"], only_some=True))
    if found["flags"]:
        yield _bars("Identities that contradict themselves", "records", _parts(found["flags"]), wrong=True)


def _lateness(found: Found) -> Iterable[str]:
    yield "<h2>Lateness</h2>"
    rows = [(LATENESS[one["name"]], one["records"], one["share"]) for one in found["lateness"]]
    yield _bars("How long after their event records arrived", "records", rows)


def _refused(found: Found) -> Iterable[str]:
    yield "<h2>Refused</h2>"
    if not found["reasons"]:
        yield '<p class="soft">Nothing was refused.</p>'
        return
    yield _bars("Refused events by reason; shares of all events", "events", _parts(found["reasons"]), wrong=True)
    if found["wrong"]:
        yield _bars("By the field that is wrong; shares of the refused", "events", _parts(found["wrong"]), wrong=True)


def _fields(one: Found) -> str:
    rows = [
        (
            f"<code>{escape(field['name'])}</code>",
            _bar(field["share"]),
            percent(field["share"]),
            _number(field["records"]),
            f'<span class="bad">{_number(field["invalid"])}</span>' if field["invalid"] else "0",
        )
        for field in one["fields"]
        if field["records"] or field["invalid"]
    ]
    empty = [field["name"] for field in one["fields"] if not field["records"] and not field["invalid"]]
    note = f'<p class="soft">In no record: <code>{escape(", ".join(empty))}</code></p>' if empty else ""
    gone = f"; {_number(one['removed'])} values were not kept" if one["removed"] else ""
    caption = f"{_number(one['records'])} records{gone}"
    headings = ("field", "", "complete", "records", "invalid")
    return f"<h3>{escape(one['type'])}</h3>{_table(caption, headings, rows)}{note}"


# --- parts of pages ---

Row = tuple[str, int, float | None]


def _parts(parts: Iterable[Found], *, only_some: bool = False) -> list[Row]:
    return [
        (one["name"].replace("_", " "), one["records"], one["share"])
        for one in parts
        if one["records"] or not only_some
    ]


def _part(name: str, count: int, whole: int) -> Row:
    return name, count, count / whole if whole else None


def _bars(caption: str, unit: str, rows: Iterable[Row], *, wrong: bool = False) -> str:
    cells = [
        (escape(name), _bar(share, wrong=wrong or name == LATENESS["future"]), percent(share), _number(count))
        for name, count, share in rows
    ]
    return _table(caption, ("", "", "share", unit), cells)


def _bar(share: float | None, *, wrong: bool = False) -> str:
    width = 100 * min(1.0, share or 0.0)
    return (
        '<svg viewBox="0 0 100 9" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" width="100" height="9"/>'
        f'<rect class="fill{" bad" if wrong else ""}" width="{width:.2f}" height="9"/></svg>'
    )


def _table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[str]], words: Iterable[int] = ()) -> str:
    """Cells are HTML; the first of a row is its heading; `words` are the columns of text."""
    left = dict.fromkeys(words, ' class="word"')
    kind = ' class="bars"' if len(headings) > 1 and not headings[1] else ""
    head = "".join(
        f'<th scope="col"{left.get(at, "")}>{escape(one)}</th>' if one else "<td></td>"
        for at, one in enumerate(headings)
    )
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(_cell(at, one, left) for at, one in enumerate(rest, 1))}</tr>'
        for first, *rest in rows
    )
    return (
        f'<div class="wide"><table{kind}><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(at: int, content: str, left: Mapping[int, str]) -> str:
    kind = ' class="bar"' if content.startswith("<svg") else left.get(at, "")
    return f"<td{kind}>{content}</td>"


def _producer(one: Found) -> str:
    title = f"{escape(one['title'])}<br>" if one["title"] else ""
    known = " · ".join(filter(None, (", ".join(one["formats"]), one["contact"])))
    note = escape(known) if one["registered"] else "not in the registry"
    return f"{title}<code>{escape(one['source'])}</code>" + (f"<br><small>{note}</small>" if note else "")


def _status(status: str) -> str:
    return escape(status) if status == "active" else f'<span class="bad">{escape(status)}</span>'


def _moment(text: str | None) -> str:
    return escape(text[:16].replace("T", " ")) if text else ""


def _number(count: int) -> str:
    return f"{count:,}"


def _page(title: str, body: str) -> str:
    folder = files("estuaire")
    style = (folder / "quality.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    template = Template((folder / "quality.html").read_text(encoding="utf-8"))
    return template.substitute(title=escape(title), style=style, style_hash=f"sha256-{digest}", body=body)
