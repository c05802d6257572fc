"""Folders of fused pictures: matched, scored, kept, resumed; and every way a picture may fail."""

import json
import os
import signal
import subprocess
import sys
import time
import weakref

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from fusionkit import scoring
from fusionkit.data import PairPaths, match_all, match_fused, picture_kind
from fusionkit.errors import BadRequest, MissingWeights, UnknownComponent
from fusionkit.evaluation import build_metrics, evaluate
from fusionkit.protocols import Preset
from fusionkit.registry import Registry
from fusionkit.scoring import evaluate_folders, name_methods, rows_file
from fusionkit.testing import install


class Brightness:
    """Mean of the fused picture in grey levels."""

    name = "brightness"
    higher_is_better = True
    variant = "mean over channels and pixels"
    needs = ("fused",)

    def __init__(self, *, scale: float = 255.0) -> None:
        self.scale = scale

    def __call__(self, fused, ir, vi, **context):
        return self.scale * fused.double().flatten(1).mean(1)


class Contrast:
    """Spread of the fused picture; undefined for a constant one."""

    name = "contrast"
    higher_is_better = False

    def __call__(self, fused, ir, vi, **context):
        spread = fused.double().flatten(1).std(1)
        return torch.where(spread > 0, spread, torch.nan)


class Wide:
    """Refuses small pictures."""

    name = "wide"
    higher_is_better = True

    def __call__(self, fused, ir, vi, **context):
        if fused.shape[-1] < 20:
            raise BadRequest("wide is defined for pictures of at least 20 columns.")
        return fused.double().flatten(1).amax(1)


class Inside:
    name = "inside"
    higher_is_better = True
    needs = ("fused", "mask", "confidence")

    def __call__(self, fused, ir, vi, *, mask, confidence, **context):
        return confidence * (fused.mean(1, keepdim=True) * mask).flatten(1).mean(1)


class Heavy:
    name = "heavy"
    higher_is_better = True

    def __init__(self) -> None:
        raise MissingWeights("the weights of heavy are not here; put them there.")


METRICS = {m.name: m for m in (Brightness, Contrast, Wide, Inside, Heavy)} | {"BR": Brightness}
RULES = {"gray": "as it is", "quantisation": "none", "saving": "as found", "source": "this test"}


def presets():
    return {
        "standard": lambda: Preset("standard", {"BR": "brightness", "CO": "contrast"}, **RULES),
        "unit": lambda: Preset(
            "unit",
            {"Light": "brightness"},
            also={"CO": "contrast"},
            options={"scale": 1.0},
            **RULES,
        ),
        "heavy": lambda: Preset(
            "heavy", {"BR": "brightness", "H": "heavy", "IN": "inside"}, **RULES
        ),
    }


@pytest.fixture
def registry():
    registry = Registry()
    install(registry, "mine", metric=METRICS, preset=presets)
    return registry


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def grey(level, height=24, width=32):
    pixels = np.full((height, width), level, np.uint8)
    pixels[0, 0] = level + 1
    return pixels


@pytest.fixture
def folders(tmp_path):
    """Six pairs with colour and grey sources, and two methods: levels 10, 20 .. and 40, 50 .."""
    for k in range(6):
        save(tmp_path / f"ir/{k}.png", grey(100))
        ramp = np.tile(np.arange(32, dtype=np.uint8) * 6 + k, (24, 1))
        save(tmp_path / f"vi/{k}.jpg", np.stack([ramp] * 3, -1))
        save(tmp_path / f"low/{k}.png", grey(10 * k + 10))
        save(tmp_path / f"high/{k}.png", grey(10 * k + 40))
    return tmp_path


@pytest.fixture
def score(folders, registry):
    def run(*methods, **options):
        options.setdefault("say", lambda line: None)
        return evaluate_folders(
            folders / "ir", folders / "vi", [folders / m for m in methods or ("low",)],
            registry=registry, **options,
        )  # fmt: skip

    return run


def row(scores, method, name):
    rows = scores.rows
    return rows[(rows["method"] == method) & (rows["name"] == name)].iloc[0]


# --- what is computed ----------------------------------------------------------------------------


def test_every_picture_has_a_row_with_the_scores_of_its_own_pixels(score, folders, registry):
    scores = score("low", "high")
    assert list(scores.rows.columns) == ["method", "name", "BR", "CO", "outcome", "remark"]
    assert len(scores.scored) == 12
    pixels = torch.tensor(np.asarray(Image.open(folders / "high/3.png")) / 255).float()[None, None]
    alone = evaluate(pixels, pixels, pixels, registry=registry, variant="standard")
    assert row(scores, "high", "3")["BR"] == alone["BR"].item() == pytest.approx(70, abs=0.01)
    assert scores.kinds == {"8-bit grey PNG": 12}


def test_stacked_pictures_score_as_single_ones(score, folders):
    save(folders / "low/2.png", grey(33, 24, 40))
    for side, depth in (("ir", None), ("vi", 3)):
        (folders / side / f"2.{'png' if depth is None else 'jpg'}").unlink()
        save(folders / side / "2.png", grey(9, 24, 40))
    one, many = score(batch_size=1), score(batch_size=4)
    pd.testing.assert_frame_equal(one.rows, many.rows)


def test_memory_holds_a_few_pictures_whatever_their_number(folders, score, monkeypatch):
    alive, most = weakref.WeakSet(), []
    read = scoring.read_image

    def counted(path):
        image = read(path)
        alive.add(image)
        most.append(len(alive))
        return image

    monkeypatch.setattr(scoring, "read_image", counted)
    for k in range(6, 40):
        save(folders / f"ir/{k}.png", grey(1))
        save(folders / f"vi/{k}.png", grey(2))
        save(folders / f"low/{k}.png", grey(3))
    assert len(score().scored) == 40
    assert len(most) == 120 and max(most) <= 15


def test_a_preset_names_its_own_variants_with_its_own_options(score, registry):
    scores = score(variant="unit")
    assert scores.rules["preset"] == "unit" and list(scores.metrics) == ["Light"]
    assert row(scores, "low", "0")["Light"] == pytest.approx(10 / 255, abs=1e-4)
    assert list(score(metrics=["CO", "brightness"], variant="unit").metrics) == [
        "CO",
        "brightness",
    ]


def test_a_short_name_that_a_preset_lacks_is_not_silently_another_variant(registry):
    with pytest.raises(BadRequest, match=r"'unit' has no 'BR'.*by its code, 'brightness'"):
        build_metrics(["BR"], variant="unit", registry=registry)
    with pytest.raises(UnknownComponent, match="Did you mean 'Light'"):
        build_metrics(["Ligth"], variant="unit", registry=registry)
    with pytest.raises(UnknownComponent, match="unit"):
        build_metrics(variant="uint", registry=registry)


def test_what_a_whole_preset_lacks_is_listed_and_what_was_asked_for_is_an_error(score):
    scores = score(variant="heavy")
    assert list(scores.metrics) == ["BR"]
    assert "weights of heavy" in scores.unavailable["H"]
    assert "mask" in scores.unavailable["IN"]
    with pytest.raises(BadRequest, match="weights of heavy"):
        score(metrics=["heavy"])
    with pytest.raises(BadRequest, match="--with mask="):
        score(metrics=["inside"])
    with pytest.raises(BadRequest, match=r"^nothing of the preset 'none'.* IN: more than three"):
        score(variant=Preset("none", {"IN": "inside"}, **RULES))


def test_masks_numbers_and_texts_come_from_folders_and_files_by_name(score, folders):
    for k in range(6):
        save(folders / f"mask/{k}.png", np.full((24, 32), 255 * (k % 2), np.uint8))
    (folders / "c.json").write_text(json.dumps({str(k): k for k in range(6)}))
    given = {"mask": folders / "mask", "confidence": str(folders / "c.json")}
    scores = score(metrics=["inside"], context=given)
    values = [row(scores, "low", str(k))["inside"] for k in range(6)]
    assert values[0] == values[2] == 0
    assert values[3] == pytest.approx(3 * 40 / 255, rel=1e-3)
    (folders / "mask/5.png").unlink()
    assert (
        "no mask for the pair '5'"
        in row(score(metrics=["inside"], context=given), "low", "5")["remark"]
    )


# --- matching ------------------------------------------------------------------------------------


def test_pictures_without_partner_are_listed_with_what_is_missing(score, folders):
    (folders / "ir/0.png").unlink()
    (folders / "vi/1.jpg").unlink()
    (folders / "low/2.png").unlink()
    save(folders / "low/extra.png", grey(1))
    scores = score()
    assert sorted(scores.scored["name"]) == ["3", "4", "5"]
    listed = {(r.outcome, r.name.rsplit("/", 1)[-1]) for r in scores.unmatched.itertuples()}
    assert listed == {
        ("no visible", "1.png"),
        ("no infrared", "0.jpg"),
        ("no fused picture", "2"),
        ("no pair", "extra.png"),
        ("no pair", "0.png"),
        ("no pair", "1.png"),
    }
    assert set(scores.rows["outcome"]) <= set(scoring.OUTCOMES)


@pytest.mark.parametrize(
    "names",
    [
        ["a/7.png", "a/8.png"],
        ["7_fused.png", "8_fused.png"],
        ["fused-7.png", "fused-8.png"],
        ["7_Mine.png", "8_Mine.png"],
        ["IR7.png", "IR8.png"],
    ],
)
def test_a_fused_picture_is_found_under_the_names_programs_give(tmp_path, names):
    pairs = [PairPaths(name, tmp_path, tmp_path) for name in ("7", "8")]
    for name in names:
        save(tmp_path / "Mine" / name, grey(1))
    found, strays = match_fused(pairs, tmp_path / "Mine")
    assert [found[p.name].relative_to(tmp_path / "Mine").as_posix() for p in pairs] == names
    assert strays == []


def test_the_exact_name_wins_over_a_similar_one(tmp_path):
    for name in ("fused_7", "7"):
        save(tmp_path / f"{name}.png", grey(1))
    found, strays = match_fused([PairPaths("7", tmp_path, tmp_path)], tmp_path)
    assert (found["7"].name, strays[0].name) == ("7.png", "fused_7.png")


def test_folders_that_hold_methods_or_nothing_alike_say_what_to_do(tmp_path):
    pairs = [PairPaths("7", tmp_path, tmp_path)]
    for method in ("a", "b"):
        save(tmp_path / f"all/{method}/7.png", grey(1))
    with pytest.raises(BadRequest, match=r"claim one pair.*sub-folders of .* are methods"):
        match_fused(pairs, tmp_path / "all")
    save(tmp_path / "other/x.png", grey(1))
    with pytest.raises(BadRequest, match=r"none of the 1 pictures .* is called like"):
        match_fused(pairs, tmp_path / "other")
    with pytest.raises(BadRequest, match="no such folder of fused"):
        match_fused(pairs, tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadRequest, match="holds no pictures"):
        match_fused(pairs, tmp_path / "empty")


def test_single_files_make_one_pair(folders, registry):
    scores = evaluate_folders(
        folders / "ir/1.png", folders / "vi/1.jpg", folders / "low/4.png", registry=registry,
        say=lambda line: None,
    )  # fmt: skip
    assert scores.rows["BR"].tolist() == [pytest.approx(50, abs=0.01)]
    assert len(match_all(folders / "ir/1.png", folders / "vi/1.jpg").pairs) == 1


def test_methods_are_called_by_as_much_of_their_path_as_tells_them_apart(tmp_path):
    assert list(name_methods(tmp_path / "DenseFuse/")) == ["DenseFuse"]
    assert list(name_methods([tmp_path / "a/tno", tmp_path / "b/tno"])) == ["a/tno", "b/tno"]
    assert list(name_methods({"mine": tmp_path})) == ["mine"]
    with pytest.raises(BadRequest, match="given twice"):
        name_methods([tmp_path, f"{tmp_path}/"])
    with pytest.raises(BadRequest, match="no folder"):
        name_methods([])


def test_methods_without_a_common_pair_are_not_compared(score, folders):
    for k in range(6):
        (folders / ("low" if k % 2 else "high") / f"{k}.png").unlink()
    with pytest.raises(BadRequest, match=r"every method has a picture \(low 3, high 3 matched\)"):
        score("low", "high")


# --- pictures as they come -----------------------------------------------------------------------


def test_a_damaged_picture_costs_its_own_row_only(score, folders):
    whole = (folders / "low/1.png").read_bytes()
    (folders / "low/1.png").write_bytes(whole[: len(whole) // 2])
    (folders / "low/2.png").write_bytes(b"")
    (folders / "vi/3.jpg").write_bytes(b"no picture")
    scores = score()
    assert sorted(scores.scored["name"]) == ["0", "4", "5"]
    assert set(scores.failed["outcome"]) == {"unreadable"}
    assert "damaged or cut short" in row(scores, "low", "1")["remark"]
    assert "0 bytes" in row(scores, "low", "2")["remark"]
    assert row(scores, "low", "3")["remark"].startswith("source: ")
    assert np.isnan(scores.failed[["BR", "CO"]].to_numpy(dtype=float)).all()


def test_a_picture_of_another_size_is_not_resized_but_named(score, folders):
    save(folders / "low/1.png", grey(5, 20, 32))
    found = row(score(), "low", "1")
    assert found["outcome"] == "sizes differ"
    assert found["remark"] == "fused 20 x 32, infrared 24 x 32, visible 24 x 32; nothing is resized"


def test_sixteen_bits_are_divided_by_their_white_and_said(score, folders):
    wide = grey(0).astype(np.uint16) + 128 * 257
    save(folders / "low/1.png", wide)
    save(folders / "low/2.png", grey(9).astype(np.uint16))
    scores = score()
    assert row(scores, "low", "1")["BR"] == pytest.approx(128, abs=0.01)
    assert row(scores, "low", "1")["remark"] == "16 bits, divided by 65535"
    assert row(scores, "low", "2")["remark"].endswith("less than a quarter of its range is used")
    assert picture_kind(folders / "low/1.png") == "16-bit grey PNG"
    assert scores.kinds["16-bit grey PNG"] == 2


def test_peculiar_sources_are_said_too(score, folders):
    (folders / "vi/1.jpg").unlink()
    save(folders / "vi/1.png", np.full((24, 32), 99, np.uint16))
    save(folders / "ir/2.png", np.full((24, 32), 7, np.uint8))
    scores = score()
    assert row(scores, "low", "1")["remark"] == (
        "visible: 16 bits, divided by 65535; visible: less than a quarter of its range is used; "
        "visible: constant picture"
    )
    assert row(scores, "low", "2")["remark"] == "infrared: constant picture"


def test_a_mask_of_another_size_is_named_with_its_size(score, folders):
    for k in range(6):
        save(folders / f"mask/{k}.png", np.full((24, 30), 255, np.uint8))
    given = {"mask": folders / "mask", "confidence": 1}
    scores = score(metrics=["inside"], context=given)
    assert set(scores.failed["outcome"]) == {"sizes differ"} and len(scores.failed) == 6
    assert "mask 24 x 30" in row(scores, "low", "0")["remark"]


def test_colour_and_grey_meet(score, folders):
    save(folders / "low/1.png", np.stack([grey(20)] * 3, -1))
    scores = score()
    assert row(scores, "low", "1")["BR"] == pytest.approx(20, abs=0.01)
    assert scores.kinds == {"8-bit grey PNG": 5, "8-bit colour PNG": 1}


def test_a_constant_picture_keeps_the_scores_it_has(score, folders):
    save(folders / "low/1.png", np.full((24, 32), 7, np.uint8))
    found = row(score(), "low", "1")
    assert found["outcome"] == "scored"
    assert found["BR"] == pytest.approx(7, abs=0.01) and np.isnan(found["CO"])
    assert found["remark"] == "constant picture; undefined: CO"


def test_a_metric_that_refuses_a_picture_costs_its_own_value_only(score, folders):
    for side, suffix in (("ir", "png"), ("vi", "jpg"), ("low", "png")):
        (folders / side / f"1.{suffix}").unlink()
        save(folders / side / "1.png", grey(50, 24, 16))
    scores = score(metrics=["BR", "wide"])
    found = row(scores, "low", "1")
    assert found["outcome"] == "scored" and np.isnan(found["wide"])
    assert found["BR"] == pytest.approx(50, abs=0.01)
    assert "at least 20 columns" in found["remark"]
    assert np.isfinite(row(scores, "low", "0")["wide"])


# --- rows that are kept --------------------------------------------------------------------------


def test_a_repeated_run_scores_only_what_changed(score, folders, monkeypatch):
    table = folders / "out/t.csv"
    score("low", table=table)
    (folders / "low/3.png").unlink()
    save(folders / "low/3.png", grey(200))
    os.utime(folders / "low/3.png", ns=(1, 1))
    seen = []
    read = scoring.read_image
    monkeypatch.setattr(scoring, "read_image", lambda p, *a: (seen.append(str(p)), read(p, *a))[1])
    again = score("low", "high", table=table)
    assert again.resumed == 5
    assert {path for path in seen if "/low/" in path} == {str(folders / "low/3.png")}
    assert row(again, "low", "3")["BR"] == pytest.approx(200, abs=0.01)
    fresh = score("low", "high", table=folders / "other.csv")
    pd.testing.assert_frame_equal(again.rows, fresh.rows)


@pytest.mark.parametrize("change", [{"variant": "unit"}, {"metrics": ["BR"]}, {"resume": False}])
def test_other_parameters_start_anew(score, folders, change):
    table = folders / "t.csv"
    score(table=table)
    assert score(table=table, **change).resumed == 0


def test_a_picture_that_failed_is_tried_again(score, folders):
    table = folders / "t.csv"
    whole = (folders / "low/1.png").read_bytes()
    (folders / "low/1.png").write_bytes(whole[:40])
    assert len(score(table=table).failed) == 1
    (folders / "low/1.png").write_bytes(whole)
    again = score(table=table)
    assert (again.resumed, len(again.failed)) == (5, 0)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-30],
        lambda text: text + '{"method": "low", "name": "5", "outc',
        lambda text: text.replace("\n", "\n\x00garbage\n", 1),
    ],
)
def test_a_line_that_a_kill_cut_short_is_dropped_and_the_rest_taken(score, folders, damage):
    table = folders / "t.csv"
    first = score(table=table)
    kept = rows_file(table)
    kept.write_text(damage(kept.read_text()))
    again = score(table=table)
    assert 5 <= again.resumed <= 6
    pd.testing.assert_frame_equal(first.rows, again.rows)
    assert all(json.loads(line) for line in kept.read_text().splitlines())


def test_a_rows_file_of_another_kind_is_replaced(score, folders):
    table = folders / "t.csv"
    rows_file(table).write_bytes(b"\xff\xfe not ours")
    assert score(table=table).resumed == 0
    assert score(table=table).resumed == 6


def test_the_table_must_be_a_csv_file(score, folders):
    with pytest.raises(BadRequest, match=r"\.csv file"):
        score(table=folders / "t.md")


SLOW = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_scoring import METRICS, presets, Brightness
from fusionkit.registry import Registry
from fusionkit.scoring import evaluate_folders
from fusionkit.testing import install

def slowly(self, fused, ir, vi, **context):
    time.sleep(0.15)
    return self.scale * fused.double().flatten(1).mean(1)

Brightness.__call__ = slowly
registry = Registry()
install(registry, "mine", metric=METRICS, preset=presets)
root = Path({root!r})
evaluate_folders(
    root / "ir", root / "vi", [root / "low", root / "high"], registry=registry, table=root / "t.csv"
)
"""


def test_a_killed_run_continues_and_ends_like_an_undisturbed_one(score, folders):
    """SIGKILL while rows are coming: no table yet, every finished row kept."""
    code = SLOW.format(tests=os.path.dirname(__file__), root=str(folders))
    running = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    kept, deadline = rows_file(folders / "t.csv"), time.monotonic() + 120
    while time.monotonic() < deadline and running.poll() is None:
        if kept.exists() and kept.read_bytes().count(b"\n") >= 4:
            break
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    _, said = running.communicate()
    assert running.returncode == -signal.SIGKILL, said.decode()[-2000:]
    assert not (folders / "t.csv").exists()
    scores = score("low", "high", table=folders / "t.csv")
    assert 3 <= scores.resumed < 12
    whole = score("low", "high", table=folders / "whole.csv")
    assert whole.resumed == 0
    pd.testing.assert_frame_equal(scores.rows, whole.rows)
    for suffix in (".csv", ".summary.csv", ".tests.csv", ".md", ".tex"):
        ends = [(folders / f"{name}{suffix}").read_bytes() for name in ("t", "whole")]
        assert ends[0] == ends[1]


def test_progress_is_said_and_what_was_there_before(score, folders):
    lines = []
    score(table=folders / "t.csv", say=lines.append)
    assert lines[-1] == "scored 6 of 6 pictures" and len(lines) == 4
    lines.clear()
    score("low", "high", table=folders / "t.csv", say=lines.append)
    assert lines[0].startswith("6 of 12 pictures were scored before")
