"""Make a word-level tokenizer for small text encoders that are trained from scratch."""

from collections.abc import Iterable

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from radzero.phantom.findings import DEVICES, FINDINGS
from radzero.phantom.sentences import SYNONYMS

_TEMPLATE_WORDS = "there is may be no in the right left bilateral upper mid lower lung zone"


_NORMALIZER = normalizers.BertNormalizer(lowercase=True)
_CUTTER = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(behavior="removed")])


def words_of(texts: Iterable[str]) -> list[str]:
    """Return every word of these texts, as :func:`word_tokenizer` cuts them, sorted."""
    return sorted({word for text in texts for word, _ in _CUTTER.pre_tokenize_str(_NORMALIZER.normalize_str(text))})


def phantom_words() -> list[str]:
    """Return every word that a phantom's finding-sentence can hold, sorted."""
    names = [*FINDINGS, *DEVICES, *(s for synonyms in SYNONYMS.values() for s in synonyms)]
    return sorted({word for text in (*names, _TEMPLATE_WORDS) for word in text.split()})


def word_tokenizer(words: Iterable[str], max_words: int) -> PreTrainedTokenizerFast:
    """Return a lower-casing tokenizer with one token per word; words that it does not know become ``[UNK]``."""
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
    vocabulary = {token: k for k, token in enumerate((*special, *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = _NORMALIZER
    tokenizer.pre_tokenizer = _CUTTER
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=max_words,
    )
