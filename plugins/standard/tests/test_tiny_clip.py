"""tiny-clip: words, shapes, weights, and that it sees what it claims to see."""

import argparse
import importlib.util
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fusionkit_standard import scenes
from fusionkit_standard.degradations import BASIC
from fusionkit_standard.guide import SOURCES, HeatMap
from fusionkit_standard.scenes import texts
from fusionkit_standard.tiny_clip import looks, training
from fusionkit_standard.tiny_clip.encoder import (
    LONGEST_SIDE,
    VOCABULARY,
    WEIGHTS,
    TinyClip,
    reading_size,
)
from fusionkit_standard.tiny_clip.measures import (
    area_under_curve,
    calibration_error,
    mean_text,
    on_photographs,
    wishes_understood,
)
from fusionkit_standard.tiny_clip.tokenizer import Tokenizer, words

from fusionkit.batch import Batch
from fusionkit.errors import BadRequest
from fusionkit.protocols import JointEncoder, Pair, Thing

HELD_OUT = 900_000
LARGEST = (LONGEST_SIDE * 3 // 32, LONGEST_SIDE // 8)  # patches of a large picture of 3 to 4
END = 1023


@pytest.fixture(scope="module")
def encoder():
    return TinyClip()


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_file(VOCABULARY)


@pytest.fixture(scope="module")
def some_scenes():
    return [scenes.render(HELD_OUT + i) for i in range(20)]


def visible_of(some):
    return torch.stack([torch.from_numpy(s.visible).permute(2, 0, 1).float() / 255 for s in some])


def infrared_of(some):
    return torch.stack([torch.from_numpy(s.infrared)[None].float() / 255 for s in some])


# words


def test_case_and_punctuation_do_not_matter(tokenizer):
    assert tokenizer.encode("Highlight, the CAR!") == tokenizer.encode("highlight the car")


def test_every_word_of_the_generator_is_known(tokenizer):
    assert set(texts.vocabulary()) <= set(tokenizer.vocabulary)
    known = tokenizer.encode("make the street lamp stand out")
    assert all(id < tokenizer.first_bucket for id in known[:-1]) and known[-1] == END


def test_a_plural_of_a_known_word_counts_as_the_word(tokenizer):
    assert tokenizer.encode("lorrys facades") == tokenizer.encode("lorry facade")


@pytest.mark.parametrize("text", ["giraffe", "голубь", "行人", "naïve", "x" * 500, "3.14"])
def test_unknown_words_of_any_script_fall_into_buckets(tokenizer, text):
    ids = tokenizer.encode(text)
    assert all(tokenizer.first_bucket <= id < END for id in ids[:-1]) and len(ids) >= 2


@pytest.mark.parametrize("text", ["", "   ", "?!", "\n\t", "🙂"])
def test_a_text_without_words_is_end_of_text_alone(tokenizer, text):
    assert tokenizer.encode(text) == [END]


def test_a_long_text_is_cut_and_keeps_its_end(tokenizer):
    ids = tokenizer(["the car and " * 30])
    assert ids.shape == (1, 24) and ids[0, -1] == END and (ids[0, :-1] != END).all()


def test_buckets_are_the_same_in_another_process(tokenizer):
    code = (
        "import importlib.util as u, sys\n"
        "s = u.spec_from_file_location('tokenizer', sys.argv[1]); m = u.module_from_spec(s)\n"
        "s.loader.exec_module(m); print(m.Tokenizer(['car']).encode('zebra crossing car'))"
    )
    path = VOCABULARY.with_name("tokenizer.py")
    there = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    ).stdout
    here = Tokenizer(["car"]).encode("zebra crossing car")
    assert json.loads(there) == here


def test_a_vocabulary_without_room_for_buckets_is_refused():
    with pytest.raises(ValueError, match="at least one bucket"):
        Tokenizer([f"w{i}" for i in range(1022)])


def test_words_are_compatibility_normalised():
    assert words("Ｃａｒ ﬁre") == ["car", "fire"]


# shapes and contract


def test_it_is_a_joint_encoder_and_frozen(encoder):
    assert isinstance(encoder, JointEncoder)
    assert (encoder.text_dim, encoder.image_size, encoder.patch_size) == (128, 128, 8)
    encoder.train()
    assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())


def test_text_features_have_the_promised_shapes(encoder):
    text = encoder.encode_text(["highlight the car", "", "remove the haze", "highlight the car"])
    assert text.pooled.shape == (4, 128) and text.tokens.shape == (4, 24, 128)
    assert text.mask.sum(1).tolist() == [4, 1, 4, 4]
    assert text.pooled.dtype == torch.float32
    assert torch.equal(text.pooled[0], text.pooled[3])
    torch.testing.assert_close(text.pooled.norm(dim=1), torch.ones(4))


def test_padding_does_not_change_a_text(encoder):
    ids = encoder.tokenizer(["highlight the car"])
    long, _ = encoder.towers.text(ids)
    short, _ = encoder.towers.text(ids[:, :4])
    torch.testing.assert_close(long, short, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("size", "grid"),
    [((128, 128), (16, 16)), ((97, 131), (12, 16)), ((20, 9), (2, 2)), ((480, 640), LARGEST)],
)
def test_pictures_of_any_size_and_channel_count_are_read(encoder, channels, size, grid):
    image = torch.rand(2, channels, *size)
    found = encoder.encode_image(image)
    assert found.pooled.shape == (2, 128) and found.patches.shape == (2, 128, *grid)
    heat = encoder.heatmap(["the car", "the sky"], image)
    assert heat.shape == (2, 1, *size) and heat.min() >= 0 and heat.max() <= 1
    assert torch.isfinite(found.patches).all()


def test_a_grey_picture_equals_three_equal_channels(encoder):
    image = torch.rand(1, 1, 64, 64)
    one, three = (encoder.encode_image(i).patches for i in (image, image.expand(-1, 3, -1, -1)))
    assert torch.equal(one, three)


def test_a_picture_of_wrong_shape_is_refused(encoder):
    with pytest.raises(BadRequest, match=r"\(3, 64, 64\)"):
        encoder.encode_image(torch.rand(3, 64, 64))


def test_the_reading_size_keeps_shape_and_stride():
    assert reading_size(128, 128, 256) == (128, 128)
    assert reading_size(480, 640, 256) == (192, 256)
    assert reading_size(97, 5, 256) == (96, 16)


def test_gradients_reach_the_picture_and_nothing_else(encoder):
    image = torch.rand(1, 3, 64, 64, requires_grad=True)
    heat = encoder.heatmap(["the car"], image)
    (heat.mean() + encoder.encode_image(image).pooled[0, 0]).backward()
    assert image.grad.abs().sum() > 0 and torch.isfinite(image.grad).all()
    assert all(p.grad is None for p in encoder.parameters())


def test_the_same_input_gives_the_same_output(encoder):
    image = torch.rand(2, 3, 72, 96, generator=torch.Generator().manual_seed(0))
    again = TinyClip()
    assert torch.equal(encoder.heatmap(["the bus"], image), again.heatmap(["the bus"], image))
    first, second = (e.encode_text(["a zebra on the left"]).tokens for e in (encoder, again))
    assert torch.equal(first, second)


def test_one_prompt_serves_all_pictures_and_many_must_match(encoder):
    image = torch.rand(3, 3, 64, 64)
    assert encoder.heatmap(["the car"], image).shape == (3, 1, 64, 64)
    with pytest.raises(ValueError, match="2 prompts for 3 pictures"):
        encoder.heatmap(["the car", "the bus"], image)


def test_the_grid_holds_the_same_scores_as_single_maps(encoder, some_scenes):
    image = visible_of(some_scenes[:2])
    grid = encoder.heatmap_grid(["the car", "the sky"], image)
    assert grid.shape == (2, 2, 32, 32)
    sky = encoder.heatmap(["the sky"], image)
    assert (
        np.corrcoef(torch.nn.functional.avg_pool2d(sky, 4).flatten(), grid[:, 1].flatten())[0, 1]
        > 0.99
    )


def test_float32_and_bfloat16_agree(some_scenes):
    image = visible_of(some_scenes[:4])
    exact, short = (TinyClip(precision=p) for p in ("float32", "bfloat16"))
    gap = exact.heatmap(["the road"], image) - short.heatmap(["the road"], image)
    assert gap.abs().mean() < 0.02


# weights


def test_the_shipped_weights_are_small_and_half_precision():
    assert WEIGHTS.stat().st_size < 6_000_000
    record = json.loads(WEIGHTS.with_name("measures.json").read_text())
    assert record["made"]["machine"] and record["made"]["steps"] > 0


def test_loading_is_quick_once_torch_is_there():
    code = (
        "import torch, time\n"
        "import fusionkit.batch, fusionkit.devices, safetensors.torch\n"
        "from fusionkit_standard.tiny_clip.encoder import TinyClip\n"
        "start = time.process_time(); TinyClip(); print(time.process_time() - start)\n"
        "import sys; print('open_clip' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, imported = done.stdout.split()
    assert float(seconds) < 1 and imported == "False"


def test_missing_weights_are_named_with_their_cure(tmp_path):
    with pytest.raises(BadRequest, match=r"(?s)not there: .*none\.safetensors.*make_tiny_clip\.py"):
        TinyClip(tmp_path / "none.safetensors")


@pytest.mark.parametrize("damage", ["cut", "noise", "other"])
def test_damaged_weights_are_named_with_their_cure(tmp_path, damage):
    path = tmp_path / "bad.safetensors"
    if damage == "cut":
        path.write_bytes(WEIGHTS.read_bytes()[:100_000])
    elif damage == "noise":
        path.write_bytes(b"not weights at all")
    else:
        from safetensors.torch import save_file

        save_file({"something": torch.zeros(3)}, path)
    with pytest.raises(BadRequest, match=r"(?s)bad\.safetensors holds no weights.*make_tiny_clip"):
        TinyClip(path)


def test_an_unknown_precision_is_refused():
    with pytest.raises(BadRequest, match="float64"):
        TinyClip(precision="float64")


# what it sees


def test_the_car_scores_higher_inside_its_mask_than_outside(encoder, some_scenes):
    with_car = [s for s in some_scenes if s.mask("car").sum() > 60]
    assert len(with_car) >= 5
    for prompt in ("the car", "highlight the car"):
        heat = encoder.heatmap([prompt], visible_of(with_car))[:, 0].numpy()
        pairs = [
            (h[s.mask("car")].mean(), h[~s.mask("car")].mean())
            for h, s in zip(heat, with_car, strict=True)
        ]
        inside, outside = np.array(pairs).T
        assert inside.mean() > 4 * outside.mean()
        assert (inside > outside).mean() > 0.8


def test_a_request_that_names_nothing_visible_gives_an_almost_empty_map(encoder, some_scenes):
    image = visible_of(some_scenes)
    for prompt in ("remove the haze", "fuse the two images"):
        assert encoder.heatmap([prompt], image).mean() < 0.01
    road = [s for s in some_scenes if s.mask("road").mean() > 0.2]
    heat = encoder.heatmap(["highlight the road"], visible_of(road))[:, 0].numpy()
    assert np.mean([h[s.mask("road")].mean() for h, s in zip(heat, road, strict=True)]) > 0.5


def test_held_out_requests_land_near_their_wish(encoder):
    found = wishes_understood(encoder)
    assert found["all"] > 0.6 and found["chance"] < 0.05


def test_the_guide_combines_both_pictures_as_asked(encoder, some_scenes):
    batch = Batch(
        names=("a", "b"),
        visible=visible_of(some_scenes[:2]),
        infrared=infrared_of(some_scenes[:2]),
        prompts=("the car", "the road"),
    )
    apart = [HeatMap(encoder=encoder, sources=(one,)).grid(batch, ["the car"]) for one in SOURCES]
    first, second = (maps["heatmap"] for maps in apart)
    mean, either = (HeatMap(encoder=encoder, combine=way) for way in ("mean", "either"))
    torch.testing.assert_close(mean.grid(batch, ["the car"])["heatmap"], (first + second) / 2)
    torch.testing.assert_close(
        either.grid(batch, ["the car"])["heatmap"], first + second - first * second
    )
    assert (either(batch)["heatmap"] >= mean(batch)["heatmap"] - 1e-6).all()
    with pytest.raises(BadRequest, match="mean or either"):
        HeatMap(encoder=encoder, combine="best")


def test_degradations_are_named_far_above_chance(encoder, some_scenes):
    text = torch.stack([mean_text(encoder, texts.statement(name)) for name in BASIC])
    depth = torch.stack([torch.from_numpy(s.depth)[None] for s in some_scenes])
    generator = torch.Generator().manual_seed(0)
    right = []
    for index, build in enumerate(BASIC.values()):
        picture = (visible_of if build.modality == "visible" else infrared_of)(some_scenes)
        damaged = build()(picture, 0.75, generator, depth=depth)
        right.append((encoder.encode_image(damaged).pooled @ text.T).argmax(1) == index)
    assert torch.stack(right).float().mean() > 0.8  # chance is 0.125


def test_boxes_on_photographs_are_asked_per_label(encoder):
    def pair(name, left):
        x = 0 if left else 48
        picture = torch.zeros(1, 64, 96)
        picture[:, 16:48, x : x + 48] = 1
        box = Thing("person", (x, 16, x + 48, 48))
        return Pair(name=name, visible=picture.expand(3, -1, -1), infrared=picture, things=(box,))

    found = on_photographs(encoder, [pair(str(i), i % 2 == 0) for i in range(6)])
    assert set(found) == {"person"} and found["person"]["pairs"] == 6
    assert found["person"]["infrared brightness"] == {"pointing": 1.0, "area under curve": 1.0}
    assert set(found["person"]) > {"visible", "infrared", "both", "fused", "fused brightness"}
    assert on_photographs(encoder, [pair("few", True)]) == {}


def test_area_under_curve_by_hand():
    heat = np.array([[0.9, 0.1], [0.4, 0.4]])
    assert area_under_curve(heat, np.array([[True, False], [True, False]])) == (2 + 1.5) / 4
    assert np.isnan(area_under_curve(heat, np.ones((2, 2), bool)))


def test_calibration_error_by_hand():
    assert calibration_error(np.array([0.2, 0.2]), np.array([0.0, 1.0]), 10) == pytest.approx(0.3)
    assert calibration_error(np.array([0.25, 0.75]), np.array([0.25, 0.75])) == pytest.approx(0)


# how the weights are made


@pytest.fixture(scope="module")
def pool():
    return training.Pool(range(training.TRAINING_SEEDS, training.TRAINING_SEEDS + 40))


@pytest.fixture(scope="module")
def make_tiny_clip():
    path = Path(__file__).parents[1] / "make_tiny_clip.py"
    spec = importlib.util.spec_from_file_location("make_tiny_clip", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_scenes_of_training_measures_and_runs_do_not_meet():
    shown = range(training.TRAINING_SEEDS, training.TRAINING_SEEDS + 1_000_000)
    kept = [range(500_000), training.MEASURE_SEEDS, training.CALIBRATION_SEEDS, shown]
    assert all(a.stop <= b.start for a, b in itertools.pairwise(kept))


def test_views_are_pictures_with_shares_that_sum_to_one(pool):
    for step in range(4):
        rows, rng = training.rows_of_step(step, pool.odds(), 0)
        seen = training.views(pool, rows, rng)
        height, width = seen.image.shape[-2:]
        assert seen.image.min() >= 0 and seen.image.max() <= 1
        assert seen.shares.shape == (len(rows), 12, height // 4, width // 4)
        torch.testing.assert_close(seen.shares.sum(1), torch.ones_like(seen.shares[:, 0]))
        assert 0.2 < (seen.degradation >= 0).float().mean() < 0.8


def test_both_halves_of_a_batch_see_the_same_windows_in_two_modalities(pool):
    rows, rng = training.rows_of_step(0, pool.odds(), 0)
    seen = training.views(pool, rows, rng)
    half = len(rows) // 2
    assert (rows[:half] == rows[half:]).all()
    for whole in (seen.classes, seen.instances):
        assert (whole[:half] == whole[half:]).all()
    colourful = seen.image.std(1).mean((1, 2)) > 0.01
    assert colourful[:half].sum() > colourful[half:].sum()
    alone, rng = training.rows_of_step(0, pool.odds(), 0, ())
    assert (alone[:half] != alone[half:]).any()
    assert training.views(pool, alone, rng, ()).image.shape[0] == len(alone)


@pytest.mark.parametrize("colour", [True, False])
def test_a_look_changes_pictures_and_keeps_their_range(colour):
    ramp = torch.linspace(0, 1, 64).expand(16, 3 if colour else 1, 48, 64)
    found = looks.restyle(ramp, colour, np.random.default_rng(0))
    assert found.shape == ramp.shape and found.min() >= 0 and found.max() <= 1
    assert ((found - ramp).abs().mean((1, 2, 3)) > 0.01).float().mean() > 0.7
    again = looks.restyle(ramp, colour, np.random.default_rng(0))
    assert torch.equal(found, again) and ramp[0, 0, 0, 0] == 0  # the original is untouched


def test_a_tone_curve_rises_and_keeps_black_and_white():
    ramp = torch.linspace(0, 1, 200).expand(8, 1, 2, 200)
    curve = looks.tone_curve(ramp, np.random.default_rng(1))
    assert (curve.diff(dim=-1) >= -1e-6).all()
    assert curve[..., 0].abs().max() < 1e-6 and (curve[..., -1] - 1).abs().max() < 1e-6


def test_the_truth_of_a_phrase_lies_where_the_phrase_says(pool):
    places = {"on the left": (0, 0.5), "on the right": (0.5, 1)}
    found = 0
    for step in range(6):
        rows, rng = training.rows_of_step(step, pool.odds(), 1)
        seen = training.views(pool, rows, rng)
        said, truth = training.Phrases().about(seen, rng)
        assert len(said) == 4 * len(rows) and truth.min() >= 0 and truth.max() <= 1
        assert truth[:, 0].amax((1, 2)).min() > 0  # something present
        assert truth[:, 3].max() == 0  # nothing visible is named
        for text, mask in zip(said, truth.flatten(0, 1), strict=True):
            for words_, (low, high) in places.items():
                if text.endswith(words_):
                    columns = mask.sum(0)
                    centre = (columns * torch.arange(len(columns))).sum() / columns.sum()
                    assert low <= centre / len(columns) <= high, text
                    found += 1
    assert found > 20


def test_a_stopped_training_goes_on_to_the_same_weights(
    pool, make_tiny_clip, tmp_path, monkeypatch
):
    options = argparse.Namespace(
        seed=3, steps=3, core_seconds=0, threads=1, start=None, without=(), rate=1e-3
    )
    tokenizer = Tokenizer(texts.vocabulary())
    monkeypatch.setattr(make_tiny_clip, "SAVE_EVERY", -1)
    monkeypatch.setattr(training, "BATCH", 8)
    whole, record = make_tiny_clip.train(options, pool, tokenizer, None)
    assert record["steps"] == 3
    views, calls = training.views, []

    def stop_at_third(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return views(*args)

    monkeypatch.setattr(training, "views", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        make_tiny_clip.train(options, pool, tokenizer, tmp_path)
    resumed, record = make_tiny_clip.train(options, pool, tokenizer, tmp_path)
    assert len(calls) == 4 and record["steps"] == 3
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, msg=name)
