"""What all methods share: two encoders, features of images and sentences, and scores between them.

Images are encoded once, as features (B, T, D), and so are sentences, as features (N, ...). Scores need only features
and a few parameters, which are passed along so that a loss over many processes has their gradient (:class:`Features`).

Shape suffixes: B images, N sentences, D hidden size, T tokens (CLS, then registers where they are used, then L
patches).
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

from radzero._transformers import OUR_TYPES
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
"""Options that ``AutoModel`` and common recipes pass to every model; none changes how a checkpoint is read here."""
_HUB_OPTIONS = frozenset(("revision", "cache_dir", "token", "local_files_only"))


class Features(NamedTuple):
    """The inputs of a loss.

    Attributes:
        images: image features, (B, T, D).
        sentences: sentence features, (N, ...).
        score_parameters: the parameters that scores also need, from :meth:`VisionLanguageModel.score_parameters`.
    """

    images: Tensor
    sentences: Tensor
    score_parameters: tuple[Tensor, ...]


@dataclass
class VisionLanguageOutput(ModelOutput):
    """The output of a forward pass.

    Attributes:
        logits: (B, N), already divided by tau where the method has one.
        similarity: (B, N, L) values of the map row by row of the token grid, before the sigmoid; for a map of
            attention weights, the weights times the number of tokens attended to; None for a method without maps.
        tokens: image features, (B, T, D).
        sentences: sentence features, (N, ...).
    """

    logits: Tensor | None = None
    similarity: Tensor | None = None
    tokens: Tensor | None = None
    sentences: Tensor | None = None


class VisionLanguageModel(PreTrainedModel):
    """A vision encoder, a text encoder and a way to compare them, which each method defines.

    :meth:`from_pretrained` reads checkpoints in our format and the published one; :func:`radzero.load` also loads the
    processor and chooses the device.
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
        """Load a checkpoint in our format or the published one, strictly; the model is in evaluation mode.

        Args:
            pretrained_model_name_or_path: a folder or a hub id.
            config: configuration to use instead of the checkpoint's (``AutoModel`` passes the one it has read); ignored
                for a published checkpoint.
            dtype: floating type of the weights; float32 when None.
            device_map: one device, such as "cuda"; "auto" is a GPU if there is one; the CPU when None.
            attn_implementation: "eager", "sdpa", ...; transformers chooses when None.
            **options: ``revision``, ``cache_dir``, ``token``, ``local_files_only`` for hub ids; ``torch_dtype`` is an
                older name of ``dtype``.

        Raises:
            CheckpointError: when the checkpoint cannot be read, is another method's, or has tensors that are missing,
                unexpected or of a wrong shape; the message names them.
            TypeError: for an option that is not known.
            ValueError: when ``dtype`` is not a floating type.
        """
        from radzero.models.checkpoints import open_checkpoint  # here, because its methods import this module

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
        """Return the class of the model that :meth:`from_pretrained` loads from a checkpoint."""
        return cls

    @classmethod
    def from_checkpoint(cls, checkpoint: "Checkpoint", *, dtype: torch.dtype | str | None = None) -> Self:
        """Load a model as :meth:`from_pretrained` does, from a checkpoint that is open already.

        Raises:
            CheckpointError: see :meth:`from_pretrained`.
            ValueError: when ``dtype`` is not a floating type.
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
            with torch.device("meta"):  # so that an absurd size is refused before it takes memory
                expected = cls(config).state_dict()
            check_tensors(expected, found, source, checkpoint.name_in_file)
            with no_init_weights():
                model = cls(config)
        except (CheckpointError, MemoryError):
            raise
        except Exception as error:  # configuration classes and layers raise errors of any type
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise CheckpointError(f"{source}: its config.json describes no model ({reason})") from error
        tensors = checkpoint.tensors(kind)
        check_values(tensors, source)
        model.load_state_dict(tensors, assign=True)
        model.config.name_or_path = source
        return model.eval()

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """Write a checkpoint under the names that :meth:`from_pretrained` reads, not under transformers' older ones."""
        super().save_pretrained(save_directory, **({"save_original_format": False} | options))
        for path in Path(save_directory).glob("*.safetensors"):
            usual_permissions(path)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the vision encoder's weights; temperatures and the logits' bias are always loaded as float32."""
        return next(self.vision_model.parameters()).dtype

    @property
    def temperature(self) -> Tensor:
        """tau, a float32 scalar (float64 where the parameter is float64)."""
        return at_least_float32(self.log_temperature).exp()

    @property
    def patch(self) -> tuple[int, ...]:
        """Input pixels per patch along each axis, (rows, columns)."""
        return patch_shape(self.config.vision_config)

    def token_grid(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the rows and columns of the token grid of an input of ``shape`` pixels."""
        return token_grid(self.config.vision_config, shape)

    # -- what a method defines -------------------------------------------------------------------------

    def align(self, vision_tokens: Tensor) -> Tensor:
        """Return image features (B, T, D) from the tokens of :meth:`vision_tokens`."""
        raise NotImplementedError

    def encode_sentences(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the features (N, ...) of tokenised sentences, both inputs (N, S); padding does not change them."""
        raise NotImplementedError

    @property
    def sentence_shape(self) -> tuple[int, ...]:
        """Shape of one sentence's features."""
        raise NotImplementedError

    def score_parameters(self) -> tuple[Tensor, ...]:
        """Return the parameters that scores need besides features, with gradient."""
        raise NotImplementedError

    def similarity(self, tokens: Tensor, sentences: Tensor) -> SimilarityOutput:
        """Return the logits (B, N) of image and sentence features, and the maps' values (B, N, L) or None."""
        raise NotImplementedError

    def training_scores(self, features: Features) -> TrainingScores:
        """Return scores for training, in bounded memory; use no parameters but ``features.score_parameters``."""
        raise NotImplementedError

    # -- what all share --------------------------------------------------------------------------------

    @property
    def prefix_tokens(self) -> int:
        """Number of tokens before the patches: CLS, and registers where the configuration keeps them."""
        return 1 + (registers(self.config.vision_config) if self.config.registers_in_attention else 0)

    def vision_tokens(self, pixel_values: Tensor) -> Tensor:
        """Return the vision encoder's tokens (B, T, D) of preprocessed images (B, C, H, W).

        CLS comes first, then registers where the configuration keeps them, then the patches row by row.
        """
        tokens = self.vision_model(pixel_values).last_hidden_state
        if dropped := 1 + registers(self.config.vision_config) - self.prefix_tokens:
            tokens = torch.cat((tokens[:, :1], tokens[:, 1 + dropped :]), dim=1)
        return tokens

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """Return the features (B, T, D) of preprocessed images (B, C, H, W)."""
        return self.align(self.vision_tokens(pixel_values))

    def pooled_states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the text encoder's states (N, text size), averaged over the attention mask, or the first token's."""
        states = self.text_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if self.config.text_pooling == "cls":
            return cast(Tensor, states[:, 0])
        weights = attention_mask.to(states.dtype).unsqueeze(-1)
        return cast(Tensor, (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9))

    def bias(self) -> Tensor:
        """Return the logits' bias; 0 where there is none."""
        return self.log_temperature.new_zeros(()) if self.logit_bias is None else self.logit_bias

    def forward(
        self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> VisionLanguageOutput:
        """Compare every sentence with every image.

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
    """Return the cosines (B, N) divided by tau, plus a bias; float32, or float64 for float64 inputs."""
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
    """Return the scores (K, B, N) of all pairs, computed in chunks of bounded memory.

    Where there are several chunks, each is computed again in the backward pass.

    Args:
        score: function that returns the scores (K, b, n) of b images and n sentences.
        images, sentences: features; neither may be empty.
        bytes_per_pair: memory that a chunk needs for one pair, in bytes.
        limit: memory that a chunk may need, in bytes.
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
    """Return empty scores, for a batch without images or sentences; every input still gets a gradient, of zero."""
    zero = sum(
        (part.sum() * 0.0 for part in (features.images, features.sentences, *features.score_parameters)),
        torch.zeros(()),
    )
    shape = (directions, len(features.images), len(features.sentences))
    empty = features.images.new_zeros(shape) + zero.to(features.images.device)
    return TrainingScores(empty.sum(dim=0), None, empty)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return the tensor in float32, or unchanged if it is float64."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def register_method(config: type[VisionLanguageConfig], model: type[VisionLanguageModel]) -> None:
    """Register a method with transformers' ``AutoConfig`` and ``AutoModel``; call it where the model is defined.

    Raises:
        ValueError: when ``model_type`` has another beginning than ours, by which transformers is told of our classes
            (:mod:`radzero._transformers`).
    """
    if not config.model_type.startswith(OUR_TYPES):
        raise ValueError(f"{config.__name__}.model_type must begin with {' or '.join(OUR_TYPES)}: {config.model_type}")
    AutoConfig.register(config.model_type, config)
    AutoModel.register(config, model)


def _build_text_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """Build the text encoder of a configuration, without the pooler, which sentence embeddings do not use."""
    encoder = MODEL_MAPPING[type(config)]
    takes_pooler = "add_pooling_layer" in inspect.signature(encoder.__init__).parameters
    return encoder(config, add_pooling_layer=False) if takes_pooler else encoder(config)
