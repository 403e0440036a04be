"""Named finding sets: the findings of the benchmarks, each asked by its prompt, ``There is {finding}``."""

from collections.abc import Iterable

from radzero.evaluation.registry import BENCHMARKS

FINDING_SETS: dict[str, tuple[str, ...]] = {
    name: findings for name, spec in BENCHMARKS.items() if (findings := spec.module.FINDINGS)
}
"""Set name -> findings, in the order of the benchmark's classes."""


def finding_sentences(name: str) -> list[str]:
    """The prompts of a named set.

    Raises:
        ValueError: for a name that is not a set, listing those that are.
    """
    if name not in FINDING_SETS:
        raise ValueError(f"no finding set is called {name!r}; there are {', '.join(sorted(FINDING_SETS))}")
    return [f"There is {finding}" for finding in FINDING_SETS[name]]


def asked_sentences(sentences: Iterable[str] | None, sets: Iterable[str] | None = None) -> list[str]:
    """What a user asks: sentences, then the prompts of named sets, each once and without spaces around it.

    Raises:
        ValueError: when nothing is asked, for an empty sentence, for one that is no text (lone surrogates), and for a
            set that is not there.
    """
    asked = [*(sentences or ()), *(text for name in dict.fromkeys(sets or ()) for text in finding_sentences(name))]
    asked = list(dict.fromkeys(text.strip() for text in asked))
    if not all(asked):
        raise ValueError("a sentence is empty")
    for text in asked:
        text.encode()  # a UnicodeEncodeError is a ValueError
    if not asked:
        raise ValueError('ask something: -s "There is pleural effusion", or --findings chexpert')
    return asked
