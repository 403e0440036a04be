"""CLIP-style models of transformers (CLIP, SigLIP, MedSigLIP, ...) in the benchmarks: scores, no maps."""

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

    The score is the model's own logit: the cosine of image and sentence times its scale, plus its bias where it has one
    (SigLIP's sigmoid then is a probability; CLIP's is none, and only ranks).

    Args:
        source: folder or hub id.
        device: where it runs.
        revision, local_files_only: of a hub id; "owner/name@revision" names a revision too.

    Raises:
        ValueError: for what is no such model.
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
        # SigLIP was trained on sentences that are padded to the full length, without a mask
        self._whole = self.model.config.model_type.startswith("siglip")

    @torch.inference_mode()
    def embed_sentences(self, sentences: Sequence[str]) -> Tensor:
        """(N, D) unit vectors."""
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
        """(B, D) unit vectors."""
        pictures = [Image.fromarray(film.to_uint8()).convert("RGB") for film in films]
        inputs = self.images(images=pictures, return_tensors="pt")
        return _unit(self.model.get_image_features(pixel_values=inputs["pixel_values"].to(self.device)))

    @torch.inference_mode()
    def logits(self, images: Tensor, sentences: Tensor) -> Logits:
        """(B, N)."""
        scores = images @ sentences.T * self.model.logit_scale.exp()
        if hasattr(self.model, "logit_bias"):
            scores = scores + self.model.logit_bias
        logits: Logits = scores.float().cpu().numpy().astype(np.float32)
        return logits

    def raw_map(self, images: Tensor, sentences: Tensor, film: int, sentence: int) -> None:
        """None: these models compare whole images."""


def _unit(features: Any) -> Tensor:
    """Unit vectors from features, which newer versions of transformers return as pooled output."""
    return F.normalize(features if isinstance(features, Tensor) else features.pooler_output, dim=-1)
