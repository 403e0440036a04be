"""Read the tensors of a checkpoint folder from safetensors files, sharded or not, strictly. Pickles are never read."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from radzero.models.errors import CheckpointError, shown_name

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""Torch types by their names in a file's header; a model's weights have no other type."""


def weight_names(folder: Path) -> list[str]:
    """Return ``model.safetensors``, or the names of the shards where the folder has their index instead.

    Raises:
        CheckpointError: when the index is damaged.
    """
    if (folder / WEIGHTS).exists() or not (folder / INDEX).exists():
        return [WEIGHTS]
    return sorted({Path(name).name for name in _index(folder).values()})


def _index(folder: Path) -> dict[str, str]:
    """Return the index of a folder: tensor name -> shard name."""
    index = folder / INDEX
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not weight_map:
            raise ValueError("it names no tensor")
        return {str(name): str(Path(shard)) for name, shard in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise CheckpointError(f"{index}: is no index of shards ({error}); copy it again") from error


def weight_files(folder: Path) -> list[Path]:
    """Return the path of the folder's ``model.safetensors``, or those of the shards that its index names.

    Raises:
        CheckpointError: when there are none, a shard is missing or the index is damaged.
    """
    names = weight_names(folder)
    for name in names:
        if not (folder / name).is_file():
            pickled = sorted(p.name for p in folder.glob("*.bin"))
            hint = (
                f"; {', '.join(pickled)} is a pickle, which can run code: convert it to safetensors" if pickled else ""
            )
            raise CheckpointError(f"{folder}: has no {name}{hint or '; copy the folder again, with all of its files'}")
    return [folder / name for name in names]


class Weights:
    """The tensors of a folder. Each file is opened once; names and shapes come from its header, values on demand.

    Args:
        folder: folder of a checkpoint.

    Raises:
        CheckpointError: see :func:`weight_files`; also when a file is damaged or unreadable, two files hold the same
            tensor, or no shard holds a tensor that the index names.
    """

    def __init__(self, folder: Path) -> None:
        self.files = weight_files(folder)
        self._homes: dict[str, Any] = {}
        for path in self.files:
            if not os.access(path, os.R_OK):
                raise CheckpointError(f"{path}: may not be read by this user; change its permissions")
            try:
                file = safe_open(path, framework="pt", backend="pread")  # a mapped file ends the process if it shrinks
                names = list(file.keys())  # type: ignore[no-untyped-call]
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{path}: {_damage(path, error)}") from error
            if twice := [name for name in names if name in self._homes]:
                raise CheckpointError(
                    f"{path}: holds {shown_name(twice[0])}, which another shard holds too; copy the folder again"
                )
            self._homes |= dict.fromkeys(names, file)
        if self.files[0].name != WEIGHTS and (lost := _index(folder).keys() - self._homes.keys()):
            raise CheckpointError(
                f"{folder / INDEX}: names tensors that no shard holds, such as {shown_name(min(lost))}; copy the "
                "shards again"
            )

    def meta(self) -> dict[str, Tensor]:
        """Return the tensors on torch's "meta" device: shapes and types, without values."""
        found = {}
        for name, file in self._homes.items():
            header = file.get_slice(name)
            dtype = _DTYPES.get(header.get_dtype(), torch.uint8)
            found[name] = torch.empty(header.get_shape(), dtype=dtype, device="meta")
        return found

    def load(self, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """Return all tensors on the CPU: floating ones in ``dtype`` (float32 when None), others in their own type.

        Temperatures and biases of logits, which scale or shift every logit, are float32 in any case. Tensors are read
        and converted one at a time, so that the weights are in memory only once.

        Raises:
            CheckpointError: when a file cannot be read.
        """
        try:
            return {
                name: aligned(match_dtype(name, file.get_tensor(name), dtype)) for name, file in self._homes.items()
            }
        except (SafetensorError, OSError, TypeError, ValueError) as error:
            raise CheckpointError(f"{self.files[0].parent}: its weights cannot be read ({error})") from error


def _damage(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        if file.read(len(_LFS)) == _LFS:
            return "is a pointer of Git LFS in place of the weights; fetch them: git lfs pull"
    if path.is_symlink():  # as in the hub's cache
        return f"damaged or truncated ({error}); delete {path.resolve()}, and the next run fetches it anew"
    return f"damaged or truncated ({error}); copy it again"


_LFS = b"version https://git-lfs"


def check_tensors(
    expected: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    where: str,
    in_file: Callable[[str], str] = lambda name: name,
) -> None:
    """Raise a :class:`CheckpointError` where tensors are missing, unexpected, wrongly shaped or not of a floating type.

    The message names the first 20 of them.

    Args:
        expected: tensors of the model; their values are not used.
        found: tensors of the checkpoint, under the model's names.
        where: the checkpoint's name, for the message.
        in_file: function that returns a tensor's name in the checkpoint's files.
    """

    def also(key: str) -> str:
        name = in_file(key)
        return "" if name == key else f" (in the files: {shown_name(name)})"

    problems = [f"missing: {key}{also(key)}" for key in expected if key not in found]
    problems += [f"unexpected: {shown_name(key)}{also(key)}" for key in found if key not in expected]
    problems += [
        f"{key}: shape {tuple(found[key].shape)}, not {tuple(tensor.shape)}{also(key)}"
        for key, tensor in expected.items()
        if key in found and found[key].shape != tensor.shape
    ]
    problems += [
        f"{shown_name(key)}: {t.dtype}, not a floating type{also(key)}"
        for key, t in found.items()
        if not t.is_floating_point()
    ]
    if problems:
        shown = "\n  ".join(problems[:20])
        more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise CheckpointError(f"{where}: tensors do not fit the configuration:\n  {shown}{more}")


def check_values(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise a :class:`CheckpointError` where values are not finite or a temperature's logarithm is beyond +-20."""
    if bad := [name for name, tensor in tensors.items() if not _is_finite(tensor)]:
        more = f" and {len(bad) - 1} more tensors" if len(bad) > 1 else ""
        raise CheckpointError(f"{where}: {bad[0]}{more} hold values that are not finite; the weights are damaged")
    for name, tensor in tensors.items():
        if name in ("log_temperature", "log_attention_temperature") and abs(float(tensor)) > _MOST_LOG_TEMPERATURE:
            raise CheckpointError(f"{where}: {name} is {float(tensor):.4g}, whose exponential is no temperature")


def _is_finite(tensor: Tensor) -> bool:
    """Return whether all values are finite, by the least and the greatest, so that no mask of all values is made."""
    return not tensor.numel() or bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())


_MOST_LOG_TEMPERATURE = 20.0


def weights_hash(folder: Path) -> str:
    """Return the SHA-256, in hexadecimal, of the folder's weight files in the order of their names.

    Raises:
        FileNotFoundError: when there are none, a shard is missing or the index is damaged.
    """
    digest = hashlib.sha256()
    try:
        paths = weight_files(folder)
    except CheckpointError as error:
        raise FileNotFoundError(f"{folder}: its weights (*.safetensors) are not there any more") from error
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def floating_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """Return a torch dtype by its name; None and "auto" give None, which callers take as float32.

    Raises:
        ValueError: when it is not float32, bfloat16, float16 or float64.
    """
    if dtype is None or dtype == "auto":
        return None
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        raise ValueError(f"{dtype!r} is no type that models run in; use float32, bfloat16 or float16")
    return found


_SCALARS = ("temperature", "logit_scale", "logit_bias")
"""Endings of the names of tensors that are float32 in any case."""


def match_dtype(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Return a floating tensor in ``dtype`` (float32 when None), or in float32 if it scales or shifts every logit."""
    if not tensor.is_floating_point():
        return tensor
    return tensor.to(torch.float32 if name.endswith(_SCALARS) else dtype or torch.float32)


def aligned(tensor: Tensor) -> Tensor:
    """Return the tensor, copied where its address is not a multiple of 64 bytes.

    At other addresses, matrix products round differently: the same weights in a file with a longer header gave other
    last digits.
    """
    return tensor if tensor.data_ptr() % 64 == 0 else tensor.clone()


def usual_permissions(path: Path) -> None:
    """Give a file the usual permissions of a new file; safetensors writes files that only their owner may read."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)
