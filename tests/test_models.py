"""Every network at every level: shapes, range, what depends on what."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import vgg19

from cdtlib.features.backbones import VGG19
from cdtlib.models.blocks import AdaIN, InstanceNorm, double, enlarge, halve, initialise, kaiming
from cdtlib.models.critic import Critic, PatchCritic
from cdtlib.models.inverter import Inverter
from cdtlib.models.translator import ConditionalTranslator, DeepestTranslator, Residual
from cdtlib.models.vae import VAE
from cdtlib.settings import Inversion, Settings, Translation
from cdtlib.training.translation import make_translator

CHANNELS = {1: 64, 2: 128, 3: 256, 4: 512, 5: 512}  # of VGG-19's conv_i_1
PAPER = Settings(profile="paper", pair=("a", "b"))
SIZES = (32, 64, 128, 224)


def shape(level: int, size: int) -> tuple[int, int, int]:
    return CHANNELS[level], size // 2 ** (level - 1), size // 2 ** (level - 1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("level", CHANNELS)
def test_shapes_at_the_papers_widths(level, size):
    settings = PAPER.translation.get(level, Translation())
    with torch.device("meta"):  # shapes without arithmetic
        x = torch.empty(2, *shape(level, size))
        deeper = torch.empty(2, *shape(level + 1, size)) if level < 5 else None
        translator = make_translator(level, shape(level, size), CHANNELS[level + 1] if level < 5 else None, settings)
        assert (translator(x) if level == 5 else translator(x, deeper)).shape == x.shape
        assert Critic(*shape(level, size)[:2], settings.critic_width, settings.critic_blocks)(x).shape == (2,)
        picture = Inverter(CHANNELS[level], Inversion().width[level], VGG19.halvings[level])(x)
        assert picture.shape == (2, 3, size, size)
        patches = size // 8 - 2
        assert PatchCritic()(picture).shape == (2, 1, patches, patches)


@pytest.mark.parametrize("level", [5, 4, 3])
def test_a_level_by_itself_has_an_unconditional_translator(level):
    with torch.device("meta"):  # each level alone: Fig. 7 and Table 1
        x = torch.empty(2, *shape(level, 64))
        translator = make_translator(level, shape(level, 64), None, Translation(width=32))
        assert isinstance(translator, DeepestTranslator)
        assert translator(x).shape == x.shape


@pytest.mark.parametrize(
    "side, halvings, sides",
    [(14, 2, [14, 7, 4, 7, 14, 14]), (14, 3, [14, 7, 4, 2, 4, 7, 14, 14]), (4, 2, [4, 2, 1, 2, 4, 4]), (8, 0, [8, 8])],
)
def test_deepest_translator_is_symmetric(side, halvings, sides):
    with torch.device("meta"):
        translator = DeepestTranslator(6, side, width=8, halvings=halvings)
        seen = []
        for layer in translator.layers:
            layer.register_forward_hook(lambda _, __, y: seen.append(y.shape[-1]))
        translator(torch.empty(1, 6, side, side))
    assert seen == sides


def test_blocks_and_the_input_are_added():
    settings = Translation(width=8, halvings=1, blocks=2, skip=0.5)
    translator, x = make_translator(5, (6, 4, 4), None, settings), torch.randn(2, 6, 4, 4)
    residual = [layer for layer in translator.layers if isinstance(layer, Residual)]
    assert len(residual) == 2
    with torch.no_grad():
        for parameter in translator.parameters():
            parameter.zero_()
        inside = torch.randn(2, 8, 4, 4)
        assert torch.equal(residual[0](inside), inside)
        assert torch.equal(translator(x), torch.tanh(0.5 * x))


def test_layers_without_weights():
    """Weights would be loaded without them, too, and give other pictures."""

    def activations(network: nn.Module) -> set[str]:
        return {str(layer) for layer in network.modules() if "LU" in type(layer).__name__}

    with torch.device("meta"):
        for network in (Inverter(8, 8, (0, 0), refine=1), Critic(8, 8, 8, blocks=2), PatchCritic(4)):
            assert activations(network) == {"LeakyReLU(negative_slope=0.2)"}
        conditional = ConditionalTranslator(6, 4, 8, 8, 8)
        for network in (DeepestTranslator(6, 4, 8, blocks=1), conditional, VAE(6, 4, 8, 1, 8, 4)):
            assert activations(network) == {"ReLU()"}
        for width, groups in ((8, 2), (128, 32), (320, 32)):
            for network in (DeepestTranslator(6, 4, width, blocks=1), VAE(6, 4, width, 1, 8, 4)):
                norms = [layer for layer in network.modules() if isinstance(layer, nn.GroupNorm)]
                assert {(norm.num_groups, norm.eps) for norm in norms} == {(groups, 1e-5)}


@pytest.mark.parametrize("side", range(1, 18))
def test_double_undoes_halve(side):
    with torch.device("meta"):
        x = torch.empty(1, 3, side, side)
        half = halve(3, 5)(x)
        assert half.shape == (1, 5, (side + 1) // 2, (side + 1) // 2)
        assert double(5, 3, side)(half).shape == x.shape


def test_inverters_have_the_known_number_of_parameters():
    # Three 3×3 convolutions, transposed 4×4 convolutions that halve the channels, a 3×3 convolution to RGB.
    expected = {5: 9_866_051, 4: 9_834_115, 3: 1_087_123, 2: 575_619, 1: 112_515}
    for level, number in expected.items():
        with torch.device("meta"):
            inverter = Inverter(CHANNELS[level], Inversion().width[level], VGG19.halvings[level])
        assert sum(p.numel() for p in inverter.parameters()) == number


def test_translating_at_the_papers_size_costs_at_most_half_of_vgg_19_more():
    def operations(network: nn.Module, *inputs: torch.Tensor) -> int:
        with FlopCounterMode(display=False) as counter:
            network(*inputs)
        return counter.get_total_flops()

    with torch.device("meta"), torch.no_grad():
        maps = {level: torch.empty(1, *shape(level, PAPER.data.size)) for level in CHANNELS}
        backbone = operations(vgg19(weights=None).features[:29], torch.empty(1, 3, 224, 224))  # through conv5_1
        ours = operations(Inverter(CHANNELS[3], PAPER.inversion.width[3], VGG19.halvings[3]), maps[3])
        for level, settings in PAPER.translation.items():
            deeper, channels = ((), None) if level == 5 else ((maps[level + 1],), CHANNELS[level + 1])
            made = make_translator(level, shape(level, PAPER.data.size), channels, settings)
            ours += operations(made, maps[level], *deeper)
    assert 1.45 < 1 + ours / backbone <= 1.5


def test_refinement_adds_convolutions_after_each_doubling():
    plain, refined = (Inverter(16, 32, (0, 0), refine) for refine in (0, 2))
    old = {p.shape for p in plain.parameters()}
    assert [p.shape for p in refined.parameters() if p.ndim == 4 and p.shape not in old] == [(16, 16, 3, 3)] * 4
    assert refined(torch.zeros(1, 16, 4, 4)).shape == (1, 3, 16, 16)


# ---- small networks with real arithmetic -------------------------------------------------------------------

SIDE = {5: 4, 4: 8, 3: 16}  # 64 px


def small(kind: str, level: int) -> tuple[nn.Module, list[torch.Tensor]]:
    """A small network of a kind and three samples of its inputs."""
    generator = torch.Generator().manual_seed(level)
    x = torch.rand(3, 6, SIDE[level], SIDE[level], generator=generator) * 2 - 1
    torch.manual_seed(1)
    if kind == "translator":
        if level == 5:
            return DeepestTranslator(6, SIDE[5], width=8, blocks=1), [x]
        deeper = torch.rand(3, 4, SIDE[level + 1], SIDE[level + 1], generator=generator) * 2 - 1
        return ConditionalTranslator(6, 4, width=8, style=8, style_width=8), [x, deeper]
    if kind == "critic":
        return Critic(6, SIDE[level], width=8, blocks=2), [x]
    if kind == "inverter":
        return Inverter(6, 8, VGG19.halvings[level], refine=1), [x]
    return PatchCritic(width=4), [torch.rand(3, 3, 64, 64, generator=generator) * 2 - 1]


KINDS = [(kind, level) for kind in ("translator", "critic", "inverter") for level in SIDE] + [("patches", 5)]


@pytest.mark.parametrize("kind, level", [k for k in KINDS if k[0] in ("translator", "inverter")])
def test_outputs_are_in_the_range_of_tanh(kind, level):
    network, inputs = small(kind, level)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(30)  # so that the range is kept by the network, not by its small weights
        y = network(*inputs)
    assert y.isfinite().all() and -1 <= y.min() < -0.9 and 0.9 < y.max() <= 1


@pytest.mark.parametrize("kind, level", KINDS)
def test_samples_of_a_batch_do_not_mix(kind, level):
    network, inputs = small(kind, level)
    inputs = [x.requires_grad_() for x in inputs]
    together = network(*inputs)
    alone = torch.cat([network(*(x[i : i + 1] for x in inputs)) for i in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    for gradient in torch.autograd.grad(together[1].sum(), inputs):
        assert gradient[1].abs().sum() > 0
        assert gradient[0].abs().sum() == gradient[2].abs().sum() == 0


@pytest.mark.parametrize("kind, level", KINDS)
def test_every_parameter_takes_part(kind, level):
    network, inputs = small(kind, level)
    network(*inputs).square().sum().backward()
    idle = {name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    # A convolution's bias before a normalisation of each channel by itself is taken away again.
    allowed = {f"content.{i}.bias" for i in range(4)} if kind == "translator" and level < 5 else set()
    assert not idle - allowed


def test_critic_has_no_normalisation():
    # The gradient penalty is per sample (Gulrajani et al. 2017).
    assert not [m for m in Critic(6, 8, width=8).modules() if "Norm" in type(m).__name__]


def blob(row: int, column: int, channels: int, side: int) -> torch.Tensor:
    """A map of zeros but for a random 3×3 patch at a place."""
    x = torch.zeros(1, channels, side, side)
    x[:, :, row : row + 3, column : column + 3] = torch.rand(channels, 3, 3, generator=torch.Generator().manual_seed(0))
    return x


def test_conditional_translator_takes_its_content_from_the_deeper_level_alone():
    torch.manual_seed(0)
    translator = kaiming(ConditionalTranslator(3, 4, width=8, style=8, style_width=8)).eval()
    deeper, x = torch.rand(1, 4, 16, 16) * 2 - 1, blob(8, 8, 3, 32)
    with torch.no_grad():
        y = translator(x, deeper)
        # What is in x matters …
        assert (translator(3 * x, deeper) - y).abs().max() > 1e-4
        # … but not where: moved by whole strides, away from the border, it gives the same map.
        torch.testing.assert_close(translator(blob(16, 20, 3, 32), deeper), y, atol=1e-5, rtol=0)
        # Moving the deeper level moves the result, twice as far.
        still, moved = (translator(x, blob(5, 5 + shift, 4, 16)) for shift in (0, 2))
        assert (moved - still).abs().max() > 1e-3
        inside = slice(8, 20)  # the zero padding shows near the border
        torch.testing.assert_close(moved.roll(-4, dims=3)[..., inside], still[..., inside], atol=1e-4, rtol=0)


def test_conditional_translator_sees_x_only_through_the_style_vector():
    torch.manual_seed(0)
    translator = kaiming(ConditionalTranslator(3, 4, width=8, style=8, style_width=8))
    x, deeper = torch.rand(2, 3, 8, 8), torch.rand(2, 4, 4, 4)
    vectors = []
    translator.style.register_forward_hook(lambda _, __, style: vectors.append(style))
    y = translator(x, deeper)
    assert vectors[0].shape == (2, 8)
    translator.style = nn.Identity()
    torch.testing.assert_close(translator(vectors[0].detach(), deeper), y)


def test_adain_sets_mean_and_deviation_of_every_channel():
    layer = AdaIN(2, 3)
    x = torch.randn(4, 2, 16, 16) * 3 + 5
    style = torch.randn(4, 3)
    scale, shift = layer.affine(style).chunk(2, dim=1)
    y = layer(x, style)
    torch.testing.assert_close(y.mean((2, 3)), shift, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(y.std((2, 3), correction=0), (1 + scale).abs(), atol=1e-4, rtol=1e-4)
    # The definition, with the usual variance + 1e-5 (Huang & Belongie 2017).
    variance, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
    by_hand = (x - mean) / (variance + 1e-5).sqrt() * (1 + scale[..., None, None]) + shift[..., None, None]
    torch.testing.assert_close(y, by_hand, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pictures", [1, 2])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_gradients_of_instance_norm_are_the_same_in_every_order_of_memory(pictures, order):
    x, weight = torch.randn(2, pictures, 4, 5, 6, dtype=torch.float64)
    x, coming = x.to(memory_format=order).requires_grad_(), weight.to(memory_format=torch.channels_last)
    variance, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
    expected = torch.autograd.grad(((x - mean) / (variance + 1e-5).sqrt() * weight).sum(), x)
    torch.testing.assert_close(torch.autograd.grad((InstanceNorm(4)(x) * coming).sum(), x), expected)


def test_patch_critic_sees_70_pixels():
    critic = PatchCritic(width=2)
    for i, layer in enumerate(critic.layers):
        if isinstance(layer, InstanceNorm):
            critic.layers[i] = nn.Identity()  # it looks at the whole picture
    x = torch.rand(1, 3, 128, 128, requires_grad=True)
    scores = critic(x)  # (1, 1, 14, 14)
    (gradient,) = torch.autograd.grad(scores[0, 0, 7, 7], x)
    seen = gradient.abs().sum((0, 1)).nonzero()
    assert (seen.max(0).values - seen.min(0).values + 1).tolist() == [70, 70]


def test_initial_weights():
    torch.manual_seed(0)
    layers = nn.Conv2d(64, 64, 3), nn.ConvTranspose2d(64, 64, 3), nn.Linear(256, 256), nn.GroupNorm(4, 64)
    network = nn.Sequential(*layers)
    for make, deviations in ((initialise, (0.02, 0.02, 0.02)), (kaiming, None)):
        assert make(network) is network
        for layer, deviation in zip(network, deviations or [None] * 3, strict=False):
            assert layer.bias.abs().sum() == 0
            assert layer.weight.mean().item() == pytest.approx(0, abs=2e-3)
            fan_in = layer.weight[0].numel()
            expected = deviation or (2 / (1 + 0.2**2) / fan_in) ** 0.5
            assert layer.weight.std().item() == pytest.approx(expected, rel=0.03)
        assert (network[3].weight == 1).all()


@pytest.mark.parametrize("more", [0, 1, 2])
def test_a_transposed_convolution_starts_as_nearest_doubling_and_a_convolution(more):
    layer = enlarge(5, 7, more)
    torch.manual_seed(0)
    kaiming(layer)
    torch.manual_seed(0)
    kernel = torch.empty(7, 5, 3, 3)
    nn.init.kaiming_normal_(kernel, a=0.2)
    x = torch.randn(2, 5, 6, 6)
    doubled = nn.functional.interpolate(x, scale_factor=2, mode="nearest")
    wanted = nn.functional.conv2d(doubled, kernel.flip(2, 3), padding=1)  # a transposed convolution flips its kernel
    made = layer(x)
    assert made.shape == (2, 7, 12 + more, 12 + more)
    torch.testing.assert_close(made[..., :12, :12], wanted)
