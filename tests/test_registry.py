"""Plugins as strangers write them: broken, misspelt, colliding, and fine. Section by fault."""

import json
import logging
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from fusionkit import errors, hookspecs
from fusionkit import registry as module
from fusionkit.errors import BadRequest, BrokenPlugin, DuplicateComponent, UnknownComponent
from fusionkit.hookspecs import hookimpl
from fusionkit.registry import HOOKS, KINDS, Registry
from fusionkit.testing import install


class Gate:
    """Opens and closes."""

    paper = "Somebody, 2020"
    needs = ("text", "mask")

    def __init__(self, *, channels, text_dim=8, encoder=None):
        self.channels = channels


def anything(**options):
    """Takes what it is given."""
    return options


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(module, "_said", set())
    return Registry()


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Installs packages for the length of a test: modules and .dist-info folders on the path."""
    for variable in ("FUSIONKIT_PLUGINS", "FUSIONKIT_BLOCK", "FUSIONKIT_RAISE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(module, "_said", set())
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield lambda *args, **kwargs: add_distribution(tmp_path, *args, **kwargs)
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(
            sys.modules[name].__file__
        ):
            del sys.modules[name]


def add_distribution(
    folder: Path,
    distribution: str,
    points: dict[str, str],
    version="1.0",
    requires: str = "",
    **sources: str,
) -> None:
    info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        + (f"Requires-Dist: {requires}\n" if requires else "")
    )
    lines = "\n".join(f"{name} = {value}" for name, value in points.items())
    (info / "entry_points.txt").write_text(f"[fusionkit]\n{lines}\n")
    for name, source in sources.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(source))


GOOD = """
    from fusionkit.hookspecs import hookimpl

    @hookimpl
    def fusionkit_modulations():
        return {"good-gate": dict}
"""
BROKEN = "import no_such_module_anywhere"


def only(monkeypatch, *plugins):
    monkeypatch.setenv("FUSIONKIT_PLUGINS", ",".join(plugins))
    return Registry.from_environment()


# Building


def test_an_empty_registry_offers_nothing_and_discovers_nothing(registry):
    assert {kind: registry.names(kind) for kind in KINDS} == {kind: [] for kind in KINDS}


def test_names_are_sorted_and_built_by_name(registry):
    install(registry, "mine", modulation={"b": Gate, "a": Gate})
    assert registry.names("modulation") == ["a", "b"]
    assert registry.create("modulation", "a", channels=4).channels == 4


def test_an_unknown_name_is_answered_with_the_nearest_and_the_choice(registry):
    install(registry, "mine", modulation={"textif-affine": Gate})
    with pytest.raises(UnknownComponent) as caught:
        registry.create("modulation", "texif-affine")
    lines = str(caught.value).splitlines()
    assert lines[0] == ("no modulation is called 'texif-affine'. Did you mean 'textif-affine'?")
    assert lines[1:] == ["Installed modulations:", "  textif-affine            mine"]
    assert isinstance(caught.value, LookupError)
    assert (caught.value.kind, caught.value.name) == ("modulation", "texif-affine")
    assert caught.value.known == ("textif-affine",)


def test_capitals_and_underscores_do_not_hide_the_nearest_name(registry):
    install(registry, "mine", metric={"EN": Gate}, modulation={"cross-attention": Gate})
    with pytest.raises(UnknownComponent, match="Did you mean 'EN'"):
        registry.entry("metric", "en")
    with pytest.raises(UnknownComponent, match="Did you mean 'cross-attention'"):
        registry.entry("modulation", "Cross_Attention")


def test_a_name_of_another_kind_is_pointed_out(registry):
    install(registry, "mine", modulation={"film": Gate})
    with pytest.raises(UnknownComponent, match="There is a modulation of that name"):
        registry.create("network", "film")


def test_an_unknown_kind_is_answered_with_the_nearest(registry):
    with pytest.raises(BadRequest, match="Did you mean 'modulation'"):
        registry.names("modulations")


def test_an_unknown_option_is_answered_with_the_nearest(registry):
    install(registry, "mine", modulation={"gate": Gate})
    with pytest.raises(BadRequest) as caught:
        registry.create("modulation", "gate", chanels=4)
    assert str(caught.value) == (
        "modulation 'gate' has no option 'chanels'. Did you mean 'channels'? "
        "It takes channels, text_dim, encoder."
    )
    assert caught.value.asked == "chanels"


def test_a_missing_option_is_named(registry):
    install(registry, "mine", modulation={"gate": Gate})
    with pytest.raises(BadRequest, match="'gate' needs channels"):
        registry.create("modulation", "gate", text_dim=3)


def test_a_factory_with_free_options_takes_all(registry):
    install(registry, "mine", encoder={"any": anything})
    assert registry.create("encoder", "any", whatever=1) == {"whatever": 1}


def test_accepts_only_what_is_spelled_out(registry):
    install(registry, "mine", modulation={"gate": Gate, "any": anything})
    assert registry.accepts("modulation", "gate", "encoder")
    assert not registry.accepts("modulation", "gate", "registry")
    assert not registry.accepts("modulation", "any", "encoder")


def test_an_error_inside_a_factory_is_not_disguised(registry):
    def fails():
        raise TypeError("from inside")

    install(registry, "mine", loss={"fails": fails})
    with pytest.raises(TypeError, match="from inside"):
        registry.create("loss", "fails")


# Plugins with faults


def test_one_raising_hook_costs_only_itself(registry):
    def fail():
        raise RuntimeError("no luck")

    install(registry, "mine", modulation={"gate": Gate}, loss=fail)
    install(registry, "other", loss={"l1": Gate})
    assert registry.names("modulation") == ["gate"]
    assert registry.names("loss") == ["l1"]
    broken = registry.broken["mine"]
    assert broken.loaded
    assert broken.problems == ("fusionkit_losses: RuntimeError: no luck",)
    assert "no luck" in broken.traceback and "in fail" in broken.traceback


@pytest.mark.parametrize("answer", [None, ["gate"], "gate"])
def test_an_answer_that_is_no_mapping_is_a_fault(registry, answer):
    install(registry, "mine", modulation=answer, loss={"l1": Gate})
    assert "not a mapping" in str(registry.broken["mine"])
    assert registry.names("loss") == ["l1"]


def test_a_factory_that_cannot_be_called_costs_only_its_name(registry):
    install(registry, "mine", modulation={"gate": Gate, "number": 3, 7: Gate})
    assert registry.names("modulation") == ["gate"]
    assert len(registry.broken["mine"].problems) == 2


def test_a_misspelt_hook_is_a_fault_with_the_closest_hook(registry):
    install(registry, "mine", fusionkit_losess={"l1": Gate}, modulation={"gate": Gate})
    assert registry.broken["mine"].problems == (
        "'fusionkit_losess' is not a hook. Did you mean 'fusionkit_losses'?",
    )
    assert registry.names("modulation") == ["gate"]


def test_an_unmarked_function_named_like_a_hook_is_remarked_on(registry, caplog):
    class Forgetful:
        def fusionkit_losses(self):
            return {"l1": Gate}

        def fusionkit_of_my_own(self):
            return None

    registry.register(Forgetful(), "mine")
    remark = "'fusionkit_losses' looks like a hook but is not marked @hookimpl."
    assert registry.warnings == {"mine": [remark]}
    assert "mine" not in registry.broken
    assert remark in caplog.text


def test_an_argument_the_hook_does_not_have_is_a_fault(registry):
    class Greedy:
        @hookimpl
        def fusionkit_losses(self, config):
            return {}

    registry.register(Greedy(), "greedy")
    install(registry, "mine", loss={"l1": Gate})
    assert not registry.broken["greedy"].loaded
    assert "config" in str(registry.broken["greedy"])
    assert registry.names("loss") == ["l1"]


def test_a_name_or_an_object_is_registered_once(registry):
    plugin = install(registry, "mine", loss={"l1": Gate})
    with pytest.raises(BadRequest, match="'mine' is registered already"):
        install(registry, "mine")
    with pytest.raises(BadRequest, match="already, as 'mine'"):
        registry.register(plugin, "again")


def test_a_name_claimed_twice_belongs_to_nobody_and_names_all_claimants(registry):
    install(registry, "first", metric={"EN": Gate, "SD": Gate})
    registry.register(answering({"EN": Gate}), "second", distribution="their-en", version="2.1")
    install(registry, "third", metric={"EN": Gate})
    with pytest.raises(DuplicateComponent) as caught:
        registry.create("metric", "EN")
    assert str(caught.value) == (
        "metric 'EN' is offered by plugins first and second (their-en 2.1) and third. Leave one "
        "out: FUSIONKIT_BLOCK=first or FUSIONKIT_BLOCK=second or FUSIONKIT_BLOCK=third."
    )
    assert [claimant[0] for claimant in caught.value.claimants] == ["first", "second", "third"]
    assert registry.names("metric") == ["SD"]
    assert registry.conflicts["metric", "EN"].claimants == caught.value.claimants


def answering(metrics):
    class Plugin:
        @hookimpl
        def fusionkit_metrics(self):
            return metrics

    return Plugin()


def test_each_fault_is_logged_once_on_one_line(registry, caplog):
    def fail():
        raise RuntimeError("two\nlines")

    for again in (registry, Registry()):
        install(again, "mine", loss=fail)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["plugin mine works only in part: fusionkit_losses: RuntimeError: two lines"]


# What is installed


def test_a_plugin_that_fails_on_import_leaves_the_others_working(site, monkeypatch, caplog):
    site("aaa-broken", {"aaa": "aaa_plugin"}, version="0.3", aaa_plugin=BROKEN)
    site("good", {"good": "good_plugin"}, good_plugin=GOOD)
    registry = only(monkeypatch, "aaa", "good")
    assert registry.names("modulation") == ["good-gate"]
    assert str(registry.broken["aaa"]) == (
        "plugin aaa (aaa-broken 0.3) did not load: "
        "ModuleNotFoundError: No module named 'no_such_module_anywhere'"
    )
    assert "Traceback" in registry.broken["aaa"].traceback
    assert caplog.text.count("aaa") == 2  # plugin and distribution, on one line
    assert registry.seconds["good"] >= 0


@pytest.mark.parametrize(
    "source", ["raise SystemExit(3)", "def broken(:", "assert False", "from os import nothing"]
)
def test_no_way_of_failing_on_import_stops_the_host(site, monkeypatch, source):
    site("bad", {"bad": "bad_plugin"}, bad_plugin=source)
    assert "bad" in only(monkeypatch, "bad").broken


def test_a_plugin_for_a_newer_host_is_not_loaded_and_says_what_it_needs(site, monkeypatch):
    source = "raise AssertionError('imported')"
    site("early", {"early": "early_plugin"}, requires="fusionkit>=99", early_plugin=source)
    site("good", {"good": "good_plugin"}, requires="fusionkit>=0.1", good_plugin=GOOD)
    registry = only(monkeypatch, "early", "good")
    assert registry.names("modulation") == ["good-gate"]
    assert "needs fusionkit>=99, and this is fusionkit 0.1" in str(registry.broken["early"])


def test_a_slow_plugin_works_and_is_remarked_on(site, monkeypatch):
    slow = "\n    import time\n    time.sleep(0.2)" + GOOD
    site("slow", {"slow": "slow_plugin"}, slow_plugin=slow)
    site("good", {"good": "good_plugin"}, good_plugin=GOOD.replace("good-gate", "other-gate"))
    monkeypatch.setattr(module, "SLOW_SECONDS", 0.15)
    registry = only(monkeypatch, "slow", "good")
    assert registry.names("modulation") == ["good-gate", "other-gate"]
    assert "import what is heavy inside the functions" in registry.warnings["slow"][0]


def test_an_entry_point_may_name_an_object_inside_a_module(site, monkeypatch):
    source = """
        from fusionkit.hookspecs import hookimpl
        class Plugin:
            @hookimpl
            def fusionkit_losses(self):
                return {"l1": dict}
        plugin = Plugin()
    """
    site("objects", {"objects": "objects_plugin:plugin"}, objects_plugin=source)
    assert only(monkeypatch, "objects").names("loss") == ["l1"]


def test_a_missing_name_of_a_broken_plugin_says_so(site, monkeypatch):
    site("sketch-x", {"sketch": "sketch_plugin"}, sketch_plugin=BROKEN)
    registry = only(monkeypatch, "sketch")
    with pytest.raises(UnknownComponent) as caught:
        registry.create("modulation", "sketch-affine")
    assert "looks like one of plugin 'sketch'" in str(caught.value)
    assert "No module named 'no_such_module_anywhere'" in str(caught.value)


def test_two_distributions_with_one_plugin_name_are_both_named(site, monkeypatch):
    site("first-dist", {"same": "first_plugin"}, first_plugin=GOOD)
    site("second-dist", {"same": "second_plugin"}, second_plugin=GOOD)
    registry = only(monkeypatch, "same")
    message = str(registry.conflicts["plugin", "same"])
    assert "first-dist 1.0 (first_plugin)" in message
    assert "second-dist 1.0 (second_plugin)" in message
    with pytest.raises(UnknownComponent, match="used by distributions"):
        registry.create("modulation", "good-gate")
    monkeypatch.setenv("FUSIONKIT_BLOCK", "second-dist")
    registry = only(monkeypatch, "same")
    assert registry.entry("modulation", "good-gate").distribution == "first-dist"


def test_a_plugin_listed_twice_with_one_value_is_one_plugin(site, monkeypatch):
    site("bundle", {"good": "good_plugin"}, good_plugin=GOOD)
    site("good-alone", {"good": "good_plugin"})
    registry = only(monkeypatch, "good")
    assert registry.names("modulation") == ["good-gate"]
    assert not registry.conflicts and not registry.broken


def test_one_module_under_two_plugin_names_is_loaded_once(site, monkeypatch):
    site("one", {"good": "good_plugin"}, good_plugin=GOOD)
    site("two", {"later": "good_plugin"})
    registry = only(monkeypatch, "good", "later")
    assert registry.names("modulation") == ["good-gate"]
    assert "loaded already, as plugin 'good'" in str(registry.broken["later"])


def test_blocked_plugins_are_listed_as_blocked(site, monkeypatch):
    site("good", {"good": "good_plugin"}, good_plugin=GOOD)
    monkeypatch.setenv("FUSIONKIT_BLOCK", "good")
    registry = Registry.from_environment()
    assert registry.blocked == {"good": "FUSIONKIT_BLOCK"}
    assert registry.selection == {"FUSIONKIT_BLOCK": "good"}
    with pytest.raises(UnknownComponent, match=r"Left out: good \(FUSIONKIT_BLOCK\)"):
        registry.entry("modulation", "good-gate")


def test_an_empty_selection_loads_nothing(site, monkeypatch):
    site("good", {"good": "good_plugin"}, good_plugin=BROKEN)
    monkeypatch.setenv("FUSIONKIT_PLUGINS", "")
    registry = Registry.from_environment()
    assert not registry.broken
    assert registry.blocked["good"] == "FUSIONKIT_PLUGINS"
    assert all(not registry.names(kind) for kind in KINDS)


def test_a_selected_plugin_that_is_not_installed_is_reported(site, monkeypatch):
    site("good", {"good": "good_plugin"}, good_plugin=GOOD)
    registry = only(monkeypatch, "goood")
    assert "not installed. Did you mean 'good'?" in str(registry.broken["goood"])


def test_a_blocked_plugin_that_is_not_installed_is_remarked_on(site, monkeypatch, caplog):
    site("good", {"good": "good_plugin"}, good_plugin=GOOD)
    monkeypatch.setenv("FUSIONKIT_BLOCK", "goood")
    registry = only(monkeypatch, "good")
    assert registry.names("modulation") == ["good-gate"]
    assert "FUSIONKIT_BLOCK names it, but it is not installed" in caplog.text


def test_fusionkit_raise_stops_at_the_first_fault(site, monkeypatch):
    site("bad", {"bad": "bad_plugin"}, bad_plugin=BROKEN)
    monkeypatch.setenv("FUSIONKIT_RAISE", "1")
    with pytest.raises(BrokenPlugin) as caught:
        only(monkeypatch, "bad")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


# What is said about them


def test_provenance_says_whose_code_it_is(site, monkeypatch):
    site("good", {"good": "good_plugin"}, version="3.2", good_plugin=GOOD)
    assert only(monkeypatch, "good").provenance("modulation", "good-gate") == {
        "plugin": "good",
        "distribution": "good",
        "version": "3.2",
        "editable": False,
    }


def test_an_editable_install_is_known_by_its_commit(site, monkeypatch, tmp_path):
    source = tmp_path / "checkout"
    source.mkdir()

    def git(*words):
        command = ["git", "-C", str(source), "-c", "user.name=a", "-c", "user.email=a@b", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    (source / "file.txt").write_text("one")
    git("add", "file.txt")
    git("commit", "-q", "-m", "start")
    site("good", {"good": "good_plugin"}, good_plugin=GOOD)
    note = {"url": source.as_uri(), "dir_info": {"editable": True}}
    (tmp_path / "good-1.0.dist-info" / "direct_url.json").write_text(json.dumps(note))

    found = only(monkeypatch, "good").provenance("modulation", "good-gate")
    assert found["editable"] is True
    assert (found["commit"], found["dirty"]) == (git("rev-parse", "HEAD"), False)
    (source / "file.txt").write_text("two")
    assert only(monkeypatch, "good").provenance("modulation", "good-gate")["dirty"] is True


def test_describe_tells_components_and_plugins_with_their_state(site, monkeypatch):
    site("good", {"good": "good_plugin"}, good_plugin=GOOD)
    site("bad", {"bad": "bad_plugin"}, bad_plugin=BROKEN)
    registry = only(monkeypatch, "good", "bad")
    install(registry, "mine", modulation={"gate": Gate})
    rows = {(row["kind"], row["name"]): row for row in registry.describe()}
    gate = rows["modulation", "gate"]
    assert (gate["plugin"], gate["paper"], gate["needs"], gate["summary"]) == (
        "mine", "Somebody, 2020", "text, mask", "Opens and closes.",
    )  # fmt: skip
    assert rows["plugin", "good"]["status"] == "ok"
    assert rows["plugin", "bad"]["status"] == "broken"
    assert "Traceback" in rows["plugin", "bad"]["traceback"]
    assert rows["plugin", "standard"]["status"] == "blocked"
    json.dumps(registry.describe())


def test_a_recipe_brings_its_paper_from_the_recipe_itself(registry):
    from fusionkit.recipe import Recipe

    def mine():
        return Recipe(name="mine", paper="Nobody, 2021", network="compact")

    def cannot():
        raise RuntimeError("needs a file")

    install(registry, "mine", recipe={"mine": mine, "cannot": cannot})
    papers = {row["name"]: row["paper"] for row in registry.describe() if row["kind"] == "recipe"}
    assert papers == {"mine": "Nobody, 2021", "cannot": ""}


def test_every_kind_has_its_hook_and_every_hook_its_kind():
    declared = {name for name in vars(hookspecs) if name.startswith("fusionkit_")}
    assert declared == set(HOOKS)


def test_errors_survive_the_way_to_another_process():
    for error in (
        BadRequest("m", asked="a", known=["b"]),
        UnknownComponent("m", kind="k", name="n", known=["b"]),
        DuplicateComponent("m", kind="k", name="n", claimants=[("p", "d", "1")]),
        BrokenPlugin("m", plugin="p", problems=["x"], traceback="t"),
    ):
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), vars(again)) == (str(error), vars(error))
        assert isinstance(again, errors.FusionkitError)


def test_the_host_says_nothing_about_healthy_plugins(site, monkeypatch, caplog):
    site("good", {"good": "good_plugin"}, good_plugin=GOOD)
    with caplog.at_level(logging.INFO):
        only(monkeypatch, "good")
    assert not caplog.records
