"""IVT on disk, the task, and a short training through the host's loop."""

import numpy as np
import pytest
import torch
from fusionkit_textfusion.datasets import FINE, Ivt
from fusionkit_textfusion.task import SENTENCES, SentenceTask, instances_of
from PIL import Image

from fusionkit.data import write_image
from fusionkit.errors import BadRequest
from fusionkit.registry import Registry
from fusionkit.testing import DatasetContract, TinyEncoder, tiny_pairs
from fusionkit.training import train

REGISTRY = Registry.from_environment()
SENTENCE = "There is a car.\nsecond line"


@pytest.fixture
def ivt(tmp_path):
    """Two pairs of the training layout; the second sentence of each has an association map."""
    root = tmp_path / "IVT_train"
    for number, pair in enumerate(tiny_pairs(2, (32, 40)), 1):
        write_image(root / "ir" / f"{number}.png", pair.infrared)
        write_image(root / "vis" / f"{number}.png", pair.visible)
        (root / "text").mkdir(exist_ok=True)
        (root / "text" / f"{number}_1.txt").write_text(SENTENCE, encoding="utf-8")
        (root / "text" / f"{number}_2.txt").write_text("There is a girl.", encoding="utf-8")
        name = f"IVT_LLVIP_2000_imageIndex_{number}_textIndex_2"
        (root / "association" / name).mkdir(parents=True)
        mask = (pair.masks["person"][0].numpy() * 255).astype(np.uint8)
        Image.fromarray(mask).save(root / "association" / name / FINE)
    return tmp_path


class TestIvt(DatasetContract):
    count = 2

    @pytest.fixture(autouse=True)
    def folder(self, ivt):
        type(self).root = ivt

    def build(self, **options):
        return Ivt(self.root, split="train", **options)

    @pytest.fixture
    def pairs(self):
        return self.build(count=self.count)


def test_ivt_gives_sentences_by_number_and_the_map_of_each(ivt):
    pairs = Ivt(ivt, split="train")
    assert pairs.names == ["1", "2"]
    assert pairs[0].texts == {"1": "There is a car.", "2": "There is a girl."}
    assert list(pairs[1].masks) == ["association:2"]
    torch.testing.assert_close(
        pairs[1].masks["association:2"], tiny_pairs(2, (32, 40))[1].masks["person"]
    )
    assert len(Ivt(ivt / "IVT_train", split="all")) == 2


def test_ivt_reads_the_layout_of_the_map_generator(ivt, tmp_path):
    base = tmp_path / "generator"
    base.mkdir()
    (ivt / "IVT_train" / "ir").rename(base / "set_ir")
    (ivt / "IVT_train" / "vis").rename(base / "set_vis")
    (base / "set_text" / "2").mkdir(parents=True)
    (base / "set_text" / "2" / "2_5.txt").write_text("A girl and a car.", encoding="utf-8")
    assert Ivt(base, split="all")[1].texts == {"5": "A girl and a car."}


def test_ivt_that_is_not_there_says_where_to_get_it(tmp_path):
    with pytest.raises(BadRequest, match=r"github\.com/AWCXV/TextFusion"):
        Ivt(tmp_path / "nothing")
    with pytest.raises(BadRequest, match="not laid out"):
        Ivt(tmp_path)


def test_the_task_halves_pictures_and_takes_the_maps_that_come_with_the_pairs(ivt):
    pairs = list(Ivt(ivt, split="train"))
    task = SentenceTask(pairs=pairs, registry=REGISTRY, encoder=TinyEncoder())
    assert task.prompts == ("There is a car.", "There is a girl.")
    generator = torch.Generator().manual_seed(0)
    batches = [task.sample(1, generator) for _ in range(8)]
    assert {batch.prompts[0] for batch in batches} == set(task.prompts)
    girl = next(batch for batch in batches if "girl" in batch.prompts[0])
    assert girl.visible.shape == (1, 3, 16, 20)
    mask = pairs[int(girl.names[0]) - 1].masks["association:2"]
    half = torch.nn.functional.interpolate(mask[None], (16, 20), mode="bilinear")
    torch.testing.assert_close(girl.guides["association"], half)
    assert 0 < girl.guides["association"].unique().numel() <= 5  # fractions at the edges alone


def test_pairs_without_sentences_are_asked_for_things_on_the_road():
    bare = [pair.__class__(pair.name, pair.visible, pair.infrared) for pair in tiny_pairs(2, 32)]
    task = SentenceTask(pairs=bare, registry=REGISTRY, encoder=TinyEncoder(), crop=8)
    assert task.prompts == SENTENCES
    batch = task.sample(3, torch.Generator().manual_seed(1))
    assert batch.visible.shape == (3, 3, 8, 8) and batch.guides["association"].shape[1] == 1


def test_pieces_of_masks_of_things_are_instances():
    pair = tiny_pairs(1, 32)[0]
    two = torch.zeros(1, 32, 32)
    two[:, 2:8, 2:8] = two[:, 20:30, 20:30] = 1
    found = instances_of(pair.__class__("a", pair.visible, pair.infrared, masks={"car": two}))
    assert found.flatten(1).sum(1).tolist() == [36, 100]
    stuff = pair.__class__("a", pair.visible, pair.infrared, masks={"road": two})
    assert len(instances_of(stuff)) == 0
    assert instances_of(pair.__class__("a", pair.visible, pair.infrared)) is None


@pytest.mark.filterwarnings("ignore:loss 'region-intensity'", "ignore:loss 'saliency-weighted-mse'")
def test_a_short_training_offline_lowers_the_loss(ivt):
    recipe = REGISTRY.create("recipe", "textfusion").with_overrides(
        {"encoder": "tiny-clip", "steps": 30, "learning_rate": 2e-3}
    )
    run = train(recipe, list(Ivt(ivt, split="train")), registry=REGISTRY, precision="float32",
                log_every=10)  # fmt: skip
    totals = [terms["total"] for terms in run.history.values()]
    assert totals[-1] < 0.9 * totals[0]
    assert {"interested", "non_interested"} <= set(run.history[30])
