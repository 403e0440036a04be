"""Read and convert CARZero's released checkpoints, which are PyTorch Lightning files, without running their content.

Such a file is a pickle: besides tensors, it names classes of Lightning and OmegaConf. Inert stand-ins replace the names
that are expected; a file with any other name is refused before that name is looked up. While a file is read, only this
module's allow-list applies: those that other code has given to torch are suspended.
"""

import math
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals, safe_globals
from transformers import AutoTokenizer, BertConfig, ViTConfig
from transformers.initialization import no_init_weights

from radzero.models.carzero.configuration import CarZeroConfig
from radzero.models.carzero.image_processor import CarZeroImageProcessor
from radzero.models.carzero.network import CarZeroModel
from radzero.models.errors import CheckpointError
from radzero.models.processor import RadZeroProcessor
from radzero.models.tensors import check_tensors

CLINICAL_BERT = "emilyalsentzer/Bio_ClinicalBERT"
"""Hub id of the tokenizer of the released checkpoints, which do not hold it."""
FUSION_HEADS = 4
"""Attention heads of the released checkpoints' fusion module; no tensor's shape shows the number."""


def convert_lightning(path: str | Path, output: str | Path, text: str | Path = CLINICAL_BERT) -> Path:
    """Write a CARZero checkpoint of PyTorch Lightning to the folder ``output`` in our format, with its processor.

    Args:
        path: the file, such as ``CARZero_best_model.ckpt``.
        output: a folder without a checkpoint.
        text: folder or hub id of the text encoder's tokenizer.

    Raises:
        CheckpointError: see :func:`read_lightning`.
        ValueError: when ``output`` already holds a checkpoint.
    """
    output = Path(output)
    if (output / "config.json").exists():
        raise ValueError(f"{output}: holds a checkpoint already; name another folder")
    model, processor = read_lightning(path, text)
    output.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(output)
    processor.image_processor.save_pretrained(output)
    processor.tokenizer.save_pretrained(output)
    return output


def read_lightning(path: str | Path, text: str | Path = CLINICAL_BERT) -> tuple[CarZeroModel, RadZeroProcessor]:
    """Load the model, in evaluation mode, and the processor of a CARZero checkpoint of PyTorch Lightning.

    Sizes are read from the tensors' shapes. Every tensor is used, or dropped because CARZero does not use it. The
    numbers of heads are read from ``hyper_parameters`` (``model.vision.num_heads`` and the like); where it has none,
    the encoders have 64 values per head, and the fusion module has :data:`FUSION_HEADS` heads.

    Raises:
        CheckpointError: when the file names objects that are not expected, is damaged or is no checkpoint; when tensors
            are missing, not understood or of a wrong shape; when the tokenizer cannot be read or does not fit.
    """
    content = _unpickle(Path(path))
    tensors = _rename(_state_dict(content, path), path)
    config = _config(tensors, content.get("hyper_parameters"), path)
    tokenizer = _tokenizer(text, config.text_config.vocab_size)
    try:
        with no_init_weights():
            model = CarZeroModel(config)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise CheckpointError(f"{path}: its tensors describe no model ({error})") from error
    model.set_vocabulary(tokenizer.get_vocab())
    expected = model.state_dict()
    tensors |= {name: expected[name] for name in ("log_temperature", "word_start")}  # the file lacks them
    check_tensors(expected, tensors, str(path))
    model.load_state_dict(tensors)
    images = CarZeroImageProcessor(
        size={"longest_edge": round(config.image_size * 256 / 224)},
        crop_size={"height": config.image_size, "width": config.image_size},
    )
    processor = RadZeroProcessor(images, tokenizer)
    processor.positions = config.text_config.max_position_embeddings
    return model.eval(), processor


# -- unpickling -----------------------------------------------------------------------------------


class _StandIn:
    """A stand-in for an object of another package; it keeps its state and does nothing."""

    state: Any = None

    def __new__(cls, *_: Any) -> "_StandIn":
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _StandInDict:
    """A stand-in for another kind of dict: it makes a plain dict, which the restricted unpickler can fill."""

    def __new__(cls, *_: Any) -> dict[Any, Any]:  # type: ignore[misc]
        return {}


_OBJECTS = (
    "argparse.Namespace",
    *(f"builtins.{name}" for name in ("bool", "dict", "float", "int", "list", "str", "tuple")),
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.base.UnionNode",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    *(
        f"omegaconf.nodes.{name}Node"
        for name in ("Any", "Boolean", "Bytes", "Enum", "Float", "Integer", "InterpolationResult", "Path", "String")
    ),
    *(f"pathlib.{name}" for name in ("Path", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")),
    *(f"typing.{name}" for name in ("Any", "Dict", "List", "Optional", "Tuple", "Union")),
    *(
        f"{package}.callbacks.{name}"
        for package in ("pytorch_lightning", "lightning.pytorch")
        for name in (
            "early_stopping.EarlyStopping",
            "lr_monitor.LearningRateMonitor",
            "model_checkpoint.ModelCheckpoint",
            "timer.Timer",
        )
    ),
    *("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"),  # for a callback's best score
)
_DICTS = (
    "collections.defaultdict",
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)
_STAND_INS: list[Any] = [
    # one class per name, because some of the classes are keys of a dict
    *((type(name.rsplit(".", 1)[1], (_StandIn,), {}), name) for name in _OBJECTS),
    *((type(name.rsplit(".", 1)[1], (_StandInDict,), {}), name) for name in _DICTS),
]
_WANTED = re.compile(r"GLOBAL (\S+) (?:was not|whose)")
"""Pattern of the name that torch's restricted unpickler refused, in the message of its error."""


@contextmanager
def _only_stand_ins() -> Iterator[None]:
    """Allow only the stand-ins' names in pickles, besides what torch itself needs for tensors."""
    others = get_safe_globals()
    clear_safe_globals()
    try:
        with safe_globals(_STAND_INS):
            yield
    finally:
        add_safe_globals(others)


def _unpickle(path: Path) -> dict[str, Any]:
    """Return the dictionary in a Lightning file, with stand-ins for objects that are not of plain types."""
    if path.is_dir():
        raise CheckpointError(f"{path}: is a folder; a Lightning checkpoint is a file")
    if not path.exists():
        raise CheckpointError(f"{path}: no such file")
    try:
        with _only_stand_ins(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of other pickle protocols; it fails if it cannot read one
            content = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle raises errors of nearly any type
        reason = " ".join(str(error).split())
        if wanted := _WANTED.search(reason):
            name = wanted[1] if "." in wanted[1] else f"builtins.{wanted[1]}"
            raise CheckpointError(
                f"{path}: wants {name}, which weights do not need and which could run code. Nothing was run and the "
                "file is refused; ask its publisher for the state dict alone"
            ) from error
        raise CheckpointError(
            f"{path}: is damaged, or no checkpoint of PyTorch ({reason[:200] or type(error).__name__}); copy it again"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise CheckpointError(f"{path}: holds no state_dict, so it is not a checkpoint of PyTorch Lightning")
    return content


def _setting(parameters: Any, *keys: str) -> Any:
    """Return ``parameters[key][key]...`` of dicts, namespaces and OmegaConf's containers; None where it is missing."""
    for key in keys:
        parameters = _unwrapped(parameters)
        parameters = parameters.get(key) if isinstance(parameters, dict) else None
    return _unwrapped(parameters)


def _unwrapped(value: Any) -> Any:
    if not isinstance(value, _StandIn) or not isinstance(value.state, dict):
        return value
    return value.state.get("_content", value.state.get("_val", value.state))  # a container, a node, a namespace


# -- tensors --------------------------------------------------------------------------------------

_PREFIX = "CARZero."
_BLOCK = r"img_encoder\.model\.blocks\.(\d+)"
_LAYER = r"fusion_module\.decoder\.layers\.(\d+)"
_END = r"(weight|bias)"
_ATTENTION = r"(in_proj_weight|in_proj_bias|out_proj\.weight|out_proj\.bias)"
_QKV = re.compile(rf"{_BLOCK}\.attn\.qkv\.{_END}")
_HEAD = re.compile(rf"fusion_module\.(?!decoder\b)(\w+?)(?:\.(\d+))?\.{_END}")
"""Names of the fusion module's head: a linear layer, or the layers of a Sequential by their index."""
_RENAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"text_encoder\.model\.((?:embeddings|encoder)\..+)", r"text_model.\1"),
        (r"img_encoder\.model\.cls_token", "vision_model.embeddings.cls_token"),
        (r"img_encoder\.model\.pos_embed", "vision_model.embeddings.position_embeddings"),
        (
            rf"img_encoder\.model\.patch_embed\.proj\.{_END}",
            r"vision_model.embeddings.patch_embeddings.projection.\1",
        ),
        (rf"{_BLOCK}\.norm1\.{_END}", r"vision_model.layers.\1.layernorm_before.\2"),
        (rf"{_BLOCK}\.norm2\.{_END}", r"vision_model.layers.\1.layernorm_after.\2"),
        (rf"{_BLOCK}\.attn\.proj\.{_END}", r"vision_model.layers.\1.attention.o_proj.\2"),
        (rf"{_BLOCK}\.mlp\.(fc1|fc2)\.{_END}", r"vision_model.layers.\1.mlp.\2.\3"),
        (rf"img_encoder\.model\.norm\.{_END}", r"vision_model.layernorm.\1"),
        (rf"fusion_module\.decoder_norm\.{_END}", r"fusion_module.decoder_norm.\1"),
        (rf"{_LAYER}\.(norm2|norm3|linear1|linear2)\.{_END}", r"fusion_module.layers.\1.\2.\3"),
        (rf"{_LAYER}\.multihead_attn\.{_ATTENTION}", r"fusion_module.layers.\1.multihead_attn.\2"),
        (rf"fusion_module\.decoder\.norm\.{_END}", r"fusion_module.final_norm.\1"),
    )
)
_UNUSED = re.compile(
    rf"text_encoder\.model\.(pooler\.dense\.{_END}|embeddings\.position_ids)"
    rf"|{_LAYER}\.(norm1\.{_END}|self_attn\.{_ATTENTION})"
)
"""Tensors that are dropped: the pooler, a constant, and the decoder's self-attention, which CARZero does not use."""


def _state_dict(content: Mapping[str, Any], path: str | Path) -> dict[str, Tensor]:
    """Return the tensors by their names below ``CARZero.``."""
    tensors = content["state_dict"]
    if not any(str(key).startswith(_PREFIX) for key in tensors):
        raise CheckpointError(f"{path}: has no tensors named {_PREFIX}..., so it is no CARZero:{_few(tensors)}")
    if bad := [key for key in tensors if not str(key).startswith(_PREFIX)]:
        raise CheckpointError(f"{path}: tensors beside {_PREFIX}... are not understood:{_few(bad)}")
    if bad := [key for key, tensor in tensors.items() if not _is_plain(tensor)]:
        raise CheckpointError(f"{path}: these are no plain tensors:{_few(bad)}")
    return {key.removeprefix(_PREFIX): tensor.detach() for key, tensor in tensors.items()}


def _is_plain(tensor: Any) -> bool:
    return (
        isinstance(tensor, Tensor)
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()  # not one repeated value
    )


def _few(keys: Any) -> str:
    """List the first 8 names, one per line, and say how many more there are."""
    names = [str(key) for key in keys]
    return "\n  ".join(["", *names[:8], *([f"and {len(names) - 8} more"] if len(names) > 8 else [])])


def _rename(tensors: Mapping[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    """Return the released state dict under our names, without the tensors that CARZero does not use.

    Raises:
        CheckpointError: when tensors are not understood, or there is not exactly one head.
    """
    renamed: dict[str, Tensor] = {}
    head: dict[tuple[str, int, str], Tensor] = {}
    unknown = []
    for key, tensor in tensors.items():
        if _UNUSED.fullmatch(key):
            continue
        if match := _QKV.fullmatch(key):
            if not tensor.ndim or tensor.shape[0] % 3:
                raise CheckpointError(f"{path}: {key}: shape {tuple(tensor.shape)} is no query, key and value")
            for part, third in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"vision_model.layers.{match[1]}.attention.{part}_proj.{match[2]}"] = third
        elif found := next((m.expand(new) for old, new in _RENAMES if (m := old.fullmatch(key))), None):
            renamed[found] = tensor
        elif match := _HEAD.fullmatch(key):
            head[match[1], int(match[2] or 0), match[3]] = tensor
        else:
            unknown.append(_PREFIX + key)
    if unknown:
        vision = any(key.startswith(f"{_PREFIX}img_encoder.") for key in unknown)
        hint = "; the image encoder must be a ViT as timm and MAE name its parts" if vision else ""
        raise CheckpointError(f"{path}: {len(unknown)} tensors are not understood{hint}:{_few(unknown)}")
    names = sorted({name for name, _, _ in head})
    if len(names) != 1:
        which = ", ".join(names) or "it is missing"
        raise CheckpointError(f"{path}: the fusion module has one head that makes logits, such as mlp_head; {which}")
    indices = sorted({index for _, index, _ in head})
    for (_, index, end), tensor in head.items():
        # ReLU and dropout are between linear layers
        place = "" if len(indices) == 1 else f".{3 * indices.index(index)}"
        renamed[f"fusion_module.head{place}.{end}"] = tensor
    return renamed


def _config(tensors: Mapping[str, Tensor], parameters: Any, path: str | Path) -> CarZeroConfig:
    """Return the configuration that the tensors' shapes, and the numbers of heads in ``parameters``, describe."""

    def shape(name: str, dimensions: int) -> tuple[int, ...]:
        if name not in tensors:
            raise CheckpointError(f"{path}: tensors do not fit the configuration:\n  missing: {name}")
        found = tuple(tensors[name].shape)
        if len(found) != dimensions or min(found) < 1:
            raise CheckpointError(f"{path}: {name}: shape {found}, not one of {dimensions} dimensions")
        return found

    def layers(prefix: str) -> int:
        return len({key.removeprefix(prefix).split(".")[0] for key in tensors if key.startswith(prefix)})

    def heads(part: str, size: int, otherwise: int) -> int:
        names = ("num_heads", "num_attention_heads", "heads", "nhead")
        values = (_setting(parameters, "model", part, name) for name in names)
        count = next((value for value in values if value is not None), otherwise)
        if isinstance(count, bool) or not isinstance(count, int) or count < 1 or size % count:
            raise CheckpointError(
                f"{path}: {part} of size {size} with {count!r} heads; hyper_parameters has to say their number as "
                f"model.{part}.num_heads"
            )
        return count

    width, channels, patch, across = shape("vision_model.embeddings.patch_embeddings.projection.weight", 4)
    patches = shape("vision_model.embeddings.position_embeddings", 3)[1] - 1
    side = math.isqrt(max(patches, 0))
    if patch != across or side < 1 or side * side != patches:
        raise CheckpointError(f"{path}: {patches} patches of {patch} x {across} pixels are no square image")
    vocabulary, text_width = shape("text_model.embeddings.word_embeddings.weight", 2)
    last = "fusion_module.head.weight"
    linear = last in tensors
    widths = [
        shape(f"fusion_module.head.{3 * k}.weight", 2)[0] for k in range(0 if linear else layers("fusion_module.head."))
    ]
    if shape(last if linear else f"fusion_module.head.{3 * len(widths) - 3}.weight", 2)[0] != 1:
        raise CheckpointError(f"{path}: the fusion module's head gives {(widths or shape(last, 2))[-1]} values, not 1")
    return CarZeroConfig(
        vision_config=ViTConfig(
            hidden_size=width,
            num_hidden_layers=layers("vision_model.layers."),
            num_attention_heads=heads("vision", width, width // 64),
            intermediate_size=shape("vision_model.layers.0.mlp.fc1.weight", 2)[0],
            image_size=side * patch,
            patch_size=patch,
            num_channels=channels,
            qkv_bias="vision_model.layers.0.attention.q_proj.bias" in tensors,
            layer_norm_eps=1e-6,
        ),
        text_config=BertConfig(
            vocab_size=vocabulary,
            hidden_size=text_width,
            num_hidden_layers=layers("text_model.encoder.layer."),
            num_attention_heads=heads("text", text_width, text_width // 64),
            intermediate_size=shape("text_model.encoder.layer.0.intermediate.dense.weight", 2)[0],
            max_position_embeddings=shape("text_model.embeddings.position_embeddings.weight", 2)[0],
            type_vocab_size=shape("text_model.embeddings.token_type_embeddings.weight", 2)[0],
        ),
        image_size=side * patch,
        fusion_layers=layers("fusion_module.layers."),
        fusion_heads=heads("fusion", width, FUSION_HEADS),
        fusion_mlp=shape("fusion_module.layers.0.linear1.weight", 2)[0],
        simr="linear" if linear else "mlp",
        simr_widths=widths[:-1],
        card={
            "data": "as its publisher states",
            "licence": "as its publisher states",
            "converted_from": "CARZero (PyTorch Lightning)",
        },
    )


def _tokenizer(text: str | Path, vocabulary: int) -> Any:
    """Load the tokenizer, whose vocabulary must be of the text encoder's size."""
    hint = "name the folder or hub id of the text encoder's tokenizer (--text)"
    try:
        tokenizer = AutoTokenizer.from_pretrained(text, trust_remote_code=False)
        count = max(tokenizer.get_vocab().values(), default=-1) + 1
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{text}: its tokenizer cannot be read ({reason}); {hint}") from error
    if count != vocabulary:
        raise CheckpointError(f"{text}: its tokenizer has {count} tokens, the text encoder {vocabulary}; {hint}")
    return tokenizer
