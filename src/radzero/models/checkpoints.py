"""Checkpoints in our format and the published one (``CxrAlignModel``): safetensors only, strict, no remote code."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer

from radzero.models.configuration import CONFIGS, RadZeroConfig, VisionLanguageConfig
from radzero.models.processor import RadZeroProcessor

PUBLISHED_ARCHITECTURE = "CxrAlignModel"
PUBLISHED_LOSSES = ("RadZeroLoss", "KeyPhraseAlignmentLoss")
_OFFSET_POSITIONS = ("mpnet", "roberta", "xlm-roberta", "camembert", "longformer")
"""Text encoders whose first position is 2."""
_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.md")


class CheckpointError(ValueError):
    """A checkpoint that cannot be loaded; the message names the folder, what is wrong and what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint folder.

    Attributes:
        folder: where its files are.
        source: what the user named: the hub id or folder.
        config: the method's configuration, translated where the checkpoint is a published RadZero.
        published: whether it is in the published format.
    """

    folder: Path
    source: str
    config: VisionLanguageConfig
    published: bool


def open_checkpoint(
    source: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Checkpoint:
    """Find a checkpoint's folder (a folder, or a hub id fetched or cached) and read its configuration.

    Raises:
        CheckpointError: when there is no such folder or hub id, or its ``config.json`` is not one of ours.
    """
    folder = Path(source)
    if not folder.is_dir():
        folder = _download(str(source), revision, cache_dir, token, local_files_only)
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: has no config.json, so it is not a checkpoint folder") from None
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds no JSON object")
    published = PUBLISHED_ARCHITECTURE in (content.get("architectures") or ()) or "compute_logits_type" in content
    own = CONFIGS.get(str(content.get("model_type")))
    if not published and own is None:
        raise CheckpointError(
            f"{path}: is of a {content.get('model_type') or content.get('architectures')!r} model; RadZero reads "
            f"{', '.join(CONFIGS)} and the published {PUBLISHED_ARCHITECTURE}"
        )
    try:
        config = translate_config(content) if published or own is None else own.from_dict(content)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return Checkpoint(folder, str(source), config, published)


def _download(
    source: str,
    revision: str | None,
    cache_dir: str | Path | None,
    token: str | bool | None,
    local_files_only: bool,
) -> Path:
    try:
        return Path(
            snapshot_download(
                source,
                revision=revision,
                cache_dir=cache_dir,
                token=token,
                local_files_only=local_files_only,
                allow_patterns=list(_FILES),
                ignore_patterns=["*/*"],  # the published copy's data/ folders hold report sentences
            )
        )
    except HFValidationError:
        raise CheckpointError(f"{source}: no such folder, and not a hub id (owner/name) either") from None
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{source}: no such folder, and the hub knows no such model (or it is private)"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise CheckpointError(
            f"{source}: no such folder, and the hub cannot be asked ({type(error).__name__}). On a machine without "
            "internet, copy the model's folder there and name it"
        ) from error


# -- configuration of the published format --------------------------------------------------------


def translate_config(content: Mapping[str, Any]) -> RadZeroConfig:
    """Our configuration of a published ``config.json``.

    Raises:
        ValueError: for a logits type or a loss that is not RadZero's, or options that are not known.
    """
    for key in ("vision_config", "text_config"):
        if not isinstance(content.get(key), dict):
            raise ValueError(f"{key} is missing or no JSON object")
    kind = content.get("compute_logits_type", "radzero")
    if kind != "radzero":
        raise ValueError(f'compute_logits_type is {kind!r}; only "radzero" is RadZero')
    loss = content.get("loss") or (content.get("kwargs") or {}).get("loss") or {}
    if not isinstance(loss, dict):
        raise ValueError(f"loss is no JSON object: {loss!r}")
    applied = loss.get("apply") or [name for name in PUBLISHED_LOSSES if name in loss]
    name = next((n for n in applied if n in PUBLISHED_LOSSES), None)
    if name is None:
        raise ValueError(f"the loss is {applied}; known are {', '.join(PUBLISHED_LOSSES)}")
    options = next((dict(loss[n]) for n in (name, *PUBLISHED_LOSSES) if loss.get(n)), None)
    if options is None:
        options = {key: value for key, value in loss.items() if key != "apply"}
    vision = dict(content["vision_config"])
    vision.setdefault("model_type", "dinov2")
    if vision["model_type"] != "dinov2":
        raise ValueError(f"vision_config is of a {vision['model_type']}; the published RadZero's is dinov2")
    text = dict(content["text_config"])
    text.setdefault("model_type", "mpnet")
    inherited = (
        "hidden_size",
        "num_attention_heads",
        "mlp_ratio",
        "layer_norm_eps",
        "use_swiglu_ffn",
        "qkv_bias",
    )
    align = {key: vision[key] for key in inherited if key in vision}
    align |= {"num_hidden_layers": 2} | dict(content.get("align_transformer_config") or {})
    run_at = vision.pop("img_size", None) or vision.get("image_size", 224)
    for part in (vision, text, align):
        for key in ("auto_map", "_name_or_path", "torch_dtype", "transformers_version", "architectures"):
            part.pop(key, None)
    align.pop("model_type", None)
    return RadZeroConfig(
        vision_config=vision,
        text_config=text,
        align_config=align,
        image_size=int(run_at[0] if isinstance(run_at, list | tuple) else run_at),
        similarity=options.get("sim_op") or "cos",
        temperature=options.get("loss_temperature") or 0.07,
        attention_temperature=options.get("attn_temperature"),
        text_l2_norm=bool(options.get("text_features_l2_norm", False)),
        mpnce_row_sum=bool(options.get("mpnce_row_sum", False)),
        mpnce_col_sum=bool(options.get("mpnce_col_sum", False)),
        position_rule="offset",
        card={
            "data": "as its publisher states (the published RadZero: MIMIC-CXR)",
            "licence": "as its publisher states (the published RadZero: CC BY-NC 4.0)",
            "converted_from": PUBLISHED_ARCHITECTURE,
        },
    )


# -- tensors --------------------------------------------------------------------------------------

_RENAMES = (
    (re.compile(r"\.attention\.attention\.query\."), ".attention.q_proj."),
    (re.compile(r"\.attention\.attention\.key\."), ".attention.k_proj."),
    (re.compile(r"\.attention\.attention\.value\."), ".attention.v_proj."),
    (re.compile(r"\.attention\.output\.dense\."), ".attention.o_proj."),
    (re.compile(r"\.mlp\.weights_out\."), ".mlp.down_proj."),
    (re.compile(r"^align_transformer\.transformer_layers\."), "align_transformer."),
)
_DINOV2_PREFIXES = ("vision_model.", "align_transformer.")
_LOSS_KEY = re.compile(rf"^loss_fns\.(?:{'|'.join(PUBLISHED_LOSSES)})\.(.+)$")
_LOSS_NAMES = {
    "loss_temperature": "log_temperature",
    "attn_temperature": "log_attention_temperature",
    "layer_norm.weight": "layer_norm.weight",
    "layer_norm.bias": "layer_norm.bias",
}
_UNUSED = re.compile(r"^text_model\.(pooler\..*|embeddings\.position_ids)$")
"""Tensors of published text encoders that sentence embeddings do not use: the pooler, and a constant."""


def rename_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict (or ours) under our names; both DINOv2 namings and both loss-module names are known.

    Raises:
        ValueError: when two tensors would have the same name, or a fused SwiGLU weight cannot be halved.
    """
    renamed: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if _UNUSED.match(key):
            continue
        for name, value in _rename(key, tensor):
            if name in renamed:
                raise ValueError(f"two tensors for {name}: the checkpoint mixes namings")
            renamed[name] = value
    return renamed


def _rename(key: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    if match := _LOSS_KEY.match(key):
        name = _LOSS_NAMES.get(match[1], key)
        return [(name, tensor.reshape(()) if name.startswith("log_") and tensor.numel() == 1 else tensor)]
    if not key.startswith(_DINOV2_PREFIXES):
        return [(key, tensor)]
    for pattern, replacement in _RENAMES:
        key = pattern.sub(replacement, key)
    if ".mlp.weights_in." in key:  # the giant model's gate and value in one matrix
        if tensor.shape[0] % 2:
            raise ValueError(f"{key}: {tuple(tensor.shape)} cannot be halved into gate and value")
        gate, up = tensor.chunk(2, dim=0)
        return [(key.replace("weights_in", "gate_proj"), gate), (key.replace("weights_in", "up_proj"), up)]
    return [(key, tensor)]


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder's ``model.safetensors``, or of the shards that its index names.

    Raises:
        CheckpointError: when there are none, a shard is missing or a file is damaged. Pickled weights are never read.
    """
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if not (folder / names[0]).exists() and index.exists():
        try:
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            names = sorted({Path(name).name for name in weight_map.values()})
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise CheckpointError(f"{index}: is no index of shards ({error}); copy it again") from error
    tensors: dict[str, Tensor] = {}
    for name in names:
        path = folder / Path(name).name
        if not path.exists():
            pickled = sorted(p.name for p in folder.glob("*.bin"))
            hint = (
                f"; {', '.join(pickled)} is a pickle, which can run code: convert it to safetensors" if pickled else ""
            )
            raise CheckpointError(f"{folder}: has no {path.name}{hint}")
        try:
            tensors.update(load_file(path))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: damaged or truncated ({error}); copy it again") from error
    return tensors


def check_tensors(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], where: str) -> None:
    """Raise a :class:`CheckpointError` naming every missing, unexpected or wrongly shaped tensor."""
    problems = [f"missing: {key}" for key in expected if key not in found]
    problems += [f"unexpected: {key}" for key in found if key not in expected]
    problems += [
        f"{key}: shape {tuple(found[key].shape)}, not {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in found and found[key].shape != tensor.shape
    ]
    problems += [f"{key}: {t.dtype}, not a floating type" for key, t in found.items() if not t.is_floating_point()]
    if problems:
        shown = "\n  ".join(problems[:20])
        more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise CheckpointError(f"{where}: tensors do not fit the configuration:\n  {shown}{more}")


_TOKENIZER_FILES = (
    "tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model",
)  # fmt: skip
"""Files that a tokenizer's vocabulary is in; without one, transformers makes up an empty one."""


def load_processor(folder: Path, config: VisionLanguageConfig | None = None) -> RadZeroProcessor:
    """The image processor and tokenizer of a checkpoint's own files.

    ``config``, where it is known, keeps transformers from asking ``config.json`` what model this is: a published
    checkpoint's is one that transformers has never heard of.

    Raises:
        CheckpointError: when either is missing or damaged.
    """
    if not any((folder / name).exists() for name in _TOKENIZER_FILES):
        raise CheckpointError(f"{folder}: has no tokenizer of its own (none of {', '.join(_TOKENIZER_FILES)})")
    parts = []
    for what, loader, options in (
        ("image processor (preprocessor_config.json)", AutoImageProcessor, {"backend": "pil"}),
        (
            "tokenizer (tokenizer.json, tokenizer_config.json)",
            AutoTokenizer,
            {"config": config.text_config} if config else {},
        ),
    ):
        try:
            parts.append(loader.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
            raise CheckpointError(f"{folder}: its {what} cannot be read ({error})") from error
    if not parts[1].vocab_size:
        raise CheckpointError(f"{folder}: its tokenizer has no vocabulary (no tokenizer.json or vocab.txt)")
    processor = RadZeroProcessor(*parts)
    if config and (positions := getattr(config.text_config, "max_position_embeddings", None)):
        processor.positions = int(positions) - (2 if config.text_config.model_type in _OFFSET_POSITIONS else 0)
    if config and (positions := getattr(config, "text_positions", None)):  # CARZero's texts have so many tokens at most
        processor.positions = min(processor.positions or positions, int(positions))
    return processor


def weights_hash(folder: Path) -> str:
    """SHA-256 over the folder's safetensors files, in the order of their names.

    Raises:
        FileNotFoundError: when there are none.
    """
    digest = hashlib.sha256()
    if not (paths := sorted(folder.glob("*.safetensors"))):
        raise FileNotFoundError(f"{folder}: its weights (*.safetensors) are not there any more")
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def floating_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """A torch dtype by its name; None and "auto" are None, which is float32.

    Raises:
        ValueError: for what is no floating type.
    """
    if dtype is None or dtype == "auto":
        return None
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        raise ValueError(f"{dtype!r} is no type that models run in; use float32, bfloat16 or float16")
    return found


def match_dtype(tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Tensors in one floating dtype, float32 when None; temperatures, which scale every logit, always in float32."""
    return {
        key: tensor.to(torch.float32 if key.endswith(("temperature", "logit_bias")) else dtype or torch.float32)
        for key, tensor in tensors.items()
    }
