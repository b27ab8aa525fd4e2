"""V-Net against the paper's figures and against MONAI's network."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import VNet as MonaiVNet
from torch import nn

from vnet_segmentation.network.vnet import LAYOUTS, VNet, prostate_probability


@pytest.mark.parametrize(
    ("layout", "width", "n_parameters"),
    [
        ("paper", 16, 65_175_314),
        ("caffe", 16, 61_982_682),
        ("monai", 16, 45_597_658),
        ("paper", 8, 16_296_074),
        ("plain", 8, 16_296_074),
        # 16,097,000 of these are weights of 5x5x5 convolutions, and become 27/125 as many.
        ("compact", 8, 3_676_026),
    ],
)
def test_number_of_parameters(layout, width, n_parameters):
    with torch.device("meta"):
        network = VNet(layout, width)
    assert sum(parameter.numel() for parameter in network.parameters()) == n_parameters


def test_receptive_field_of_the_stages_on_the_way_down():
    # Table 1 of the paper, left side. A stage's unit sees what has a gradient there; measured along one axis, as the
    # kernels are cubes, with weights of 1 so that nothing cancels.
    network = VNet("paper", width=1)
    for parameter in network.parameters():
        nn.init.ones_(parameter)
    image = torch.ones(1, 1, 16, 16, 512, dtype=torch.float64, requires_grad=True)
    network.double()
    fields = []
    x = network.down_stages[0](image)
    for index in range(5):
        if index:
            x = network.down_stages[index](network.down_steps[index - 1](x))
        middle = x[0, 0, x.shape[2] // 2, x.shape[3] // 2, x.shape[4] // 2]
        (gradient,) = torch.autograd.grad(middle, image, retain_graph=True)
        seen = gradient[0, 0].sum((0, 1)).nonzero()
        fields.append(int(seen.max() - seen.min()) + 1)
    assert fields == [5, 22, 72, 172, 372]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_instance_normalisation_is_torchs(memory_format):
    # A mean of three deviations, over a whole field: the most that the bundled model has inside. Sums of squares in
    # float32 keep more than two digits of it.
    torch.manual_seed(0)
    layer = VNet("compact", 1, "instance").down_stages[1].convolutions[0][1]
    nn.init.uniform_(layer.weight)
    nn.init.uniform_(layer.bias)
    x = (3 + torch.randn(2, 2, 48, 80, 80)).contiguous(memory_format=memory_format)
    expected = nn.functional.instance_norm(x.double(), weight=layer.weight.double(), bias=layer.bias.double())
    torch.testing.assert_close(layer(x).double(), expected, atol=5e-3, rtol=0)


def test_the_compact_layout_is_the_papers_with_smaller_kernels():
    with torch.device("meta"):
        compact, paper = VNet("compact", 8), VNet("paper", 8)
    for (name, small), (other, large) in zip(compact.named_modules(), paper.named_modules(), strict=True):
        assert (name, type(small)) == (other, type(large))
        if isinstance(small, nn.Conv3d) and large.kernel_size == (5, 5, 5):
            assert (small.kernel_size, small.padding) == ((3, 3, 3), (1, 1, 1))
            assert (small.in_channels, small.out_channels) == (large.in_channels, large.out_channels)


def test_a_stage_adds_its_input_unless_the_layout_is_plain():
    for layout, expected in (("paper", 2.0), ("plain", 0.0)):
        stage = VNet(layout, width=1).down_stages[1]
        for convolution in stage.convolutions:
            nn.init.zeros_(convolution[0].weight)
            nn.init.zeros_(convolution[0].bias)
        assert (stage(torch.full((1, 2, 4, 4, 4), 2.0)) == expected).all()


def test_layout_monai_with_monais_weights_gives_monais_logits():
    torch.manual_seed(0)
    peer = MonaiVNet(spatial_dims=3, in_channels=1, out_channels=2, act="prelu", bias=True).eval()
    for module in peer.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, 0.1, 0.4)
    network = VNet("monai", 16, "batch").eval()
    _copy_from_monai(peer, network)
    image = torch.randn(1, 1, 16, 32, 16)
    with torch.no_grad():
        torch.testing.assert_close(network(image), peer(image), rtol=1e-4, atol=1e-4)


def _copy_from_monai(peer: MonaiVNet, network: VNet) -> None:
    def copy_convolution(source, target):
        target[0].weight.data.copy_(source.conv.weight)
        # MONAI's convolutions on the way up have no bias.
        target[0].bias.data.copy_(source.conv.bias if source.conv.bias is not None else torch.zeros(1))
        target[1].load_state_dict(source.adn.N.state_dict())

    def copy_stage(source, target):
        for i, lu in enumerate(source.ops):
            copy_convolution(lu.conv_block, target.convolutions[i])
            target.activations[i].load_state_dict(lu.act_function.state_dict())
        # MONAI has a PReLU before the residual sum and one after it, the paper only the latter: a slope of 1 turns the
        # former into the identity.
        nn.init.ones_(source.ops[-1].act_function.weight)
        target.activations[-1].load_state_dict(source.act_function2.state_dict())

    def copy_step(convolution, source, target):
        target[0].load_state_dict(convolution.state_dict())
        target[1].load_state_dict(source.bn1.state_dict())
        target[2].load_state_dict(source.act_function1.state_dict())

    copy_convolution(peer.in_tr.conv_block, network.down_stages[0].convolutions[0])
    network.down_stages[0].activations[0].load_state_dict(peer.in_tr.act_function.state_dict())
    for i, name in enumerate(("down_tr32", "down_tr64", "down_tr128", "down_tr256")):
        source = getattr(peer, name)
        copy_step(source.down_conv, source, network.down_steps[i])
        copy_stage(source, network.down_stages[i + 1])
    for i, name in enumerate(("up_tr256", "up_tr128", "up_tr64", "up_tr32")):
        source = getattr(peer, name)
        copy_step(source.up_conv, source, network.up_steps[i])
        copy_stage(source, network.up_stages[i])
    copy_convolution(peer.out_tr.conv_block, network.output[0])
    network.output[1].load_state_dict(peer.out_tr.act_function1.state_dict())
    network.output[2].load_state_dict(peer.out_tr.conv2.state_dict())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("normalisation", ["none", "batch", "instance"])
def test_any_sides_that_are_multiples_of_16(layout, normalisation):
    network = VNet(layout, 1, normalisation).eval()
    with torch.no_grad():
        assert network(torch.randn(2, 1, 32, 16, 48)).shape == (2, 2, 32, 16, 48)


@pytest.mark.parametrize("shape", [(1, 1, 24, 16, 16), (1, 2, 16, 16, 16), (1, 16, 16, 16), (1, 1, 16, 16, 0)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="multiples of 16"):
        VNet("paper", 1)(torch.zeros(shape))


@pytest.mark.parametrize("arguments", [("vnet", 8, "none"), ("paper", 0, "none"), ("paper", 8, "group")])
def test_unknown_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match=r"Unknown|at least 1"):
        VNet(*arguments)


def test_probability_is_the_softmax_of_the_second_channel():
    logits = torch.randn(2, 2, 3, 4, 5)
    torch.testing.assert_close(prostate_probability(logits), logits.softmax(1)[:, 1])
    assert prostate_probability(logits.half()).dtype == torch.float32


def test_weight_gradients_are_right_under_bfloat16_on_the_cpu():
    # The two deepest maps are 4 x 4 x 4 and 2 x 2 x 2 under a kernel of 5: torch 2.13 gives infinite or NaN gradients
    # there in bfloat16.
    torch.manual_seed(0)
    network = VNet("paper", 8)
    image = torch.randn(1, 1, 32, 32, 32)
    gradients = []
    for enabled in (False, True):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits = network(image)
        logits.float().square().mean().backward()
        stages = [*network.down_stages[-2:], network.up_stages[0]]
        gradients.append([c[0].weight.grad.clone() for stage in stages for c in stage.convolutions])
    for exact, short in zip(*gradients, strict=True):
        # bfloat16 has 8 bits: a fifth of the norm is what rounding leaves after so many layers, far from garbage.
        assert (exact - short).norm() < 0.3 * exact.norm()


def test_recomputed_activations_give_the_same_gradients() -> None:
    torch.manual_seed(0)
    network = VNet("paper", 2, "instance")
    image = torch.randn(1, 1, 32, 32, 32)
    gradients = []
    for network.recomputes in (False, True):
        network.zero_grad()
        output = network(image)
        output.square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in network.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_recomputed_activations_count_a_batch_once() -> None:
    image = torch.randn(2, 1, 32, 16, 16)
    statistics = []
    for recomputes in (False, True):
        torch.manual_seed(0)
        network = VNet("paper", 1, "batch")
        network.recomputes = recomputes
        network(image).square().mean().backward()
        statistics.append(dict(network.named_buffers()))
    assert statistics[0]
    assert all(torch.equal(statistics[0][name], statistics[1][name]) for name in statistics[0])
