"""The first cell of a notebook: what it refuses, what it understands, and how it says so."""

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from traitlets.config import Config

from fusionkit import notebook
from fusionkit.notebook import BadParameters, Parameters

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"

CELL = """\
modulation = "film"
baseline = "none"
encoder = "tiny-clip"
network = "compact"
guides = []
losses = ["pixel-l1"]
metrics = []
dataset = "scenes"
data_root = None
prompts = None
image_size = 128
train_pairs = 8
test_pairs = 4
steps = 5
batch_size = 4
seeds = [0]
device = "cpu"
precision = "auto"
store = None
resume = True
"""


@pytest.fixture
def no_plugins_asked(monkeypatch):
    """Components and devices pass, so that the test needs neither torch nor plugins."""
    monkeypatch.setattr(notebook, "check_components", lambda *args, **options: None)
    monkeypatch.setattr(notebook, "_check_device", lambda *args: None)


def executed(*cells: str) -> dict:
    """The namespace of a kernel that has run these cells."""
    namespace = {"In": ["", *cells, "p = notebook.begin('ablation')"]}
    for cell in cells:
        exec(cell, namespace)
    return namespace


def injected(line: str) -> str:
    return f"# Parameters\n{line}\n"


# --- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("modulaton", "modulation"),
        ("step", "steps"),
        ("seed", "seeds"),
        ("Batch_Size", "batch_size"),
    ],
)
def test_a_misspelt_given_name_is_refused_with_the_nearest(typo, meant, no_plugins_asked):
    with pytest.raises(BadParameters, match=f"'{typo}'.*Did you mean.*'{meant}'"):
        notebook.begin("ablation", executed(CELL, injected(f"{typo} = 1")))


def test_a_name_misspelt_in_the_parameters_cell_is_refused(no_plugins_asked):
    with pytest.raises(BadParameters, match="Did you mean 'modulation'"):
        notebook.begin("ablation", executed(CELL.replace("modulation", "modulaton")))


def test_a_name_that_the_author_added_to_the_parameters_cell_may_be_given(no_plugins_asked):
    cells = CELL + 'remark = "first try"\n', injected('remark = "second try"')
    assert notebook.begin("ablation", executed(*cells)).steps == 5


def test_without_an_injected_cell_the_values_of_the_notebook_hold(no_plugins_asked):
    assert notebook.begin("ablation", executed(CELL)).modulation == "film"


def test_the_callers_globals_are_read_when_none_are_given(no_plugins_asked):
    namespace = executed(CELL) | {"notebook": notebook}
    exec("p = notebook.begin('ablation')", namespace)
    assert namespace["p"].steps == 5


@pytest.mark.parametrize(
    "after",
    [
        ("step = 3", "steps = 7"),
        ("seed = 3; steps = 7",),
        ("steps = 7\nfor step in range(steps): pass",),
        (injected("modulaton = 'film'"), CELL, "steps = 7"),
        (injected("steps = 6"), "for modulaton in (): pass", "steps = 7"),
        ("def broken(", "steps = 7"),
    ],
)
def test_working_out_of_order_raises_no_false_alarm(after, no_plugins_asked):
    cells = [cell for cell in after if cell != "def broken("]
    namespace = executed(CELL, *cells)
    namespace["In"] = ["", CELL, *after, "p = notebook.begin('ablation')"]
    assert notebook.begin("ablation", namespace).steps == 7


def test_a_kernel_in_which_the_parameters_cell_has_not_run_says_so(no_plugins_asked):
    with pytest.raises(BadParameters, match="run the parameters cell"):
        notebook.begin("ablation", {"In": ["", "p = notebook.begin('ablation')"]})


def test_a_parameter_overwritten_by_an_object_is_named_as_that(no_plugins_asked):
    with pytest.raises(
        BadParameters, match=r"dataset holds an object \(object\): a later cell has taken"
    ):
        notebook.begin("ablation", executed(CELL) | {"dataset": object()})


def test_an_unknown_notebook_is_refused_with_the_nearest():
    with pytest.raises(BadParameters, match="Did you mean 'ablation'"):
        notebook.begin("ablaton", {})


# --- values ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "given", "understood"),
    [
        ("seeds", "0,1,2", [0, 1, 2]),
        ("seeds", 3, [3]),
        ("seeds", "[4, 5]", [4, 5]),
        ("losses", "pixel-l1", ["pixel-l1"]),
        ("losses", "pixel-l1, region-l1,", ["pixel-l1", "region-l1"]),
        ("prompts", "find the people, then the cars", ["find the people, then the cars"]),
        ("prompts", '["one", "two"]', ["one", "two"]),
        ("image_size", 96, 96),
        ("image_size", "96", 96),
        ("image_size", None, None),
        ("image_size", "96x128", (96, 128)),
        ("image_size", [96, 128], (96, 128)),
        ("steps", "12", 12),
        ("resume", "false", False),
        ("data_root", 2024, "2024"),
    ],
)
def test_text_from_the_command_line_becomes_the_declared_type(
    name, given, understood, no_plugins_asked
):
    parameters = notebook.begin("ablation", executed(CELL) | {name: given})
    assert getattr(parameters, name) == understood


def test_json_text_becomes_a_mapping(no_plugins_asked):
    given = {"overrides": '{"stages.0.steps": 50}'}
    assert notebook.check_values("train", given) == {"overrides": {"stages.0.steps": 50}}


@pytest.mark.parametrize(
    ("name", "given", "complaint"),
    [
        ("steps", "ten", "whole number"),
        ("steps", 0, "at least 1"),
        ("steps", 2.5, "whole number"),
        ("resume", "perhaps", "true or false"),
        ("seeds", "0,one", "whole number, not 'one'"),
        ("seeds", "1,1", "more than once"),
        ("seeds", "", "at least 1"),
        ("losses", [], "at least 1"),
        ("image_size", "1x2x3", "height and width"),
        ("image_size", "8x128", "at least 16"),
        ("image_size", "large", "whole number"),
        ("image_size", [64, "large"], "whole number, not 'large'"),
        ("device", "gpu", "cuda"),
        ("precision", "float3", "Did you mean 'float32'"),
        ("modulation", None, "'none'"),
    ],
)
def test_an_unfit_value_is_refused_in_words(name, given, complaint, no_plugins_asked):
    with pytest.raises(BadParameters, match=f"^{name} = .*{complaint}"):
        notebook.begin("ablation", executed(CELL) | {name: given})


@pytest.mark.parametrize(
    ("given", "understood"),
    [
        ("one", ["one"]),
        ("one,two", ["one", "two"]),
        (["one", "two"], ["one", "two"]),
        ('{"mine": "one"}', {"mine": "one"}),
        ({"mine": "one"}, {"mine": "one"}),
        (None, None),
    ],
)
def test_folders_are_one_several_or_named(given, understood, no_plugins_asked):
    assert notebook.check_values("evaluate", {"fused": given}) == {"fused": understood}


def test_a_folder_with_a_comma_in_its_name_is_one_folder(tmp_path, no_plugins_asked):
    (tmp_path / "a,b").mkdir()
    given = {"fused": str(tmp_path / "a,b")}
    assert notebook.check_values("evaluate", given) == {"fused": [given["fused"]]}


def test_no_folder_at_all_is_refused(no_plugins_asked):
    with pytest.raises(BadParameters, match="fused = "):
        notebook.check_values("evaluate", {"fused": []})


def test_every_fault_is_told_at_once(no_plugins_asked):
    with pytest.raises(BadParameters) as refusal:
        notebook.begin("ablation", executed(CELL) | {"steps": "ten", "resume": "perhaps"})
    assert {line.split(" = ")[0] for line in str(refusal.value).splitlines()} == {"steps", "resume"}


def test_what_was_understood_cannot_be_changed_afterwards(no_plugins_asked):
    parameters = notebook.begin("ablation", executed(CELL))
    with pytest.raises(ValueError, match="frozen"):
        parameters.steps = 6


def test_json_that_is_none_is_refused(no_plugins_asked):
    with pytest.raises(BadParameters, match=r"overrides = '\{bad' is no valid JSON"):
        notebook.check_values("train", {"overrides": "{bad"})


# --- components, device, Python --------------------------------------------------------------


def test_a_component_that_nobody_offers_is_refused_with_the_nearest():
    with pytest.raises(BadParameters, match=r"(?s)modulation = 'flim'.*Did you mean 'film'"):
        notebook.begin("ablation", executed(CELL, injected("modulation = 'flim'")))


def test_each_name_of_a_list_is_looked_up():
    given = {"losses": "pixel-l1,pixl-l1"}
    with pytest.raises(BadParameters, match=r"losses = 'pixl-l1'.*Did you mean 'pixel-l1'"):
        notebook.check_values("ablation", given)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(BadParameters, match="cuda"):
        notebook.begin("ablation", executed(CELL, injected("device = 'cuda'")))


def test_another_fusionkit_than_the_launching_process_has_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv(notebook.HOME_CHECK, str(tmp_path))
    with pytest.raises(BadParameters, match=f"(?s){tmp_path}.*{sys.executable}"):
        notebook.begin("ablation", executed(CELL))


def test_the_launching_process_passes_its_own_place_on(monkeypatch, no_plugins_asked):
    for name, value in notebook.launch_environment().items():
        monkeypatch.setenv(name, value)
    assert notebook.begin("ablation", executed(CELL)).steps == 5


def test_the_first_cell_says_which_python_runs(capsys, no_plugins_asked):
    notebook.begin("ablation", executed(CELL))
    line = capsys.readouterr().out
    assert sys.executable in line
    assert str(Path(notebook.__file__).parent) in line
    assert line.count("\n") == 1


def test_names_and_values_are_refused_before_torch_is_imported():
    program = f"""
import sys
from fusionkit import notebook
for line in ("modulaton = 1", "steps = 'ten'"):
    cell = {CELL!r}
    namespace = {{"In": ["", cell, "# Parameters\\n" + line]}}
    exec(cell + line, namespace)
    try:
        notebook.begin("ablation", namespace)
    except notebook.BadParameters:
        print("refused", "torch" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("refused False") == 2


# --- files -----------------------------------------------------------------------------------


@pytest.fixture
def write(tmp_path):
    """Write a notebook: parameters, the guard, and a last cell."""

    def write(last: str = "p", parameters: str = CELL, guard: str | None = None) -> Path:
        guard = guard or "from fusionkit import notebook\n\np = notebook.begin('ablation')"
        cells = [
            new_code_cell(parameters, metadata={"tags": ["parameters"]}),
            new_code_cell(guard),
            new_code_cell(last),
        ]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        path = tmp_path / "tiny.ipynb"
        nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
        return path

    return write


def test_a_sweep_is_refused_before_it_starts(write):
    with pytest.raises(BadParameters, match="Did you mean 'modulation'"):
        notebook.check_file(write(), {"modulaton": "film"})


def test_a_file_is_checked_by_the_schema_its_first_cell_names(write):
    assert notebook.check_file(write(), {"seeds": "0,1"}) == {"seeds": [0, 1]}


def test_a_file_may_declare_parameters_of_its_own(write):
    path = write(parameters=CELL + "remark = ''\n")
    assert notebook.check_file(path, {"remark": "dusk", "steps": "3"}) == {
        "remark": "dusk",
        "steps": 3,
    }


def test_a_file_without_a_guard_still_has_its_names_checked(write):
    path = write(guard="pass")
    assert notebook.check_file(path, {"steps": "3"}) == {"steps": "3"}
    with pytest.raises(BadParameters, match="Did you mean 'steps'"):
        notebook.check_file(path, {"stepps": 3})


def test_declared_parameters_are_read_as_python_reads_them(write):
    cell = 'rate: float | None = -1e-3\nimport os\nnote = "a # b"\nhome = os.sep\n'
    declared = notebook.declared_parameters(write(parameters=cell))
    assert declared == {"rate": -1e-3, "note": "a # b", "home": "os.sep"}


@pytest.mark.parametrize("schema", notebook.SCHEMAS.values(), ids=notebook.SCHEMAS)
def test_every_parameter_has_a_default_that_fits(schema):
    assert isinstance(schema.model_validate(schema().model_dump()), Parameters)


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_committed_notebook_declares_its_schema_and_nothing_else(path):
    declared = notebook.declared_parameters(path)
    if path.stem not in notebook.SCHEMAS:
        assert not declared, "a notebook with parameters needs a schema in fusionkit.notebook"
        return
    schema = notebook.SCHEMAS[path.stem]
    assert sorted(declared) == sorted(schema.model_fields)
    assert schema.model_validate(declared) == schema()


# --- papermill, with real kernels ------------------------------------------------------------


def run(path: Path, **parameters) -> None:
    papermill.execute_notebook(
        path,
        path.with_name("out.ipynb"),
        parameters=parameters,
        progress_bar=False,
        start_timeout=300,
        config=Config({"KernelManager": {"transport": "ipc"}}),
    )


@pytest.mark.notebook
def test_papermill_exits_1_on_a_misspelt_name_and_ends_with_the_nearest(write):
    path = write()
    command = [sys.executable, "-m", "papermill", str(path), str(path.with_name("out.ipynb"))]
    done = subprocess.run(
        [*command, "-p", "modulaton", "film", "--start-timeout", "300", "--no-progress-bar"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    ending = done.stderr.strip().splitlines()[-1]
    assert "Did you mean 'modulation'" in ending
    outputs = nbformat.read(path.with_name("out.ipynb"), as_version=4).cells[3:]
    refusal = next(o for c in outputs for o in c.get("outputs", []) if o.output_type == "error")
    assert refusal.ename == "BadParameters"
    assert len(refusal.traceback) == 1, "the message alone, without frames"


@pytest.mark.notebook
def test_papermill_stops_on_a_value_of_the_wrong_type(write):
    with pytest.raises(papermill.PapermillExecutionError, match=r"steps = 'ten': .*whole number"):
        run(write(), steps="ten")


@pytest.mark.notebook
def test_a_good_run_sees_the_values_understood(write, tmp_path):
    result = tmp_path / "seen.json"
    path = write(
        last=f"from pathlib import Path\nPath({str(result)!r}).write_text(p.model_dump_json())"
    )
    run(path, seeds="0,1,2", losses="pixel-l1", steps=3)
    seen = json.loads(result.read_text())
    assert (seen["seeds"], seen["losses"], seen["steps"]) == ([0, 1, 2], ["pixel-l1"], 3)
    assert seen["modulation"] == "film"
