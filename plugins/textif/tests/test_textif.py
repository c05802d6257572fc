"""The system at work: text points, strips, samples, data on disk, training."""

import pytest
import torch
from fusionkit_textif import blocks, losses
from fusionkit_textif.dataset import DegradedPair, Ems
from fusionkit_textif.degradations import DEGRADATIONS
from fusionkit_textif.modulation import TextModulation
from fusionkit_textif.network import TextIF
from fusionkit_textif.pictures import resize16, stretch
from fusionkit_textif.prompts import PLAIN, PROMPTS
from fusionkit_textif.task import TASKS, DegradedPairs

from fusionkit.batch import Batch, Fused, TextFeatures
from fusionkit.data import write_image
from fusionkit.errors import BadRequest
from fusionkit.methods import Method
from fusionkit.registry import Registry
from fusionkit.testing import DatasetContract, tiny_batch, tiny_pairs
from fusionkit.training import train

SMALL = {"dim": 16, "num_blocks": (1, 1, 1, 1), "refinement": 1, "hidden": 32}
REGISTRY = Registry.from_environment()


def small(**options):
    torch.manual_seed(0)
    return TextIF(text_dim=16, **SMALL, **options).eval()


# --------------------------------------------------------------------------------------- network


def test_a_map_in_strips_is_the_map_in_one_piece(monkeypatch):
    network, batch = small(), tiny_batch(2, (64, 40))
    with torch.no_grad():
        whole = network(batch).image
        monkeypatch.setattr(blocks, "STRIP_BYTES", {"cpu": 1, "cuda": 1})
        assert len(list(blocks.strips(torch.zeros(1, 8, 64, 40), 8))) == 8
        torch.testing.assert_close(network(batch).image, whole, atol=1e-5, rtol=0)


def test_the_joined_convolutions_follow_their_parameters():
    """The product of two weights is kept; training, loading and moving must renew it."""
    feed = blocks.FeedForward(8)
    norm = torch.nn.Identity()
    x = torch.randn(1, 8, 6, 6)

    def apart():
        hidden = torch.nn.functional.gelu(feed.dwconv(feed.project_in(x)))
        return x + feed.project_out(hidden)

    with torch.no_grad():
        torch.testing.assert_close(feed(x, norm), apart())
        feed.project_in.weight.mul_(2)
        torch.testing.assert_close(feed(x, norm), apart())
        feed.load_state_dict({k: -v for k, v in feed.state_dict().items()})
        torch.testing.assert_close(feed(x, norm), apart())
        feed.double()
        x = x.double()
        torch.testing.assert_close(feed(x, norm), apart())
    feed(x, norm).sum().backward()
    assert all(p.grad is not None for p in feed.parameters())


def test_its_own_scheme_by_name_is_its_own_scheme():
    """`modulation textif` is the default; another scheme is given two maps at each point."""
    options = {"text_dim": 16, **SMALL}

    def named(channels):
        return REGISTRY.create(
            "modulation", "textif", channels=channels, text_dim=16, hidden=32, identity=False
        )

    torch.manual_seed(0)
    network = TextIF(modulation=named, **options).eval()
    batch = tiny_batch(1, (32, 32))
    with torch.no_grad():
        torch.testing.assert_close(network(batch).image, small()(batch).image)


@pytest.mark.parametrize("scheme", ["none", "film", "gate", "cross-attention", "textfusion"])
def test_other_schemes_take_its_text_points(scheme):
    recipe = REGISTRY.create("recipe", "textif-small").with_overrides(
        {"modulation": scheme, "network.options": SMALL}
    )
    method = Method(recipe, REGISTRY)
    batch = tiny_batch(1, (32, 40)).replace(text=None, prompts=("fuse them",))
    assert method(batch).image.shape == (1, 3, 32, 40)


def test_its_scheme_is_film_with_its_own_perceptron():
    point = TextModulation(channels=4, text_dim=3, hidden=5, identity=False)
    film = REGISTRY.create("modulation", "film", channels=4, text_dim=3, hidden=5)
    film.to_affine[1] = torch.nn.LeakyReLU(0.01)
    film.to_affine.load_state_dict(point.MLP.state_dict())
    maps, text = torch.randn(2, 1, 4, 6, 6), TextFeatures(pooled=torch.randn(1, 3))
    torch.testing.assert_close(point(*maps, text, {}), film(*maps, text, {}))


def test_without_text_it_says_so():
    with pytest.raises(ValueError, match="encode prompts first"):
        small()(tiny_batch(1, (16, 16)).replace(text=None))


def test_one_infrared_channel_stands_for_three():
    network, batch = small(), tiny_batch(1, (16, 24))
    with torch.no_grad():
        one = network.fuse(batch.visible, batch.infrared, batch.text)
        three = network.fuse(batch.visible, batch.infrared.expand(-1, 3, -1, -1), batch.text)
    torch.testing.assert_close(one, three, atol=1e-5, rtol=0)


def test_the_picture_can_be_stretched_as_the_authors_do():
    network, batch = small(output="stretch"), tiny_batch(2, (16, 24))
    with torch.no_grad():
        image = network(batch).image
    assert (image.amin((1, 2, 3)) == 0).all() and (image.amax((1, 2, 3)) == 1).all()
    assert (stretch(torch.full((1, 3, 4, 4), 0.7)) == 0).all()


def test_widths_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="dim=10 must be even"):
        TextIF(dim=10, heads=(1, 2, 4, 3))
    with pytest.raises(ValueError, match="output is 'clip' or 'stretch'"):
        TextIF(output="strech")


def test_the_authors_resizing_goes_down_to_multiples_of_sixteen():
    picture = torch.randint(0, 256, (50, 70, 3), dtype=torch.uint8).numpy()
    assert resize16(picture).shape == (48, 64, 3)


# ---------------------------------------------------------------------------------------- losses


def test_each_sample_counts_by_its_own_row():
    batch = tiny_batch(2, (56, 56))
    fused = Fused(image=torch.rand(2, 3, 56, 56, generator=torch.Generator().manual_seed(1)))
    tasks = ("low_light", "over_exposure")

    def terms(rows, tasks):
        part = Batch(visible=batch.visible[rows], infrared=batch.infrared[rows])
        part = part.replace(labels={"task": tasks})
        return losses.TaskWeighted()(part, Fused(image=fused.image[rows]))

    both = terms(slice(None), tasks)
    alone = [terms(slice(i, i + 1), tasks[i : i + 1]) for i in (0, 1)]
    for name, value in both.items():
        torch.testing.assert_close(value, (alone[0][name] + alone[1][name]) / 2)


def test_the_table_can_be_edited_and_its_slips_are_named():
    loss = losses.TaskWeighted(table={"fog": {"max": 2.0}})
    batch = tiny_batch(1, (56, 56)).replace(labels={"task": ("fog",)})
    fused = Fused(image=torch.rand(1, 3, 56, 56))
    raw = losses.Intensity()(batch, fused)["max"]
    torch.testing.assert_close(loss(batch, fused)["max"], 2 * raw)
    with pytest.raises(ValueError, match=r"a row has no .colour.\. Did you mean .color."):
        losses.TaskWeighted(table={"fog": {"colour": 2.0}})


def test_pictures_smaller_than_the_window_are_refused():
    batch = tiny_batch(1, (40, 64))
    with pytest.raises(ValueError, match="window of 48 needs pictures of at least 48x48"):
        losses.TaskWeighted()(batch, Fused(image=batch.visible))


# --------------------------------------------------------------------------------------- samples


def task_of(pairs, **options):
    return DegradedPairs(pairs=pairs, registry=REGISTRY, **options)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_clean_pairs_are_damaged_and_kept_as_targets():
    task = task_of(tiny_pairs(3, (70, 90)), crop=48)
    batch = task.sample(24, generator())
    assert set(batch.labels["task"]) == set(TASKS)
    for row, name in enumerate(batch.labels["task"]):
        damaged = "infrared" if name.startswith("ir") else "visible"
        other = "visible" if damaged == "infrared" else "infrared"
        assert not torch.equal(getattr(batch, damaged)[row], batch.targets[damaged][row])
        assert torch.equal(getattr(batch, other)[row], batch.targets[other][row])
        assert batch.prompts[row] in PROMPTS[name.replace("-", "_")]
    assert set(batch.prompts) <= set(task.prompts) and PLAIN in task.prompts


def test_a_sample_is_a_function_of_its_generator():
    task = task_of(tiny_pairs(3, (70, 90)), crop=48)
    first, again, other = (task.sample(4, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.visible, again.visible) and first.prompts == again.prompts
    assert not torch.equal(first.visible, other.visible)


def test_pictures_smaller_than_the_crop_are_padded_by_zeros():
    batch = task_of(tiny_pairs(1, (40, 60)), crop=64, flips=False).sample(2, generator())
    assert batch.visible.shape == (2, 3, 64, 64)
    assert (batch.targets["visible"][..., 40:, :] == 0).all()


def test_plain_fusion_can_be_among_the_tasks():
    batch = task_of(tiny_pairs(2, (50, 50)), crop=48, tasks=("plain",)).sample(2, generator())
    assert torch.equal(batch.visible, batch.targets["visible"])
    assert batch.labels["task"] == ("plain", "plain")


def test_whole_pictures_of_several_sizes_make_no_batch():
    pairs = [*tiny_pairs(1, (50, 50)), *tiny_pairs(1, (50, 60), seed=1)]
    with pytest.raises(BadRequest, match="set the recipe's crop"):
        task_of(pairs, crop=None).sample(12, generator())


def test_shown_pairs_are_asked_with_and_without_a_degradation():
    first, second = task_of(tiny_pairs(1, (50, 50))).prompts_for(0)
    assert first in PROMPTS["low_light"] and second == PLAIN


# ------------------------------------------------------------------------------------ on the disk


@pytest.fixture
def ems(tmp_path):
    """Two degradations laid out as EMS is; names of a pair differ, as they may."""
    for number, folder in enumerate(("Low_light", "IR_Noise")):
        pairs = tiny_pairs(3, (40, 56), seed=number)
        for i, pair in enumerate(pairs):
            split = "eval" if i == 2 else "train"
            base = tmp_path / folder / split
            write_image(base / "Visible" / f"a{i}.png", 0.3 * pair.visible)
            write_image(base / "Infrared" / f"b{i}.png", pair.infrared)
            if split == "train":
                write_image(base / "Visible_gt" / f"c{i}.png", pair.visible)
                write_image(base / "Infrared_gt" / f"d{i}.png", pair.infrared)
        said = f"Mend the {folder} picture.\n\nRepair {folder}.\n"
        (tmp_path / folder / "train" / "text.txt").write_text(said, encoding="utf-8")
    return tmp_path


def test_ems_gives_degraded_pairs_with_clean_ones_and_sentences(ems):
    pairs = Ems(ems)
    assert pairs.names == ["ir_noise/a0", "low_light/a0", "ir_noise/a1", "low_light/a1"]
    pair = pairs[1]
    assert isinstance(pair, DegradedPair) and pair.task == "low_light"
    assert pair.prompts == ("Mend the Low_light picture.", "Repair Low_light.")
    torch.testing.assert_close(pair.visible, 0.3 * pair.clean_visible, atol=0.01, rtol=0)
    held_out = Ems(ems, split="test")
    assert len(held_out) == 2 and held_out[0].clean_visible is None
    assert len(Ems(ems, split="all")) == 6
    assert [p.task for p in Ems(ems, tasks=("Low_light",))] == ["low_light"] * 2
    sized = Ems(ems, size=20)[0]
    assert sized.visible.shape == sized.clean_visible.shape == (3, 20, 28)


def test_ems_pairs_train_with_their_own_sentences_and_targets(ems):
    task = task_of(Ems(ems)[:], crop=32)
    batch = task.sample(12, generator())
    for row, name in enumerate(batch.labels["task"]):
        said = {"low_light": "Low_light", "ir_noise": "IR_Noise"}[name]
        assert said in batch.prompts[row]
    assert not torch.equal(batch.visible, batch.targets["visible"])


def test_folders_of_unequal_number_are_refused(ems):
    (ems / "Low_light" / "train" / "Visible" / "a1.png").unlink()
    with pytest.raises(BadRequest, match="Visible 1, Infrared 2"):
        Ems(ems)


def test_ems_that_is_not_there_says_how_it_is_laid_out(tmp_path):
    with pytest.raises(BadRequest, match="XunpengYi/EMS"):
        Ems(tmp_path / "nowhere")
    with pytest.raises(BadRequest, match="holds no pairs for"):
        Ems(tmp_path)


class TestEmsContract(DatasetContract):
    count = 2

    @pytest.fixture(autouse=True)
    def on_disk(self, ems):
        type(self).root = ems

    @pytest.fixture
    def pairs(self, on_disk):
        return self.build(count=self.count)

    def build(self, **options):
        return Ems(self.root, **options)


# ------------------------------------------------------------------------------------ degradations


def test_noise_has_the_strength_of_its_rule():
    grey = torch.full((1, 1, 200, 200), 0.5)
    noisy = DEGRADATIONS["ems-ir-noise"]()(grey, 1.0, generator()) * 255
    photons = 255 / 80 * (0.5 * 80) ** 0.5  # one photon is 255/80 grey levels
    assert float(noisy.std()) == pytest.approx((20**2 + photons**2) ** 0.5, rel=0.05)
    striped = DEGRADATIONS["ems-ir-stripes"]()(grey, 1.0, generator()) * 255
    assert 3 < float(striped.mean(2).std()) < 8.5


# ---------------------------------------------------------------------------------------- training


def test_a_short_training_lowers_the_loss_and_hears_the_sentence():
    recipe = REGISTRY.create("recipe", "textif-small").with_overrides(
        {"network.options": SMALL | {"dim": 8}, "steps": 10, "batch_size": 2, "crop": 48}
    )
    run = train(recipe, tiny_pairs(4, (64, 64)), registry=REGISTRY, device="cpu", log_every=2)
    totals = [terms["total"] for terms in run.history.values()]
    assert totals[-1] < 0.9 * totals[0]
    batch = tiny_batch(1, (48, 48)).replace(text=None)
    dark, plain = (
        run.method(batch.replace(prompts=(text,))).image
        for text in (PROMPTS["low_light"][0], PLAIN)
    )
    assert not torch.allclose(dark, plain, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_a_gpu_in_bfloat16_gives_the_picture_of_the_cpu():
    network, batch = small(), tiny_batch(2, (64, 64))
    with torch.no_grad():
        wanted = network(batch).image
        network.cuda()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            found = network(batch.to("cuda")).image
    torch.testing.assert_close(found.cpu(), wanted, atol=0.02, rtol=0)
