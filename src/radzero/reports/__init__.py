"""Turn reports into finding-sentences: sections, the sentence grammar, a rules engine and a language-model engine."""
