"""The catalogue of bad input, through the public surface: what a user sees who got it wrong.

A wrong request ends with status 2 and one message that names what is wrong, never with a
traceback. What is odd but legal works.
"""

import copy
import math
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import fusionkit as fk
from fusionkit import cli
from fusionkit.bench import Bench
from fusionkit.data import read_image
from fusionkit.errors import BadRequest, FusionkitError
from fusionkit.notebook import AblationParameters, TrainParameters, check_values

HEIGHT, WIDTH = 48, 64
QUICK = {"steps": 2, "batch_size": 2, "stages.0.crop": 32, "task_options.repair_share": 1.0}
SMALL = {
    "train_pairs": 6, "test_pairs": 2, "questions": 1, "shown": 1, "image_size": 64,
    "metrics": ["EN"], "device": "cpu", "precision": "float32",
}  # fmt: skip
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def draw(path, channels=1, *, size=(HEIGHT, WIDTH), type=np.uint8, value=None):
    """A picture file of noise, or of one value."""
    shape = (*size, 3) if channels == 3 else size
    noise = np.random.default_rng(len(path.name)).integers(0, np.iinfo(type).max, shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((noise if value is None else np.full(shape, value)).astype(type)).save(path)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights of the default recipe after two steps: poor, but real."""
    registry = fk.Registry.from_environment()
    recipe = registry.create("recipe", "control").with_overrides(QUICK)
    pairs = registry.create("dataset", "scenes", split="train", count=6, size=64)
    path = tmp_path_factory.mktemp("weights") / "control.pt"
    fk.train(
        recipe, list(pairs), registry=registry, device="cpu", precision="float32", checkpoint=path
    )
    return path


@pytest.fixture(scope="module")
def state(weights):
    return torch.load(weights, weights_only=True)


@pytest.fixture
def run(capfd):
    """A command in this process; answers (status, stdout, stderr). A traceback fails the test."""

    def command(*words):
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main([str(word) for word in words])
        shown = capfd.readouterr()
        assert "Traceback" not in shown.err
        return left.value.code, shown.out, shown.err

    return command


@pytest.fixture
def fuse(run, weights, tmp_path):
    """``fusionkit fuse`` with sound files where nothing else is said."""

    def command(ir=None, vi=None, *more, output=None, checkpoint=weights):
        ir = draw(tmp_path / "ir.png") if ir is None else ir
        vi = draw(tmp_path / "vi.png", 3) if vi is None else vi
        output = tmp_path / "fused.png" if output is None else output
        words = ["-o", output, "--checkpoint", checkpoint, "--device", "cpu"]
        return run("fuse", ir, vi, *words, *more)

    return command


def assert_refused(answer, *said, status=2):
    left, _, err = answer
    assert left == status, err
    assert err.startswith("fusionkit: ")
    for part in said:
        assert str(part) in err


# -- pictures -----------------------------------------------------------------------------------


def test_pictures_of_unequal_size_are_named_with_their_sizes(fuse, tmp_path):
    taller = draw(tmp_path / "taller.png", 3, size=(HEIGHT + 2, WIDTH))
    assert_refused(fuse(vi=taller), "ir.png: (48, 64)", "taller.png: (50, 64)", "Register and crop")
    assert not (tmp_path / "fused.png").exists()


def test_an_infrared_picture_of_16_bits_fuses_like_its_8_bit_copy(fuse, tmp_path):
    deep = draw(tmp_path / "deep.png", type=np.uint16)
    grey = np.asarray(Image.open(deep)).astype(np.float64) * 255 / 65535
    flat = tmp_path / "flat.png"
    Image.fromarray(grey.round().astype(np.uint8)).save(flat)
    assert fuse(deep, output=tmp_path / "a.png")[0] == 0
    assert fuse(flat, output=tmp_path / "b.png")[0] == 0
    a, b = read_image(tmp_path / "a.png"), read_image(tmp_path / "b.png")
    assert a.shape == (3, HEIGHT, WIDTH)
    assert (a - b).abs().max() < 0.03


def broken_files(folder):
    whole = draw(folder / "whole.png", 3).read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "letter.png").write_text("dear camera")
    (folder / "noise.dat").write_bytes(bytes(range(256)))
    Image.fromarray(np.full((HEIGHT, WIDTH), np.nan, np.float32)).save(folder / "nan.tif")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cut.png", "damaged or cut short"),
        ("empty.png", "is empty (0 bytes)"),
        ("letter.png", "it is text, starting with 'dear camera'"),
        ("noise.dat", "not a picture that can be read"),
        ("nan.tif", "not numbers (NaN or infinity)"),
        ("gone.png", "does not exist"),
    ],
)
def test_a_file_that_is_no_sound_picture_is_named_on_either_side(fuse, tmp_path, name, said):
    broken_files(tmp_path)
    assert_refused(fuse(ir=tmp_path / name), name, said)
    assert_refused(fuse(vi=tmp_path / name), name, said)
    assert not (tmp_path / "fused.png").exists()


@pytest.mark.parametrize("size", [(1, 1), (3, 64), (7, 8)])
def test_pictures_smaller_than_the_network_reads_are_refused_with_its_size(fuse, tmp_path, size):
    ir, vi = draw(tmp_path / "t.png", size=size), draw(tmp_path / "tv.png", 3, size=size)
    assert_refused(fuse(ir, vi), "at least 8 pixels", f"{size[0]}x{size[1]}")


@pytest.mark.parametrize("value", [0, 255])
def test_pictures_of_one_value_are_fused(fuse, tmp_path, value):
    ir, vi = draw(tmp_path / "c.png", value=value), draw(tmp_path / "cv.png", 3, value=value)
    assert fuse(ir, vi)[0] == 0
    assert read_image(tmp_path / "fused.png").shape == (3, HEIGHT, WIDTH)


def test_tensors_that_are_no_pictures_are_refused(weights):
    method = fk.load_method("control", weights, device="cpu")
    ir, vi = torch.rand(1, 1, 32, 32), torch.rand(1, 3, 32, 32)
    wrong = ((vi * math.nan, "NaN"), (vi * 255, "0, 1"), (vi[0], "B, "), (vi[..., 1:], "32, 31"))
    for bad, said in wrong:
        with pytest.raises(BadRequest, match=said):
            method.fuse(ir, bad)
    with pytest.raises(BadRequest, match="2 prompts for 1 pairs"):
        method.fuse(ir, vi, ["a", "b"])


# -- folders and outputs ------------------------------------------------------------------------


def test_a_folder_against_a_file_is_refused(fuse, tmp_path):
    folder = draw(tmp_path / "folder" / "a.png").parent
    assert_refused(fuse(ir=folder), "give two files or two folders")
    assert_refused(fuse(vi=folder), "give two files or two folders")


def test_folders_without_a_common_name_show_names_of_both(fuse, tmp_path):
    ir = draw(tmp_path / "heat" / "a.png").parent
    vi = draw(tmp_path / "light" / "b.png", 3).parent
    assert_refused(fuse(ir, vi), "a.png", "b.png", "same name")
    assert_refused(fuse(ir, ir), "the same folder")
    (tmp_path / "nothing").mkdir()
    assert_refused(fuse(ir, tmp_path / "nothing"), "nothing holds no pictures")


def test_a_picture_without_partner_is_noted_on_one_line_and_the_rest_fused(fuse, tmp_path):
    ir = draw(tmp_path / "heat" / "a.png").parent
    draw(ir / "lonely.png")
    vi = draw(tmp_path / "light" / "a.png", 3).parent
    status, out, err = fuse(ir, vi, output=tmp_path / "out")
    assert status == 0
    assert out.split() == [str(tmp_path / "out" / "a.png")]
    assert err.startswith("fusionkit: note: 1 pictures have no partner")
    assert "lonely.png" in err and err.count("\n") == 1


def test_two_folders_into_a_file_are_refused_before_anything_is_fused(fuse, tmp_path):
    ir = draw(tmp_path / "heat" / "a.png").parent
    vi = draw(tmp_path / "light" / "a.png", 3).parent
    taken = draw(tmp_path / "taken.png")
    before = taken.read_bytes()
    assert_refused(fuse(ir, vi, output=taken), "taken.png is a file", "into a folder")
    assert taken.read_bytes() == before


@pytest.mark.parametrize("name", ["out.xyz", "out"])
def test_an_unknown_suffix_is_answered_with_the_known_ones(fuse, tmp_path, name):
    assert_refused(fuse(output=tmp_path / name), name, ".png, .jpg, .jpeg, .tif, .tiff")
    assert not (tmp_path / name).exists()


def test_an_output_below_a_file_or_where_nothing_can_be_made_fails_in_words(fuse, tmp_path):
    (tmp_path / "file").write_text("in the way")
    answer = fuse(output=tmp_path / "file" / "out.png")
    assert_refused(answer, "a file is where its folder should be", status=1)
    assert_refused(fuse(output="/proc/out.png"), "cannot write /proc/out.png", status=1)


# -- words --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   \n\t",
        "highlight the person " * 400,
        "突出显示行人 🚗",
        "hebe die Fußgängerin hervor",
    ],
    ids=["empty", "blank", "very long", "chinese", "german"],
)
def test_any_text_is_a_prompt(fuse, tmp_path, text):
    assert fuse(None, None, "--text", text)[0] == 0
    assert read_image(tmp_path / "fused.png").isfinite().all()


# -- weights ------------------------------------------------------------------------------------


def test_missing_weights_say_how_to_get_them(run, tmp_path):
    ir, vi = draw(tmp_path / "ir.png"), draw(tmp_path / "vi.png", 3)
    out = tmp_path / "out.png"
    bare = run("fuse", ir, vi, "-o", out, "--recipe", "control")
    assert_refused(bare, "brings no weights", "fusionkit train control")
    gone = tmp_path / "gone.pt"
    assert_refused(run("fuse", ir, vi, "-o", out, "--checkpoint", gone), "gone.pt", "not exist")


def changed(state, change):
    state = copy.deepcopy(state)
    change(state)
    return state


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.update(recipe="other"), "no recipe is called 'other'"),
        (lambda s: s.update(format="else"), "is no fusionkit checkpoint"),
        (lambda s: s.pop("network"), "it lacks network"),
        (lambda s: s.pop("parts"), "it lacks parts"),
        (lambda s: s.pop("text"), "lacks the text statistics"),
        (lambda s: s["network"].popitem(), "Missing key"),
        (lambda s: s["network"].update(stray=torch.ones(1)), "stray"),
        (lambda s: s["parts"].update(stages=[]), "stages"),
        (lambda s: s["parts"]["encoder"].update(name="tiny-clap"), "Did you mean 'tiny-clip'?"),
    ],
    ids=[
        "another recipe", "another format", "no network", "no parts", "no text statistics",
        "a weight missing", "a weight too many", "no stages", "an unknown encoder",
    ],
)  # fmt: skip
def test_a_checkpoint_that_does_not_fit_is_refused(fuse, state, tmp_path, change, said):
    path = tmp_path / "changed.pt"
    torch.save(changed(state, change), path)
    assert_refused(fuse(checkpoint=path), said)
    assert not (tmp_path / "fused.png").exists()


@pytest.mark.parametrize("share", [0, 0.02, 0.6])
def test_a_checkpoint_cut_short_is_refused(fuse, weights, tmp_path, share):
    content = weights.read_bytes()
    path = tmp_path / "cut.pt"
    path.write_bytes(content[: int(share * len(content))])
    assert_refused(fuse(checkpoint=path), "cut.pt cannot be read as weights")


def test_authors_weights_are_no_checkpoint_and_pickled_code_is_not_run(fuse, tmp_path):
    path = tmp_path / "foreign.pt"
    torch.save({"conv.weight": torch.ones(1)}, path)
    assert_refused(fuse(checkpoint=path), "is no fusionkit checkpoint")
    torch.save({"format": Trap()}, path)
    assert_refused(fuse(checkpoint=path), "more than tensors and plain values")


class Trap:
    """Unpickling it would call a function."""

    def __reduce__(self):
        return print, ("this code must not run",)


# -- names, values, devices ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["controll"], ["Did you mean 'control'?"]),
        (["control", "--dataset", "scene"], ["Did you mean 'scenes'"]),
        (["control", "--encoder", "tiny-clop"], ["Did you mean 'tiny-clip'?"]),
        (["control", "--modulation", "fim"], ["Did you mean 'film'"]),
        (["control", "--network", "compcat"], ["Did you mean 'compact'?"]),
        (["control", "--set", 'metrics=["Qabff"]'], ["'Qabf'"]),
        (["control", "--set", 'losses=["pixel-l2"]'], ["Did you mean 'pixel-l1'?"]),
        (["control", "--set", 'guides=["heatmp"]'], ["Did you mean 'heatmap'?"]),
        (["control", "--set", "steps=many"], ["stages.0.steps", "'many'"]),
        (["control", "--set", "steps=2.5"], ["stages.0.steps", "2.5"]),
        (["control", "--set", "weights.region=much"], ["weights.region", "'much'"]),
        (["control", "--set", "stages=5"], ["stages", "5"]),
        (["control", "--set", "stages.0.stepz=5"], ["Did you mean 'steps'?"]),
        (["control", "--set", "stages.1.steps=5"], ["there is no '1'", "train"]),
        (["control", "--set", "wieghts.region=1"], ["Did you mean 'weights'?"]),
        (["control", "--set", "modulation.options.hiden=8"], ["Did you mean 'hidden'?"]),
        (["control", "--set", "task_options.repair_shar=1"], ["Did you mean 'repair_share'"]),
        (["control", "--set", "encoder=null"], ["'film' reads text", "no encoder"]),
        (["control", "--set", "=5"], ["PATH=VALUE"]),
        (["control", "--seed", "-1"], ["'--seed'", "-1"]),
        (["control", "--device", "cdua"], ["'cdua'", "cuda"]),
        (["control", "--device", "meta"], ["'meta'"]),
        (["control", "--precision", "float23"], ["'float32'"]),
        (["control", "--image-size", "17"], ["17", "at least 32x32"]),
        (["control", "--data-root", "here"], ["'scenes' is generated", "'folder'"]),
        (["control", "--dataset", "folder"], ["needs root", "ir/ and vi/"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("control") else "",
)
def test_a_misspelt_or_unfit_request_to_train_is_refused(run, tmp_path, words, said):
    path = tmp_path / "run.zarr"
    fast = ["--image-size", "32", "--device", "cpu", "--store", path]
    assert_refused(run("train", *fast, *words), *said)
    assert not path.exists()


@no_gpu
def test_a_gpu_that_is_not_there_is_refused(fuse, run):
    assert_refused(run("train", "control", "--device", "cuda"), "no usable GPU; use cpu")
    assert_refused(fuse(None, None, "--device", "cuda:3"), "no usable GPU; use cpu")


@pytest.mark.parametrize("device", ["cdua", "meta", "cuda:x"])
def test_fuse_refuses_what_is_no_device(fuse, device):
    assert_refused(fuse(None, None, "--device", device), f"{device!r} is no device", "auto, cpu")


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has an Apple GPU")
def test_an_apple_gpu_that_is_not_there_is_refused(fuse):
    assert_refused(fuse(None, None, "--device", "mps"), "no Apple GPU")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("seeds", [-1], "seeds = [-1]"),
        ("seeds", "one", "seeds"),
        ("seeds", [], "seeds"),
        ("train_pairs", 0, "train_pairs = 0"),
        ("image_size", "64x64x64", "neither one side nor height and width"),
        ("device", "gpu", "auto, cpu"),
        ("metrics", "EN,SDD", "'SD'"),
        ("modulation", "flim", "'film'"),
        ("losses", ["regoin-l1"], "'region-l1'"),
        ("guides", "heat-map", "'heatmap'"),
    ],
)
def test_unfit_notebook_parameters_are_refused_before_a_run(name, value, said):
    with pytest.raises(BadRequest) as refused:
        check_values("ablation", {name: value})
    assert said in str(refused.value)


# -- the bench ----------------------------------------------------------------------------------


def train_bench(tmp_path, overrides=None, **more):
    overrides = QUICK | (overrides or {})
    given = {"store": str(tmp_path / "run.zarr"), "overrides": overrides} | SMALL | more
    return Bench.training(TrainParameters(**check_values("train", given)))


def ablation_bench(tmp_path, **more):
    given = {"store": str(tmp_path / "run.zarr"), "steps": 1, "batch_size": 2} | SMALL | more
    return Bench.ablation(AblationParameters(**check_values("ablation", given)))


def test_one_prompt_alone_cannot_be_compared(tmp_path):
    with pytest.raises(BadRequest, match="give two or more"):
        ablation_bench(tmp_path, prompts=["highlight the person"])


def test_an_odd_batch_is_refused_by_the_task_that_needs_pairs(tmp_path):
    with pytest.raises(BadRequest, match="even batch size, not 3"):
        train_bench(tmp_path, {"batch_size": 3}).everything()


def test_an_unknown_degradation_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(FusionkitError, match="Did you mean 'haze'"):
        train_bench(tmp_path, {"task_options.degradations": ["hazze"]}).everything()


def test_pictures_smaller_than_the_crop_are_named(tmp_path):
    with pytest.raises(BadRequest, match=r"scene-\d+.*64x64, smaller than the crop of 96"):
        train_bench(tmp_path, {"stages.0.crop": 96}).everything()


def test_a_weight_for_a_term_that_no_loss_gives_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(BadRequest, match=r"'regoin'.*Did you mean 'region'"):
        train_bench(tmp_path, {"weights.regoin": 0.5}).everything()


def test_a_data_set_that_is_not_there_says_layout_source_and_licence(run, monkeypatch, tmp_path):
    monkeypatch.setenv("FUSIONKIT_DATA", str(tmp_path))
    words = ["train", "control", "--dataset", "roadscene", "--device", "cpu"]
    answer = run(*words, "--data-root", tmp_path / "gone")
    assert_refused(answer, "gone", "RoadScene", "licence", "ir/*.jpg", "FUSIONKIT_DATA")
    assert_refused(run(*words, "--data-root", tmp_path), "holds no pairs", "two sub-folders")


def test_unequal_pictures_in_a_folder_are_refused_with_both_names_before_training(tmp_path):
    for name in ("a", "b"):
        draw(tmp_path / "pairs" / "ir" / f"{name}.png")
        draw(tmp_path / "pairs" / "vi" / f"{name}.png", 3, size=(HEIGHT + 2, WIDTH))
    with pytest.raises(BadRequest, match=r"ir/.\.png is 64x48.*vi/.\.png is 64x50"):
        train_bench(tmp_path, dataset="folder", data_root=str(tmp_path / "pairs"))
    assert not (tmp_path / "run.zarr").exists()  # nothing is begun on such a folder


@pytest.mark.parametrize("pairs", [1, 5])
def test_constant_pictures_and_a_folder_of_one_pair_train_without_nan(tmp_path, pairs):
    for i in range(pairs):
        draw(tmp_path / "pairs" / "ir" / f"{i}.png", value=90)
        draw(tmp_path / "pairs" / "vi" / f"{i}.png", 3, value=90)
    folder = str(tmp_path / "pairs")
    bench = train_bench(tmp_path, dataset="folder", data_root=folder, image_size=None)
    bench.everything()
    history = fk.open_run(tmp_path / "run.zarr")["history"]
    assert all(np.isfinite(values).all() for values in history.data_vars.values())
    method = bench.trained["control", 0]
    assert all(p.isfinite().all() for p in method.network.parameters())


def test_a_method_that_reads_no_text_is_trained_without_an_encoder(tmp_path):
    without = {"encoder": None, "modulation": "none", "standardise_text": False}
    bench = train_bench(tmp_path, without)
    assert "repair_gain_db 0.000" in bench.everything()
    assert "encoder none" in bench.scope()


@pytest.mark.parametrize(
    "overrides",
    [
        {"network.options.width": 3},
        {"modulation.options.hiden": 3},
        {"task_options.repair_shar": 0.5},
        {"losses": []},
        {"metrics": ["no-such"]},
    ],
    ids=str,
)
def test_a_wrong_request_does_not_cost_the_earlier_run(tmp_path, overrides):
    with train_bench(tmp_path).run:
        pass
    kept = tmp_path / "run.zarr" / "zarr.json"
    before = kept.read_bytes()
    metrics = {"metrics": []} if "metrics" in overrides else {}
    with pytest.raises(FusionkitError):
        train_bench(tmp_path, overrides, resume=False, **metrics)
    with pytest.raises(FusionkitError, match=r"gone\.pt"):
        train_bench(tmp_path, resume=False, checkpoint=str(tmp_path / "gone.pt"))
    assert kept.read_bytes() == before


def test_a_normal_run_gives_no_warning(tmp_path):
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        train_bench(tmp_path, prompts=["", "突出显示行人"]).everything()
        fk.open_run(tmp_path / "run.zarr").load()
    shown = [w for w in given if not issubclass(w.category, ResourceWarning)]
    assert not [f"{w.filename}: {w.message}" for w in shown]


# -- stored runs --------------------------------------------------------------------------------


def test_what_is_no_stored_run_is_said_in_words(run, weights, tmp_path):
    (tmp_path / "empty.zarr").mkdir()
    draw(tmp_path / "photos" / "a.png")
    assert_refused(run("info", tmp_path / "empt.zarr"), "no run at", "empty.zarr")
    assert_refused(run("info", tmp_path / "empty.zarr"), "no zarr.json, and nothing else.")
    assert_refused(run("info", tmp_path / "photos"), "no zarr.json, but a.png")
    assert_refused(run("info", weights), "is a file, not a stored run")


def test_a_run_is_never_written_over_other_things(run, tmp_path):
    photo = draw(tmp_path / "photos" / "a.png")
    words = ["train", "control", "--device", "cpu", "--image-size", "32", "--no-resume"]
    assert_refused(run(*words, "--store", photo.parent), "holds a.png. Nothing was touched")
    assert_refused(run(*words, "--store", photo), "is a file; a run is a folder")
    assert_refused(run(*words, "--store", photo / "run.zarr"), "on the way to it is a file")
    assert photo.exists()
