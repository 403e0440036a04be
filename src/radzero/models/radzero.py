"""RadZero as a transformers model: images -> tokens, sentences -> embeddings, similarity between them."""

import inspect
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import MODEL_MAPPING, AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.configuration_utils import PreTrainedConfig
from transformers.initialization import no_init_weights
from transformers.models.dinov2.modeling_dinov2 import Dinov2Encoder
from transformers.utils import ModelOutput

from radzero.models.checkpoints import (
    CheckpointError,
    check_tensors,
    floating_dtype,
    match_dtype,
    open_checkpoint,
    read_tensors,
    rename_tensors,
)
from radzero.models.configuration import RadZeroConfig
from radzero.models.similarity import Similarity, SimilarityOutput, similarity_logits
from radzero.models.vision import build_vision_encoder, token_grid

_PASSED_BY_TRANSFORMERS = frozenset(
    ("adapter_kwargs", "_from_auto", "_commit_hash", "trust_remote_code", "low_cpu_mem_usage", "use_safetensors")
)
"""What ``AutoModel`` and common recipes pass to every model; none of it changes how a checkpoint is read here."""
_HUB_OPTIONS = frozenset(("revision", "cache_dir", "token", "local_files_only"))


@dataclass
class RadZeroOutput(ModelOutput):
    """What a forward pass gives.

    Attributes:
        logits: (B, N), already divided by tau.
        similarity: (B, N, L) patch similarities before the sigmoid, row by row of the token grid.
        tokens: (B, 1 + L, D) vision tokens after the shared LayerNorm.
        sentences: (N, D) sentence embeddings after the shared LayerNorm.
    """

    logits: Tensor | None = None
    similarity: Tensor | None = None
    tokens: Tensor | None = None
    sentences: Tensor | None = None


class RadZeroModel(PreTrainedModel):
    """RadZero (NeurIPS 2025): see :class:`RadZeroConfig` for its parts.

    :meth:`from_pretrained` reads published and own checkpoints; :func:`radzero.load` adds the processor and the device.
    """

    config_class = RadZeroConfig
    config: RadZeroConfig
    base_model_prefix = "radzero"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ("Dinov2Layer",)

    def __init__(self, config: RadZeroConfig) -> None:
        super().__init__(config)
        size = config.vision_config.hidden_size
        self.vision_model = build_vision_encoder(config.vision_config, config.position_rule)
        self.text_model = _build_text_encoder(config.text_config)
        self.align_transformer = Dinov2Encoder(config.align_config)
        text_size = config.text_config.hidden_size
        self.text_projection = nn.Identity() if text_size == size else nn.Linear(text_size, size)
        self.layer_norm = nn.LayerNorm(size)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(config.temperature)))
        self.log_attention_temperature = (
            None
            if config.attention_temperature is None
            else nn.Parameter(torch.tensor(math.log(config.attention_temperature)))
        )
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, RadZeroModel):
            init.constant_(module.log_temperature, math.log(self.config.temperature))
            if module.log_attention_temperature is not None and self.config.attention_temperature is not None:
                init.constant_(module.log_attention_temperature, math.log(self.config.attention_temperature))

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        config: RadZeroConfig | None = None,
        dtype: torch.dtype | str | None = None,
        device_map: str | torch.device | None = None,
        attn_implementation: str | None = None,
        **options: Any,
    ) -> "RadZeroModel":
        """Load our format or the published one, strictly, in evaluation mode.

        Args:
            pretrained_model_name_or_path: a folder or a hub id.
            config: use this configuration instead of the checkpoint's (``AutoModel`` passes the one it has read).
            dtype: of the weights; float32 when None.
            device_map: one device, such as "cuda".
            attn_implementation: "eager", "sdpa", ...; transformers' choice when None.
            **options: ``revision``, ``cache_dir``, ``token``, ``local_files_only`` for hub ids; ``torch_dtype`` is an
                older name of ``dtype``.

        Raises:
            CheckpointError: naming what is missing, unexpected or of a wrong shape.
            TypeError: for an option that is not known.
            ValueError: for a dtype that is none.
        """
        source = pretrained_model_name_or_path
        dtype = floating_dtype(options.pop("torch_dtype", None) if dtype is None else dtype)
        hub = {key: value for key, value in options.items() if key not in _PASSED_BY_TRANSFORMERS}
        if unknown := sorted(hub.keys() - _HUB_OPTIONS):
            raise TypeError(f"from_pretrained does not know: {', '.join(unknown)}")
        checkpoint = open_checkpoint(source, **hub)
        config = checkpoint.config if config is None or checkpoint.published else config
        if attn_implementation is not None:
            config._attn_implementation = attn_implementation
        try:
            with no_init_weights():
                model = cls(config)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{source}: its config.json describes no model ({error})") from error
        try:
            tensors = rename_tensors(read_tensors(checkpoint.folder))
        except CheckpointError:
            raise
        except ValueError as error:
            raise CheckpointError(f"{source}: {error}") from error
        check_tensors(model.state_dict(), tensors, str(source))
        model.load_state_dict(match_dtype(tensors, dtype), assign=True)
        model.config.name_or_path = str(source)
        return model.eval() if device_map is None else model.eval().to(device_map)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the encoders' weights; the temperatures are float32 in any case."""
        return next(self.vision_model.parameters()).dtype

    @property
    def temperature(self) -> Tensor:
        """tau, a float32 scalar (float64 in a model of that)."""
        return _at_least_float32(self.log_temperature).exp()

    @property
    def attention_temperature(self) -> Tensor | None:
        """The separate attention temperature, or None where tau serves."""
        logarithm = self.log_attention_temperature
        return None if logarithm is None else _at_least_float32(logarithm).exp()

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the patch tokens of an input of ``height`` x ``width`` pixels."""
        return token_grid(self.config.vision_config, height, width)

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """Tokens (B, 1 + L, D), CLS first, after the shared LayerNorm, of preprocessed images (B, C, H, W)."""
        return self.align(self.vision_model(pixel_values).last_hidden_state)

    def align(self, vision_tokens: Tensor) -> Tensor:
        """:meth:`encode_images` from the vision encoder's tokens (B, 1 + L, D) on."""
        return self.layer_norm(self.align_transformer(vision_tokens).last_hidden_state)

    def encode_sentences(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embeddings (N, D) after the shared LayerNorm of tokenised sentences, both inputs (N, S).

        Token states are averaged over the attention mask.
        """
        states = self.text_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask.to(states.dtype).unsqueeze(-1)
        pooled = (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)
        pooled = self.text_projection(pooled)
        if self.config.text_l2_norm:
            pooled = F.normalize(pooled, dim=-1)
        return self.layer_norm(pooled)

    def similarity(self, tokens: Tensor, sentences: Tensor) -> SimilarityOutput:
        """:func:`radzero.similarity_logits` of tokens (B, T, D) and sentences (N, D) with this model's temperatures."""
        return similarity_logits(
            tokens,
            sentences,
            self.temperature,
            cast(Similarity, self.config.similarity),
            self.attention_temperature,
        )

    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None) -> RadZeroOutput:
        """Every sentence against every image.

        Args:
            pixel_values: (B, C, H, W) preprocessed images.
            input_ids: (N, S) token ids.
            attention_mask: (N, S), 1 for tokens; all ones when None.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        tokens = self.encode_images(pixel_values)
        sentences = self.encode_sentences(input_ids, attention_mask)
        logits, similarity = self.similarity(tokens, sentences)
        return RadZeroOutput(logits=logits, similarity=similarity, tokens=tokens, sentences=sentences)


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _build_text_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """The text encoder that a configuration describes, without a pooler, which sentence embeddings do not use."""
    encoder = MODEL_MAPPING[type(config)]
    takes_pooler = "add_pooling_layer" in inspect.signature(encoder.__init__).parameters
    return encoder(config, add_pooling_layer=False) if takes_pooler else encoder(config)


AutoModel.register(RadZeroConfig, RadZeroModel)
