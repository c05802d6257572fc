"""The loop, on a toy: a network of one convolution that learns to brighten."""

import math
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest
import torch
from torch import nn

from fusionkit import methods, training
from fusionkit.batch import Batch, Fused
from fusionkit.errors import BadRequest, Interrupted, MissingWeights, TrainingDiverged
from fusionkit.fusing import texts_beside
from fusionkit.recipe import Recipe, Stage
from fusionkit.registry import Registry
from fusionkit.testing import TinyEncoder, install, tiny_pairs


class Dial(nn.Module):
    """Mean of the pictures times a number, plus what the text says."""

    modulation_points = ("only",)
    multiple_of = 4
    layers = ("mix",)

    def __init__(self, *, modulation=None, text_dim=None, drop=0.1):
        super().__init__()
        self.mix = nn.Conv2d(4, 3, 1)
        self.say = nn.Linear(text_dim, 3) if text_dim else None
        self.drop = nn.Dropout(drop)

    def forward(self, batch):
        x = self.mix(self.drop(torch.cat([batch.visible, batch.infrared], 1)))
        if self.say is not None:
            x = x + self.say(batch.text.pooled)[..., None, None]
        return Fused(image=x, maps={})


class NoPoint(Dial):
    modulation_points = ()


class Brighten:
    prompts = ("brighter", "darker")

    def __init__(self, *, pairs, registry, encoder, guides, crop, poison_at=None):
        self.pairs = pairs
        self.poison_at = poison_at

    def sample(self, count, generator):
        rows = torch.randint(len(self.pairs), (count,), generator=generator)
        words = torch.randint(2, (count,), generator=generator)
        visible = torch.stack([self.pairs[i].visible for i in rows])
        target = visible + torch.where(words == 0, 0.2, -0.2)[:, None, None, None]
        if self.poison_at is not None and generator.initial_seed() >= self.poison_at * 7919:
            target = target * math.nan
        return Batch(
            visible=visible,
            infrared=torch.stack([self.pairs[i].infrared for i in rows]),
            prompts=tuple(self.prompts[w] for w in words),
            targets={"fused": target},
        )


class Distance:
    def __call__(self, batch, fused):
        return {"distance": (fused.image - batch.targets["fused"]).abs().mean()}


def toy_registry():
    registry = Registry()
    install(
        registry,
        "toy",
        network={"dial": Dial, "no-point": NoPoint},
        loss={"distance": Distance},
        encoder={"tiny": TinyEncoder},
        modulation={"any": Dial},
    )
    return registry


def toy_recipe():
    return Recipe(
        name="toy",
        network="dial",
        encoder="tiny",
        losses=("distance",),
        weights={"distance": 2.0},
        stages=(Stage(steps=40, batch_size=8, learning_rate=0.05),),
        task=Brighten,
        default_text="brighter",
    )


@pytest.fixture
def registry():
    return toy_registry()


@pytest.fixture
def recipe():
    return toy_recipe()


def run(recipe, registry, **options):
    options = {"device": "cpu", "precision": "float32", "log_every": 5, **options}
    return training.train(recipe, tiny_pairs(4), registry=registry, **options)


def weights(trained):
    return torch.cat([p.detach().flatten() for p in trained.method.network.parameters()])


def test_the_loss_falls_and_the_total_is_weighted(recipe, registry):
    history = run(recipe, registry).history
    assert list(history) == [5, 10, 15, 20, 25, 30, 35, 40]
    assert history[40]["distance"] < 0.6 * history[5]["distance"]
    assert history[40]["total"] == pytest.approx(2 * history[40]["distance"])


def test_the_same_seed_gives_the_same_weights_and_another_does_not(recipe, registry):
    a, b, c = (weights(run(recipe, registry, seed=s)) for s in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.allclose(a, c)


def test_a_stopped_run_resumes_to_the_very_same_weights(recipe, registry, tmp_path):
    whole = run(recipe, registry)
    file = tmp_path / "half.pt"

    def stop_once(step, terms):
        if step == 15:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match=r"SIGTERM after 1\d of 40 steps.*half.pt"):
        run(recipe, registry, checkpoint=file, log=stop_once)
    resumed = run(recipe, registry, checkpoint=file)
    assert torch.equal(weights(whole), weights(resumed))
    assert resumed.history == whole.history


def test_a_killed_process_leaves_a_checkpoint_that_resumes_exactly(recipe, registry, tmp_path):
    """SIGKILL gives no chance to save: what was written before must do."""
    file = tmp_path / "killed.pt"
    code = f"""
        import os, signal, sys
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        import test_training as t
        registry, recipe = t.toy_registry(), t.toy_recipe()
        def kill(step, terms):
            if step == 25:
                os.kill(os.getpid(), signal.SIGKILL)
        t.run(recipe, registry, checkpoint={str(file)!r}, log=kill, save_seconds=0)
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert file.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["killed.pt"]
    assert torch.equal(
        weights(run(recipe, registry, checkpoint=file)), weights(run(recipe, registry))
    )


def test_a_finished_run_is_not_trained_again(recipe, registry, tmp_path):
    file = tmp_path / "done.pt"
    first = run(recipe, registry, checkpoint=file)
    again = run(recipe, registry, checkpoint=file, log=lambda *_: pytest.fail("trained again"))
    assert torch.equal(weights(first), weights(again))
    assert again.history == first.history


def test_a_checkpoint_of_another_run_is_refused(recipe, registry, tmp_path):
    file = tmp_path / "other.pt"
    run(recipe, registry, checkpoint=file)
    with pytest.raises(BadRequest, match="other settings"):
        run(recipe.with_overrides({"learning_rate": 0.01}), registry, checkpoint=file)
    with pytest.raises(BadRequest, match="other settings"):
        run(recipe, registry, checkpoint=file, seed=3)
    run(recipe, registry, checkpoint=file, seed=3, resume=False)


def test_a_checkpoint_of_other_pairs_is_refused(recipe, registry, tmp_path):
    """The same recipe and file, but another data set: its weights must not pass for new ones."""
    file = tmp_path / "pairs.pt"
    run(recipe, registry, checkpoint=file)
    others = [replace(pair, visible=1 - pair.visible) for pair in tiny_pairs(4)]
    options = {"registry": registry, "device": "cpu", "precision": "float32", "checkpoint": file}
    with pytest.raises(BadRequest, match=r"pairs.pt belongs to a run with other pairs"):
        training.train(recipe, others, **options)
    with pytest.raises(BadRequest, match="other pairs"):
        training.train(recipe, tiny_pairs(3), **options)


def test_a_checkpoint_of_another_start_is_refused(recipe, registry, tmp_path):
    start, file = tmp_path / "start.pt", tmp_path / "next.pt"
    run(recipe, registry, checkpoint=start)
    run(recipe, registry, checkpoint=file)
    with pytest.raises(BadRequest, match="other starting weights"):
        run(recipe, registry, checkpoint=file, start_from=start)


def test_what_is_taken_up_is_said(recipe, registry, tmp_path, capsys):
    file = tmp_path / "done.pt"
    run(recipe, registry, checkpoint=file, label="arm")
    assert "resume" not in capsys.readouterr().out
    run(recipe, registry, checkpoint=file, label="arm")
    said = capsys.readouterr().out
    assert f"arm: has step 40 of 40, from {file}; resume=False starts over" in said


def test_weights_that_are_not_numbers_are_never_kept(recipe, registry, tmp_path):
    """Finite terms do not promise finite gradients: the root of zero has none."""
    file = tmp_path / "root.pt"

    def step(network, batch, losses):
        image = network(batch).image
        return {"root": (image - image.detach()).square().sum().sqrt()}

    rooted = recipe.model_copy(update={"step": step, "weights": {}, "losses": ()})
    with pytest.raises(TrainingDiverged, match=r"parameter .* not finite by step"):
        run(rooted.with_overrides({"steps": 1}), registry, checkpoint=file)
    assert not file.exists()


def test_every_stage_has_its_own_crop_and_task_options(recipe, registry):
    seen = []

    class Noted(Brighten):
        def __init__(self, *, crop, poison_at=None, **given):
            super().__init__(crop=crop, poison_at=poison_at, **given)
            self.note = crop, poison_at

        def sample(self, count, generator):
            seen.append(self.note)
            return super().sample(count, generator)

    noted = recipe.model_copy(update={"task": Noted}).with_overrides({"stages": [
        {"name": "small", "steps": 1, "crop": 8},
        {"name": "large", "steps": 1, "crop": 16, "task_options": {"poison_at": 99}},
        {"name": "whole", "steps": 1},
    ]})  # fmt: skip
    run(noted, registry)
    assert seen == [(8, None), (16, 99), (None, None)]


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_last_good_state(
    recipe, registry, tmp_path
):
    file = tmp_path / "nan.pt"
    poisoned = recipe.with_overrides({"task_options.poison_at": 22})
    with pytest.raises(TrainingDiverged, match=r"distance.*by step 25.*learning rate.*nan.pt"):
        run(poisoned, registry, checkpoint=file, save_seconds=0)
    kept = methods.load_checkpoint(file)
    assert kept["training"]["step"] == 20
    assert all(torch.isfinite(v).all() for v in kept["network"].values())


def test_stages_follow_each_other_and_may_freeze_parameters(recipe, registry):
    staged = recipe.with_overrides({"stages": [
        {"name": "text", "steps": 5, "batch_size": 8, "trainable": ["say.*"]},
        {"name": "all", "steps": 5, "batch_size": 8, "weights": {"distance": 3.0}},
    ]})  # fmt: skip
    torch.manual_seed(0)
    start = methods.Method(staged, registry, encoder=TinyEncoder()).network.mix.weight.clone()
    only_text = recipe.with_overrides({"stages": [
        {"name": "text", "steps": 5, "batch_size": 8, "trainable": ["say.*"]},
    ]})  # fmt: skip
    trained = run(only_text, registry, encoder=TinyEncoder()).method.network
    assert torch.equal(trained.mix.weight, start)
    history = run(staged, registry).history
    assert history[10]["total"] == pytest.approx(3 * history[10]["distance"])


def test_a_stage_that_trains_nothing_is_refused(recipe, registry):
    with pytest.raises(BadRequest, match="no parameter matches"):
        run(recipe.with_overrides({"trainable": ["nothing.*"]}), registry)


def test_a_weight_without_a_term_is_refused(recipe, registry):
    with pytest.raises(BadRequest, match=r"\['distnace'\].*\['distance'\]"):
        run(recipe.with_overrides({"weights": {"distnace": 1.0}}), registry)


def test_an_ablation_may_leave_a_loss_and_its_weight_idle(recipe, registry):
    more = recipe.with_overrides({"weights": {"distance": 2.0, "left_out": 1.0}})
    idle, plain = (weights(run(r, registry, strict_weights=r is recipe)) for r in (more, recipe))
    assert torch.equal(idle, plain)


def test_a_recipe_may_bring_its_own_objective(recipe, registry):
    def step(network, batch, losses):
        return {"own": network(batch).image.square().mean()}

    own = recipe.model_copy(update={"step": step, "weights": {}, "losses": ()})
    assert set(run(own, registry).history[40]) >= {"own", "total"}


def test_no_pairs_and_unknown_devices_are_refused(recipe, registry):
    with pytest.raises(BadRequest, match="no pair"):
        training.train(recipe, [], registry=registry)
    with pytest.raises(BadRequest, match="'gpu' is no device"):
        run(recipe, registry, device="gpu")
    with pytest.raises(BadRequest, match="'half' is no precision"):
        run(recipe, registry, precision="half")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_asking_for_a_gpu_that_is_not_there_says_so(recipe, registry):
    with pytest.raises(BadRequest, match="no usable GPU"):
        run(recipe, registry, device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_same_code_trains_on_a_gpu(recipe, registry):
    history = run(recipe, registry, device="cuda", precision="auto").history
    assert history[40]["distance"] < 0.6 * history[5]["distance"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_results_lie_where_the_pictures_came_from(recipe, registry):
    method = run(recipe, registry, device="cuda").method
    (pair,) = tiny_pairs(1)
    assert method.fuse(pair.infrared[None], pair.visible[None], "darker").is_cpu
    assert method.fuse(pair.infrared[None].cuda(), pair.visible[None].cuda(), "darker").is_cuda


# -- methods ------------------------------------------------------------------------------------


def test_a_saved_method_fuses_as_before(recipe, registry, tmp_path):
    install(registry, "recipes", recipe={"toy": lambda: recipe})
    file = tmp_path / "toy.pt"
    trained = run(recipe, registry, checkpoint=file).method
    again = methods.load_method("toy", file, device="cpu", precision="float32", registry=registry)
    pair = tiny_pairs(1, (21, 30))[0]
    for words in (None, "darker", ["brighter"]):
        ours = trained.fuse(pair.infrared[None], pair.visible[None], words)
        assert ours.shape == (1, 3, 21, 30)
        assert ours.min() >= 0 and ours.max() <= 1
        theirs = again.fuse(pair.infrared[None], pair.visible[None], words)
        torch.testing.assert_close(ours, theirs)
    brighter, darker = (
        again.fuse(pair.infrared[None], pair.visible[None], w).mean()
        for w in ("brighter", "darker")
    )
    assert brighter > darker


def test_missing_weights_say_how_to_get_them(recipe, registry, tmp_path):
    install(registry, "recipes", recipe={"toy": lambda: recipe})
    with pytest.raises(MissingWeights, match="fusionkit train toy"):
        methods.load_method("toy", registry=registry)
    with pytest.raises(MissingWeights, match=r"nowhere\.pt"):
        methods.load_method("toy", tmp_path / "nowhere.pt", registry=registry)


def test_weights_that_come_with_a_recipe_are_found_in_its_package(
    recipe, registry, tmp_path, monkeypatch
):
    package = tmp_path / "toy_with_weights"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    named = recipe.model_copy(update={"checkpoint": "toy_with_weights:toy.safetensors"})
    install(registry, "recipes", recipe={"toy": lambda: named})
    with pytest.raises(MissingWeights, match="install the package again"):
        methods.load_method("toy", registry=registry)
    trained = run(named, registry).method
    file = trained.save(package / "toy.safetensors", {"made": "here"})
    again = methods.load_method("toy", device="cpu", precision="float32", registry=registry)
    pair = tiny_pairs(1)[0]
    ours, theirs = (
        m.fuse(pair.infrared[None], pair.visible[None], "darker") for m in (trained, again)
    )
    torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0)  # half precision on disk
    assert methods.load_checkpoint(file)["recipe"] == "toy"
    assert again.recipe == named


def absent(**options):
    raise MissingWeights("no weights of the paper's encoder here; put them there.")


def test_an_encoder_that_cannot_be_had_is_replaced_loudly_by_the_offline_one(recipe, registry):
    install(registry, "hub", encoder={"paper-encoder": absent})
    wanted = recipe.with_overrides({"encoder": "paper-encoder"})
    with pytest.raises(MissingWeights, match="put them there"):
        run(wanted, registry)
    with pytest.warns(UserWarning, match="'tiny', which is not the encoder of the paper"):
        trained = run(wanted.with_overrides({"offline_encoder": "tiny"}), registry)
    assert trained.method.recipe.encoder.name == "tiny"
    assert trained.method.state()["parts"]["encoder"]["name"] == "tiny"


class Official(nn.Module):
    """The authors' file: the same layer under their name, no text."""

    def __init__(self, state):
        super().__init__()
        self.network = Dial(text_dim=TinyEncoder().text_dim)
        self.network.load_state_dict({k.removeprefix("net."): v for k, v in state.items()})

    def forward(self, vis, ir):
        return self.network.mix(torch.cat([vis, ir], 1))


def official_file(tmp_path):
    torch.manual_seed(1)
    network = Dial(text_dim=TinyEncoder().text_dim)
    file = tmp_path / "released.pth"
    torch.save({f"net.{k}": v for k, v in network.state_dict().items()}, file)
    return file, network.eval()


def test_the_authors_file_is_a_checkpoint_too(recipe, registry, tmp_path):
    recipe = recipe.model_copy(update={"official": Official})
    install(registry, "recipes", recipe={"toy": lambda: recipe})
    file, network = official_file(tmp_path)
    pair = tiny_pairs(1, (8, 12))[0]
    visible, infrared = pair.visible[None], pair.infrared[None]
    released = methods.load_official("toy", file, registry=registry)
    torch.testing.assert_close(
        released(vis=visible, ir=infrared), network.mix(torch.cat([visible, infrared], 1))
    )
    method = methods.load_method("toy", file, device="cpu", precision="float32", registry=registry)
    features = TinyEncoder().encode_text(["darker"])
    torch.testing.assert_close(
        method.fuse(infrared, visible, "darker"),
        network(Batch(visible=visible, infrared=infrared, text=features)).image.clamp(0, 1),
    )


def test_released_weights_never_meet_the_offline_encoder(recipe, registry, tmp_path):
    install(registry, "hub", encoder={"paper-encoder": absent})
    recipe = recipe.with_overrides({"encoder": "paper-encoder", "offline_encoder": "tiny"})
    recipe = recipe.model_copy(update={"official": Official})
    install(registry, "recipes", recipe={"toy": lambda: recipe})
    method = methods.load_method("toy", official_file(tmp_path)[0], device="cpu", registry=registry)
    pair = tiny_pairs(1, (8, 12))[0]
    with pytest.raises(MissingWeights, match="features made elsewhere"):
        method.fuse(pair.infrared[None], pair.visible[None], "darker")
    features = TinyEncoder().encode_text(["darker"])
    assert method.fuse(pair.infrared[None], pair.visible[None], features).shape == (1, 3, 8, 12)


def test_a_batch_in_parts_gives_the_gradient_of_the_whole(recipe, registry):
    recipe = recipe.with_overrides({"steps": 3})

    class Fixed(Brighten):
        """Four pairs in turn, so that two halves are the whole."""

        at = 0

        def sample(self, count, generator):
            rows = [(self.at + i) % 4 for i in range(count)]
            self.at += count
            visible = torch.stack([self.pairs[i].visible for i in rows])
            infrared = torch.stack([self.pairs[i].infrared for i in rows])
            return Batch(
                visible=visible,
                infrared=infrared,
                prompts=("brighter",) * count,
                targets={"fused": visible + 0.2},
            )

    recipe = recipe.model_copy(update={"task": Fixed})
    quiet = {"network.options": {"drop": 0.0}, "batch_size": 4}
    whole = run(recipe.with_overrides(quiet), registry)
    parts = run(recipe.with_overrides({**quiet, "accumulate": 2}), registry)
    torch.testing.assert_close(weights(whole), weights(parts), atol=1e-6, rtol=1e-5)
    with pytest.raises(BadRequest, match="does not pass in 3 equal parts"):
        recipe.with_overrides({"batch_size": 4, "accumulate": 3})


def test_learning_rates_fall_at_milestones_or_as_the_recipe_says(recipe, registry):
    stage = Stage(steps=10, schedule="steps", milestones=(4, 8), decay=0.5, warmup=0.2)
    shares = [training.rate(stage, step) for step in range(10)]
    assert shares == pytest.approx([1 / 3, 2 / 3, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25])
    still = recipe.model_copy(update={"rate": lambda stage, step: 0.0})
    torch.manual_seed(0)
    trained = run(still.with_overrides({"steps": 5, "stages.0.weight_decay": 0.0}), registry)
    torch.manual_seed(0)
    fresh = Dial(text_dim=TinyEncoder().text_dim)
    torch.testing.assert_close(trained.method.network.mix.weight, fresh.mix.weight)


def test_a_damaged_or_foreign_checkpoint_is_refused(recipe, registry, tmp_path):
    install(registry, "recipes", recipe={"toy": lambda: recipe})
    file = tmp_path / "toy.pt"
    run(recipe, registry, checkpoint=file)
    cut = tmp_path / "cut.pt"
    cut.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(BadRequest, match=r"cut.pt cannot be read"):
        methods.load_method("toy", cut, registry=registry)
    foreign = tmp_path / "foreign.pt"
    torch.save({"weight": torch.zeros(2)}, foreign)
    with pytest.raises(BadRequest, match="no fusionkit checkpoint"):
        methods.load_method("toy", foreign, registry=registry)


def test_a_full_disk_keeps_the_checkpoint_before(recipe, registry, tmp_path, monkeypatch):
    file = tmp_path / "toy.pt"
    run(recipe, registry, checkpoint=file)
    before = file.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match=r"cannot write .*toy.pt: .*No space left.*is kept"):
        methods.save_atomic({"a": 1}, file)
    assert file.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["toy.pt"]


def test_a_network_without_a_text_point_refuses_a_modulation(recipe, registry):
    with pytest.raises(BadRequest, match="no point at which text meets features"):
        run(recipe.with_overrides({"network": "no-point", "modulation": "any"}), registry)


@pytest.mark.parametrize(
    ("ir", "vi", "text", "message"),
    [
        (torch.rand(1, 1, 8, 8), torch.rand(1, 3, 8, 9), None, "one size"),
        (torch.rand(1, 2, 8, 8), torch.rand(1, 3, 8, 8), None, r"1 or 3, H, W"),
        (torch.rand(1, 8, 8), torch.rand(1, 3, 8, 8), None, r"1 or 3, H, W"),
        (torch.full((1, 1, 8, 8), math.nan), torch.rand(1, 3, 8, 8), None, "NaN"),
        (torch.rand(1, 1, 8, 8) * 255, torch.rand(1, 3, 8, 8), None, r"not in \[0, 1\]"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.rand(1, 3, 8, 8), None, "uint8"),
        (torch.rand(1, 1, 8, 8), torch.rand(1, 3, 8, 8), ["a", "b"], "2 prompts for 1 pairs"),
    ],
)
def test_pictures_that_do_not_fit_are_refused_with_the_reason(
    recipe, registry, ir, vi, text, message
):
    method = methods.Method(recipe, registry)
    with pytest.raises(BadRequest, match=message):
        method.fuse(ir, vi, text)


def test_editing_after_fusion_gets_the_options_of_the_recipe_and_knows_its_own(recipe, registry):
    def lift(method, batch, fused, *, by=0.0):
        return Fused(image=torch.full_like(fused.image, by))

    recipe = recipe.model_copy(update={"refine": lift})
    lifted = recipe.with_overrides({"refine_options.by": 0.25})
    image = methods.Method(lifted, registry).fuse(torch.rand(1, 1, 8, 8), torch.rand(1, 3, 8, 8))
    assert (image == 0.25).all()
    with pytest.raises(BadRequest, match=r"no option 'bye'\. Did you mean 'by'"):
        methods.Method(recipe.with_overrides({"refine_options.bye": 1}), registry)


class Reader(Dial):
    """Keeps the batches it was given."""

    def __init__(self, **options):
        super().__init__(**options)
        self.given = []

    def forward(self, batch):
        self.given.append(batch)
        return super().forward(batch)


def reader(recipe, registry):
    recipe = recipe.model_copy(update={"texts": ("ir", "vi"), "default_text": "brighter"})
    method = methods.Method(recipe, registry)
    method.network = Reader(text_dim=TinyEncoder.text_dim)
    return method


def test_descriptions_of_the_pairs_reach_the_network_by_kind(recipe, registry):
    method = reader(recipe, registry)
    texts = ({"ir": "a warm wall", "dense": "not read"}, {"vi": "a tree"})
    method(
        Batch(
            visible=torch.rand(2, 3, 8, 8),
            infrared=torch.rand(2, 1, 8, 8),
            prompts=("brighter",) * 2,
            labels={"texts": texts},
        )
    )
    found = method.network.given[0].texts
    assert sorted(found) == ["ir", "vi"]
    wall = TinyEncoder().encode_text(["a warm wall"]).pooled
    torch.testing.assert_close(found["ir"].pooled[:1], wall)
    assert not found["ir"].pooled[1].any() and not found["vi"].tokens[0].any()


def test_fusing_takes_several_texts_by_kind(recipe, registry):
    method = reader(recipe, registry)
    pair = torch.rand(2, 1, 8, 8), torch.rand(2, 3, 8, 8)
    features = TinyEncoder().encode_text(["a tree"])
    method.fuse(*pair, {"ir": "a warm wall", "vi": features})
    found = method.network.given[0].texts
    assert torch.equal(found["ir"].pooled[0], found["ir"].pooled[1])
    torch.testing.assert_close(found["vi"].pooled, features.pooled.expand(2, -1))
    with pytest.raises(BadRequest, match="reads no text 'fog': it reads ir, vi"):
        method.fuse(*pair, {"fog": "none"})
    with pytest.raises(BadRequest, match="3 texts 'ir' for 2 pairs"):
        method.fuse(*pair, {"ir": ["a", "b", "c"]})


def test_descriptions_beside_the_pictures_are_found_by_kind(tmp_path):
    for kind, words in (("ir", "a warm wall "), ("fused", "a tree")):
        file = tmp_path / "text" / kind / "07.txt"
        file.parent.mkdir(parents=True)
        file.write_text(words, encoding="utf-8")
    picture = tmp_path / "ir" / "07.png"
    assert texts_beside(picture, ("ir", "vi")) == {"ir": "a warm wall"}
    assert texts_beside(picture, ()) == texts_beside(tmp_path / "ir" / "8.png", ("ir",)) == {}


class Toward:
    """A loss with a sentence; it notes what it was handed."""

    def __init__(self, *, encoder, sentences=None):
        self.sentences = sentences

    def __call__(self, batch, fused):
        return {"distance": (fused.image - batch.targets["fused"]).abs().mean()}


def test_the_sentences_of_a_recipe_reach_its_losses(recipe, registry):
    install(registry, "words", loss={"toward": Toward})
    recipe = recipe.with_overrides({"losses": ["toward"], "sentences.fused": "a clear picture"})
    (loss,) = training.build_losses(methods.Method(recipe, registry)).values()
    assert loss.sentences == {"fused": "a clear picture"}


class Wordless(Dial):
    uses_text = False
    modulation_points = ()

    def __init__(self, *, text_dim=None):
        super().__init__(text_dim=None)


def test_fusing_asks_for_no_encoder_that_only_losses_use(recipe, registry, tmp_path):
    install(registry, "words", loss={"toward": Toward}, network={"wordless": Wordless})
    recipe = recipe.with_overrides({"network": "wordless", "losses": ["toward"], "steps": 1})
    recipe = recipe.model_copy(update={"remark": "Its words are in the loss."})
    install(registry, "recipes", recipe={"toy": lambda: recipe})
    file = tmp_path / "weights.pt"
    run(recipe, registry, checkpoint=file)
    method = methods.load_method("toy", file, device="cpu", registry=registry)
    assert method.encoder is None
    pair = tiny_pairs(1, (8, 12))[0]
    with pytest.warns(UserWarning, match=r"changes nothing\. Its words are in the loss"):
        method.fuse(pair.infrared[None], pair.visible[None], "darker")


def test_weights_released_in_parts_are_read_by_the_names_of_their_files(tmp_path):
    for name in ("a.pt", "b.pth"):
        torch.save({"x": torch.ones(1)}, tmp_path / name)
    (tmp_path / "notes.txt").write_text("how it was trained")
    assert list(methods.read_weights(tmp_path)) == ["a.pt", "b.pth"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingWeights, match="no weights file"):
        methods.read_weights(tmp_path / "empty")


def test_layout_compiling_and_the_optimisers_form_come_from_the_recipe_and_change_no_result(
    recipe, registry
):
    plain = weights(run(recipe.with_overrides({"steps": 6}), registry))
    for change in ({"channels_last": False}, {"fused": False}, {"compile": "eager"}):
        found = run(recipe.with_overrides({"steps": 6, **change}), registry)
        torch.testing.assert_close(weights(found), plain, atol=1e-6, rtol=1e-5)
        assert set(found.method.state()["network"]) == set(found.method.network.state_dict())
    rounded = run(recipe.with_overrides({"steps": 6, "precision": "bfloat16"}), registry,
                  precision="auto")  # fmt: skip
    assert rounded.method.dtype == torch.bfloat16
    assert not torch.equal(weights(rounded), plain)


def test_compiling_is_what_training_calls(recipe, registry, monkeypatch):
    seen = []
    compile_ = torch.compile
    monkeypatch.setattr(
        torch,
        "compile",
        lambda net, backend: seen.append(backend) or compile_(net, backend="eager"),
    )
    run(recipe.with_overrides({"steps": 1, "compile": "inductor"}), registry)
    assert seen == ["inductor"]


def test_a_run_that_is_stopped_is_left_failed_with_its_step_and_resumes(tmp_path, monkeypatch):
    from fusionkit import store

    put, path = store.Run.put_history, str(tmp_path / "own.zarr")

    def stop(self, *given):
        put(self, *given)
        os.kill(os.getpid(), signal.SIGTERM)

    options = {
        "steps": 6, "batch_size": 4, "store": path, "device": "cpu", "precision": "float32",
        "image_size": 64, "train_pairs": 8, "test_pairs": 2, "questions": 2, "shown": 1,
        "metrics": ["EN"], "overrides": {"network.options.widths": [8, 8, 8]},
    }  # fmt: skip
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(store.Run, "put_history", stop)
        training.train_from_options("control", **options)
    facts = store.run_info(path)
    assert facts["status"] == "failed"
    assert "SIGTERM after 1 of 6 steps" in facts["notice"]
    training.train_from_options("control", **options)
    assert store.run_info(path)["status"] == "complete"
