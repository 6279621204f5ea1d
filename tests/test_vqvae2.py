"""VQ-VAE-2: its size, its codebooks, its priors (see test_rivals.py for what it shares with others)."""

import math

import pytest
import torch

from cdtlib.rivals import vqvae2
from cdtlib.rivals.common import parameters
from cdtlib.rivals.vqvae2 import VQVAE2, AutoEncoder, Causal, Codebook, Conv, Options, PixelSNAIL, Prior, chosen
from cdtlib.settings import load


def test_full_width_has_the_published_number_of_parameters():
    o = Options()
    assert parameters(AutoEncoder(o)) == 1_388_867
    with torch.device("meta"):  # what is counted needs no memory
        assert parameters(PixelSNAIL(o.codes, o.top, conditional=False)) == 84_873_280
        assert parameters(PixelSNAIL(o.codes, o.bottom, conditional=True)) == 89_762_816


# ---- the auto-encoder --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, 64, 96, 128, 224])
def test_any_size_comes_back(size):
    model = AutoEncoder(Options(width=8, residuals=1, residual_width=4, codes=8, length=4)).eval()
    x = torch.rand(1, 3, size, size)
    _, (top, bottom), _ = model.quantise(*model.encode(x))
    assert top.shape == (1, size // 8, size // 8) and bottom.shape == (1, size // 4, size // 4)
    assert model(x).shape == x.shape


def test_a_code_is_the_nearest_and_gradients_pass_it_by():
    book = Codebook(3, 2).eval()
    book.codes.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0], [4.0, 0.0]]))
    x = torch.tensor([[0.9, 0.4], [3.0, 0.2]]).T.view(1, 2, 1, 2).requires_grad_()  # two positions in a row
    quantised, commitment, indices = book(x)
    assert indices.tolist() == [[[1, 2]]]
    torch.testing.assert_close(quantised[0, :, 0].T, torch.tensor([[1.0, 1.0], [4.0, 0.0]]))
    assert commitment.item() == pytest.approx((0.01 + 0.36 + 1 + 0.04) / 4)
    (gradient,) = torch.autograd.grad((quantised * torch.tensor([3.0, 5.0])).sum(), x, retain_graph=True)
    assert torch.equal(gradient[0, 0, 0], torch.tensor([3.0, 5.0]))
    (gradient,) = torch.autograd.grad(commitment, x)
    torch.testing.assert_close(gradient[0, :, 0].T, 2 * torch.tensor([[-0.1, -0.6], [-1.0, 0.2]]) / 4)
    assert torch.equal(book.look_up(indices), quantised.detach().round())


def test_codes_are_moving_averages_of_what_they_stand_for():
    book = Codebook(2, 1, decay=0.9, dead=0.0)
    book.uses.copy_(torch.tensor([2.0, 1.0]))
    book.sums.copy_(torch.tensor([[2.0], [5.0]]))
    book.learn(torch.tensor([[3.0], [4.0], [0.0]]), torch.tensor([1, 1, 0]))
    torch.testing.assert_close(book.uses, torch.tensor([1.9, 1.1]))
    torch.testing.assert_close(book.sums, torch.tensor([[1.8], [5.2]]))
    torch.testing.assert_close(book.codes, torch.tensor([[1.8 / 1.9], [5.2 / 1.1]]), rtol=1e-4, atol=0)
    book.eval()
    before = book.codes.clone()
    book(torch.randn(1, 1, 3, 3))
    assert torch.equal(book.codes, before)


def test_dead_codes_start_again_from_the_batch():
    torch.manual_seed(0)
    book = Codebook(3, 1, decay=0.9, dead=0.1)
    book.uses.copy_(torch.tensor([3.0, 3.0, 0.1]))
    book.sums.copy_(torch.tensor([[3.0], [6.0], [9.0]]))
    vectors = torch.tensor([[1.0], [2.0], [2.5], [1.5], [1.0], [2.0]])
    book.learn(vectors, torch.tensor([0, 1, 1, 1, 0, 1]))
    mean = (2.9 + 3.1 + 0.09) / 3
    torch.testing.assert_close(book.uses, torch.tensor([2.9, 3.1, mean]))  # 0.09 is less than a tenth of the mean
    assert book.codes[2] in vectors and book.sums[2] == pytest.approx(mean * book.codes[2].item())
    assert book.codes[0].item() == pytest.approx(2.9 / 2.9, rel=1e-4)


def test_all_codes_are_in_use_after_a_step_of_a_fresh_book():
    torch.manual_seed(0)
    book, x = Codebook(16, 4), 5 + 0.1 * torch.randn(8, 4, 4, 4)
    assert book(x)[2].unique().numel() < 8  # far from everything, most are never the nearest
    assert book(x)[2].unique().numel() > 12


def test_usage_by_hand(tmp_path):
    made = VQVAE2(load("smoke"), {}, tmp_path, codes=8)
    made.codes = {"top": torch.tensor([[[0, 0], [1, 1]]]), "bottom": torch.tensor([[[0, 1], [2, 3]], [[0, 0], [0, 0]]])}
    usage = made.usage()
    assert usage["top"] == pytest.approx({"share": 0.25, "perplexity": 2.0})
    entropy = -(5 * math.log(5 / 8) + 3 * math.log(1 / 8)) / 8
    assert usage["bottom"] == pytest.approx({"share": 0.5, "perplexity": math.exp(entropy)})


# ---- the priors --------------------------------------------------------------------------------------------

SMALL = Prior(width=16, blocks=2, residuals=2, conditioning=1)


@pytest.fixture(params=[False, True], ids=["top", "bottom"])
def prior(request):
    torch.manual_seed(0)
    top = torch.randint(6, (3, 4, 4)) if request.param else None
    return PixelSNAIL(6, SMALL, request.param).eval(), top


def test_weights_are_normalised():
    layer = Conv(3, 5, 3)
    torch.testing.assert_close(layer.normalised(), layer.weight)  # at first nothing is changed
    with torch.no_grad():
        layer.weight.mul_(7)
    torch.testing.assert_close(layer.normalised().flatten(1).norm(dim=1), layer.gain.flatten())
    causal = Causal.residual(3, 5, 5)
    torch.testing.assert_close(causal.normalised(), causal.weight * causal.seen)
    assert causal.seen.tolist() == [[1, 1, 1, 1, 1]] * 4 + [[1, 1, 1, 0, 0]]


def test_no_code_is_told_itself_or_a_later_one(prior):
    """The gradient of the logits at a position is zero from there on, and not before; in training, too."""
    model, top = prior
    x = model.one_hot(torch.randint(6, (3, 8, 8))).requires_grad_()
    for training in (False, True):
        model.train(training)
        logits = model.logits(model.above(x) + model.left(x), model.places(x), model.condition(top))
        for row, column in ((0, 0), (0, 5), (3, 0), (4, 7), (7, 7)):
            (gradient,) = torch.autograd.grad(logits[:, :, row, column].square().sum(), x, retain_graph=True)
            from_each = gradient.abs().sum((0, 1)).flatten()
            position = 8 * row + column
            assert not from_each[position:].any()
            if position:
                assert from_each[position - 1 if column else position - 8] > 0
            # with attention from nearly everywhere; the end of a row is out of sight of the next one's start
            assert (from_each[:position] > 0).sum() >= (0.8 * position if top is None else min(position, 5))


def test_only_the_bottom_is_conditional(prior):
    model, top = prior
    indices = torch.randint(6, (3, 8, 8))
    if top is None:
        assert all(block.attention is not None for block in model.blocks) and model.conditioning is None
        return
    assert all(block.attention is None for block in model.blocks)
    logits = model(indices, top)
    changed = top.clone()
    changed[:, 3, 3] = (top[:, 3, 3] + 1) % 6
    moved = (model(indices, changed) - logits).abs().amax((0, 1))  # (8, 8)
    assert moved.min() > 1e-5  # here three 3×3 convolutions tell of it everywhere, ahead and behind


def test_sampling_position_by_position_is_the_whole_network(prior):
    """What was drawn, given again at once, has the same distributions."""
    model, top = prior
    noise = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1))
    indices = model.sample(noise, top)
    with torch.no_grad():
        assert torch.equal(chosen(model(indices, top), noise), indices)
    assert indices.unique().numel() == 6
    alone = model.sample(noise[1:2], None if top is None else top[1:2])
    assert torch.equal(alone, indices[1:2])


def test_chosen_is_by_share():
    logits = torch.tensor([0.5, 0.2, 0.3]).log().view(1, 3, 1, 1).expand(1, 3, 1, 7)
    noise = torch.tensor([0.0, 0.49, 0.51, 0.69, 0.71, 0.99, 1.0]).view(1, 1, 7)
    assert chosen(logits, noise).flatten().tolist() == [0, 0, 1, 1, 2, 2, 2]


def test_attention_has_eight_heads_in_the_published_width():
    assert vqvae2.Attention(258, 514, 128, 0.1).heads == 8 and vqvae2.Attention(18, 34, 8, 0.1).heads == 1
