"""VL-CABS and the pieces around it against slow float64 loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import interpolated_positions, sigmoid, vl_cabs

from radzero.models.similarity import similarity_logits
from radzero.models.vision import interpolate_positions

KINDS = pytest.mark.parametrize("kind", ["cos", "dot"])


def inputs(
    seed: int, images: int = 3, tokens: int = 10, sentences: int = 4, width: int = 8, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (images, tokens, width)
    return (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype),
        torch.randn((sentences, width), generator=generator, dtype=torch.float64).to(dtype),
    )


def slow(
    tokens: torch.Tensor, sentences: torch.Tensor, tau: float, kind: str, attention_tau: float | None
) -> tuple[np.ndarray, np.ndarray]:
    pairs = [
        [vl_cabs(t, s, tau, kind, attention_tau) for s in sentences.double().numpy()] for t in tokens.double().numpy()
    ]
    logits = np.array([[logit for logit, _ in row] for row in pairs])
    return logits, np.array([[similarity for _, similarity in row] for row in pairs])


@KINDS
@given(
    seed=st.integers(0, 2**32 - 1),
    images=st.integers(1, 3),
    tokens=st.integers(2, 9),
    sentences=st.integers(1, 4),
    width=st.integers(1, 9),
    tau=st.floats(0.01, 2.0),
    attention_tau=st.none() | st.floats(0.01, 2.0),
)
@settings(max_examples=60, deadline=None)
def test_equals_the_loops_at_every_shape(
    kind: str,
    seed: int,
    images: int,
    tokens: int,
    sentences: int,
    width: int,
    tau: float,
    attention_tau: float | None,
) -> None:
    v, t = inputs(seed, images, tokens, sentences, width)
    logits, similarity = similarity_logits(v, t, tau, kind, attention_tau)
    truth = slow(v, t, tau, kind, attention_tau)
    assert logits.shape == (images, sentences)
    assert similarity.shape == (images, sentences, tokens - 1)
    np.testing.assert_allclose(similarity.numpy(), truth[1], rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(logits.numpy(), truth[0], rtol=1e-9, atol=1e-9 / tau)


@KINDS
@pytest.mark.parametrize("attention_tau", [None, 0.3])
def test_float32(kind: str, attention_tau: float | None) -> None:
    v, t = inputs(1, dtype=torch.float32)
    logits, similarity = similarity_logits(v, t, 0.07, kind, attention_tau)
    truth = slow(v, t, 0.07, kind, attention_tau)
    assert logits.dtype == similarity.dtype == torch.float32
    np.testing.assert_allclose(logits.numpy(), truth[0], atol=3e-5)
    np.testing.assert_allclose(similarity.numpy(), truth[1], atol=3e-5)


@KINDS
@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_input_is_computed_in_float32(kind: str, autocast: bool) -> None:
    v, t = inputs(2, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        logits, similarity = similarity_logits(v, t, 0.07, kind)
    truth = slow(v, t, 0.07, kind, None)  # of the same rounded inputs: far finer than bfloat16's 3 digits
    assert logits.dtype == similarity.dtype == torch.float32
    np.testing.assert_allclose(logits.numpy(), truth[0], atol=3e-5)
    np.testing.assert_allclose(similarity.numpy(), truth[1], atol=3e-5)


@KINDS
def test_temperatures_may_be_learned_tensors(kind: str) -> None:
    v, t = inputs(3)
    tau, attention_tau = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.2, 0.4))
    logits, similarity = similarity_logits(v, t, tau, kind, attention_tau)
    plain = similarity_logits(v, t, 0.2, kind, 0.4)
    torch.testing.assert_close(logits, plain.logits)
    torch.testing.assert_close(similarity, plain.similarity)
    (grad,) = torch.autograd.grad(logits.sum(), tau, retain_graph=True)
    torch.testing.assert_close(grad, -logits.sum() / tau, rtol=1e-9, atol=1e-9)  # the logit goes with 1 / tau only
    (grad,) = torch.autograd.grad(similarity.sum(), attention_tau, retain_graph=True)
    torch.testing.assert_close(grad, -similarity.sum() / attention_tau, rtol=1e-9, atol=1e-9)
    assert torch.autograd.grad(similarity.sum(), tau, allow_unused=True) == (None,)


@KINDS
def test_gradient_by_finite_differences(kind: str) -> None:
    v, t = inputs(4, images=2, tokens=4, sentences=2, width=3)
    tau = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *x: similarity_logits(*x, kind), (v.requires_grad_(), t.requires_grad_(), tau)
    )


@KINDS
def test_one_image_and_one_sentence_keep_their_dimensions(kind: str) -> None:
    v, t = inputs(5, images=1, tokens=2, sentences=1)
    logits, similarity = similarity_logits(v, t, 0.07, kind)
    assert logits.shape == (1, 1)
    assert similarity.shape == (1, 1, 1)


def test_no_sentence_gives_empty_results() -> None:
    v, t = inputs(6)
    logits, similarity = similarity_logits(v, t[:0], 0.07)
    assert logits.shape == (3, 0)
    assert similarity.shape == (3, 0, 9)


@KINDS
@given(seed=st.integers(0, 1000), order=st.permutations(range(10)))
@settings(max_examples=30, deadline=None)
def test_logits_do_not_depend_on_the_order_of_tokens(kind: str, seed: int, order: list[int]) -> None:
    v, t = inputs(seed)
    logits, similarity = similarity_logits(v, t, 0.07, kind)
    shuffled = similarity_logits(v[:, order], t, 0.07, kind)
    torch.testing.assert_close(shuffled.logits, logits, rtol=1e-9, atol=1e-9)
    everything = torch.cat((torch.full_like(similarity[..., :1], torch.nan), similarity), dim=-1)
    expected = everything[..., order][..., 1:]
    kept = ~expected.isnan()  # the former CLS may now be a patch; it was not in the first map
    torch.testing.assert_close(shuffled.similarity[kept], expected[kept], rtol=1e-9, atol=1e-9)


@KINDS
def test_cls_takes_part_in_the_attention_and_is_not_in_the_map(kind: str) -> None:
    v, t = inputs(7)
    other = v.clone()
    other[:, 0] = 2 * t[0]
    before, after = (similarity_logits(x, t, 0.5, kind) for x in (v, other))
    assert torch.equal(before.similarity, after.similarity)
    assert (before.logits - after.logits).abs().min() > 1e-6
    assert (after.logits[:, 0] > before.logits[:, 0]).all()


@KINDS
def test_pairs_are_independent(kind: str) -> None:
    v, t = inputs(8)
    logits, similarity = similarity_logits(v, t, 0.07, kind)
    for b in range(len(v)):
        for n in range(len(t)):
            alone = similarity_logits(v[b : b + 1], t[n : n + 1], 0.07, kind)
            torch.testing.assert_close(alone.logits[0, 0], logits[b, n], rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(alone.similarity[0, 0], similarity[b, n], rtol=1e-10, atol=1e-10)


def test_cosine_ignores_lengths_and_the_dot_product_does_not() -> None:
    v, t = inputs(9)
    torch.testing.assert_close(similarity_logits(3 * v, 5 * t, 0.07), similarity_logits(v, t, 0.07))
    stretched, plain = (similarity_logits(x, t, 0.07, "dot").similarity for x in (3 * v, v))
    torch.testing.assert_close(stretched, 3 * plain)


def test_hand_computed() -> None:
    """Two orthogonal tokens, the sentence along the second: s = (0, 1 / tau)."""
    tokens = torch.tensor([[[2.0, 0.0], [0.0, 7.0]]], dtype=torch.float64)
    sentence = torch.tensor([[0.0, 3.0]], dtype=torch.float64)
    tau = 0.5
    logits, similarity = similarity_logits(tokens, sentence, tau)
    a = sigmoid(1 / tau)
    assert similarity.item() == pytest.approx(2.0, abs=1e-12)
    assert logits.item() == pytest.approx(a / math.hypot(a, 1 - a) / tau, abs=1e-12)


@KINDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_zero_vectors_give_zeros_not_nans(kind: str, dtype: torch.dtype) -> None:
    v, t = inputs(10, dtype=dtype)
    v[0], v[1, 3], t[2] = 0, 0, 0
    v, t = v.requires_grad_(), t.requires_grad_()
    logits, similarity = similarity_logits(v, t, 0.07, kind)
    assert (logits[0] == 0).all()
    assert (logits[:, 2] == 0).all()
    assert (similarity[1, :, 2] == 0).all()
    assert logits.isfinite().all()
    (logits.sum() + similarity.sum()).backward()
    assert v.grad.isfinite().all()
    assert t.grad.isfinite().all()


@KINDS
def test_opposite_tokens_that_cancel(kind: str) -> None:
    tokens = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])
    logits, _ = similarity_logits(tokens.requires_grad_(), torch.tensor([[0.0, 1.0]]), 0.01, kind)
    logits.sum().backward()
    assert logits.item() == 0
    assert tokens.grad.isfinite().all()


@pytest.mark.parametrize("tau", [0.005, 1e-3])
def test_small_temperatures_do_not_overflow(tau: float) -> None:
    v, t = inputs(11, dtype=torch.float32)
    logits, similarity = similarity_logits(v, t, tau)
    truth = slow(v, t, tau, "cos", None)
    np.testing.assert_allclose(logits.numpy() * tau, truth[0] * tau, atol=2e-4)
    np.testing.assert_allclose(similarity.numpy() * tau, truth[1] * tau, atol=1e-6)
    assert (logits.abs() <= (1 + 1e-6) / tau).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens_BTD": torch.zeros(10, 8)}, "tokens"),
        ({"tokens_BTD": torch.zeros(1, 1, 8)}, "tokens"),
        ({"sentences_ND": torch.zeros(8)}, "sentences"),
        ({"sentences_ND": torch.zeros(2, 7)}, "sentences"),
        ({"similarity": "cosine"}, "similarity"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"attention_temperature": -1.0}, "attention_temperature"),
    ],
)
def test_wrong_arguments_are_refused(change: dict, message: str) -> None:
    good = {"tokens_BTD": torch.zeros(2, 10, 8), "sentences_ND": torch.zeros(3, 8), "temperature": 0.07}
    similarity_logits(**good)
    with pytest.raises(ValueError, match=message):
        similarity_logits(**(good | change))


# -- position embeddings -------------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 100),
    side=st.integers(1, 5),
    rows=st.integers(1, 11),
    columns=st.integers(1, 11),
    rule=st.sampled_from(["offset", "size"]),
)
@settings(max_examples=60, deadline=None)
def test_positions_are_interpolated_by_the_stated_rule(
    seed: int, side: int, rows: int, columns: int, rule: str
) -> None:
    positions = torch.randn(1, 1 + side * side, 3, generator=torch.Generator().manual_seed(seed))
    found = interpolate_positions(positions, (rows, columns), rule)
    truth = interpolated_positions(positions[0].numpy(), (rows, columns), rule)
    assert found.shape == (1, 1 + rows * columns, 3)
    np.testing.assert_allclose(found[0].numpy(), truth, atol=2e-5)


def test_the_old_rule_is_torchs_scale_factor() -> None:
    positions = torch.randn(1, 1 + 16 * 16, 4, generator=torch.Generator().manual_seed(0))
    grid = positions[:, 1:].reshape(1, 16, 16, 4).permute(0, 3, 1, 2)
    factors = ((37 + 0.1) / 16, (37 + 0.1) / 16)
    truth = F.interpolate(grid, scale_factor=factors, mode="bicubic", align_corners=False)
    found = interpolate_positions(positions, (37, 37), "offset")
    torch.testing.assert_close(found[0, 1:], truth[0].flatten(1).T)
    torch.testing.assert_close(found[:, :1], positions[:, :1])
    new = interpolate_positions(positions, (37, 37), "size")
    assert (new - found).abs().max() > 0.01  # the silent trap: the two rules differ


@pytest.mark.parametrize("rule", ["offset", "size"])
def test_positions_of_the_trained_grid_are_used_as_they_are(rule: str) -> None:
    positions = torch.randn(1, 26, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(interpolate_positions(positions, (5, 5), rule), positions)


@pytest.mark.parametrize("rule", ["offset", "size"])
def test_half_precision_positions_are_interpolated_in_float32(rule: str) -> None:
    positions = torch.randn(1, 17, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = interpolate_positions(positions, (7, 9), rule)
    truth = interpolated_positions(positions[0].double().numpy(), (7, 9), rule)
    assert found.dtype == torch.bfloat16
    np.testing.assert_allclose(found[0].double().numpy(), truth, rtol=2**-8, atol=1e-5)  # one rounding, at the end
