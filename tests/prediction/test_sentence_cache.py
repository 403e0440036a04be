"""Sentences that are kept: the last ones, with what belongs to them."""

from collections import OrderedDict

import torch
from hypothesis import given
from hypothesis import strategies as st

from radzero.prediction.sentence_cache import SentenceCache

ROUNDS = st.lists(st.lists(st.integers(0, 11), min_size=1, max_size=9, unique=True), max_size=12)


@given(rounds=ROUNDS, most=st.integers(1, 9), most_bytes=st.integers(0, 9 * 12))
def test_the_last_ones_are_kept(rounds: list[list[int]], most: int, most_bytes: int):
    """Against a dictionary that moves what is used to its end and drops from its beginning; a row has 12 bytes."""
    cache, slow = SentenceCache(most, most_bytes), OrderedDict[str, torch.Tensor]()
    room = max(1, min(most, most_bytes // 12))
    for number, asked in enumerate(rounds):
        texts = [str(k) for k in asked]
        features = torch.tensor([[k, k * k, number] for k in asked], dtype=torch.float32)
        cache.keep(texts, features)
        for text, row in zip(texts[-room:], features[-room:], strict=True):
            slow[text] = slow.get(text, row)
            slow.move_to_end(text)
            if len(slow) > room:
                slow.popitem(last=False)
        assert len(cache) == len(slow)
        assert all((text in cache) == (text in slow) for text in map(str, range(12)))
        assert torch.equal(cache.get(list(slow)), torch.stack(list(slow.values())))


def test_what_is_got_is_nobody_elses():
    cache = SentenceCache(4, 1000)
    cache.keep(["a"], torch.ones(1, 2))
    cache.get(["a"]).zero_()
    assert cache.get(["a"]).tolist() == [[1, 1]]
