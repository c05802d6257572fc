import pytest
import torch
from fusionkit_ldfusion.modulation import AdainStyle
from fusionkit_ldfusion.recipe import as_released, configured, ldfusion
from fusionkit_ldfusion.task import LanguageDrivenTask

from fusionkit.batch import TextFeatures
from fusionkit.color import luma
from fusionkit.errors import BadRequest
from fusionkit.recipe import Stage
from fusionkit.registry import Registry
from fusionkit.testing import tiny_pairs
from fusionkit.training import train

REGISTRY = Registry.from_environment()
QUICK = {
    "steps": 2,
    "crop": 32,
    "losses.vgg-max.options.weights": "seeded",
    "losses.vgg-max.options.size": 16,
    "losses.language-direction.options.crops": 2,
    "losses.language-direction.options.entropy_min": 3.0,
}


# -- learning rate --------------------------------------------------------------------------------


def test_the_configured_rate_warms_up_for_an_epoch_and_halves_five_times():
    stage = Stage(steps=10_000)  # 100 steps an epoch
    rates = {epoch: configured(stage, 100 * epoch) for epoch in (1, 49, 50, 60, 70, 80, 90, 99)}
    assert configured(stage, 0) == pytest.approx(1 / 101)
    assert configured(stage, 99) == pytest.approx(100 / 101)
    assert rates == {
        1: 1, 49: 1, 50: 1 / 2, 60: 1 / 4, 70: 1 / 8, 80: 1 / 16, 90: 1 / 32, 99: 1 / 32,
    }  # fmt: skip


def test_the_released_rate_rises_in_the_first_epoch_with_single_halved_steps():
    stage = Stage(steps=20_000)  # 200 steps an epoch
    assert as_released(stage, 0) == 1 / 200
    assert as_released(stage, 49) == 50 / 200
    assert as_released(stage, 50) == 51 / 200 / 2
    assert as_released(stage, 51) == 52 / 200
    assert as_released(stage, 199) == 1
    assert {as_released(stage, step) for step in (200, 5000, 19_999)} == {201 / 200}


def test_both_policies_are_recipes():
    rates = {
        name: REGISTRY.create("recipe", name).rate for name in ("ldfusion", "ldfusion-as-released")
    }
    assert rates == {"ldfusion": configured, "ldfusion-as-released": as_released}


# -- samples --------------------------------------------------------------------------------------


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_sample_is_noisy_for_the_network_and_clean_for_the_losses():
    task = LanguageDrivenTask(pairs=tiny_pairs(3, (80, 90)), crop=64)
    batch = task.sample(4, generator())
    assert batch.visible.shape == (4, 3, 64, 64) and batch.infrared.shape == (4, 1, 64, 64)
    clean = batch.targets["visible"]
    levels = clean * 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)
    for noise in (luma(batch.visible) - clean, batch.infrared - batch.targets["infrared"]):
        assert abs(noise.mean()) < 1e-3 and noise.std().item() == pytest.approx(0.03, rel=0.05)


def test_a_sample_is_a_function_of_its_generator():
    task = LanguageDrivenTask(pairs=tiny_pairs(3, (40, 50)), crop=32)
    first, again, other = (task.sample(2, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.visible, again.visible) and first.names == again.names
    assert not torch.equal(first.visible, other.visible)


def test_small_pairs_are_mirrored_to_the_size_of_a_crop():
    for size in ((20, 70), (9, 9)):
        batch = LanguageDrivenTask(pairs=tiny_pairs(1, size), crop=64).sample(1, generator())
        assert batch.visible.shape[-2:] == (64, 64)


def test_samples_that_show_nothing_are_drawn_again():
    pair = tiny_pairs(1, (64, 640))[0]
    for picture in (pair.visible, pair.infrared):
        picture[..., :590] = 0.5  # nothing to see but at the right end
    task = LanguageDrivenTask(pairs=[pair], crop=32, noise=0.0)
    shown = [task.sample(1, generator(seed)).targets for seed in range(30)]
    seen = [max(t["visible"].std(), t["infrared"].std()) >= 0.05 for t in shown]
    careless = LanguageDrivenTask(pairs=[pair], crop=32, noise=0.0, least=0.0)
    shown = [careless.sample(1, generator(seed)).targets for seed in range(30)]
    unseen = [max(t["visible"].std(), t["infrared"].std()) < 0.05 for t in shown]
    assert sum(seen) > 20 and sum(unseen) > 20


# -- the recipe -----------------------------------------------------------------------------------


def test_the_paper_preset_holds_the_published_numbers():
    recipe = ldfusion()
    (stage,) = recipe.stages
    assert (stage.batch_size, stage.crop, stage.learning_rate) == (16, 224, 5e-4)
    assert (stage.optimizer, stage.weight_decay, stage.clip_norm) == ("adam", 0.0, None)
    assert recipe.weights == {"similarity": 6, "global": 2, "patch": 10, "perceptual": 10}
    assert recipe.encoder.name == "clip-vit-b-32"
    assert "training again" in recipe.remark


def test_the_sentences_are_parameters_of_the_recipe_and_reach_loss_and_score():
    from fusionkit.evaluation import build_metrics
    from fusionkit.methods import Method
    from fusionkit.testing import TinyEncoder
    from fusionkit.training import build_losses

    recipe = REGISTRY.create("recipe", "ldfusion-cpu")
    recipe = recipe.with_overrides({"sentences.fused": "a bright image", **QUICK})
    method = Method(recipe, REGISTRY, encoder=TinyEncoder())
    losses = build_losses(method)
    assert losses["language-direction"].language.sentences["fused"] == ("a bright image",)
    assert "not meaningful" in losses["vgg-max"].remark
    built = build_metrics(
        ["direction_ir"],
        registry=REGISTRY,
        encoder=method.encoder,
        sentences=recipe.sentences,
    )
    assert built["direction_ir"].language.sentences["fused"] == ("a bright image",)
    with pytest.raises(BadRequest, match="no sentence for 'fussed'"):
        build_losses(Method(recipe.with_overrides({"sentences.fussed": "x"}), REGISTRY))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_cpu_preset_trains_and_the_result_fuses(tmp_path, precision):
    import fusionkit as fk

    recipe = REGISTRY.create("recipe", "ldfusion-cpu").with_overrides(QUICK)
    file = tmp_path / "weights.pt"
    run = train(
        recipe, tiny_pairs(2, (40, 48)), registry=REGISTRY, device="cpu", precision=precision,
        checkpoint=file,
    )  # fmt: skip
    assert set(run.history[2]) == {"similarity", "global", "patch", "perceptual", "total"}
    method = fk.load_method("ldfusion-cpu", file, device="cpu")
    assert method.fuse(torch.rand(1, 1, 21, 33), torch.rand(1, 3, 21, 33)).shape == (1, 3, 21, 33)


# -- the scheme -----------------------------------------------------------------------------------


def test_adain_style_starts_as_plain_addition():
    visible, infrared = torch.rand(2, 2, 6, 5, 7).unbind()
    text = TextFeatures(pooled=torch.randn(2, 4))
    scheme = AdainStyle(channels=6, text_dim=4)
    torch.testing.assert_close(scheme(visible, infrared, text, {}), visible + infrared)


def test_adain_style_without_residual_sets_the_statistics_of_each_channel():
    torch.manual_seed(0)
    visible, infrared = torch.rand(2, 2, 6, 9, 7).unbind()
    scheme = AdainStyle(channels=6, text_dim=4, residual=False)
    with torch.no_grad():
        shift, scale = scheme.to_affine[-1].bias.chunk(2)
        shift.copy_(torch.arange(6.0))
        scale.fill_(1.0)
        y = scheme(visible, infrared, TextFeatures(pooled=torch.randn(2, 4)), {})
    torch.testing.assert_close(y.mean((2, 3)), torch.arange(6.0).expand(2, -1))
    spread = y.std((2, 3), correction=0)
    torch.testing.assert_close(spread, torch.full((2, 6), 2.0), rtol=1e-3, atol=0)


def test_adain_style_needs_text():
    with pytest.raises(ValueError, match="encode prompts first"):
        AdainStyle(channels=2, text_dim=3)(*torch.zeros(2, 1, 2, 4, 4).unbind(), None, {})


def test_a_run_keeps_where_the_sentence_is_met_and_says_what_retraining_is_for(tmp_path):
    import fusionkit as fk
    from fusionkit.training import train_from_options

    store = tmp_path / "run.zarr"
    train_from_options(
        "ldfusion-cpu", dataset="scenes", image_size=48, train_pairs=2, test_pairs=1, shown=1,
        metrics=["direction_vis", "direction_ir"], device="cpu", precision="float32",
        store=str(store), overrides=QUICK | {"sentences.fused": "a bright image", "steps": 1},
    )  # fmt: skip
    run = fk.open_run(store)
    assert list(run["heatmaps/objective"]["prompt"].values) == ["a bright image"]
    met = run["heatmaps/objective"]["maps"].values
    assert met.shape == (1, 1, 48, 48) and met.min() >= 0 and met.max() <= 1
    assert "objective-counted" in run["heatmaps"].children
    assert {"direction_vis", "direction_ir"} <= set(run["scores"]["metric"].values)
    said = " ".join(run.attrs["remarks"])
    assert "training again" in said and "not meaningful" in said
