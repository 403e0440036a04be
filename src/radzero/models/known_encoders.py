"""Architectures of public encoders, by name, for settings that a config leaves out and no tensor's shape shows.

The epsilon of a LayerNorm, the activation and the padding id leave no trace in tensors; neither does the number of
heads of an encoder without relative positions. The values are those of the models' own ``config.json``.
"""

from collections.abc import Mapping
from typing import Any

_MPNET = {
    "model_type": "mpnet",
    "vocab_size": 30527,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 514,
    "layer_norm_eps": 1e-5,  # transformers' default is 1e-12
    "relative_attention_num_buckets": 32,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
_BERT = {
    "model_type": "bert",
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}
_MINILM = {"hidden_size": 384, "intermediate_size": 1536}
_DINOV2 = {
    "model_type": "dinov2",
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "mlp_ratio": 4,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "image_size": 518,
    "patch_size": 14,
    "num_channels": 3,
    "qkv_bias": True,
    "layerscale_value": 1.0,
    "use_swiglu_ffn": False,
}
KNOWN_ENCODERS: dict[str, Mapping[str, Any]] = {
    "microsoft/mpnet-base": _MPNET,
    "sentence-transformers/all-mpnet-base-v1": _MPNET,
    "sentence-transformers/all-mpnet-base-v2": _MPNET,
    "sentence-transformers/multi-qa-mpnet-base-dot-v1": _MPNET,
    "sentence-transformers/multi-qa-mpnet-base-cos-v1": _MPNET,
    "sentence-transformers/paraphrase-mpnet-base-v2": _MPNET,
    "google-bert/bert-base-uncased": _BERT,
    "emilyalsentzer/Bio_ClinicalBERT": _BERT | {"vocab_size": 28996},
    "sentence-transformers/all-MiniLM-L6-v2": _BERT | _MINILM | {"num_hidden_layers": 6},
    "sentence-transformers/all-MiniLM-L12-v2": _BERT | _MINILM,
    "StanfordAIMI/dinov2-base-xray-224": _DINOV2 | {"image_size": 224},
    "microsoft/rad-dino": _DINOV2,
    "facebook/dinov2-base": _DINOV2,
}
"""Fields of an encoder's configuration by its hub id."""

FAMILIES: dict[str, Mapping[str, Any]] = {
    "mpnet": {key: _MPNET[key] for key in ("hidden_act", "layer_norm_eps", "pad_token_id")},
    "dinov2": {key: _DINOV2[key] for key in ("hidden_act", "layer_norm_eps")},
}
"""Fields that all published encoders of an architecture share: each MPNet was made from microsoft/mpnet-base."""

GENERIC_FIELDS = frozenset((
    "_name_or_path", "add_cross_attention", "apply_layernorm", "architectures", "attention_probs_dropout_prob",
    "bad_words_ids", "begin_suppress_tokens", "bos_token_id", "chunk_size_feed_forward",
    "cross_attention_hidden_size", "decoder_start_token_id", "diversity_penalty", "do_sample", "early_stopping",
    "encoder_no_repeat_ngram_size", "eos_token_id", "exponential_decay_length_penalty", "finetuning_task",
    "forced_bos_token_id", "forced_eos_token_id", "id2label", "img_size", "is_decoder", "is_encoder_decoder",
    "label2id", "length_penalty", "max_length", "min_length", "model_type", "no_repeat_ngram_size",
    "num_beam_groups", "num_beams", "num_return_sequences", "out_features", "out_indices", "output_attentions",
    "output_hidden_states", "output_scores", "pad_token_id", "prefix", "pretrained_dir", "pretrained_name_or_path",
    "pretrained_tokenizer_name_or_path", "problem_type", "projector_config", "pruned_heads", "remove_invalid_values",
    "use_layer_norm",
    "repetition_penalty", "reshape_hidden_states", "return_dict", "return_dict_in_generate", "sep_token_id",
    "stage_names", "suppress_tokens", "task_specific_params", "temperature", "tf_legacy_loss",
    "tie_encoder_decoder", "tie_word_embeddings", "tokenizer_class", "top_k", "top_p", "torch_dtype", "torchscript",
    "typical_p", "use_bfloat16", "use_cls_token", "use_text_projection", "dtype", "attn_implementation",
    "transformers_version", "auto_map", "use_cache", "position_embedding_type", "classifier_dropout",
    "gradient_checkpointing",
))  # fmt: skip
"""Fields of published sub-configs that are read elsewhere or have no effect; most concern text generation."""


def known_encoder(name: Any) -> Mapping[str, Any] | None:
    """Return an encoder's fields by its hub id, or by the id's last part (a copy's folder name); None if unknown."""
    if not isinstance(name, str) or not name:
        return None
    if name in KNOWN_ENCODERS:
        return KNOWN_ENCODERS[name]
    last = name.rstrip("/").replace("\\", "/").rsplit("/", 1)[-1]
    return next((fields for hub_id, fields in KNOWN_ENCODERS.items() if hub_id.rsplit("/", 1)[-1] == last), None)
