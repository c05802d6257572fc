"""Captioners and encoders; large models are built small, of random weights, and read from disk."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import torch
from fusionkit_captions.chain import Paragraph
from fusionkit_captions.chat import Chat
from fusionkit_captions.composer import Composer
from fusionkit_captions.encoders import Blip2Text, Paragraphs, StoredFeatures
from fusionkit_captions.facts import (
    Facts,
    Item,
    boxes,
    inside,
    read_items,
    resolution,
    write_items,
)
from fusionkit_captions.models import Blip2Caption, DenseCaptions, Regions

from fusionkit.batch import TextFeatures
from fusionkit.errors import BadRequest, FusionkitError, MissingWeights
from fusionkit.registry import Registry
from fusionkit.testing import CaptionerContract, EncoderContract, TinyEncoder, install, tiny_pairs

transformers = pytest.importorskip("transformers", reason="needs the extra 'hub'")

PUBLISHED = (
    "In this black and white photo of cars on a street at night, the resolution is 384X288. "
    "The image captures various objects and activities within the frame. One can see a car in "
    "the picture, positioned at [183, 138, 240, 190], as well as a car making a left turn at "
    "[25, 142, 109, 188]. Furthermore, a person walking in the rain is also present, depicted "
    "at [16, 139, 31, 182]. The photo also includes a large truck, which can be seen at [272, "
    "105, 363, 190] and another car within the frame at [127, 146, 187, 171]. Additionally, "
    "the scene shows a car on the street at [232, 148, 257, 177] and a car parked on the "
    "street at [369, 154, 381, 190]. Moreover, a person standing can be noticed in the photo, "
    "positioned at [107, 139, 118, 170]. Lastly, a tall electrical tower stands tall at [280, "
    "3, 332, 107] and there is also a tall building with several stories at [0, 1, 180, 145]. "
    "This image offers a glimpse into a city street at night, showcasing the hustle and "
    "bustle of urban life."
)
"""A paragraph of the VLF data set, quoted in the field's notes."""

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "<s>", "</s>", "<pad>", "<unk>", "a", "car", "person"]


def tokenizer(**special):
    """A tokenizer of a dozen words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = list(dict.fromkeys([*WORDS, *special.values()]))
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        **{"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"},
        **special,
    )


@pytest.fixture(scope="module")
def picture():
    return torch.stack([pair.visible for pair in tiny_pairs(2, (40, 56))])


# -- facts and paragraphs -------------------------------------------------------------------------


def test_a_published_paragraph_is_read_back():
    found = boxes(PUBLISHED)
    assert resolution(PUBLISHED) == (384, 288)
    assert len(found) == 10
    assert found[0] == (183, 138, 240, 190) and found[-1] == (0, 1, 180, 145)
    assert all(x0 < x1 <= 384 and y0 < y1 <= 288 for x0, y0, x1, y1 in found)


def test_what_is_composed_is_read_back():
    facts = Facts(
        caption="A black and white photo of cars on a street.",
        items=(Item("a car", (18, 3, 24, 19)), Item("a person", (1, 2, 90, 30))),
        regions=(Item("road", (0, 20, 56, 40)), Item("sky", (0, 0, 56, 9))),
    )
    text = Composer()(torch.zeros(1, 3, 40, 56), facts=[facts])[0]
    assert resolution(text) == (56, 40)
    assert boxes(text) == [(18, 3, 24, 19), (1, 2, 56, 30), (0, 20, 56, 40), (0, 0, 56, 9)]
    assert text == (
        "In this black and white photo of cars on a street, the resolution is 56X40. The frame "
        "holds 2 annotated items. There is a car at [18, 3, 24, 19]. Also one finds a person at "
        "[1, 2, 56, 30]. Larger areas show road at [0, 20, 56, 40] and sky at [0, 0, 56, 9]. Taken "
        "together, the picture presents a black and white photo of cars on a street."
    )


def test_lists_of_things_are_read_as_written():
    items = (Item("a parked car", (1, 2, 3, 4)), Item("a tall, dark tower", (5, 6, 7, 8)))
    assert read_items(write_items(items)) == items
    assert read_items("nothing") == ()
    assert inside([Item("x", (50, 0, 60, 9)), Item("y", (-3, 2, 4, 99))], 40, 30) == (
        Item("y", (0, 2, 4, 30)),
    )


def test_without_any_model_what_stands_out_is_measured():
    dark = torch.full((1, 1, 60, 80), 0.1)
    dark[:, :, 10:30, 20:40] = 0.9
    text = Paragraph()(dark, modality="infrared")[0]
    assert "a dark infrared image" in text and "a warm area" in text
    (x0, y0, x1, y1) = boxes(text)[0]
    assert abs(x0 - 20) <= 2 and abs(y0 - 10) <= 2 and abs(x1 - 40) <= 2 and abs(y1 - 30) <= 2


def test_the_chain_asks_the_captioner_of_each_step_by_name():
    registry = Registry()

    def says(text):
        return lambda: lambda image, **context: [text] * len(image)

    from fusionkit_captions import Composer as Writer

    install(
        registry,
        "words",
        captioner={
            "whole": says("a street"),
            "things": says("a car [1, 2, 30, 40]"),
            "areas": says("road [0, 20, 56, 40]"),
            "composer": Writer,
        },
    )
    chain = Paragraph(caption="whole", dense="things", regions="areas", registry=registry)
    text = chain(torch.zeros(2, 3, 40, 56))[1]
    assert text.startswith("In this street, the resolution is 56X40.")
    assert boxes(text) == [(1, 2, 30, 40), (0, 20, 56, 40)]
    with pytest.raises(BadRequest, match="Did you mean 'writer'"):
        Paragraph(options={"writers": {}}, registry=registry)


# -- chat -----------------------------------------------------------------------------------------


@pytest.fixture
def service():
    """A chat service on the loopback that notes what it was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, self.headers.get("Authorization"), body))
            status, answer = self.server.answer
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.answer = (200, {"choices": [{"message": {"content": "A street\n at night."}}]})
    server.asked = asked
    server.address = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_chat_model_is_told_the_facts_and_its_answer_is_one_line(service, monkeypatch):
    monkeypatch.setenv("FUSIONKIT_CHAT_KEY", "secret")
    facts = Facts("a street", (Item("a car", (1, 2, 3, 4)),), (), "infrared")
    write = Chat(endpoint=service.address, model="small")
    assert write(torch.zeros(1, 1, 40, 56), facts=[facts]) == ["A street at night."]
    path, key, body = service.asked[0]
    assert path == "/v1/chat/completions" and key == "Bearer secret" and body["model"] == "small"
    said = body["messages"][0]["content"]
    assert "size: 56X40 pixels" in said and "objects: a car [1, 2, 3, 4]" in said
    assert "one infrared image" in said and "regions: none" in said


def test_without_a_key_none_is_sent(service, monkeypatch):
    monkeypatch.delenv("FUSIONKIT_CHAT_KEY", raising=False)
    Chat(endpoint=service.address)(torch.zeros(1, 1, 16, 16))
    assert service.asked[0][1] is None


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((401, {}), "refused .401.*FUSIONKIT_CHAT_KEY"),
        ((500, {}), "refused .500"),
        ((200, {"choices": []}), "another form"),
    ],
)
def test_a_chat_model_that_fails_is_reported_in_one_line(service, answer, message):
    service.answer = answer
    with pytest.raises(FusionkitError, match=message):
        Chat(endpoint=service.address)(torch.zeros(1, 1, 16, 16))


def test_no_endpoint_a_wrong_one_and_a_silent_one_are_reported(monkeypatch):
    monkeypatch.delenv("FUSIONKIT_CHAT_ENDPOINT", raising=False)
    with pytest.raises(MissingWeights, match="FUSIONKIT_CHAT_ENDPOINT"):
        Chat()
    with pytest.raises(BadRequest, match="no http"):
        Chat(endpoint="localhost:80")
    with pytest.raises(FusionkitError, match="no answer"):
        Chat(endpoint="http://127.0.0.1:9/v1", timeout=2).ask("hello")


# -- models ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def blip2_text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blip2-text")
    torch.manual_seed(0)
    config = transformers.Blip2Config(
        vision_config=_tiny_vision(),
        qformer_config=_tiny_qformer(),
        text_config=_tiny_words(),
        num_query_tokens=3,
        image_text_hidden_size=8,
    )
    transformers.Blip2TextModelWithProjection(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def _tiny_vision():
    return {
        "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 16, "patch_size": 8,
    }  # fmt: skip


def _tiny_qformer():
    return {
        "vocab_size": 16, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 8, "encoder_hidden_size": 8, "max_position_embeddings": 20,
        "use_qformer_text_input": True,
    }  # fmt: skip


def _tiny_words():
    return {
        "model_type": "opt", "vocab_size": 24, "hidden_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "ffn_dim": 8, "max_position_embeddings": 64,
        "word_embed_proj_dim": 8,
    }  # fmt: skip


class TestBlip2Text(EncoderContract):
    prompts = ("a car", "a person person")

    @pytest.fixture(autouse=True)
    def _folder(self, blip2_text):
        self.folder = blip2_text

    def build(self):
        return Blip2Text(model=self.folder)


def test_blip2_text_gives_every_token_and_cuts_what_is_too_long(blip2_text):
    read = Blip2Text(model=blip2_text)
    text = read.encode_text(["a car", "a " * 50])
    assert text.tokens.shape == (2, 20, 12) and read.text_dim == 12
    assert text.mask.sum(1).tolist() == [4, 20]


@pytest.fixture(scope="module")
def blip2_caption(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blip2")
    torch.manual_seed(0)
    config = transformers.Blip2Config(
        vision_config=_tiny_vision(),
        qformer_config=_tiny_qformer() | {"use_qformer_text_input": False},
        text_config=_tiny_words(),
        num_query_tokens=3,
    )
    config.image_token_index = len(WORDS)
    transformers.Blip2ForConditionalGeneration(config).save_pretrained(folder)
    images = transformers.BlipImageProcessor(size={"height": 16, "width": 16})
    words = tokenizer(image_token="<image>")
    transformers.Blip2Processor(images, words, num_query_tokens=3).save_pretrained(folder)
    return str(folder)


class TestBlip2Caption(CaptionerContract):
    @pytest.fixture(autouse=True)
    def _folder(self, blip2_caption):
        self.folder = blip2_caption

    def build(self):
        return Blip2Caption(model=self.folder, device="cpu", words=3)


@pytest.fixture(scope="module")
def sam(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sam")
    torch.manual_seed(0)
    vision = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32,
        "patch_size": 8, "mlp_ratio": 1.0, "output_channels": 8, "window_size": 2,
        "global_attn_indexes": [0], "num_pos_feats": 4, "mlp_dim": 16,
    }  # fmt: skip
    prompt = {"hidden_size": 8, "image_size": 32, "patch_size": 8, "mask_input_channels": 4}
    mask = {
        "hidden_size": 8, "mlp_dim": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "attention_downsample_rate": 1, "iou_head_depth": 2, "iou_head_hidden_dim": 8,
    }  # fmt: skip
    config = transformers.SamConfig(
        vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=mask
    )
    transformers.SamModel(config).save_pretrained(folder)
    images = transformers.SamImageProcessor(
        size={"longest_edge": 32}, pad_size={"height": 32, "width": 32}
    )
    transformers.SamProcessor(images).save_pretrained(folder)
    return str(folder)


def test_regions_are_boxes_inside_the_picture_named_by_a_joint_encoder(sam, picture):
    registry = Registry()
    install(registry, "joint", encoder={"tiny": TinyEncoder})
    find = Regions(
        model=sam, device="cpu", points=3, trust=-10.0, namer="tiny", registry=registry,
        labels=("road", "sky"), overlap=2.0,
    )  # fmt: skip
    texts = find(picture)
    items = [item for text in texts for item in read_items(text)]
    assert len(texts) == 2 and items
    assert {item.phrase for item in items} <= {"road", "sky"}
    assert tuple(items) == inside(items, 56, 40)


def test_areas_that_the_segmenter_does_not_trust_are_not_told(sam, picture):
    find = Regions(model=sam, device="cpu", points=2, trust=100.0, namer=None)
    assert find(picture[:1]) == ["nothing"]


def test_one_area_is_told_once(sam, picture, monkeypatch):
    find = Regions(model=sam, device="cpu", points=3, trust=-10.0, namer=None, overlap=0.0)
    assert len(read_items(find(picture[:1])[0])) <= 1


@pytest.fixture(scope="module")
def florence(tmp_path_factory):
    folder = tmp_path_factory.mktemp("florence")
    torch.manual_seed(0)
    config = transformers.Florence2Config(
        vision_config={
            "depths": [1, 1], "patch_size": [7, 3], "patch_stride": [4, 2],
            "patch_padding": [3, 1], "patch_prenorm": [False, True], "embed_dim": [8, 16],
            "num_heads": [2, 2], "num_groups": [2, 2], "window_size": 2, "projection_dim": 16,
            "max_temporal_embeddings": 4, "max_position_embeddings": 8,
        },
        text_config={
            "model_type": "bart", "vocab_size": 64, "d_model": 16, "encoder_layers": 1,
            "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
            "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_position_embeddings": 64,
        },
    )  # fmt: skip
    config.image_token_id = len(WORDS)
    transformers.Florence2ForConditionalGeneration(config).save_pretrained(folder)
    side = {"height": 32, "width": 32}
    images = transformers.CLIPImageProcessor(size=side, crop_size=side, do_center_crop=False)
    images.image_seq_length = 17  # of 4 x 4 patches and their mean
    kinds = (
        "pure_text", "description_with_bboxes", "description_with_polygons", "polygons", "bboxes",
        "description_with_bboxes_or_polygons",
    )  # fmt: skip
    rules = {kind: {} for kind in kinds} | {
        "ocr": {"pattern": "x", "area_threshold": 0.0},
        "phrase_grounding": {"banned_grounding_tokens": []},
    }
    words = tokenizer(image_token="<image>", bos_token="<s>", eos_token="</s>")
    transformers.Florence2Processor(images, words, post_processor_config=rules).save_pretrained(
        folder
    )
    return str(folder)


def test_dense_captions_are_phrases_with_boxes_inside_the_picture(florence, picture, monkeypatch):
    find = DenseCaptions(model=florence, device="cpu", tokens=3)
    assert find(picture) == ["nothing", "nothing"]  # random weights name no place
    said = "a car<loc_0><loc_250><loc_999><loc_500>a person<loc_400><loc_0><loc_600><loc_100>"
    monkeypatch.setattr(find.processor, "batch_decode", lambda *_, **__: [said])
    found = read_items(find(picture[:1])[0])
    assert [item.phrase for item in found] == ["a car", "a person"]
    expected = [(0, 10, 56, 20), (22, 0, 34, 4)]  # in thousandths of the sides, rounded down
    for item, box in zip(found, expected, strict=True):
        assert max(abs(a - b) for a, b in zip(item.box, box, strict=True)) <= 1


# -- encoders -------------------------------------------------------------------------------------


class Counting(TinyEncoder):
    """An encoder that knows how often it was asked."""

    asked: list[list[str]] = []

    def encode_text(self, prompts):
        self.asked.append(list(prompts))
        return super().encode_text(prompts)


@pytest.fixture
def words():
    registry = Registry()
    install(registry, "words", encoder={"counting": Counting})
    Counting.asked = []
    return registry


@pytest.mark.parametrize("split", ["paragraph", "sentence"])
def test_parts_of_a_text_stand_side_by_side_and_are_read_once(words, split):
    read = Paragraphs(reader="counting", split=split, registry=words)
    joint = "A car. A person.\n\nFog over the road."
    text = read.encode_text([joint, "A car. A person."])
    parts = Counting.asked[0]
    expected = {
        "paragraph": ["A car. A person.", "Fog over the road."],
        "sentence": ["A car.", "A person.", "Fog over the road."],
    }
    assert parts == expected[split]
    alone = TinyEncoder().encode_text(parts)
    together = torch.cat([row[real] for row, real in zip(alone.tokens, alone.mask, strict=True)])
    torch.testing.assert_close(text.tokens[0][text.mask[0]], together)
    assert text.mask[1].sum() == 4


def test_stored_features_of_any_length_are_read(tmp_path):
    import h5py

    values = np.arange(24, dtype="float32").reshape(1, 3, 8)
    np.save(tmp_path / "a.npy", values)
    with h5py.File(tmp_path / "b.h5", "w") as content:
        content["text/00001N"] = values[:, :2]
    read = StoredFeatures(root=tmp_path, text_dim=8)
    text = read.encode_text(["a.npy", "b.h5#text/00001N", ""])
    assert isinstance(text, TextFeatures) and text.tokens.shape == (3, 3, 8)
    assert text.mask.sum(1).tolist() == [3, 2, 1]
    np.testing.assert_array_equal(text.tokens[0], values[0])


def test_stored_features_are_brought_to_one_length_by_their_last_token(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(24, dtype="float32").reshape(3, 8))
    longer = StoredFeatures(root=tmp_path, text_dim=8, text_tokens=5).encode_text(["a.npy"])
    assert longer.tokens.shape == (1, 5, 8)
    assert torch.equal(longer.tokens[0, 3:], longer.tokens[0, 2:3].expand(2, -1))
    shorter = StoredFeatures(root=tmp_path, text_dim=8, text_tokens=2).encode_text(["a.npy"])
    assert shorter.tokens.shape == (1, 2, 8)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("gone.npy", "no file"),
        ("wide.npy", "text_dim"),
        ("words.npy", "no array"),
        ("a.h5#text/none", "holds nothing at"),
    ],
)
def test_stored_features_that_cannot_be_read_are_reported(tmp_path, place, message):
    import h5py

    np.save(tmp_path / "wide.npy", np.zeros((3, 9), "float32"))
    (tmp_path / "words.npy").write_text("words")
    h5py.File(tmp_path / "a.h5", "w").close()
    with pytest.raises(BadRequest, match=message):
        StoredFeatures(root=tmp_path, text_dim=8).encode_text([place])
