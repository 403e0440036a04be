"""Rename the tensors of published checkpoints: to our names for loading, and back for writing."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from radzero.models.clip import ClipConfig
from radzero.models.configuration import VisionLanguageConfig
from radzero.models.dinotxt import DinoTxtConfig

RADZERO_LOSSES = ("RadZeroLoss", "KeyPhraseAlignmentLoss")
"""Two names of one loss: in checkpoints of the public training code, and in the copy on the hub."""
CLIP_LOSSES = ("OpenClipLoss", "OpenSigLipLoss")

# -- to our names ----------------------------------------------------------------------------------

_DINOV2_RENAMES = (
    (re.compile(r"\.attention\.attention\.query\."), ".attention.q_proj."),
    (re.compile(r"\.attention\.attention\.key\."), ".attention.k_proj."),
    (re.compile(r"\.attention\.attention\.value\."), ".attention.v_proj."),
    (re.compile(r"\.attention\.output\.dense\."), ".attention.o_proj."),
    (re.compile(r"\.mlp\.weights_out\."), ".mlp.down_proj."),
    (re.compile(r"^align_transformer\.transformer_layers\."), "align_transformer."),
)
_DINOV2_PREFIXES = ("vision_model.", "align_transformer.")
_ALIGNER = re.compile(r"^align_transformer\.(linear|layer_norm)\.(weight|bias)$")
_ALIGNER_NAMES = {"linear": "align_linear", "layer_norm": "align_norm"}
_MLP = re.compile(r"^align_transformer\.(?!layer\.)(.*\d.*)\.(weight|bias)$")
"""In a checkpoint without blocks, an aligner tensor with a number in its name belongs to an MLP's linear layer."""
_LOSS_KEY = re.compile(rf"^loss_fns\.({'|'.join((*RADZERO_LOSSES, *CLIP_LOSSES))})\.(.+)$")
_LOSS_NAMES = {
    "loss_temperature": "log_temperature",
    "attn_temperature": "log_attention_temperature",
    "layer_norm.weight": "layer_norm.weight",
    "layer_norm.bias": "layer_norm.bias",
    "logit_scale": "log_temperature",  # the logarithm of 1 / tau
    "logit_bias": "logit_bias",
}
_TEXT_PROJECTOR = "text_projector."
_UNUSED = re.compile(r"^text_model\.(pooler\..*|embeddings\.position_ids)$")
"""Tensors of published text encoders that sentence embeddings do not use: the pooler, and a constant."""


def rename_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a published state dict (or ours) under our names; both DINOv2 namings and all losses' names are known.

    Raises:
        ValueError: when two tensors would have the same name, or a fused SwiGLU tensor cannot be halved.
    """
    renamed: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if _UNUSED.match(key):
            continue
        for name, value in _rename(key, tensor):
            if name in renamed:
                raise ValueError(f"two tensors for {name}: the checkpoint mixes namings, or has two losses")
            renamed[name] = value
    return _number_mlp(renamed)


def _rename(key: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    if match := _LOSS_KEY.match(key):
        name = _LOSS_NAMES.get(match[2], key)
        scalar = name.startswith("log") and tensor.numel() == 1
        value = tensor.reshape(()) if scalar else tensor
        return [(name, -value if match[2] == "logit_scale" else value)]
    if match := _ALIGNER.match(key):
        return [(f"{_ALIGNER_NAMES[match[1]]}.{match[2]}", tensor)]
    if key.startswith(_TEXT_PROJECTOR):
        return [(key.replace(_TEXT_PROJECTOR, "text_projection."), tensor)]
    if not key.startswith(_DINOV2_PREFIXES):
        return [(key, tensor)]
    for pattern, replacement in _DINOV2_RENAMES:
        key = pattern.sub(replacement, key)
    if ".mlp.weights_in." in key:  # the giant model has gate and value in one matrix
        if not tensor.ndim or tensor.shape[0] % 2:
            raise ValueError(f"{key}: {tuple(tensor.shape)} cannot be halved into gate and value")
        gate, up = tensor.chunk(2, dim=0)
        return [(key.replace("weights_in", "gate_proj"), gate), (key.replace("weights_in", "up_proj"), up)]
    return [(key, tensor)]


def fit_tensors(tensors: dict[str, Tensor], config: VisionLanguageConfig) -> dict[str, Tensor]:
    """Return a published checkpoint's renamed tensors as the method's model has them.

    A projection that the checkpoint does not have becomes the identity (CLIP), and a projection's missing bias becomes
    zero (CLIP, dino.txt); the outputs are the same to the last digit.
    """
    kinds = (tensor.dtype for key, tensor in tensors.items() if key.startswith("text_model."))
    dtype = next(kinds, torch.float32)
    if isinstance(config, DinoTxtConfig):
        tensors = {key.replace("align_norm.", "layer_norm."): tensor for key, tensor in tensors.items()}
    if isinstance(config, ClipConfig):
        width = config.vision_config.hidden_size
        for end in ("weight", "bias"):  # a projector to 2D, as dino.txt's: CLS is compared with the first half
            projector = tensors.get(f"text_projection.{end}")
            if projector is not None and projector.ndim and len(projector) == 2 * width:
                tensors = tensors | {f"text_projection.{end}": projector[:width]}
        tensors = {key.replace("align_linear.", "vision_projection."): tensor for key, tensor in tensors.items()}
        widths = {
            "vision_projection": config.vision_config.hidden_size,
            "text_projection": config.text_config.hidden_size,
        }
        for part, width in widths.items():
            tensors.setdefault(f"{part}.weight", torch.eye(width, dtype=dtype))
    if isinstance(config, ClipConfig | DinoTxtConfig):
        for key in [key for key in tensors if re.fullmatch(r"(vision|text)_projection\.weight", key)]:
            tensors.setdefault(key.replace("weight", "bias"), torch.zeros(len(tensors[key]), dtype=dtype))
    return tensors


def _number_mlp(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the linear layers of an MLP aligner to 0, 2, 4, ... of a Sequential, in the order of their numbers."""
    if any(key.startswith(("align_transformer.layer.", "align_linear.")) for key in tensors):
        return tensors
    found = {key: match for key in tensors if (match := _MLP.match(key))}
    order = sorted({match[1] for match in found.values()}, key=lambda name: [int(n) for n in re.findall(r"\d+", name)])
    places = {name: 2 * k for k, name in enumerate(order)}
    return {
        f"align_mlp.{places[found[key][1]]}.{found[key][2]}" if key in found else key: tensor
        for key, tensor in tensors.items()
    }


# -- and back --------------------------------------------------------------------------------------

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
    """Return the name in published checkpoints of one of our tensors."""
    if name.startswith(("vision_model.", "align_transformer.")):
        name = re.sub(r"\.mlp\.(gate|up)_proj\.", ".mlp.weights_in.", name)
        for new, old in _BLOCK_RENAMES:
            name = name.replace(new, old)
    for pattern, replacement in _RENAMES:
        name = pattern.sub(replacement, name)
    return name
