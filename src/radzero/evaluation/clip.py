"""Run CLIP-style models of transformers (CLIP, SigLIP, MedSigLIP, ...) in the benchmarks; they have no maps."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModel, AutoTokenizer
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from radzero.evaluation.models import Logits
from radzero.images import Radiograph
from radzero.models.hub import folder_of


class ClipInBenchmark:
    """A dual encoder as :class:`~radzero.evaluation.models.ZeroShotModel`.

    The score is the model's own logit: the cosine of image and sentence times its scale, plus its bias if it has one.
    The sigmoid of SigLIP's logit is a probability; that of CLIP's is not, and only ranks.

    Args:
        source: folder or hub id of the model.
        device: device that the model runs on.
        revision, local_files_only: for a hub id, as in :func:`radzero.load`; "owner/name@revision" works too.

    Raises:
        ValueError: when the source is not a CLIP-style model.
    """

    def __init__(
        self,
        source: str,
        device: str | torch.device = "cpu",
        *,
        revision: str | None = None,
        local_files_only: bool = False,
    ) -> None:
        folder = folder_of(source, revision=revision, local_files_only=local_files_only)
        try:
            self.model = AutoModel.from_pretrained(folder, local_files_only=True).eval().to(device)
            self.images = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, SafetensorError) as error:
            raise ValueError(f"{source}: cannot be loaded as a CLIP-style model: {error}") from error
        if not (hasattr(self.model, "get_image_features") and hasattr(self.model, "logit_scale")):
            raise ValueError(f"{source}: is a {self.model.config.model_type}, no CLIP-style model")
        self.name, self.device = source, torch.device(device)
        weights = sorted(folder.glob("*.safetensors"))
        digest = hashlib.sha256()
        for path in weights:
            digest.update(path.read_bytes())
        self.sha256 = digest.hexdigest() if weights else ""
        # SigLIP was trained on sentences padded to the full length, without an attention mask
        self._whole = self.model.config.model_type.startswith("siglip")

    @torch.inference_mode()
    def embed_sentences(self, sentences: Sequence[str]) -> Tensor:
        """Return the sentences as (N, D) unit vectors."""
        parts = []
        for first in range(0, len(sentences), 256):
            tokens = self.tokenizer(
                list(sentences[first : first + 256]),
                padding="max_length" if self._whole else True,
                max_length=self.model.config.text_config.max_position_embeddings,
                truncation=True,
                return_tensors="pt",
            )
            if self._whole:
                tokens.pop("attention_mask", None)
            parts.append(_unit(self.model.get_text_features(**tokens.to(self.device))))
        return torch.cat(parts)

    @torch.inference_mode()
    def embed_images(self, films: Sequence[Radiograph]) -> Tensor:
        """Return the images as (B, D) unit vectors."""
        pictures = [Image.fromarray(film.to_uint8()).convert("RGB") for film in films]
        inputs = self.images(images=pictures, return_tensors="pt")
        return _unit(self.model.get_image_features(pixel_values=inputs["pixel_values"].to(self.device)))

    @torch.inference_mode()
    def logits(self, images: Tensor, sentences: Tensor) -> Logits:
        """Return the (B, N) scores of images and sentences."""
        scores = images @ sentences.T * self.model.logit_scale.exp()
        if hasattr(self.model, "logit_bias"):
            scores = scores + self.model.logit_bias
        logits: Logits = scores.float().cpu().numpy().astype(np.float32)
        return logits

    def raw_map(self, images: Tensor, sentences: Tensor, film: int, sentence: int) -> None:
        """Return None: these models compare whole images."""


def _unit(features: Any) -> Tensor:
    """Return features, which newer versions of transformers wrap as pooled output, as unit vectors."""
    return F.normalize(features if isinstance(features, Tensor) else features.pooler_output, dim=-1)
