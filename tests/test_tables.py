"""Tables of scores: means on common pairs, tests, ranks, and files that state their rules."""

import math

import numpy as np
import pandas as pd
import pytest

from fusionkit import tables
from fusionkit.scoring import Scores

RULES = {
    "preset": "mine",
    "gray": "BT.601 & rounded",
    "quantisation": "8 bits",
    "saving": "100 % as found",
    "source": "a program",
    "note": "",
}
ABOUT = {
    "EN": {"code": "en", "higher_is_better": True, "unit": "bit", "variant": "256 bins"},
    "NABF": {"code": "nabf_swapped", "higher_is_better": False, "unit": "", "variant": None},
}


def made(values, lost=(), methods=None):
    """Scores from method -> pair -> (EN, NABF); ``lost`` are further rows."""
    rows = [
        {"method": m, "name": n, "EN": en, "NABF": nabf, "outcome": "scored", "remark": ""}
        for m, pairs in values.items()
        for n, (en, nabf) in pairs.items()
    ]
    rows += [
        {"method": m, "name": n, "EN": math.nan, "NABF": math.nan, "outcome": o, "remark": "why"}
        for m, n, o in lost
    ]
    return Scores(
        rows=pd.DataFrame(rows),
        metrics=ABOUT,
        rules=RULES,
        methods=methods or list(values),
        pairs=4,
        kinds={"8-bit grey PNG": len(rows)},
    )


@pytest.fixture
def three():
    """``good`` beats ``fair`` beats ``poor`` on each of ten pairs, in both directions."""
    pairs = [f"{k}" for k in range(10)]
    level = {"good": 0.0, "fair": 1.0, "poor": 2.0}
    return made(
        {m: {p: (7 - d + 0.01 * k, 0.1 * d + 0.2) for k, p in enumerate(pairs)}
         for m, d in level.items()}
    )  # fmt: skip


def test_the_summary_has_mean_interval_count_rank_and_rules(three):
    table = tables.summary(three).set_index(["method", "metric"])
    found = table.loc["good", "EN"]
    assert found["mean"] == pytest.approx(7.045)
    assert 7.02 < found["low"] < found["mean"] < found["high"] < 7.07
    assert (found["n"], found["rank"], found["mean_rank"]) == (10, 1, 1)
    assert table.loc["poor", "NABF"]["rank"] == 3, "lower is better"
    assert {rule: found[rule] for rule in tables.RULES} == {r: RULES[r] for r in tables.RULES}


def test_means_are_over_the_pairs_that_all_methods_have():
    scores = made(
        {"a": {"1": (1, 0), "2": (2, 0), "3": (9, 0)}, "b": {"1": (3, 0), "2": (5, 0)}},
        [("b", "3", "unreadable"), ("a", "4", "no fused picture"), ("b", "4", "no fused picture")],
    )
    table = tables.summary(scores).set_index(["method", "metric"])
    a, b = table.loc["a", "EN"], table.loc["b", "EN"]
    assert (a["mean"], a["n"], a["left_out"], a["failed"], a["missing"]) == (1.5, 2, 1, 0, 1)
    assert (b["mean"], b["n"], b["left_out"], b["failed"], b["missing"]) == (4, 2, 0, 1, 1)
    said = "\n".join(tables.notes(scores))
    assert "pairs: 2 of 4, the same for every method" in said
    assert "unreadable: 3 of b (why)" in said and "no fused picture in a: 1 (4)" in said


def test_an_undefined_score_is_counted_and_in_no_mean():
    nan, inf = math.nan, math.inf
    scores = made(
        {"a": {"1": (nan, 1), "2": (2, 1), "3": (4, inf)}, "b": {k: (1, 1) for k in "123"}}
    )
    table = tables.summary(scores).set_index(["method", "metric"])
    assert table.loc["a", "EN"][["mean", "n", "undefined"]].tolist() == [3, 2, 1]
    assert table.loc["a", "NABF"][["mean", "n", "undefined"]].tolist() == [1, 2, 1]
    assert table.loc["b", "EN"]["n"] == 3, "another method's lack costs this one nothing"
    tests = tables.comparisons(scores).set_index("metric")
    assert tests.loc["EN", "n"] == 2
    assert tests.loc["EN", "difference"] == 2
    assert "EN is not finite for 1 of 3 pictures of a: not in its mean" in tables.notes(scores)


def test_a_score_that_is_undefined_everywhere_is_said_and_gives_no_rank():
    scores = made({"a": {k: (math.nan, 1) for k in "12"}, "b": {k: (1, 2) for k in "12"}})
    table = tables.summary(scores).set_index(["method", "metric"])
    assert np.isnan(table.loc["a", "EN"]["mean"]) and np.isnan(table.loc["a", "EN"]["rank"])
    assert tables.comparisons(scores).set_index("metric").loc["EN", "p"] != 0
    text = tables.markdown(scores)
    assert "undefined [no interval]" in text
    places = {line.split("|")[1].strip(): line.split("|")[-2].strip()
              for line in text.splitlines()[2:4]}  # fmt: skip
    assert places == {"a": "1.00", "b": "2.00"}, "ranks count metrics that all methods have"


def test_methods_are_compared_in_pairs_with_holms_correction(three):
    tests = tables.comparisons(three)
    assert len(tests) == 2 * 3
    first = tests.iloc[0]
    assert (first["first"], first["second"], first["n"], first["better"]) == (
        "good", "fair", 10, "good",
    )  # fmt: skip
    assert first["difference"] == pytest.approx(1)
    assert first["p"] == 2 / 2**10 and first["p_holm"] == pytest.approx(3 * 2 / 2**10)
    assert tests[tests["metric"] == "NABF"]["better"].tolist() == ["good", "good", "fair"]


def test_what_chance_may_do_is_called_no_difference():
    scores = made({"a": {"1": (1, 0), "2": (3, 0)}, "b": {"1": (2, 0), "2": (2, 0)}})
    tests = tables.comparisons(scores).set_index("metric")
    assert tests.loc["EN", "p_holm"] == 1 and tests.loc["EN", "better"] == ""
    assert tests.loc["NABF", "better"] == "", "equal scores are no difference"


def test_one_method_gets_a_row_per_metric_with_its_variant(three):
    one = made({"good": {"1": (7.12345, 0.00123), "2": (7.12345, 0.00123)}})
    assert "rank" not in tables.summary(one).columns
    lines = tables.markdown(one).splitlines()
    assert [c.strip() for c in lines[2].split("|")[1:-1]] == [
        "EN ↑", "7.1235", "[7.1235, 7.1235]", "2", "256 bins",
    ]  # fmt: skip
    assert "NABF ↓" in lines[3] and "0.00123" in lines[3] and "nabf_swapped" in lines[3]
    assert tables.comparisons(one).empty


def test_every_form_states_preset_grey_rule_quantisation_and_saving_rule(three, tmp_path):
    files = tables.write(three, tmp_path / "x.csv")
    assert sorted(f.name for f in files) == [
        "x.csv", "x.md", "x.summary.csv", "x.tests.csv", "x.tex",
    ]  # fmt: skip
    for file in files:
        text = file.read_text(encoding="utf-8")
        for rule in tables.RULES:
            value = RULES[rule]
            assert value in text or value.replace("&", r"\&").replace("%", r"\%") in text, file
    assert sorted(tmp_path.iterdir()) == sorted(files), "no draft is left"
    assert "variants: EN = en, NABF = nabf_swapped" in (tmp_path / "x.md").read_text()


def test_a_csv_reads_back_to_the_same_numbers(three, tmp_path):
    tables.write(three, tmp_path / "x.csv")
    back = pd.read_csv(tmp_path / "x.csv", dtype={"name": str}, keep_default_na=True)
    assert back["EN"].tolist() == three.rows["EN"].tolist()
    assert len(back) == 30 and set(back["outcome"]) == {"scored"}


def test_the_latex_table_marks_best_and_second_and_escapes_signs(three):
    text = tables.latex(three)
    assert r"\textbf{7.0450}" in text and r"\underline{6.0450}" in text
    assert r"NABF $\downarrow$" in text and r"nabf\_swapped" in text
    assert r"BT.601 \& rounded" in text and r"100 \% as found" in text
    body = [line for line in text.splitlines() if line.startswith("  ")]
    assert len(body) == 4 and {line.count(" & ") for line in body} == {3}
    assert all(line.startswith("%") for line in text.splitlines() if "Holm" in line)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (7.120417, "7.1204"),
        (46.00256, "46.003"),
        (339.1234, "339.12"),
        (12345.6, "12346"),
        (0.0765, "0.0765"),
        (0.00051234, "0.000512"),
        (-1.09444, "-1.0944"),
        (0.0, "0.0000"),
        (math.nan, "undefined"),
        (math.inf, "inf"),
    ],
)
def test_numbers_are_shown_with_five_digits(value, shown):
    assert tables.number(value) == shown
