"""Load the rules engine's words (findings, anatomy and cues) from YAML files that a radiologist can edit."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from radzero.reports.sentences import DESCRIPTORS, FindingSentence, InvalidSentenceError, Polarity

FOLDER = Path(__file__).parent / "data"
_ADVERBS = {
    "mildly": "mild", "slightly": "mild", "minimally": "minimal", "moderately": "moderate", "markedly": "marked",
    "severely": "severe", "massively": "massive", "diffusely": "diffuse", "slight": "mild",
}  # fmt: skip
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Anatomy:
    """A structure, as the vocabulary describes it.

    Attributes:
        name: key of the structure.
        site: words for the structure as a location; "" when it is not used as one.
        side: side that its terms imply, or "".
        midline: whether the body has only one of it.
        normal: findings that "the X is normal" denies.
        abnormality: finding that "no abnormality of the X" denies, or "".
        becomes: property -> the finding that "the X is <property>" states.
    """

    name: str
    site: str
    side: str
    midline: bool
    normal: tuple[str, ...]
    abnormality: str
    becomes: dict[str, str]


@dataclass(frozen=True)
class Meaning:
    """One thing that a term can mean.

    Attributes:
        kind: "finding", "anatomy", "property", "side", "descriptor" or a cue's name.
        value: name of the finding, structure, property, side or descriptor; for a cue, its term.
    """

    kind: str
    value: str


@dataclass
class _Node:
    children: dict[str, "_Node"] = field(default_factory=dict)
    meanings: tuple[Meaning, ...] = ()


_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?|\d+(?:\.\d+)?")
_SIDES = {
    "left": ("left", "left sided", "left side", "left hand", "l"),
    "right": ("right", "right sided", "right side", "r"),
    "bilateral": (
        "bilateral",
        "bilaterally",
        "both",
        "both side",
        "right and left",
        "left and right",
        *(
            f"{both}{one} {greater} than {other}"
            for both in ("", "bilateral ")
            for one, other in (("left", "right"), ("right", "left"))
            for greater in ("greater", "larger", "worse", "more")
        ),
        "right and the left",
    ),
}


@lru_cache(maxsize=65536)
def singular(word: str) -> str:
    """Return a lower-case word in singular and American spelling; the rule is the same for terms and texts."""
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
    "hila": "hilum", "hili": "hilum", "vertebrae": "vertebra", "diagnoses": "diagnosis", "prostheses": "prosthesis",
    "sulci": "sulcus", "axillae": "axilla", "scapulae": "scapula", "foci": "focus", "pleurae": "pleura",
    "granulomata": "granuloma", "hemithoraces": "hemithorax", "bronchi": "bronchus", "opacites": "opacity",
    "opacties": "opacity", "diaphgram": "diaphragm",
}  # fmt: skip


def words_of(text: str) -> list[str]:
    """Return the words of a text as terms are compared: lower case, singular, without hyphens and punctuation."""
    return [singular(word) for word in _WORD.findall(text.lower())]


class Vocabulary:
    """Findings, anatomy and cues, indexed so that a text can be searched for them.

    Args:
        vocabulary, cues: YAML files; None for those of the package.

    Raises:
        ValueError: when a file is not as it should be; the message names the file and the entry.
    """

    def __init__(self, vocabulary: Path | None = None, cues: Path | None = None) -> None:
        vocabulary, cues = vocabulary or FOLDER / "vocabulary.yaml", cues or FOLDER / "cues.yaml"
        content = _read(vocabulary, _REQUIRED, _OPTIONAL)
        cue_content = _read(cues, _CUES)
        self.hash = hashlib.sha256(vocabulary.read_bytes() + cues.read_bytes()).hexdigest()[:12]
        self.findings = {name: (name, *_terms(vocabulary, name, terms)) for name, terms in content["findings"].items()}
        entries = {name: _mapping(vocabulary, name, entry) for name, entry in content["anatomy"].items()}
        properties = {name: (name, *_terms(vocabulary, name, t)) for name, t in content["properties"].items()}
        self.anatomy = {name: _anatomy(vocabulary, name, entry) for name, entry in entries.items()}
        self.narrower = {k: _mapping(vocabulary, k, v) for k, v in content["narrower"].items()}
        self.silent = {k: frozenset(_terms(vocabulary, k, v)) for k, v in content["silent"].items()}
        self.unlocated = frozenset(_terms(vocabulary, "unlocated", content["unlocated"]))
        self.explanations = frozenset(_terms(vocabulary, "explanations", content["explanations"]))
        self.devices = frozenset(_terms(vocabulary, "devices", content["devices"]))
        self._root = _Node()
        self._names: dict[tuple[str, ...], str] = {}
        for name, terms in self.findings.items():
            for term in terms:
                self._add(vocabulary, term, Meaning("finding", name))
                if self._names.setdefault(tuple(words_of(term)), name) != name:
                    raise ValueError(f"{vocabulary}: {name}: {term!r} is also a term of another finding")
        for name, entry in entries.items():
            for term in _terms(vocabulary, name, entry.get("terms")):
                self._add(vocabulary, term, Meaning("anatomy", name))
        for name, terms in properties.items():
            for term in terms:
                self._add(vocabulary, term, Meaning("property", name))
        for side, terms in _SIDES.items():
            for term in terms:
                self._add(vocabulary, term, Meaning("side", side))
        for term, descriptor in (*zip(DESCRIPTORS, DESCRIPTORS, strict=True), *_ADVERBS.items()):
            self._add(vocabulary, term, Meaning("descriptor", descriptor))
        for kind, listed in cue_content.items():
            for term in _terms(cues, kind, listed):
                self._add(cues, term, Meaning(kind, term))
        self._check(vocabulary, properties)

    def canonical(self, finding: str) -> str:
        """Return the vocabulary's name of a finding, or the phrase itself when the vocabulary has none."""
        return self._names.get(tuple(words_of(finding)), finding)

    def longest(self, words: Sequence[str], start: int) -> tuple[int, tuple[Meaning, ...]]:
        """Return end and meanings of the longest term that begins at ``start``; ``(start, ())`` when none does."""
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

    def _add(self, path: Path, term: str, meaning: Meaning) -> None:
        words = words_of(term)
        if not words:
            raise ValueError(f"{path}: {meaning.value}: the term {term!r} has no word")
        node = self._root
        for word in words:
            node = node.children.setdefault(word, _Node())
        if meaning not in node.meanings:
            node.meanings = (*node.meanings, meaning)

    def _check(self, path: Path, properties: Iterable[str]) -> None:
        """Check that every name that an entry mentions exists, and that every finding and site fits into a sentence."""
        known = {
            "findings": frozenset(self.findings),
            "anatomy": frozenset(self.anatomy),
            "properties": frozenset(properties),
        }
        mentioned = (
            *((a.name, "findings", n) for a in self.anatomy.values() for n in (*a.normal, *a.becomes.values())),
            *((a.name, "findings", a.abnormality) for a in self.anatomy.values() if a.abnormality),
            *((a.name, "properties", n) for a in self.anatomy.values() for n in a.becomes),
            *(("narrower", "findings", n) for k, v in self.narrower.items() for n in (k, *v.values())),
            *((k, "anatomy", n) for k, v in (*self.narrower.items(), *self.silent.items()) for n in v),
            *(("silent", "findings", n) for n in self.silent),
            *(("unlocated", "findings", n) for n in sorted(self.unlocated)),
            *(("explanations", "findings", n) for n in sorted(self.explanations)),
            *(("devices", "findings", n) for n in sorted(self.devices)),
        )
        for where, kind, name in mentioned:
            if not isinstance(name, str) or name not in known[kind]:
                raise ValueError(f"{path}: {where}: {name!r} is not among the {kind}")
        sites = ((a.name, next(iter(self.findings), "opacity"), a.site, a.side) for a in self.anatomy.values())
        for where, finding, site, side in (*((name, name, "", "") for name in self.findings), *sites):
            try:
                FindingSentence(Polarity.AFFIRMED, finding, (), side, site)
            except InvalidSentenceError as error:
                raise ValueError(f"{path}: {where}: {error}") from error


_REQUIRED = ("findings", "anatomy", "properties")
_OPTIONAL = ("narrower", "silent", "unlocated", "explanations", "devices")
_ANATOMY = ("terms", "site", "side", "midline", "normal", "abnormality", "becomes")
_CUES = (
    "negation", "negation_after", "uncertainty", "uncertainty_after", "certainty", "normal", "generic", "pseudo", "cut",
    "history", "recommendation", "other_film", "show", "verb", "place",
)  # fmt: skip


def _read(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a YAML file: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a mapping at the top")
    if missing := [key for key in required if key not in content]:
        raise ValueError(f"{path}: there is no entry {missing[0]!r}")
    if unknown := [key for key in content if key not in (*required, *optional)]:
        raise ValueError(f"{path}: {unknown[0]!r} is none of {', '.join((*required, *optional))}")
    for key in ("findings", "anatomy", "properties", "narrower", "silent"):
        if key in (*required, *optional):
            content[key] = _mapping(path, key, content.get(key))
    return dict.fromkeys(optional) | content


def _mapping(path: Path, where: str, value: object) -> dict[str, Any]:
    """Return a mapping with words as keys; None, from an entry left empty, gives an empty one."""
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ValueError(f'{path}: {where}: expected a mapping of words (in quotes where YAML knows better: "no")')
    return value


def _terms(path: Path, where: str, value: object) -> tuple[str, ...]:
    """Return a list of words as a tuple; None, from an entry left empty, gives an empty one."""
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(term, str) for term in value):
        raise ValueError(f'{path}: {where}: expected a list of words (in quotes where YAML knows better: "no")')
    return tuple(value)


def _anatomy(path: Path, name: str, entry: dict[str, Any]) -> Anatomy:
    if unknown := [key for key in entry if key not in _ANATOMY]:
        raise ValueError(f"{path}: {name}: {unknown[0]!r} is none of {', '.join(_ANATOMY)}")
    texts = {key: entry.get(key) or "" for key in ("site", "side", "abnormality")}
    if wrong := [key for key, text in texts.items() if not isinstance(text, str)]:
        raise ValueError(f"{path}: {name}: {wrong[0]} is not a word")
    return Anatomy(
        name,
        texts["site"],
        texts["side"],
        bool(entry.get("midline", False)),
        _terms(path, name, entry.get("normal")),
        texts["abnormality"],
        _mapping(path, name, entry.get("becomes")),
    )
