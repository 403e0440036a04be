"""Write a RadZero of ours in the published format, for programs that read that format."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Dinov2Config

from radzero._files import write_whole
from radzero._transformers import PUBLISHED_ARCHITECTURE
from radzero.models.configuration import VisionLanguageConfig
from radzero.models.published.tensors import LOSS, published_name
from radzero.models.radzero import RadZeroConfig, RadZeroModel
from radzero.models.tensors import WEIGHTS, usual_permissions


def save_published(model: RadZeroModel, folder: Path) -> None:
    """Write ``config.json`` and ``model.safetensors`` in the published format.

    Args:
        model: a RadZero without a logit bias, on a DINOv2 whose positions are interpolated by the published rule
            ("offset") or not at all.
        folder: folder to write to; it is made where it is missing.

    Raises:
        ValueError: for a model that the format cannot hold; the message says why.
    """
    config = model.config
    if why := _obstacle(config):
        raise ValueError(f"the published format cannot hold this model: {why}")
    tensors = published_tensors(model.state_dict())
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    usual_permissions(folder / WEIGHTS)
    content = json.dumps(published_config(config), indent=2, sort_keys=True)
    write_whole(folder / "config.json", content.encode())


def _obstacle(config: VisionLanguageConfig) -> str:
    if not isinstance(config, RadZeroConfig):
        return f"it is a {config.method}, and only a RadZero is written"
    if not isinstance(config.vision_config, Dinov2Config):
        return f"its vision encoder is a {config.vision_config.model_type}, and the format's is dinov2"
    vision = config.vision_config
    if (
        config.position_rule != "offset"
        and config.image_size // vision.patch_size != vision.image_size // vision.patch_size
    ):
        return "its positions are interpolated by transformers' present rule, and the format means the old one (offset)"
    if config.logit_bias is not None:
        return "its logits have a bias, and the format has no place for one"
    return ""


def published_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under the names of published checkpoints, temperatures with the shape (1,)."""
    renamed: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        name, value = published_name(key), tensor
        if ".mlp.up_proj." in key:
            continue  # joined to its gate
        if ".mlp.gate_proj." in key:
            value = torch.cat((tensor, tensors[key.replace("gate_proj", "up_proj")]))
        renamed[name] = (value.reshape(1) if name.endswith("temperature") else value).contiguous().cpu()
    return renamed


def published_config(config: RadZeroConfig) -> dict[str, Any]:
    """Return the content of a published ``config.json``; its parts state their types, as in the copy on the hub."""
    vision, text, align = (part.to_dict() for part in (config.vision_config, config.text_config, config.align_config))
    for part in (vision, text, align):
        for key in ("transformers_version", "architectures", "_name_or_path", "dtype"):
            part.pop(key, None)
    kind = "linear" if config.align_linear else "mlp" if config.align_mlp is not None else "identity"
    if config.align_config.num_hidden_layers:
        kind = "align_transformer"
    projected = config.text_projection or text["hidden_size"] != vision["hidden_size"]
    loss = {
        "apply": [LOSS],
        "ratio": [1.0],
        LOSS: {
            "hidden_dim": config.vision_config.hidden_size,
            "sim_op": config.similarity,
            "loss_temperature": config.temperature,
            "attn_temperature": config.attention_temperature,
            "text_features_l2_norm": config.text_l2_norm,
            "mpnce_row_sum": config.mpnce_row_sum,
            "mpnce_col_sum": config.mpnce_col_sum,
        },
    }
    shared = {
        "loss": loss,
        "compute_logits_type": "radzero",
        "module_to_update": ["align_transformer", "text_model", "loss_fns"],
        "pretrained_dir": None,
    }
    names = (config.card or {}).get("encoders") or {}
    vision_name, text_name = names.get("vision_config"), names.get("text_config")
    return {
        "architectures": [PUBLISHED_ARCHITECTURE],
        "pretrained_dir": None,
        "vision_config": vision
        | {"img_size": config.image_size, "pretrained_name_or_path": vision_name, "pretrained_dir": None},
        "text_config": text
        | {"use_cls_token": config.text_pooling == "cls", "use_text_projection": projected}
        | {"pretrained_name_or_path": text_name, "pretrained_tokenizer_name_or_path": text_name},
        "align_transformer_config": align
        | {
            "model_type": kind,
            "hidden_act": config.align_activation if kind == "mlp" else align["hidden_act"],
            "use_layer_norm": config.align_norm,
            "projector_config": None,
        },
        "kwargs": shared,
        "torch_dtype": "float32",
        **shared,
    }
