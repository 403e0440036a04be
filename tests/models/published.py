"""A maker of tiny checkpoints in the published format, with random weights: nothing is trivially 1 or 0."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

WORDS = [
    "there",
    "is",
    "no",
    "may",
    "be",
    "a",
    "an",
    "small",
    "large",
    "left",
    "right",
    "lower",
    "upper",
    "lung",
    "lobe",
    "base",
    "heart",
    "cardiomegaly",
    "pleural",
    "effusion",
    "pneumothorax",
    "pneumonia",
    "opacity",
    "edema",
    "atelectasis",
    "of",
    "the",
    "in",
    "at",
    "catheter",
    "fracture",
    "nodule",
    "mass",
    "##s",
    "##l",
    "##y",
    ".",
    ",",
    "x",
]
SPECIALS = ("<s>", "<pad>", "</s>", "<unk>", "[UNK]")
VOCABULARY = {word: k for k, word in enumerate((*SPECIALS, *WORDS, "<mask>"))}
MAX_TOKENS = 40


def make_tokenizer() -> Tokenizer:
    """Lower-casing WordPiece with ``<s> ... </s>`` around, as MPNet's."""
    tokenizer = Tokenizer(models.WordPiece(VOCABULARY, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", VOCABULARY["</s>"]), ("<s>", VOCABULARY["<s>"]))
    tokenizer.add_special_tokens([*SPECIALS, "<mask>"])
    return tokenizer


@dataclass
class Published:
    """A checkpoint in memory: what its files hold, weights under DINOv2's old names and ``RadZeroLoss``."""

    config: dict[str, Any]
    weights: dict[str, np.ndarray]
    preprocessor: dict[str, Any]
    tokenizer: Tokenizer = field(default_factory=make_tokenizer)

    def ids(self, sentence: str) -> list[int]:
        return self.tokenizer.encode(sentence).ids


def make_published(
    *,
    seed: int = 0,
    heads: int = 2,
    width: int = 16,
    patch: int = 6,
    trained_at: int = 18,
    run_at: tuple[int, int] = (30, 30),
    sim_op: str = "cos",
    attention_temperature: float | None = None,
    text_features_l2_norm: bool = False,
    swiglu: bool = False,
    qkv_bias: bool = True,
    mask_token: bool = True,
    method: str = "radzero",
    loss: str = "OpenClipLoss",
    aligner: str = "align_transformer",
    align_norm: bool = False,
    projector: bool | None = None,
    text_width: int | None = None,
    text_layers: int = 2,
    text_heads: int | None = None,
    text_mlp: int | None = None,
    tokens: int = MAX_TOKENS,
    use_cls_token: bool = False,
) -> Published:
    """Random weights of a tiny model; ``run_at`` is (height, width) of its preprocessor, in pixels.

    ``method`` is the ``compute_logits_type``; ``loss`` is of those that are not RadZero's.
    """
    rng = np.random.default_rng(seed)
    text_width, text_heads = text_width or width, text_heads or heads
    text_mlp = text_mlp or 2 * text_width
    projected = method == "global_alignment" if projector is None else projector
    vision = {
        "architectures": ["Dinov2Model"],
        "model_type": "dinov2",
        "hidden_size": width,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "mlp_ratio": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "layerscale_value": 1.0,
        "qkv_bias": qkv_bias,
        "use_swiglu_ffn": swiglu,
        "use_mask_token": mask_token,
        "num_channels": 3,
        "patch_size": patch,
        "image_size": trained_at,
        "img_size": run_at[0],
        "drop_path_rate": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "hidden_dropout_prob": 0.0,
    }
    text = {
        "_name_or_path": "microsoft/mpnet-base",
        "architectures": ["MPNetForMaskedLM"],
        "model_type": "mpnet",
        "vocab_size": len(VOCABULARY),
        "hidden_size": text_width,
        "num_hidden_layers": text_layers,
        "num_attention_heads": text_heads,
        "intermediate_size": text_mlp,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": tokens + 2,
        "relative_attention_num_buckets": 32,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "use_cls_token": use_cls_token,
        "use_text_projection": projected,
    }
    align = {k: v for k, v in vision.items() if k not in ("img_size", "architectures")}
    align |= {"model_type": aligner, "projector_config": None, "use_layer_norm": align_norm}
    losses = {
        "apply": ["RadZeroLoss"],
        "RadZeroLoss": {
            "hidden_dim": width,
            "mpnce_row_sum": False,
            "mpnce_col_sum": False,
            "attn_temperature": attention_temperature,
            "loss_temperature": 0.07,
            "text_features_l2_norm": text_features_l2_norm,
            "sim_op": sim_op,
        },
    }
    if method != "radzero":
        losses = {"apply": [loss], loss: {"loss_temperature": 0.07}, "ratio": [1.0]}
    shared = {
        "loss": losses,
        "compute_logits_type": method,
        "module_to_update": {"vision_model": False, "text_model": True, "align_transformer": True},
    }
    config = {
        "architectures": ["CxrAlignModel"],
        "model_type": "cxr_align",
        "vision_config": vision,
        "text_config": text,
        "align_transformer_config": align,
        "kwargs": copy.deepcopy(shared),
        "torch_dtype": "float32",
        "transformers_version": "4.39.3",
        **shared,
    }
    preprocessor = {
        "image_processor_type": "BlipImageProcessor",
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.53, 0.51, 0.48],
        "image_std": [0.25, 0.27, 0.23],
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"height": run_at[0], "width": run_at[1]},
    }
    w: dict[str, np.ndarray] = {}

    def dense(name: str, out: int, into: int, *, bias: bool = True) -> None:
        w[f"{name}.weight"] = rng.normal(0, into**-0.5, (out, into))
        if bias:
            w[f"{name}.bias"] = rng.normal(0, 0.2, out)

    def norm(name: str, size: int = width) -> None:
        w[f"{name}.weight"] = rng.uniform(0.5, 1.5, size)
        w[f"{name}.bias"] = rng.normal(0, 0.3, size)

    def block(name: str) -> None:
        norm(f"{name}.norm1")
        for part in ("query", "key", "value"):
            dense(f"{name}.attention.attention.{part}", width, width, bias=qkv_bias)
        dense(f"{name}.attention.output.dense", width, width)
        w[f"{name}.layer_scale1.lambda1"] = rng.uniform(0.3, 1.2, width)
        norm(f"{name}.norm2")
        if swiglu:
            hidden = (int(2 * width * 2 / 3) + 7) // 8 * 8
            dense(f"{name}.mlp.weights_in", 2 * hidden, width)
            dense(f"{name}.mlp.weights_out", width, hidden)
        else:
            dense(f"{name}.mlp.fc1", 2 * width, width)
            dense(f"{name}.mlp.fc2", width, 2 * width)
        w[f"{name}.layer_scale2.lambda1"] = rng.uniform(0.3, 1.2, width)

    w["vision_model.embeddings.cls_token"] = rng.normal(0, 1, (1, 1, width))
    if mask_token:
        w["vision_model.embeddings.mask_token"] = rng.normal(0, 1, (1, width))
    w["vision_model.embeddings.position_embeddings"] = rng.normal(0, 1, (1, 1 + (trained_at // patch) ** 2, width))
    w["vision_model.embeddings.patch_embeddings.projection.weight"] = rng.normal(
        0, (3 * patch * patch) ** -0.5, (width, 3, patch, patch)
    )
    w["vision_model.embeddings.patch_embeddings.projection.bias"] = rng.normal(0, 0.2, width)
    for k in range(vision["num_hidden_layers"]):
        block(f"vision_model.encoder.layer.{k}")
    norm("vision_model.layernorm")
    if aligner == "align_transformer":
        for k in range(align["num_hidden_layers"]):
            block(f"align_transformer.transformer_layers.layer.{k}")
    elif aligner == "linear":
        dense("align_transformer.linear", width, width)
    elif aligner == "mlp":
        dense("align_transformer.mlp.0", 3 * width, width)
        dense("align_transformer.mlp.2", width, 3 * width)
    if align_norm:
        norm("align_transformer.layer_norm")
    w["text_model.embeddings.word_embeddings.weight"] = rng.normal(0, 1, (len(VOCABULARY), text_width))
    w["text_model.embeddings.position_embeddings.weight"] = rng.normal(0, 1, (tokens + 2, text_width))
    norm("text_model.embeddings.LayerNorm", text_width)
    w["text_model.encoder.relative_attention_bias.weight"] = rng.normal(0, 1, (32, text_heads))
    for k in range(text["num_hidden_layers"]):
        name = f"text_model.encoder.layer.{k}"
        for part in "qkvo":
            dense(f"{name}.attention.attn.{part}", text_width, text_width)
        norm(f"{name}.attention.LayerNorm", text_width)
        dense(f"{name}.intermediate.dense", text_mlp, text_width)
        dense(f"{name}.output.dense", text_width, text_mlp)
        norm(f"{name}.output.LayerNorm", text_width)
    dense("text_model.pooler.dense", text_width, text_width)
    if projected:
        dense("text_projector", 2 * width if method == "global_alignment" else width, text_width)
    if method != "radzero":
        w[f"loss_fns.{loss}.logit_scale"] = np.array(2.4)  # the logarithm of 1 / tau
        if loss == "OpenSigLipLoss":
            w[f"loss_fns.{loss}.logit_bias"] = np.array(-1.7)
        weights = {name: np.asarray(value, dtype=np.float32) for name, value in w.items()}
        return Published(config, weights, preprocessor)
    norm("loss_fns.RadZeroLoss.layer_norm")
    w["loss_fns.RadZeroLoss.loss_temperature"] = np.log(np.array(0.083))  # not the initial value in the config
    if attention_temperature is not None:
        w["loss_fns.RadZeroLoss.attn_temperature"] = np.log(np.array(1.3 * attention_temperature))
    weights = {name: np.asarray(value, dtype=np.float32) for name, value in w.items()}
    return Published(config, weights, preprocessor)


OLD_FIELDS = {
    "_name_or_path": "", "add_cross_attention": False, "architectures": None, "bad_words_ids": None,
    "begin_suppress_tokens": None, "bos_token_id": None, "chunk_size_feed_forward": 0, "decoder_start_token_id": None,
    "diversity_penalty": 0.0, "do_sample": False, "early_stopping": False, "eos_token_id": None,
    "finetuning_task": None, "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "is_decoder": False,
    "is_encoder_decoder": False, "label2id": {"LABEL_0": 0, "LABEL_1": 1}, "length_penalty": 1.0, "max_length": 20,
    "min_length": 0, "no_repeat_ngram_size": 0, "num_beams": 1, "num_return_sequences": 1, "output_attentions": False,
    "output_hidden_states": False, "pad_token_id": None, "prefix": None, "problem_type": None, "pruned_heads": {},
    "repetition_penalty": 1.0, "return_dict": True, "sep_token_id": None, "task_specific_params": None,
    "temperature": 1.0, "tf_legacy_loss": False, "tie_word_embeddings": True, "tokenizer_class": None, "top_k": 50,
    "top_p": 1.0, "torch_dtype": None, "torchscript": False, "typical_p": 1.0, "use_bfloat16": False,
}  # fmt: skip
"""What every configuration of transformers 4.39 writes of itself, most of it about generating text."""


def as_saved(config: dict[str, Any], form: str) -> dict[str, Any]:
    """A published ``config.json`` as files have it, made of the whole one: nothing of the text encoder but its name.

    Args:
        config: with every field.
        form: "saved" by the training code, no sub-config typed; or "hub", the copy on the hub, all of them typed.
    """
    name = "sentence-transformers/all-mpnet-base-v2"
    flags = {key: config["text_config"][key] for key in ("use_cls_token", "use_text_projection")}
    text = OLD_FIELDS | {"pretrained_name_or_path": name, "pretrained_tokenizer_name_or_path": name} | flags
    vision = OLD_FIELDS | config["vision_config"] | {"pretrained_name_or_path": "StanfordAIMI/dinov2-base-xray-224"}
    # fields of a default DINOv2 that mean nothing here
    align = OLD_FIELDS | config["align_transformer_config"] | {"image_size": 224, "patch_size": 16}
    kind = config["align_transformer_config"]["model_type"]
    types = ("", "", kind if kind != "align_transformer" else "") if form == "saved" else ("dinov2", "mpnet", kind)
    parts = zip(("vision_config", "text_config", "align_transformer_config"), (vision, text, align), types, strict=True)
    return {k: v for k, v in config.items() if k != "model_type"} | {
        key: part | {"model_type": model_type} for key, part, model_type in parts
    }


NEW_NAMES = (
    (".attention.attention.query.", ".attention.q_proj."),
    (".attention.attention.key.", ".attention.k_proj."),
    (".attention.attention.value.", ".attention.v_proj."),
    (".attention.output.dense.", ".attention.o_proj."),
)


def write_published(
    published: Published,
    folder: Path,
    *,
    naming: str = "old",
    loss_name: str = "RadZeroLoss",
    temperature_shape: tuple[int, ...] = (),
    shards: int = 1,
    dtype: torch.dtype = torch.float32,
    auto_map: bool = False,
    form: str = "whole",
) -> Path:
    """Write all files of a checkpoint; ``naming`` is of DINOv2's attention weights, "old" or "new".

    ``form`` is of ``config.json``: "whole", or as :func:`as_saved` has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = copy.deepcopy(published.config)
    for loss in (config["loss"], config["kwargs"]["loss"]):
        if "RadZeroLoss" in loss:
            loss["apply"] = [loss_name]
            loss[loss_name] = loss.pop("RadZeroLoss")
    if form != "whole":
        config = as_saved(config, form)
    if auto_map:
        config["auto_map"] = {
            "AutoConfig": "configuration_cxr_align.CxrAlignConfig",
            "AutoModel": "modeling_cxr_align.CxrAlignModel",
        }
    tensors = {}
    for name, value in published.weights.items():
        tensor = torch.from_numpy(value).clone().to(dtype)
        if name.endswith("_temperature"):
            tensor = tensor.reshape(temperature_shape)
        name = name.replace("RadZeroLoss", loss_name)
        if naming == "new" and name.startswith(("vision_model.", "align_transformer.")):
            for old, new in NEW_NAMES:
                name = name.replace(old, new)
        tensors[name] = tensor
    write_json(folder / "config.json", config)
    write_json(folder / "preprocessor_config.json", published.preprocessor)
    published.tokenizer.save(str(folder / "tokenizer.json"))
    special = {
        "bos": "<s>",
        "cls": "<s>",
        "eos": "</s>",
        "sep": "</s>",
        "pad": "<pad>",
        "unk": "[UNK]",
        "mask": "<mask>",
    }
    write_json(folder / "special_tokens_map.json", {f"{k}_token": v for k, v in special.items()})
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "MPNetTokenizer",
            "do_lower_case": True,
            "model_max_length": MAX_TOKENS,
            "clean_up_tokenization_spaces": True,
            "strip_accents": None,
            "tokenize_chinese_chars": True,
            **{f"{k}_token": v for k, v in special.items()},
        },
    )
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    write_tensors(folder, tensors, shards)
    return folder


def write_tensors(folder: Path, tensors: dict[str, torch.Tensor], shards: int = 1) -> None:
    """``model.safetensors``, or that many shards and the index that names them."""
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map = {}
    for k in range(shards):
        part = f"model-{k + 1:05d}-of-{shards:05d}.safetensors"
        chosen = {name: tensors[name] for name in sorted(tensors)[k::shards]}
        save_file(chosen, folder / part, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(chosen, part)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
