"""Adapting without labels: what is refused, what is compared, how places are judged."""

import math

import pytest
import torch

from fusionkit import adapting
from fusionkit.adapting import Adaptation, compared, with_means
from fusionkit.errors import BadRequest
from fusionkit.notebook import AdaptParameters
from fusionkit.pointing import area, pointing, where
from fusionkit.protocols import Pair, Thing


def pair(name="a", **facts):
    return Pair(name, torch.zeros(3, 8, 8), torch.zeros(1, 8, 8), **facts)


class Bright:
    """An encoder for which everything is where the picture is bright; it cannot be adapted."""

    def heatmap(self, prompts, image):
        return image.mean(1, keepdim=True)


def test_a_difference_is_taken_pair_by_pair_over_pairs_measured_both_times():
    before = {"m": {"a": 0.0, "b": 1.0, "c": 5.0}, "gone": {"a": 1.0}}
    after = {"m": {"b": 3.0, "a": 1.0}}
    found = compared(before, after)
    assert list(found.index) == ["m"]
    row = found.loc["m"]
    assert (row["pairs"], row["before"], row["after"], row["difference"]) == (2, 0.5, 2.0, 1.5)
    assert row["low"] >= 1 and row["high"] <= 2
    assert compared({}, {}).empty


def test_wishes_put_to_the_same_pairs_get_a_mean_and_others_do_not():
    values = {
        "noise: gain": {"a": 1.0, "b": 2.0},
        "haze: gain": {"a": 3.0, "b": 6.0},
        "person: raised": {"a": 1.0},
        "car: raised": {"b": 1.0},
    }
    found = with_means(values)
    assert found["mean of 2: gain"] == {"a": 2.0, "b": 4.0}
    assert set(found) == {*values, "mean of 2: gain"}


def test_a_map_is_judged_by_masks_or_else_by_boxes_and_not_asked_for_what_is_not_there():
    mask = torch.zeros(1, 8, 8)
    mask[:, :2, :2] = 1
    boxed = pair(things=(Thing("car", (4, 4, 20, 6)), Thing("bus", (9, 9, 12, 12))))
    assert where(boxed, "car").sum() == 8 and where(boxed, "bus") is None
    masked = pair(masks={"car": mask}, things=(Thing("car", (0, 0, 8, 8)),))
    assert where(masked, "car").sum() == 4 and where(masked, "person") is None

    masked.infrared[0, 0, 0] = 1
    masked.visible[:, 7, 7] = 0.5
    found = pointing(Bright(), [masked], ["car", "person"])
    assert found["pointing: car, infrared"] == {"a": 1.0}
    assert found["pointing: car, visible"] == {"a": 0.0}
    assert found["pointing: car, both"] == {"a": 1.0}
    assert found["area: car, infrared"]["a"] == pytest.approx((1 + 3 * 0.5) / 4)
    assert math.isclose(area(torch.arange(4.0), torch.tensor([False, True, True, True])), 1)


def test_an_encoder_that_cannot_be_adapted_is_refused_by_name(tmp_path, monkeypatch):
    class Loaded:
        encoder = Bright()

        class recipe:
            class encoder:
                name = "bright"

    monkeypatch.setattr(adapting, "load_method", lambda *_, **__: Loaded)
    with pytest.raises(BadRequest, match="cannot be adapted"):
        Adaptation(AdaptParameters(output=str(tmp_path)))


def test_a_folder_of_another_adaptation_is_refused_unless_it_is_to_be_replaced(
    tmp_path, monkeypatch
):
    class Loaded:
        class encoder:
            adapt = save = None

    monkeypatch.setattr(adapting, "load_method", lambda *_, **__: Loaded)
    Adaptation(AdaptParameters(output=str(tmp_path), seed=1))
    (tmp_path / adapting.ENCODER).touch()
    Adaptation(AdaptParameters(output=str(tmp_path), seed=1))
    with pytest.raises(BadRequest, match="another seed"):
        Adaptation(AdaptParameters(output=str(tmp_path), seed=2))
    assert (tmp_path / adapting.ENCODER).exists()
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / adapting.NETWORK).touch()
    with pytest.raises(BadRequest, match="something else"):
        Adaptation(AdaptParameters(output=str(tmp_path / "else"), resume=False))
    Adaptation(AdaptParameters(output=str(tmp_path), seed=2, resume=False))
    assert not (tmp_path / adapting.ENCODER).exists()
