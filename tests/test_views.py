"""Pictures for notebooks: values drawn, holes said, nothing heavy."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from fusionkit import store, views

PNG = b"\x89PNG"


def noise(*shape, seed=0):
    return np.random.default_rng(seed).random(shape).astype(np.float32)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of three declared pairs: one whole, one with the sources only, one never reached."""
    path = tmp_path_factory.mktemp("views") / "run.zarr"
    about = {"recipe": {}, "components": {}, "seed": 0, "device": "cpu"}
    with store.create_run(path, parameters={"steps": 4}, **about) as run:
        run.declare_pairs(["street", "wood", "never"], 24, 32)
        for seed, name in enumerate(("ir", "vi", "fused_baseline", "fused_other", "fused")):
            run.put_image(name, "street", noise(3, 24, 32, seed=seed))
        run.put_image("ir", "wood", noise(1, 24, 32, seed=8))
        run.put_image("vi", "wood", noise(3, 24, 32, seed=9))
        run.put_features("levels.1", "street", noise(5, 12, 16) * np.arange(5)[:, None, None])
        run.put_heatmaps("clip", "street", noise(2, 24, 32), ["a car", "the sky"])
        run.put_heatmaps("clip", "wood", noise(1, 24, 32), ["fog"])
        run.declare_metrics(["EN", "SD"])
        run.put_scores("score", "street", {"EN": 6.54321, "SD": 0.25})
        run.declare_history(["film", "none"], [0, 1], 4, ["pixel", "total"])
        for step in range(3):
            run.put_history("film", 0, step, {"pixel": 1.0 / (step + 1)})
    return path


# --- arrays --------------------------------------------------------------------------------------


def test_a_picture_becomes_three_bands_last_cut_to_the_range_with_holes_white():
    image = np.array([[[-1.0, 0.5], [2.0, np.nan]]])
    drawn = views.rgb(image)
    assert drawn.shape == (2, 2, 3)
    assert drawn[..., 0].tolist() == [[0.0, 0.5], [1.0, 1.0]]
    with pytest.raises(ValueError, match="1 or 3 bands"):
        views.rgb(np.zeros((2, 4, 4)))


def test_false_colours_follow_the_limits_and_leave_holes_white():
    ramp = np.array([[0.0, 1.0, 2.0, np.nan]])
    drawn = views.colored(ramp, (0, 1), "gray")
    assert np.allclose(drawn[0, :, 0], [0, 1, 1, 1])
    assert np.allclose(views.colored(ramp, None, "gray")[0, :3, 0], [0, 0.5, 1], atol=0.01)


def test_limits_leave_out_the_outermost_values_and_survive_emptiness():
    values = np.concatenate([np.linspace(0, 1, 1001), [1e6, np.nan, np.inf]])
    low, high = views.robust_limits(values, 1)
    assert 0 < low < 0.02
    assert 0.98 < high < 1
    assert views.robust_limits(np.array([np.nan])) == (0.0, 1.0)


def test_an_overlay_is_grey_where_the_map_is_zero_and_coloured_where_it_is_one():
    image = np.stack([np.full((4, 8), v) for v in (0.2, 0.5, 0.8)])
    heat = np.zeros((4, 8))
    heat[:, 4:] = 1
    drawn = views.overlay(image, heat)
    assert np.ptp(drawn[:, :4], axis=-1).max() < 1e-6
    assert np.ptp(drawn[:, 4:], axis=-1).min() > 0.2
    assert views.overlay(image, np.ones((2, 2))).shape == (4, 8, 3)


def test_no_change_is_mid_grey_and_the_sign_shows():
    first, second = np.full((3, 2, 2), 0.6), np.full((3, 2, 2), 0.5)
    assert np.allclose(views.difference(first, first, 1.0), 0.5)
    assert np.allclose(views.difference(first, second, 1.0), 0.6)
    assert np.allclose(views.difference(second, first), 0.0)


def test_channels_are_ordered_by_mean_absolute_response():
    maps = np.stack([np.full((2, 2), v) for v in (0.1, -3.0, 2.0)])
    assert views.response_order(maps).tolist() == [1, 2, 0]


# --- figures -------------------------------------------------------------------------------------


def test_a_figure_shows_itself_as_png_and_joins_no_global_list(run):
    import matplotlib.pyplot

    before = matplotlib.pyplot.get_fignums()
    figure = views.grid([[noise(4, 4), None], [noise(3, 4, 4)]], columns=["a", "b"], labels=["x"])
    assert figure._repr_png_().startswith(PNG)
    assert matplotlib.pyplot.get_fignums() == before
    words = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert words == [views.NOT_COMPUTED]
    with pytest.raises(ValueError, match="at least one"):
        views.grid([])


def test_the_channel_grid_shows_the_strongest_first_on_one_scale():
    maps = noise(5, 6, 6) * np.arange(5)[:, None, None]
    figure = views.channel_grid(maps, count=3)
    titles = [axis.get_title() for axis in figure.axes if axis.images]
    assert titles == ["4", "3", "2"]
    assert len({axis.images[0].get_clim() for axis in figure.axes if axis.images}) == 1
    indexed = views.channel_grid(maps, count=3, order="index")
    assert [axis.get_title() for axis in indexed.axes if axis.images] == ["0", "1", "2"]
    with pytest.raises(ValueError, match="'response' or 'index'"):
        views.channel_grid(maps, order="size")


def test_every_score_is_a_point_and_the_undefined_ones_are_counted():
    values = {
        "EN": {"a": np.array([1.0, 2.0, 6.0]), "b": np.array([np.nan, 5.0, np.inf])},
        "CE": {"a": np.array([0.5, 0.5]), "b": np.array([np.nan])},
    }
    figure = views.distributions(values, better={"CE": "lower is better"}, columns=2)
    first, second = figure.axes
    assert second.get_title() == "CE (lower is better)"
    points = [c.get_offsets()[:, 0].tolist() for c in first.collections]
    assert sorted(map(len, points)) == [1, 1, 1, 3]  # scores and mean of each method
    assert [3.0] in points and [5.0] in points
    assert [t.get_text() for t in first.texts] == ["2 undefined"]
    assert [label.get_text() for label in first.get_yticklabels()] == ["a", "b"]
    assert figure._repr_png_().startswith(PNG)
    with pytest.raises(ValueError, match="at least one metric"):
        views.distributions({})


def test_in_the_parallel_view_up_is_better_whatever_the_direction():
    means = {
        "EN": {"a": 7.0, "b": 5.0, "c": 6.0},
        "CE": {"a": 0.1, "b": 0.5, "c": 0.5},
        "SCD": {"a": np.nan, "b": 1.0, "c": 2.0},
        "SD": {"a": 3.0, "b": 3.0, "c": 3.0},
        "CC": {"a": np.nan, "b": np.nan, "c": np.nan},
    }
    figure = views.parallel(means, {name: name != "CE" for name in means})
    (axis,) = figure.axes
    lines = {line.get_label(): line.get_ydata() for line in axis.lines}
    assert lines["a"][[0, 1, 3]].tolist() == [1, 1, 0.5] and np.isnan(lines["a"][[2, 4]]).all()
    assert lines["b"][:4].tolist() == [0, 0, 0, 0.5]
    assert lines["c"][:4].tolist() == [0.5, 0, 1, 0.5]
    words = [text.get_text() for text in axis.texts]
    assert words[:4] == ["7", "5", "0.1", "0.5"] and words[-1] == "undefined"
    assert figure._repr_png_().startswith(PNG)


def test_curves_stop_where_the_run_stopped(run):
    figure = views.loss_curves(run)
    pixel = next(axis for axis in figure.axes if axis.get_title() == "pixel")
    (line,) = pixel.lines
    assert line.get_label() == "film"
    assert np.allclose(line.get_xydata(), [[0, 1], [1, 0.5], [2, 1 / 3]])
    assert figure._repr_png_().startswith(PNG)


def test_curves_of_several_seeds_are_a_mean_and_a_band():
    values = np.array([[1.0, 2.0, np.nan], [3.0, 2.0, np.nan]])
    figure = views.curves(np.array([5, 10, 15]), {"film": values})
    (axis,) = figure.axes
    assert axis.lines[0].get_xydata().tolist() == [[5, 2], [10, 2]]
    assert len(axis.collections) == 1


def test_pairs_are_drawn_from_anything_numpy_reads():
    pair = SimpleNamespace(name="p", infrared=noise(1, 6, 8), visible=noise(3, 6, 8))
    figure = views.pairs([pair, pair])
    assert len(figure.axes) == 4
    assert figure._repr_png_().startswith(PNG)


def test_the_image_grid_shows_kept_pairs_with_holes_said(run):
    figure = views.image_grid(run, ["street", "wood"])
    assert figure.axes[0].get_ylabel() == "street"
    headings = [axis.get_title() for axis in figure.axes[:5]]
    assert headings == ["ir", "vi", "fused", "fused_baseline", "fused_other"]
    texts = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert texts == [views.NOT_COMPUTED] * 3
    assert store.kept_pairs(run) == ["street", "wood"]


def test_the_ablation_grid_names_both_prompts_and_shows_what_changed(run):
    figure = views.ablation_grid(run)
    assert len(figure.axes) == 7
    assert [axis.get_title() for axis in figure.axes][2:] == [
        "baseline",
        "first prompt",
        "second prompt",
        "change",
        "clip",
    ]
    (line,) = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert line == "street   1: a car   2: the sky"
    change = figure.axes[5].images[0].get_array()
    assert (
        np.corrcoef(
            np.ravel(change),
            np.ravel((noise(3, 24, 32, seed=4) - noise(3, 24, 32, seed=3)).T.swapaxes(0, 1)),
        )[0, 1]
        > 0.99
    )


def test_the_heat_map_grid_has_one_tile_a_prompt(run):
    figure = views.heatmap_grid(run, "clip", "street")
    assert [axis.get_title() for axis in figure.axes] == ["a car", "the sky"]


def test_pictures_need_no_torch_and_no_plotting_backend(run):
    code = (
        "import sys; from fusionkit import views; views.image_grid(sys.argv[1])._repr_png_();"
        "from fusionkit.widgets import inspect; inspect(sys.argv[1]);"
        "print([m for m in ('torch', 'matplotlib.pyplot') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, run], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
