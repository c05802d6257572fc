"""The command line: what it costs to start, what it says, and how it ends."""

import json
import subprocess
import sys

import pytest

from fusionkit import cli
from fusionkit import registry as registry_module
from fusionkit.errors import BadRequest, BrokenPlugin, FusionkitError, UnknownComponent
from fusionkit.registry import Registry
from fusionkit.testing import install


@pytest.fixture
def run(capsys):
    """Runs a command in this process; answers (status, stdout, stderr)."""

    def command(*words):
        with pytest.raises(SystemExit) as left:
            cli.main(list(words))
        shown = capsys.readouterr()
        return left.value.code, shown.out, shown.err

    return command


@pytest.fixture
def bench(monkeypatch):
    """The installed plugins are these."""
    registry = Registry()

    def fail():
        raise RuntimeError("no luck today")

    install(registry, "mine", modulation={"gate": dict}, metric=fail)
    monkeypatch.setattr(Registry, "from_environment", classmethod(lambda cls: registry))
    return registry


def imported_by(*words):
    """Modules in memory after a command has run in an interpreter of its own."""
    code = (
        "import sys\n"
        f"sys.argv = ['fusionkit', *{list(words)!r}]\n"
        "from fusionkit.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as left:\n    print('status', left.code)\n"
        "print('modules', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    status = next(line for line in lines if line.startswith("status"))
    return int(status.split()[1]), set(lines[-1].split()[1:])


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["plugins", "--help"], 0),
        (["no-such-command"], 2),
        (["fuse", "--no-such-option"], 2),
        (["fuse", "no-such-file", "no-such-file", "-o", "x.png"], 2),
        (["plugins", "--kind", "no-such-kind"], 2),
        (["info", "no-such-store.zarr"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_help_and_wrong_requests_never_wait_for_torch(words, status, tmp_path):
    left, modules = imported_by(*words)
    assert left == status
    heavy = {"torch", "torchvision", "open_clip", "xarray", "zarr", "pandas", "matplotlib", "scipy"}
    assert not heavy & modules


def test_python_m_fusionkit_is_the_same_program():
    command = [sys.executable, "-m", "fusionkit", "plugin"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("fusionkit: there is no command 'plugin'.")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["plugin"], "there is no command 'plugin'. Did you mean 'plugins'?"),
        (["plugins", "--knd", "metric"], "'--kind'"),
        (["plugins", "--kind", "metrics"], "Did you mean 'metric'?"),
        (["train", "control", "--set", "steps"], "--set takes PATH=VALUE, got 'steps'."),
        (["train", "control", "--steps", "0"], "'--steps'"),
        (["fuse", "nothing.png", "nothing.png", "-o", "out.png"], "'nothing.png' does not exist"),
        (["fuse", __file__, __file__], "'-o'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_request_gets_one_line_and_status_2(run, words, said):
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1 and err.startswith("fusionkit: ")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BadRequest("wrong"), 2),
        (UnknownComponent("wrong"), 2),
        (FileNotFoundError(2, "No such file or directory", "there"), 2),
        (FusionkitError("failed"), 1),
        (BrokenPlugin("failed"), 1),
        (OSError(28, "No space left on device", "there"), 1),
        (KeyboardInterrupt(), 130),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_the_exit_status_tells_a_wrong_request_from_failed_work(run, monkeypatch, error, status):
    def fail(cls):
        raise error

    monkeypatch.setattr(Registry, "from_environment", classmethod(fail))
    left, _, err = run("plugins")
    assert left == status
    assert "Traceback" not in err
    assert err.strip().startswith("fusionkit: ") and err.strip().count("\n") == 0


def test_an_error_of_our_own_is_not_hidden(monkeypatch):
    def fail(cls):
        raise ZeroDivisionError

    monkeypatch.setattr(Registry, "from_environment", classmethod(fail))
    with pytest.raises(ZeroDivisionError):
        cli.main(["plugins"])


def test_plugins_lists_components_and_faults(run, bench):
    status, out, _ = run("plugins")
    assert status == 0
    assert ["modulation", "gate", "mine"] in [line.split()[:3] for line in out.splitlines()]
    assert "mine, partial: fusionkit_metrics: RuntimeError: no luck today" in out


def test_plugins_says_what_each_plugin_cost(run, bench):
    bench.seconds["mine"] = 1.234
    _, out, _ = run("plugins")
    heading, row = (line.split() for line in out.splitlines()[-4:-2])
    assert heading[-1] == "seconds"
    assert row[0] == "mine" and row[-2:] == ["1.23", "s"]


def test_plugins_of_one_kind_still_shows_what_is_broken(run, bench):
    install(bench, "other", loss={"l1": dict})
    _, out, _ = run("plugins", "--kind", "loss")
    assert "l1" in out and "gate" not in out
    assert "no luck today" in out


def test_plugins_json_has_the_traceback(run, bench):
    _, out, _ = run("plugins", "--json")
    rows = json.loads(out)
    assert {"kind", "name", "plugin", "version", "paper", "needs"} <= set(rows[0])
    mine = next(row for row in rows if row["kind"] == "plugin")
    assert mine["status"] == "partial" and "in fail" in mine["traceback"]


def test_plugins_shows_a_name_that_two_claim(run, bench):
    install(bench, "other", modulation={"gate": dict})
    status, out, _ = run("plugins")
    assert status == 0
    assert "modulation 'gate' is offered by plugins mine and other" in out


def test_listing_works_when_no_plugin_does(run, monkeypatch):
    monkeypatch.setattr(registry_module, "_said", set())
    monkeypatch.setenv("FUSIONKIT_PLUGINS", "gone")
    status, out, _ = run("plugins")
    assert status == 0
    assert "gone, broken: FUSIONKIT_PLUGINS names it, but it is not installed." in out


def test_train_hands_over_only_what_was_said(run, monkeypatch):
    import fusionkit.training

    calls = []
    monkeypatch.setattr(
        fusionkit.training,
        "train_from_options",
        lambda recipe, **options: calls.append((recipe, options)),
    )
    words = "train control --steps 3 --no-resume --set weights.region=0.5 --set a.b=text"
    assert run(*words.split(), "--set", "stages.0.betas=[0.5,0.9]")[0] == 0
    overrides = {"weights.region": 0.5, "a.b": "text", "stages.0.betas": [0.5, 0.9]}
    assert calls == [("control", {"overrides": overrides, "steps": 3, "resume": False})]


def test_fuse_hands_over_only_what_was_said(run, monkeypatch, tmp_path):
    import fusionkit.fusing

    calls = []
    monkeypatch.setattr(
        fusionkit.fusing,
        "fuse_files",
        lambda *places, progress, say, **options: calls.append((places, options)),
    )
    assert run("fuse", str(tmp_path), str(tmp_path), "-o", "out", "--text", "warm")[0] == 0
    assert calls == [((str(tmp_path), str(tmp_path), "out"), {"text": "warm"})]
    given = ("--set", "refine_options.max_steps=3")
    assert run("fuse", str(tmp_path), str(tmp_path), "-o", "out", *given)[0] == 0
    assert calls[1][1] == {"overrides": {"refine_options.max_steps": 3}}


def test_text_features_are_read_from_a_file(tmp_path):
    import numpy as np
    import torch

    from fusionkit.errors import BadRequest
    from fusionkit.fusing import fuse_files, read_text_features

    np.savez(tmp_path / "a.npz", pooled=np.ones((1, 4)), tokens=np.ones((1, 2, 4)), mask=[[1, 0]])
    found = read_text_features(tmp_path / "a.npz")
    assert found.pooled.dtype == torch.float32 and found.tokens.shape == (1, 2, 4)
    assert found.mask.tolist() == [[True, False]]
    torch.save(torch.ones(1, 4), tmp_path / "b.pt")
    assert read_text_features(tmp_path / "b.pt").pooled.shape == (1, 4)
    np.save(tmp_path / "c.npy", np.ones(4))
    with pytest.raises(BadRequest, match=r"`pooled` \(1, D\)"):
        read_text_features(tmp_path / "c.npy")
    with pytest.raises(BadRequest, match="not both"):
        fuse_files("a", "b", "c", text="warm", text_features=tmp_path / "a.npz")


def test_info_says_first_what_a_reader_asks_first(run, monkeypatch):
    facts = {
        "seed": 0,
        "contents": {"images": {"written": 1, "of": 3}, "scores": {"metrics": ["EN", "SD"]}},
        "pairs": [f"pair-{i}" for i in range(9)],
        "status": "stopped",
        "notice": None,
        "path": "here.zarr",
    }
    monkeypatch.setattr("fusionkit.store.run_info", lambda path: facts)
    status, out, _ = run("info", "here.zarr")
    assert status == 0
    assert out.splitlines() == [
        "path: here.zarr",
        "status: stopped",
        "notice: none",
        "contents:",
        "  images: written 1, of 3",
        "  scores: metrics EN SD",
        "seed: 0",
        "pairs: pair-0 pair-1 pair-2 pair-3 pair-4 pair-5 ... (9 in all)",
    ]
    assert json.loads(run("info", "here.zarr", "--json")[1]) == facts


def test_info_on_nothing_is_a_wrong_request(run, tmp_path):
    status, _, err = run("info", str(tmp_path / "none.zarr"))
    assert status == 2
    assert "none.zarr" in err
