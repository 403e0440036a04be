"""Give the vision encoder low-rank adapters (LoRA, Hu et al. 2021) by peft; a saved model has them merged."""

from copy import deepcopy

from torch import nn

from radzero.models.base import VisionLanguageModel
from radzero.models.vision import ConvStemModel

_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2", "gate_proj", "up_proj", "down_proj")
"""Linear layers of a DINOv2 or DINOv3 block, plain or gated."""


def add_adapters(model: VisionLanguageModel, rank: int) -> None:
    """Freeze the vision encoder and put adapters of this rank on its linear layers.

    Raises:
        ValueError: for an encoder without transformer blocks.
        ImportError: when peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError("model.train_vision: lora needs peft: pip install 'radzero[train]'") from error
    if isinstance(model.vision_model, ConvStemModel):
        raise ValueError("model.train_vision: lora is for transformer blocks; train a small one in full")
    model.vision_model.requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(_TARGETS)), model.vision_model)


def merged(model: VisionLanguageModel) -> VisionLanguageModel:
    """Return a copy of plain layers whose weights have the adapters added; the model itself if it has no adapters."""
    if not any("lora_" in name for name, _ in model.named_parameters()):
        return model
    from peft.tuners.lora import LoraLayer

    whole = deepcopy(model)
    for name, module in [(n, m) for n, m in whole.named_modules() if isinstance(m, LoraLayer)]:
        module.merge()
        parent, _, last = name.rpartition(".")
        base = module.get_base_layer()
        assert isinstance(base, nn.Module)
        setattr(whole.get_submodule(parent), last, base)
    return whole
