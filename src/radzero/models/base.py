"""What every method here is: two encoders, features of images and sentences, and scores between them.

Images become features (B, T, D) and sentences features (N, ...), each once; scores need features and a few parameters
alone, which are passed along so that a loss over many processes has their gradient (:class:`Features`).

Shape suffixes: B images, N sentences, D hidden size, T tokens: CLS first, registers where they are used, L patches.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.configuration_utils import PreTrainedConfig
from transformers.initialization import no_init_weights
from transformers.utils import ModelOutput

from radzero.models.configuration import VisionLanguageConfig, registers
from radzero.models.errors import CheckpointError
from radzero.models.similarity import SimilarityOutput, TrainingScores
from radzero.models.tensors import check_tensors, check_values, floating_dtype, usual_permissions
from radzero.models.vision import build_vision_encoder, patch_shape, token_grid

if TYPE_CHECKING:
    from radzero.models.checkpoints import Checkpoint

_PASSED_BY_TRANSFORMERS = frozenset(
    ("adapter_kwargs", "_from_auto", "_commit_hash", "trust_remote_code", "low_cpu_mem_usage", "use_safetensors")
)
"""What ``AutoModel`` and common recipes pass to every model; none of it changes how a checkpoint is read here."""
_HUB_OPTIONS = frozenset(("revision", "cache_dir", "token", "local_files_only"))


class Features(NamedTuple):
    """What a loss is computed from.

    Attributes:
        images: (B, T, D).
        sentences: (N, ...).
        score_parameters: parameters that scores need besides, as :meth:`VisionLanguageModel.score_parameters` has
            them.
    """

    images: Tensor
    sentences: Tensor
    score_parameters: tuple[Tensor, ...]


@dataclass
class VisionLanguageOutput(ModelOutput):
    """What a forward pass gives.

    Attributes:
        logits: (B, N), already divided by tau where the method has one.
        similarity: (B, N, L) values of the map row by row of the token grid, before the sigmoid; attention weights
            times T for a map of that kind; None for a method without maps.
        tokens: image features.
        sentences: sentence features.
    """

    logits: Tensor | None = None
    similarity: Tensor | None = None
    tokens: Tensor | None = None
    sentences: Tensor | None = None


class VisionLanguageModel(PreTrainedModel):
    """A vision encoder, a text encoder and a way to compare them; a method says how.

    :meth:`from_pretrained` reads published and own checkpoints; :func:`radzero.load` adds the processor and the device.
    """

    config_class = VisionLanguageConfig
    config: VisionLanguageConfig
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ("Dinov2Layer", "Dinov2WithRegistersLayer", "DINOv3ViTLayer")

    has_maps: ClassVar[bool] = True

    def __init__(self, config: VisionLanguageConfig) -> None:
        super().__init__(config)
        self.vision_model = build_vision_encoder(config.vision_config, config.position_rule)
        self.text_model = _build_text_encoder(config.text_config)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(config.temperature)))
        self.logit_bias = None if config.logit_bias is None else nn.Parameter(torch.tensor(float(config.logit_bias)))

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, VisionLanguageModel):
            init.constant_(module.log_temperature, math.log(self.config.temperature))
            if module.logit_bias is not None and self.config.logit_bias is not None:
                init.constant_(module.logit_bias, self.config.logit_bias)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        config: VisionLanguageConfig | None = None,
        dtype: torch.dtype | str | None = None,
        device_map: str | torch.device | None = None,
        attn_implementation: str | None = None,
        **options: Any,
    ) -> Self:
        """Load our format or the published one, strictly, in evaluation mode.

        Args:
            pretrained_model_name_or_path: a folder or a hub id.
            config: use this configuration instead of the checkpoint's (``AutoModel`` passes the one it has read).
            dtype: of the weights; float32 when None.
            device_map: one device, such as "cuda"; "auto" is a GPU if there is one.
            attn_implementation: "eager", "sdpa", ...; transformers' choice when None.
            **options: ``revision``, ``cache_dir``, ``token``, ``local_files_only`` for hub ids; ``torch_dtype`` is an
                older name of ``dtype``.

        Raises:
            CheckpointError: naming what is missing, unexpected or of a wrong shape, or that it is another method's.
            TypeError: for an option that is not known.
            ValueError: for a dtype that is none.
        """
        from radzero.models.checkpoints import open_checkpoint  # which needs the methods, and they this module

        source = pretrained_model_name_or_path
        dtype = floating_dtype(options.pop("torch_dtype", None) if dtype is None else dtype)
        hub = {key: value for key, value in options.items() if key not in _PASSED_BY_TRANSFORMERS}
        if unknown := sorted(hub.keys() - _HUB_OPTIONS):
            raise TypeError(f"from_pretrained does not know: {', '.join(unknown)}")
        checkpoint = open_checkpoint(source, **hub)
        if config is not None and not checkpoint.published:
            checkpoint = replace(checkpoint, config=config)
        if attn_implementation is not None:
            checkpoint.config._attn_implementation = attn_implementation
        model: Any = cls.class_of(checkpoint).from_checkpoint(checkpoint, dtype=dtype)
        if device_map == "auto":
            device_map = "cuda" if torch.cuda.is_available() else "cpu"
        return model if device_map is None else model.to(device_map)

    @classmethod
    def class_of(cls, checkpoint: "Checkpoint") -> "type[VisionLanguageModel]":
        """The class that :meth:`from_pretrained` makes of a checkpoint."""
        return cls

    @classmethod
    def from_checkpoint(cls, checkpoint: "Checkpoint", *, dtype: torch.dtype | str | None = None) -> Self:
        """:meth:`from_pretrained` of a checkpoint that is open already; nothing of it is opened again.

        Raises:
            CheckpointError: as :meth:`from_pretrained`.
            ValueError: for a dtype that is none.
        """
        source, config, kind = checkpoint.source, checkpoint.config, floating_dtype(dtype)
        wanted: Any = cls.config_class
        if not isinstance(config, wanted):
            raise CheckpointError(
                f"{source}: is a {config.method} checkpoint, not {wanted.method}; radzero.load reads either"
            )
        found = checkpoint.meta()
        parts = [getattr(config, name, None) for name in ("vision_config", "text_config", "align_config")]
        layers = max(int(getattr(part, "num_hidden_layers", 0)) for part in parts)
        if layers > len(found):
            raise CheckpointError(f"{source}: its config.json has {layers} layers, and there are {len(found)} tensors")
        try:
            with torch.device("meta"):  # a size beyond reason is refused before it takes memory
                expected = cls(config).state_dict()
            check_tensors(expected, found, source, checkpoint.name_in_file)
            with no_init_weights():
                model = cls(config)
        except (CheckpointError, MemoryError):
            raise
        except Exception as error:  # of whatever kind a configuration class or a layer raises
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise CheckpointError(f"{source}: its config.json describes no model ({reason})") from error
        tensors = checkpoint.tensors(kind)
        check_values(tensors, source)
        model.load_state_dict(tensors, assign=True)
        model.config.name_or_path = source
        return model.eval()

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """Write a checkpoint under the names that :meth:`from_pretrained` reads; transformers may know older ones."""
        super().save_pretrained(save_directory, **({"save_original_format": False} | options))
        for path in Path(save_directory).glob("*.safetensors"):
            usual_permissions(path)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the encoders' weights; the temperatures are float32 in any case."""
        return next(self.vision_model.parameters()).dtype

    @property
    def temperature(self) -> Tensor:
        """tau, a float32 scalar (float64 in a model of that)."""
        return at_least_float32(self.log_temperature).exp()

    @property
    def patch(self) -> tuple[int, ...]:
        """Input pixels per patch along each axis, (rows, columns)."""
        return patch_shape(self.config.vision_config)

    def token_grid(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Patches along each axis of an input of ``shape`` pixels: the rows and columns of its tokens."""
        return token_grid(self.config.vision_config, shape)

    # -- what a method defines -------------------------------------------------------------------------

    def align(self, vision_tokens: Tensor) -> Tensor:
        """Image features (B, T, D) from the tokens of :meth:`vision_tokens`."""
        raise NotImplementedError

    def encode_sentences(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Features (N, ...) of tokenised sentences, both inputs (N, S); none depends on how far they are padded."""
        raise NotImplementedError

    @property
    def sentence_shape(self) -> tuple[int, ...]:
        """Of one sentence's features."""
        raise NotImplementedError

    def score_parameters(self) -> tuple[Tensor, ...]:
        """What scores need besides features, with gradient."""
        raise NotImplementedError

    def similarity(self, tokens: Tensor, sentences: Tensor) -> SimilarityOutput:
        """Logits (B, N) and values of the maps (B, N, L), or None, of image and sentence features."""
        raise NotImplementedError

    def training_scores(self, features: Features) -> TrainingScores:
        """Scores for training, in bounded memory; uses no parameter but those in ``features.score_parameters``."""
        raise NotImplementedError

    # -- what all share --------------------------------------------------------------------------------

    @property
    def prefix_tokens(self) -> int:
        """How many of the tokens come before the patches: CLS, and registers where the configuration keeps them."""
        return 1 + (registers(self.config.vision_config) if self.config.registers_in_attention else 0)

    def vision_tokens(self, pixel_values: Tensor) -> Tensor:
        """The vision encoder's tokens (B, T, D) of preprocessed images (B, C, H, W).

        CLS comes first, then registers where the configuration keeps them, then the patches row by row.
        """
        tokens = self.vision_model(pixel_values).last_hidden_state
        if dropped := 1 + registers(self.config.vision_config) - self.prefix_tokens:
            tokens = torch.cat((tokens[:, :1], tokens[:, 1 + dropped :]), dim=1)
        return tokens

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """Features (B, T, D) of preprocessed images (B, C, H, W)."""
        return self.align(self.vision_tokens(pixel_values))

    def pooled_states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(N, text size): the text encoder's states, averaged over the attention mask, or the first token's."""
        states = self.text_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if self.config.text_pooling == "cls":
            return cast(Tensor, states[:, 0])
        weights = attention_mask.to(states.dtype).unsqueeze(-1)
        return cast(Tensor, (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9))

    def bias(self) -> Tensor:
        """The logits' bias; 0 where there is none."""
        return self.log_temperature.new_zeros(()) if self.logit_bias is None else self.logit_bias

    def forward(
        self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> VisionLanguageOutput:
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
        return VisionLanguageOutput(logits=logits, similarity=similarity, tokens=tokens, sentences=sentences)


def cosine_logits(images_BD: Tensor, sentences_ND: Tensor, temperature: Tensor, bias: Tensor) -> Tensor:
    """(B, N) cosines over tau plus a bias, in float32 or better whatever the inputs' types."""
    with torch.autocast(images_BD.device.type, enabled=False):
        images, sentences = (F.normalize(at_least_float32(v), dim=-1) for v in (images_BD, sentences_ND))
        return images @ sentences.mT / temperature + bias


def chunked(
    score: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    sentences: Tensor,
    bytes_per_pair: int,
    limit: int = 2**26,
) -> Tensor:
    """(K, B, N) scores of all pairs, computed in chunks; where there are several, again in the backward pass.

    Args:
        score: (K, b, n) scores of b images with n sentences.
        images, sentences: features; neither may be empty.
        bytes_per_pair: that a chunk holds for one pair.
        limit: bytes of a chunk.
    """
    pairs = max(1, limit // bytes_per_pair)
    if len(images) * len(sentences) <= pairs:
        return score(images, sentences)
    columns = min(len(sentences), pairs)
    parts = torch.split(sentences, columns)
    rows = []
    for some in torch.split(images, max(1, pairs // columns)):
        rows.append(torch.cat([checkpoint(score, some, part, use_reentrant=False) for part in parts], dim=2))
    return torch.cat(rows, dim=1)


def empty_scores(features: Features, directions: int = 1) -> TrainingScores:
    """Scores of a batch without images or without sentences: empty, and everything still gets a gradient, of zero."""
    zero = sum(
        (part.sum() * 0.0 for part in (features.images, features.sentences, *features.score_parameters)),
        torch.zeros(()),
    )
    shape = (directions, len(features.images), len(features.sentences))
    empty = features.images.new_zeros(shape) + zero.to(features.images.device)
    return TrainingScores(empty.sum(dim=0), None, empty)


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32, or in float64 if it is in that."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def register_method(config: type[VisionLanguageConfig], model: type[VisionLanguageModel]) -> None:
    """Let transformers' ``AutoConfig`` and ``AutoModel`` know a method; to be called where its model is defined."""
    AutoConfig.register(config.model_type, config)
    AutoModel.register(config, model)


def _build_text_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """The text encoder that a configuration describes, without a pooler, which sentence embeddings do not use."""
    encoder = MODEL_MAPPING[type(config)]
    takes_pooler = "add_pooling_layer" in inspect.signature(encoder.__init__).parameters
    return encoder(config, add_pooling_layer=False) if takes_pooler else encoder(config)
