"""Read ``config.json`` of the published format (``CxrAlignModel``) in all the forms in which it occurs.

A folder that the method's own training code saved gives no types to its sub-configs and states only the text encoder's
name; the copy on the hub states the types. Shapes are therefore read from the tensors, and what a config states must
agree with them. A setting that leaves no trace in the tensors must be stated, be known of the encoder that the config
names, or have a default here; otherwise the checkpoint is refused, and the error names the setting.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from transformers import CONFIG_MAPPING, AutoConfig, BertConfig, Dinov2Config, MPNetConfig
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig

from radzero._transformers import PUBLISHED_ARCHITECTURE
from radzero.models.clip import ClipConfig
from radzero.models.configuration import VisionLanguageConfig
from radzero.models.dinotxt import DinoTxtConfig
from radzero.models.errors import short
from radzero.models.known_encoders import FAMILIES, GENERIC_FIELDS, known_encoder
from radzero.models.published.tensors import CLIP_LOSSES, RADZERO_LOSSES, rename_tensors
from radzero.models.radzero import RadZeroConfig

_METHODS: dict[str, tuple[type[VisionLanguageConfig], tuple[str, ...]]] = {
    "radzero": (RadZeroConfig, RADZERO_LOSSES),
    "global_alignment": (DinoTxtConfig, CLIP_LOSSES),
    "cls_alignment": (ClipConfig, CLIP_LOSSES),
}
"""``compute_logits_type`` -> configuration class of the method, and the losses that train its checkpoints."""
ALIGNERS = ("align_transformer", "linear", "identity", "mlp")
"""Values of ``align_transformer_config.model_type``; "dinov2" means the first, and the tensors tell an empty one."""


def translate_config(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> VisionLanguageConfig:
    """Translate a published ``config.json`` into our configuration.

    Args:
        content: the JSON object in the file.
        tensors: the checkpoint's tensors under its own names; their values are not used ("meta" suffices).

    Raises:
        ValueError: when a value is not known, contradicts the tensors, or is missing; the message names it.
    """
    renamed = rename_tensors(tensors)
    vision = _Stated("vision_config", content.get("vision_config"), renamed)
    text = _Stated("text_config", content.get("text_config"), renamed)
    for part in (vision, text):
        if not part.given:
            raise ValueError(f"{part.name} is missing or no JSON object")
    kind, loss = _logits_and_loss(content)
    method, _ = _METHODS[kind]
    vision_config = _vision_config(vision)
    text_config, assumed = _text_config(text)
    options: dict[str, Any] = {
        "vision_config": vision_config,
        "text_config": text_config,
        "image_size": _run_at(vision, vision_config.image_size),
        "text_pooling": "cls" if text.flag("use_cls_token") else "mean",
        "position_rule": "offset",
    }
    align = _Stated("align_transformer_config", content.get("align_transformer_config") or {}, renamed)
    if not align.given:
        raise ValueError(f"{align.name} is no JSON object")
    for part, what in ((vision, "dinov2"), (text, text_config.model_type), (align, "dinov2")):
        part.refuse_unknown(what)
    kind_of_aligner = _aligner(align)
    normed = _aligner_norm(align)
    projected = _text_projector(text)
    blocks = _blocks(align, "align_transformer.", vision_config)
    if method is RadZeroConfig:
        options |= _radzero_options(loss, renamed)
    else:
        options |= {"temperature": loss.positive("loss_temperature", 0.07)}
        if "logit_bias" in renamed:
            options["logit_bias"] = 0.0  # a tensor holds its value
    if method is ClipConfig:
        if kind_of_aligner not in ("linear", "identity") or normed:
            raise ValueError(
                "cls_alignment (LiT) is known with a linear or an identity aligner and without use_layer_norm; "
                f"{align.name} is {kind_of_aligner}{' with use_layer_norm' if normed else ''}"
            )
    else:
        options |= {
            "align_config": blocks,
            "align_linear": kind_of_aligner == "linear",
            "align_mlp": _mlp_widths(renamed) if kind_of_aligner == "mlp" else None,
            "align_activation": _mlp_activation(align) if kind_of_aligner == "mlp" else "gelu",
            "align_norm": normed,
        }
    if method is RadZeroConfig:
        options["text_projection"] = projected
    elif method is DinoTxtConfig and not projected:
        raise ValueError("global_alignment (dino.txt) needs text_projector, and text_config.use_text_projection is off")
    assumed |= {f"{part.name}.{field}": value for part in (vision, align) for field, value in part.assumed.items()}
    card = {
        "encoders": {part.name: part.get("pretrained_name_or_path") for part in (vision, text)},
        "data": "as its publisher states (the published RadZero: MIMIC-CXR)",
        "licence": "as its publisher states (the published RadZero: CC BY-NC 4.0)",
        "converted_from": PUBLISHED_ARCHITECTURE,
    }
    return method(**options, card=card | ({"assumed": assumed} if assumed else {}))


# -- what a sub-config states ----------------------------------------------------------------------


class _Stated:
    """A part of a published ``config.json``, and the tensors that it describes.

    A field that is null counts as not stated.

    Args:
        name: name of the part, for messages.
        content: content of the part.
        tensors: the checkpoint's tensors under our names.
    """

    def __init__(self, name: str, content: Any, tensors: Mapping[str, Tensor]) -> None:
        self.name, self.tensors = name, tensors
        self.assumed: dict[str, Any] = {}
        self.given = isinstance(content, Mapping)
        self.fields: Mapping[str, Any] = content if isinstance(content, Mapping) else {}

    def get(self, field: str) -> Any:
        """Return the stated value of a field, or None."""
        return self.fields.get(field)

    def has(self, field: str) -> bool:
        """Return whether the field is there, even if it is null."""
        return field in self.fields

    def default(self, field: str, value: Any, known: bool) -> Any:
        """Return ``value``; note it as assumed where the field is not stated and ``known`` is false.

        ``known`` says whether the value is that of the encoder which the config names.
        """
        if self.get(field) is None and not known:
            self.assumed[field] = value
        return value

    def refuse_unknown(self, kind: str) -> None:
        """Refuse a field that is not understood here, unless its value is null, false, 0 or empty.

        Raises:
            ValueError: when there is one; the message names it.
        """
        own = CONFIG_MAPPING[kind]().to_dict().keys() if kind in CONFIG_MAPPING else set()
        for field, value in self.fields.items():
            if field not in GENERIC_FIELDS and field not in own and value not in (None, False, "", [], {}):
                raise ValueError(f"{self.name}.{short(field)} is {short(value)}, which is not understood here")

    def size(self, field: str, tensor: str, axis: int, dimensions: int) -> int:
        """Return a size that the config or a tensor's shape gives, or both.

        Raises:
            ValueError: when they differ, naming both, or when neither gives it.
        """
        return self.agreed(field, self.length(tensor, axis, dimensions), tensor)

    def length(self, tensor: str, axis: int, dimensions: int) -> int | None:
        """Return a tensor's length along an axis; None where it is missing or has another number of dimensions."""
        found = self.tensors.get(tensor)
        return None if found is None or found.ndim != dimensions else found.shape[axis]

    def agreed(self, field: str, found: int | bool | None, where: str) -> Any:
        """Return ``found``, which the stated value must equal; where it is None, return the stated value, a size.

        Raises:
            ValueError: when they differ, naming both, or when neither gives it.
        """
        stated = self.get(field)
        if found is None:
            if stated is None:
                raise ValueError(f"missing: {where}, and {self.name}.{field} is not stated")
            return self.whole(field, stated)
        if stated is not None and (isinstance(stated, bool) != isinstance(found, bool) or stated != found):
            raise ValueError(f"{self.name}.{field} is {short(stated)}, and the tensors say {short(found)} ({where})")
        return found

    def whole(self, field: str, stated: Any) -> int:
        """Return a stated value that is a size.

        Raises:
            ValueError: when it is not a positive integer below 2**31.
        """
        if isinstance(stated, bool) or not isinstance(stated, int) or not 0 < stated < 2**31:
            raise ValueError(f"{self.name}.{field} is {short(stated)}, which is no size")
        return stated

    def count(self, prefix: str) -> int:
        """Return ``num_hidden_layers``: the number of blocks whose tensors' names begin with ``prefix`` and a number.

        Raises:
            ValueError: when another number is stated, or a number is stated and there are no blocks.
        """
        numbers = [int(m[1]) for name in self.tensors if (m := re.match(rf"{re.escape(prefix)}(\d+)\.", name))]
        tensors = Counter(numbers)
        whole = max(tensors.values(), default=0)
        found = sum(1 for count in tensors.values() if 2 * count > whole)  # a stray tensor is no block
        if found == 0 and self.get("num_hidden_layers") is not None:
            stated = short(self.get("num_hidden_layers"))
            raise ValueError(f"missing: {prefix}*, of which {self.name}.num_hidden_layers states {stated}")
        return int(self.agreed("num_hidden_layers", found, f"{prefix}*"))

    def heads(self, width: int, found: int | None, where: str, known: Any) -> int:
        """Return ``num_attention_heads``: as the tensors show it, as stated, or else ``known``.

        Raises:
            ValueError: when none of them gives it, the stated number differs from the tensors', or the width is not a
                multiple of it.
        """
        stated = self.get("num_attention_heads")
        if found is None and stated is None:
            if known is None:
                raise ValueError(f"{self.name}.num_attention_heads is not stated, and tensors do not show it")
            found = known
        heads = int(self.agreed("num_attention_heads", found, where))
        if heads < 1 or width % heads:
            raise ValueError(f"{self.name}.num_attention_heads is {heads}, and a width of {width} has no so many parts")
        return heads

    def number(self, field: str, known: Any, least: float, below: float) -> float:
        """Return a number that leaves no trace in the tensors: as stated, or else ``known``.

        Raises:
            ValueError: when it is neither stated nor known, or not within ``least`` <= number < ``below``.
        """
        value = known if self.get(field) is None else self.get(field)
        if value is None:
            raise ValueError(f"{self.name}.{field} is not stated, and tensors do not show it")
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < below:
            raise ValueError(f"{self.name}.{field} is {short(value)}, which is no number of that kind")
        return float(value)

    def epsilon(self, known: Any) -> float:
        """Return ``layer_norm_eps`` as stated, or else ``known``."""
        return self.number("layer_norm_eps", known, 1e-30, 1.0)

    def positive(self, field: str, known: float) -> float:
        """Return a positive number as stated, or else ``known``."""
        return self.number(field, known, 1e-30, 1e30)

    def dropout(self, field: str, known: float = 0.0) -> float:
        """Return a probability as stated, or else ``known``; it has an effect in further training only."""
        return self.number(field, known, 0.0, 1.0)

    def activation(self, known: Any) -> str:
        """Return ``hidden_act`` as stated, or else ``known``; it must be an activation of transformers."""
        value = known if self.get("hidden_act") is None else self.get("hidden_act")
        if not isinstance(value, str) or value not in ACT2FN:
            raise ValueError(f"{self.name}.hidden_act is {short(value)}, which is no activation of transformers")
        return value

    def flag(self, field: str, known: bool = False) -> bool:
        """Return a boolean as stated, or else ``known``."""
        value = known if self.get(field) is None else self.get(field)
        if not isinstance(value, bool):
            raise ValueError(f"{self.name}.{field} is {short(value)}; it is true or false")
        return value

    def choice(self, field: str, known: tuple[str, ...]) -> str:
        """Return a stated word, which must be one of ``known``.

        Raises:
            ValueError: when it is another word, or is not stated.
        """
        value = self.get(field)
        if not isinstance(value, str) or value not in known:
            raise ValueError(f"{self.name}.{field} is {short(value)}; known are {', '.join(known)}")
        return value

    def model_type(self) -> str:
        """Return the stated ``model_type``, or "" where it is missing or empty.

        Raises:
            ValueError: when it is not a string.
        """
        value = self.get("model_type")
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{self.name}.model_type is {short(value)}, which is no name")
        return value or ""


# -- vision and align layers -----------------------------------------------------------------------


def _vision_config(stated: _Stated) -> Dinov2Config:
    if (kind := stated.model_type()) not in ("", "dinov2"):
        raise ValueError(f"vision_config is of a {kind}; the published RadZero's is dinov2")
    known = known_encoder(stated.get("pretrained_name_or_path")) or {}
    if known.get("model_type") != "dinov2":
        known = {}
    embeddings = "vision_model.embeddings."
    kernel = f"{embeddings}patch_embeddings.projection.weight"
    patch = stated.size("patch_size", kernel, 2, 4)
    if stated.length(kernel, 3, 4) not in (None, patch):
        raise ValueError(f"{kernel}: patches of {patch} x {stated.length(kernel, 3, 4)} are not square")
    positions = f"{embeddings}position_embeddings"
    tokens = stated.length(positions, 1, 3)
    side = None
    if tokens is not None:
        side = math.isqrt(max(0, tokens - 1))
        if side < 1 or side * side != tokens - 1:
            raise ValueError(f"{positions}: {tokens} positions are not CLS and a square grid")
    return _dinov2(
        stated,
        "vision_model.encoder.layer.",
        width=stated.size("hidden_size", "vision_model.layernorm.weight", 0, 1),
        known=known,
        image_size=_trained_at(stated, patch, side, positions),
        patch_size=patch,
        num_channels=_three_channels(stated, kernel),
        use_mask_token=f"{embeddings}mask_token" in stated.tensors,
    )


def _three_channels(stated: _Stated, kernel: str) -> int:
    channels = stated.size("num_channels", kernel, 1, 4)
    if channels != 3:
        raise ValueError(f"{stated.name}.num_channels is {channels}; films are given to an encoder in 3 channels")
    return channels


def _trained_at(stated: _Stated, patch: int, side: int | None, positions: str) -> int:
    """Return the image size in pixels for which the positions are made; a stated size must give their grid."""
    size = stated.get("image_size")
    if isinstance(size, list | tuple) and len(size) == 2 and size[0] == size[1]:
        size = size[0]
    if size is None:
        if side is None:
            raise ValueError(f"missing: {positions}, and vision_config.image_size is not stated")
        return side * patch
    size = stated.whole("image_size", size)
    if side is not None and size // patch != side:
        raise ValueError(
            f"vision_config.image_size is {size}, {size // patch} patches of {patch} a side, and the tensors say "
            f"{side} ({positions})"
        )
    return size


def _run_at(vision: _Stated, trained_at: int) -> int:
    """Return ``img_size``, the size in pixels at which the encoder is run; ``trained_at`` where it is not stated."""
    size = vision.get("img_size")
    if isinstance(size, list | tuple) and size:
        size = size[0]
    if size is None:
        return int(trained_at)
    return vision.whole("img_size", size)


def _dinov2(stated: _Stated, prefix: str, width: int, known: Mapping[str, Any], **fields: Any) -> Dinov2Config:
    """Return the configuration of DINOv2 blocks whose tensors' names begin with ``prefix`` and a number."""
    layers = stated.count(prefix)
    first = f"{prefix}0."
    gated = any(f"{first}mlp.{name}.weight" in stated.tensors for name in ("gate_proj", "up_proj"))
    plain = f"{first}mlp.fc1.weight" in stated.tensors
    swiglu = bool(stated.agreed("use_swiglu_ffn", gated, f"{first}mlp")) if gated or plain else False
    biased = f"{first}attention.q_proj.weight" in stated.tensors
    bias = stated.agreed("qkv_bias", f"{first}attention.q_proj.bias" in stated.tensors, first) if biased else True
    hidden = stated.length(f"{first}mlp.{'gate_proj' if swiglu else 'fc1'}.weight", 0, 2)
    return Dinov2Config(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=_dinov2_heads(stated, width, layers, known),
        mlp_ratio=_mlp_ratio(stated, width, hidden, swiglu, first),
        hidden_act=stated.activation(stated.default("hidden_act", **_known(known, "hidden_act"))),
        hidden_dropout_prob=stated.dropout("hidden_dropout_prob"),
        attention_probs_dropout_prob=stated.dropout("attention_probs_dropout_prob"),
        drop_path_rate=stated.dropout("drop_path_rate"),
        layer_norm_eps=stated.epsilon(stated.default("layer_norm_eps", **_known(known, "layer_norm_eps"))),
        qkv_bias=bool(bias),
        use_swiglu_ffn=swiglu,
        layerscale_value=stated.number("layerscale_value", 1.0, -1e30, 1e30),
        **fields,
    )


def _known(known: Mapping[str, Any], field: str) -> dict[str, Any]:
    """Return a field's value, from ``known`` or else as in every DINOv2, and whether it is the named encoder's own."""
    named = field in known and not known.get("borrowed")
    return {"value": known.get(field, FAMILIES["dinov2"].get(field)), "known": named}


def _dinov2_heads(stated: _Stated, width: int, layers: int, known: Mapping[str, Any]) -> int:
    if not layers:
        return 1  # there are no blocks
    heads = known.get("num_attention_heads")
    if heads is not None and known.get("hidden_size") != width:
        heads = None  # the width is not the named encoder's
    if heads is not None:
        stated.default("num_attention_heads", heads, known=not known.get("borrowed"))
    return stated.heads(width, None, f"{stated.name}.num_attention_heads", heads)


def _mlp_ratio(stated: _Stated, width: int, hidden: int | None, swiglu: bool, first: str) -> int:
    """Return the ratio that gives MLPs of the width ``hidden``.

    A gated MLP is two thirds as wide, rounded up to a multiple of 8.
    """
    ratio = stated.get("mlp_ratio")
    if isinstance(ratio, float) and ratio.is_integer():
        ratio = int(ratio)
    if ratio is not None and (isinstance(ratio, bool) or not isinstance(ratio, int) or not 0 < ratio < 1024):
        raise ValueError(f"{stated.name}.mlp_ratio is {short(ratio)}, which is no ratio")

    def gives(ratio: int) -> int:
        return (int(width * ratio * 2 / 3) + 7) // 8 * 8 if swiglu else width * ratio

    if hidden is None:
        return 4 if ratio is None else int(ratio)
    if ratio is None:
        ratio = next((r for r in range(1, 65) if gives(r) == hidden), None)
        if ratio is None:
            raise ValueError(f"{first}mlp: a width of {hidden} is no whole multiple of {width}")
    if gives(ratio) != hidden:
        raise ValueError(
            f"{stated.name}.mlp_ratio is {ratio}, which gives {gives(ratio)}, and the tensors say {hidden} ({first}mlp)"
        )
    return int(ratio)


def _aligner(stated: _Stated) -> str:
    """Return the one of :data:`ALIGNERS` whose tensors are there; a stated type must agree."""
    kinds = {
        "align_transformer": any(name.startswith("align_transformer.layer.") for name in stated.tensors),
        "linear": any(name.startswith("align_linear.") for name in stated.tensors),
        "mlp": any(name.startswith("align_mlp.") for name in stated.tensors),
    }
    found = [kind for kind, there in kinds.items() if there] or ["identity"]
    if len(found) > 1:
        raise ValueError(f"the aligner is one of {', '.join(ALIGNERS)}, and the tensors are of {' and '.join(found)}")
    named = "align_transformer" if stated.model_type() == "dinov2" else stated.model_type()
    if named not in ("", *ALIGNERS):
        raise ValueError(f"{stated.name}.model_type is {short(named)}; known are {', '.join(ALIGNERS)}")
    if found == ["identity"]:
        layers = stated.get("num_hidden_layers")
        if named == "identity" or (layers == 0 and not isinstance(layers, bool)):
            return "identity"
        raise ValueError(
            "missing: align_transformer.*, the aligner's tensors; a checkpoint without an aligner says so by "
            f'{stated.name}.model_type "identity"'
        )
    if named and named != found[0]:
        raise ValueError(
            f"{stated.name}.model_type is {short(named)}, and the tensors say {short(found[0])} (align_transformer.*)"
        )
    return found[0]


def _aligner_norm(stated: _Stated) -> bool:
    """Return whether a LayerNorm follows the aligner."""
    return bool(
        stated.agreed("use_layer_norm", "align_norm.weight" in stated.tensors, "align_transformer.layer_norm.weight")
    )


def _blocks(stated: _Stated, prefix: str, vision: Dinov2Config) -> Dinov2Config:
    """Return the configuration of the align layers; fields that are not stated are as in the vision encoder."""
    names = [name for name in stated.tensors if name.startswith(f"{prefix}layer.")]
    if not names:  # another aligner, or none: stated fields of blocks have no effect
        return Dinov2Config(
            hidden_size=vision.hidden_size,
            num_hidden_layers=0,
            num_attention_heads=1,
            layer_norm_eps=stated.epsilon(vision.layer_norm_eps),
        )
    width = stated.size("hidden_size", f"{prefix}layer.0.norm1.weight", 0, 1)
    known = {
        "borrowed": True,
        "hidden_size": vision.hidden_size,
        "num_attention_heads": vision.num_attention_heads,
        "hidden_act": vision.hidden_act,
        "layer_norm_eps": vision.layer_norm_eps,
    }
    return _dinov2(stated, f"{prefix}layer.", width, known)


def _mlp_activation(stated: _Stated) -> str:
    """Return the activation of an MLP aligner: as its projector_config states it, or else the part itself."""
    projector = stated.get("projector_config")
    if projector is not None and not isinstance(projector, Mapping):
        raise ValueError(f"{stated.name}.projector_config is {short(projector)}, which is no JSON object")
    own = _Stated(f"{stated.name}.projector_config", projector or {}, stated.tensors)
    if own.get("hidden_act") is not None:
        return own.activation(None)
    activation = stated.activation(FAMILIES["dinov2"]["hidden_act"])
    stated.assumed["activation of the mlp"] = activation  # the part's fields may be a default DINOv2's
    return activation


def _mlp_widths(tensors: Mapping[str, Tensor]) -> list[int]:
    """Return the hidden widths of an MLP aligner."""
    weights = [name for name in tensors if re.fullmatch(r"align_mlp\.\d+\.weight", name) and tensors[name].ndim == 2]
    widths = [tensors[name].shape[0] for name in sorted(weights, key=lambda name: int(name.split(".")[1]))]
    return widths[:-1]


# -- text ------------------------------------------------------------------------------------------


def _text_config(stated: _Stated) -> tuple[PreTrainedConfig, dict[str, Any]]:
    """Return the text encoder's configuration, and the fields assumed: neither stated nor the named encoder's own."""
    kind, named = stated.model_type(), known_encoder(stated.get("pretrained_name_or_path"))
    told = _text_kind(stated.tensors)
    if kind and kind != told and "mpnet" in (kind, told):
        which = "those of an mpnet" if told else "not those of an mpnet"
        raise ValueError(f"text_config.model_type is {short(kind)}, and the tensors are {which} (text_model.*)")
    if kind and kind not in _TEXT:
        return _other_text(stated, kind), {}
    kind = kind or told or (str(named["model_type"]) if named else "")
    if kind not in _TEXT:
        raise ValueError(
            "text_config states no model_type, and neither its name nor its tensors (text_model.*) are of an encoder "
            f"that is known here: {short(stated.get('pretrained_name_or_path'))}; add model_type: {' or '.join(_TEXT)}"
        )
    known = named if named and named["model_type"] == kind else None
    return _TEXT[kind](stated, known or {})


def _text_kind(tensors: Mapping[str, Tensor]) -> str | None:
    """Return "mpnet" where the tensors are an MPNet's, else None: other encoders' names do not differ."""
    names = ("text_model.encoder.relative_attention_bias.", "text_model.encoder.layer.0.attention.attn.")
    return "mpnet" if any(name.startswith(names) for name in tensors) else None


def _transformer_sizes(stated: _Stated) -> dict[str, int]:
    """Return the sizes that MPNet and BERT both have."""
    first = "text_model.encoder.layer.0."
    return {
        "vocab_size": stated.size("vocab_size", "text_model.embeddings.word_embeddings.weight", 0, 2),
        "hidden_size": stated.size("hidden_size", "text_model.embeddings.word_embeddings.weight", 1, 2),
        "max_position_embeddings": stated.size(
            "max_position_embeddings", "text_model.embeddings.position_embeddings.weight", 0, 2
        ),
        "num_hidden_layers": stated.count("text_model.encoder.layer."),
        "intermediate_size": stated.size("intermediate_size", f"{first}intermediate.dense.weight", 0, 2),
    }


def _untraced(stated: _Stated, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the text encoder's settings that leave no trace in the tensors."""
    vocabulary = stated.length("text_model.embeddings.word_embeddings.weight", 0, 2) or 2**31
    return {
        "hidden_act": stated.activation(known.get("hidden_act")),
        "layer_norm_eps": stated.epsilon(known.get("layer_norm_eps")),
        "pad_token_id": int(stated.number("pad_token_id", known.get("pad_token_id"), 0, vocabulary)),
        "hidden_dropout_prob": stated.dropout("hidden_dropout_prob", known.get("hidden_dropout_prob", 0.1)),
        "attention_probs_dropout_prob": stated.dropout(
            "attention_probs_dropout_prob", known.get("attention_probs_dropout_prob", 0.1)
        ),
    }


_BUCKETS = 32
"""Number of buckets for distances in transformers' MPNet, whatever its configuration says."""


def _mpnet(stated: _Stated, known: Mapping[str, Any]) -> tuple[PreTrainedConfig, dict[str, Any]]:
    table = "text_model.encoder.relative_attention_bias.weight"
    sizes = _transformer_sizes(stated)
    buckets = stated.size("relative_attention_num_buckets", table, 0, 2)
    if buckets < _BUCKETS:
        raise ValueError(f"{table}: {buckets} buckets, and an MPNet uses {_BUCKETS}")
    heads = stated.heads(sizes["hidden_size"], stated.length(table, 1, 2), table, known.get("num_attention_heads"))
    family = FAMILIES["mpnet"]
    assumed = {key: value for key, value in family.items() if stated.get(key) is None} if not known else {}
    config = MPNetConfig(
        **sizes,
        **_untraced(stated, known or family),
        num_attention_heads=heads,
        relative_attention_num_buckets=buckets,
    )
    return config, assumed


def _bert(stated: _Stated, known: Mapping[str, Any]) -> tuple[PreTrainedConfig, dict[str, Any]]:
    sizes = _transformer_sizes(stated)
    heads = known.get("num_attention_heads")
    if heads is not None and known.get("hidden_size") != sizes["hidden_size"]:
        heads = None
    config = BertConfig(
        **sizes,
        **_untraced(stated, known),
        num_attention_heads=stated.heads(sizes["hidden_size"], None, "text_config.num_attention_heads", heads),
        type_vocab_size=stated.size("type_vocab_size", "text_model.embeddings.token_type_embeddings.weight", 0, 2),
    )
    return config, {}


_TEXT: dict[str, Callable[[_Stated, Mapping[str, Any]], tuple[PreTrainedConfig, dict[str, Any]]]] = {
    "mpnet": _mpnet,
    "bert": _bert,
}


_OTHER_TEXT = ("roberta", "xlm-roberta", "camembert", "distilbert", "electra", "deberta", "deberta-v2", "albert")
"""Text encoders whose configuration is read from the config alone, as transformers writes it, not from the tensors."""
_MOST = 10**6


def _other_text(stated: _Stated, kind: str) -> PreTrainedConfig:
    """Return the configuration of another kind of text encoder, which must be stated as transformers writes it."""
    if kind not in _OTHER_TEXT:
        raise ValueError(f"text_config.model_type is {short(kind)}; known are {', '.join((*_TEXT, *_OTHER_TEXT))}")
    if any(isinstance(value, int) and value > _MOST for value in stated.fields.values()):
        raise ValueError(f"text_config of a {kind} states a size above {_MOST:,}, which no such encoder has")
    if stated.get("hidden_size") is None:
        raise ValueError(
            f"text_config is of a {kind} and states no architecture; without one, {', '.join(_TEXT)} are known"
        )
    noise = ("model_type", "auto_map", "_name_or_path", "torch_dtype", "transformers_version", "architectures")
    fields = {key: value for key, value in stated.fields.items() if key not in noise}
    return AutoConfig.for_model(kind, **fields)


def _text_projector(stated: _Stated) -> bool:
    """Return whether a projection follows the text encoder."""
    return bool(
        stated.agreed("use_text_projection", "text_projection.weight" in stated.tensors, "text_projector.weight")
    )


# -- logits and loss -------------------------------------------------------------------------------


def _logits_and_loss(content: Mapping[str, Any]) -> tuple[str, _Stated]:
    """Return ``compute_logits_type`` and the options of its loss; top level and ``kwargs`` must agree on them."""
    kwargs = content.get("kwargs") or {}
    if not isinstance(kwargs, Mapping):
        raise ValueError(f"kwargs is no JSON object: {short(kwargs)}")
    stated = [part for part in (content, kwargs) if part.get("compute_logits_type") is not None]
    kinds = [part["compute_logits_type"] for part in stated]
    if len(kinds) == 2 and kinds[0] != kinds[1]:
        raise ValueError(f"compute_logits_type is {short(kinds[0])}, and {short(kinds[1])} under kwargs")
    found = [_loss(part["loss"], kinds) for part in (content, kwargs) if part.get("loss") is not None]
    if not found:
        raise ValueError("no loss is stated; its options say how similarities are computed")
    kind, options = found[0]
    if len(found) == 2 and found[0] != found[1]:
        other = found[1][1]
        field = next((key for key in {**options, **other} if options.get(key) != other.get(key)), "apply")
        raise ValueError(
            f"loss: {short(field)} is {short(options.get(field))}, and {short(other.get(field))} under kwargs"
        )
    return kind, _Stated("loss", options, {})


def _loss(loss: Any, kinds: list[Any]) -> tuple[str, dict[str, Any]]:
    """Return the kind of logits, and the options of its loss."""
    if not isinstance(loss, Mapping):
        raise ValueError(f"loss is no JSON object: {short(loss)}")
    every = (*RADZERO_LOSSES, *CLIP_LOSSES)
    applied = loss.get("apply")
    if applied is None:
        applied = [name for name in every if name in loss]
    if not isinstance(applied, list | tuple):
        raise ValueError(f"loss.apply is {short(applied)}, which is no list of names")
    known = [name for name in applied if name in every]
    if not known:
        raise ValueError(f"the loss is {applied}; known are {', '.join(every)}")
    kind = kinds[0] if kinds else "radzero" if known[0] in RADZERO_LOSSES else None
    if not isinstance(kind, str) or kind not in _METHODS:
        raise ValueError(f"compute_logits_type is {short(kind)}; known are {', '.join(_METHODS)}")
    _, losses = _METHODS[kind]
    name = next((name for name in known if name in losses), None)
    if name is None:
        raise ValueError(
            f"compute_logits_type is {short(kind)}, and the loss is {applied}; its losses are {', '.join(losses)}"
        )
    same = losses if losses == RADZERO_LOSSES else (name,)
    options = next((loss[n] for n in (name, *same) if loss.get(n) is not None), None)
    if options is None:
        options = {key: value for key, value in loss.items() if key not in ("apply", "ratio", *every)}
    if not isinstance(options, Mapping):
        raise ValueError(f"loss.{name} is no JSON object: {short(options)}")
    return kind, dict(options)


_RADZERO_OPTIONS = (
    "hidden_dim", "mpnce_row_sum", "mpnce_col_sum", "attn_temperature", "loss_temperature", "text_features_l2_norm",
    "sim_op",
)  # fmt: skip


def _radzero_options(loss: _Stated, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the fields of the configuration that the options of RadZero's own loss give."""
    width = tensors["layer_norm.weight"].shape[0] if "layer_norm.weight" in tensors else None
    if width is not None:
        loss.agreed("hidden_dim", width, "loss_fns.*.layer_norm.weight")
    for field, value in loss.fields.items():
        if field not in _RADZERO_OPTIONS and value is not None:
            raise ValueError(f"loss: {short(field)} is {short(value)}, an option that is not known here")
    separate = loss.get("attn_temperature")
    if not loss.has("attn_temperature") and "log_attention_temperature" in tensors:
        separate = 1.0  # a tensor holds its value
    elif separate is not None:
        separate = loss.positive("attn_temperature", 1.0)
    return {
        "similarity": loss.choice("sim_op", ("cos", "dot")),
        "temperature": loss.positive("loss_temperature", 0.07),
        "attention_temperature": separate,
        "text_l2_norm": loss.flag("text_features_l2_norm"),
        "mpnce_row_sum": loss.flag("mpnce_row_sum"),
        "mpnce_col_sum": loss.flag("mpnce_col_sum"),
    }
