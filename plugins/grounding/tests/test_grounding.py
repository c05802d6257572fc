"""Masks from prompts. The large models are built small, with random weights, and read from disk."""

import pytest
import torch
from fusionkit_grounding.clipseg import ClipSeg
from fusionkit_grounding.folder import FolderMasks
from fusionkit_grounding.grounded import GroundingDinoSam, Owlv2Sam, fill
from fusionkit_grounding.masks import phrases
from fusionkit_grounding.relevance import Relevance
from fusionkit_grounding.saliency import Saliency
from fusionkit_grounding.stored import StoredMaps
from PIL import Image

from fusionkit import hub
from fusionkit.batch import Batch, ImageFeatures, TextFeatures
from fusionkit.data import write_image
from fusionkit.errors import BadRequest, MissingWeights
from fusionkit.guides import MapFolder
from fusionkit.testing import GuideContract, TinyEncoder, tiny_batch, tiny_pairs

transformers = pytest.importorskip("transformers", reason="needs the extra 'hub'")

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "a", "person", "car", "at", "##s", "0")


# ---------------------------------------------------------------- small models, kept as real ones


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    """A Grounding DINO of 20 queries with random weights, as a folder."""
    folder = tmp_path_factory.mktemp("dino")
    torch.manual_seed(0)
    config = transformers.GroundingDinoConfig(
        backbone_config=transformers.SwinConfig(
            embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4,
            image_size=64, out_indices=[2, 3, 4],
        ),
        text_config=transformers.BertConfig(
            vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=16,
        ),
        num_queries=20, d_model=32, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, encoder_attention_heads=2, decoder_attention_heads=2, max_text_len=32,
    )  # fmt: skip
    transformers.GroundingDinoForObjectDetection(config).save_pretrained(folder)
    (folder / "words.txt").write_text("\n".join(WORDS))
    tokenizer = transformers.BertTokenizer(vocab=str(folder / "words.txt"))
    images = transformers.GroundingDinoImageProcessor(
        size={"shortest_edge": 64, "longest_edge": 96}
    )
    transformers.GroundingDinoProcessor(images, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sam(tmp_path_factory):
    """A SAM for pictures of 64 pixels with random weights, as a folder."""
    folder = tmp_path_factory.mktemp("sam")
    torch.manual_seed(1)
    config = transformers.SamConfig(
        vision_config=transformers.SamVisionConfig(
            hidden_size=16, output_channels=16, num_hidden_layers=1, num_attention_heads=2,
            image_size=64, patch_size=8, window_size=4, num_pos_feats=8, global_attn_indexes=[0],
            initializer_range=0.1,
        ),
        prompt_encoder_config=transformers.SamPromptEncoderConfig(
            hidden_size=16, image_size=64, patch_size=8, mask_input_channels=4
        ),
        mask_decoder_config=transformers.SamMaskDecoderConfig(
            hidden_size=16, mlp_dim=16, num_hidden_layers=1, num_attention_heads=2,
            iou_head_hidden_dim=16,
        ),
    )  # fmt: skip
    transformers.SamModel(config).save_pretrained(folder)
    images = transformers.SamImageProcessor(
        size={"longest_edge": 64}, pad_size={"height": 64, "width": 64},
        mask_size={"longest_edge": 16}, mask_pad_size={"height": 16, "width": 16},
    )  # fmt: skip
    transformers.SamProcessor(images).save_pretrained(folder)
    return folder


def clip_tokenizer(folder):
    """A CLIP tokenizer that knows single letters."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    names = [*words, "<|startoftext|>", "<|endoftext|>"]
    tokenizer = transformers.CLIPTokenizer(
        vocab={word: i for i, word in enumerate(names)}, merges=[], model_max_length=16
    )
    return tokenizer, len(names)


def clip_parts(words):
    text = {
        "vocab_size": words, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 16, "bos_token_id": words - 2,
        "eos_token_id": words - 1, "pad_token_id": words - 1,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "image_size": 32,
        "patch_size": 8,
    }  # fmt: skip
    return text, vision


@pytest.fixture(scope="module")
def owl(tmp_path_factory):
    folder = tmp_path_factory.mktemp("owl")
    torch.manual_seed(2)
    tokenizer, words = clip_tokenizer(folder)
    text, vision = clip_parts(words)
    config = transformers.Owlv2Config(
        text_config=text, vision_config=vision | {"num_hidden_layers": 1}, projection_dim=16
    )
    transformers.Owlv2ForObjectDetection(config).save_pretrained(folder)
    images = transformers.Owlv2ImageProcessor(size={"height": 32, "width": 32})
    transformers.Owlv2Processor(images, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clipseg(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clipseg")
    torch.manual_seed(3)
    tokenizer, words = clip_tokenizer(folder)
    text, vision = clip_parts(words)
    config = transformers.CLIPSegConfig(
        text_config=text, vision_config=vision | {"num_hidden_layers": 2}, projection_dim=16,
        extract_layers=[0, 1], reduce_dim=8, decoder_num_attention_heads=2,
        decoder_intermediate_size=16, conditional_layer=0,
    )  # fmt: skip
    transformers.CLIPSegForImageSegmentation(config).save_pretrained(folder)
    images = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    transformers.CLIPSegProcessor(images, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def grounded(dino, sam):
    return GroundingDinoSam(
        detector=str(dino), segmenter=str(sam), box_threshold=0.0, text_threshold=0.0, device="cpu"
    )


class TestGroundingDinoSam(GuideContract):
    @pytest.fixture(autouse=True)
    def models(self, grounded):
        self.build = lambda: grounded


class TestOwlv2(GuideContract):
    @pytest.fixture(autouse=True)
    def models(self, owl, sam):
        self.build = lambda: Owlv2Sam(
            detector=str(owl), segmenter=str(sam), box_threshold=0.0, device="cpu"
        )


class TestClipSeg(GuideContract):
    @pytest.fixture(autouse=True)
    def models(self, clipseg):
        self.build = lambda: ClipSeg(model=str(clipseg), threshold=None, device="cpu")


class TestSaliency(GuideContract):
    build = staticmethod(Saliency)


class TestFolderMasks(GuideContract):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path):
        for name in ("pair-0", "pair-1"):
            write_image(tmp_path / "mask_vi" / f"{name}.png", torch.ones(1, 57, 83))
            write_image(tmp_path / "mask_ir" / f"mask_{name}.png", torch.zeros(1, 57, 83))
        self.build = lambda: FolderMasks(root=tmp_path)


# ---------------------------------------------------------------- detector and segmenter


def test_boxes_come_in_pixels_of_the_picture_whatever_its_shape(grounded):
    for size in ((40, 90), (90, 40)):
        boxes, scores = grounded.detector(torch.zeros(3, *size, dtype=torch.uint8), ["person"])
        direct = grounded.detector.model(
            **grounded.detector.processor(
                images=torch.zeros(3, *size, dtype=torch.uint8), text="person.", return_tensors="pt"
            )
        ).pred_boxes[0]
        x, y, w, h = direct.unbind(-1)
        expected = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1)
        expected = expected * torch.tensor([size[1], size[0], size[1], size[0]])
        assert len(boxes) == len(scores) == 20
        torch.testing.assert_close(boxes, expected, rtol=1e-4, atol=1e-3)


def test_phrases_reach_the_detector_as_it_was_trained_to_read_them(grounded):
    asked = {}
    original = grounded.detector.model.forward

    def listen(*args, **kwargs):
        asked["ids"] = kwargs["input_ids"]
        return original(*args, **kwargs)

    grounded.detector.model.forward = listen
    try:
        grounded(
            Batch(torch.rand(1, 3, 48, 80), torch.rand(1, 1, 48, 80), prompts=("Car, person",))
        )
    finally:
        grounded.detector.model.forward = original
    tokens = grounded.detector.processor.tokenizer.convert_ids_to_tokens(asked["ids"][0])
    assert tokens == ["[CLS]", "car", ".", "person", ".", "[SEP]"]


def test_each_box_gets_the_outline_that_the_segmenter_scores_highest(grounded):
    picture = (torch.rand(3, 48, 80, generator=torch.Generator().manual_seed(4)) * 255).byte()
    boxes = torch.tensor([[4.0, 6.0, 30.0, 40.0], [40.0, 2.0, 79.0, 30.0], [1.0, 1.0, 9.0, 9.0]])
    masks = grounded.segmenter(picture, boxes)
    processor, model = grounded.segmenter.processor, grounded.segmenter.model
    inputs = processor(picture, input_boxes=[boxes.tolist()], return_tensors="pt")
    outputs = model(**{k: inputs[k].float() for k in ("pixel_values", "input_boxes")})
    (drawn,) = processor.image_processor.post_process_masks(
        outputs.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"]
    )
    assert masks.shape == (3, 48, 80) and masks.dtype == torch.bool
    for i, scores in enumerate(outputs.iou_scores[0]):
        assert torch.equal(masks[i], drawn[i, int(scores.argmax())])


def test_many_boxes_are_segmented_in_parts_with_the_same_result(grounded, monkeypatch):
    picture = (torch.rand(3, 48, 48) * 255).byte()
    corners = torch.rand(7, 2) * 20
    boxes = torch.cat([corners, corners + 20], 1)
    whole = grounded.segmenter(picture, boxes)
    monkeypatch.setattr("fusionkit_grounding.grounded.CHUNK", 3)
    assert torch.equal(grounded.segmenter(picture, boxes), whole)


def test_the_mask_is_the_union_over_boxes_and_pictures(grounded, monkeypatch):
    found = {
        "visible": torch.tensor([[0.0, 0.0, 4.0, 4.0], [10.0, 10.0, 12.0, 14.0]]),
        "infrared": torch.tensor([[2.0, 2.0, 6.0, 6.0]]),
    }

    def detect(picture, wanted):
        boxes = found["infrared" if picture.float().mean() > 127 else "visible"]
        return boxes, torch.ones(len(boxes))

    monkeypatch.setattr(grounded, "detector", detect)
    monkeypatch.setattr(grounded, "segmenter", None)
    batch = Batch(torch.zeros(1, 3, 16, 20), torch.ones(1, 1, 16, 20), prompts=("car",))
    maps = grounded(batch)
    assert maps["mask_visible"].sum() == 16 + 8 and maps["mask_infrared"].sum() == 16
    assert maps["mask"].sum() == 16 + 8 + 16 - 4
    assert maps["mask_visible"][0, 0, 13, 11] == 1 and maps["mask_visible"][0, 0, 11, 13] == 0


def test_a_box_that_a_better_one_covers_is_dropped_when_asked(grounded, monkeypatch):
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 12.0], [20.0, 0.0, 30.0, 10.0]])
    monkeypatch.setattr(grounded, "detector", lambda *_: (boxes, torch.tensor([0.9, 0.5, 0.4])))
    monkeypatch.setattr(grounded, "segmenter", None)
    picture = torch.rand(3, 20, 40)
    assert grounded.find(picture, ["car"]).sum() == 120 + 100
    monkeypatch.setattr(grounded, "nms", 0.5)
    assert grounded.find(picture, ["car"]).sum() == 100 + 100


def test_nothing_found_and_nothing_named_are_empty_masks(grounded, monkeypatch):
    batch = tiny_batch(2, (32, 40)).replace(prompts=("", " . "))
    assert not any(values.any() for values in grounded(batch).values())
    monkeypatch.setattr(grounded.detector, "box_threshold", 1.0)
    assert not any(values.any() for values in grounded(tiny_batch(2, (32, 40))).values())


def test_a_prompt_of_its_own_is_used_for_every_pair(dino, sam):
    guide = GroundingDinoSam(
        prompt="person . car .", detector=str(dino), segmenter=None, box_threshold=0.0,
        text_threshold=0.0, sources="infrared", device="cpu",
    )  # fmt: skip
    batch = tiny_batch(2, (32, 40)).replace(prompts=())
    assert set(guide(batch)) == set(guide.maps) == {"mask", "mask_infrared"}


def test_a_guide_without_any_prompt_says_so(grounded):
    with pytest.raises(BadRequest, match="0 prompts for 2 pairs"):
        grounded(tiny_batch(2, (32, 40)).replace(prompts=()))


def test_owlv2_boxes_fill_into_masks_without_a_segmenter(owl):
    guide = Owlv2Sam(detector=str(owl), segmenter=None, box_threshold=0.0, device="cpu")
    picture = (torch.rand(3, 40, 56) * 255).byte()
    boxes, scores = guide.detector(picture, ["a car", "a person"])
    assert len(boxes) == len(scores) == 16  # one for each of 4x4 patches
    maps = guide(tiny_batch(1, (40, 56)))
    assert set(maps["mask"].unique().tolist()) <= {0.0, 1.0}


def test_clipseg_takes_the_largest_answer_of_its_phrases(clipseg):
    guide = ClipSeg(model=str(clipseg), threshold=None, device="cpu")
    picture = torch.rand(3, 48, 64, generator=torch.Generator().manual_seed(5))
    one, other = guide.find(picture, ["car"]), guide.find(picture, ["zebra"])
    both = guide.find(picture, ["car", "zebra"])
    assert not torch.allclose(one, other, atol=1e-5)
    torch.testing.assert_close(both, torch.maximum(one, other), rtol=1e-4, atol=1e-5)
    guide.threshold = float(both.median())
    assert set(guide.find(picture, ["car", "zebra"]).unique().tolist()) == {0.0, 1.0}


def test_phrases_are_parted_as_detectors_want_them():
    assert phrases("Person . a red Car.  traffic light .") == [
        "person",
        "a red car",
        "traffic light",
    ]
    assert phrases("people, cars; people") == ["people", "cars"]
    assert phrases(" . ") == []


def test_a_box_covers_the_pixels_whose_centre_it_holds():
    (mask,) = fill(torch.tensor([[1.0, 0.4, 3.0, 2.6]]), (4, 5))
    assert mask.int().tolist() == [[0, 1, 1, 0, 0]] * 3 + [[0] * 5]


# ---------------------------------------------------------------- weights


def test_missing_weights_are_one_line_that_names_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.delenv("FUSIONKIT_WEIGHTS", raising=False)
    with pytest.raises(MissingWeights) as caught:
        GroundingDinoSam(detector="someone/no-such-detector", device="cpu")
    message = str(caught.value)
    assert "\n" not in message
    for part in ("someone/no-such-detector", "FUSIONKIT_WEIGHTS", "saliency", "folder-masks"):
        assert part in message
    with pytest.raises(MissingWeights, match="there is no folder"):
        GroundingDinoSam(detector=str(tmp_path / "nothing"), device="cpu")


def test_an_unreachable_hub_is_asked_once(monkeypatch):
    asked = []

    class Session:
        def head(self, *args, **kwargs):
            asked.append(args)
            raise OSError("no route")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("FUSIONKIT_WEIGHTS", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.utils.get_session", Session)
    monkeypatch.setattr(hub, "_asked", {})
    for _ in range(2):
        with pytest.raises(MissingWeights, match="cannot be reached"):
            ClipSeg(model="someone/no-such-model", device="cpu")
    assert len(asked) == 1


def test_weights_are_found_in_the_folder_of_the_machine(monkeypatch, tmp_path, clipseg):
    (tmp_path / "transformers" / "someone").mkdir(parents=True)
    (tmp_path / "transformers" / "someone" / "segmenter").symlink_to(clipseg)
    monkeypatch.setenv("FUSIONKIT_WEIGHTS", str(tmp_path))
    guide = ClipSeg(model="someone/segmenter", device="cpu")
    assert not any(p.requires_grad for p in guide.model.parameters())


def test_a_folder_with_another_kind_of_model_is_refused_in_one_line(sam):
    with pytest.raises(BadRequest, match="cannot be loaded as AutoModelForZeroShot") as caught:
        GroundingDinoSam(detector=str(sam), device="cpu")
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- folders and saliency


def test_masks_are_read_by_the_names_of_the_pairs_and_brought_to_size(tmp_path):
    half = torch.zeros(1, 8, 12)
    half[..., :6] = 1
    write_image(tmp_path / "mask_vi" / "mask_a.png", half)
    write_image(tmp_path / "mask_ir" / "night" / "b.png", 1 - half)
    write_image(tmp_path / "mask_vi" / "night" / "b.png", half)
    Image.new("L", (24, 16), 255).save(tmp_path / "mask_ir" / "a.bmp")
    batch = tiny_batch(2, (16, 24)).replace(names=("a", "night/b"))
    maps = FolderMasks(root=tmp_path)(batch)
    assert maps["mask_visible"][..., :12].all() and not maps["mask_visible"][..., 12:].any()
    assert maps["mask_infrared"][0].all() and not maps["mask_infrared"][1][..., :12].any()
    assert maps["mask"].all()


def test_one_folder_serves_both_pictures(tmp_path):
    write_image(tmp_path / "masks" / "pair-0.png", torch.ones(1, 16, 24))
    maps = FolderMasks(root=tmp_path)(tiny_batch(1, (16, 24)))
    assert maps["mask_visible"].all() and maps["mask_infrared"].all()


def test_a_missing_mask_folder_or_file_is_named(tmp_path):
    with pytest.raises(BadRequest, match="mask_vi or mask_vis"):
        FolderMasks(root=tmp_path)
    (tmp_path / "mask").mkdir()
    guide = FolderMasks(root=tmp_path)
    with pytest.raises(BadRequest, match=r"'pair-0' has no mask .* mask_pair-0\.png"):
        guide(tiny_batch(1, (16, 24)))
    with pytest.raises(BadRequest, match="0 names for 1 pairs"):
        guide(tiny_batch(1, (16, 24)).replace(names=()))


def test_saliency_finds_the_hot_disc_and_the_bright_patch_and_drops_single_pixels():
    infrared, visible = torch.full((1, 1, 60, 80), 0.2), torch.full((1, 3, 60, 80), 0.4)
    infrared[..., 20:30, 30:38] = 0.9
    infrared[..., 5, 5] = 1.0
    visible[:, 0, 40:52, 10:26] = 1.0
    maps = Saliency()(Batch(visible, infrared))
    assert maps["mask_infrared"][0, 0, 21:29, 31:37].all()
    assert maps["mask_infrared"].sum() == 80  # the pixel at 5, 5 is gone
    assert maps["mask_visible"][0, 0, 42:50, 12:24].all()
    assert maps["mask_visible"].sum() <= 16 * 20


def test_a_source_that_does_not_exist_is_refused_with_the_nearest():
    with pytest.raises(BadRequest, match="Did you mean 'infrared'"):
        Saliency(sources=("infra-red",))


# ------------------------------------------------------------------------ relevance, stored maps


@pytest.mark.parametrize(("of", "against"), [("patches", None), ("pooled", "a picture")])
def test_relevance_adds_up_to_what_the_picture_gains_over_its_mean_colour(of, against):
    guide = Relevance(encoder=TinyEncoder(), steps=64, of=of, against=against)
    batch = tiny_batch(2, (24, 32))
    told = guide.encoder.encode_text(list(batch.prompts)).pooled
    neutral = None if against is None else guide.encoder.encode_text([against]).pooled
    with torch.no_grad():
        flat = batch.visible.mean((2, 3), keepdim=True).expand_as(batch.visible)
        gained = guide.score(batch.visible, told, neutral) - guide.score(flat, told, neutral)
        found = guide.attribution(batch.visible, batch.prompts).sum((1, 2, 3))
    torch.testing.assert_close(found, gained, rtol=0.02, atol=1e-4)


def test_relevance_lies_where_the_only_thing_is():
    class Brightness(TinyEncoder):
        """Sees how bright a picture is, and nothing else."""

        def encode_text(self, prompts):
            return TextFeatures(pooled=torch.tensor([[1.0, 0.0] for _ in prompts]))

        def encode_image(self, image):
            light = (image**2).mean((1, 2, 3))
            return ImageFeatures(torch.stack([light, torch.full_like(light, 0.1)], 1), image)

    infrared = torch.full((1, 1, 40, 50), 0.2)
    infrared[..., 10:18, 30:40] = 0.9
    batch = Batch(infrared.expand(-1, 3, -1, -1), infrared, prompts=("light",))
    guide = Relevance(encoder=Brightness(), sources=("infrared",), of="pooled", smooth=0)
    heat = guide(batch)["relevance"]
    assert heat[..., 10:18, 30:40].min() > 0.9
    heat[..., 10:18, 30:40] = 0
    assert heat.max() < 0.1
    with pytest.raises(BadRequest, match="reads pictures"):
        Relevance(encoder=object())


def test_stored_maps_are_those_of_the_guide_and_a_crop_is_refused(tmp_path):
    guide, pairs = Relevance(encoder=TinyEncoder(), steps=2), tiny_pairs(2, (24, 32))
    prompts = [pair.texts["caption"] for pair in pairs]
    with pytest.raises(BadRequest, match="fusionkit guides"):
        StoredMaps(root=tmp_path)
    MapFolder(tmp_path, {"name": "relevance"}).draw(guide, pairs, prompts)
    batch = tiny_batch(2, (24, 32))
    stored = StoredMaps(root=tmp_path)
    assert stored.maps == ("relevance",)
    found = stored(batch)["relevance"]
    torch.testing.assert_close(found, guide(batch)["relevance"], rtol=2e-3, atol=1e-3)
    with pytest.raises(BadRequest, match="a crop"):
        stored(batch.replace(visible=batch.visible[..., :16], infrared=batch.infrared[..., :16]))
    with pytest.raises(BadRequest, match="0 names"):
        stored(batch.replace(names=()))
