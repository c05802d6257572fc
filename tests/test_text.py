import pytest
import torch

from fusionkit.batch import TextFeatures
from fusionkit.testing import TinyEncoder
from fusionkit.text import TextBank


class Counting(TinyEncoder):
    """Counts how many prompts reach the tower."""

    def __init__(self):
        super().__init__()
        self.encoded = []

    def encode_text(self, prompts):
        self.encoded += prompts
        return super().encode_text(prompts)


def test_each_prompt_is_encoded_once():
    encoder = Counting()
    bank = TextBank(encoder)
    bank(["a", "b", "a"])
    bank(["b", "c"])
    assert encoder.encoded == ["a", "b", "c"]


def test_features_come_in_the_order_asked_for():
    encoder = TinyEncoder()
    bank = TextBank(encoder)
    bank.add(["a", "b", "c"])
    found = bank(["c", "a"]).pooled
    torch.testing.assert_close(found, encoder.encode_text(["c", "a"]).pooled)


def test_a_bank_may_read_a_part_of_each_prompt():
    encoder = Counting()
    bank = TextBank(encoder, reads=lambda prompt: prompt.split()[0])
    features = bank(["brighten the car", "brighten the tree", "darken the car"]).pooled
    assert encoder.encoded == ["brighten", "darken"]
    assert torch.equal(features[0], features[1]) and not torch.equal(features[0], features[2])


def test_standardised_features_have_mean_zero_and_deviation_one_over_the_bank():
    prompts = [f"prompt number {i}" for i in range(20)]
    bank = TextBank(TinyEncoder(), standardise=True)
    bank.add(prompts)
    bank.fit()
    pooled = bank(prompts).pooled
    torch.testing.assert_close(pooled.mean(0), torch.zeros(pooled.shape[1]), atol=1e-4, rtol=0)
    varied = pooled.std(0, correction=0) > 1e-3
    assert varied.any()
    torch.testing.assert_close(
        pooled.std(0, correction=0)[varied], torch.ones(int(varied.sum())), atol=1e-3, rtol=0
    )


def test_later_prompts_are_scaled_by_the_same_statistics():
    bank = TextBank(TinyEncoder(), standardise=True)
    bank.add(["a", "b", "c"])
    bank.fit()
    before = bank(["a"]).pooled
    bank(["something else entirely"])
    torch.testing.assert_close(bank(["a"]).pooled, before)


def test_statistics_travel_through_a_checkpoint():
    encoder = TinyEncoder()
    bank = TextBank(encoder, standardise=True)
    bank.add(["a", "b", "c"])
    bank.fit()
    other = TextBank(encoder, standardise=True)
    other.load_state(bank.state())
    torch.testing.assert_close(other(["b"]).pooled, bank(["b"]).pooled)
    torch.testing.assert_close(other(["b"]).tokens, bank(["b"]).tokens)


def test_one_prompt_serves_many_pictures_and_two_do_not_serve_three():
    text = TextFeatures(pooled=torch.rand(1, 4))
    assert len(text.expand(3)) == 3
    with pytest.raises(ValueError, match="2 prompts for 3 pictures"):
        TextFeatures(pooled=torch.rand(2, 4)).expand(3)
