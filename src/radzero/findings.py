"""Named finding sets: the findings of the benchmarks, each with its prompt ``There is {finding}``."""

from collections.abc import Iterable

from radzero.evaluation.registry import BENCHMARKS

FINDING_SETS: dict[str, tuple[str, ...]] = {
    name: findings for name, spec in BENCHMARKS.items() if (findings := spec.module.FINDINGS)
}
"""The findings of each set by its name, in the order of the benchmark's classes."""


def finding_sentences(name: str) -> list[str]:
    """Return the prompts of a named set.

    Raises:
        ValueError: for an unknown name; the message lists the sets.
    """
    if name not in FINDING_SETS:
        raise ValueError(f"no finding set is called {name!r}; there are {', '.join(sorted(FINDING_SETS))}")
    return [f"There is {finding}" for finding in FINDING_SETS[name]]


def asked_sentences(sentences: Iterable[str] | None, sets: Iterable[str] | None = None) -> list[str]:
    """Return a user's sentences, then the prompts of named sets, each once and without spaces around it.

    Raises:
        ValueError: when there is no sentence, for an empty sentence, for one with lone surrogates (which are no text),
            and for an unknown set.
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
