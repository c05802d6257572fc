"""The system at work: instructions, regions, network, samples, data on disk, training."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from fusionkit_rfc import bands, clipseg
from fusionkit_rfc.controller import GRIDS, MAPS, response
from fusionkit_rfc.datasets import Instructed, InstructedPair
from fusionkit_rfc.guide import Regions, projected
from fusionkit_rfc.instructions import (
    ACTIONS,
    DEGREES,
    IMAGE,
    MODALITIES,
    NOTHING,
    Instruction,
    compose,
    parse,
    process_phrase,
    split,
    split_by_dependencies,
)
from fusionkit_rfc.losses import RegionReconstruction, alignment, balance
from fusionkit_rfc.modulation import DenseModulation
from fusionkit_rfc.network import RFC
from fusionkit_rfc.task import Instructions

from fusionkit.batch import Batch, Fused
from fusionkit.capture import capture
from fusionkit.data import write_image
from fusionkit.errors import BadRequest
from fusionkit.methods import Method
from fusionkit.protocols import Pair
from fusionkit.registry import Registry
from fusionkit.testing import (
    DatasetContract,
    GuideContract,
    LossContract,
    TinyEncoder,
    tiny_batch,
    tiny_pairs,
    tiny_text,
)
from fusionkit.training import train

REGISTRY = Registry.from_environment()
SMALL = {"base": 8, "region": 4, "couplings": 1, "fusions": 2}


# ---------------------------------------------------------------------------------- instructions


@pytest.mark.parametrize(
    ("said", "target", "process"),
    [
        ("enhance the light of the car", "car", "enhance the light of the photo"),
        ("reduce the noise of the image", "image", "reduce the noise of the photo"),
        ("remove the flare of the light", "light", "remove the flare of the photo"),
        (
            "enhance the visibility of the image", "image",
            "enhance the visibility of the photo",
        ),
        ("make the tree brighter", "tree", "make the photo brighter"),
        ("", None, NOTHING),
        ("None", None, NOTHING),
        ("  Make the traffic light  clear. ", "traffic light", "make the photo clear"),
        ("what a fine day", "image", "what a fine day"),
        (
            "slightly reduce the noise of the car in the infrared image", "car",
            "slightly reduce the noise of the photo in the infrared image",
        ),
        (
            "reduce the noise of the infrared image", "image",
            "reduce the noise of the infrared photo",
        ),
    ],
)  # fmt: skip
def test_an_instruction_is_split_into_where_and_what(said, target, process):
    assert split(said) == (target, process)
    assert process_phrase(said) == process


def test_whatever_the_grammar_composes_it_parses_back():
    everything = [
        Instruction(action, region, modality, degree, form)
        for action, forms in ACTIONS.items()
        for form in range(len(forms))
        for region, modality, degree in itertools.product(
            (IMAGE, "car", "person on the left"), (None, *MODALITIES), (None, *DEGREES)
        )
    ]
    sentences = [compose(instruction) for instruction in everything]
    assert [parse(sentence) for sentence in sentences] == everything
    assert len(set(sentences)) == len(everything) == 432


def test_in_the_image_is_read_over():
    assert split("Enhance the light of the car in the image.") == (
        "car", "enhance the light of the photo",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("instruction", "said"),
    [
        (Instruction("nosie"), "Did you mean 'noise'"),
        (Instruction("noise", degree="much"), "slightly, moderately, fully"),
        (Instruction("noise", modality="thermal"), "infrared, visible"),
        (Instruction("noise", form=1), "there is no 1"),
        (Instruction("noise", region="car in the infrared image"), "cannot stand"),
        (Instruction("noise", region="Car 7"), "cannot stand"),
    ],
)
def test_what_the_grammar_cannot_say_is_refused(instruction, said):
    with pytest.raises(BadRequest, match=said):
        compose(instruction)


def tokens(text):
    """``word/relation/part-of-speech`` for each token of a parse worked out by hand."""
    parts = (word.split("/") for word in text.split())
    return [SimpleNamespace(text=a, dep_=b, pos_=c) for a, b, c in parts]


@pytest.mark.parametrize(
    ("parse_by_hand", "target", "process"),
    [
        (
            "enhance/ROOT/VERB the/det/DET light/dobj/NOUN of/prep/ADP the/det/DET red/amod/ADJ "
            "car/pobj/NOUN", "red car", "enhance the light of the photo photo",
        ),
        (
            "make/ROOT/VERB the/det/DET tree/nsubj/NOUN brighter/ccomp/ADJ",
            "tree", "make the photo brighter",
        ),
        (
            "make/ROOT/VERB the/det/DET light/nsubj/NOUN of/prep/ADP the/det/DET car/pobj/NOUN "
            "bright/ccomp/ADJ", "car", "make the light of the photo bright",
        ),
        (
            "light/nsubj/NOUN of/prep/ADP the/det/DET car/pobj/NOUN fades/ROOT/VERB",
            "car", "light of the photo fades",
        ),
        ("the/det/DET sky/nsubj/NOUN glows/ROOT/VERB", "sky", "the photo glows"),
        ("brighten/ROOT/VERB it/dobj/PRON", "image", "brighten it"),
    ],
)  # fmt: skip
def test_the_released_rules_read_a_dependency_parse(parse_by_hand, target, process):
    parsed = tokens(parse_by_hand)
    sentence = " ".join(token.text for token in parsed)
    assert split_by_dependencies(sentence, lambda said: parsed) == (target, process)


def test_the_released_parser_says_what_it_needs():
    with pytest.raises(BadRequest, match="spacy download no_such_model"):
        split_by_dependencies("make the car brighter", model="no_such_model")


# --------------------------------------------------------------------------------------- regions


@pytest.fixture(scope="module")
def small_clipseg(tmp_path_factory):
    """A CLIPSeg with random weights and the grid's 64 channels, as a folder."""
    transformers = pytest.importorskip("transformers", reason="needs the extra 'hub'")
    folder = tmp_path_factory.mktemp("clipseg")
    torch.manual_seed(3)
    names = ["car</w>", "tree</w>", *"cartre", "r</w>", "e</w>", "<|startoftext|>", "<|endoftext|>"]
    names = list(dict.fromkeys(names))
    tokenizer = transformers.CLIPTokenizer(
        vocab={word: i for i, word in enumerate(names)}, merges=[], model_max_length=16
    )
    text = {
        "vocab_size": len(names), "hidden_size": 16, "intermediate_size": 16,
        "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 16,
        "bos_token_id": len(names) - 2, "eos_token_id": len(names) - 1,
        "pad_token_id": len(names) - 1,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "image_size": 64,
        "patch_size": 16, "num_hidden_layers": 3,
    }  # fmt: skip
    config = transformers.CLIPSegConfig(
        text_config=text, vision_config=vision, projection_dim=16, extract_layers=[0, 1],
        reduce_dim=64, decoder_num_attention_heads=4, decoder_intermediate_size=16,
        use_complex_transposed_convolution=True,
    )  # fmt: skip
    transformers.CLIPSegForImageSegmentation(config).save_pretrained(folder)
    images = transformers.ViTImageProcessor(size={"height": 64, "width": 64})
    transformers.CLIPSegProcessor(images, tokenizer).save_pretrained(folder)
    return str(folder)


class TestRegionsByClipSeg(GuideContract):
    @pytest.fixture(autouse=True)
    def model(self, small_clipseg):
        built = Regions(model=small_clipseg, device="cpu")
        self.build = lambda: built

    def batch(self, count=2, size=(57, 83)):
        prompts = ("make the car brighter", "make the image brighter")[:count]
        return tiny_batch(count, size).replace(prompts=prompts)


class TestRegionsByEncoder(TestRegionsByClipSeg):
    @pytest.fixture(autouse=True)
    def model(self):
        self.build = lambda: Regions(encoder=TinyEncoder(), model=None)


@pytest.mark.parametrize("kind", ["clipseg", "encoder"])
def test_region_image_and_nothing_each_have_their_response(kind, request):
    if kind == "clipseg":
        guide = Regions(model=request.getfixturevalue("small_clipseg"), device="cpu")
    else:
        guide = Regions(encoder=TinyEncoder(), model=None, grid=5)
    said = ("make the car brighter", "make the tree brighter", "make the image brighter", "none")
    one = tiny_batch(1, (57, 83))
    batch = Batch(
        visible=one.visible.expand(4, -1, -1, -1),
        infrared=one.infrared.expand(4, -1, -1, -1),
        prompts=said,
    )
    found = guide(batch)
    maps, grids = found[MAPS], found[GRIDS]
    assert maps.shape[:2] == (4, 2) and grids.shape[:2] == (4, 128)
    assert maps.min() >= 0 and maps.max() <= 1
    assert not torch.equal(maps[0], maps[1]) and not torch.equal(grids[0], grids[1])
    assert not torch.equal(maps[0, 0], maps[0, 1])
    assert (maps[2] == 1).all() and (maps[3] == 0).all()
    assert (grids[2] != 0).any() and (grids[3] == 0).all()


def test_clipseg_answers_as_its_own_program_does(small_clipseg):
    """The guide's map is the sigmoid of transformers' own logits for the bare phrase."""
    guide = Regions(model=small_clipseg, device="cpu")
    batch = tiny_batch(1, (57, 83)).replace(prompts=("make the car brighter",))
    tokens = guide.tokenizer(["car"], return_tensors="pt")
    pixels = clipseg.prepared(batch.visible)
    wanted = guide.model(pixel_values=pixels, **tokens).logits.sigmoid()
    torch.testing.assert_close(guide(batch)[MAPS][:, 1], wanted.reshape(1, *wanted.shape[-2:]))


def test_the_authors_decoder_file_goes_into_the_model(small_clipseg, tmp_path):
    guide = Regions(model=small_clipseg, device="cpu")
    state = {k: v.clone() for k, v in guide.model.state_dict().items() if k.startswith("decoder.")}
    released = {"reduce.weight": torch.zeros(64, 16)}
    for name, value in state.items():
        name = name.removeprefix("decoder.").replace("transposed_convolution.", "trans_conv.")
        name = name.replace("layers.", "blocks.").replace("layer_norm", "norm")
        released[name.replace("mlp.fc", "linear")] = value + 1
    for layer, end in itertools.product((0, 1), ("weight", "bias")):
        start = f"blocks.{layer}.self_attn."
        parts = [released.pop(f"{start}{part}_proj.{end}") for part in "qkv"]
        released[f"{start}in_proj_{end}"] = torch.cat(parts)
    torch.save(released, tmp_path / "rd64.pth")
    told = Regions(model=small_clipseg, device="cpu", weights=str(tmp_path / "rd64.pth"))
    for name, value in state.items():
        torch.testing.assert_close(told.model.state_dict()[name], value + 1)
    del released["film_add.bias"]
    torch.save(released, tmp_path / "cut.pth")
    with pytest.raises(BadRequest, match="do not fit this CLIPSeg"):
        Regions(model=small_clipseg, device="cpu", weights=str(tmp_path / "cut.pth"))


def test_without_clipseg_the_encoder_answers_and_says_so(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.warns(UserWarning, match="not the method of the paper"):
        guide = Regions(encoder=TinyEncoder(), model="nobody/has-this")
    assert guide.model is None


def test_a_guide_that_cannot_answer_is_refused():
    with pytest.raises(BadRequest, match="read pictures too"):
        Regions(model=None)
    with pytest.raises(BadRequest, match="grammar, spacy"):
        Regions(encoder=TinyEncoder(), model=None, parser="chomsky")
    guide = Regions(encoder=TinyEncoder(), model=None)
    with pytest.raises(BadRequest, match="an instruction for each pair"):
        guide(tiny_batch(2).replace(prompts=()))


def test_features_of_another_width_keep_their_geometry():
    x = torch.randn(2, 512, 3, 3, generator=torch.Generator().manual_seed(0))
    found = projected(x, 64)
    assert found.shape == (2, 64, 3, 3) and torch.equal(found, projected(x, 64))
    ratio = found.norm(dim=1) ** 2 / x.norm(dim=1) ** 2 * 512 / 64
    torch.testing.assert_close(ratio.mean(), torch.tensor(1.0), rtol=0.2, atol=0)
    assert projected(x, 512) is x


def test_a_heat_map_serves_where_there_is_no_response_and_nothing_where_there_is_neither():
    batch = tiny_batch(2)
    maps, grids = response({"heatmap": batch.guides["heatmap"]}, batch.visible)
    assert torch.equal(maps[:, 1:], batch.guides["heatmap"]) and not grids.any()
    maps, grids = response({}, batch.visible)
    assert not maps.any() and not grids.any()


# --------------------------------------------------------------------------------------- network


def small(**options):
    torch.manual_seed(0)
    return RFC(text_dim=16, **SMALL, **options).eval()


def instructed(said, size=(40, 48)):
    """A batch of one pair with text and response of an instruction."""
    encoder = TinyEncoder()
    batch = tiny_batch(1, size).replace(
        prompts=(said,), guides={}, text=encoder.encode_text([process_phrase(said)])
    )
    return batch.replace(guides=Regions(encoder=encoder, model=None, grid=3)(batch))


def test_a_map_in_bands_is_the_map_in_one_piece(monkeypatch):
    network, batch = small(), instructed("make the car brighter", (64, 40))
    with torch.no_grad():
        whole = network(batch)
        monkeypatch.setattr(bands, "BAND_BYTES", {"cpu": 1, "cuda": 1})
        banded = network(batch)
    torch.testing.assert_close(banded.image, whole.image, atol=1e-5, rtol=0)
    for name, value in whole.maps.items():
        torch.testing.assert_close(banded.maps[name], value, atol=1e-4, rtol=0)


def test_words_of_action_and_region_both_change_the_picture():
    network = small()
    said = ("make the car brighter", "make the car darker", "make the tree brighter", "")
    with torch.no_grad():
        images = [network(instructed(text)).image for text in said]
    for one, other in itertools.combinations(images, 2):
        assert not torch.allclose(one, other, atol=1e-7)


def test_its_sizes_are_options_and_wrong_ones_are_refused():
    assert len(RFC(**SMALL, text_dim=16).imagemoudle._modules) == 4
    with pytest.raises(ValueError, match="at least one of each"):
        RFC(couplings=0)
    with pytest.raises(ValueError, match="must divide by reduction"):
        RFC(base=6)


def test_without_text_it_says_so():
    with pytest.raises(ValueError, match="encode prompts first"):
        small()(tiny_batch(1, (16, 16)).replace(text=None))
    with pytest.raises(ValueError, match="encode prompts first"):
        DenseModulation(channels=4, text_dim=16)(*torch.zeros(2, 1, 4, 6, 6), None, {})


@pytest.mark.parametrize("scheme", ["none", "film", "rfc", "gate", "textif"])
def test_other_schemes_take_its_text_points(scheme):
    recipe = REGISTRY.create("recipe", "rfc-small").with_overrides(
        {"modulation": scheme, "network.options": SMALL}
    )
    method = Method(recipe, REGISTRY)
    batch = tiny_batch(1, (32, 40)).replace(text=None, prompts=("make the car brighter",))
    fused = method(batch)
    assert fused.image.shape == (1, 3, 32, 40)
    assert "control" not in fused.maps and not hasattr(method.network, "imagemoudle")
    with capture(method.network, method.network.layers) as features:
        method(batch)
        assert "CBA1" in features and "ResBlock1" not in features


@pytest.mark.parametrize(("network", "options"), [
    ("compact", {}),
    ("textif", {"dim": 16, "num_blocks": (1, 1, 1, 1), "refinement": 1}),
])  # fmt: skip
def test_its_scheme_acts_in_other_networks_by_sentence_and_place(network, options):
    recipe = REGISTRY.create("recipe", "rfc-small").with_overrides(
        {"network": {"name": network, "options": options}, "modulation": "rfc"}
    )
    torch.manual_seed(0)
    method = Method(recipe, REGISTRY)
    points = [m for m in method.network.modules() if isinstance(m, DenseModulation)]
    assert len(points) == len(type(method.network).modulation_points)
    for point in points:
        torch.nn.init.normal_(point.affine.weight, std=0.1)
    for p in [getattr(method.network, "out", None)]:
        if p is not None:
            torch.nn.init.normal_(p.weight, std=0.1)
    batch = tiny_batch(1, (32, 40)).replace(text=None, guides={})
    said = ("make the car brighter", "make the car darker", "make the tree brighter")
    images = [method(batch.replace(prompts=(text,))).image for text in said]
    for one, other in itertools.combinations(images, 2):
        assert not torch.allclose(one, other, atol=1e-6)


def test_its_scheme_scales_and_shifts_every_pixel():
    point = DenseModulation(channels=4, text_dim=16)
    maps, text = torch.randn(2, 1, 4, 6, 7), tiny_text(1)
    guides = {"heatmap": torch.rand(1, 1, 6, 7)}
    torch.testing.assert_close(point(*maps, text, guides), maps.sum(0))  # it starts as the sum
    torch.nn.init.normal_(point.affine.weight)
    scale, shift = point.affine(point.prior(text, guides, maps[0])).chunk(2, 1)
    torch.testing.assert_close(point(*maps, text, guides), maps.sum(0) * (1 + scale) + shift)
    assert scale.std((2, 3)).min() > 0


# ---------------------------------------------------------------------------------------- losses


def test_balance_counts_region_and_rest_as_the_release_does():
    mask = torch.zeros(3, 1, 4, 5)
    mask[0, :, :1] = 1  # 5 of 20 pixels
    mask[1] = 1
    region, rest = (x.flatten().tolist() for x in balance(mask))
    assert region == pytest.approx([20 / 10, 1, 0]) and rest == pytest.approx([20 / 15, 0, 1])


def test_a_perfect_picture_costs_nothing_and_alignment_is_a_cosine():
    grey = torch.rand(2, 1, 12, 12).expand(-1, 3, -1, -1)
    batch = tiny_batch(2, (12, 12)).replace(
        targets={"visible": grey, "infrared": grey[:, :1], "mask": torch.rand(2, 1, 12, 12)}
    )
    ramp = torch.linspace(-1, 1, 144).view(1, 1, 12, 12).expand(2, -1, -1, -1)
    terms = RegionReconstruction()(batch, Fused(image=grey, maps={"change": ramp, "control": ramp}))
    assert all(abs(float(value)) < 1e-5 for value in terms.values())
    assert float(alignment(ramp, -ramp)) == pytest.approx(2)


def test_alignment_trains_only_where_it_is_meant_to():
    batch = tiny_batch(1, (16, 16))
    for gradient in (True, False):
        change = torch.rand(1, 1, 16, 16, requires_grad=True)
        maps = {"change": change, "control": torch.rand(1, 1, 16, 16)}
        loss = RegionReconstruction(align_gradient=gradient)
        assert loss(batch, Fused(image=batch.visible, maps=maps))["align"].requires_grad == gradient


def test_a_batch_without_goals_is_refused():
    batch = tiny_batch(1).replace(targets={})
    with pytest.raises(ValueError, match="visible, infrared, mask"):
        RegionReconstruction()(batch, Fused(image=batch.visible))


class TestLossWithMaps(LossContract):
    build = staticmethod(RegionReconstruction)

    def fused(self, batch):
        fused = super().fused(batch)
        return Fused(fused.image, {"change": fused.image.mean(1, keepdim=True),
                                   "control": batch.infrared})  # fmt: skip


# --------------------------------------------------------------------------------------- samples


def task_of(pairs, **options):
    guides = {"rfc-regions": Regions(encoder=TinyEncoder(), model=None, grid=2)}
    return Instructions(pairs=pairs, registry=REGISTRY, guides=guides, **options)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_reference_is_mended_inside_and_as_it_came_outside():
    task = task_of(tiny_pairs(3, (60, 70)), crop=48, other_share=0.0, degree_share=0.0)
    batch = task.sample(40, generator())
    kinds = set()
    for row, said in enumerate(batch.prompts):
        mask = batch.targets["mask"][row]
        asked = parse(said)
        region = None if asked is None else asked.region
        kinds.add(region)
        assert {None: 0.0, IMAGE: 1.0}.get(region, float(mask.mean())) == float(mask.mean())
        for side in MODALITIES:
            given, goal = getattr(batch, side)[row], batch.targets[side][row]
            assert torch.equal(given * (1 - mask), goal * (1 - mask))
        changed = not torch.equal(batch.visible[row] * mask, batch.targets["visible"][row] * mask)
        changed |= not torch.equal(
            batch.infrared[row] * mask, batch.targets["infrared"][row] * mask
        )
        assert changed == (region is not None), said
    assert kinds == {None, IMAGE, "person"}
    assert set(map(process_phrase, batch.prompts)) <= set(map(process_phrase, task.prompts))
    assert batch.guides[MAPS].shape == (40, 2, 48, 48)


def test_a_named_modality_leaves_the_other_picture_as_it_came():
    task = task_of(tiny_pairs(2, (40, 40)), actions=("noise",), modality_share=1.0, empty_share=0.0)
    batch = task.sample(12, generator())
    named = [parse(said).modality for said in batch.prompts]
    assert set(named) == set(MODALITIES)
    for row, side in enumerate(named):
        other = "visible" if side == "infrared" else "infrared"
        assert torch.equal(getattr(batch, other)[row], batch.targets[other][row])
        assert not torch.equal(getattr(batch, side)[row], batch.targets[side][row])
        assert set(batch.labels["damage"][row].split("+")) == {"noise", "ir-noise"}


def test_a_degree_mends_a_share_of_the_damage():
    pairs = tiny_pairs(1, (32, 32))
    task = task_of(pairs, actions=("low-light",), degree_share=1.0, modality_share=0.0,
                   empty_share=0.0, region_share=0.0)  # fmt: skip
    batch = task.sample(12, generator())
    clean = pairs[0].visible
    for row, said in enumerate(batch.prompts):
        share = DEGREES[parse(said).degree]
        wanted = torch.lerp(batch.visible[row], clean, share)
        torch.testing.assert_close(batch.targets["visible"][row], wanted)


def test_photographs_are_asked_for_what_the_guide_sees():
    bare = [Pair(p.name, p.visible, p.infrared) for p in tiny_pairs(2, (40, 40))]

    class Sees(Regions):
        """A car in the left third of both pictures, and nothing else."""

        def __call__(self, batch):
            found = super().__call__(batch)
            places = [split(said)[0] for said in batch.prompts]
            x = torch.arange(40) < 13
            found[MAPS] = torch.stack(
                [(x & (p == "car")).float().expand(2, 40, 40) for p in places]
            )
            return found

    guides = {"rfc-regions": Sees(encoder=TinyEncoder(), model=None, grid=2)}
    task = Instructions(pairs=bare, registry=REGISTRY, guides=guides, region_share=1.0,
                        empty_share=0.0)  # fmt: skip
    batch = task.sample(6, generator())
    assert {parse(said).region for said in batch.prompts} == {"car"}
    mask = batch.targets["mask"]
    assert mask[..., :10].min() > 0.95 and mask.max() < 0.9641 and mask[..., 16:].max() == 0


def test_samples_are_a_function_of_their_generator_and_scales_change_their_size():
    task = task_of(tiny_pairs(2, (40, 60)), scales=(0.9, 1.1))
    first, again = task.sample(2, generator(4)), task.sample(2, generator(4))
    assert torch.equal(first.visible, again.visible) and first.prompts == again.prompts
    sizes = {tuple(task.sample(1, generator(k)).visible.shape[-2:]) for k in range(8)}
    assert sizes == {(36, 54), (44, 66)}


def test_slips_in_the_task_s_options_are_named():
    with pytest.raises(BadRequest, match="no action 'fog'"):
        task_of(tiny_pairs(1), actions=("fog",))
    with pytest.raises(BadRequest, match="offers a degradation"):
        task_of(tiny_pairs(1), actions=("visibility",))
    with pytest.raises(BadRequest, match="crop=64 is larger"):
        task_of(tiny_pairs(1, (40, 40)), crop=64).sample(1, generator())
    mixed = [*tiny_pairs(1, (40, 40)), *tiny_pairs(1, (40, 48), seed=1)]
    with pytest.raises(BadRequest, match="set the recipe's crop"):
        task_of(mixed).sample(12, generator())


# ------------------------------------------------------------------------------------ on the disk


@pytest.fixture
def folder(tmp_path):
    """Two training pairs in the layout of the release, one of them without mask; a test pair."""
    said = ("make the car brighter", "")
    for pair, text in zip(tiny_pairs(2, (40, 52)), said, strict=True):
        base = tmp_path / "train"
        write_image(base / "ir" / f"{pair.name}.png", pair.infrared)
        write_image(base / "vi" / f"{pair.name}.png", 0.5 * pair.visible)
        write_image(base / "groundtruth" / "ir" / f"{pair.name}.png", pair.infrared)
        write_image(base / "groundtruth" / "vi" / f"{pair.name}.png", pair.visible)
        if text:
            write_image(base / "groundtruth" / "mask" / f"{pair.name}.png", pair.masks["person"])
        (base / "text").mkdir(exist_ok=True)
        (base / "text" / f"{pair.name}.txt").write_text(f"{text}\nmore", encoding="utf-8")
        for side, picture in (("ir", pair.infrared), ("vi", pair.visible)):
            write_image(tmp_path / "test" / "own" / side / f"{pair.name}.png", picture)
    return tmp_path


def test_the_released_layout_gives_instructions_goals_and_masks(folder):
    first, second = Instructed(folder)
    assert isinstance(first, InstructedPair)
    assert first.texts == {"instruction": "make the car brighter"}
    torch.testing.assert_close(first.visible, 0.5 * first.goals["visible"], atol=0.01, rtol=0)
    assert 0 < first.goals["mask"].mean() < 1 and not second.goals["mask"].any()
    assert Instructed(folder, split="test", part="own")[0].goals == {}
    sized = Instructed(folder, size=20)[0]
    assert sized.visible.shape == sized.goals["visible"].shape == (3, 20, 26)
    assert sized.goals["mask"].shape == (1, 20, 26)


def test_its_pairs_train_with_their_own_instructions_and_goals(folder):
    task = task_of(list(Instructed(folder)))
    assert task.prompts == ("", "make the car brighter")
    batch = task.sample(6, generator())
    row = batch.prompts.index("make the car brighter")
    pair = Instructed(folder)[0]
    assert torch.equal(batch.visible[row], pair.visible)
    assert torch.equal(batch.targets["visible"][row], pair.goals["visible"])
    with pytest.raises(BadRequest, match="no ground truth"):
        task_of(list(Instructed(folder, split="test", part="own"))).sample(1, generator())


def test_a_folder_of_another_layout_says_what_is_expected(folder, tmp_path):
    with pytest.raises(BadRequest, match="is not there"):
        Instructed(tmp_path / "nothing")
    with pytest.raises(BadRequest, match="Name the folder under test/"):
        Instructed(folder, split="test")
    with pytest.raises(BadRequest, match="it has train and test"):
        Instructed(folder, split="validation")
    (folder / "train" / "groundtruth" / "ir" / "pair-0.png").unlink()
    with pytest.raises(BadRequest, match="only one picture"):
        Instructed(folder)[0]


class TestInstructedContract(DatasetContract):
    count = 2

    @pytest.fixture(autouse=True)
    def on_disk(self, folder):
        type(self).root = folder

    @pytest.fixture
    def pairs(self, on_disk):
        return self.build(count=self.count)

    def build(self, **options):
        return Instructed(self.root, **options)


# ---------------------------------------------------------------------------------------- training


def test_a_short_training_lowers_the_loss_and_hears_the_instruction():
    recipe = REGISTRY.create("recipe", "rfc-small").with_overrides(
        {"network.options": SMALL, "steps": 16, "batch_size": 2, "crop": 32,
         "guides.0.options.grid": 2, "learning_rate": 5e-3}
    )  # fmt: skip
    run = train(recipe, tiny_pairs(4, (48, 48)), registry=REGISTRY, device="cpu",
                precision="float32", log_every=4)  # fmt: skip
    totals = [terms["total"] for terms in run.history.values()]
    assert totals[-1] < 0.9 * totals[0]
    batch = tiny_batch(1, (48, 48)).replace(text=None, guides={})
    said = ("make the image brighter", "make the image darker")
    light, dark = (run.method(batch.replace(prompts=(text,))).image for text in said)
    assert not torch.allclose(light, dark, atol=1e-5)


def test_the_recipe_is_the_published_protocol():
    recipe = REGISTRY.create("recipe", "rfc")
    (stage,) = recipe.stages
    assert stage.steps == 60 * (14_654 // 8) and stage.batch_size == 8
    assert (stage.optimizer, stage.learning_rate, stage.weight_decay) == ("adamw", 2e-4, 1e-4)
    assert recipe.encoder.name == "clip-vit-b-16" and recipe.weights["align"] == 5
    other = REGISTRY.create("recipe", "rfc-spacy")
    assert other.guides[0].options == {"parser": "spacy"} and other.reads is not recipe.reads


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_a_gpu_in_bfloat16_gives_the_picture_of_the_cpu():
    network, batch = small(), instructed("make the car brighter", (64, 64))
    with torch.no_grad():
        wanted = network(batch).image
        network.cuda()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            found = network(batch.to("cuda")).image
    torch.testing.assert_close(found.cpu(), wanted, atol=0.02, rtol=0)
