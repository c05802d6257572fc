"""Stored runs: what goes in comes out by name; what was not written shows as missing; what is
damaged, foreign or different is refused; a process that dies loses nothing it had finished."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr

from fusionkit import store
from fusionkit.store import location
from fusionkit.store.arrays import Arrays

pytestmark = pytest.mark.filterwarnings("error")

PAIRS = ["street", "wood", "harbour"]
SIZES = [(24, 32), (20, 32), (24, 30)]
MEMORY = iter(range(1000))


def begin(path, **changes):
    request = {
        "parameters": {"modulation": "film", "seeds": [0, 1], "data_root": None},
        "recipe": {"losses": {"pixel": 1.0}},
        "components": {"film": {"plugin": "standard", "version": "0.1.0"}},
        "seed": 0,
        "device": "cpu",
    }
    return store.create_run(path, **{**request, **changes})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.zarr"


def noise(*shape, seed=0, scale=1.0):
    return (scale * np.random.default_rng(seed).random(shape)).astype(np.float32)


def picture(pair, bands=3, seed=0):
    return noise(bands, *SIZES[PAIRS.index(pair)], seed=seed + PAIRS.index(pair))


def fill(run, pair, seed=0):
    """One pair with everything a run keeps of it."""
    run.declare_pairs(PAIRS, 24, 32, SIZES)
    height, width = SIZES[PAIRS.index(pair)]
    run.put_image("ir", pair, picture(pair, 1, seed))
    run.put_image("vi", pair, picture(pair, 3, seed + 10))
    run.put_image("fused", pair, picture(pair, 3, seed + 20))
    run.put_features("decoder.1", pair, noise(11, height // 2, width // 2, seed=seed + 30))
    run.put_heatmaps("tiny-clip", pair, noise(2, height, width, seed=seed + 40), ["a car", "sky"])
    run.declare_metrics(["EN", "SD"])
    run.put_scores("score", pair, {"EN": 6.5 + PAIRS.index(pair), "SD": 0.1})


@pytest.fixture
def in_another_process():
    """Starts a Python that runs some code with the helpers of this file at hand."""
    here = str(Path(__file__).parent)
    head = f"import sys\nsys.path.insert(0, {here!r})\nfrom test_store import *\n"
    started = []

    def start(code, *words):
        process = subprocess.Popen(
            [sys.executable, "-c", head + textwrap.dedent(code), *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.stdout.close()
        process.stderr.close()
        process.wait()


def wait_for(file):
    while not Path(file).exists():
        time.sleep(0.001)


# --- round trip ----------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["folder", "memory"])
def test_what_is_put_comes_out_by_name(tmp_path, where):
    path = tmp_path / "run.zarr" if where == "folder" else f"memory://run-{next(MEMORY)}.zarr"
    with begin(path) as run:
        fill(run, "street")
        fill(run, "wood")
    tree = store.open_run(path)
    street = tree["images"].sel(pair="street")
    assert np.array_equal(street["fused"], picture("street", 3, 20))
    assert np.array_equal(street["ir"].sel(band="green"), picture("street", 1)[0])
    wood = tree["images"]["vi"].sel(pair="wood")
    assert np.array_equal(wood[:, :20], picture("wood", 3, 10))
    assert np.isnan(wood[:, 20:]).all()
    maps = tree["features"]["decoder.1"]["maps"].sel(pair="street")
    assert maps.dims == ("channel", "y", "x")
    assert np.array_equal(maps, noise(11, 12, 16, seed=30).astype(np.float16))
    heat = tree["heatmaps"]["tiny-clip"]["maps"].sel(pair="wood", prompt="sky")
    assert np.allclose(heat[:20], noise(2, 20, 32, seed=40)[1], atol=1e-3)
    assert float(tree["scores"]["score"].sel(pair="wood", metric="EN")) == 7.5
    assert tree.attrs["status"] == "complete"
    assert tree.attrs["parameters"]["modulation"] == "film"
    assert tree.attrs["packages"]["zarr"] == zarr.__version__
    assert tree["pair"].values.tolist() == PAIRS


def test_true_sizes_are_coordinates_and_readers_cut_to_them(path):
    with begin(path) as run:
        fill(run, "wood")
    images = store.open_run(path)["images"]
    assert images["height"].values.tolist() == [24, 20, 24]
    assert images["width"].values.tolist() == [32, 32, 30]
    assert "height" in images.coords
    for source in (path, store.open_run(path)):
        assert np.array_equal(store.read_image(source, "vi", "wood"), picture("wood", 3, 10))
        assert store.read_features(source, "decoder.1", "wood").shape == (11, 10, 16)
        heat, prompts = store.read_heatmaps(source, "tiny-clip", "wood")
        assert (heat.shape, prompts) == ((2, 20, 32), ["a car", "sky"])


def test_curves_of_every_arm_and_seed_come_back_at_their_true_steps(path):
    with begin(path) as run:
        run.declare_history(["film", "none"], [0, 7], [0, 50, 100], ["pixel", "total"])
        run.put_history("film", 7, 0, {"pixel": 3.0, "total": 4.0})
        run.put_history("film", 7, 2, {"total": 1.0})
        assert run.reached("film", 7) == 3
        assert run.done("history", "film", 7)
        assert run.reached("none", 7) == 0
        assert not run.done("history", "none", 7)
    value = store.open_run(path)["history"]["value"]
    assert float(value.sel(arm="film", seed=7, step=100, term="total")) == 1.0
    assert np.isnan(value.sel(arm="film", seed=7, step=50)).all()
    assert np.isnan(value.sel(arm="none")).all()
    steps, curves = store.read_history(path, "total")
    assert steps.tolist() == [0, 50, 100]
    assert np.array_equal(curves["film"][1], [4.0, np.nan, 1.0], equal_nan=True)


def test_a_long_history_crosses_its_chunks(path):
    with begin(path) as run:
        run.declare_history(["film"], [0], 700, ["total"])
        for step in range(700):
            run.put_history("film", 0, step, {"total": step})
    _, curves = store.read_history(path, "total")
    assert curves["film"][0].tolist() == list(range(700))


def test_control_keeps_values_per_scene_and_means_where_they_are_defined(path):
    with begin(path) as run:
        run.declare_control(["film", "none"], [0, 1], ["s1", "s2", "s3"])
        run.put_control("film", 1, {"gain": np.array([0.5, np.nan, 1.0]), "cosine": 0.25})
        assert run.has_control("film", 1)
        assert not run.has_control("none", 1)
        assert not run.has_control("never-declared", 1)
    control = store.open_run(path)["control"].sel(arm="film", seed=1)
    assert float(control["gain"]) == 0.75
    assert float(control["cosine"]) == 0.25
    assert float(control["gain_scene"].sel(scene="s3")) == 1.0
    assert "cosine_scene" not in control


def test_prompts_may_differ_in_wording_and_number_from_pair_to_pair(path):
    asked = {"street": ["a car"], "wood": ["a tree", "a path", "fog"], "harbour": ["a car"]}
    with begin(path) as run:
        run.declare_pairs(PAIRS, 24, 32, SIZES)
        for pair, prompts in asked.items():
            height, width = SIZES[PAIRS.index(pair)]
            run.put_heatmaps("clip", pair, noise(len(prompts), height, width), prompts)
    for pair, prompts in asked.items():
        maps, words = store.read_heatmaps(path, "clip", pair)
        assert words == prompts
        assert np.allclose(maps, noise(*maps.shape), atol=1e-3)
        assert len(maps) == len(prompts)


def test_further_images_and_score_variables_need_no_declaration(path):
    with begin(path) as run:
        fill(run, "street")
        run.put_image("fused_baseline", "street", picture("street"))
        run.put_scores("baseline", "street", {"EN": 5.0})
        run.put_scores("baseline", "street", {"SD": 0.2})
        assert run.done("images", "street", "fused_baseline")
        assert not run.done("images", "wood", "fused_baseline")
        assert run.done("scores", "street", "baseline")
    assert store.read_scores(path, "street")["baseline"] == {"EN": 5.0, "SD": 0.2}
    assert store.contents(path)["images"] == ["fused", "fused_baseline", "ir", "vi"]


def test_bytes_are_taken_as_pictures_in_0_to_255(path):
    with begin(path) as run:
        run.declare_pairs(["a"], 2, 2)
        run.put_image("fused", "a", np.array([[0, 51], [102, 255]], dtype=np.uint8))
    assert np.allclose(store.read_image(path, "fused", "a")[0], [[0, 0.2], [0.4, 1]])


def test_more_pairs_metrics_and_seeds_can_be_declared_later(path):
    with begin(path) as run:
        run.declare_pairs(["a"], 8, 8)
        run.put_image("fused", "a", noise(3, 8, 8))
        run.put_features("x", "a", noise(3, 4, 4))
        run.declare_metrics(["EN"])
        run.put_scores("score", "a", {"EN": 1})
        run.declare_control(["film"], [0], 2)
        run.put_control("film", 0, {"gain": [1, 2]})
        run.declare_history(["film"], [0], 2, ["total"])
        run.put_history("film", 0, 0, {"total": 5})
    with begin(path) as run:
        run.declare_pairs(["b"], 12, 10, [(12, 10)])
        run.put_image("fused", "b", noise(3, 12, 10, seed=1))
        run.put_features("x", "b", noise(3, 6, 5, seed=1))
        run.declare_metrics(["EN", "SD"])
        run.put_scores("score", "b", {"EN": 2, "SD": 3})
        run.declare_control(["none", "film"], [0, 1], 2)
        run.put_control("none", 1, {"gain": [3, 4]})
        run.declare_history(["film"], [0, 1], 4, ["total"])
        run.put_history("film", 1, 3, {"total": 6})
        assert run.done("images", "a")
        assert run.done("features/x", "a")
        assert run.has_control("film", 0)
    tree = store.open_run(path)
    assert np.array_equal(store.read_image(tree, "fused", "a"), noise(3, 8, 8))
    assert np.array_equal(store.read_image(tree, "fused", "b"), noise(3, 12, 10, seed=1))
    assert np.allclose(store.read_features(tree, "x", "a"), noise(3, 4, 4), atol=1e-3)
    assert np.allclose(store.read_features(tree, "x", "b"), noise(3, 6, 5, seed=1), atol=1e-3)
    assert float(tree["scores"]["score"].sel(pair="a", metric="EN")) == 1
    assert float(tree["scores"]["score"].sel(pair="b", metric="SD")) == 3
    assert float(tree["control"]["gain"].sel(arm="film", seed=0)) == 1.5
    assert float(tree["control"]["gain"].sel(arm="none", seed=1)) == 3.5
    assert float(tree["history"]["value"].sel(arm="film", seed=0, step=0)[0]) == 5
    assert float(tree["history"]["value"].sel(arm="film", seed=1, step=3)[0]) == 6


def test_terms_that_another_writer_declares_meanwhile_do_not_disturb_a_curve(path):
    with begin(path) as run:
        run.declare_history(["film"], [0], 4, ["total"])
        run.put_history("film", 0, 0, {"total": 1.0})
        other = store.Run(location.Location(path), "other")
        other.declare_history(["film", "none"], [0], 6, ["total", "pixel"])
        other.put_history("none", 0, 5, {"pixel": 9.0})
        other.flush()
        other._let_go()
        run.put_history("film", 0, 1, {"total": 2.0})
        run.put_history("film", 0, 5, {"total": 3.0, "pixel": 4.0})
    value = store.open_run(path)["history"]["value"].sel(seed=0)
    total = [1.0, 2.0, np.nan, np.nan, np.nan, 3.0]
    assert np.array_equal(value.sel(arm="film", term="total"), total, equal_nan=True)
    assert float(value.sel(arm="film", step=5, term="pixel")) == 4.0
    assert float(value.sel(arm="none", step=5, term="pixel")) == 9.0


# --- the layout others read ----------------------------------------------------------------------


def test_plain_xarray_opens_a_finished_run_without_a_warning(path):
    with begin(path) as run:
        fill(run, "street")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tree = xarray.open_datatree(path, engine="zarr")
        assert tree["images"]["fused"].dims == ("pair", "band", "y", "x")
        assert tree["features/decoder.1"]["maps"].dims == ("pair", "channel", "y", "x")
        assert tree["heatmaps/tiny-clip"]["maps"].dims == ("pair", "prompt", "y", "x")
        assert tree["scores"]["score"].dims == ("pair", "metric")
        assert np.array_equal(tree["images"]["fused"][0], picture("street", 3, 20))
        assert tree.attrs["pairs"] == PAIRS


def test_every_float_array_is_nan_where_nothing_was_written(path):
    with begin(path) as run:
        fill(run, "street")
        run.declare_history(["film"], [0], 3, ["total"])
        run.declare_control(["film", "none"], [0], 2)
        run.put_control("film", 0, {"gain": [1, 2]})
    floats = 0
    for _, array in zarr.open_group(path, mode="r", use_consolidated=False).members(max_depth=None):
        if isinstance(array, zarr.Array) and array.dtype.kind == "f":
            floats += 1
            assert np.isnan(array.fill_value), array.path
    assert floats >= 8


def test_one_channel_is_read_without_reading_the_others(path, monkeypatch):
    with begin(path) as run:
        run.declare_pairs(["a", "b"], 96, 96)
        for pair in ("a", "b"):
            run.put_features("layer", pair, noise(64, 96, 96))
    whole = (path / "features/layer/maps/c/0/0/0/0").stat().st_size
    read = []
    original = zarr.storage.LocalStore.get

    async def counting(self, key, *args, **options):
        data = await original(self, key, *args, **options)
        if data is not None and "/maps/c/" in key:
            read.append((key, len(data)))
        return data

    monkeypatch.setattr(zarr.storage.LocalStore, "get", counting)
    channel = store.read_channel(path, "layer", "a", 17)
    assert np.allclose(channel, noise(64, 96, 96)[17], atol=1e-3)
    assert {key for key, _ in read} == {"features/layer/maps/c/0/0/0/0"}
    assert sum(size for _, size in read) < 0.15 * whole  # 8 of 64 channels and the index
    read.clear()
    assert np.array_equal(store.read_channel(store.open_run(path), "layer", "a", 17), channel)
    assert 0 < sum(size for _, size in read) < 0.15 * whole


def test_statistics_of_stored_maps_equal_those_of_the_originals(path):
    maps = np.random.default_rng(3).lognormal(0, 1, (8, 250, 250)).astype(np.float32)
    assert maps.size == 500_000
    with begin(path) as run:
        run.declare_pairs(["a"], 250, 250)
        run.put_features("layer", "a", maps)
    assert store.open_run(path)["features/layer"]["maps"].dtype == np.float16
    stored = store.read_features(path, "layer", "a")
    for statistic in (np.mean, np.std, np.max, np.sum):
        assert statistic(stored) == pytest.approx(
            statistic(maps, dtype=np.float64) if statistic is np.sum else statistic(maps), rel=1e-3
        )


def test_a_layer_out_of_half_float_range_is_kept_in_single_precision(path):
    with begin(path) as run:
        run.declare_pairs(["a"], 8, 8)
        run.put_features("large", "a", noise(2, 8, 8, scale=1e6))
        run.put_features("small", "a", noise(2, 8, 8, scale=1e-7))
    for layer, scale in (("large", 1e6), ("small", 1e-7)):
        assert store.open_run(path)[f"features/{layer}"]["maps"].dtype == np.float32
        assert np.array_equal(store.read_features(path, layer, "a"), noise(2, 8, 8, scale=scale))


def test_a_later_pair_that_overflows_half_floats_is_read_back_exactly(path):
    with begin(path) as run:
        run.declare_pairs(["a", "b"], 8, 8)
        run.put_features("layer", "a", noise(2, 8, 8))
        run.put_features("layer", "b", noise(2, 8, 8, scale=1e6))
    for source in (path, store.open_run(path)):
        assert np.array_equal(store.read_features(source, "layer", "b"), noise(2, 8, 8, scale=1e6))
        assert np.allclose(
            store.read_channel(source, "layer", "a", 1), noise(2, 8, 8)[1], atol=1e-3
        )
    assert float(store.open_run(path)["features/layer"]["largest"].sel(pair="b")) > 65504


def test_attributes_are_strict_json_whatever_numbers_they_hold(path):
    parameters = {
        "rate": float("nan"),
        "limit": np.float32(2),
        "at": np.int64(3),
        "to": Path("a/b"),
    }
    with begin(path, parameters=parameters):
        pass
    text = (path / "zarr.json").read_text()
    stored = json.loads(text, parse_constant=pytest.fail)["attributes"]["parameters"]
    assert stored == {"rate": "NaN", "limit": 2.0, "at": 3, "to": "a/b"}
    with begin(path, parameters=parameters) as run:
        assert run.path == str(path)


def test_a_parameter_that_cannot_be_kept_is_named():
    with pytest.raises(TypeError, match=r"parameters\.model is a object"):
        begin("memory://never.zarr", parameters={"model": object()})


# --- holes, damage, errors -----------------------------------------------------------------------


def test_holes_are_called_not_computed_instead_of_read_as_zeros(path):
    with begin(path) as run:
        fill(run, "street")
        assert run.done("images", "street")
        assert run.done("features/decoder.1", "street")
        assert not run.done("images", "wood")
        assert not run.done("heatmaps/tiny-clip", "wood")
        assert not run.done("features/other", "street")
    for source in (path, store.open_run(path)):
        for read, what in (
            (store.read_image, ["fused", "wood"]),
            (store.read_channel, ["decoder.1", "wood", 0]),
            (store.read_heatmaps, ["tiny-clip", "wood"]),
        ):
            with pytest.raises(store.NotComputed, match=r"'wood'.*not computed"):
                read(source, *what)
    assert np.isnan(store.open_run(path)["scores"]["score"].sel(pair="wood")).all()


@pytest.mark.parametrize("chunk", ["images/fused/c/0/0/0/0", "features/decoder.1/maps/c/0/0/0/0"])
def test_one_flipped_bit_is_an_error_and_not_a_picture(path, chunk):
    with begin(path) as run:
        fill(run, "street")
    file = path / chunk
    intact = file.read_bytes()
    for position in (40, len(intact) // 3, len(intact) // 2):
        damaged = bytearray(intact)
        damaged[position] ^= 4
        file.write_bytes(damaged)
        with pytest.raises(store.Damaged, match="damaged on disk"):
            if "images" in chunk:
                store.read_image(path, "fused", "street")
            else:
                store.read_features(path, "decoder.1", "street")
    file.write_bytes(intact[: len(intact) // 2])
    with pytest.raises(store.Damaged):
        if "images" in chunk:
            store.read_image(path, "fused", "street")
        else:
            store.read_features(path, "decoder.1", "street")


def test_a_crash_while_room_is_made_leaves_a_run_that_opens_and_goes_on(tmp_path, monkeypatch):
    """Killed before the first, the second ... array has grown: arrays of several lengths."""
    grow, left, broke = Arrays.grow, [0], set()

    def breaking(self, *args):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        grow(self, *args)

    for step in range(20):
        path = tmp_path / f"{step}.zarr"
        with begin(path) as run:
            run.declare_pairs(["a"], 8, 8)
            run.put_image("ir", "a", noise(1, 8, 8))
            run.put_image("fused", "a", noise(3, 8, 8))
            run.put_features("x", "a", noise(3, 4, 4))
            run.declare_history(["film"], [0], 2, ["total"])
            run.put_history("film", 0, 0, {"total": 5})
        left[0] = step
        with monkeypatch.context() as patch:
            patch.setattr(Arrays, "grow", breaking)
            try:
                with begin(path) as run:
                    run.declare_pairs(["b"], 12, 10, [(12, 10)])
                    run.declare_history(["film", "none"], [0, 1], 4, ["total", "pixel"])
            except KeyboardInterrupt:
                broke.add(step)
        for source in (path, store.open_run(path)):
            assert np.array_equal(store.read_image(source, "fused", "a"), noise(3, 8, 8))
            assert store.read_history(source, "total")[1]["film"][0][0] == 5
            assert store.kept_pairs(source) == ["a"]
            with pytest.raises(store.StoreError, match=r"no pair 'b'|not computed"):
                store.read_image(source, "fused", "b")
        with begin(path) as run:
            run.declare_pairs(["b"], 12, 10, [(12, 10)])
            run.declare_history(["film", "none"], [0, 1], 4, ["total", "pixel"])
            run.put_image("fused", "b", noise(3, 12, 10, seed=1))
            run.put_features("x", "b", noise(3, 6, 5, seed=1))
            run.put_history("none", 1, 3, {"pixel": 7})
        tree = store.open_run(path)
        assert np.array_equal(store.read_image(tree, "fused", "b"), noise(3, 12, 10, seed=1))
        assert float(tree["history"]["value"].sel(arm="none", seed=1, term="pixel")[-1]) == 7
        if step not in broke:
            break
    assert len(broke) > 8 and step not in broke


def test_a_picture_of_which_a_part_is_missing_is_not_computed(path):
    """Where an array has grown, a picture lies in several chunks; a kill may come between them."""
    with begin(path) as run:
        run.declare_pairs(["a"], 8, 8)
        run.put_image("fused", "a", noise(3, 8, 8))
        run.declare_pairs(["b"], 12, 10, [(12, 10)])
        run.put_image("fused", "b", noise(3, 12, 10))
        assert run.done("images", "b", "fused")
        (path / "images/fused/c/1/0/1/0").unlink()
        assert not run.done("images", "b", "fused")
    for source in (path, store.open_run(path)):
        assert np.array_equal(store.read_image(source, "fused", "a"), noise(3, 8, 8))
        with pytest.raises(store.NotComputed):
            store.read_image(source, "fused", "b")


def test_maps_that_are_being_written_anew_are_not_shown(path, monkeypatch):
    with begin(path) as run:
        run.declare_pairs(["a"], 8, 8)
        run.put_features("layer", "a", noise(2, 8, 8))
        with monkeypatch.context() as patch:
            patch.setattr(Arrays, "put", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                run.put_features("layer", "a", noise(2, 8, 8, seed=1))
        with pytest.raises(store.NotComputed):
            store.read_features(path, "layer", "a")
        run.put_features("layer", "a", noise(2, 8, 8, seed=1))
    assert np.allclose(store.read_features(path, "layer", "a"), noise(2, 8, 8, seed=1), atol=1e-3)


def test_larger_pairs_after_some_that_overflow_are_all_read_back(path):
    with begin(path) as run:
        run.declare_pairs(["a", "b"], 8, 8)
        run.put_features("layer", "a", noise(2, 8, 8))
        run.put_features("layer", "b", noise(2, 8, 8, scale=1e6))
        run.put_features("layer", "a", noise(2, 12, 9))
    for source in (path, store.open_run(path)):
        assert np.allclose(store.read_features(source, "layer", "a"), noise(2, 12, 9), atol=1e-3)
        assert np.array_equal(store.read_features(source, "layer", "b"), noise(2, 8, 8, scale=1e6))


def test_what_killed_writers_left_is_neither_counted_nor_kept(path):
    with begin(path) as run:
        fill(run, "street")
    (path / "images/written/c/1.0a1b.partial").write_bytes(b"half")
    draft, old = path.parent / ".run.zarr.0a1b.tmp", path.parent / ".run.zarr.0a1b.old"
    foreign = path.parent / ".run.zarr2.tmp"
    draft.write_bytes(b"half")
    foreign.write_bytes(b"of another program")
    (old / "images").mkdir(parents=True)
    assert store.run_info(path)["contents"]["images"]["written"] == 1
    with begin(path) as run:
        assert not run.done("images", "wood")
    assert not draft.exists() and not old.exists() and foreign.exists()


def test_a_picture_without_a_finite_value_is_refused_with_the_name_of_its_pair(path):
    with begin(path) as run:
        run.declare_pairs(["street"], 4, 4)
        for value in (np.nan, np.inf):
            with pytest.raises(store.StoreError, match="'fused' of pair 'street' has no finite"):
                run.put_image("fused", "street", np.full((3, 4, 4), value))
        assert not run.done("images", "street")
        with pytest.raises(store.StoreError, match="divide by 255"):
            run.put_image("fused", "street", np.full((3, 4, 4), 200.0))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda run: run.put_image("fused", "stret", picture("street")), "'street'"),
        (lambda run: run.put_image("fused", "wood", picture("street")), "24 x 32, declared as 20"),
        (lambda run: run.put_image("a/b", "street", picture("street")), "'a/b' cannot be used"),
        (lambda run: run.put_scores("score", "street", {"END": 1.0}), "Did you mean 'EN'"),
        (lambda run: run.put_history("film", 0, 0, {}), "call declare_history first"),
        (lambda run: run.put_features("decoder.1", "wood", noise(3, 10, 16)), "3 channels.*had 11"),
        (lambda run: run.put_heatmaps("h", "wood", noise(2, 4, 4), ["one"]), "1 prompts"),
        (lambda run: run.done("image", "street"), "Did you mean 'images'"),
        (lambda run: run.declare_pairs(["x", "x"], 4, 4), "named twice"),
        (lambda run: run.declare_pairs(["x"], 4, 4, [(5, 4)]), "outside the declared"),
    ],
)
def test_a_wrong_request_says_what_is_wrong(path, wrong, message):
    with begin(path) as run:
        fill(run, "street")
        with pytest.raises(store.StoreError, match=message):
            wrong(run)


def test_a_full_disk_says_that_the_run_is_kept_and_how_to_go_on(path, monkeypatch):
    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(store.StoreFull, match=r"kept.*resume=True") as caught, begin(path) as run:
        fill(run, "street")
        with monkeypatch.context() as patch:
            patch.setattr("zarr.storage._local._put", full)
            fill(run, "wood")
    assert caught.value.errno == errno.ENOSPC
    info = store.run_info(path)
    assert info["status"] == "failed"
    assert "no space left" in info["message"]
    assert info["contents"]["images"]["written"] == 1
    with begin(path) as run:
        assert run.done("images", "street")
        assert not run.done("images", "wood")


def test_a_folder_without_permission_is_an_error_in_words(tmp_path, monkeypatch):
    def refused(self, *args, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(store.StoreError, match=r"cannot be written .Permission denied"):
        begin(tmp_path / "sub" / "run.zarr")


def test_a_run_that_may_not_be_read_is_an_error_in_words(path, monkeypatch):
    with begin(path):
        pass

    def refused(self):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refused)
    for use in (store.open_run, store.run_info):
        with pytest.raises(store.StoreError, match=r"cannot be read .Permission denied"):
            use(path)


def test_a_file_in_the_way_is_an_error_in_words(tmp_path):
    (tmp_path / "notes").write_text("x")
    with pytest.raises(store.StoreError, match="is a file"):
        begin(tmp_path / "notes")
    with pytest.raises(store.StoreError, match="cannot be a folder"):
        begin(tmp_path / "notes" / "run.zarr")


@pytest.mark.parametrize("resume", [True, False])
def test_a_folder_with_other_things_is_never_touched(tmp_path, resume):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(store.StoreError, match=r"not a run of fusionkit: it holds thesis\.txt"):
        begin(tmp_path, resume=resume)
    zarr.create_group(tmp_path / "other.zarr", zarr_format=3)
    with pytest.raises(store.StoreError, match="not a run of fusionkit"):
        begin(tmp_path / "other.zarr", resume=resume)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    assert (tmp_path / "other.zarr" / "zarr.json").exists()


def test_opening_what_is_not_a_run_says_why(tmp_path, path):
    with begin(path):
        pass
    for wrong, message in (
        (tmp_path / "rum.zarr", "no run at .*Did you mean 'run.zarr'"),
        (path / "zarr.json", "is a file"),
        (tmp_path, "has no zarr.json, but run.zarr"),
    ):
        for read in (store.open_run, store.run_info):
            with pytest.raises(store.StoreError, match=message):
                read(wrong)
    zarr.create_group(tmp_path / "other.zarr", zarr_format=3)
    with pytest.raises(store.StoreError, match="not a run of fusionkit"):
        store.open_run(tmp_path / "other.zarr")


def test_a_run_of_a_newer_format_asks_for_an_upgrade(path):
    with begin(path):
        pass
    root = json.loads((path / "zarr.json").read_text())
    root["attributes"]["format_version"] = 99
    (path / "zarr.json").write_text(json.dumps(root))
    for use in (store.open_run, store.run_info, begin):
        with pytest.raises(store.StoreError, match=r"newer fusionkit: format 99.*Upgrade"):
            use(path)


def test_a_broken_root_document_is_an_error_in_words(path):
    with begin(path):
        pass
    (path / "zarr.json").write_text("{")
    with pytest.raises(store.StoreError, match=r"is damaged: .*not readable JSON"):
        store.open_run(path)


# --- status, resuming ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_marks_the_run_failed_with_its_message(path, kind, caplog):
    with pytest.raises(kind), begin(path) as run:
        fill(run, "street")
        raise kind("the reason")
    tree = store.open_run(path)
    assert tree.attrs["status"] == "failed"
    assert tree.attrs["message"] == f"{kind.__name__}: the reason"
    assert "the reason" in tree.attrs["notice"]
    assert sum("this run failed" in record.getMessage() for record in caplog.records) == 1


def test_an_ended_run_takes_nothing_more(path):
    with begin(path) as run:
        run.declare_pairs(["a"], 4, 4)
    with pytest.raises(store.StoreError, match="has ended"):
        run.put_image("fused", "a", noise(3, 4, 4))
    run.fail("too late")
    assert store.run_info(path)["status"] == "complete"


def test_resuming_keeps_what_is_written_and_ends_complete(path):
    with pytest.raises(RuntimeError), begin(path) as run:
        fill(run, "street")
        raise RuntimeError("power cut")
    with begin(path, device="cuda") as run:
        assert store.run_info(path)["status"] == "running"
        assert run.done("images", "street")
        fill(run, "wood")
    info = store.run_info(path)
    assert info["status"] == "complete"
    assert info["notice"] is None
    assert "message" not in info
    assert len(info["sessions"]) == 2
    assert np.array_equal(store.read_image(path, "fused", "street"), picture("street", 3, 20))


def test_other_parameters_or_another_recipe_cannot_resume_a_run(path):
    with begin(path):
        pass
    before = (path / "zarr.json").read_bytes()
    with pytest.raises(store.RunMismatch) as caught:
        begin(
            path,
            parameters={"modulation": "none", "seeds": [0, 1], "data_root": None, "steps": 9},
            recipe={"losses": {"pixel": 0.5}},
        )
    message = str(caught.value)
    assert 'parameters.modulation: stored "film", asked for "none"' in message
    assert "parameters.steps: stored absent, asked for 9" in message
    assert "recipe.losses.pixel: stored 1.0, asked for 0.5" in message
    assert "seeds" not in message
    assert "resume=False" in message
    assert (path / "zarr.json").read_bytes() == before


def test_store_resume_and_device_may_differ_when_resuming(path):
    ignored = {"store": "a", "resume": True, "device": "auto"}
    with begin(path, parameters={"steps": 1, **ignored}):
        pass
    with begin(path, parameters={"steps": 1, "store": "b", "resume": False, "device": "cpu"}):
        pass
    assert store.run_info(path)["status"] == "complete"


def test_without_resume_the_run_begins_anew(path):
    with begin(path) as run:
        fill(run, "street")
    with begin(path, parameters={"modulation": "none"}, resume=False) as run:
        assert not run.done("images", "street")
    info = store.run_info(path)
    assert info["parameters"] == {"modulation": "none"}
    assert info["contents"] == {}
    assert os.listdir(path.parent) == ["run.zarr"]


def test_running_a_cell_twice_takes_over_the_run_of_the_same_process(path):
    first = begin(path)
    fill(first, "street")
    with begin(path) as second:
        fill(second, "wood")
    with pytest.raises(store.StoreError, match="has ended"):
        fill(first, "harbour")
    assert store.run_info(path)["status"] == "complete"
    assert store.run_info(path)["contents"]["images"]["written"] == 2


def test_a_refused_request_does_not_end_the_run_that_is_being_written(path):
    with begin(path) as run:
        with pytest.raises(store.RunMismatch):
            begin(path, parameters={"modulation": "other"})
        fill(run, "street")
    assert store.run_info(path)["status"] == "complete"


def test_a_run_in_memory_can_begin_anew_and_resume():
    path = f"memory://run-{next(MEMORY)}.zarr"
    with begin(path) as run:
        fill(run, "street")
    with begin(path, parameters={"steps": 1}, resume=False) as run:
        assert store.run_info(path)["contents"] == {}
        fill(run, "wood")
    with begin(path, parameters={"steps": 1}) as run:
        assert run.done("images", "wood")
        assert not run.done("images", "street")
    assert store.run_info(path)["contents"]["images"]["written"] == 1
    with pytest.raises(store.StoreError, match="no run at memory://nothing"):
        store.open_run("memory://nothing.zarr")


def test_progress_and_heartbeat_are_written_but_not_at_every_step(path, monkeypatch):
    writes = []
    original = location.Location.write
    with begin(path) as run:
        monkeypatch.setattr(
            location.Location, "write", lambda self, *a: (writes.append(a[0]), original(self, *a))
        )
        for step in range(1000):
            run.progress(f"step {step}")
        assert len(writes) == 0
        monkeypatch.setattr("fusionkit.store.run._HEARTBEAT_SECONDS", 0.0)
        run.progress(0.5)
        assert writes == ["zarr.json"]
        info = store.run_info(path)
        assert (info["status"], info["progress"]) == ("running", 0.5)
        assert "still being written" in info["notice"]


def test_info_tells_what_is_there_and_how_to_repeat_it(path):
    parameters = {"modulation": "film", "losses": ["pixel", "grad"], "steps": 5, "prompts": None}
    parameters |= {"resume": True, "note": "12", "text": "two words"}
    with begin(path, parameters=parameters, notebook="ablation") as run:
        fill(run, "street")
        run.declare_control(["film", "none"], [0], 2)
        run.put_control("film", 0, {"gain": [1, 2]})
    info = store.run_info(path)
    assert info["contents"]["images"] == {"written": 1, "of": 3, "variables": ["fused", "ir", "vi"]}
    assert info["contents"]["features/decoder.1"]["channels"] == 11
    assert info["contents"]["scores"]["metrics"] == ["EN", "SD"]
    assert info["contents"]["control"]["written"] == 1
    assert info["contents"]["control"]["measures"] == ["gain"]
    assert info["machine"]["cores"] >= 1
    assert info["command"] == (
        "papermill notebooks/ablation.ipynb runs/run.ipynb -p modulation film "
        """-y '{losses: ["pixel", "grad"]}' -p steps 5 -p prompts None -p resume True """
        "-r note 12 -p text 'two words'"
    )


def test_the_command_that_repeats_a_run_gives_papermill_the_same_parameters(path):
    import shlex

    from click.testing import CliRunner
    from papermill.cli import papermill

    parameters = {"losses": ["a b", "c"], "steps": -5, "rate": 1e-3, "prompts": None}
    parameters |= {"resume": True, "note": "12", "text": 'two "words"', "map": {"x": [1.5, None]}}
    with begin(path, parameters=parameters):
        pass
    seen = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("papermill.cli.execute_notebook", lambda **given: seen.update(given))
        words = shlex.split(store.run_info(path)["command"])[1:]
        result = CliRunner().invoke(papermill, words)
    assert result.exit_code == 0, result.output
    assert seen["parameters"] == parameters


def test_looking_at_a_run_imports_neither_torch_nor_zarr(path):
    with begin(path) as run:
        fill(run, "street")
    code = (
        "import sys; from fusionkit import store; store.run_info(sys.argv[1]);"
        "heavy = {'torch', 'zarr', 'xarray', 'pandas'}; assert not heavy & set(sys.modules);"
        "store.open_run(sys.argv[1]); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_run_is_found_from_the_root_and_from_the_notebooks_folder(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(store.StoreError, match="no run under"):
        store.find_run()
    for name in ("b", "a"):
        with begin(tmp_path / "runs" / f"{name}.zarr"):
            pass
        time.sleep(0.005)
    (tmp_path / "runs" / "foreign.zarr").mkdir()
    for folder in (tmp_path, tmp_path / "notebooks"):
        monkeypatch.chdir(folder)
        assert Path(store.find_run()).resolve() == tmp_path / "runs" / "a.zarr"
        assert Path(store.find_run("runs/b.zarr")).resolve() == tmp_path / "runs" / "b.zarr"
    assert store.find_run("memory://x.zarr") == "memory://x.zarr"
    assert store.find_run("nowhere.zarr") == "nowhere.zarr"


def test_notes_join_the_attributes_but_cannot_replace_those_of_the_store(path, caplog):
    with begin(path) as run:
        run.note(result="text controls the result", value=np.float32(0.5))
        with pytest.raises(store.StoreError, match="status belongs to the store"):
            run.note(status="complete")
        assert store.open_run(path).attrs["notice"].startswith("this run is still being written")
        assert caplog.records == []  # who writes a run need not be told
    assert store.open_run(path).attrs["result"] == "text controls the result"
    assert store.run_info(path)["value"] == 0.5


# --- other processes -----------------------------------------------------------------------------


def test_a_killed_writer_leaves_holes_and_the_same_call_goes_on(path, in_another_process):
    writer = in_another_process(
        """
        run = begin(sys.argv[1])
        run.declare_history(["film"], [0], 10, ["total"])
        fill(run, "street")
        run.put_history("film", 0, 0, {"total": 1.0})
        run.flush()
        print("ready", flush=True)
        seed = 0
        while True:  # rewrites one pair until it is killed in the middle of something
            seed += 1
            fill(run, "wood", seed)
        """,
        path,
    )
    assert writer.stdout.readline() == "ready\n"
    time.sleep(0.3)
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    info = store.run_info(path)
    assert info["status"] == "stopped"
    assert "stopped without a word" in info["notice"]
    assert info["contents"]["images"]["of"] == 3
    assert np.array_equal(store.read_image(path, "fused", "street"), picture("street", 3, 20))
    with begin(path) as run:
        assert run.done("images", "street")
        assert run.reached("film", 0) == 1
        assert not run.done("images", "harbour")
        fill(run, "wood")
        fill(run, "harbour")
    tree = store.open_run(path)
    assert tree.attrs["status"] == "complete"
    assert [s.get("status") for s in tree.attrs["sessions"]] == ["stopped", "complete"]
    for pair in PAIRS:
        assert np.array_equal(store.read_image(tree, "fused", pair), picture(pair, 3, 20))
        assert store.read_features(tree, "decoder.1", pair).shape[0] == 11


def test_two_processes_writing_neighbours_at_the_same_moment_lose_nothing(path, in_another_process):
    code = """
        run = begin(sys.argv[1])
        mine = int(sys.argv[2])
        names = [f"p{i:02d}" for i in range(16)]
        run.declare_pairs(names, 8, 8)
        print("ready", flush=True)
        wait_for(sys.argv[3])
        arm = ["film", "none"][mine]
        run.declare_metrics(["EN"])
        for index in range(mine, 16, 2):
            name = names[index]
            run.put_image("fused", name, noise(3, 8, 8, seed=index))
            run.put_features("layer", name, noise(9, 4, 4, seed=index))
            run.put_heatmaps("clip", name, noise(1, 8, 8, seed=index), [f"prompt {index}"])
            run.put_scores("score", name, {"EN": index})
        run.declare_history(["film", "none"], [0], 50, ["total"])
        for step in range(50):
            run.put_history(arm, 0, step, {"total": step})
        run.declare_control([arm], [0], 3)
        run.put_control(arm, 0, {"gain": [mine, mine, mine]})
        run.complete()
    """
    gate = path.parent / "go"
    writers = [in_another_process(code, path, which, gate) for which in (0, 1)]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n", writer.communicate()
    gate.touch()
    for writer in writers:
        _, errors = writer.communicate(timeout=60)
        assert (writer.returncode, errors) == (0, "")
    tree = store.open_run(path)
    assert tree.attrs["status"] == "complete"
    assert len(tree.attrs["sessions"]) == 2
    for index in range(16):
        name = f"p{index:02d}"
        assert np.array_equal(store.read_image(tree, "fused", name), noise(3, 8, 8, seed=index))
        maps = store.read_features(tree, "layer", name)
        assert np.allclose(maps, noise(9, 4, 4, seed=index), atol=1e-3)
        assert store.read_heatmaps(tree, "clip", name)[1] == [f"prompt {index}"]
    assert tree["scores"]["score"].values[:, 0].tolist() == list(range(16))
    for mine, arm in enumerate(("film", "none")):
        value = tree["history"]["value"].sel(arm=arm, seed=0, term="total")
        assert value.values.tolist() == list(range(50))
        assert float(tree["control"]["gain"].sel(arm=arm, seed=0)) == mine
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set(xarray.open_datatree(path, engine="zarr").children) == set(tree.children)


def test_a_run_is_complete_only_when_its_last_process_is(path, in_another_process):
    other = in_another_process(
        """
        run = begin(sys.argv[1])
        print("ready", flush=True)
        wait_for(sys.argv[2])
        run.complete()
        """,
        path,
        path.parent / "go",
    )
    assert other.stdout.readline() == "ready\n"
    with begin(path) as run:
        fill(run, "street")
    assert store.run_info(path)["status"] == "running"
    with pytest.raises(store.StoreError, match="being written by process"):
        begin(path, resume=False)
    (path.parent / "go").touch()
    assert other.wait(30) == 0
    assert store.run_info(path)["status"] == "complete"


def test_a_process_that_ends_without_a_word_is_recorded_as_failed(path, in_another_process):
    code = (
        "run = begin(sys.argv[1])\nrun.declare_history(['a'], [0], 5, ['total'])\n"
        "run.put_history('a', 0, 0, {'total': 1.0})\nraise ValueError('in a cell')"
    )
    process = in_another_process(code, path)
    _, errors = process.communicate(timeout=60)
    assert errors.rstrip().endswith("ValueError: in a cell")
    info = store.run_info(path)
    assert (info["status"], info["message"]) == ("failed", "ValueError: in a cell")


def test_a_signal_handler_can_record_the_end(path, in_another_process):
    process = in_another_process(
        """
        import signal
        run = begin(sys.argv[1])
        def stop(number, frame):
            run.fail("stopped by the scheduler")
            raise SystemExit(143)
        signal.signal(signal.SIGTERM, stop)
        print("ready", flush=True)
        while True:
            fill(run, "street")
        """,
        path,
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    info = store.run_info(path)
    assert (info["status"], info["message"]) == ("failed", "stopped by the scheduler")
