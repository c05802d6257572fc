import math

import pytest
import torch
from fusionkit_ldfusion import crops, perceptual
from fusionkit_ldfusion.crops import Windows, draw_windows, entropy
from fusionkit_ldfusion.language import (
    SENTENCES,
    Language,
    LanguageDirection,
    direction_cosine,
    unit,
)
from fusionkit_ldfusion.metrics import DetailEnergy, DirectionInfrared, DirectionVisible
from fusionkit_ldfusion.perceptual import FILE, VggMax
from torch.nn.functional import interpolate, pad

from fusionkit.batch import Batch, Fused, ImageFeatures, TextFeatures
from fusionkit.errors import BadRequest, MissingWeights
from fusionkit.testing import LossContract, TinyEncoder


class Axes:
    """A joint space: brightness of the left half, of the right half, and a constant.

    The constant keeps the unit vectors off one circle, on which a move knows two directions only.
    """

    text_dim = 3
    image_size = 16
    words = {"dark": (0.1, 0.1, 0.5), "left": (1.0, 0.1, 0.5), "right": (0.1, 1.0, 0.5)}

    def __init__(self):
        self.pictures = 0

    def encode_text(self, prompts):
        return TextFeatures(pooled=torch.tensor([self.words[p] for p in prompts]))

    def encode_image(self, image):
        self.pictures += len(image)
        left, right = image.mean(1).chunk(2, -1)
        halves = torch.stack([left.mean((1, 2)), right.mean((1, 2))], 1) + 0.1
        pooled = pad(halves, (0, 1), value=0.5)
        return ImageFeatures(pooled=pooled, patches=pooled[..., None, None])


class Colourless(TinyEncoder):
    image_size = 40


def noisy(count=2, size=(48, 56), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        visible=torch.rand(count, 3, *size, generator=generator),
        infrared=torch.rand(count, 1, *size, generator=generator),
    )


def fused_of(batch, seed=5):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(batch.visible.shape, generator=generator).requires_grad_()
    return Fused(image)


# -- direction ------------------------------------------------------------------------------------


def test_a_move_along_the_sentences_has_cosine_one_and_against_them_minus_one():
    start, goal = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert direction_cosine(goal, start, goal, start).item() == pytest.approx(1)
    assert direction_cosine(start, goal, goal, start).item() == pytest.approx(-1)


def test_a_picture_that_did_not_move_has_no_direction_and_no_gradient():
    x = torch.tensor([[0.6, 0.8]], requires_grad=True)
    value = direction_cosine(x, x.detach(), torch.eye(2)[:1], torch.eye(2)[1:])
    value.sum().backward()
    assert value.item() == 0 and x.grad.isfinite().all()
    assert torch.equal(unit(torch.zeros(1, 3)), torch.zeros(1, 3))


def test_the_loss_pulls_the_picture_where_the_sentence_points():
    """Objective: bright on the right; sources are dark. Descent must brighten the right half."""
    encoder = Axes()
    words = {"visible": "dark", "infrared": "dark", "fused": "right"}
    loss = LanguageDirection(
        encoder=encoder, sentences=words, terms=("global", "patch"), entropy_min=0, crops=4
    )
    torch.manual_seed(0)
    dark = torch.full((1, 3, 32, 32), 0.2)
    batch = Batch(visible=dark, infrared=dark[:, :1])
    image = (dark + 0.05 * torch.rand(dark.shape)).requires_grad_()
    sum(loss(batch, Fused(image)).values()).backward()
    left, right = (half.mean() for half in (-image.grad).chunk(2, -1))
    assert right > 0 > left


def test_changed_sentences_change_the_loss_and_unknown_roles_are_named():
    batch = noisy()
    fused = fused_of(batch)
    values = [
        LanguageDirection(encoder=TinyEncoder(), sentences=words, terms=["global"])(batch, fused)
        for words in (None, {"fused": "a bright picture"})
    ]
    assert values[0]["global"] != values[1]["global"]
    with pytest.raises(BadRequest, match=r"no sentence for 'fuse'.*'fused'"):
        Language(TinyEncoder(), {"fuse": "x"})
    with pytest.raises(BadRequest, match="needs a sentence for 'infrared'"):
        Language(TinyEncoder(), {"infrared": []})


def test_a_source_of_several_sentences_is_their_mean_and_objectives_are_drawn():
    words = {"visible": ["left", "right"], "infrared": "dark", "fused": ["left", "right"]}
    language = Language(Axes(), words)
    torch.testing.assert_close(language.kind("visible"), torch.tensor([[0.55, 0.55, 0.5]]))
    torch.manual_seed(0)
    drawn = language.objective(200)
    share = (drawn[:, 0] > 0.5).float().mean().item()
    assert 0.35 < share < 0.65
    assert {tuple(row) for row in drawn.tolist()} == {
        tuple(row) for row in torch.tensor([[1.0, 0.1, 0.5], [0.1, 1.0, 0.5]]).tolist()
    }


def test_sentences_are_encoded_once_and_crops_that_do_not_count_not_at_all():
    class Counting(Colourless):
        texts = pictures = 0

        def encode_text(self, prompts):
            Counting.texts += 1
            return super().encode_text(prompts)

        def encode_image(self, image):
            Counting.pictures += len(image)
            return super().encode_image(image)

    loss = LanguageDirection(encoder=Counting(), crops=8)
    flat = Batch(visible=torch.full((2, 3, 48, 48), 0.5), infrared=torch.rand(2, 1, 48, 48))
    for _ in range(3):
        terms = loss(flat, fused_of(flat))
        assert terms["patch"] == 0
    assert Counting.texts == len(SENTENCES)
    assert Counting.pictures == 3 * (2 + 2 + 2)  # sources and fused, two pictures each; no crop


def test_an_encoder_of_texts_alone_is_refused():
    class Blind:
        def encode_text(self, prompts): ...

    with pytest.raises(BadRequest, match="reads both"):
        LanguageDirection(encoder=Blind())
    with pytest.raises(BadRequest, match=r"no term 'gobal'.*'global'"):
        LanguageDirection(encoder=TinyEncoder(), terms=["gobal"])


# -- patches --------------------------------------------------------------------------------------


def plain_patch_term(loss, batch, fused):
    """One crop of one picture at a time, everything encoded anew, divided by all crops."""
    from fusionkit_ldfusion.language import _draw

    language = loss.language
    torch.manual_seed(3)
    with torch.random.fork_rng(devices=[]):
        windows = _draw(loss.crops, tuple(batch.infrared.shape[-2:]))
    grey = (fused.image * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    visible = (batch.visible * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(
        1, keepdim=True
    )
    total, counted, side = 0.0, 0, (language.side, language.side)
    for number in range(len(windows)):
        window = windows[number : number + 1]
        for sample in range(len(grey)):
            row = slice(sample, sample + 1)
            cut = [
                interpolate(window.cut(x[row])[0], side, mode="bilinear", align_corners=False)
                for x in (grey, visible, batch.infrared)
            ]
            if min(entropy(cut[1]).item(), entropy(cut[2]).item()) <= loss.entropy_min:
                continue
            counted += 1
            e = [language.see(x) for x in (cut[0], visible[row], batch.infrared[row])]
            found = language.cosines(*e, language.sentence("fused"))
            total = total + 1 - (found[0] + found[1]).sum() / 2
    return total / (len(windows) * len(grey)), counted


@pytest.mark.parametrize("chunk", [1, 5, 1000])
def test_batched_crops_are_the_plain_formulation_in_value_and_gradient(chunk):
    batch = noisy()
    # A flat corner in one picture, so that some crops count and some do not.
    batch.infrared[0, :, :, :34] = 0.5
    fused = fused_of(batch)
    loss = LanguageDirection(
        encoder=Colourless(), crops=6, chunk=chunk, entropy_min=6.9, terms=["patch"]
    )
    plain, counted = plain_patch_term(loss, batch, fused)
    assert 0 < counted < 12
    (slow,) = torch.autograd.grad(plain, fused.image)
    torch.manual_seed(3)
    fast = loss(batch, fused)["patch"]
    torch.testing.assert_close(fast, plain)
    (gradient,) = torch.autograd.grad(3 * fast, fused.image)
    torch.testing.assert_close(gradient, 3 * slow, rtol=1e-4, atol=1e-8)


def test_crops_differ_from_step_to_step_and_leave_the_generator_alone():
    batch = noisy()
    fused = fused_of(batch)
    loss = LanguageDirection(encoder=Colourless(), crops=4, terms=["patch"], entropy_min=0)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = loss(batch, fused)["patch"]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, loss(batch, fused)["patch"])
    torch.manual_seed(2)
    assert first != loss(batch, fused)["patch"]


def test_moves_are_those_of_torchvision():
    affine = pytest.importorskip("torchvision.transforms.functional").affine
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 50, 60, generator=generator)
    for side in (30, 31):
        corner = draw_windows(1, (50, 60), side, generator).corners
        for angle, shear, shift, grow in ((4.0, -3.0, 2.0, 1.4), (-5.0, 5.0, -3.0, 1.0)):
            numbers = (torch.tensor([v]) for v in (angle, shear, shift, grow))
            found = Windows(side, corner, crops.moves(*numbers)).cut(image)[0]
            top, left = corner[0].tolist()
            cut = image[..., top : top + side, left : left + side]
            assert torch.equal(found, affine(cut, angle, [0, int(shift)], grow, [shear, 0.0]))


def test_drawn_moves_stay_within_their_ranges():
    windows = draw_windows(500, (40, 70), 30, torch.Generator().manual_seed(0))
    assert windows.corners.amin(0).tolist() == [0, 0]
    assert windows.corners.amax(0).tolist() == [10, 40]
    grow = windows.moves[:, :, :2].det().rsqrt()
    assert grow.min() >= 1 and grow.max() <= 1.5 + 1e-5 and grow.max() > 1.45


def test_entropy_of_known_pictures():
    two = torch.tensor([0.0, 1.0]).repeat(32).view(1, 1, 8, 8)
    many = (torch.arange(256.0) / 256).view(1, 1, 16, 16)
    assert entropy(two).item() == 1
    assert entropy(many).item() == 8
    assert entropy(torch.full((1, 1, 4, 4), 0.3)).item() == 0
    assert entropy(torch.full((1, 1, 4, 4), 2.0)).item() == 0  # outside: nothing counts
    assert math.isclose(entropy(torch.cat([two * 3 - 1, two]))[1].item(), 1)


# -- where the sentence is met --------------------------------------------------------------------


def test_the_heat_map_is_high_where_the_fused_picture_moved_as_the_sentence_says():
    """Objective: a window bright on its right. The fused picture has such windows at its left."""
    words = {"visible": "dark", "infrared": "dark", "fused": "right"}
    loss = LanguageDirection(encoder=Axes(), sentences=words, entropy_min=2)
    dark = torch.full((1, 3, 32, 96), 0.2)
    fused = dark.clone()
    fused[..., 8:16] = 0.9  # the right half of the windows that start at 0
    fused[..., 80:88] = 0.9  # the left half of the last window
    maps = loss.heatmaps(Batch(visible=dark, infrared=dark[:, :1]), Fused(fused))
    words, met = maps["objective"]
    assert words == ("right",) and met.shape == (1, 1, 32, 96)
    assert met.min() >= 0 and met.max() <= 1
    assert met[..., 2].mean() > 0.8 > 0.5 > met[..., -2].mean()
    _, counted = maps["objective-counted"]
    assert counted.shape == (1, 1, 32, 96) and counted.max() == 0  # flat sources: nothing counts


# -- perceptual -----------------------------------------------------------------------------------


class TestVggMaxContract(LossContract):
    def build(self, **options):
        return VggMax(weights="seeded")


def test_missing_imagenet_weights_say_what_to_do(monkeypatch, request):
    torchvision = pytest.importorskip("torchvision.models")

    def offline(self, *args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.VGG19_Weights, "get_state_dict", offline)
    perceptual._fetched.cache_clear()
    request.addfinalizer(perceptual._fetched.cache_clear)
    monkeypatch.delenv("FUSIONKIT_WEIGHTS", raising=False)
    with pytest.raises(MissingWeights, match=r"no route to host.*FUSIONKIT_WEIGHTS.*seeded"):
        VggMax()
    with pytest.warns(UserWarning, match="its numbers are random"):
        loss = VggMax(offline="seeded")
    assert "not meaningful" in loss.remark


def test_imagenet_weights_are_read_from_the_users_folder(monkeypatch, tmp_path):
    source = VggMax(weights="seeded")
    state = {f"features.{key}": value + 1 for key, value in source.features.state_dict().items()}
    state["classifier.0.bias"] = torch.zeros(3)  # the file holds the whole network
    torch.save(state, tmp_path / FILE)
    monkeypatch.setenv("FUSIONKIT_WEIGHTS", str(tmp_path))
    loss = VggMax()
    assert torch.equal(loss.features[0].weight, source.features[0].weight + 1)
    assert loss.remark == ""
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(BadRequest, match="no weights of torchvision's VGG19"):
        VggMax(weights=str(tmp_path / "other.pth"))


def test_a_smaller_size_reads_shrunken_pictures():
    grey = torch.rand(1, 1, 64, 80)
    taps = VggMax(weights="seeded", size=32).taps(grey)
    assert taps["conv2_1"].shape == (1, 128, 16, 20)


# -- scores ---------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_scores_are_the_cosines_of_the_loss():
    batch, words = noisy(), {"fused": "a bright picture"}
    fused = fused_of(batch).image.detach()
    encoder = TinyEncoder()
    scores = [
        score(encoder=encoder, sentences=words)(fused, batch.infrared, batch.visible)
        for score in (DirectionVisible, DirectionInfrared)
    ]
    terms = LanguageDirection(encoder=encoder, sentences=words, terms=["global"])
    found = terms(batch, Fused(fused))["global"]
    torch.testing.assert_close(1 - (scores[0] + scores[1]).mean() / 2, found)


def test_a_picture_left_as_it_was_has_no_direction():
    batch = noisy()
    same = DirectionVisible(encoder=TinyEncoder())(batch.visible, batch.infrared, batch.visible)
    assert same.isnan().all()


def test_detail_energy_of_one_bright_column():
    """Two columns of differences of 1 over 4 rows, 3 diagonal steps each: norms by hand."""
    picture = torch.zeros(1, 1, 4, 5)
    picture[..., 2] = 1
    expected = 0.002 * (math.sqrt(8) + 0 + 2 * math.sqrt(6))
    assert DetailEnergy()(picture).item() == pytest.approx(expected)
