"""`fusionkit`: thin words over the modules that do the work.

Exit status: 0 done, 1 the work failed, 2 the request was wrong, 130 interrupted. A wrong request
is answered by one short message on stderr. Nothing heavy is imported before a command needs it.
"""

import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

import click

from fusionkit.errors import BadRequest, FusionkitError, did_you_mean

WRONG_PATHS = (FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError)


class _Commands(click.Group):
    """Answers a mistyped command with the nearest one, on every version of click."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            known = self.list_commands(ctx)
            ctx.fail(
                f"there is no command {args[0]!r}.{did_you_mean(args[0], known)} "
                f"Commands: {', '.join(known)}."
            )
        return super().resolve_command(ctx, args)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fusionkit", message="%(package)s %(version)s")
def commands() -> None:
    """Fuse infrared and visible photographs, steered by text, and measure what the text did."""


def main(args: Sequence[str] | None = None) -> NoReturn:
    """The console script: run a command and leave with its exit status."""
    with warnings.catch_warnings():
        warnings.showwarning = partial(_remark, warnings.showwarning)
        sys.exit(_run(args))


def _remark(show: Callable[..., None], message: Warning, *where: Any, **more: Any) -> None:
    """A warning for the user without the line of our source that gave it."""
    if type(message) is UserWarning:
        click.echo(f"fusionkit: note: {message}", err=True)
    else:
        show(message, *where, **more)


def _run(args: Sequence[str] | None) -> int:
    try:
        status = commands.main(args, prog_name="fusionkit", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "fusionkit"
        return _refuse(f"{error.format_message()} See `{path} --help`.", 2)
    except click.ClickException as error:
        return _refuse(error.format_message(), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return _refuse("interrupted.", 130)
    except FusionkitError as error:
        if os.environ.get("FUSIONKIT_RAISE", "") not in ("", "0"):
            raise
        return _refuse(str(error), error.status)
    except WRONG_PATHS as error:
        return _refuse(_path_message(error), 2)
    except OSError as error:
        return _refuse(str(error), 1)


def _refuse(message: str, status: int) -> int:
    click.echo(f"fusionkit: {message}", err=True)
    return status


def _path_message(error: OSError) -> str:
    """What the system says about a path, in the order people say it."""
    if error.filename is None or error.strerror is None:
        return str(error)
    return f"{error.filename}: {error.strerror.lower()}."


def _given(**options: Any) -> dict[str, Any]:
    """Only what the user said; everything else keeps the default of the function called."""
    return {name: value for name, value in options.items() if value is not None}


@commands.command()
@click.option("--kind", metavar="KIND", help="Only this kind: encoder, modulation, loss, ...")
@click.option("--json", "as_json", is_flag=True, help="Everything known, tracebacks included.")
def plugins(kind: str | None, as_json: bool) -> None:
    """List every component on offer, and what is wrong with plugins that do not work.

    FUSIONKIT_PLUGINS=a,b loads only those, FUSIONKIT_BLOCK=a leaves those out.
    """
    from fusionkit.registry import Registry, check_kind

    if kind is not None:
        check_kind(kind)
    rows = Registry.from_environment().describe()
    if kind is not None:
        rows = [r for r in rows if r["kind"] == kind or (r["kind"] == "plugin" and _faulty(r))]
    if as_json:
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    components = [r for r in rows if r["kind"] != "plugin"]
    owners = [r for r in rows if r["kind"] == "plugin"]
    click.echo(_table(("kind", "name", "plugin", "version", "needs", "paper"), components))
    if kind is None:
        cost = [r | {"seconds": f"{r['seconds']:.2f} s"} for r in owners]
        click.echo()
        click.echo(_table(("plugin", "distribution", "version", "status", "seconds"), cost))
    for row in owners:
        if _faulty(row):
            click.echo(f"\n{row['name']}, {row['status']}: {row['error']}")
        for remark in row["warnings"]:
            click.echo(f"\n{row['name']}: {remark}")
    for message in dict.fromkeys(r["error"] for r in components if r["status"] == "conflict"):
        click.echo(f"\n{message}")


@commands.command()
@click.argument("ir", type=click.Path(exists=True))
@click.argument("vi", type=click.Path(exists=True))
@click.option("-o", "--output", required=True, type=click.Path(), help="File or folder to write.")
@click.option("--recipe", metavar="NAME", help="Method to fuse with; see `fusionkit plugins`.")
@click.option("--text", metavar="TEXT", help="What the result should show or look like.")
@click.option(
    "--text-features", type=click.Path(exists=True, dir_okay=False),
    help="The text as numbers made elsewhere, in place of --text: .npz or .pt with `pooled`.",
)  # fmt: skip
@click.option("--checkpoint", type=click.Path(exists=True, dir_okay=False), help="Trained weights.")
@click.option("--device", help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--set", "assignments", multiple=True, metavar="PATH=VALUE",
    help="Override one value of the recipe, as in refine_options.max_steps=100; repeat for more.",
)  # fmt: skip
def fuse(ir: str, vi: str, output: str, assignments: tuple[str, ...], **options: Any) -> None:
    """Fuse the infrared picture IR with the visible picture VI; two folders fuse pair by pair.

    Any size; the colour of VI is kept. Without --recipe and --checkpoint the default method and the
    weights in the package do it, offline.
    """
    from fusionkit.fusing import fuse_files

    options["overrides"] = dict(_assignment(text) for text in assignments) or None
    say = partial(click.echo, err=True)
    fuse_files(ir, vi, output, progress=click.echo, say=say, **_given(**options))


@commands.command()
@click.option("--ir", required=True, type=click.Path(exists=True), help="Infrared sources.")
@click.option("--vi", required=True, type=click.Path(exists=True), help="Visible sources.")
@click.option(
    "--fused", required=True, multiple=True, metavar="[NAME=]DIR",
    help="Fused pictures of one method; repeat for several methods side by side.",
)  # fmt: skip
@click.option(
    "--metrics", metavar="EN,SD,...", help="Which scores; all of the variant if left out."
)
@click.option(
    "--variant", metavar="NAME",
    help="Whose table: standard, cddfuse, vifb ...; see `fusionkit plugins --kind preset`.",
)  # fmt: skip
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False),
    help="CSV file for the scores of every picture; summaries are written beside it.",
)  # fmt: skip
@click.option(
    "--with", "extra", multiple=True, metavar="NAME=VALUE",
    help="What some scores need besides three pictures: mask=DIR, reference=DIR, text=DIR ...",
)  # fmt: skip
@click.option("--device", help="auto, cpu, cuda or cuda:N.")
@click.option("--resume/--no-resume", default=None, help="Take over rows that were kept before.")
def evaluate(
    ir: str,
    vi: str,
    fused: tuple[str, ...],
    metrics: str | None,
    output: str | None,
    extra: tuple[str, ...],
    **options: Any,
) -> int:
    """Score folders of fused pictures, from any program, against their sources.

    Pictures are matched by name. With -o, a run that was stopped continues. The exit status is 1
    when a picture could not be read or has another size than its sources; the table has the rest.
    """
    folders = _named_folders(fused)
    given = dict(_assignment(text, "--with") for text in extra)
    names = None if metrics is None else [m.strip() for m in metrics.split(",") if m.strip()]
    from fusionkit import scoring, tables

    scores = scoring.evaluate_folders(
        ir, vi, folders, names, table=output, context=given,
        say=partial(click.echo, err=True), **_given(**options),
    )  # fmt: skip
    click.echo(tables.markdown(scores), nl=False)
    if output is not None:
        click.echo(f"\n{output}")
    if failed := len(scores.failed):
        click.echo(f"fusionkit: {failed} pictures could not be scored, see above.", err=True)
    return 1 if failed else 0


@commands.command()
@click.argument("recipe")
@click.option("--dataset", metavar="NAME", help="Pairs to train on; see `fusionkit plugins`.")
@click.option("--data-root", type=click.Path(), help="Folder of the data set.")
@click.option("--steps", type=click.IntRange(min=1), help="Optimisation steps.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Samples per step.")
@click.option(
    "--image-size",
    type=click.IntRange(min=16),
    help="Side of generated pairs, shorter side of photographs.",
)
@click.option("--seed", type=click.IntRange(min=0), help="Start of every random draw.")
@click.option("--device", help="auto, cpu, cuda or cuda:N.")
@click.option("--devices", type=click.IntRange(min=1), help="Processes that share every step.")
@click.option("--precision", help="auto, float32 or bfloat16.")
@click.option("--store", type=click.Path(), help="Where the run is written.")
@click.option("--resume/--no-resume", default=None, help="Go on from the last checkpoint.")
@click.option("--encoder", metavar="NAME", help="In place of the recipe's encoder.")
@click.option("--modulation", metavar="NAME", help="In place of the recipe's modulation.")
@click.option("--network", metavar="NAME", help="In place of the recipe's network.")
@click.option(
    "--set", "assignments", multiple=True, metavar="PATH=VALUE",
    help="Override one value of the recipe, as in weights.text=0.5; repeat for more.",
)  # fmt: skip
def train(recipe: str, assignments: tuple[str, ...], **options: Any) -> None:
    """Train RECIPE, measure what the text does, and keep weights and results.

    Data-parallel, on one machine or several: torchrun --nproc-per-node N -m fusionkit train RECIPE.
    """
    overrides = dict(_assignment(text) for text in assignments)
    from fusionkit.training import train_from_options

    train_from_options(recipe, overrides=overrides, **_given(**options))


@commands.command()
@click.argument("notebook", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "-p", "assignments", multiple=True, metavar="NAME=V1,V2,...",
    help="Values of a parameter; with several -p every combination is run.",
)  # fmt: skip
@click.option(
    "--table", type=click.Path(exists=True, dir_okay=False),
    help="CSV file (or JSON list) with the parameters of a run in each row.",
)  # fmt: skip
@click.option("--scheduler", metavar="ADDRESS", help="A Dask scheduler, or its scheduler file.")
@click.option("--workers", type=click.IntRange(min=1), help="Start so many processes here.")
@click.option("--retries", type=click.IntRange(min=0), help="How often a failed run is repeated.")
@click.option("--resume/--no-resume", default=None, help="Leave out what is complete.")
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False), help="Folder.")
def sweep(
    notebook: str, assignments: tuple[str, ...], table: str | None, output: str, **options: Any
) -> int:
    """Run NOTEBOOK once for every combination of parameters, and bring the results together.

    One after the other in kernels of their own, or on Dask workers. The folder keeps executed
    notebooks, stores, results.csv, significance.csv and index.html; the same command continues.
    The exit status is 1 when a run failed.
    """
    from fusionkit import sweep as work

    parameters: dict[str, Any] = {}
    for text in assignments:
        name, equals, values = text.partition("=")
        if not equals or not name.strip():
            raise BadRequest(f"-p takes NAME=V1,V2,..., got {text!r}.", asked=text)
        if name.strip() in parameters:
            raise BadRequest(f"-p {name.strip()} is given twice; put its values between commas.")
        parameters[name.strip()] = work.values_of(values)
    rows = [{}] if table is None else work.read_rows(table)
    found = work.sweep(
        notebook, work.grid(parameters, rows), output, say=click.echo, **_given(**options)
    )
    return 0 if (found["status"] == "complete").all() else 1


@commands.command()
@click.argument("guide")
@click.option("-o", "--output", required=True, type=click.Path(), help="Folder for the maps.")
@click.option("--text", "prompts", multiple=True, required=True, help="A prompt; repeat for more.")
@click.option("--dataset", metavar="NAME", help="Pairs to draw over; see `fusionkit plugins`.")
@click.option("--data-root", type=click.Path(), help="Folder of the data set.")
@click.option("--split", help="train (the default), test, validation or all.")
@click.option("--count", type=click.IntRange(min=1), help="At most so many pairs.")
@click.option("--image-size", type=click.IntRange(min=16), help="As in training.")
@click.option("--encoder", metavar="NAME", help="For a guide that is drawn by one.")
@click.option("--device", help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--set", "assignments", multiple=True, metavar="NAME=VALUE",
    help="An option of the guide, as in threshold=0.4; repeat for more.",
)  # fmt: skip
def guides(guide: str, assignments: tuple[str, ...], **options: Any) -> None:
    """Draw the maps of GUIDE for a data set once; training reads them with guide stored-maps."""
    from fusionkit.guides import draw_maps

    def progress(done: int, count: int) -> None:
        if done == count or done % max(1, count // 20) == 0:
            click.echo(f"{done} of {count} pairs", err=True)

    given = dict(_assignment(text) for text in assignments)
    folder = draw_maps(guide, options=given, progress=progress, **_given(**options))
    click.echo(f"{folder.root}: {', '.join(folder.maps)}")


@commands.command()
@click.option("--json", "as_json", is_flag=True, help="The same facts for a program.")
@click.option("--download", metavar="NAME", help="Fetch this one from its public address.")
@click.option("--to", type=click.Path(file_okay=False), help="The folder it is put under.")
@click.option(
    "--check", "checked", metavar="NAME|FOLDER",
    help="Read every picture of a data set or folder, and say what is wrong.",
)  # fmt: skip
@click.option("--data-root", type=click.Path(), help="Folder of the data set to check.")
@click.option(
    "--texts", metavar="LAYOUT[:SET]",
    help="With --check FOLDER: the texts too, laid out as folder, ivt or vlf.",
)  # fmt: skip
def datasets(
    as_json: bool,
    download: str | None,
    to: str | None,
    checked: str | None,
    data_root: str | None,
    texts: str | None,
) -> int:
    """List the known data sets: what is expected where, licence, source, and whether it is there.

    The exit status of --check is 1 where something is wrong.
    """
    from fusionkit import catalogue
    from fusionkit.registry import Registry

    if download is not None and checked is not None:
        raise BadRequest("--download and --check are two requests: give one of them.")
    if texts is not None and (checked is None or not os.path.isdir(checked)):
        raise BadRequest("--texts goes with --check FOLDER.")
    registry = Registry.from_environment()
    if download is not None:
        say = partial(click.echo, err=True)
        click.echo(catalogue.download(download, registry, to, say=say))
        return 0
    if checked is not None:
        if texts is None:
            problems = catalogue.report(checked, registry, data_root)
        else:
            from fusionkit import annotating

            layout, _, name = texts.partition(":")
            problems = annotating.check(checked, layout, set=name or "own")
        rows = [{"kind": p.kind, "name": p.name, "message": p.message} for p in problems]
        click.echo(json.dumps(rows, indent=2) if as_json else "\n".join(map(str, problems)))
        click.echo(f"fusionkit: {len(problems)} problems in {checked}.", err=True)
        return 1 if problems else 0
    rows = catalogue.describe(registry)
    click.echo(json.dumps(rows, indent=2) if as_json else catalogue.outline(rows))
    return 0


@commands.command()
@click.argument("name")
@click.option("--kind", required=True, metavar="KIND", help="encoder, modulation, loss, ...")
@click.option("--folder", default=".", type=click.Path(), help="Where the package is made.")
def new(name: str, kind: str, folder: str) -> None:
    """Write the package of a new component NAME: it installs, is found and passes its tests."""
    from fusionkit.scaffold import new as write

    home = write(name, kind, folder)
    plugin = home.name.removeprefix("fusionkit-")
    click.echo(f"{home}")
    click.echo(f"next: pip install -e {home} && fusionkit check {plugin}")


@commands.command()
@click.argument("plugin")
def check(plugin: str) -> int:
    """Run the contract of every component that PLUGIN offers."""
    try:
        import pytest  # noqa: F401
    except ModuleNotFoundError:
        raise BadRequest("`fusionkit check` needs pytest: pip install pytest.") from None
    from fusionkit.testing.check import check as passes

    return 0 if passes(plugin) else 1


@commands.command()
@click.argument("store")
@click.option("--json", "as_json", is_flag=True, help="The same facts for a program.")
def info(store: str, as_json: bool) -> None:
    """Say what the stored run STORE contains, how far it got, and how to repeat it."""
    from fusionkit.store import run_info

    facts = run_info(store)
    click.echo(json.dumps(facts, indent=2, default=str) if as_json else _outline(facts))


@commands.command()
@click.argument("captioner")
@click.option("-o", "--output", required=True, type=click.Path(), help="Folder of the layout.")
@click.option("--dataset", default="folder", metavar="NAME", help="Pairs to describe.")
@click.option("--data-root", type=click.Path(), help="Folder of the data set.")
@click.option("--split", default="all", help="all (the default), train, test ...")
@click.option("--count", type=click.IntRange(min=1), help="At most so many pairs.")
@click.option("--layout", help="folder (the default), ivt or vlf.")
@click.option("--name", "set_name", help="What vlf calls the set; own by default.")
@click.option("--pictures", is_flag=True, help="Write the pictures too: a whole data set.")
@click.option(
    "--set", "assignments", multiple=True, metavar="NAME=VALUE",
    help="An option of the captioner; repeat for more.",
)  # fmt: skip
def annotate(
    captioner: str,
    output: str,
    dataset: str,
    data_root: str | None,
    split: str,
    count: int | None,
    layout: str | None,
    set_name: str | None,
    pictures: bool,
    assignments: tuple[str, ...],
) -> None:
    """Describe the pairs of a data set with CAPTIONER and keep the texts as files.

    What is there stays, so the same command goes on after a stop.
    """
    from fusionkit import annotating
    from fusionkit.methods import create
    from fusionkit.registry import Registry

    registry = Registry.from_environment()
    options = dict(_assignment(text) for text in assignments)
    speaker = create(registry, "captioner", captioner, options, registry=registry)
    given = _given(root=data_root, split=split, count=count)
    pairs = registry.create("dataset", dataset, **given)

    def progress(done: int, of: int) -> None:
        if done == of or done % max(1, of // 20) == 0:
            click.echo(f"{done} of {of} pairs", err=True)

    chosen = _given(layout=layout, set=set_name)
    click.echo(
        annotating.annotate(
            speaker, pairs, output, pictures=pictures, progress=progress,
            split="test" if split == "test" else "train", **chosen,
        )
    )  # fmt: skip


@commands.command()
@click.argument("store")
@click.option(
    "-o", "--output", required=True, type=click.Path(dir_okay=False), help="The page to write."
)
@click.option(
    "--pairs", metavar="A,B,...",
    help="Whose pictures and maps are shown; `all` for every pair that kept any; else the first 6.",
)  # fmt: skip
@click.option("--channels", type=click.IntRange(min=1), help="Channels shown of each layer.")
@click.option("--side", type=click.IntRange(min=32), help="Largest side of a picture, in pixels.")
def report(store: str, output: str, pairs: str | None, **options: Any) -> None:
    """Write the stored run STORE as one self-contained page: pictures, maps, scores, curves.

    It needs no kernel and no network, and can be mailed.
    """
    from fusionkit.report import report as write

    chosen = None if pairs is None else [name.strip() for name in pairs.split(",") if name.strip()]
    page = write(
        store, output, pairs="all" if chosen == ["all"] else chosen,
        say=partial(click.echo, err=True), **_given(**options),
    )  # fmt: skip
    click.echo(f"{page}: {page.stat().st_size / 2**20:.1f} MB")


def _named_folders(given: Sequence[str]) -> dict[str, str] | list[str]:
    """``NAME=DIR`` or ``DIR`` each; a folder whose own name has a ``=`` is a folder."""
    named = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if equals and name and not os.path.exists(text):
            if name in named:
                raise BadRequest(f"two folders of fused pictures are called {name!r}.", asked=text)
            named[name] = folder
    if named and len(named) < len(given):
        raise BadRequest("--fused: give a name to every folder (NAME=DIR) or to none.")
    return named or list(given)


def _assignment(text: str, option: str = "--set") -> tuple[str, Any]:
    """``path=value``; the value is read as JSON, or taken as text where it is none."""
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        what = "PATH=VALUE" if option == "--set" else "NAME=VALUE"
        raise BadRequest(f"{option} takes {what}, got {text!r}.", asked=text)
    words = {"true": True, "True": True, "false": False, "False": False, "None": None}
    try:
        return path.strip(), words[value] if value in words else json.loads(value)
    except ValueError:
        return path.strip(), value


def _faulty(row: dict[str, Any]) -> bool:
    return row["status"] != "ok"


def _table(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    """Left-aligned columns; those that are empty in every row are left out."""
    columns = [c for c in columns if any(r[c] for r in rows)]
    cells = [list(columns), *([str(r[c]) for c in columns] for r in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


FIRST = ("path", "status", "notice", "command", "contents", "parameters")
"""What a reader of a run asks first; the rest follows in the order of the store."""


def _outline(facts: dict[str, Any], depth: int = 0) -> str:
    """Nested facts as indented lines, a group on one line where it fits."""
    lines = []
    for name in sorted(facts, key=lambda n: FIRST.index(n) if n in FIRST else len(FIRST)):
        value, start = facts[name], f"{'  ' * depth}{name}:"
        short = f"{start} {_short(value)}".rstrip()
        if isinstance(value, dict) and (len(short) > 100 or _is_deep(value)):
            lines += [start, _outline(value, depth + 1)]
        else:
            lines.append(short)
    return "\n".join(lines)


def _is_deep(value: dict[str, Any]) -> bool:
    return any(isinstance(inner, dict) and inner for inner in value.values())


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_short(inner)}".rstrip() for name, inner in value.items())
    if isinstance(value, (list, tuple)):
        head = " ".join(map(str, value[:6]))
        return head if len(value) <= 6 else f"{head} ... ({len(value)} in all)"
    return "none" if value is None else str(value)
