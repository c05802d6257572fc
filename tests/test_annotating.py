"""Texts written next to pairs: in three layouts, by real captioners, taken up after a stop."""

import pytest

from fusionkit import cli
from fusionkit.annotating import annotate, check, sentences
from fusionkit.data import write_image
from fusionkit.errors import BadRequest
from fusionkit.registry import Registry
from fusionkit.testing import tiny_pairs


class Speaker:
    """Says which picture it sees, and counts."""

    def __init__(self):
        self.asked = []

    def __call__(self, image, *, modality="visible", facts=None):
        self.asked.append((modality, facts))
        return [f"A {modality} scene. It has 3 parts. Somebody walks there."]


@pytest.fixture(scope="module")
def registry():
    return Registry.from_environment()


@pytest.fixture
def folder(tmp_path):
    for pair in tiny_pairs(3):
        write_image(tmp_path / "in" / "ir" / f"{pair.name}.png", pair.infrared)
        write_image(tmp_path / "in" / "vi" / f"{pair.name}.png", pair.visible)
    return tmp_path / "in"


def test_texts_come_to_lie_where_a_folder_is_read(registry, folder):
    pairs = registry.create("dataset", "folder", root=folder, split="all")
    annotate(Speaker(), pairs, folder)
    texts = registry.create("dataset", "folder", root=folder, split="all")[1].texts
    assert texts["ir"].startswith("A infrared scene") and texts["vi"].startswith("A visible scene")
    assert check(folder) == []


def test_the_captioner_is_told_what_is_known_of_a_pair(tmp_path):
    speaker = Speaker()
    annotate(speaker, tiny_pairs(1), tmp_path)
    (facts,) = speaker.asked[0][1]
    assert facts["things"][0].label == "person" and facts["caption"]


def test_what_is_there_is_kept_and_not_asked_again(tmp_path):
    speaker, pairs = Speaker(), tiny_pairs(3)
    annotate(speaker, pairs[:2], tmp_path)
    (tmp_path / "text" / "ir" / "pair-0.txt").write_text("by hand")
    (tmp_path / "text" / "vi" / "pair-1.txt").unlink()
    speaker.asked.clear()
    done = []
    annotate(speaker, pairs, tmp_path, progress=lambda *counts: done.append(counts))
    assert len(speaker.asked) == 2 * 2  # both pictures of the second and the third pair
    assert (tmp_path / "text" / "ir" / "pair-0.txt").read_text() == "by hand"
    assert done == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("layout", ["ivt", "vlf"])
def test_a_whole_set_in_a_published_layout_is_read_by_its_data_set(registry, tmp_path, layout):
    pairs = tiny_pairs(3)
    annotate(Speaker(), pairs, tmp_path, layout=layout, pictures=True)
    assert check(tmp_path, layout) == []
    options = {"set": "own"} if layout == "vlf" else {"split": "all"}
    read = registry.create("dataset", layout, root=tmp_path, **options)
    assert [pair.name for pair in read] == [pair.name for pair in pairs]
    texts = read[0].texts
    if layout == "vlf":
        assert texts["vi"] == "A visible scene. It has 3 parts. Somebody walks there."
    else:
        assert list(texts) == ["1", "2", "3", "4", "5"]
        assert texts["4"] == f"{texts['1']} and {texts['2']}"


def test_sentences_begin_with_the_things_and_leave_numbers_out():
    pair = tiny_pairs(1)[0]
    said = {"vi": "A street. It is 640X480 wide. A tree stands there.", "ir": "A street."}
    found = sentences(pair, said)
    assert [found[k] for k in "123"] == ["a warm person", "A street", "A tree stands there"]
    assert found["5"] == "A street and A tree stands there"


def test_a_check_names_what_is_missing_and_what_belongs_to_nothing(tmp_path):
    annotate(Speaker(), tiny_pairs(3), tmp_path, layout="vlf", pictures=True)
    texts = tmp_path / "Text" / "IVF" / "own"
    (texts / "IR" / "pair-0.txt").unlink()
    (texts / "VI" / "pair-1.txt").write_text(" \n")
    (texts / "IR" / "pair-2.txt").write_bytes(b"caf\xe9")
    (texts / "VI" / "pair-9.txt").write_text("of nothing")
    (tmp_path / "Image" / "IVF" / "own" / "VI" / "pair-2.png").unlink()
    found = {(problem.kind, problem.name) for problem in check(tmp_path, "vlf")}
    assert found == {
        ("missing", "pair-0"),
        ("empty", "pair-1"),
        ("unmatched", "pair-2"),  # the picture, and its texts
        ("unmatched", "pair-9"),
        ("missing", "pair-2"),  # the list still has it
    }
    assert [problem.kind for problem in check(tmp_path / "nowhere", "ivt")] == ["empty"]


def test_the_command_describes_a_folder_and_checks_it(folder, tmp_path, capsys):
    def ran(*args):
        with pytest.raises(SystemExit) as ended:
            cli.main(list(args))
        return ended.value.code

    out = str(tmp_path / "out")
    assert ran("annotate", "composer", "-o", out, "--data-root", str(folder), "--layout", "ivt",
               "--pictures") == 0  # fmt: skip
    assert ran("datasets", "--check", out, "--texts", "ivt") == 0
    (tmp_path / "out" / "text" / "pair-1_3.txt").unlink()
    capsys.readouterr()
    assert ran("datasets", "--check", out, "--texts", "ivt") == 1
    assert "pair-1_3.txt" in capsys.readouterr().out
    assert ran("datasets", "--check", "roadscene", "--texts", "ivt") == 2
    assert ran("annotate", "compozer", "-o", out, "--data-root", str(folder)) == 2
    assert "composer" in capsys.readouterr().err


def test_a_layout_that_nobody_knows_and_a_captioner_without_words_are_refused(tmp_path):
    with pytest.raises(BadRequest, match="Did you mean 'ivt'"):
        annotate(Speaker(), tiny_pairs(1), tmp_path, layout="ivvt")

    class Silent:
        def __call__(self, image, *, modality="visible"):
            return [" "]

    with pytest.raises(BadRequest, match="said nothing of the infrared picture"):
        annotate(Silent(), tiny_pairs(1), tmp_path)
