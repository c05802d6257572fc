"""Evaluation with throw-away metrics: what is asked, checked, returned and said."""

import doctest

import pytest
import torch

import fusionkit.evaluation
from fusionkit.errors import BadRequest, FusionkitError, UnknownComponent
from fusionkit.evaluation import (
    build_metrics,
    evaluate,
    facts,
    score_pairs,
    summarise,
)
from fusionkit.hookspecs import hookimpl
from fusionkit.registry import Registry


class Brightness:
    """Mean of the fused picture; undefined for a black one."""

    name = "brightness"
    higher_is_better = True
    range = (0.0, 1.0)
    unit = ""
    source = "this test"
    variant = "mean over pixels"
    needs = ("fused",)

    def __init__(self, *, scale: float = 1.0) -> None:
        self.scale = scale

    def __call__(self, fused, ir, vi, **context):
        mean = self.scale * fused.flatten(1).mean(1)
        return torch.where(mean > 0, mean, torch.nan)


class Distance:
    name = "distance"
    higher_is_better = False

    def __call__(self, fused, ir, vi, **context):
        return (fused - ir).abs().flatten(1).mean(1)


class Inside:
    """Mean of the fused picture where the mask is."""

    name = "inside"
    higher_is_better = True
    needs = ("fused", "mask")

    def __call__(self, fused, ir, vi, *, mask, **context):
        return (fused * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3))


class Spoken:
    """Reads the encoder it was built with."""

    name = "spoken"
    higher_is_better = True

    def __init__(self, *, encoder) -> None:
        self.encoder = encoder

    def __call__(self, fused, ir, vi, **context):
        return torch.full((len(fused),), float(self.encoder))


class Pooled:
    """Forgets that a batch holds several pictures."""

    name = "pooled"
    higher_is_better = True

    def __call__(self, fused, ir, vi, **context):
        return fused.mean()


class Plugin:
    @hookimpl
    def fusionkit_metrics(self):
        metrics = (Brightness, Distance, Inside, Spoken, Pooled)
        return {m.name: m for m in metrics} | {"BR": Brightness}


@pytest.fixture
def registry():
    registry = Registry()
    registry.register(Plugin(), "throw-away")
    return registry


@pytest.fixture
def pictures():
    """Two fused pictures of levels 0.25 and 0.75 between black and white sources."""
    fused = torch.tensor([0.25, 0.75]).view(2, 1, 1, 1).expand(2, 3, 4, 6).clone()
    return fused, torch.zeros(2, 1, 4, 6), torch.ones(2, 3, 4, 6)


def test_returns_one_value_per_picture_under_the_names_asked_for(registry, pictures):
    found = evaluate(*(p[:, :1] for p in pictures), ["BR", "distance"], registry=registry)
    assert list(found) == ["BR", "distance"]
    assert found["BR"].tolist() == found["distance"].tolist() == [0.25, 0.75]


def test_takes_one_name_and_built_metrics_too(registry, pictures):
    assert list(evaluate(*pictures, "BR", registry=registry)) == ["BR"]
    assert evaluate(*pictures, Brightness(scale=2))["brightness"].tolist() == [0.5, 1.5]


def test_an_unknown_metric_is_refused_with_the_nearest_name(registry, pictures):
    with pytest.raises(UnknownComponent, match="brightness"):
        evaluate(*pictures, ["brigthness"], registry=registry)


def test_no_metric_and_a_metric_twice_are_refused(registry, pictures):
    with pytest.raises(BadRequest, match="no metric"):
        evaluate(*pictures, [], registry=registry)
    with pytest.raises(BadRequest, match="'BR' was asked for twice"):
        evaluate(*pictures, ["BR", "BR"], registry=registry)


def test_different_sizes_are_refused_and_all_named(registry, pictures):
    fused, ir, vi = pictures
    with pytest.raises(BadRequest, match=r"fused 2 of 4 x 6, ir 2 of 4 x 5, vi 2 of 4 x 6"):
        evaluate(fused, ir[..., :5], vi, ["BR"], registry=registry)
    with pytest.raises(BadRequest, match=r"fused 2 of 4 x 6, ir 2 of 4 x 6, vi 1 of 4 x 6"):
        evaluate(fused, ir, vi[:1], ["BR"], registry=registry)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: (p * 255).byte(), "fused holds torch.uint8.*Divide by 255"),
        (lambda p: p * 255, r"fused holds 144 of 144 values outside \[0, 1\].*divide by 255"),
        (lambda p: p - 0.5, r"fused holds 72 of 144 values outside \[0, 1\] \(-0.25 to 0.25\)"),
        (lambda p: p.where(p < 0.5, torch.nan), "fused holds 72 of 144 values that are NaN"),
        (lambda p: p[0], r"fused has the shape \(3, 4, 6\)"),
        (lambda p: p[:, :2], r"fused has the shape \(2, 2, 4, 6\)"),
        (lambda p: p[..., :0], "fused is empty"),
        (lambda p: p.numpy(), "fused is a ndarray"),
    ],
)
def test_unfit_pictures_are_refused_with_the_reason(change, words, registry, pictures):
    fused, ir, vi = pictures
    with pytest.raises(BadRequest, match=words):
        evaluate(change(fused), ir, vi, ["BR"], registry=registry)


def test_float_rounding_at_the_ends_of_the_range_is_no_fault(registry, pictures):
    _, ir, vi = pictures
    found = evaluate(vi + 1e-7, ir, vi, ["BR"], registry=registry)
    assert found["BR"].tolist() == pytest.approx([1, 1])


def test_a_metric_gets_the_context_it_needs_or_says_what_is_missing(registry, pictures):
    mask = torch.ones(2, 1, 4, 6)
    found = evaluate(*(p[:, :1] for p in pictures), ["inside"], registry=registry, mask=mask)
    assert found["inside"].tolist() == [0.25, 0.75]
    with pytest.raises(BadRequest, match="'inside' needs more than three pictures: pass mask="):
        evaluate(*pictures, ["inside"], registry=registry)


def test_the_encoder_is_handed_to_metrics_built_with_one(registry, pictures):
    found = evaluate(*pictures, ["spoken", "BR"], registry=registry, encoder=7)
    assert found["spoken"].tolist() == [7, 7]


def test_a_metric_that_pools_the_batch_is_reported(registry, pictures):
    with pytest.raises(FusionkitError, match=r"'pooled' returned the shape \(\) for 2 pictures"):
        evaluate(*pictures, ["pooled"], registry=registry)


def test_a_graph_is_kept_only_when_asked_for(registry, pictures):
    fused, ir, vi = pictures
    fused.requires_grad_()
    assert not evaluate(fused, ir, vi, ["BR"], registry=registry)["BR"].requires_grad
    evaluate(fused, ir, vi, ["BR"], registry=registry, gradients=True)["BR"].sum().backward()
    torch.testing.assert_close(fused.grad, torch.full_like(fused, 1 / 72))


def test_the_facts_of_a_metric_hold_what_it_states_and_none_for_the_rest():
    assert facts(Brightness())["variant"] == "mean over pixels"
    assert facts(Distance()) == {
        "code": "distance",
        "higher_is_better": False,
        "variant": None,
        "range": None,
        "unit": None,
        "source": None,
    }


def test_a_built_set_keeps_the_order_asked_for(registry):
    assert list(build_metrics(["distance", "BR"], registry=registry)) == ["distance", "BR"]


# -- tables ---------------------------------------------------------------------------------------


def pair(name, level, height=4):
    return (
        name,
        torch.full((1, height, 6), level),
        torch.zeros(1, 1, height, 6),
        torch.ones(3, height, 6),
    )


def test_a_table_has_a_row_per_pair_whatever_its_size(registry):
    pairs = iter([pair("a", 0.5), pair("b", 0.25, height=9)])
    table = score_pairs(pairs, ["BR", "distance"], registry=registry)
    assert table.loc["b"].to_dict() == {"BR": 0.25, "distance": 0.25}
    assert list(table.index) == ["a", "b"]
    assert table.index.name == "name"
    assert table.attrs["metrics"]["BR"]["code"] == "brightness"


def test_a_summary_counts_the_pictures_without_a_value(registry):
    pairs = [pair("a", 0.25), pair("b", 0.0), pair("c", 0.75)]
    summary = summarise(score_pairs(pairs, ["BR", "distance"], registry=registry))
    assert summary.loc["BR", ["mean", "n", "undefined"]].tolist() == [0.5, 2, 1]
    assert summary.loc["distance", ["mean", "n", "undefined"]].tolist() == [
        pytest.approx(1 / 3),
        3,
        0,
    ]
    assert summary.loc["BR", "low"] == 0.25
    assert summary.loc["BR", "high"] == 0.75


def test_a_fault_of_a_pair_is_reported_with_its_name(registry):
    with pytest.raises(BadRequest, match="pair 'b': fused holds 24 of 24 values outside"):
        score_pairs([pair("a", 0.5), pair("b", 3.0)], ["BR"], registry=registry)
    with pytest.raises(BadRequest, match="two pairs are called 'a'"):
        score_pairs([pair("a", 0.5), pair("a", 0.5)], ["BR"], registry=registry)
    with pytest.raises(BadRequest, match="pair 'c': fused holds 2 pictures"):
        many = torch.zeros(2, 1, 4, 6)
        score_pairs([("c", many, many, many)], ["BR"], registry=registry)
    with pytest.raises(BadRequest, match="no pairs"):
        score_pairs([], ["BR"], registry=registry)


def test_examples_in_docstrings_hold():
    assert doctest.testmod(fusionkit.evaluation).failed == 0
