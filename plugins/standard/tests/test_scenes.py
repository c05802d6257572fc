"""The embedded scene generator."""

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
from fusionkit_standard.scenes import CLASSES, Scene, pool, realism, render, render_many, texts
from fusionkit_standard.scenes.camera import Camera
from fusionkit_standard.scenes.layout import compose
from fusionkit_standard.scenes.noise import Grain
from fusionkit_standard.scenes.painter import Painter
from fusionkit_standard.scenes.pool import WORTH_A_PROCESS
from fusionkit_standard.scenes.realism import COLUMNS, ROADSCENE, table
from fusionkit_standard.scenes.thermal import render_thermal
from fusionkit_standard.scenes.visible import render_visible
from PIL import Image


def test_a_scene_is_a_pure_function_of_seed_and_size():
    first, second = render(7, 64), render(7, 64)
    for field in ("visible", "infrared", "classes", "instances", "depth"):
        assert np.array_equal(getattr(first, field), getattr(second, field))
    assert first.captions == second.captions and first.dense == second.dense
    assert not np.array_equal(first.visible, render(8, 64).visible)


def test_arrays_have_the_promised_shapes_and_types():
    scene = render(3, (96, 128))
    assert isinstance(scene, Scene)
    assert scene.visible.shape == (96, 128, 3) and scene.visible.dtype == np.uint8
    for field, dtype in (
        ("infrared", np.uint8),
        ("classes", np.uint8),
        ("instances", np.int32),
        ("depth", np.float32),
    ):
        value = getattr(scene, field)
        assert value.shape == (96, 128) and value.dtype == dtype
    assert scene.classes.max() < len(CLASSES)
    assert np.isfinite(scene.depth).all() and scene.depth.min() > 0


def test_boxes_and_areas_belong_to_the_instance_map():
    for seed in range(12):
        scene = render(seed)
        areas = [thing.area for thing in scene.things]
        assert areas == sorted(areas, reverse=True)
        for thing in scene.things:
            own = scene.instances == thing.instance
            x0, y0, x1, y1 = thing.box
            assert own.sum() == thing.area == own[y0:y1, x0:x1].sum()
            assert own[y0].any() and own[y1 - 1].any()
            assert own[:, x0].any() and own[:, x1 - 1].any()
            assert (scene.mask(thing.label) & own).sum() == thing.area


def test_the_same_seed_shows_the_same_street_at_another_size():
    small, large = render(5, 64), render(5, 128)
    halved = large.classes[::2, ::2]
    assert (small.classes == halved).mean() > 0.85


@pytest.mark.parametrize(("seed", "size"), [(-1, 64), (0, 8)])
def test_impossible_requests_are_refused_with_a_reason(seed, size):
    with pytest.raises(ValueError, match=r"counts from 0|too small"):
        render(seed, size)


def test_scenes_do_not_need_torch():
    code = (
        "import sys, types\n"
        "package = types.ModuleType('fusionkit_standard')\n"
        "package.__path__ = [sys.argv[1]]\n"
        "sys.modules['fusionkit_standard'] = package\n"
        "import fusionkit_standard.scenes as scenes\n"
        "scenes.render(0, 64)\n"
        "print('torch' in sys.modules)\n"
    )
    folder = Path(sys.modules[render.__module__].__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


@pytest.fixture(scope="module")
def scenes():
    return [render(seed) for seed in range(1000, 1160)]


def test_the_statistics_lie_within_one_deviation_of_real_pairs(scenes):
    measured = realism((scene.visible, scene.infrared) for scene in scenes)
    print(table({"scenes": measured, "RoadScene": ROADSCENE}))
    for column in COLUMNS:
        mean, deviation = ROADSCENE[column]
        assert abs(measured[column][0] - mean) <= deviation, column


def test_the_statistics_stay_where_they_were_measured(scenes):
    # Guards the look against changes that move it by accident; 160 scenes, size 128.
    expected = {
        "mean_visible": (0.5423, 0.03),
        "mean_infrared": (0.4911, 0.02),
        "std_visible": (0.1565, 0.01),
        "std_infrared": (0.2344, 0.015),
        "entropy_visible": (6.6607, 0.1),
        "entropy_infrared": (7.4845, 0.1),
        "gradient_visible": (0.0303, 0.003),
        "gradient_infrared": (0.049, 0.005),
        "correlation": (-0.1949, 0.12),
    }
    measured = realism((scene.visible, scene.infrared) for scene in scenes)
    for column, (value, tolerance) in expected.items():
        assert measured[column][0] == pytest.approx(value, abs=tolerance), column


def test_the_reference_statistics_are_those_of_the_real_pairs():
    roots = [os.environ.get("FUSIONKIT_DATA"), Path(__file__).resolve().parents[4] / "shared/data"]
    folders = [Path(root) / "roadscene" for root in roots if root]
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        pytest.skip("RoadScene is not here: set FUSIONKIT_DATA to the folder that holds roadscene/")
    pairs = [
        tuple(
            np.asarray(
                Image.open(folder / kind / path.name)
                .convert(mode)
                .resize((128, 128), Image.Resampling.BOX)
            )
            for kind, mode in (("vi", "RGB"), ("ir", "L"))
        )
        for path in sorted((folder / "vi").iterdir())
    ]
    for column, (mean, deviation) in realism(pairs).items():
        assert mean == pytest.approx(ROADSCENE[column][0], abs=6e-4), column
        assert deviation == pytest.approx(ROADSCENE[column][1], abs=6e-4), column


def test_every_kind_of_thing_is_common_enough_to_be_learnt(scenes):
    counts = Counter(thing.label for scene in scenes for thing in scene.things)
    per_scene = {label: count / len(scenes) for label, count in counts.items()}
    assert per_scene["person"] >= 1.4 and per_scene["car"] >= 1.2
    for label in ("bus", "truck", "bicycle"):
        assert per_scene[label] >= 0.3, label
    kinds = [len({thing.label for thing in scene.things}) for scene in scenes]
    assert np.mean([kind >= 2 for kind in kinds]) > 0.75
    assert 0.0 < np.mean([kind == 0 for kind in kinds]) < 0.1


def test_persons_are_warmer_than_what_surrounds_them(scenes):
    differences = []
    for scene in scenes:
        person = scene.mask("person")
        if person.sum() > 60:
            land = scene.mask("road") | scene.mask("ground")
            differences.append(scene.infrared[person].mean() - scene.infrared[land].mean())
    assert len(differences) > 50
    assert np.mean(differences) > 40 and np.mean(np.array(differences) > 0) > 0.85


def test_the_sky_is_the_coldest_part_and_endlessly_far(scenes):
    colder = []
    for scene in scenes:
        sky = scene.mask("sky")
        if sky.mean() > 0.02:
            assert (scene.depth[sky] == 1000.0).all()
            colder.append(scene.infrared[sky].mean() < scene.infrared[~sky].mean())
    assert np.mean(colder) > 0.98


def test_nights_are_darker_than_days(scenes):
    by_time = {
        time: np.mean([scene.visible.mean() for scene in scenes if scene.daytime == time])
        for time in ("day", "dusk", "night")
    }
    assert by_time["night"] < by_time["dusk"] < by_time["day"]
    assert by_time["night"] < 100 < 140 < by_time["day"]


def test_smoke_hides_a_thing_in_light_and_hardly_in_heat(scenes):
    smoky = [scene for scene in scenes if scene.smoke]
    assert 0.05 < len(smoky) / len(scenes) < 0.25
    for scene in scenes:
        for text in (*scene.captions, scene.dense):
            assert ("smoke" in text) == scene.smoke


def test_smoke_flattens_the_visible_picture_and_leaves_the_infrared_one():
    change = {"visible": [], "infrared": []}
    for seed in range(4):
        spread = []
        for opacity in (0.0, 0.95):
            stage, _ = compose(Random(seed), 64, 64)
            fields = stage.painter.fields()
            shared = Grain(np.random.default_rng(seed), fields)
            smoke = np.full((64, 64), opacity, np.float32)
            state = stage.chance.getstate()
            visible = render_visible(stage, fields, shared, smoke, np.random.default_rng(1))
            stage.chance.setstate(state)
            infrared, _ = render_thermal(stage, fields, shared, smoke, np.random.default_rng(1))
            spread.append((visible.std(), infrared.std()))
        (visible_clear, infrared_clear), (visible_smoke, infrared_smoke) = spread
        change["visible"].append(visible_smoke / visible_clear)
        change["infrared"].append(infrared_smoke / infrared_clear)
    assert np.mean(change["visible"]) < 0.6
    assert min(change["infrared"]) > 0.85


def test_the_thermal_picture_is_a_temperature(scenes):
    skins = []
    for scene in scenes:
        assert scene.thermal.dtype == np.uint16 and scene.thermal.shape == scene.infrared.shape
        celsius = scene.thermal / 100 - 273.15
        assert celsius.min() > -60 and celsius.max() < 120
        person = scene.mask("person")
        if person.sum() > 60:
            skins.append(np.percentile(celsius[person], 95))
    assert 20 < np.median(skins) < 36


def test_a_misaligned_visible_picture_moves_by_pixels_and_the_maps_stay(monkeypatch):
    module = sys.modules[render.__module__]
    for seed in range(20, 24):
        pair = []
        for share in (0.0, 1.0):
            monkeypatch.setattr(module, "MISALIGNED", share)
            pair.append(render(seed))
        aligned, shifted = pair
        assert not np.array_equal(aligned.visible, shifted.visible)
        for field in ("infrared", "thermal", "classes", "instances", "depth"):
            assert np.array_equal(getattr(aligned, field), getattr(shifted, field))
        assert aligned.things == shifted.things and aligned.captions == shifted.captions
        # Some shift of at most three pixels brings most of it back.
        core = aligned.visible[8:-8, 8:-8].astype(float)
        gaps = [
            np.abs(core - shifted.visible[8 + y : 120 + y, 8 + x : 120 + x]).mean()
            for y in range(-3, 4)
            for x in range(-3, 4)
        ]
        assert min(gaps) < 0.5 * np.abs(core - core.mean((0, 1))).mean()


def test_people_come_alone_in_company_and_in_crowds_near_and_far(scenes):
    heights, numbers = [], []
    for scene in scenes:
        people = [thing for thing in scene.things if thing.label == "person"]
        numbers.append(len(people))
        heights += [(thing.box[3] - thing.box[1]) / 128 for thing in people]
    assert max(numbers) >= 6 and numbers.count(1) > 15 and numbers.count(0) > 15
    assert np.percentile(heights, 10) < 0.1 and np.percentile(heights, 90) > 0.25


def test_ground_depth_follows_the_plane_and_walls_follow_theirs():
    camera = Camera(height=64, width=64, horizon=32.0, centre=32.0, focal=64.0, altitude=2.0)
    painter = Painter(camera)
    painter.part("sky", (1, 1, 1), -10.0, 1000.0)
    ground = painter.part("ground", (0.2, 0.2, 0.2), 5.0, 0.0)
    wall = painter.part("building", (0.2, 0.2, 0.2), 5.0, 20.0, wall=4.0)
    painter.polygon(((0, 32), (64, 32), (64, 64), (0, 64)), ground)
    painter.polygon(((48, 0), (64, 0), (64, 40), (48, 40)), wall)
    fields = painter.fields()
    # Row 31 of 32 lies 31 painted pixels below the horizon: 64 * 2 / 31 metres away.
    assert fields.depth[31, 0] == pytest.approx(64 * 2 / 31)
    # Column 28 is painted column 57, 25 right of the centre: 64 * 4 / 25 metres.
    assert fields.depth[2, 28] == pytest.approx(64 * 4 / 25)
    assert fields.depth[2, 2] == 1000.0
    assert fields.across[2, 28] == pytest.approx(4.0)


def test_a_picture_pixel_is_the_mean_of_its_painted_pixels():
    camera = Camera(height=64, width=64, horizon=0.0, centre=32.0, focal=64.0, altitude=2.0)
    painter = Painter(camera)
    painter.part("sky", (0.0, 0.0, 0.0), 0.0, 1000.0)
    warm = painter.part("person", (1.0, 0.5, 0.25), 40.0, 7.0, instance=1)
    painter.image.putpixel((11, 21), warm)
    fields = painter.fields()
    assert fields.temperature[10, 5] == pytest.approx(10.0)
    assert fields.albedo[:, 10, 5] == pytest.approx([0.25, 0.125, 0.0625])
    assert fields.temperature.sum() == pytest.approx(10.0)


def test_render_many_gives_the_same_scenes_as_one_by_one():
    seeds = list(range(40, 40 + 8 * WORTH_A_PROCESS))  # 64x64 counts as a quarter of a picture
    many = render_many(seeds, 64, workers=2)
    assert [scene.seed for scene in many] == seeds
    for index in (0, 1, len(seeds) - 1):
        alone = render(seeds[index], 64)
        assert np.array_equal(many[index].visible, alone.visible)
        assert np.array_equal(many[index].infrared, alone.infrared)
        assert many[index].captions == alone.captions and many[index].things == alone.things


def test_a_worker_that_dies_is_reported(monkeypatch):
    monkeypatch.setattr(pool, "_WORKER", "raise SystemExit(3)")
    with pytest.raises(RuntimeError, match="workers=1"):
        render_many(range(2 * WORTH_A_PROCESS), 128, workers=2)


def test_captions_are_three_different_sentences_that_name_what_is_seen(scenes):
    for scene in scenes:
        assert len(set(scene.captions)) == 3
        for thing in scene.things[:1]:
            assert re.search(
                rf"\b({thing.label}|{texts.PLURALS[thing.label]})\b", scene.captions[0]
            )


def test_the_dense_caption_gives_resolution_and_every_box():
    scene = render(3, (288, 384))
    assert "384X288" in scene.dense
    boxes = re.findall(r"\[(\d+), (\d+), (\d+), (\d+)\]", scene.dense)
    assert [tuple(map(int, box)) for box in boxes] == [thing.box for thing in scene.things]


def test_a_phrase_says_where_a_thing_is(scenes):
    for scene in scenes:
        for thing in scene.things:
            centre = (thing.box[0] + thing.box[2]) / 2 / 128
            place = "left" if centre < 0.36 else "right" if centre > 0.64 else "middle"
            assert thing.place == place
            assert thing.phrase.startswith(f"the {thing.label} ") and thing.phrase.endswith(place)


def test_every_word_of_every_text_is_in_the_vocabulary(scenes):
    words = set(texts.vocabulary())
    assert list(texts.vocabulary()) == sorted(words) and all(
        re.fullmatch("[a-z]+", w) for w in words
    )
    written = [text for scene in scenes for text in (*scene.captions, scene.dense)]
    written += [thing.phrase for scene in scenes for thing in scene.things]
    written += texts.all_prompts()
    written += [text for name in texts.DEGRADATION_NAMES for text in texts.statement(name)]
    for text in written:
        # The "x" between width and height is no word.
        found = set(re.findall(r"[a-z]+", re.sub(r"\d+x\d+", "", text.lower())))
        assert found <= words, found - words
    assert 200 <= len(words) <= 400  # of 1024 places; the rest are buckets for unknown words


def test_a_phrasing_means_one_wish_and_names_its_class():
    assert tuple(texts.SYNONYMS) == CLASSES
    wishes = texts.wishes()
    assert set(wishes) == {*CLASSES, *texts.GROUPS, *texts.DEGRADATION_NAMES, "plain"}
    seen = set()
    for wish, phrasings in wishes.items():
        assert len(phrasings) >= 10 and len(set(phrasings)) == len(phrasings)
        assert not seen & set(phrasings)
        seen.update(phrasings)
        if wish in texts.SYNONYMS:
            assert phrasings == texts.highlight_prompts(wish)
            names = [*texts.SYNONYMS[wish], *texts._MANY.get(wish, ())]
            assert all(any(name in phrasing for name in names) for phrasing in phrasings)
    assert seen == set(texts.all_prompts())
    assert "make the people stand out" in wishes["person"]
    assert "get rid of the fog" in wishes["haze"]


def test_held_out_phrasings_say_new_things_mostly_in_known_words():
    trained = set(texts.all_prompts())
    trained |= {text for name in texts.DEGRADATION_NAMES for text in texts.statement(name)}
    words, seen, new, known = set(texts.vocabulary()), set(), 0, []
    for wish in texts.wishes():
        held_out = texts.held_out_prompts(wish)
        assert len(held_out) >= 4 and not set(held_out) & (trained | seen)
        seen.update(held_out)
        unknown = [set(re.findall("[a-z]+", text.lower())) - words for text in held_out]
        assert 2 <= sum(not found for found in unknown) < len(held_out), wish
        new += sum(map(bool, unknown))
        known += [word in words for text in held_out for word in text.lower().split()]
    assert 0.1 < new / len(seen) < 0.5 and np.mean(known) > 0.75


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="person"):
        texts.highlight_prompts("horse")
    with pytest.raises(ValueError, match="person"):
        texts.held_out_prompts("horse")
    with pytest.raises(ValueError, match="haze"):
        texts.repair_prompts("rust")
    with pytest.raises(ValueError, match="bicycle"):
        render(0, 64).mask("horse")
