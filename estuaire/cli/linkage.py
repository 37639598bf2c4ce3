"""For those who look after linkage: link and evaluate files, decide on doubtful pairs, and switch the rules."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from estuaire.cli.options import LINKAGE, LinkageUrl, Token, bar, err, local_token, out, show, standard_output
from estuaire.home import home_folder

if TYPE_CHECKING:
    from estuaire.reviews import Stewardship
    from estuaire.rules import Switchboard, Workshop

reviews = typer.Typer(no_args_is_help=True, help="See doubtful links and decide on them, as a data steward.")
rules = typer.Typer(no_args_is_help=True, help="Propose, try and switch the rules that linkage decides by.")

Estimated = Annotated[
    bool,
    typer.Option(
        "--estimated/--as-shipped", help="Weights estimated on the file, without the truth, or those a hub begins with."
    ),
]
Pair = Annotated[str, typer.Argument(help="Two subjects' ids joined by a hyphen.")]
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


class Says(StrEnum):
    """What a steward may say of a pair."""

    TOGETHER = "together"
    APART = "apart"
    AS_THE_RULES_SAY = "as-the-rules-say"
    UNSURE = "unsure"


def link(
    file: Annotated[Path, typer.Argument(help="CloudEvents as NDJSON; `data.record` may be absent.")],
    output: Annotated[
        Path | None, typer.Option("--out", help="CSV `source,id,patient_id`; standard output if absent.")
    ] = None,
    estimated: Estimated = True,
) -> None:
    """Link a file without a broker, through the same code as the hub."""
    from estuaire.link import link_file, write_csv

    linked = link_file(file, estimated)
    with output.open("w") if output else standard_output() as csv:
        write_csv(linked, csv)
    patients = len(set(linked.patients.values()))
    err.print(
        f"{len(linked.patients)} records, {patients} patients, {linked.refused} refused, {linked.seconds:.1f} s,"
        f" rules {linked.rules.name}"
    )
    if linked.refused:
        raise typer.Exit(1)


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
    from estuaire import evaluation
    from estuaire.explanation import explain, hold
    from estuaire.link import index_of
    from estuaire.report import Report, render

    known = evaluation.read_truth(truth)
    if report is not None:
        _try_to_write(report)
    with index_of(file, estimated) as (linked, index):
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


def population(
    output: Annotated[Path, typer.Option("--out", help="Where to write the events, as NDJSON.")],
    truth: Annotated[Path, typer.Option(help="Where to write whose they are: CSV `source,id,person,trap`.")],
    people: Annotated[int, typer.Option(min=100)] = 1000,
    records: Annotated[int, typer.Option(help="Two for each person at least.")] = 3000,
    seed: Annotated[int, typer.Option(help="The same seed writes the same files.")] = 1,
) -> None:
    """Write a made-up population as several sources record it, with labelled slips and relatives, for `evaluate`."""
    from estuaire import traps

    if records < 2 * people:
        raise typer.BadParameter("give two records for each person at least", param_hint="--records")
    traps.write(traps.labelled(seed, people, records), output, truth)
    err.print(f"{records} records of {people} people in {output}, whose they are in {truth}")


@reviews.command("list")
def review_list(
    most: Annotated[int, typer.Option("--max", min=1, help="At the most so many.")] = 20,
    linkage: LinkageUrl = LINKAGE,
    token: Token = None,
) -> None:
    """The pairs that wait for a decision, those that decide most first."""
    from estuaire.reviews import described

    waiting = [described(one) for one in _steward(linkage, token).waiting(most)]
    show("\n\n".join(waiting) if waiting else "no pair waits for a decision")


@reviews.command("show")
def review_show(pair: Pair, linkage: LinkageUrl = LINKAGE, token: Token = None) -> None:
    """Any two subjects: what the rules make of them, whose they are, what was said of them."""
    from estuaire.reviews import described

    show(described(_steward(linkage, token).pair(pair)))


@reviews.command("decide")
def review_decide(pair: Pair, decision: Says, linkage: LinkageUrl = LINKAGE, token: Token = None) -> None:
    """Say that two subjects are one person, are not, or leave it to the rules again; or that you are unsure.

    A decision outranks every rule. Where the hub asks for four eyes, it waits for a second steward who says the same.
    """
    from estuaire.reviews import described

    show(described(_steward(linkage, token).decide(pair, decision.value)))


@reviews.command("take-back")
def review_take_back(pair: Pair, linkage: LinkageUrl = LINKAGE, token: Token = None) -> None:
    """Take back what you have said of a pair: what others have said of it holds, or the rules."""
    from estuaire.reviews import described

    show(described(_steward(linkage, token).take_back(pair)))


@rules.command("list")
def rules_list(linkage: LinkageUrl = LINKAGE, token: Token = None) -> None:
    """The version that decides, how far the index has followed it, and all versions that are kept."""
    from estuaire.rules import versions_table

    out.print(versions_table(_switchboard(linkage, token).versions()))


@rules.command("show")
def rules_show(version: Version, linkage: LinkageUrl = LINKAGE, token: Token = None) -> None:
    """What a version says, as JSON."""
    show(json.dumps(_switchboard(linkage, token).version(version), indent=1))


@rules.command("propose")
def rules_propose(index: Index = None) -> None:
    """Estimate the version that fits the index best, without the truth, and keep it. It decides nothing yet."""
    proposed = _workshop(index).propose()
    show(f"{proposed.name} is kept; `estuaire rules try {proposed.name}` says what it would change")


@rules.command("change")
def rules_change(
    version: Version,
    name: Annotated[str, typer.Option("--as", help="The new version's name.")],
    values: Annotated[list[str], typer.Argument(metavar="NAME=VALUE...", help="Thresholds, such as link=2.5.")],
    index: Index = None,
) -> None:
    """Keep a version like another but for some thresholds. It decides nothing yet."""
    kept = _workshop(index).change(version, name, dict(map(_number, values)))
    show(f"{kept.name} is kept; `estuaire rules try {kept.name}` says what it would change")


@rules.command("try")
def rules_try(
    version: Version,
    examples: Annotated[int, typer.Option(min=0, help="So many pairs of each kind of change.")] = 3,
    index: Index = None,
    as_json: Annotated[bool, typer.Option("--json", help="Only the JSON object.")] = False,
) -> None:
    """Run a version over a copy of the index, and say what it would change. Nothing is changed."""
    import msgspec

    from estuaire.rules import described

    workshop = _workshop(index)
    with bar() as progress:
        task = progress.add_task("searching", total=None)
        trial = workshop.attempt(version, examples, lambda done, of: progress.update(task, completed=done, total=of))
    show(msgspec.json.encode(trial).decode() if as_json else described(trial))


@rules.command("switch")
def rules_switch(version: Version, linkage: LinkageUrl = LINKAGE, token: Token = None) -> None:
    """Let a version decide from now on, and wait until the index has followed. (Ctrl-C ends the waiting alone.)"""
    with bar() as progress:
        task = progress.add_task("searching again", total=100)
        _switchboard(linkage, token).switch(version, lambda share: progress.update(task, completed=100 * share))
    show(f"{version} decides")


def _switchboard(linkage: str, token: str | None) -> Switchboard:
    from estuaire.keyring import OPERATOR
    from estuaire.rules import Switchboard

    return Switchboard(linkage, token or local_token("operators", OPERATOR))


def _workshop(index: str | None) -> Workshop:
    from estuaire.rules import Workshop, index_url

    return Workshop(index or index_url(home_folder()))


def _steward(linkage: str, token: str | None) -> Stewardship:
    from estuaire.keyring import STEWARD
    from estuaire.reviews import Stewardship

    return Stewardship(linkage, token or local_token("stewards", STEWARD))


def _number(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        from estuaire.client import SendError

        raise SendError(f"{text}: write a threshold and a number, such as link=2.5") from None


def _try_to_write(path: Path) -> None:
    """Say before the work that a file cannot be written, and leave nothing behind."""
    there = path.exists()
    path.open("ab").close()
    if not there:
        path.unlink()
