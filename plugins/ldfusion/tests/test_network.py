import pytest
import torch
from fusionkit_ldfusion.layers import InstanceNorm, LastConv, LayerNorm, instance_norm
from fusionkit_ldfusion.network import LDFusion
from torch import nn
from torch.nn import functional as F

from fusionkit.batch import Batch
from fusionkit.errors import BadRequest
from fusionkit.methods import build_network
from fusionkit.registry import Registry


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return LDFusion().eval()


def pictures(height, width, count=1):
    generator = torch.Generator().manual_seed(height * width)
    return Batch(
        visible=torch.rand(count, 3, height, width, generator=generator),
        infrared=torch.rand(count, 1, height, width, generator=generator),
    )


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (33, 47), (63, 24), (101, 20)])
@torch.no_grad()
def test_any_size_comes_out_as_it_went_in(network, size):
    batch = pictures(*size)
    fused = network(batch)
    assert fused.image.shape == batch.visible.shape
    assert fused.maps["luma"].shape == batch.infrared.shape


def test_fifteen_pixels_are_too_few(network):
    with pytest.raises(BadRequest, match="at least 16 pixels"):
        network(pictures(15, 40))


@torch.no_grad()
def test_the_window_alone_is_the_window_of_the_whole_map(network):
    """Asking for the window spares the rest; sizes around whole blocks and strips."""
    for height, width in ((98, 37), (103, 40)):
        codes = network.encoder(torch.rand(1, 1, height, width), torch.rand(1, 1, height, width))
        full = network.decoder(*codes)
        assert full.shape[-2:] == (8 * (height // 8) + 21, 8 * (width // 8) + 21)
        part = network.decoder(*codes, size=(height, width))
        torch.testing.assert_close(part, full[..., :height, :width], rtol=0, atol=1e-6)


@torch.no_grad()
def test_the_centre_crop_takes_the_middle_of_the_same_map(network):
    other = LDFusion(crop="center").eval()
    other.load_state_dict(network.state_dict())
    visible, infrared = torch.rand(1, 1, 32, 40), torch.rand(1, 1, 32, 40)
    full = network.decoder(*network.encoder(visible, infrared)).clamp(0, 1)
    torch.testing.assert_close(other.fuse(visible, infrared), full[..., 10:42, 10:50])
    with pytest.raises(BadRequest, match="top-left or center"):
        LDFusion(crop="middle")


def test_it_has_the_released_number_of_parameters(network):
    count = {
        name: sum(p.numel() for p in part.parameters())
        for name, part in (("Enc", network.encoder), ("Dec", network.decoder))
    }
    assert count == {"Enc": 1_742_736, "Dec": 4_034_241}


def test_it_takes_no_modulation():
    registry = Registry.from_environment()
    recipe = registry.create("recipe", "ldfusion").with_overrides({"modulation": "film"})
    with pytest.raises(BadRequest, match="no point at which text meets features"):
        build_network(recipe, registry, 16)


@torch.no_grad()
def test_grey_in_colour_out_keeps_the_colour_of_the_visible_picture(network):
    batch = pictures(24, 32)
    grey = batch.visible.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    image = network(batch.replace(visible=grey)).image
    assert (image.amax(1) - image.amin(1)).max() < 2e-6


@pytest.mark.parametrize("count", [1, 2])
def test_fast_normalisations_are_the_plain_formulas(count):
    torch.manual_seed(1)
    x = 3 + 2 * torch.randn(count, 6, 9, 11).contiguous(memory_format=torch.channels_last)
    mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), correction=0, keepdim=True)
    plain = (x - mean) / (variance + 1e-5).sqrt()
    shift, scale = torch.randn(2, count, 6)
    torch.testing.assert_close(InstanceNorm()(x), plain, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        instance_norm(x, shift, scale),
        plain * scale[..., None, None] + shift[..., None, None],
        rtol=1e-5,
        atol=1e-5,
    )

    norm = LayerNorm(6)
    nn.init.normal_(norm.beta)
    mean, deviation = x.mean((1, 2, 3), keepdim=True), x.std((1, 2, 3), keepdim=True)
    gamma, beta = norm.gamma[:, None, None], norm.beta[:, None, None]
    plain = ((x - mean) / (deviation + 1e-5) * gamma + beta).detach()
    torch.testing.assert_close(norm(x.clone().requires_grad_()), plain, rtol=1e-5, atol=1e-5)
    norm(x).sum().backward()  # learns behind frozen layers, too
    assert norm.gamma.grad is not None
    with torch.no_grad():
        torch.testing.assert_close(norm(x.clone()), plain, rtol=1e-5, atol=1e-5)
        half = norm(x.bfloat16())
    torch.testing.assert_close(half.float(), plain, rtol=0.02, atol=0.05)


@pytest.mark.parametrize("size", [(7, 9), (100, 13)])
def test_the_last_convolution_in_blocks_is_the_convolution(size):
    torch.manual_seed(2)
    layer = LastConv(3, 1, 7)
    x = torch.randn(2, 3, *size, requires_grad=True)
    plain = F.conv2d(F.pad(x, (3, 3, 3, 3), mode="reflect"), layer.weight, layer.bias)
    torch.testing.assert_close(layer(x), plain, rtol=1e-5, atol=1e-5)
    (fast,) = torch.autograd.grad(layer(x).square().sum(), x)
    (slow,) = torch.autograd.grad(plain.square().sum(), x)
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
@torch.no_grad()
def test_a_gpu_fuses_as_the_cpu_does(network):
    batch = pictures(50, 75, 2)
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        on_gpu = LDFusion().eval().cuda()
        on_gpu.load_state_dict(network.state_dict())
        image = on_gpu(batch.to("cuda")).image.cpu()
        with torch.autocast("cuda", torch.bfloat16):
            half = on_gpu(batch.to("cuda")).image.cpu()
    finally:
        torch.backends.cudnn.allow_tf32 = before
    torch.testing.assert_close(image, network(batch).image, rtol=0, atol=5e-5)
    assert (half - image).abs().mean() < 1 / 255
