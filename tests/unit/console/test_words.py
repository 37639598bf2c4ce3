"""Everything that the console says, it says in French and in English."""

from __future__ import annotations

import re
import string
from importlib.resources import files
from pathlib import Path
from typing import get_args

import pytest

from contracts import audit, measures, requests
from contracts.events import IdentityStatus
from contracts.projects import ACTS, Call
from services.console.domain.board import COLUMNS, ROLES
from services.console.domain.forms import Field, Form
from services.console.domain.pairs import TRAITS
from services.console.menu import MENU
from services.console.wording import LANGUAGES, Words, breakable, catalogue, preferred
from services.ingest.domain import refusals
from services.linkage.domain.comparison import LEVELS
from services.linkage.domain.decide import METHODS
from services.linkage.domain.opinions import Opines
from services.linkage.domain.patients import SILENT
from services.linkage.domain.tokens import SYSTEMS

pytestmark = pytest.mark.unit

FAMILIES = {
    "about",
    "about-reason",
    "act",
    "actor",
    "alarm",
    "birth",
    "choice",
    "column",
    "demographic",
    "detail",
    "did",
    "dry-run",
    "due",
    "entry",
    "field",
    "flag",
    "health",
    "hint",
    "lateness",
    "likeness",
    "method",
    "why",
    "numbers",
    "pair",
    "potential",
    "problem-status",
    "problem-text",
    "reason",
    "refusal",
    "request-about",
    "request-act",
    "request-kind",
    "request-standing",
    "role",
    "said",
    "says",
    "seal",
    "selection",
    "signing",
    "sending",
    "sign-in",
    "span",
    "standing",
    "state",
    "status",
    "step",
    "stop",
    "system",
    "trait",
}
"""Names that templates make of what they show."""


TOKENS = (files("services.linkage.domain") / "tokens.py").read_text()


def templates() -> str:
    folder = files("services.console") / "templates"
    return "\n".join(one.read_text() for one in folder.iterdir())


def fields(found: tuple[Field, ...]) -> list[Field]:
    below = [inner for one in found for inner in (*one.fields, *(field for row in one.rows for field in row))]
    return [*found, *(fields(tuple(below)) if below else [])]


def test_every_name_is_in_every_language_with_the_same_blanks() -> None:
    for name, said in catalogue().items():
        assert said.keys() == LANGUAGES.keys(), name
        blanks = {tuple(sorted(str(part[1]) for part in string.Formatter().parse(one))) for one in said.values()}
        assert len(blanks) == 1 or all(set(one) <= {"None"} for one in blanks), name


def test_every_name_that_a_template_says_is_there_and_no_name_is_idle() -> None:
    said = set(re.findall(r'\bt(?:\.knows)?\(["\']([\w.\- ]+)["\'](?!\s*~)', templates())) | {one.word for one in MENU}
    assert not said - catalogue().keys()
    idle = {name for name in catalogue().keys() - said if name.partition(".")[0] not in FAMILIES | {"months"}}
    assert not idle


def test_whatever_contracts_have_a_form_for_has_words() -> None:
    words = Words("fr")
    wanted = {f"act.{act}" for act in ACTS} | {f"standing.{one}" for one in COLUMNS}
    wanted |= {f"actor.{one}" for one in ROLES.values()} | {f"role.{one}" for one in ROLES}
    for act in ACTS.values():
        given = {f"{name}.rows": ["1"] for name in ("themes", "criteria", "contributions")}
        for one in fields(Form(act.says, given).fields):
            wanted.add(f"field.{one.name}")
            wanted |= {f"choice.{one.name}.{value}" for value in one.choices}
    wanted |= {f"did.{act}" for act in audit.ACTS}
    wanted |= {f"{family}.{act}" for act in requests.ACTS for family in ("request-act", "request-about")}
    wanted |= {f"choice.ground.{ground}" for grounds in requests.GROUNDS.values() for ground in grounds}
    wanted |= {f"likeness.{trait}.p{round(level * 100)}" for trait in TRAITS for level in LEVELS[trait]} | {
        f"trait.{one}" for one in LEVELS
    }
    wanted |= {f"system.{one}" for one in SYSTEMS} | {f"status.{one}" for one in get_args(IdentityStatus)}
    wanted |= {f"says.{one}" for one in get_args(Opines)}
    assert not {name for name in wanted if not words.knows(name)}
    assert {"weight", "accompanied_months"} <= {name.removeprefix("field.") for name in wanted} | set(Call.model_fields)


def test_every_sentence_of_linkage_on_a_pair_is_known_in_french() -> None:
    words, english = Words("fr"), Words("en")
    source = "".join((files("services.linkage.domain") / f"{name}.py").read_text() for name in ("decide", "patients"))
    guards = set(re.findall(r'^_?[A-Z_]+: Final = "([a-z][^"]+ [^"]+)"$', source, re.MULTILINE)) - set(SILENT)
    said = [*re.findall(r'Outcome\.REVIEW, f?"([^"]+)"', source), *guards, "alike, but not enough to be sure"]
    said += [
        f"{one}, but the same {{system}}" for one in re.findall(r'return (?:None if .+ else )?"(two [^"]+)"', TOKENS)
    ]
    sentences = {one.replace("{system}", "ins-nir") for one in said if one}
    assert len(sentences) >= 10
    assert not {one for one in sentences if words.sentence("why", one) is None}
    assert not {one for one in METHODS.values() if words.sentence("method", one) in (None, one)}
    contradicted = "the same ipp, but no trait agrees"
    assert words.sentence("why", contradicted) == "le même numéro d’un hôpital (IPP), mais aucun trait ne concorde"
    assert english.sentence("why", contradicted) == "the same number of a hospital, but no trait agrees"
    assert (
        words.sentence("why", "the same ins-nir, but no trait agrees")
        == "le même NIR (INS), mais aucun trait ne concorde"
    )
    assert words.sentence("why", "something new") is None


def test_every_detail_of_a_dead_letter_is_known_in_french() -> None:
    words = Words("fr")
    said = {one for name in STEPS for one in details(name)} - {"refused.title", "why"}
    assert len(said) > 25
    assert not {one for one in said if words.sentence("detail", one) is None}
    assert (
        words.sentence("detail", "header ce_id is missing or not text")
        == "l’en-tête ce_id manque ou n’est pas du texte"
    )
    assert words.sentence("detail", "something new") is None


STEPS = ("runtime", "services.pseudonym", "services.linkage", "services.access")


def details(package: str) -> list[str]:
    """What is said of dead letters, with something in each blank."""
    broken = "not a sealed body of version 1"
    sources = [one.read_text() for one in files(package).iterdir() if one.name.endswith(".py")]
    found = [re.findall(r'InvalidMessage\(\s*Reason\.[A-Z]+, f?"([^"]+)"', one) for one in sources]
    return [one.replace("{broken}", broken).replace("{name}", "a-name") for part in found for one in part]


def test_whatever_is_counted_has_words() -> None:
    words = Words("fr")
    wanted = {f"column.{one.rpartition('.')[2]}" for one in (*measures.fields(), *measures.IDENTITY_FIELDS)}
    wanted |= {f"system.{one}" for one in measures.SYSTEMS}
    ingest = "".join(one.read_text() for one in Path(str(files("services.ingest"))).rglob("*.py"))
    pattern = r'(?:Refusal|refusing|InvalidIdentity)\(\s*"([a-z0-9-]+)"'
    reasons = {*re.findall(pattern, ingest), *refusals._REASONS.values()}
    assert len(reasons) > 25
    wanted |= {f"refusal.{one}" for one in reasons}
    assert not {name for name in wanted if not words.knows(name)}


def test_the_consoles_own_problems_are_in_french() -> None:
    words = Words("fr")
    console = "".join(one.read_text() for one in files("services.console").iterdir() if one.name.endswith(".py"))
    own = re.findall(r'(?:ProblemError|Refusal)\(\s*\d{3}, f?"([^"]+)"(?:, f?"([^"]+)")?', console)
    said = {re.sub(r"\{[^}]*\}", "access", one) for pair in own for one in pair if one}
    assert len(said) > 15
    assert not {one for one in said if words.sentence("problem-text", one) is None}
    assert words.sentence("problem-text", "This is for: officer, operator.") == (
        "Réservé aux rôles\u00a0: responsable de la gouvernance, exploitant."
    )
    assert words.sentence("problem-text", "query.to: date_parsing") == "query.to\u00a0: ce n’est pas une date"
    assert words.sentence("problem-text", "This is for: nobody.") is None, "what is no role fills no blank for one"


def test_whatever_keeps_the_audit_log_from_being_signed_is_known_in_french() -> None:
    source = (files("services.audit") / "adapters.py").read_text()
    (changed,) = re.findall(r'_complain\(f"([^"]+)\{why\}"\)', source)
    (late,) = re.findall(r'_complain\(f"([^"]+) \(\{', source)
    whys = {re.sub(r"\{[^}]*\}", "41", one) for one in re.findall(r'(?:Distrust|NodesMissing)\(f?"([^"]+)"', source)}
    assert len(whys) == 3
    said = [f"{late} (OSError)", *(changed + why for why in whys)]
    assert not {one for one in said if Words("fr").sentence("signing", one) is None}


def test_what_has_no_words_is_said_by_its_name() -> None:
    assert Words("fr")("act.put-on-ice") == "Put on ice"


@pytest.mark.parametrize(
    ("accept", "language"),
    [
        ("", "en"),
        ("fr-FR,fr;q=0.9,en;q=0.8", "fr"),
        ("de, en;q=0.5, fr;q=0.7", "fr"),
        ("de", "en"),
        ("fr;q=x, en;q=0.1", "en"),
    ],
)
def test_the_language_is_the_browsers(accept: str, language: str) -> None:
    assert preferred(accept) == language


def test_days_moments_and_numbers_are_written_as_people_do() -> None:
    english, french = Words("en"), Words("fr")
    assert (english.day("2026-02-02"), french.day("2026-02-02")) == ("2 February 2026", "2 février 2026")
    assert (english.day("2026-03-01"), french.day("2026-03-01")) == ("1 March 2026", "1er mars 2026")
    assert english.day("soon") == "soon"
    assert french.instant("2026-07-01T22:30:00.25+00:00") == "2 juillet 2026, 00:30:00,250"
    assert breakable("urn:estuaire:producer:a") == ["urn:estuaire:", "producer:", "a"]
    assert french("layout.of", name="a", said="b") == "a\u00a0: b", "no line begins with a colon"
    assert french.moment("2026-07-01T22:30:00+00:00") == "2 juillet 2026, 00:30"
    assert (english.number(12345), french.number(12345)) == ("12,345", "12\u202f345")
    assert (english.share(0.123), french.share(0.123)) == ("12.3%", "12,3\u202f%")
