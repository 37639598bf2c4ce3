"""An evaluation as a page: one HTML file that needs nothing else, the curve a picture, misses with what was seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from math import log2
from string import Template

import msgspec

from estuaire.chart import draw, signed
from estuaire.evaluation import RELATIVE, Evaluation, Point, Tally, Truth
from estuaire.explanation import Step, in_words
from estuaire.link import Linked, Name
from services.linkage.domain.comparison import LEVELS
from services.linkage.domain.decide import SCORED, Decision
from services.linkage.domain.rules import RuleVersion

Explained = Mapping[tuple[Name, Name], Sequence[Step]]


@dataclass(frozen=True, slots=True)
class Report:
    """What a page shows: how a file was linked, how right that is, the curve, and the steps between missed pairs."""

    file: str
    linked: Linked
    found: Evaluation
    truth: Mapping[Name, Truth]
    curve: Sequence[Point]
    explained: Explained


def render(report: Report) -> str:
    """The page. Names records by source, id and event id; holds no identity."""
    rules = report.linked.rules
    template = Template((files("estuaire") / "report.html").read_text(encoding="utf-8"))
    return template.substitute(
        file=escape(report.file),
        rules=escape(rules.name),
        tiles=_tiles(report.found, report.linked.seconds),
        traps=_traps(report.found),
        relatives=_relatives(report.found),
        curve=_curve(report.curve),
        review=f"{rules.review:g}",
        points=_points(report.curve),
        wrong=_misses(report, report.found.wrong),
        missed=_misses(report, report.found.missed),
        weights=_weights(rules),
        settings=_settings(rules),
    )


def _tiles(found: Evaluation, seconds: float) -> str:
    overall = found.overall
    said = {
        "precision": f"{overall.precision:.4f}",
        "recall": f"{overall.recall:.4f}",
        "F1": f"{overall.f1:.4f}",
        "records": f"{found.records:,}",
        "patients": f"{found.patients:,}",
        "wrong pairs": f"{overall.found - overall.both:,}",
        "missed pairs": f"{overall.true - overall.both:,}",
        "to link them": f"{seconds:.1f} s",
    }
    return "".join(f'<div class="tile"><b>{value}</b>{name}</div>' for name, value in said.items())


def _traps(found: Evaluation) -> str:
    traps = {trap: one for trap, one in found.by_trap.items() if not trap.startswith(RELATIVE)}
    rows = [_figures(label, one) for label, one in (("all", found.overall), *traps.items())]
    return _table(("", "pairs", "wrong", "missed", "precision", "recall", "F1"), rows, whole_first=True)


def _relatives(found: Evaluation) -> str:
    rows = [
        (
            *_figures(relation, found.by_trap.get(f"{RELATIVE}{relation}", Tally())),
            f"{records:,}",
            f"{merged:,}",
            f"{merged / records:.2%}",
        )
        for relation, (records, merged) in found.with_relative.items()
    ]
    headings = ("", "pairs", "wrong", "missed", "precision", "recall", "F1", "records", "with the other", "share")
    return _table(headings, rows)


def _figures(label: str, one: Tally) -> tuple[str, ...]:
    counts = (one.true, one.found - one.both, one.true - one.both)
    shares = (one.precision, one.recall, one.f1)
    return (label, *(f"{count:,}" for count in counts), *(f"{share:.4f}" for share in shares))


def _curve(points: Sequence[Point]) -> str:
    series = {
        "precision": [one.tally.precision for one in points],
        "recall": [one.tally.recall for one in points],
        "F1": [one.tally.f1 for one in points],
    }
    return draw([one.bits for one in points], series)


def _points(points: Iterable[Point]) -> str:
    rows = [_figures(signed(one.bits), one.tally) for one in points]
    return _table(("bits", "pairs", "wrong", "missed", "precision", "recall", "F1"), rows)


def _misses(report: Report, pairs: Sequence[tuple[Name, Name]]) -> str:
    if not pairs:
        return '<p class="soft">None.</p>'
    return "".join(_miss(report, one, other) for one, other in pairs)


def _miss(report: Report, one: Name, other: Name) -> str:
    labels = sorted({*report.truth[one].traps, *report.truth[other].traps})
    steps = report.explained[one, other]
    whole = "<p>Both records give the very same identity.</p>" if not steps else ""
    return (
        f'<div class="miss"><table>{_record(report, one)}{_record(report, other)}</table>'
        f'<p class="soft">{escape(", ".join(labels)) or "no label"}</p>'
        f"{whole}{''.join(_step(step, alone=len(steps) == 1) for step in steps)}</div>"
    )


def _record(report: Report, name: Name) -> str:
    cells = (name.source, name.id, report.linked.events[name])
    return f"<tr>{''.join(f'<td><code>{escape(cell)}</code></td>' for cell in cells)}</tr>"


def _step(step: Step, alone: bool) -> str:
    between = "" if alone else f"<code>{escape(step.one.id)}</code> and <code>{escape(step.other.id)}</code>: "
    seen = "" if step.decided is None else _seen(step.decided.decision)
    return f'<div class="step">{between}{escape(in_words(step.decided))}<div>{seen}</div></div>'


def _seen(decision: Decision) -> str:
    """The weight, where there is one, and how alike the traits are."""
    said = [f'<span class="trait">{decision.weight:+.1f} bits</span>'] if decision.rank >= SCORED else []
    for trait in (trait for trait in LEVELS if trait in decision.evidence):
        value = decision.evidence[trait]
        word = {1.0: "same", 0.0: "another"}.get(value, "near")
        label = word if word != "near" else f"{value:g}"
        said.append(f'<span class="trait {word}">{trait.replace("_", " ")} {label}</span>')
    return "".join(said)


def _weights(rules: RuleVersion) -> str:
    weights = rules.weights
    rows = []
    for trait, levels in LEVELS.items():
        for place, level in enumerate(levels):
            m, u = weights.one[trait][place], weights.strangers_by_trait[trait][place]
            chances = (m, weights.household[trait][place], weights.twins[trait][place], u)
            label = "" if place else trait.replace("_", " ")
            rows.append((label, f"{level:g}", *(f"{chance:.3g}" for chance in chances), f"{log2(m / u):+.1f}"))
    return _table(("trait", "level", "m", "relatives", "twins", "u", "log₂ m/u"), rows)


def _settings(rules: RuleVersion) -> str:
    """Every number of the rules that is no trait's; of tokens only how many there are."""
    own = msgspec.structs.asdict(rules)
    weights = msgspec.structs.asdict(rules.weights)
    rows = [
        (name.replace("_", " "), ", ".join(f"{one:g}" for one in value) if isinstance(value, tuple) else f"{value:g}")
        for name, value in (*weights.items(), *own.items())
        if isinstance(value, int | float | tuple)
    ]
    rows.append(("frequent names", str(len(rules.weights.frequent_names))))
    rows.append(("too common tokens", str(len(rules.too_common))))
    return _table(("", ""), rows)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]], whole_first: bool = False) -> str:
    """Rows of text; the first row stands out if it is the whole of the others."""
    head = f"<tr>{''.join(f'<th>{escape(one)}</th>' for one in headings)}</tr>" if any(headings) else ""
    body = []
    for number, row in enumerate(rows):
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in row)
        body.append(f'<tr class="all">{cells}</tr>' if whole_first and number == 0 else f"<tr>{cells}</tr>")
    return f"<table>{head}{''.join(body)}</table>"
