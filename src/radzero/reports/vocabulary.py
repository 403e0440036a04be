"""The rules engine's words: findings, anatomy and cues, from YAML files that a radiologist can edit."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent / "data"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Anatomy:
    """What the vocabulary knows of a structure.

    Attributes:
        name: its key.
        site: how it is written as a location; "" when it is none.
        side: side that its terms imply, or "".
        normal: findings that "the X is normal" denies.
        abnormality: finding that "no abnormality of the X" denies, or "".
        becomes: property -> the finding that "the X is <property>" states.
    """

    name: str
    site: str
    side: str
    normal: tuple[str, ...]
    abnormality: str
    becomes: dict[str, str]


@dataclass(frozen=True)
class Meaning:
    """One thing that a term can mean.

    Attributes:
        kind: "finding", "anatomy", "property", "side", "descriptor" or a cue's name.
        value: which of its kind.
    """

    kind: str
    value: str


@dataclass
class _Node:
    children: dict[str, "_Node"] = field(default_factory=dict)
    meanings: tuple[Meaning, ...] = ()


_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?|\d+(?:\.\d+)?")
_SIDES = {
    "left": ("left", "left sided", "left side", "left hand"),
    "right": ("right", "right sided", "right side"),
    "bilateral": (
        "bilateral",
        "bilaterally",
        "both",
        "both side",
        "right and left",
        "left and right",
        "bilateral right greater than left",
        "bilateral left greater than right",
        "right greater than left",
        "left greater than right",
        "right and the left",
    ),
}


@lru_cache(maxsize=65536)
def singular(word: str) -> str:
    """A lower-case word without its plural ending, and with American spelling; the same rule for terms and texts."""
    word = word.removesuffix("'s")
    word = word.replace("oedema", "edema").replace("haemo", "hemo").replace("tumour", "tumor")
    if len(word) <= 3 or word.endswith(("ss", "us", "is")) or word in ("gas", "pancreas"):
        return word
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "xes", "shes", "ches")):
        return word[:-2]
    return word[:-1] if word.endswith("s") else word


_IRREGULAR = {
    "bases": "base", "apices": "apex", "atelectases": "atelectasis", "metastases": "metastasis", "bullae": "bulla",
    "pneumothoraces": "pneumothorax", "pneumothoracies": "pneumothorax", "pneumothoracices": "pneumothorax",
    "hila": "hilum", "hili": "hilum", "hilus": "hilum", "vertebrae": "vertebra", "diagnoses": "diagnosis",
    "prostheses": "prosthesis", "sulci": "sulcus", "axillae": "axilla", "scapulae": "scapula", "lungs": "lung",
    "processes": "process", "biapices": "apex", "foci": "focus", "pleurae": "pleura", "granulomata": "granuloma",
    "opacites": "opacity", "opacties": "opacity", "consolidations": "consolidation", "hemithoraces": "hemithorax",
    "diaphgram": "diaphragm", "cardiomediastinal": "cardiomediastinal", "effusi": "effusion", "neoplasms": "neoplasm",
    "bronchi": "bronchus",
}  # fmt: skip


def words_of(text: str) -> list[str]:
    """Words as terms are compared: lower case, singular, hyphens and punctuation gone."""
    return [singular(word) for word in _WORD.findall(text.lower())]


class Vocabulary:
    """Findings, anatomy and cues, ready to be looked for.

    Args:
        vocabulary, cues: YAML files; None for those of the package.

    Raises:
        ValueError: when a file cannot be read as such, naming the file and the entry.
    """

    def __init__(self, vocabulary: Path | None = None, cues: Path | None = None) -> None:
        vocabulary, cues = vocabulary or FOLDER / "vocabulary.yaml", cues or FOLDER / "cues.yaml"
        content, cue_content = _read(vocabulary), _read(cues)
        self.hash = hashlib.sha256(vocabulary.read_bytes() + cues.read_bytes()).hexdigest()[:12]
        self.findings: dict[str, tuple[str, ...]] = {
            str(name): (str(name), *map(str, terms or ())) for name, terms in content["findings"].items()
        }
        self.anatomy = {name: _anatomy(name, entry) for name, entry in content["anatomy"].items()}
        self.narrower: dict[str, dict[str, str]] = {
            k: dict(v or {}) for k, v in (content.get("narrower") or {}).items()
        }
        self.silent = {k: frozenset(v) for k, v in (content.get("silent") or {}).items()}
        self.unlocated = frozenset(content.get("unlocated") or ())
        self.explanations = frozenset(content.get("explanations") or ())
        self._root = _Node()
        self._names: dict[tuple[str, ...], str] = {}
        for name, terms in self.findings.items():
            for term in terms:
                self._add(term, Meaning("finding", name))
                self._names[tuple(words_of(term))] = name
        for name, entry in content["anatomy"].items():
            for term in entry["terms"]:
                self._add(str(term), Meaning("anatomy", name))
        for name, terms in content["properties"].items():
            for term in (name, *(terms or ())):
                self._add(str(term), Meaning("property", name))
        for side, terms in _SIDES.items():
            for term in terms:
                self._add(term, Meaning("side", side))
        from radzero.reports.sentences import DESCRIPTORS

        for descriptor in DESCRIPTORS:
            self._add(descriptor, Meaning("descriptor", descriptor))
        for kind, terms in cue_content.items():
            for term in terms:
                self._add(str(term), Meaning(kind, str(term)))
        self._check(vocabulary)

    def canonical(self, finding: str) -> str:
        """The vocabulary's name of a finding, or the phrase itself when it has none."""
        return self._names.get(tuple(words_of(finding)), finding)

    def longest(self, words: Sequence[str], start: int) -> tuple[int, tuple[Meaning, ...]]:
        """End and meanings of the longest term that begins at ``start``; ``(start, ())`` when none does."""
        node, end = self._root, start
        meanings: tuple[Meaning, ...] = ()
        for position in range(start, len(words)):
            child = node.children.get(words[position])
            if child is None:
                break
            node = child
            if node.meanings:
                end, meanings = position + 1, node.meanings
        return end, meanings

    def _add(self, term: str, meaning: Meaning) -> None:
        words = words_of(term)
        if not words:
            raise ValueError(f"vocabulary: the term {term!r} has no word")
        node = self._root
        for word in words:
            node = node.children.setdefault(word, _Node())
        if meaning not in node.meanings:
            node.meanings = (*node.meanings, meaning)

    def _check(self, path: Path) -> None:
        mentioned: Iterable[tuple[str, str]] = (
            *(
                (a.name, n)
                for a in self.anatomy.values()
                for n in (*a.normal, *a.becomes.values(), *filter(None, (a.abnormality,)))
            ),
            *((k, n) for k, v in self.narrower.items() for n in v.values()),
            *(("silent", n) for n in self.silent),
            *(("unlocated", n) for n in self.unlocated),
            *(("explanations", n) for n in self.explanations),
        )
        for where, name in mentioned:
            if name not in self.findings:
                raise ValueError(f"{path}: {where}: {name!r} is not among the findings")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a YAML file: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a mapping at the top")
    return content


def _anatomy(name: str, entry: dict[str, Any]) -> Anatomy:
    return Anatomy(
        name,
        entry.get("site", ""),
        entry.get("side", ""),
        tuple(entry.get("normal") or ()),
        entry.get("abnormality", ""),
        dict(entry.get("becomes") or {}),
    )
