"""The first cell of a notebook: refuse what papermill would accept silently.

Papermill injects a misspelt parameter beside the right one, warns once and runs with the default.
:func:`begin` stands in the first cell after the parameters and stops such a run before any
library of weight is imported::

    from fusionkit import notebook

    p = notebook.begin("ablation")

From then on the notebook reads ``p.steps``, never ``steps``. The plain names keep what was typed
(``"0,1,2"``), ``p`` holds what was understood (``[0, 1, 2]``); a notebook does not use the name of
a parameter for anything else, so the cell may be run again at any time.

Which names were declared and which were given is read from IPython's record of executed cells:
papermill runs the parameters cell, then its own cell, which begins with ``# Parameters``. In
JupyterLab there is no second cell and nothing to compare. The schemas below are also what
``fusionkit sweep`` applies before it starts anything (:func:`check_values`, :func:`check_file`).

This module does not import torch. Component names are looked up in the registry, which does, and
only after everything else was found right.
"""

import ast
import json
import os
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from fusionkit.errors import BadRequest, FusionkitError, did_you_mean, nearest

HOME_CHECK = "FUSIONKIT_HOME_CHECK"
"""Environment variable: the package folder of the process that started the notebook."""


class BadParameters(BadRequest):
    """A parameter with an unknown name or an unfit value. Jupyter shows the message alone."""

    def _render_traceback_(self) -> list[str]:
        # IPython's hook. Papermill copies these lines into the message it ends with.
        return [f"{type(self).__name__}: {self}"]


# --- schemas ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Component:
    """Marks a field that names components of a kind."""

    kind: str


def _listed(value: Any) -> Any:
    """``"0,1,2"``, ``"film"``, ``0``, ``'["a", "b"]'`` -> a list. Other values pass."""
    if isinstance(value, str):
        if value.lstrip().startswith("["):
            return _json(value)
        return [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, (int, float)):
        return [value]
    return value


def _sentences(value: Any) -> Any:
    """One sentence -> a list of one; commas belong to the sentence. JSON lists are read."""
    if isinstance(value, str):
        return _json(value) if value.lstrip().startswith("[") else [value]
    return value


def _json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"is no valid JSON ({error})") from None


def _size(value: Any) -> Any:
    """``128``, ``"128"`` -> a side; ``"96x128"``, ``"96,128"``, ``[96, 128]`` -> a pair."""
    if isinstance(value, str):
        value = [part.strip() for part in re.split(r"[x,]", value.strip("()[] "))]
    if not isinstance(value, (list, tuple)):
        return value
    if len(value) not in (1, 2):
        raise ValueError("is neither one side nor height and width")
    return value[0] if len(value) == 1 else tuple(value)


def _severity(value: Any) -> Any:
    """``0.7``, ``"0.7"`` -> a number; ``"0.5,1"``, ``[0.5, 1]`` -> a range."""
    if isinstance(value, str):
        value = [part.strip() for part in value.strip("()[] ").split(",")]
    if not isinstance(value, (list, tuple)):
        return value
    if len(value) not in (1, 2):
        raise ValueError("is neither one severity nor the two ends of a range")
    return value[0] if len(value) == 1 else tuple(value)


def _folders(value: Any) -> Any:
    """``"a"``, ``"a,b"``, a list or a mapping of names to folders; JSON text is read."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        return _json(value)
    return [value] if isinstance(value, str) and os.path.exists(value) else _listed(value)


def _different(values: list) -> list:
    if twice := sorted({v for v in values if values.count(v) > 1}):
        raise ValueError(f"names {', '.join(map(str, twice))} more than once")
    return values


Many = Annotated[list[str], BeforeValidator(_listed), AfterValidator(_different)]
Seeds = Annotated[
    list[Annotated[int, Field(ge=0)]],
    BeforeValidator(_listed),
    AfterValidator(_different),
    Field(min_length=1),
]
Folders = Annotated[
    Annotated[dict[str, str], Field(min_length=1)] | Annotated[list[str], Field(min_length=1)],
    BeforeValidator(_folders),
]
Sentences = Annotated[list[str], BeforeValidator(_sentences)]
Options = Annotated[dict[str, Any], BeforeValidator(_json)]
Count = Annotated[int, Field(ge=1)]
Side = Annotated[int, Field(ge=16)]
Size = Annotated[Side | tuple[Side, Side], BeforeValidator(_size)]
Strength = Annotated[float, Field(gt=0, le=1)]
Severity = Annotated[Strength | tuple[Strength, Strength], BeforeValidator(_severity)]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")]
Precision = Literal["auto", "float32", "bfloat16"]


class Parameters(BaseModel):
    """Base of the schemas: nothing unknown, nothing changed afterwards.

    Every field has the default that the committed notebook shows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)


class DataParameters(Parameters):
    """Which pairs: shared by every notebook that reads a data set."""

    dataset: Annotated[str, Component("dataset")] = "scenes"
    data_root: str | None = None
    """Folder of the data set; None for generated ones and for the usual places."""
    prompts: Sentences | None = None
    """Sentences to fuse with; None takes those of the data set. One text is one sentence."""
    image_size: Size | None = 128
    """Pixels: the side of generated pairs and the shorter side of photographs, or height and
    width; None takes pictures as they are."""
    train_pairs: Count = 512
    test_pairs: Count = 200


class MachineParameters(Parameters):
    """Where to compute and where to write."""

    device: Device = "auto"
    precision: Precision = "auto"
    store: str | None = None
    """Path or URL of the run's store; None is a name under ``runs``."""
    resume: bool = True


class AblationParameters(DataParameters, MachineParameters):
    """``ablation.ipynb``: does the text, through this scheme, change the result?"""

    modulation: Annotated[str, Component("modulation")] = "film"
    baseline: Annotated[str, Component("modulation")] = "none"
    encoder: Annotated[str, Component("encoder")] = "tiny-clip"
    network: Annotated[str, Component("network")] = "compact"
    guides: Annotated[Many, Component("guide")] = []
    losses: Annotated[Many, Component("loss"), Field(min_length=1)] = [
        "pixel-l1",
        "gradient-l1",
        "region-l1",
    ]
    metrics: Annotated[Many, Component("metric")] = [
        "EN",
        "SD",
        "SF",
        "AG",
        "MI",
        "SSIM",
        "VIF",
        "Qabf",
        "SCD",
    ]
    recipe: Annotated[str, Component("recipe")] = "control"
    """Whose task, loss weights and training protocol are used."""
    steps: Count = 450
    batch_size: Count = 16
    seeds: Seeds = [0]
    questions: Count = 200
    """Held-out questions of each kind, highlight and repair."""
    shown: Count = 6
    """Held-out pairs whose pictures and maps are kept."""
    photographs: Annotated[str, Component("dataset")] | None = "roadscene"
    """Real pairs to ask a few questions about where the others are rendered, if they are at hand.
    """


class TrainParameters(DataParameters, MachineParameters):
    """``train.ipynb``: one recipe on one data set."""

    recipe: Annotated[str, Component("recipe")] = "control"
    overrides: Options = {}
    """Numbers of the recipe by dotted path, ``{"stages.0.steps": 50}``; JSON text is read."""
    checkpoint: str | None = None
    """A file to start from."""
    steps: Count | None = None
    """Optimiser steps of each stage; None is the recipe's number, but on a CPU a short one in the
    place of a protocol of thousands, see :func:`fusionkit.bench.bounded`."""
    batch_size: Count | None = None
    """Samples of a step; None likewise."""
    metrics: Annotated[Many, Component("metric")] = []
    """Scores of plain fusion; none named means the recipe's."""
    seeds: Seeds = [0]
    devices: Count = 1
    """Processes on this machine that share every step, each with a GPU of its own where there are
    GPUs; the result is that of one, within rounding."""
    questions: Count = 200
    shown: Count = 6


class InstructParameters(MachineParameters):
    """``instruct.ipynb``: one picture under one instruction, edit by edit."""

    recipe: Annotated[str, Component("recipe")] = "terf"
    text: str = (
        "keep the background as in the visible image, make the person on the left hotter "
        "and remove the noise"
    )
    overrides: Options = {}
    """Values of the recipe by dotted path, ``{"refine_options.max_steps": 100}``."""
    checkpoint: str | None = None
    """Weights; without, the recipe's reduced form is trained for ``steps`` steps."""
    dataset: Annotated[str, Component("dataset")] = "scenes"
    data_root: str | None = None
    picture: Annotated[int, Field(ge=0)] = 10
    """Which of the held-out pairs."""
    image_size: Size | None = 128
    train_pairs: Count = 48
    steps: Count = 200


class EvaluateParameters(Parameters):
    """``evaluate.ipynb``: score folders of fused pictures, from any program."""

    ir: str | None = None
    """Folder of the infrared sources; with none of the three folders an example is scored."""
    vi: str | None = None
    fused: Folders | None = None
    """A folder, several (methods side by side), or a mapping from names to folders."""
    metrics: Many = []
    """Names as the variant has them, or codes; none named means all of the variant's."""
    variant: Annotated[str, Component("preset")] = "standard"
    table: str | None = None
    """CSV file for the scores of every picture; None is a name under ``runs``."""
    context: Options = {}
    """What some metrics need besides three pictures: ``{"mask": "folder"}``."""
    device: Device = "auto"
    resume: bool = True


class CompareParameters(DataParameters, MachineParameters):
    """``compare.ipynb``: several methods on the same pairs."""

    recipes: Annotated[Many, Component("recipe"), Field(min_length=1)] = [
        "control",
        "occo-small",
        "terf-small",
    ]
    checkpoints: Annotated[dict[str, str], BeforeValidator(_json)] = {}
    """Weights by recipe; one without is trained here."""
    metrics: Annotated[Many, Component("metric"), Field(min_length=1)] = [
        "EN",
        "SD",
        "SF",
        "AG",
        "MI",
        "SSIM",
        "VIF",
        "Qabf",
        "SCD",
    ]
    overrides: Options = {}
    """Values of every recipe that is trained here, by dotted path."""
    steps: Count | None = 60
    """Optimiser steps of each stage of a training here; None as for :class:`TrainParameters`."""
    batch_size: Count | None = None
    seeds: Seeds = [0]
    train_pairs: Count = 128
    test_pairs: Count = 50
    questions: Count = 50
    shown: Count = 4
    store: str | None = None
    """Folder of the runs, one for each recipe; None is ``runs/compare``."""


class AdaptParameters(DataParameters, MachineParameters):
    """``adapt.ipynb``: the shipped method on one's own unlabelled pairs."""

    recipe: Annotated[str, Component("recipe")] = "words"
    """A recipe with weights (its own, or ``checkpoint``) and an encoder that can be adapted."""
    checkpoint: str | None = None
    overrides: Options = {"stages.0.learning_rate": 3e-4}
    """Values of the recipe by dotted path; a network that goes on wants a lower rate than one that
    begins."""
    encoder_steps: Count = 80
    """Steps of the encoder."""
    seconds: Annotated[float, Field(gt=0)] | None = None
    """The encoder's steps end after so much time, however many they were."""
    steps: Count | None = 150
    """Optimiser steps of the network, of each stage; None: the recipe's."""
    batch_size: Count | None = None
    metrics: Annotated[Many, Component("metric")] = ["EN", "SD", "SF", "SSIM"]
    image_size: Size | None = 256
    train_pairs: Count = 171
    test_pairs: Count = 50
    questions: Count = 50
    shown: Count = 4
    seed: Annotated[int, Field(ge=0)] = 0
    output: str | None = None
    """Folder of the adapted encoder and network; None is a name under ``runs``."""
    store: str | None = None
    """Path or URL of the network's run; None is in the folder."""

    @property
    def seeds(self) -> list[int]:
        """The one seed, as a bench takes them."""
        return [self.seed]


class InspectParameters(Parameters):
    """``inspect.ipynb``: look inside a stored run."""

    store: str = "newest"


class DegradeParameters(Parameters):
    """``degrade.ipynb``: which degradations there are, and a degraded training set."""

    degradations: Annotated[Many, Component("degradation")] = []
    """Names, or several joined by ``+`` (``haze+ir-noise``); none named means every one."""
    severity: Severity = (0.5, 1.0)
    """Of the written set: one number, or the range it is drawn from for each sample."""
    dataset: Annotated[str, Component("dataset")] = "scenes"
    data_root: str | None = None
    split: Literal["train", "test"] = "train"
    pairs: Count = 4
    image_size: Size | None = 128
    depth: str = "scene"
    """``scene``: what the pairs have; ``guess``: from height and brightness; or a depth model."""
    layout: Literal["ems", "ddl"] = "ems"
    output: str | None = None
    """Folder of the set; None is a name under ``runs``."""
    seed: Annotated[int, Field(ge=0)] = 0
    device: Device = "auto"
    """Where a depth model computes."""
    resume: bool = True


class PluginParameters(Parameters):
    """``plugin.ipynb``: write, test and publish a plugin."""

    steps: Count = 100
    """Optimiser steps per arm in the closing ablation."""
    train_pairs: Count = 128
    questions: Count = 60


SCHEMAS: dict[str, type[Parameters]] = {
    "ablation": AblationParameters,
    "train": TrainParameters,
    "instruct": InstructParameters,
    "adapt": AdaptParameters,
    "evaluate": EvaluateParameters,
    "compare": CompareParameters,
    "inspect": InspectParameters,
    "degrade": DegradeParameters,
    "plugin": PluginParameters,
}
"""One schema per notebook, by the notebook's name without ``.ipynb``."""


# --- the calls -------------------------------------------------------------------------------


def begin(notebook: str | type[Parameters], namespace: Mapping[str, Any] | None = None) -> Any:
    """Check the parameters of the running notebook and return them, validated and frozen.

    Prints one line that says which Python runs and where fusionkit was found.

    Args:
        notebook: name of a bundled notebook, or a subclass of :class:`Parameters` for one's own.
        namespace: where the parameters live; the globals of the caller when not given.

    Raises:
        BadParameters: an unknown name (with the nearest one), a value of the wrong type, a
            component that no plugin offers, or another fusionkit than the launching process has.
    """
    if namespace is None:
        namespace = sys._getframe(1).f_globals
    schema = _schema(notebook)
    print(f"Python {sys.executable} | fusionkit {_version()} in {_home()}", flush=True)
    _check_home()
    if complaints := _check_names(schema, namespace):
        raise BadParameters("\n".join(complaints))
    parameters = _validated(
        schema, {name: namespace[name] for name in schema.model_fields if name in namespace}
    )
    check_components(parameters)
    _check_device(parameters)
    return parameters


def check_values(
    notebook: str | type[Parameters], values: Mapping[str, Any], *, own: Collection[str] = ()
) -> dict[str, Any]:
    """Validate given values without running anything: what a sweep does before its first run.

    Args:
        notebook: as for :func:`begin`.
        values: parameters by name; those left out keep the notebook's default.
        own: further names that the notebook declares; their values pass unchecked.

    Returns:
        The given values as the notebook will understand them, plain data fit for papermill.

    Raises:
        BadParameters: as :func:`begin`, for every fault found.
    """
    schema = _schema(notebook)
    fields = schema.model_fields
    complaints = [_unknown(name, fields) for name in values if name not in {*fields, *own}]
    if complaints:
        raise BadParameters("\n".join(complaints))
    known = {name: value for name, value in values.items() if name in fields}
    parameters = _validated(schema, known)
    check_components(parameters, only=known)
    return dict(values) | parameters.model_dump(mode="json", include=set(known))


def check_file(path: str | Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """:func:`check_values` for a notebook file, by the schema that its ``begin`` call names.

    A name that the file's parameters cell declares beyond the schema is the author's own and
    passes. A notebook without a ``begin`` call has its names checked, not its values.
    """
    declared = declared_parameters(path)
    name = next(filter(None, (_begins(source) for source in _sources(path))), None)
    if name is not None:
        return check_values(name, values, own=declared)
    if complaints := [_unknown(given, declared) for given in values if given not in declared]:
        raise BadParameters("\n".join(complaints))
    return dict(values)


def declared_parameters(path: str | Path) -> dict[str, Any]:
    """Names and literal values of the cell tagged ``parameters`` of a notebook file.

    A value that is no literal is returned as its source text.
    """
    found: dict[str, Any] = {}
    for source in _sources(path, tag="parameters"):
        for name, value in _assignments(source):
            try:
                found[name] = ast.literal_eval(value)
            except ValueError:
                found[name] = ast.unparse(value)
    return found


def launch_environment() -> dict[str, str]:
    """Environment for a process that starts notebooks: lets :func:`begin` compare installations."""
    return {HOME_CHECK: str(_home())}


def check_components(parameters: Parameters, *, only: Collection[str] | None = None) -> None:
    """Look up every field that names a component among the installed plugins.

    Args:
        only: names of the fields to look at; all when not given.

    Raises:
        BadParameters: each name that nobody offers, with the nearest one.
    """
    from fusionkit.registry import Registry  # imports torch

    registry = Registry.from_environment()
    complaints = []
    for field, info in type(parameters).model_fields.items():
        value = getattr(parameters, field)
        if value is None or (only is not None and field not in only):
            continue
        for kind in (m.kind for m in info.metadata if isinstance(m, Component)):
            names = [value] if isinstance(value, str) else value
            if kind == "degradation":  # several may be joined
                names = [part.strip() for name in names for part in name.split("+")]
            for name in names:
                try:
                    registry.entry(kind, name)
                except FusionkitError as error:
                    complaints.append(f"{field} = {name!r}: {error}")
    if complaints:
        raise BadParameters("\n".join(complaints))


def _check_device(parameters: Parameters) -> None:
    from fusionkit.devices import pick_device, pick_precision

    if isinstance(parameters, MachineParameters):
        try:
            pick_precision(parameters.precision, pick_device(parameters.device))
        except BadRequest as error:
            raise BadParameters(str(error)) from None


# --- which Python ----------------------------------------------------------------------------


def _home() -> Path:
    return Path(__file__).resolve().parent


def _version() -> str:
    try:
        return version("fusionkit")
    except PackageNotFoundError:
        return "(not installed)"


def _check_home() -> None:
    expected = os.environ.get(HOME_CHECK)
    if expected and Path(expected).resolve() != _home():
        raise BadParameters(
            f"this kernel is another Python than the program that started it.\n"
            f"  started with  {expected}\n"
            f"  kernel has    {_home()}  ({sys.executable})\n"
            "Unset JUPYTER_PREFER_ENV_PATH, or remove the stale kernel that "
            "`jupyter kernelspec list` shows as python3."
        )


# --- names -----------------------------------------------------------------------------------


def _schema(notebook: str | type[Parameters]) -> type[Parameters]:
    if not isinstance(notebook, str):
        return notebook
    if notebook not in SCHEMAS:
        raise BadParameters(
            f"no notebook schema is called {notebook!r}.{did_you_mean(notebook, SCHEMAS)} "
            f"There are: {', '.join(SCHEMAS)}."
        )
    return SCHEMAS[notebook]


def _check_names(schema: type[Parameters], namespace: Mapping[str, Any]) -> list[str]:
    fields = schema.model_fields
    cells = _history(namespace)
    at = _last_declaration(cells, fields)
    injected = at is not None and _is_injected(cells[at])
    given = _names(cells[at]) if injected else []
    if injected:
        own = {name for cell in cells[:at] for name in _names(cell)}
        if complaints := [_unknown(n, fields) for n in given if n not in fields and n not in own]:
            return complaints
        at = _last_declaration(cells[:at], fields)
    if at is not None and not _is_injected(cells[at]):
        # A name beyond the schema may be the author's own, unless it looks like a missing one.
        declared = _names(cells[at])
        missing = [name for name in fields if name not in declared and name not in given]
        strange = [name for name in declared if name not in fields]
        if complaints := [_unknown(n, fields) for n in strange if nearest(n, missing)]:
            return complaints
    if not any(name in namespace for name in fields):
        return ["no parameter is set yet: run the parameters cell above, then this one again."]
    return []


def _history(namespace: Mapping[str, Any]) -> list[str]:
    cells = namespace.get("In", [])
    return [c for c in cells if isinstance(c, str)] if isinstance(cells, list) else []


def _is_injected(cell: str) -> bool:
    return cell.startswith("# Parameters")


def _last_declaration(cells: Sequence[str], fields: Collection[str]) -> int | None:
    """Index of the cell that set the parameters last: papermill's, or the parameters cell.

    What counts as the parameters cell is judged by content, because the record has no tags:
    nothing but literals, for at least half of the parameters. A line tried out in between does
    not qualify, so working out of order raises no alarm.
    """
    for index in range(len(cells) - 1, -1, -1):
        if _is_injected(cells[index]):
            return index
        names = _names(cells[index], literals_only=True)
        if 2 * sum(name in fields for name in names) >= len(fields):
            return index
    return None


def _names(cell: str, *, literals_only: bool = False) -> list[str]:
    """Names assigned at the top level of a cell; none where it is not all literals, if asked."""
    found = _assignments(cell, strict=literals_only)
    if literals_only and not all(_is_literal(value) for _, value in found):
        return []
    return [name for name, _ in found]


def _assignments(cell: str, *, strict: bool = False) -> list[tuple[str, ast.expr]]:
    """``(name, value)`` of each plain assignment; none if strict and there is anything else."""
    try:
        body = ast.parse(cell).body
    except SyntaxError:
        return []
    found = []
    for statement in body:
        if isinstance(statement, ast.Assign):
            targets, value = statement.targets, statement.value
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets, value = [statement.target], statement.value
        elif strict and not isinstance(statement, ast.Expr):
            return []
        else:
            continue
        found += [(target.id, value) for target in targets if isinstance(target, ast.Name)]
    return found


def _is_literal(value: ast.expr) -> bool:
    try:
        ast.literal_eval(value)
    except ValueError:
        return False
    return True


def _sources(path: str | Path, tag: str | None = None) -> Iterable[str]:
    for cell in json.loads(Path(path).read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code" and (
            tag is None or tag in cell.get("metadata", {}).get("tags", [])
        ):
            source = cell["source"]
            yield source if isinstance(source, str) else "".join(source)


def _begins(source: str) -> str | None:
    """The name in a cell's ``begin("name")`` call."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "attr", getattr(node.func, "id", None))
            if called == "begin" and isinstance(node.args[0].value, str):
                return node.args[0].value
    return None


# --- values and messages ---------------------------------------------------------------------


def _validated(schema: type[Parameters], values: Mapping[str, Any]) -> Parameters:
    try:
        return schema.model_validate(dict(values))
    except ValidationError as error:
        faults: dict[str, Any] = {}
        for fault in error.errors():  # one a parameter: the first of those that point deepest
            name = str(fault["loc"][0])
            if name not in faults or len(fault["loc"]) > len(faults[name]["loc"]):
                faults[name] = fault
        lines = [_unfit(name, values, fault) for name, fault in faults.items()]
        raise BadParameters("\n".join(lines)) from None


PLAIN = (str, int, float, bool, list, tuple, dict, type(None))

WANTED = {
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "a text",
    "list_type": "a list (or text with commas)",
    "dict_type": "a mapping (or JSON text)",
    "greater_than_equal": "at least {ge}",
    "too_short": "a list of at least {min_length}",
}
"""pydantic's kinds of fault in our words; others keep pydantic's message."""


def _unfit(name: str, values: Mapping[str, Any], fault: Mapping[str, Any]) -> str:
    value = values.get(name)
    if not isinstance(value, PLAIN):
        return (
            f"{name} holds an object ({type(value).__name__}): a later cell has taken the "
            "parameter's name. Run the parameters cell, then this one again."
        )
    said = f"{name} = {value!r}: "
    if value is None and name in ("modulation", "baseline"):
        return said + "to run without one write the name 'none' (papermill reads None as nothing)."
    if fault["type"] == "literal_error":
        wanted = fault["ctx"]["expected"]
        near = did_you_mean(str(value), re.findall("'(.+?)'", wanted))
        return said + f"it must be {wanted}.{near}"
    if name == "device" and fault["type"] == "string_pattern_mismatch":
        return said + "it must be auto, cpu, mps, cuda or cuda:N."
    if fault["type"] == "value_error":
        return f"{name} = {value!r} {fault['ctx']['error']}."
    part = f", not {fault['input']!r}" if fault["input"] != value else ""
    if fault["type"] in WANTED:
        return said + f"it must be {WANTED[fault['type']].format(**fault.get('ctx', {}))}{part}."
    return said + fault["msg"].removeprefix("Input ").rstrip(".") + f"{part}."


def _unknown(name: str, known: Collection[str]) -> str:
    return f"no parameter is called {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}."
