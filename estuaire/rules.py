"""An operator's client for rule versions: propose, change and try them on the index; see and switch them over HTTP."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from rich.table import Table

from estuaire.client import Client, SendError
from estuaire.database import running_database
from runtime.database import Database
from runtime.messages import RetryLater
from services.linkage.adapters import MIGRATIONS, AnotherVersion, SqlPatientIndex, index_conninfo
from services.linkage.domain.rules import RulesError, RuleVersion, changed
from services.linkage.proposals import propose
from services.linkage.shadow import Progress, Trial, TrialRuns, try_rules

PATIENCE = 60.0
"""Seconds until a switch has to hold; the search that follows may take longer."""
NOTHING = "nothing"
"""What is said of a pair that is not kept."""


class Workshop:
    """The index itself, for those who may open its database. All raise SendError."""

    def __init__(self, url: str) -> None:
        try:
            conninfo_to_dict(url)
        except psycopg.ProgrammingError:  # which repeats the text, and so the password
            raise SendError("--index: not of the form postgresql://user:password@host:port/database") from None
        self._url = url

    def propose(self) -> RuleVersion:
        """Estimate the version that fits the index best, starting from the one that decides, and keep it."""
        with self._open() as (index, database):
            with database.transaction():
                active = index.rules()
            # estimated outside a transaction: it takes long, and nobody has to wait for it
            proposed = propose(index, active)
            index.keep(proposed)
            return proposed

    def change(self, base: str, name: str, values: dict[str, float]) -> RuleVersion:
        """Keep a version like another but for some thresholds or limits."""
        with self._open() as (index, database), database.transaction():
            kept = changed(self._found(index, base), name, values)
            index.keep(kept)
            return kept

    def attempt(self, name: str, examples: int, report: Progress) -> Trial:
        """Run a version over a copy of the index, and say what it would change."""
        with self._open() as (index, database), database.transaction():
            rules = self._found(index, name)
        with _in_one_line():
            return try_rules(self._url, rules, examples, report)

    @contextmanager
    def _open(self) -> Iterator[tuple[SqlPatientIndex, Database]]:
        with _in_one_line(), closing(Database(index_conninfo(self._url), MIGRATIONS)) as database:
            yield SqlPatientIndex(database), database

    def _found(self, index: SqlPatientIndex, name: str) -> RuleVersion:
        rules = index.version(name)
        if rules is None:
            raise SendError(f"no rule version {name} is kept; `estuaire rules list` shows those that are")
        return rules


class Switchboard:
    """Linkage over HTTP, with an operator's token. All raise SendError."""

    def __init__(self, url: str, token: str) -> None:
        self._linkage = Client(f"{url}/v1/rules", token)

    def versions(self) -> dict[str, Any]:
        """The version that decides, and all that are kept."""
        found: dict[str, Any] = self._linkage.ask("GET", "")
        return found

    def version(self, name: str) -> dict[str, Any]:
        """What a version says."""
        found: dict[str, Any] = self._linkage.ask("GET", f"/{name}")
        return found

    def switch(self, name: str, report: Callable[[float], None]) -> None:
        """Switch to a version, and wait until all subjects have been searched again under it."""
        switched = dt.datetime.fromisoformat(self._linkage.ask("POST", "", {"name": name})["switched_at"])
        deadline = time.monotonic() + PATIENCE
        while True:
            found = self.versions()
            latest = found["switched_at"] and dt.datetime.fromisoformat(found["switched_at"])
            if latest and latest > switched:
                raise SendError(f"{found['operator']} has switched to {found['active']} since")
            if latest == switched:
                report(found["searched"])
                if found["searched"] >= 1:
                    return
            elif time.monotonic() > deadline:
                raise SendError("the switch is kept, but linkage has not followed it yet: look at `rules list` later")
            time.sleep(0.2)


@contextmanager
def _in_one_line() -> Iterator[None]:
    """What goes wrong with the index as a SendError; of a database's error its kind alone, since its text quotes."""
    try:
        yield
    except RulesError as why:
        raise SendError(str(why)) from None
    except AnotherVersion as name:
        raise SendError(f"there is a rule version {name} with other content: choose another name") from None
    except TrialRuns:
        raise SendError("another trial runs on this index; try again when it is done") from None
    except RetryLater as why:
        raise SendError(f"the index: {why}") from None
    except psycopg.Error as error:
        raise SendError(f"the index: {type(error).__name__}") from None


def index_url(home: Path) -> str:
    """The index of the platform that runs under `home`. Raises StartError."""
    return running_database(home).url("linkage")


def described(trial: Trial) -> str:
    """What a version would change, for a person."""
    lines = [
        f"{trial.rules}, over {trial.subjects:,} subjects:",
        f"  patients       {trial.patients_before:,} now, {trial.patients_after:,} then",
        f"  merged         {trial.merged:,} of the patients then are several now",
        f"  split          {trial.split:,} of the patients now are several then",
        f"  moved          {trial.moved:,} subjects to another patient",
        f"  for stewards   {trial.waiting_before:,} pairs now, {trial.waiting_after:,} then",
    ]
    if trial.turned:
        lines += ["pairs with another outcome:"]
        lines += [f"  {one.before or NOTHING:8} -> {one.after or NOTHING:8} {one.pairs:,}" for one in trial.turned]
    if trial.examples:
        lines += ["some of them (`estuaire review show PAIR` says more of each):"]
    for pair in trial.examples:
        traits = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in pair.evidence.items())
        change = f"{pair.before or NOTHING} -> {pair.after or NOTHING} by {pair.method}"
        lines += [f"  {pair.pair}", f"    {'; '.join(filter(None, (change, traits)))}"]
    return "\n".join(lines if trial.turned else [*lines, "no pair has another outcome"])


def versions_table(found: dict[str, Any]) -> Table:
    """All versions that are kept, with the one that decides and how far the index has followed it."""
    table = Table("version", "kept since", "")
    for one in found["kept"]:
        decides = one["name"] == found["active"]
        table.add_row(one["name"], one["kept_at"][:19], f"decides {_searched(found)}" if decides else "")
    return table


def _searched(found: dict[str, Any]) -> str:
    since = f"since {found['switched_at'][:19]} ({found['operator']})" if found["operator"] else "from the beginning"
    return since + ("" if found["searched"] >= 1 else f"; {found['searched']:.0%} searched again")
