"""The rules engine beside blank spaCy with negspacy, over the same words, on the gold set's development half.

In an environment that has ``pip install spacy negspacy`` beside radzero::

    python benchmarks/negation_libraries.py NLMCXR_reports.tgz

Prints, for each: reports per second of one core, F1 of (report, finding, denied or not), and of the findings that both
the engine and the gold set have in a report, the share that is rightly denied or not. negspacy knows no doubt, so
affirmed and uncertain count as one here.
"""

import sys
import time
from pathlib import Path

import spacy
import yaml
from negspacy.negation import Negex  # noqa: F401 (registers the component)
from negspacy.termsets import termset

from radzero.reports.gold import GoldSet, by_finding
from radzero.reports.rules import RulesEngine
from radzero.reports.sentences import Polarity
from radzero.reports.vocabulary import FOLDER

Stated = list[set[tuple[str, bool]]]
"""Per report: findings and whether they are denied."""


def main(inputs: list[Path]) -> None:
    gold, rules = GoldSet.open_i(inputs, "development"), RulesEngine()
    words = rules.vocabulary
    wanted = [{(f, p is Polarity.NEGATED) for f, p in by_finding(stated, words)} for stated in gold.stated]

    started = time.process_time()
    extracted = [rules.extract(report).sentences for report in gold.reports]
    rate = len(extracted) / (time.process_time() - started)
    ours = [{(f, p is Polarity.NEGATED) for f, p in by_finding(sentences, words)} for sentences in extracted]
    show("rules engine", rate, ours, wanted)

    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    ruler = nlp.add_pipe("entity_ruler", config={"phrase_matcher_attr": "LOWER"})
    terms = yaml.safe_load((FOLDER / "vocabulary.yaml").read_text(encoding="utf-8"))["findings"]
    ruler.add_patterns(
        [
            {"label": "FINDING", "pattern": word, "id": name}
            for name, others in terms.items()
            for term in (name, *(others or ()))
            for word in (term, term + "s")
        ]
    )
    patterns = termset("en_clinical").get_patterns()
    nlp.add_pipe("negex", config={"ent_types": ["FINDING"], "neg_termset": patterns})
    texts = [" ".join(section.text for section in report.film_sections) for report in gold.reports]
    started = time.process_time()
    docs = [nlp(text) for text in texts]
    rate = len(docs) / (time.process_time() - started)
    theirs = [{(words.canonical(e.ent_id_), bool(e._.negex)) for e in doc.ents} for doc in docs]
    show("blank spaCy, negspacy", rate, theirs, wanted)


def show(name: str, rate: float, given: Stated, wanted: Stated) -> None:
    found = sum(len(g & w) for g, w in zip(given, wanted, strict=True))
    wrong = sum(len(g ^ w) for g, w in zip(given, wanted, strict=True))
    same = both = 0
    for g, w in zip(given, wanted, strict=True):
        for finding in {f for f, _ in g} & {f for f, _ in w}:
            both += 1
            same += {d for f, d in g if f == finding} == {d for f, d in w if f == finding}
    print(
        f"{name}: {rate:.0f} reports/s, F1 {2 * found / (2 * found + wrong):.3f}, polarity {same / both:.3f} of {both}"
    )


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
