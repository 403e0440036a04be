"""RadZero once more, slowly: float64 loops written from the published description of the method.

Nothing here imports the library or transformers, so that an error would have to be made twice to go unnoticed. Weights
are a dict of numpy arrays under the published checkpoint's names (DINOv2's old naming, ``RadZeroLoss``).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from PIL import Image

Array = np.ndarray
Weights = dict[str, Array]

SHARED_NORM_EPS = 1e-5
LOSS = "loss_fns.RadZeroLoss."

# -- pieces --------------------------------------------------------------------------------------------------


def layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    """Of one vector."""
    mean = sum(x) / len(x)
    variance = sum((value - mean) ** 2 for value in x) / len(x)
    return (x - mean) / math.sqrt(variance + eps) * weight + bias


def softmax(scores: Array) -> Array:
    weights = np.array([math.exp(s - max(scores)) for s in scores])
    return weights / sum(weights)


def gelu(x: Array) -> Array:
    return np.array([0.5 * value * (1 + math.erf(value / math.sqrt(2))) for value in x])


def silu(x: Array) -> Array:
    return np.array([value / (1 + math.exp(-value)) for value in x])


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-np.asarray(x, dtype=np.float64)))


def linear(x: Array, w: Weights, name: str) -> Array:
    """Of one vector; a layer without bias has none in the checkpoint."""
    out = w[f"{name}.weight"].astype(np.float64) @ x
    return out + w[f"{name}.bias"] if f"{name}.bias" in w else out


def normed(x: Array, w: Weights, name: str, eps: float) -> Array:
    return layer_norm(x, w[f"{name}.weight"].astype(np.float64), w[f"{name}.bias"].astype(np.float64), eps)


def self_attention(
    rows: list[Array], w: Weights, names: tuple[str, str, str], heads: int, bias: Array | None = None
) -> list[Array]:
    """Multi-head attention before its output projection; ``bias`` (heads, S, S) is added to the scores."""
    query, key, value = ([linear(row, w, name) for row in rows] for name in names)
    width = len(query[0]) // heads
    out = []
    for i in range(len(rows)):
        parts = []
        for head in range(heads):
            span = slice(head * width, (head + 1) * width)
            scores = [query[i][span] @ key[j][span] / math.sqrt(width) for j in range(len(rows))]
            if bias is not None:
                scores = [scores[j] + bias[head, i, j] for j in range(len(rows))]
            share = softmax(np.array(scores))
            parts.append(sum(share[j] * value[j][span] for j in range(len(rows))))
        out.append(np.concatenate(parts))
    return out


# -- vision --------------------------------------------------------------------------------------------------


def cubic(distance: float, a: float = -0.75) -> float:
    """The cubic convolution kernel of bicubic resampling."""
    x = abs(distance)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    if x < 2:
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return 0.0


def interpolated_positions(positions: Array, grid: tuple[int, int], rule: str) -> Array:
    """(1 + rows * columns, D) from (1 + n0 * n0, D); "offset" is the old rule, a scale of (n + 0.1) / n0 per side."""
    side = math.isqrt(len(positions) - 1)
    if grid == (side, side):
        return positions.astype(np.float64)
    old = positions[1:].reshape(side, side, -1).astype(np.float64)
    offset = 0.1 if rule == "offset" else 0.0

    def taps(index: int, target: int) -> list[tuple[int, float]]:
        at = (index + 0.5) * side / (target + offset) - 0.5
        first = math.floor(at)
        return [(min(max(k, 0), side - 1), cubic(at - k)) for k in range(first - 1, first + 3)]

    out = [positions[0].astype(np.float64)]
    for i in range(grid[0]):
        for j in range(grid[1]):
            out.append(sum(wy * wx * old[y, x] for y, wy in taps(i, grid[0]) for x, wx in taps(j, grid[1])))
    return np.array(out)


def dinov2_block(rows: list[Array], w: Weights, name: str, config: dict[str, Any]) -> list[Array]:
    eps = config.get("layer_norm_eps", 1e-6)
    inner = [normed(row, w, f"{name}.norm1", eps) for row in rows]
    names = tuple(f"{name}.attention.attention.{part}" for part in ("query", "key", "value"))
    mixed = self_attention(inner, w, names, config["num_attention_heads"])
    out = []
    for row, attended in zip(rows, mixed, strict=True):
        row = row + w[f"{name}.layer_scale1.lambda1"] * linear(attended, w, f"{name}.attention.output.dense")
        x = normed(row, w, f"{name}.norm2", eps)
        if config.get("use_swiglu_ffn"):
            both = linear(x, w, f"{name}.mlp.weights_in")
            gate, value = both[: len(both) // 2], both[len(both) // 2 :]
            x = linear(silu(gate) * value, w, f"{name}.mlp.weights_out")
        else:
            x = linear(gelu(linear(x, w, f"{name}.mlp.fc1")), w, f"{name}.mlp.fc2")
        out.append(row + w[f"{name}.layer_scale2.lambda1"] * x)
    return out


def image_tokens(pixels: Array, w: Weights, config: dict[str, Any], rule: str = "offset") -> Array:
    """(1 + L, D), CLS first, after the align layers and the shared LayerNorm, of (3, H, W) preprocessed pixels."""
    vision, align = config["vision_config"], config["align_transformer_config"]
    patch = vision["patch_size"]
    grid = (pixels.shape[1] // patch, pixels.shape[2] // patch)
    kernel = w["vision_model.embeddings.patch_embeddings.projection.weight"].astype(np.float64)
    bias = w["vision_model.embeddings.patch_embeddings.projection.bias"]
    rows = [w["vision_model.embeddings.cls_token"][0, 0].astype(np.float64)]
    for i in range(grid[0]):
        for j in range(grid[1]):
            window = pixels[:, i * patch : (i + 1) * patch, j * patch : (j + 1) * patch].astype(np.float64)
            rows.append(np.array([(kernel[d] * window).sum() + bias[d] for d in range(len(kernel))]))
    positions = interpolated_positions(w["vision_model.embeddings.position_embeddings"][0], grid, rule)
    rows = [row + position for row, position in zip(rows, positions, strict=True)]
    for i in range(vision["num_hidden_layers"]):
        rows = dinov2_block(rows, w, f"vision_model.encoder.layer.{i}", vision)
    rows = [normed(row, w, "vision_model.layernorm", vision.get("layer_norm_eps", 1e-6)) for row in rows]
    kind = align.get("model_type")
    if kind == "linear":
        rows = [linear(row, w, "align_transformer.linear") for row in rows]
    elif kind == "mlp":
        rows = [linear(gelu(linear(row, w, "align_transformer.mlp.0")), w, "align_transformer.mlp.2") for row in rows]
    elif kind != "identity":
        for i in range(align["num_hidden_layers"]):
            rows = dinov2_block(rows, w, f"align_transformer.transformer_layers.layer.{i}", {**vision, **align})
    if align.get("use_layer_norm"):
        rows = [normed(row, w, "align_transformer.layer_norm", align["layer_norm_eps"]) for row in rows]
    if f"{LOSS}layer_norm.weight" not in w:
        return np.array(rows)
    return np.array([normed(row, w, f"{LOSS}layer_norm", SHARED_NORM_EPS) for row in rows])


# -- text ----------------------------------------------------------------------------------------------------


def relative_bucket(distance: int, buckets: int = 32, furthest: int = 128) -> int:
    """MPNet's bucket of a relative position (key minus query): half for each side, then linear, then logarithmic."""
    half = buckets // 2
    base = half if distance > 0 else 0
    distance = abs(distance)
    exact = half // 2
    if distance < exact:
        return base + distance
    share = math.log(distance / exact) / math.log(furthest / exact)
    return base + min(exact + int(share * (half - exact)), half - 1)


def mpnet_states(ids: list[int], w: Weights, config: dict[str, Any]) -> list[Array]:
    """Last hidden states of one sentence without padding."""
    eps, heads = config["layer_norm_eps"], config["num_attention_heads"]
    words, positions = (
        w[f"text_model.embeddings.{name}_embeddings.weight"].astype(np.float64) for name in ("word", "position")
    )
    rows = [
        normed(words[token] + positions[k + 2], w, "text_model.embeddings.LayerNorm", eps)
        for k, token in enumerate(ids)
    ]
    table = w["text_model.encoder.relative_attention_bias.weight"].astype(np.float64)
    bias = np.array(
        [
            [[table[relative_bucket(j - i), head] for j in range(len(ids))] for i in range(len(ids))]
            for head in range(heads)
        ]
    )
    for k in range(config["num_hidden_layers"]):
        name = f"text_model.encoder.layer.{k}"
        mixed = self_attention(rows, w, tuple(f"{name}.attention.attn.{part}" for part in "qkv"), heads, bias)
        out = []
        for row, attended in zip(rows, mixed, strict=True):
            x = linear(attended, w, f"{name}.attention.attn.o")
            x = normed(x + row, w, f"{name}.attention.LayerNorm", eps)
            y = linear(gelu(linear(x, w, f"{name}.intermediate.dense")), w, f"{name}.output.dense")
            out.append(normed(x + y, w, f"{name}.output.LayerNorm", eps))
        rows = out
    return rows


def sentence_embedding(ids: list[int], w: Weights, config: dict[str, Any]) -> Array:
    """(D,) after the shared LayerNorm where there is one."""
    states = mpnet_states(ids, w, config["text_config"])
    pooled = states[0] if config["text_config"].get("use_cls_token") else sum(states) / len(states)
    if "text_projector.weight" in w:
        pooled = linear(pooled, w, "text_projector")
    if f"{LOSS}layer_norm.weight" not in w:
        return pooled
    if loss_options(config)["text_features_l2_norm"]:
        pooled = pooled / math.sqrt(sum(pooled**2))
    return normed(pooled, w, f"{LOSS}layer_norm", SHARED_NORM_EPS)


def loss_options(config: dict[str, Any]) -> dict[str, Any]:
    return next(value for key, value in config["loss"].items() if key != "apply")


# -- similarity, maps ----------------------------------------------------------------------------------------


def unit(vector: list[float]) -> list[float]:
    length = math.sqrt(sum(x * x for x in vector))
    return [x / length for x in vector] if length > 0 else list(vector)


def dot(a: list[float], b: list[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def vl_cabs(
    tokens: Array, sentence: Array, tau: float, kind: str = "cos", attention_tau: float | None = None
) -> tuple[float, list[float]]:
    """The logit, and s_1..s_L, of one image's tokens (T, D), CLS first, with one sentence (D,)."""
    vectors = [[float(x) for x in token] for token in tokens]
    text = [float(x) for x in sentence]
    if kind == "cos":
        vectors, text = [unit(v) for v in vectors], unit(text)
        scale = tau if attention_tau is None else attention_tau
        scores = [dot(v, text) / scale for v in vectors]
    else:
        scores = [dot(v, text) / math.sqrt(len(text)) for v in vectors]
        if attention_tau is not None:
            scores = [s / attention_tau for s in scores]
    highest = max(scores)
    share = [math.exp(s - highest) for s in scores]
    total = math.fsum(share)
    pooled = [math.fsum(share[k] / total * vectors[k][d] for k in range(len(vectors))) for d in range(len(text))]
    return dot(unit(pooled), unit(text)) / tau, scores[1:]


def bilinear(grid: Array, height: int, width: int) -> Array:
    """Upsampled with corners not aligned: pixel centres map to pixel centres, borders repeat."""

    def taps(index: int, target: int, length: int) -> tuple[int, int, float]:
        at = min(max((index + 0.5) * length / target - 0.5, 0.0), length - 1.0)
        first = min(int(at), length - 1)
        return first, min(first + 1, length - 1), at - first

    out = np.zeros((height, width))
    for i in range(height):
        y0, y1, wy = taps(i, height, grid.shape[0])
        for j in range(width):
            x0, x1, wx = taps(j, width, grid.shape[1])
            top = grid[y0, x0] * (1 - wx) + grid[y0, x1] * wx
            bottom = grid[y1, x0] * (1 - wx) + grid[y1, x1] * wx
            out[i, j] = top * (1 - wy) + bottom * wy
    return out


# -- the whole model -----------------------------------------------------------------------------------------


def blip_pixels(film: Array, settings: dict[str, Any]) -> Array:
    """(3, H, W) float64 of an 8-bit grey film: squashed bicubically as 8-bit RGB, rescaled, normalised."""
    size = (settings["size"]["width"], settings["size"]["height"])
    picture = np.array(Image.fromarray(film).convert("RGB").resize(size, Image.Resampling.BICUBIC))
    scaled = picture.astype(np.float64) * settings["rescale_factor"]
    normalised = (scaled - np.array(settings["image_mean"])) / np.array(settings["image_std"])
    return normalised.transpose(2, 0, 1)


def answer(
    film: Array, ids: list[int], w: Weights, config: dict[str, Any], settings: dict[str, Any]
) -> tuple[float, Array, Array]:
    """Logit, similarity (h, w) and map (H, W) in 0..1 of one film and one tokenised sentence."""
    tokens = image_tokens(blip_pixels(film, settings), w, config)
    embedding = sentence_embedding(ids, w, config)
    if config["compute_logits_type"] != "radzero":
        return other_answer(film, tokens, embedding, w, config, settings)
    options = loss_options(config)
    tau = math.exp(float(w[f"{LOSS}loss_temperature"].reshape(())))
    separate = w.get(f"{LOSS}attn_temperature")
    attention_tau = None if separate is None else math.exp(float(separate.reshape(())))
    logit, similarity = vl_cabs(tokens, embedding, tau, options["sim_op"], attention_tau)
    patch = config["vision_config"]["patch_size"]
    grid = np.array(similarity).reshape(settings["size"]["height"] // patch, settings["size"]["width"] // patch)
    return logit, grid, sigmoid(bilinear(grid, *film.shape))


def other_answer(
    film: Array, tokens: Array, embedding: Array, w: Weights, config: dict[str, Any], settings: dict[str, Any]
) -> tuple[float, Array, Array]:
    """dino.txt's answer, or LiT's, whose map is of no rows: (0, 0)."""
    [loss] = config["loss"]["apply"]
    scale = math.exp(float(w[f"loss_fns.{loss}.logit_scale"].reshape(())))
    bias = float(w.get(f"loss_fns.{loss}.logit_bias", np.zeros(())).reshape(()))
    text = [float(x) for x in embedding]
    if config["compute_logits_type"] == "cls_alignment":
        return dot(unit(list(tokens[0])), unit(text)) * scale + bias, np.zeros((0, 0)), np.zeros((0, 0))
    size = tokens.shape[1]
    mean = [math.fsum(row[d] for row in tokens[1:]) / (len(tokens) - 1) for d in range(size)]
    logit = dot(unit([*tokens[0], *mean]), unit(text)) * scale + bias
    facing = unit(text[size:])
    patch = config["vision_config"]["patch_size"]
    grid = np.array([dot(unit(list(row)), facing) * scale for row in tokens[1:]])
    grid = grid.reshape(settings["size"]["height"] // patch, settings["size"]["width"] // patch)
    return logit, grid, sigmoid(bilinear(grid, *film.shape))
