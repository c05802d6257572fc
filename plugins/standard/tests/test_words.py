"""The method that ships with weights: its task, its measures on photographs, and its weights."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from fusionkit_standard import photographs
from fusionkit_standard.datasets import Scenes
from fusionkit_standard.scenes.texts import PLAIN, held_out_prompts, highlight_prompts
from fusionkit_standard.tiny_clip.encoder import WEIGHTS
from fusionkit_standard.words import REST, WordsTask, changed, plain
from safetensors import safe_open

from fusionkit import cli
from fusionkit.color import luma
from fusionkit.data import write_image
from fusionkit.methods import bundled_weights, load_method
from fusionkit.protocols import Thing
from fusionkit.registry import Registry
from fusionkit.testing import tiny_pairs


@pytest.fixture(scope="module")
def registry():
    return Registry.from_environment()


@pytest.fixture(scope="module")
def scenes():
    return list(Scenes(split="test", count=12, size=96, workers=1))


@pytest.fixture(scope="module")
def shipped():
    return load_method("words", device="cpu")


# -- the task -------------------------------------------------------------------------------------


def test_plain_fusion_lies_between_the_sources_and_keeps_the_colours():
    torch.manual_seed(0)
    visible, infrared = torch.rand(2, 3, 20, 24) * 0.4 + 0.3, torch.rand(2, 1, 20, 24) * 0.4 + 0.3
    fused, bright = plain(visible, infrared), luma(visible)
    low, high = torch.minimum(bright, infrared), torch.maximum(bright, infrared)
    assert (luma(fused) >= low - 1e-5).all() and (luma(fused) <= high + 1e-5).all()
    torch.testing.assert_close(fused[:, 0] - fused[:, 2], visible[:, 0] - visible[:, 2])
    torch.testing.assert_close(plain(visible, bright), visible)


def test_a_changed_look_is_a_function_of_the_index_and_moves_nothing(scenes):
    pair = scenes[0]
    first, again, other = changed(pair, 3, 1.0), changed(pair, 3, 1.0), changed(pair, 4, 1.0)
    assert torch.equal(first.visible, again.visible)
    assert torch.equal(first.infrared, again.infrared)
    assert not torch.equal(first.infrared, other.infrared)
    assert first.masks is pair.masks
    for picture in (first.visible, first.infrared):
        assert picture.min() >= 0 and picture.max() <= 1
    assert torch.equal(changed(pair, 3, 0.0).visible, pair.visible)


def test_what_is_named_is_brought_out_and_the_rest_steps_back(registry, scenes):
    task = WordsTask(pairs=scenes, registry=registry, crop=48, repair_share=0, randomise=0)
    batch = task.sample(64, torch.Generator().manual_seed(0))
    mixture, mask = task.mixture(batch.visible, batch.infrared), batch.targets["mask"]
    rows = zip(batch.prompts, batch.targets["fused"], mixture, mask, strict=True)
    absent = 0
    for prompt, wanted, plainly, inside in rows:
        if prompt in PLAIN:
            assert not inside.any()
            torch.testing.assert_close(wanted, plainly)
            continue
        absent += not inside.any()
        outside = (inside == 0).expand_as(wanted)
        torch.testing.assert_close(wanted[outside], REST * plainly[outside])
        if (here := (inside == 1).expand_as(wanted)).any():
            assert wanted[here].mean() > plainly[here].mean()
    assert absent > 3


def test_no_held_out_phrasing_is_trained_on(registry, scenes):
    task = WordsTask(pairs=scenes[:2], registry=registry, crop=48)
    for wish in (*task.requests, *task.repairs, "plain"):
        assert not set(held_out_prompts(wish)) & set(task.prompts)


# -- the measures ---------------------------------------------------------------------------------


class Brightens:
    """Stands for a method: raises a given area by a given step when persons are asked for."""

    def __init__(self, area, step=0.1):
        self.area, self.step, self.asked, self.guides = area, step, [], {}

    def fuse(self, infrared, visible, prompts, *, guides):
        self.asked += prompts
        meant = (*highlight_prompts("person"), *held_out_prompts("person"))
        person = torch.tensor([float(prompt in meant) for prompt in prompts])
        return visible + self.step * person[:, None, None, None] * torch.from_numpy(self.area)


def test_raised_is_more_than_the_frame_around_each_box():
    pair = replace(
        tiny_pairs(1, 64)[0],
        visible=torch.full((3, 64, 64), 0.5),
        things=(Thing("person", (20.0, 20.0, 28.0, 40.0)),),
    )
    inside, ring = photographs.frames([(20, 20, 28, 40)], pair)
    assert inside.sum() == 8 * 20 and ring.sum() == 24 * 36 - 8 * 20
    assert not (inside & ring).any()

    def found(area, step=0.1):
        method = Brightens(area, step)
        return photographs.on_pairs(method, [pair], damaged=0, new_words=2), method.asked

    values, asked = found(inside)
    assert values["person: raised"] == {pair.name: 1.0}
    assert values["person: brighter by"][pair.name] == pytest.approx(0.1)
    assert values["person: new words, share"][pair.name] == pytest.approx(1)
    assert asked[:2] == ["highlight the building", "highlight the person"] and len(asked) == 4
    assert not any(name.startswith("car") for name in values)
    # The whole picture, or nothing at all: neither names the person.
    for values in (found(np.ones_like(inside))[0], found(inside, 0.0)[0]):
        assert values["person: raised"] == {pair.name: 0.0}


# -- the weights ----------------------------------------------------------------------------------


def test_network_and_encoder_stay_small_and_belong_together(registry):
    file = bundled_weights(registry.create("recipe", "words"))
    assert file.stat().st_size + WEIGHTS.stat().st_size < 8e6
    with safe_open(file, "pt") as weights:
        told = weights.metadata()
    assert told["encoder"] == hashlib.sha256(WEIGHTS.read_bytes()).hexdigest(), (
        "tiny-clip has other weights than those that `words` was trained with: "
        "run plugins/standard/make_words.py"
    )


@pytest.mark.parametrize("size", [(33, 47), (240, 320)])
def test_any_size_is_fused_and_the_words_change_the_picture(shipped, size):
    torch.manual_seed(1)
    infrared, visible = torch.rand(1, 1, *size), torch.rand(1, 3, *size)
    fused = shipped.fuse(infrared, visible, "make the people stand out")
    assert fused.shape == visible.shape and fused.isfinite().all()


def test_shipped_weights_obey_on_scenes_never_seen(shipped, scenes):
    """A loose bound on a dozen scenes; MODEL_CARD.md has the figures."""
    found = photographs.on_pairs(shipped, scenes, damaged=0, new_words=0)
    raised = [*found["person: raised"].values(), *found["car: raised"].values()]
    assert len(raised) > 8 and np.mean(raised) >= 0.8


def test_fuse_does_something_useful_at_the_first_try(tmp_path, scenes, capsys):
    pair = next(p for p in scenes if any(t.label == "person" for t in p.things))
    ir = write_image(tmp_path / "ir.png", pair.infrared)
    vi = write_image(tmp_path / "vi.png", pair.visible)
    out = tmp_path / "out.png"
    with pytest.raises(SystemExit) as left:
        cli.main(["fuse", f"{ir}", f"{vi}", "-o", f"{out}", "--text", "make the people stand out"])
    said = capsys.readouterr()
    assert left.value.code == 0, said.err
    assert said.out == f"{out}\n" and out.is_file()
    assert "'words' with the weights it brings" in said.err and "MODEL_CARD" in said.err
