"""Cache the text encoder's features of sentences, within a bound of memory."""

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor


class SentenceCache:
    """A cache of the features of the sentences used last, in one block of memory that grows with their number.

    A small tensor per sentence would lie between the large blocks of a forward pass, and the heap could not return
    these to the system.

    Args:
        most: largest number of sentences.
        most_bytes: largest size of their features, in bytes.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._rows: OrderedDict[str, int] = OrderedDict()  # sentence -> row of the block, in the order of last use
        self._block = torch.empty(0)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, sentence: str) -> bool:
        return sentence in self._rows

    def get(self, sentences: Sequence[str]) -> Tensor:
        """Return the features (N, ...) of sentences that are in the cache."""
        return self._block[[self._rows[sentence] for sentence in sentences]]

    def keep(self, sentences: Sequence[str], features: Tensor) -> None:
        """Store the features (N, ...) of N different sentences, or of as many of the last ones as there is room for.

        Sentences that are in the cache already count as used again.
        """
        row_bytes = math.prod(features.shape[1:]) * features.element_size()
        room = max(1, min(self._most, self._most_bytes // max(1, row_bytes)))
        first = max(0, len(sentences) - room)
        needed = min(room, len(self._rows) + len(sentences))
        if needed > len(self._block):
            self._grow(min(room, 1 << (needed - 1).bit_length()), features)
        for sentence, row in zip(sentences[first:], features[first:], strict=True):
            if sentence not in self._rows:
                full = len(self._rows) == room
                self._rows[sentence] = self._rows.popitem(last=False)[1] if full else len(self._rows)
                self._block[self._rows[sentence]] = row
            self._rows.move_to_end(sentence)

    def _grow(self, size: int, like: Tensor) -> None:
        block = like.new_empty((size, *like.shape[1:]))
        if self._rows:
            block[: len(self._rows)] = self._block[: len(self._rows)]
        self._block = block
