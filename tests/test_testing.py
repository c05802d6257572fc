"""The contracts catch what they are for: each faulty component below fails exactly its test.

Source: ours, for every component below but one.
"""

import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from fusionkit import testing
from fusionkit.batch import Fused, TextFeatures
from fusionkit.protocols import Network
from fusionkit.registry import Registry


@pytest.fixture
def failures(tmp_path, monkeypatch):
    """Runs a contract on a thing built by ``build``; answers the names of the tests that fail."""
    file = tmp_path / "test_made.py"
    file.write_text("from made_for_this_test import TestMade")

    def run(contract, build=None) -> set[str]:
        body = {} if build is None else {"build": staticmethod(build)}
        made = ModuleType("made_for_this_test")
        made.TestMade = type("TestMade", (contract,), body)
        monkeypatch.setitem(sys.modules, made.__name__, made)
        monkeypatch.delitem(sys.modules, file.stem, raising=False)
        seen = Outcomes()
        words = ["-p", "no:terminal", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
        status = pytest.main([*words, "-c", str(tmp_path / "none.ini"), str(file)], plugins=[seen])
        assert status in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) and seen.passed
        return seen.failed

    (tmp_path / "none.ini").write_text("[pytest]")
    return run


class Outcomes:
    """Notes which tests of another pytest run passed and failed."""

    def __init__(self):
        self.passed, self.failed = set(), set()

    def pytest_runtest_logreport(self, report):
        name = report.nodeid.rpartition("::")[2].partition("[")[0]
        if report.failed:
            self.failed.add(name)
        elif report.when == "call" and report.passed:
            self.passed.add(name)


class Mixing(nn.Module):
    """A scheme without fault: a scale per channel from the words that count."""

    def __init__(self, *, channels, text_dim):
        super().__init__()
        self.scale = nn.Linear(text_dim, channels)

    def forward(self, visible, infrared, text, guides):
        words = text.tokens * text.mask[..., None]
        scale = self.scale(text.pooled + words.sum(1) / text.mask.sum(1, keepdim=True))
        return ((visible + infrared) * (1 + scale[..., None, None])).to(visible.dtype)


class Deaf(Mixing):
    """Never reads the text."""

    def forward(self, visible, infrared, text, guides):
        return visible + infrared


class ReadsPadding(Mixing):
    """Averages over padding, too."""

    def forward(self, visible, infrared, text, guides):
        scale = self.scale(text.tokens.mean(1))
        return ((visible + infrared) * (1 + scale[..., None, None])).to(visible.dtype)


class MixesBatch(Mixing):
    """Normalises over the batch."""

    def forward(self, visible, infrared, text, guides):
        y = super().forward(visible, infrared, text, guides)
        return y - y.mean(0, keepdim=True)


class Grows(Mixing):
    """Leaves half precision."""

    def forward(self, visible, infrared, text, guides):
        return super().forward(visible, infrared, text, guides).float()


class Roots(Mixing):
    """A square root whose slope at zero is infinite."""

    def forward(self, visible, infrared, text, guides):
        y = super().forward(visible, infrared, text, guides)
        return y + (visible * visible).sqrt()


class OneEyed(Mixing):
    """Forgets the infrared map."""

    def forward(self, visible, infrared, text, guides):
        return super().forward(visible, visible, text, guides)


class Overwrites(Mixing):
    """Works in place on what it was lent."""

    def forward(self, visible, infrared, text, guides):
        with torch.no_grad():
            visible.mul_(0.9)
        return super().forward(visible, infrared, text, guides)


class Idle(Mixing):
    """Has a layer that it never uses."""

    def __init__(self, *, channels, text_dim):
        super().__init__(channels=channels, text_dim=text_dim)
        self.idle = nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("scheme", "caught"),
    [
        (Mixing, set()),
        (Deaf, {"test_listens_to_the_text"}),
        (ReadsPadding, {"test_padding_tokens_do_not_count"}),
        (MixesBatch, {"test_one_picture_does_not_change_another"}),
        (
            Grows,
            {"test_keeps_half_precision_maps_under_autocast", "test_works_in_double_precision"},
        ),
        (Roots, {"test_constant_maps_give_numbers_and_finite_gradients"}),
        (OneEyed, {"test_listens_to_both_maps"}),
        (Overwrites, {"test_leaves_its_inputs_alone"}),
        (Idle, {"test_gradient_reaches_maps_text_and_every_parameter"}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_the_modulation_contract_catches(failures, scheme, caught):
    failed = failures(testing.ModulationContract, scheme)
    assert caught <= failed
    if not caught:
        assert not failed


class Averaging(nn.Module):
    """A network without fault but for what a subclass adds."""

    modulation_points = ("only",)

    def __init__(self, *, modulation=None, text_dim):
        super().__init__()
        self.point = modulation(4) if modulation else Mixing(channels=4, text_dim=text_dim)
        self.visible_in = nn.Conv2d(3, 4, 1)
        self.infrared_in = nn.Conv2d(1, 4, 1)
        self.out = nn.Conv2d(4, 3, 1)

    def forward(self, batch):
        maps = self.visible_in(batch.visible), self.infrared_in(batch.infrared)
        image = self.out(self.point(*maps, batch.text, batch.guides)).float()
        return Fused(image=image if self.training else image.sigmoid())


class Overshoots(Averaging):
    """Leaves [0, 1]."""

    def forward(self, batch):
        return Fused(image=super().forward(batch).image * 3 - 1)


class Ignores(Averaging):
    """Takes a scheme and uses its own."""

    def __init__(self, *, modulation=None, text_dim):
        super().__init__(text_dim=text_dim)


class Misnames(Averaging):
    """Names a layer it does not have."""

    layers = ("pint",)


@pytest.mark.parametrize(
    ("network", "caught"),
    [
        (Averaging, set()),
        (Overshoots, {"test_returns_a_colour_picture_in_range"}),
        (Ignores, {"test_takes_another_scheme_at_each_of_its_text_points"}),
        (Misnames, {"test_names_layers_that_exist"}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_the_network_contract_catches(failures, network, caught):
    assert failures(testing.NetworkContract, network) == caught


class Distance:
    """Mean distance to the visible picture."""

    def __call__(self, batch, fused):
        return {"distance": (fused.image - batch.visible).square().mean()}


class PerPicture(Distance):
    """Forgets the mean."""

    def __call__(self, batch, fused):
        return {"distance": (fused.image - batch.visible).square().mean((1, 2, 3))}


class Detached(Distance):
    """Stops the gradient."""

    def __call__(self, batch, fused):
        return {"distance": (fused.image.detach() - batch.visible).mean() + 0 * fused.image.sum()}


class Divides(Distance):
    """Divides by a spread that may be zero."""

    def __call__(self, batch, fused):
        return {"distance": fused.image.std() / batch.visible.std()}


class Nobodys(Distance):
    """Says nothing of where it comes from."""

    __module__ = "nowhere"


@pytest.mark.parametrize(
    ("loss", "caught"),
    [
        (Distance, set()),
        (Nobodys, {"test_says_whose_idea_it_is"}),
        (PerPicture, {"test_returns_named_finite_scalars"}),
        (Detached, {"test_gradient_reaches_the_picture"}),
        (Divides, {"test_constant_pictures_give_finite_terms_and_gradients"}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_the_loss_contract_catches(failures, loss, caught):
    failed = failures(testing.LossContract, loss)
    assert caught <= failed
    assert bool(failed) == bool(caught)


def test_the_tiny_encoder_keeps_the_contract_of_encoders(failures):
    assert failures(testing.EncoderContract, testing.TinyEncoder) == set()


def test_a_heat_map_guide_on_the_tiny_encoder_keeps_the_contract_of_guides(failures):
    class Where:
        """The encoder's heat map."""

        def __call__(self, batch):
            return {"where": testing.TinyEncoder().heatmap(list(batch.prompts), batch.visible)}

    class Batchwise(Where):
        """Shares one sum among the pictures."""

        def __call__(self, batch):
            heat = super().__call__(batch)["where"]
            return {"where": heat / heat.sum()}

    assert failures(testing.GuideContract, Where) == set()
    caught = failures(testing.GuideContract, Batchwise)
    assert caught == {"test_one_picture_does_not_change_another"}


class Darkens:
    """A degradation without fault."""

    name, modality, prompts = "darkens", "visible", ("brighten it",)

    def __call__(self, image, severity, generator=None, **context):
        severity = torch.as_tensor(severity).reshape(-1, 1, 1, 1)
        return image * (1 - 0.8 * severity)


class Flickers(Darkens):
    """Draws from the global generator."""

    def __call__(self, image, severity, generator=None, **context):
        image = super().__call__(image, severity)
        noise = torch.as_tensor(severity).reshape(-1, 1, 1, 1) * 0.2 * torch.rand(image.shape)
        return (image + noise).clamp(0, 1)


class Always(Darkens):
    """Acts at severity 0, too."""

    def __call__(self, image, severity, generator=None, **context):
        return super().__call__(image, severity) * 0.9


@pytest.mark.parametrize(
    ("degradation", "caught"),
    [
        (Darkens, set()),
        (Flickers, {"test_the_same_generator_gives_the_same_damage"}),
        (Always, {"test_severity_0_changes_nothing", "test_each_picture_has_its_own_severity"}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_the_degradation_contract_catches(failures, degradation, caught):
    assert failures(testing.DegradationContract, degradation) == caught


def test_the_dataset_contract_catches_endless_sets_and_chance(failures):
    class Made:
        """Synthetic pairs."""

        layout = licence = source = "made"

        def __init__(self, count):
            self.pairs = testing.tiny_pairs(count, 16)

        def __len__(self):
            return len(self.pairs)

        def __getitem__(self, index):
            return self.pairs[index]

    class Endless(Made):
        """Starts again at its end."""

        def __getitem__(self, index):
            return self.pairs[index % len(self.pairs)]

    class Random(Made):
        """Other pairs every time."""

        def __init__(self, count):
            self.pairs = testing.tiny_pairs(count, 16, seed=torch.seed() % 2**31)

    assert failures(testing.DatasetContract, Made) == set()
    caught = failures(testing.DatasetContract, Endless)
    assert caught == {"test_ends_where_it_says"}
    caught = failures(testing.DatasetContract, Random)
    assert caught == {"test_the_same_pair_is_read_the_same_twice"}


def test_the_metric_contract_catches_a_mean_over_the_batch_and_a_wrong_range(failures):
    class Brightness:
        """Mean value."""

        name, unit, source, variant, needs = "brightness", "1", "made up", "S", ("fused",)
        higher_is_better, range = True, (0.0, 1.0)

        def __call__(self, fused, ir, vi):
            return fused.mean((1, 2, 3))

    class Overall(Brightness):
        """One mean for all."""

        def __call__(self, fused, ir, vi):
            return fused.mean().expand(len(fused))

    class Narrow(Brightness):
        """Claims a range that is too small."""

        range = (0.0, 0.01)

    assert failures(testing.MetricContract, Brightness) == set()
    caught = failures(testing.MetricContract, Overall)
    assert caught == {"test_a_picture_scores_the_same_alone"}
    caught = failures(testing.MetricContract, Narrow)
    assert caught == {"test_returns_one_finite_number_per_picture_within_its_range"}


def test_contracts_are_made_for_everything_a_plugin_offers(failures):
    registry = Registry()
    testing.install(registry, "mine", modulation={"my-mix": Mixing}, loss={"distance": Distance})
    testing.install(registry, "other", network={"averaging": Averaging})
    classes = testing.contracts(registry, "mine", leave_out=(("loss", "distance"),))
    assert list(classes) == ["TestModulationMyMix"]
    assert failures(classes["TestModulationMyMix"]) == set()
    assert set(testing.contracts(registry)) == {
        "TestLossDistance",
        "TestModulationMyMix",
        "TestNetworkAveraging",
    }


def test_contracts_hand_in_an_encoder_and_take_options(failures):
    class Scaled(Distance):
        """Asks for an encoder and a factor."""

        def __init__(self, *, encoder, factor):
            assert isinstance(encoder, testing.TinyEncoder) and factor == 2

    registry = Registry()
    testing.install(registry, "mine", loss={"scaled": Scaled})
    classes = testing.contracts(registry, options={("loss", "scaled"): {"factor": 2}})
    assert failures(classes["TestLossScaled"]) == set()


def test_tiny_inputs_are_what_the_protocols_say():
    (pair,) = testing.tiny_pairs(1, (20, 30))
    (x0, y0, x1, y1) = pair.things[0].box
    inside = torch.zeros(1, 20, 30, dtype=torch.bool)
    inside[:, int(y0) : int(y1), int(x0) : int(x1)] = True
    assert pair.masks["person"][~inside].sum() == 0 < pair.masks["person"].sum()
    batch = testing.tiny_batch(3, 16)
    assert len(batch) == len(batch.prompts) == len(batch.names) == len(batch.text) == 3
    assert isinstance(Averaging(text_dim=testing.TEXT_DIM), Network)
    assert isinstance(batch.texts["ir"], TextFeatures)


def test_the_registry_fixture_is_empty(registry):
    assert registry.describe() == []


registry = testing.registry
