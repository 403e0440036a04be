"""The losses against slow float64 loops, at small temperatures and on ragged groups."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from radzero.training.losses import binary_pair_loss, multi_positive_loss, quiet_map_loss

# -- slow ----------------------------------------------------------------------------------------------------


def log_sum_exp(values: list[float]) -> float:
    highest = max(values)
    return highest + math.log(math.fsum(math.exp(v - highest) for v in values))


def slow_multi_positive(
    logits: np.ndarray, owner: list[int], ignore: np.ndarray | None = None, col_sum: bool = False
) -> float:
    """``logits[j, n]`` of image j and sentence n, as the library has them."""
    images, sentences = logits.shape
    skipped = np.zeros_like(logits, dtype=bool) if ignore is None else ignore

    text = []
    for n in range(sentences):
        row = [logits[j, n] for j in range(images) if j == owner[n] or not skipped[j, n]]
        text.append(log_sum_exp(row) - logits[owner[n], n])

    def others(j: int) -> list[float]:
        return [logits[j, m] for m in range(sentences) if owner[m] != j and not skipped[j, m]]

    image = []
    if col_sum:
        for j in sorted(set(owner)):
            own = [logits[j, n] for n in range(sentences) if owner[n] == j]
            image.append(log_sum_exp(own + others(j)) - log_sum_exp(own))
    else:
        for n in range(sentences):
            j = owner[n]
            image.append(log_sum_exp([logits[j, n], *others(j)]) - logits[j, n])
    return (math.fsum(text) / len(text) + math.fsum(image) / len(image)) / 2


def slow_gradient(logits: np.ndarray, owner: list[int], ignore: np.ndarray | None = None) -> np.ndarray:
    """Of the plain loss: softmax minus one-hot, for each of the two cross entropies."""
    images, sentences = logits.shape
    skipped = np.zeros_like(logits, dtype=bool) if ignore is None else ignore
    out = np.zeros_like(logits)
    for n in range(sentences):
        j = owner[n]
        takers = [(i, n) for i in range(images) if i == j or not skipped[i, n]]
        rivals = [(j, m) for m in range(sentences) if m == n or (owner[m] != j and not skipped[j, m])]
        for cells in (takers, rivals):
            total = log_sum_exp([logits[c] for c in cells])
            for c in cells:
                out[c] += math.exp(logits[c] - total) / (2 * sentences)
            out[j, n] -= 1 / (2 * sentences)
    return out


def slow_binary(logits: np.ndarray, owner: list[int], ignore: np.ndarray | None, weight: float) -> float:
    own, other = [], []
    for n in range(logits.shape[1]):
        for j in range(logits.shape[0]):
            if owner[n] == j:
                own.append(log_sum_exp([0.0, -logits[j, n]]))
            elif ignore is None or not ignore[j, n]:
                other.append(log_sum_exp([0.0, logits[j, n]]))
    negative = sum(other) / len(other) if other else 0.0
    return (sum(own) / len(own) + weight * negative) / (1 + weight)


# -- cases ---------------------------------------------------------------------------------------------------


@st.composite
def batches(draw: st.DrawFn) -> tuple[np.ndarray, list[int], np.ndarray]:
    """Logits as at tau 0.07 (or 0.005), ragged owners (images with none, one, many), masked pairs."""
    images = draw(st.integers(1, 5))
    owner = draw(st.lists(st.integers(0, images - 1), min_size=1, max_size=8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tau = draw(st.sampled_from([1.0, 0.07, 0.005]))
    logits = rng.uniform(-1, 1, (images, len(owner))) / tau
    return logits, owner, rng.random(logits.shape) < draw(st.sampled_from([0.0, 0.3, 1.0]))


def tensors(logits: np.ndarray, owner: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(logits, dtype=torch.float64, requires_grad=True), torch.tensor(owner, dtype=torch.long)


@given(batch=batches(), masked=st.booleans())
@settings(max_examples=150, deadline=None)
def test_value_and_gradient_equal_the_loops(batch: tuple, masked: bool) -> None:
    logits, owner, ignore = batch
    x, g = tensors(logits, owner)
    loss = multi_positive_loss(x, g, ignore_BN=torch.tensor(ignore) if masked else None)
    loss.backward()
    truth = slow_multi_positive(logits, owner, ignore if masked else None)
    assert loss.shape == ()
    assert loss.dtype == torch.float64
    assert abs(loss.item() - truth) <= 1e-10 * max(1.0, abs(truth))
    np.testing.assert_allclose(
        x.grad.numpy(), slow_gradient(logits, owner, ignore if masked else None), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("gap", [-800.0, -25.0, -20.001, 0.0, 19.999, 20.001, 25.0, 36.0, 800.0])
def test_two_images_at_any_distance(gap: float) -> None:
    """l = [[0, gap], [gap, 0]]: every one of the four terms is log(1 + exp(gap))."""
    x, g = tensors(np.array([[0.0, gap], [gap, 0.0]]), [0, 1])
    loss = multi_positive_loss(x, g)
    loss.backward()
    truth = max(gap, 0.0) + math.log1p(math.exp(-abs(gap)))
    share = 1 / (1 + math.exp(-gap)) if gap > -700 else 0.0
    assert loss.item() == pytest.approx(truth, abs=1e-10, rel=1e-12)
    np.testing.assert_allclose(x.grad.numpy(), share / 2 * np.array([[-1, 1], [1, -1]]), rtol=0, atol=1e-10)


@given(batch=batches(), masked=st.booleans(), row_sum=st.booleans())
@settings(max_examples=60, deadline=None)
def test_pooled_positives_equal_the_loops(batch: tuple, masked: bool, row_sum: bool) -> None:
    logits, owner, ignore = batch
    x, g = tensors(logits, owner)
    loss = multi_positive_loss(x, g, ignore_BN=torch.tensor(ignore) if masked else None, row_sum=row_sum, col_sum=True)
    truth = slow_multi_positive(logits, owner, ignore if masked else None, col_sum=True)
    assert abs(loss.item() - truth) <= 1e-10 * max(1.0, abs(truth))


def test_pooling_rows_changes_nothing_and_pooling_columns_does() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (3, 7))
    x, g = tensors(logits, [0, 0, 0, 1, 2, 2, 2])
    plain = multi_positive_loss(x, g)
    assert torch.equal(multi_positive_loss(x, g, row_sum=True), plain)
    assert abs(multi_positive_loss(x, g, col_sum=True) - plain) > 1e-3


@given(batch=batches(), masked=st.booleans(), weight=st.sampled_from([1.0, 0.25, 3.0, 0.0]))
@settings(max_examples=100, deadline=None)
def test_binary_pair_loss_equals_the_loops(batch: tuple, masked: bool, weight: float) -> None:
    logits, owner, ignore = batch
    x, g = tensors(logits, owner)
    loss = binary_pair_loss(x, g, ignore_BN=torch.tensor(ignore) if masked else None, negative_weight=weight)
    loss.backward()
    truth = slow_binary(logits, owner, ignore if masked else None, weight)
    assert abs(loss.item() - truth) <= 1e-10 * max(1.0, abs(truth))
    assert x.grad.isfinite().all()


# -- gradients -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("col_sum", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_by_finite_differences(col_sum: bool, masked: bool) -> None:
    rng = np.random.default_rng(1)
    x, g = tensors(rng.normal(0, 2, (4, 6)), [0, 0, 2, 2, 2, 3])
    ignore = torch.tensor(rng.random((4, 6)) < 0.3) if masked else None
    assert torch.autograd.gradcheck(
        lambda x: multi_positive_loss(x, g, ignore_BN=ignore, col_sum=col_sum), (x,), atol=1e-7
    )
    assert torch.autograd.gradcheck(lambda x: binary_pair_loss(x, g, ignore_BN=ignore), (x,), atol=1e-7)


@pytest.mark.parametrize("col_sum", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_finite_at_a_tiny_temperature(dtype: torch.dtype, col_sum: bool) -> None:
    """tau 0.005: logits reach 200, whose exponential overflows float32."""
    logits = np.random.default_rng(2).choice([-1.0, 1.0], (4, 9)) / 0.005
    owner = [0, 0, 0, 1, 1, 3, 3, 3, 3]
    x = torch.tensor(logits, dtype=dtype, requires_grad=True)
    loss = multi_positive_loss(x, torch.tensor(owner), col_sum=col_sum)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(slow_multi_positive(logits, owner, col_sum=col_sum), rel=1e-5)
    assert x.grad.isfinite().all()
    assert x.grad.abs().max() > 0.01


def test_computed_in_float32_under_bfloat16() -> None:
    logits = torch.randn(6, 40, generator=torch.Generator().manual_seed(3)).bfloat16() * 8
    owner = list(np.arange(40) % 6)
    loss = multi_positive_loss(logits, torch.tensor(owner))
    truth = slow_multi_positive(logits.double().numpy(), owner)
    assert loss.item() == pytest.approx(truth, rel=1e-6)


# -- symmetries ----------------------------------------------------------------------------------------------


@given(batch=batches(), data=st.data(), col_sum=st.booleans())
@settings(max_examples=80, deadline=None)
def test_order_of_images_and_sentences_does_not_matter(batch: tuple, data: st.DataObject, col_sum: bool) -> None:
    logits, owner, ignore = batch
    images, sentences = logits.shape
    rows = data.draw(st.permutations(range(images)))
    columns = data.draw(st.permutations(range(sentences)))
    new_owner = [rows.index(owner[n]) for n in columns]
    before = multi_positive_loss(*tensors(logits, owner), ignore_BN=torch.tensor(ignore), col_sum=col_sum)
    after = multi_positive_loss(
        *tensors(logits[rows][:, columns], new_owner),
        ignore_BN=torch.tensor(ignore[rows][:, columns]),
        col_sum=col_sum,
    )
    torch.testing.assert_close(after, before, rtol=1e-10, atol=1e-10)
    before = binary_pair_loss(*tensors(logits, owner))
    after = binary_pair_loss(*tensors(logits[rows][:, columns], new_owner))
    torch.testing.assert_close(after, before, rtol=1e-10, atol=1e-10)


def test_siblings_never_compete() -> None:
    """In L_I a sentence meets only other images' sentences: L_I of image 0 ignores how its own ones differ."""
    logits = np.array([[5.0, -5.0, 0.0], [0.0, 0.0, 0.0]])
    x, g = tensors(logits, [0, 0, 1])
    loss = multi_positive_loss(x, g)
    first = [math.log1p(math.exp(-5.0)), math.log1p(math.exp(5.0)), math.log(3.0)]  # L_I, term by term
    second = [math.log1p(math.exp(-5.0)), math.log1p(math.exp(5.0)), math.log(2.0)]  # L_T
    assert loss.item() == pytest.approx((sum(first) + sum(second)) / 6, abs=1e-12)


# -- edges ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("col_sum", [False, True])
def test_single_image_has_nothing_to_contrast(col_sum: bool) -> None:
    x, g = tensors(np.random.default_rng(4).normal(0, 5, (1, 6)), [0] * 6)
    loss = multi_positive_loss(x, g, col_sum=col_sum)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-12)
    assert x.grad.abs().max() < 1e-12


@pytest.mark.parametrize("loss", [multi_positive_loss, binary_pair_loss])
@pytest.mark.parametrize("images", [1, 4])
def test_no_sentence_is_zero_with_a_zero_gradient(loss, images: int) -> None:
    x = torch.zeros(images, 0, requires_grad=True)
    weight = torch.ones(3, requires_grad=True)
    value = loss(x * weight.sum(), torch.zeros(0, dtype=torch.long))
    value.backward()
    assert value.item() == 0
    assert torch.equal(weight.grad, torch.zeros(3))


def test_images_without_sentences_are_negatives_only() -> None:
    logits = np.array([[1.0, 2.0], [0.0, 0.5], [3.0, 4.0]])  # image 2 owns nothing
    owner = [0, 1]
    with_it = multi_positive_loss(*tensors(logits, owner)).item()
    without = multi_positive_loss(*tensors(logits[:2], owner)).item()
    assert with_it == pytest.approx(slow_multi_positive(logits, owner), abs=1e-12)
    assert with_it > without + 0.1


@pytest.mark.parametrize("col_sum", [False, True])
def test_everything_masked_leaves_nothing_to_contrast(col_sum: bool) -> None:
    x, g = tensors(np.random.default_rng(5).normal(0, 5, (3, 5)), [0, 1, 1, 2, 2])
    loss = multi_positive_loss(x, g, ignore_BN=torch.ones(3, 5, dtype=torch.bool), col_sum=col_sum)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-12)
    assert x.grad.abs().max() < 1e-12


def test_a_masked_pair_has_no_gradient_and_no_effect() -> None:
    logits = np.random.default_rng(6).normal(0, 3, (3, 4))
    ignore = torch.zeros(3, 4, dtype=torch.bool)
    ignore[0, 3] = True
    owner = [0, 0, 1, 2]
    for loss in (multi_positive_loss, binary_pair_loss):
        x, g = tensors(logits, owner)
        value = loss(x, g, ignore_BN=ignore)
        value.backward()
        assert x.grad[0, 3] == 0
        assert (x.grad != 0).sum() > 6
        changed = logits.copy()
        changed[0, 3] = 100
        assert loss(*tensors(changed, owner), ignore_BN=ignore).item() == pytest.approx(value.item(), abs=1e-12)


def test_own_pairs_cannot_be_masked() -> None:
    x, g = tensors(np.random.default_rng(7).normal(0, 3, (2, 3)), [0, 0, 1])
    own = torch.tensor([[True, True, False], [False, False, True]])
    for loss in (multi_positive_loss, binary_pair_loss):
        assert torch.equal(loss(x, g, ignore_BN=own), loss(x, g))


@pytest.mark.parametrize("loss", [multi_positive_loss, binary_pair_loss])
@pytest.mark.parametrize(
    ("shape", "owner"), [((6,), [0] * 6), ((2, 3), [0, 1]), ((2, 3), [0, 1, 2]), ((2, 3), [0, -1, 1])]
)
def test_wrong_shapes_and_owners_are_refused(loss, shape: tuple[int, ...], owner: list[int]) -> None:
    with pytest.raises(ValueError, match="owners"):
        loss(torch.zeros(shape), torch.tensor(owner))


# -- quiet maps --------------------------------------------------------------------------------------


def test_quiet_map_loss_is_the_slow_loop():
    generator = torch.Generator().manual_seed(0)
    similarity = torch.randn(3, 5, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    owner = torch.tensor([0, 0, 1, 2, 2])
    ignore = torch.zeros(3, 5, dtype=torch.bool)
    ignore[1, 0] = True
    ignore[0, 0] = True  # its own film: says nothing
    terms = []
    for image in range(3):
        for sentence in range(5):
            if owner[sentence] != image and not ignore[image, sentence]:
                peak = max(similarity[image, sentence, k] for k in range(4))
                terms.append(torch.clamp(0.3 + peak, min=0))
    expected = sum(terms) / len(terms)
    (expected_gradient,) = torch.autograd.grad(expected, similarity, retain_graph=True)
    loss = quiet_map_loss(similarity, owner, ignore_BN=ignore, margin=0.3)
    (gradient,) = torch.autograd.grad(loss, similarity)
    assert torch.allclose(loss, expected, atol=1e-12)
    assert torch.allclose(gradient, expected_gradient, atol=1e-12)


def test_quiet_map_loss_of_one_image_is_zero_with_a_gradient():
    similarity = torch.randn(1, 2, 4, requires_grad=True)
    loss = quiet_map_loss(similarity, torch.tensor([0, 0]))
    loss.backward()
    assert loss.item() == 0
    assert similarity.grad.abs().max() == 0
