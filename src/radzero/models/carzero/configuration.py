"""CARZero's settings."""

from typing import Any, ClassVar

from radzero.models.configuration import VisionLanguageConfig

SIMR = ("mlp", "linear", "cos", "cos_own")
MEMORIES = ("both", "local", "global")


class CarZeroConfig(VisionLanguageConfig):
    """CARZero (Lai et al., CVPR 2024): cross-attention between image and text in both directions.

    Attributes:
        text_positions: tokens [sentence ; words] per text, padded with zeros that take part in the attention, as
            published.
        text_layers: number of the text encoder's last layers whose states are summed; all, where it has fewer.
        fusion_layers, fusion_heads, fusion_mlp: the decoder's layers, its attention heads, and the hidden width of its
            MLPs.
        fusion_dropout: dropout probability in the decoder, after it, and in the MLP that makes logits.
        simr: how similarity representations become a logit: "mlp" or "linear" (one logit per direction, whose mean is
            the score), "cos" (the cosine of the two representations) or "cos_own" (the mean of each one's cosine with
            the global token of the side that it attended to); the cosines are divided by tau.
        simr_widths: hidden widths of the MLP that makes logits.
        memory: tokens that are attended to, of images and texts: "both" (global and local), "local" or "global".
        map_kind: values of the map: "attention" weights, or "logits" of single patches.
    """

    model_type: ClassVar[str] = "radzero_carzero"
    method: ClassVar[str] = "CARZero"

    text_positions: int = 97
    text_layers: int = 4
    fusion_layers: int = 4
    fusion_heads: int = 4
    fusion_mlp: int = 1024
    fusion_dropout: float = 0.1
    simr: str = "mlp"
    simr_widths: list[int] | tuple[int, ...] = (1024, 512, 256)
    memory: str = "both"
    map_kind: str = "attention"

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.simr_widths = list(self.simr_widths)
        for name, known in (("simr", SIMR), ("memory", MEMORIES), ("map_kind", ("attention", "logits"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is one of {', '.join(known)}, not {getattr(self, name)!r}")
        if self.map_kind == "attention" and self.memory == "global":
            raise ValueError("an attention map needs local tokens: memory is both or local")
        if self.map_kind == "logits" and self.simr not in ("mlp", "linear"):
            raise ValueError("logits of single patches need simr mlp or linear")
