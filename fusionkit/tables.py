"""Summaries of scores and the files they are written to: CSV, Markdown, LaTeX.

Every table carries the rules its numbers hold under: preset, grey rule, quantisation, saving rule.

Methods are compared on the pairs of which all of them have a scored picture. A mean is over those
where the score is finite, and ``n`` says how many; a score that is undefined for some picture of a
method is counted, never averaged and never replaced.
"""

import math
import os
import uuid
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from fusionkit.data import CannotWrite
from fusionkit.scoring import FAILED, MISSING, RULES, SCORED, Scores, reasons_missing
from fusionkit.statistics import holm, interval, paired_difference, ranks

LEVEL = 0.95
"""Share of the bootstrap means inside an interval; 1 minus it is the level of the tests."""

_NAMES_SHOWN = 12


def common(scores: Scores) -> pd.DataFrame:
    """The scored rows of the pairs that every method has a scored picture of."""
    rows = scores.scored
    count = rows.groupby("name")["method"].nunique()
    return rows[rows["name"].map(count) == len(scores.methods)]


def summary(scores: Scores, *, seed: int = 0) -> pd.DataFrame:
    """One row per method and metric.

    Columns: ``method``, ``metric``, ``code``, ``higher_is_better``, ``unit``; ``mean`` with its
    95 % percentile-bootstrap interval ``low``, ``high``; ``n`` pictures in it; ``undefined``, those
    whose score is not finite; ``left_out``, pictures of pairs that another method lacks;
    ``failed``, those that could not be scored; ``missing``, pairs without picture; ``rank`` of the
    mean, 1 the best; ``mean_rank`` over pictures, where several methods are compared; and the
    rules of the table.
    """
    return _summary(scores, seed).copy()


@lru_cache(maxsize=4)
def _summary(scores: Scores, seed: int) -> pd.DataFrame:
    rows, found = common(scores), []
    per_method = {method: rows[rows["method"] == method] for method in scores.methods}
    for metric, about in scores.metrics.items():
        up = about["higher_is_better"]
        wide = _wide(rows, metric, scores.methods)
        intervals = {m: interval(wide[m].to_numpy(), level=LEVEL, seed=seed) for m in wide}
        by_mean = ranks([[i.mean for i in intervals.values()]], higher_is_better=up)[0]
        by_picture = ranks(wide.to_numpy(), higher_is_better=up)
        for k, (method, i) in enumerate(intervals.items()):
            own = scores.rows[scores.rows["method"] == method]["outcome"]
            placed = by_picture[:, k][np.isfinite(by_picture[:, k])]
            found.append(
                {
                    "method": method,
                    "metric": metric,
                    "code": about["code"],
                    "higher_is_better": up,
                    "unit": about["unit"] or "",
                    "mean": i.mean,
                    "low": i.low,
                    "high": i.high,
                    "n": i.n,
                    "undefined": i.undefined,
                    "left_out": int((own == SCORED).sum()) - len(per_method[method]),
                    "failed": int(own.isin(FAILED).sum()),
                    "missing": int((own == MISSING).sum()),
                    "rank": by_mean[k],
                    "mean_rank": placed.mean() if len(placed) else math.nan,
                }
            )
    table = pd.DataFrame(found)
    if len(scores.methods) == 1:
        table = table.drop(columns=["rank", "mean_rank"])
    return _ruled(table, scores)


def comparisons(scores: Scores, *, seed: int = 0) -> pd.DataFrame:
    """One row per metric and two methods: do they differ on the same pictures?

    Columns: ``metric``, ``first``, ``second``; ``difference``, the mean of first minus second, with
    its 95 % bootstrap interval ``low``, ``high``; ``n`` pairs of pictures; ``p`` of the two-sided
    sign-flip permutation test of :func:`~fusionkit.statistics.paired_difference`; ``p_holm``, p
    after Holm's correction for the comparisons of this metric; ``better``, the better method where
    that is below 0.05, else empty; and the rules.
    """
    return _comparisons(scores, seed).copy()


@lru_cache(maxsize=4)  # many methods take a while, and every form of the table asks
def _comparisons(scores: Scores, seed: int) -> pd.DataFrame:
    rows, found = common(scores), []
    for metric, about in scores.metrics.items():
        wide = _wide(rows, metric, scores.methods)
        pairs = list(combinations(scores.methods, 2))
        tests = [paired_difference(wide[a], wide[b], level=LEVEL, seed=seed) for a, b in pairs]
        corrected = holm([test.p for test in tests])
        for (a, b), test, p in zip(pairs, tests, corrected, strict=True):
            ahead = a if (test.mean > 0) == about["higher_is_better"] else b
            found.append(
                {
                    "metric": metric,
                    "first": a,
                    "second": b,
                    "difference": test.mean,
                    "low": test.interval.low,
                    "high": test.interval.high,
                    "n": test.interval.n,
                    "p": test.p,
                    "p_holm": p,
                    "better": ahead if p < 1 - LEVEL else "",
                }
            )
    columns = ["metric", "first", "second", "difference", "low", "high", "n", "p", "p_holm"]
    return _ruled(pd.DataFrame(found, columns=[*columns, "better"]), scores)


def pictures(scores: Scores) -> pd.DataFrame:
    """One row per picture, those without score included, with the rules."""
    return _ruled(scores.rows, scores)


def notes(scores: Scores) -> list[str]:
    """What must stand below a table: the rules, the statistics, and what is not in the means."""
    rules = scores.rules
    variants = ", ".join(
        f"{name} = {about['code']}" if name != about["code"] else name
        for name, about in scores.metrics.items()
    )
    lines = [
        f"preset: {rules['preset']}" + (f" ({rules['source']})" if rules.get("source") else ""),
        f"variants: {variants}",
        f"gray: {rules['gray']}",
        f"quantisation: {rules['quantisation']}",
        f"saving: {rules['saving']}",
    ]
    if rules.get("note"):
        lines.append(f"note: {rules['note']}")
    found = ", ".join(f"{count} {kind}" for kind, count in scores.kinds.items())
    used = common(scores)["name"].nunique()
    several = len(scores.methods) > 1
    pairs = f"pairs: {used} of {scores.pairs}" + (", the same for every method" if several else "")
    lines.append(f"{pairs}; fused files: {found or 'none could be read'}")
    lines.append("mean with its 95 % percentile-bootstrap interval over pictures (2,000 resamples)")
    if several:
        lines.append(
            "methods are compared by a two-sided sign-flip permutation test of the mean paired "
            f"difference on up to {used} pairs of pictures, with Holm's correction for the number "
            f"of comparisons of a metric ({math.comb(len(scores.methods), 2)})"
        )
        lines.append(
            "mean rank: place among the methods (1 the best) for one picture and one metric, mean "
            "over pictures, then over the metrics that are defined for all methods"
        )
    for metric in scores.metrics:
        for method in scores.methods:
            rows = common(scores)
            values = rows.loc[rows["method"] == method, metric]
            if lost := int((~np.isfinite(values.to_numpy(dtype=float))).sum()):
                lines.append(
                    f"{metric} is not finite for {lost} of {len(values)} pictures of {method}: "
                    "not in its mean"
                )
    lines += [f"unavailable: {line}" for line in reasons_missing(scores.unavailable)]
    return lines + remarks(scores)


def remarks(scores: Scores) -> list[str]:
    """Pictures that are not in the means or that are peculiar, listed by what happened."""
    lines = []
    for (method, outcome), rows in scores.unmatched.groupby(["method", "outcome"], sort=False):
        where = f" in {method}" if method else ""
        lines.append(f"{outcome}{where}: {_listed(rows['name'])}")
    for row in scores.failed.itertuples():
        lines.append(f"{row.outcome}: {row.name} of {row.method} ({row.remark})")
    scored = scores.scored
    for remark, rows in scored[scored["remark"] != ""].groupby("remark", sort=False):
        names = (
            [f"{m}/{n}" for m, n in zip(rows["method"], rows["name"], strict=True)]
            if len(scores.methods) > 1
            else rows["name"]
        )
        lines.append(f"{remark}: {_listed(names)}")
    return lines


def unusual(scores: Scores, count: int = 4) -> list[str]:
    """Names of the pairs whose scores lie furthest from the mean: where failures are found.

    The distance is in standard deviations of a metric over all methods, mean over metrics.
    """
    rows = common(scores)
    values = rows[list(scores.metrics)].replace([np.inf, -np.inf], np.nan)
    distance = ((values - values.mean()) / values.std().replace(0, np.nan)).abs().mean(axis=1)
    by_pair = distance.groupby(rows["name"]).mean().sort_values(ascending=False, kind="stable")
    return list(by_pair.index[:count])


def markdown(scores: Scores) -> str:
    """The summary as Markdown: bold the best mean, in italics the second, the rules below.

    With one method a row per metric, with several a row per method and the tests in a second table.
    """
    table = summary(scores)
    if len(scores.methods) == 1:
        heads = ["metric", "mean", "95 % interval", "n", "variant"]
        cells = [
            [
                f"{row.metric} {_arrow(row)}",
                number(row.mean),
                _range(row),
                str(row.n),
                str(scores.metrics[row.metric]["variant"] or row.code),
            ]
            for row in table.itertuples()
        ]
        text = _grid(heads, cells)
    else:
        text = _grid(*_by_method(scores, table, ("**{}**", "*{}*"), "{} [{}]"))
        tests = comparisons(scores)
        heads = ["metric", "first", "second", "first - second", "95 % interval", "n", "p (Holm)"]
        cells = [
            [
                row.metric,
                f"**{row.first}**" if row.better == row.first else row.first,
                f"**{row.second}**" if row.better == row.second else row.second,
                number(row.difference),
                _range(row),
                str(row.n),
                _p(row.p_holm),
            ]
            for row in tests.itertuples()
        ]
        text += "\nBold: the better of the two at p < 0.05.\n\n" + _grid(heads, cells)
    return text + "\n" + "".join(f"- {line}\n" for line in notes(scores))


def latex(scores: Scores) -> str:
    """The summary as a LaTeX table for the ``booktabs`` package: bold best, underlined second."""
    table = summary(scores)
    heads, cells = _by_method(
        scores,
        table,
        (r"\textbf{{{}}}", r"\underline{{{}}}"),
        "{}",
        arrows=("$\\uparrow$", "$\\downarrow$"),
        escape=True,
    )
    used = common(scores)["name"].nunique()
    rules = "; ".join(f"{rule}: {scores.rules[rule]}" for rule in RULES)
    variants = ", ".join(f"{name} = {about['code']}" for name, about in scores.metrics.items())
    caption = _tex(f"Means over {used} pairs. {rules}; variants: {variants}.")
    comments = "".join(f"% {line}\n" for line in notes(scores))
    body = "".join("  " + " & ".join(row) + r" \\" + "\n" for row in cells)
    return (
        f"% needs \\usepackage{{booktabs}}\n{comments}"
        "\\begin{table}\n\\centering\n"
        f"\\caption{{{caption}}}\n"
        f"\\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}\n\\toprule\n"
        f"  {' & '.join(heads)} \\\\\n\\midrule\n{body}\\bottomrule\n"
        "\\end{tabular}\n\\end{table}\n"
    )


def write(scores: Scores, table: str | os.PathLike) -> list[Path]:
    """Write everything, each file whole or not at all.

    Args:
        table: ``x.csv``, the scores of every picture. Beside it come ``x.summary.csv``,
            ``x.tests.csv`` (several methods), ``x.md`` and ``x.tex``.

    Returns:
        The files written.

    Raises:
        CannotWrite: permission, full disk.
    """
    path = Path(table)
    files = {
        path: _csv(pictures(scores)),
        path.with_suffix(".summary.csv"): _csv(summary(scores)),
        path.with_suffix(".md"): markdown(scores),
        path.with_suffix(".tex"): latex(scores),
    }
    if len(scores.methods) > 1:
        files[path.with_suffix(".tests.csv")] = _csv(comparisons(scores))
    for file, text in files.items():
        draft = file.with_name(f".{file.name}.{uuid.uuid4().hex}.tmp")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                draft.write_text(text, encoding="utf-8", newline="\n")
                os.replace(draft, file)
            finally:
                draft.unlink(missing_ok=True)
        except OSError as error:
            raise CannotWrite(f"cannot write {file} ({error.strerror or error}).") from error
    return list(files)


def number(value: float) -> str:
    """Five significant digits, four decimals at most, three digits where it is tiny."""
    if not math.isfinite(value):
        return "undefined" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    size = abs(value)
    if 0 < size < 0.01:
        return f"{value:.3g}"
    return f"{value:.{max(0, 4 - (int(math.log10(size)) if size >= 1 else 0))}f}"


# --- pieces --------------------------------------------------------------------------------------


def _wide(rows: pd.DataFrame, metric: str, methods: Sequence[str]) -> pd.DataFrame:
    """One row per pair, one column per method."""
    return rows.pivot(index="name", columns="method", values=metric).reindex(columns=methods)


def _ruled(table: pd.DataFrame, scores: Scores) -> pd.DataFrame:
    """The table with the rules as columns: a CSV file has no other place that readers keep."""
    return table.assign(**{rule: scores.rules[rule] for rule in RULES})


def _csv(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, na_rep="NaN", lineterminator="\n")


def _listed(names: Sequence[str] | pd.Series) -> str:
    names = list(names)
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"{len(names)} ({', '.join(map(str, names[:_NAMES_SHOWN]))}{more})"


def _by_method(
    scores: Scores,
    table: pd.DataFrame,
    marks: tuple[str, str],
    cell: str,
    arrows: tuple[str, str] = ("↑", "↓"),
    escape: bool = False,
) -> tuple[list[str], list[list[str]]]:
    """Heads and cells with a row per method; ``marks`` dress the best and the second mean."""
    say = _tex if escape else str
    several = len(scores.methods) > 1
    everywhere = table.groupby("metric")["n"].transform("min") > 0
    heads = ["method"]
    heads += [
        f"{say(name)} {arrows[0] if about['higher_is_better'] else arrows[1]}"
        for name, about in scores.metrics.items()
    ]
    cells = []
    for method in scores.methods:
        own = table[table["method"] == method]
        line = [say(method)]
        for row in own.itertuples():
            mean = number(row.mean)
            if several and row.rank in (1, 2):
                mean = marks[int(row.rank) - 1].format(mean)
            line.append(cell.format(mean, _range(row, bare=True)))
        if several:
            line.append(f"{own.loc[everywhere, 'mean_rank'].mean():.2f}")
        cells.append(line)
    return heads + (["mean rank"] if several else []), cells


def _arrow(row: tuple) -> str:
    return "↑" if row.higher_is_better else "↓"


def _range(row: tuple, bare: bool = False) -> str:
    if math.isnan(row.low):
        return "no interval"
    text = f"{number(row.low)}, {number(row.high)}"
    return text if bare else f"[{text}]"


def _p(value: float) -> str:
    return "undefined" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _grid(heads: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns also line up as plain text."""
    lines = [[c.replace("|", "\\|") for c in line] for line in (heads, *cells)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "".join(
        f"| {' | '.join(c.ljust(w) for c, w in zip(line, widths, strict=True))} |\n"
        for line in lines
    )


def _tex(text: str) -> str:
    for sign in "\\&%$#_{}":
        text = text.replace(sign, r"\textbackslash " if sign == "\\" else f"\\{sign}")
    return text
