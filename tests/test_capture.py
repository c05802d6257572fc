"""Listening at layers: what is collected, and that nothing else changes."""

import gc
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from fusionkit.capture import as_array, capture
from fusionkit.errors import BadRequest


class Attention(nn.Module):
    def forward(self, x):
        return {"map": x * 2, "weights": x.sum()}


class Small(nn.Module):
    layers = ("encoder.0", "attention")

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True))
        self.attention = Attention()
        self.recurrent = nn.LSTM(4, 5, batch_first=True)

    def forward(self, image):
        x = self.attention(self.encoder(image))["map"]
        return self.recurrent(x.flatten(2).mT)[0].mean()


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Small()


IMAGE = torch.rand(2, 3, 8, 10, generator=torch.Generator().manual_seed(1))


def test_the_layers_a_network_names_are_collected_with_their_shapes(network):
    with capture(network) as maps:
        network(IMAGE)
        shapes = {layer: tuple(value.shape) for layer, value in maps.items()}
    assert shapes == {"encoder.0": (2, 4, 8, 10), "attention": (2, 4, 8, 10)}


def test_a_layer_output_is_kept_as_it_was_before_an_in_place_activation(network):
    with capture(network, ["encoder.0"]) as maps:
        network(IMAGE)
        collected = maps["encoder.0"].clone()
    assert torch.equal(collected, network.encoder[0](IMAGE))
    assert collected.min() < 0


def test_of_a_tuple_the_first_tensor_is_taken(network):
    with capture(network, ["recurrent"]) as maps:
        network(IMAGE)
        assert maps["recurrent"].shape == (2, 80, 5)


def test_listening_changes_neither_results_nor_gradients(network):
    plain = network(IMAGE)
    plain.backward()
    gradient = network.encoder[0].weight.grad.clone()
    network.zero_grad()
    with capture(network) as maps:
        heard = network(IMAGE)
        heard.backward()
        assert not any(value.requires_grad for value in maps.values())
    assert torch.equal(heard, plain)
    assert torch.equal(network.encoder[0].weight.grad, gradient)


def test_under_autocast_maps_have_the_type_the_layer_computed(network):
    with capture(network, ["encoder.0"]) as maps, torch.autocast("cpu", torch.bfloat16):
        network(IMAGE)
        value = maps["encoder.0"]
        assert value.dtype == torch.bfloat16
        array = as_array(value)
    assert array.dtype == np.float32
    assert np.allclose(array, network.encoder[0](IMAGE).detach(), atol=0.02)


def test_hooks_and_maps_are_gone_afterwards_also_after_an_error(network):
    with pytest.raises(RuntimeError, match="stop"), capture(network) as maps:
        network(IMAGE)
        alive = weakref.ref(maps["attention"])
        raise RuntimeError("stop")
    gc.collect()
    assert alive() is None
    assert maps == {}
    network(IMAGE)
    assert maps == {}


def test_an_unknown_layer_is_refused_with_the_nearest_name(network):
    message = r"no layer 'encoder\.O'.*'encoder\.0'"
    with pytest.raises(BadRequest, match=message), capture(network, ["attention", "encoder.O"]):
        pass
    assert not network.attention._forward_hooks


def test_a_network_that_names_no_layers_gives_none():
    bare = nn.Conv2d(1, 1, 1)
    with capture(bare) as maps:
        bare(torch.zeros(1, 1, 2, 2))
        assert maps == {}
