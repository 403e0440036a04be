"""Compute the gradient of a contrastive loss over a whole batch from micro-batches that fit the GPU's memory.

Accumulating the losses of micro-batches would give another gradient, since their sentences would never compete with
each other's images. Gradient caching (GradCache, Gao et al. 2021) encodes everything once without a graph, and takes
the loss of the whole batch and its gradient with respect to features. It then encodes each micro-batch again, with a
graph, and backpropagates the micro-batch's share of that gradient.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from radzero.models.base import Features, VisionLanguageModel


class Towers(nn.Module):
    """Use all parameters of a model in one forward pass, as data-parallel wrappers need it."""

    def __init__(self, model: VisionLanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Features:
        """Encode images (B, C, H, W), or vision tokens (B, T, D) of a cache, and tokenised sentences (N, S)."""
        model = self.model
        cached = pixel_values.ndim == 3
        return Features(
            model.align(pixel_values.float()) if cached else model.encode_images(pixel_values),
            model.encode_sentences(input_ids, attention_mask),
            model.score_parameters(),
        )


@dataclass(frozen=True)
class MicroBatch:
    """Images and sentences that one pass encodes.

    The tensors hold at least one image and one sentence, so that every parameter takes part; those beyond the counts
    are padding, whose results are dropped.

    Attributes:
        pixel_values: (>= 1, C, H, W).
        input_ids, attention_mask: (>= 1, S).
        images, sentences: numbers of images and sentences that are not padding.
    """

    pixel_values: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    images: int
    sentences: int

    def encode(self, towers: nn.Module) -> Features:
        """Return the features of the images and sentences that are not padding."""
        images, sentences, parameters = towers(self.pixel_values, self.input_ids, self.attention_mask)
        return Features(images[: self.images], sentences[: self.sentences], tuple(parameters))


def split_batch(pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor, parts: int) -> list[MicroBatch]:
    """Split a rank's batch into ``parts`` micro-batches, in order; images and sentences are spread evenly.

    Args:
        pixel_values: (B, C, H, W), B may be 0.
        input_ids, attention_mask: (N, S), N may be 0.
        parts: number of micro-batches; the same on every rank.
    """

    def padded(part: Tensor, value: int) -> Tensor:
        return part if len(part) else part.new_full((1, *part.shape[1:]), value)

    return [
        MicroBatch(padded(pixels, 0), padded(ids, 0), padded(mask, 1), len(pixels), len(ids))
        for pixels, ids, mask in zip(
            torch.tensor_split(pixel_values, parts),
            torch.tensor_split(input_ids, parts),
            torch.tensor_split(attention_mask, parts),
            strict=True,
        )
    ]


def backward(
    towers: nn.Module,
    batch: Sequence[MicroBatch],
    loss_of: Callable[[Features], Tensor],
    *,
    no_sync: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Tensor:
    """Add the gradient of a loss over all micro-batches to the parameters' gradients.

    Random numbers (dropout) are the same in both passes. A single micro-batch takes a single pass. In any case the loss
    and its collectives are done before the wrapper exchanges the first gradient, so that all ranks communicate in the
    same order, however many images and sentences they have.

    Args:
        towers: :class:`Towers`, or a data-parallel wrapper around it.
        batch: a rank's micro-batches; their number is the same on every rank.
        loss_of: function that gives the loss of all features; it may be collective, and so may its gradient.
        no_sync: context in which the wrapper does not exchange gradients; used for all but the last pass.

    Returns:
        The loss, without a graph.
    """
    if len(batch) == 1:
        encoded = batch[0].encode(towers)
        loss, gradient = _gradient(loss_of, encoded)
        _backward(encoded, gradient)
        return loss

    states, parts = [], []
    with torch.no_grad():
        for micro in batch:
            states.append(_random_state(micro.pixel_values.device))
            parts.append(micro.encode(towers))
    whole = joined(parts)
    del parts
    loss, gradient = _gradient(loss_of, whole)
    images = torch.split(gradient.images, [micro.images for micro in batch])
    sentences = torch.split(gradient.sentences, [micro.sentences for micro in batch])
    no_gradient = tuple(torch.zeros_like(part) for part in gradient.score_parameters)
    after = _random_state(batch[0].pixel_values.device)
    for k, micro in enumerate(batch):
        last = k + 1 == len(batch)
        with nullcontext() if last else no_sync():
            _set_random_state(states[k], micro.pixel_values.device)
            encoded = micro.encode(towers)
            _backward(encoded, Features(images[k], sentences[k], gradient.score_parameters if last else no_gradient))
    _set_random_state(after, batch[0].pixel_values.device)
    return loss


def joined(parts: Sequence[Features]) -> Features:
    """Return the features of micro-batches as those of a whole batch."""
    images, sentences = (torch.cat(list(column)) for column in list(zip(*parts, strict=True))[:2])
    return Features(images, sentences, parts[0].score_parameters)


def _gradient(loss_of: Callable[[Features], Tensor], features: Features) -> tuple[Tensor, Features]:
    """Return a loss and its gradient with respect to features; zero for what a rank without images does not use."""
    leaves = [
        part.detach().requires_grad_() for part in (features.images, features.sentences, *features.score_parameters)
    ]
    loss = loss_of(Features(leaves[0], leaves[1], tuple(leaves[2:])))
    images, sentences, *parameters = torch.autograd.grad(loss, leaves, materialize_grads=True)
    return loss.detach(), Features(images, sentences, tuple(parameters))


def _backward(encoded: Features, gradient: Features) -> None:
    """Backpropagate a gradient through features; those of a frozen part are left out."""
    pairs = zip(
        (encoded.images, encoded.sentences, *encoded.score_parameters),
        (gradient.images, gradient.sentences, *gradient.score_parameters),
        strict=True,
    )
    wanted = [(part, own) for part, own in pairs if part.requires_grad]
    torch.autograd.backward([part for part, _ in wanted], [own for _, own in wanted])


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
