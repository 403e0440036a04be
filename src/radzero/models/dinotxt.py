"""dino.txt: transformer blocks on a locked encoder; CLS and the mean of the patches form the image's vector."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radzero.models.aligner import add_aligner, run_aligner
from radzero.models.base import at_least_float32, cosine_logits, register_method
from radzero.models.configuration import AlignedConfig
from radzero.models.similarity import SimilarityOutput
from radzero.models.vectors import VectorModel


class DinoTxtConfig(AlignedConfig):
    """dino.txt (Jose et al. 2025): blocks on a locked encoder; CLS and the averaged patches form the image's vector."""

    model_type: ClassVar[str] = "radzero_dinotxt"
    method: ClassVar[str] = "dino.txt"

    align_norm: bool = True


class DinoTxtModel(VectorModel):
    """dino.txt (Jose et al., CVPR 2025).

    With v_0 the CLS token after the blocks and a LayerNorm, and m the mean of the patch tokens v_1..v_L, an image's
    vector is x = [v_0 ; m] / |[v_0 ; m]| (2D), a sentence's t is its embedding projected to 2D and L2-normalised, and
    the logit is <x, t> / tau. The map compares patches with the half of t that is compared with m:
    s_k = <v_k / |v_k|, t'> / tau with t' the second half of t, L2-normalised.
    """

    config_class = DinoTxtConfig
    config: DinoTxtConfig
    base_model_prefix = "radzero_dinotxt"

    def __init__(self, config: DinoTxtConfig) -> None:
        size = config.vision_config.hidden_size
        super().__init__(config, 2 * size)
        add_aligner(self, config)
        self.layer_norm = nn.LayerNorm(size) if config.align_norm else nn.Identity()
        self.post_init()

    def align(self, vision_tokens: Tensor) -> Tensor:
        """Return the tokens (B, T, D) after the blocks and their LayerNorm."""
        return self.layer_norm(run_aligner(self, vision_tokens))

    def vectors(self, tokens: Tensor) -> Tensor:
        """Return the image vectors [CLS ; mean of the patches] (B, 2D), not normalised."""
        tokens = at_least_float32(tokens)
        return torch.cat((tokens[:, 0], tokens[:, self.prefix_tokens :].mean(dim=1)), dim=-1)

    def similarity(self, tokens: Tensor, sentences: Tensor) -> SimilarityOutput:
        """Return the logits (B, N), and the patches' cosines with the sentences' second halves over tau (B, N, L)."""
        tau, bias = self.score_parameters()[0]
        with torch.autocast(tokens.device.type, enabled=False):
            patches = F.normalize(at_least_float32(tokens[:, self.prefix_tokens :]), dim=-1)
            facing = F.normalize(at_least_float32(sentences).chunk(2, dim=-1)[1], dim=-1)
            return SimilarityOutput(
                cosine_logits(self.vectors(tokens), sentences, tau, bias), facing @ patches.mT / tau
            )


register_method(DinoTxtConfig, DinoTxtModel)
