"""The contract of a network."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fusionkit.batch import Batch, Fused, TextFeatures
from fusionkit.testing.contract import Contract, awake, check_gradients
from fusionkit.testing.inputs import TEXT_DIM, first, tiny_batch, tiny_text


class _Probe(nn.Module):
    """A modulation that notes how it was called."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels, self.calls = channels, []

    def forward(self, visible: Tensor, infrared: Tensor, text: Any, guides: Any) -> Tensor:
        self.calls.append((visible.shape, infrared.shape, text, guides))
        return visible + infrared


class NetworkContract(Contract):
    """``factory(modulation=None, text_dim=D)``, called with a Batch, returns Fused."""

    uses_text = True
    """False for a network that reads no text."""
    unreached: tuple[str, ...] = ()
    """Patterns of trainable parameters that a plain forward pass rightly does not use."""

    def make(self, **options: Any) -> nn.Module:
        torch.manual_seed(0)
        return awake(self.build(text_dim=TEXT_DIM, **options)).eval()

    def batch(self, count: int, size: tuple[int, int]) -> Batch:
        """Pictures and everything else the network reads."""
        return tiny_batch(count, size)

    @pytest.fixture(params=["one", "two-wide", "two-tall"])
    def sample(self, request) -> Batch:
        network = self.build(text_dim=TEXT_DIM)
        step, least = getattr(network, "multiple_of", 1), getattr(network, "min_size", 1)
        short = -(-max(least, 16) // step) * step
        if request.param == "one":
            return self.batch(1, (short, short))
        long = short + (step if step > 1 else 7)
        return self.batch(2, (short, long) if request.param == "two-wide" else (long, short))

    def _any(self) -> Any:
        return self.build(text_dim=TEXT_DIM)

    def test_returns_a_colour_picture_in_range(self, sample):
        fused = self.make()(sample)
        assert isinstance(fused, Fused)
        assert (fused.image.shape, fused.image.dtype) == (sample.visible.shape, torch.float32)
        assert fused.image.min() >= 0 and fused.image.max() <= 1

    def test_its_maps_belong_to_the_pictures(self, sample):
        for name, values in self.make()(sample).maps.items():
            assert values.ndim == 4 and len(values) == len(sample), name

    def test_works_under_autocast(self, sample):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            image = self.make()(sample).image
        assert image.shape == sample.visible.shape
        assert image.isfinite().all()

    def test_same_batch_gives_same_picture(self, sample):
        network = self.make()
        assert torch.equal(network(sample).image, network(sample).image)

    def test_one_picture_does_not_change_another(self, sample):
        network = self.make()
        together = network(sample).image[:1]
        torch.testing.assert_close(together, network(first(sample)).image, rtol=1e-3, atol=1e-4)

    def test_listens_to_both_pictures(self, sample):
        network = self.make()
        image = network(sample).image
        for name in ("visible", "infrared"):
            other = sample.replace(**{name: getattr(sample, name).flip(-1)})
            assert not torch.allclose(image, network(other).image), name

    def test_listens_to_the_text(self, sample):
        network = self.make()
        others = {role: tiny_text(len(sample), seed=90 + i) for i, role in enumerate(sample.texts)}
        other = sample.replace(text=tiny_text(len(sample), seed=99), texts=others)
        same = torch.allclose(network(sample).image, network(other).image, rtol=0, atol=1e-7)
        assert same != self.uses_text

    def test_gradient_reaches_every_parameter(self, sample):
        network = self.make().train()
        fused = network(sample)
        sum([fused.image.square().mean(), *fused.terms.values()]).backward()
        check_gradients(network, self.unreached)

    def test_constant_pictures_give_numbers_and_finite_gradients(self, sample):
        for level in (0.0, 1.0):
            network = self.make().train()
            flat = sample.replace(
                visible=torch.full_like(sample.visible, level),
                infrared=torch.full_like(sample.infrared, level),
            )
            image = network(flat).image
            image.square().mean().backward()
            assert image.isfinite().all()
            for name, parameter in network.named_parameters():
                assert parameter.grad is None or parameter.grad.isfinite().all(), name

    def test_state_dict_restores_it(self, sample):
        network = self.make()
        torch.manual_seed(1)
        other = self.build(text_dim=TEXT_DIM).eval()
        other.load_state_dict(network.state_dict())
        assert torch.equal(network(sample).image, other(sample).image)

    def test_names_layers_that_exist(self):
        network = self.build(text_dim=TEXT_DIM)
        modules = dict(network.named_modules())
        missing = [name for name in getattr(network, "layers", ()) if name not in modules]
        assert not missing

    def test_takes_another_scheme_at_each_of_its_text_points(self, sample):
        points = getattr(self.build(text_dim=TEXT_DIM), "modulation_points", ())
        if not points:
            pytest.skip("this network has no point at which text meets features")
        probes: list[_Probe] = []

        def modulation(channels: int, **options: Any) -> nn.Module:
            probes.append(_Probe(channels))
            return probes[-1]

        self.make(modulation=modulation)(sample)
        assert len(probes) == len(points)
        for probe in probes:
            assert probe.calls, "a scheme was built and never called"
            for visible, infrared, text, guides in probe.calls:
                assert visible == infrared
                assert visible[:2] == (len(sample), probe.channels)
                assert isinstance(text, TextFeatures) and isinstance(guides, Mapping)
