"""Our tensors' names in published checkpoints: :func:`radzero.models.published.rename_tensors` backwards."""

import re

LOSS = "RadZeroLoss"
_BLOCK_RENAMES = (
    (".attention.q_proj.", ".attention.attention.query."),
    (".attention.k_proj.", ".attention.attention.key."),
    (".attention.v_proj.", ".attention.attention.value."),
    (".attention.o_proj.", ".attention.output.dense."),
    (".mlp.down_proj.", ".mlp.weights_out."),
)
_RENAMES = (
    (re.compile(r"^align_transformer\.layer\."), "align_transformer.transformer_layers.layer."),
    (re.compile(r"^align_(linear|mlp)\."), r"align_transformer.\1."),
    (re.compile(r"^align_norm\."), "align_transformer.layer_norm."),
    (re.compile(r"^text_projection\."), "text_projector."),
    (re.compile(r"^layer_norm\."), f"loss_fns.{LOSS}.layer_norm."),
    (re.compile(r"^log_temperature$"), f"loss_fns.{LOSS}.loss_temperature"),
    (re.compile(r"^log_attention_temperature$"), f"loss_fns.{LOSS}.attn_temperature"),
)


def published_name(name: str) -> str:
    """A tensor's name in published checkpoints."""
    if name.startswith(("vision_model.", "align_transformer.")):
        name = re.sub(r"\.mlp\.(gate|up)_proj\.", ".mlp.weights_in.", name)
        for new, old in _BLOCK_RENAMES:
            name = name.replace(new, old)
    for pattern, replacement in _RENAMES:
        name = pattern.sub(replacement, name)
    return name
