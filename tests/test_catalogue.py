"""Known data sets: listed, fetched from a server on the loopback, checked."""

import hashlib
import http.server
import json
import threading
import zipfile
from functools import partial

import numpy as np
import pytest
from PIL import Image

from fusionkit import catalogue, cli
from fusionkit.catalogue import CannotFetch, Download
from fusionkit.data import FolderPairs
from fusionkit.errors import BadRequest, UnknownComponent
from fusionkit.registry import Registry

NAMES = {
    "scenes", "folder", "roadscene", "tno", "msrs", "llvip", "m3fd", "fmb", "mfnet", "ivt", "vlf",
    "ems",
}  # fmt: skip


@pytest.fixture(scope="module")
def registry():
    return Registry.from_environment()


def save(file, values):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(file)


def pairs_in(folder, count=2):
    rng = np.random.default_rng(0)
    for number in range(count):
        save(folder / "ir" / f"{number}.png", rng.integers(0, 256, (6, 8), dtype=np.uint8))
        save(folder / "vi" / f"{number}.png", rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return folder


def ran(*args):
    with pytest.raises(SystemExit) as ended:
        cli.main(list(args))
    return ended.value.code


# ---------------------------------------------------------------------------- listed


def test_every_known_set_says_what_is_expected_where_and_on_what_terms(registry):
    rows = {row["name"]: row for row in catalogue.describe(registry)}
    assert set(rows) >= NAMES
    for row in rows.values():
        assert row["layout"] and row["licence"] and row["source"], row["name"]
        for one in row["downloads"]:
            kind, _, digest = one["checksum"].partition(":")
            assert len(digest) == {"md5": 32, "sha256": 64}[kind], row["name"]
            assert one["url"].startswith("https://")
    assert rows["scenes"]["folder"] is None and rows["msrs"]["folder"] == "msrs"


def test_the_command_lists_them_and_what_is_there(tmp_path, monkeypatch, capsys):
    pairs_in(tmp_path / "m3fd")
    monkeypatch.setenv("FUSIONKIT_DATA", str(tmp_path))
    assert ran("datasets") == 0
    text = capsys.readouterr().out
    assert f"m3fd (standard): {tmp_path / 'm3fd'}" in text
    assert "llvip (standard): not found; looked for as $FUSIONKIT_DATA/llvip" in text
    assert "non-commercial use" in text and "scenes (standard): needs no folder" in text
    assert ran("datasets", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["m3fd"]["found"] == str(tmp_path / "m3fd") and rows["llvip"]["found"] is None


# ---------------------------------------------------------------------------- fetched


@pytest.fixture
def served(tmp_path):
    """A folder on the loopback: its address, and what was asked for."""
    (tmp_path / "served").mkdir()
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Handler, directory=tmp_path / "served")
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield tmp_path / "served", f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


class Known(FolderPairs):
    layout, licence, source, folder = "ir/ and vi/", "free", "the loopback", "known"


class Offered:
    """A registry of one data set."""

    def entry(self, kind, name):
        return type("Entry", (), {"factory": Known})


def archive(folder, name, inside):
    content = pairs_in(folder.parent / f"of-{name}")
    with zipfile.ZipFile(folder / name, "w") as packed:
        for file in content.rglob("*.png"):
            packed.write(file, f"{inside}/{file.relative_to(content)}")
    return "md5:" + hashlib.md5((folder / name).read_bytes()).hexdigest()


@pytest.fixture
def offer(served, monkeypatch):
    pytest.importorskip("pooch", reason="needs the extra 'data'")
    folder, address, _ = served

    def offer(*names, **changes):
        files = []
        for name in names:
            facts = {"url": f"{address}/{name}", "inside": "data-main"}
            facts["checksum"] = archive(folder, name, "data-main")
            facts["into"] = name.removesuffix(".zip") if len(names) > 1 else ""
            files.append(Download(**(facts | changes)))
        monkeypatch.setattr(Known, "downloads", tuple(files), raising=False)

    return offer


def test_a_set_is_fetched_compared_unpacked_and_read(offer, served, tmp_path):
    offer("data.zip")
    said = []
    target = catalogue.download("known", Offered(), tmp_path / "data", say=said.append)
    assert target == tmp_path / "data" / "known"
    assert FolderPairs(target, split="all").names == ["0", "1"]
    assert sorted(p.name for p in target.parent.iterdir()) == ["known"]  # nothing left beside
    assert "licence free" in said[0] and said[1].startswith("http://127.0.0.1")
    with pytest.raises(BadRequest, match="already there"):
        catalogue.download("known", Offered(), tmp_path / "data", say=said.append)
    assert served[2] == ["/data.zip"]


def test_several_files_become_the_folders_they_are_for(offer, tmp_path):
    offer("train.zip", "test.zip")
    target = catalogue.download("known", Offered(), tmp_path, say=str)
    assert (target / "train" / "ir" / "0.png").is_file()
    assert (target / "test" / "vi" / "1.png").is_file()


def test_another_file_than_expected_is_refused_and_nothing_unpacked(offer, tmp_path):
    offer("data.zip", checksum="md5:" + 32 * "0")
    with pytest.raises(CannotFetch, match=r"not the expected file.*Nothing was unpacked"):
        catalogue.download("known", Offered(), tmp_path / "data", say=str)
    assert not (tmp_path / "data" / "known").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"url": "http://127.0.0.1:9/data.zip"}, "could not be fetched"),
        ({"inside": "elsewhere"}, "holds no folder 'elsewhere'"),
    ],
)
def test_what_does_not_arrive_whole_leaves_nothing(offer, tmp_path, change, said):
    offer("data.zip", **change)
    with pytest.raises(CannotFetch, match=said):
        catalogue.download("known", Offered(), tmp_path / "data", say=str)
    assert not (tmp_path / "data" / "known").exists()


def test_a_place_and_an_address_are_needed(registry, monkeypatch):
    monkeypatch.delenv("FUSIONKIT_DATA", raising=False)
    with pytest.raises(BadRequest, match="--to FOLDER, or set FUSIONKIT_DATA"):
        catalogue.download("tno", registry)
    with pytest.raises(BadRequest, match="no public address"):
        catalogue.download("llvip", registry)
    with pytest.raises(UnknownComponent, match="tno"):
        catalogue.download("tnno", registry)


# ---------------------------------------------------------------------------- checked


def test_a_folder_is_checked_by_the_command(tmp_path, capsys):
    folder = pairs_in(tmp_path / "mine", 3)
    assert ran("datasets", "--check", str(folder)) == 0
    (folder / "vi" / "1.png").write_bytes(b"no picture")
    (folder / "ir" / "2.png").unlink()
    capsys.readouterr()
    assert ran("datasets", "--check", str(folder), "--json") == 1
    kinds = {row["kind"] for row in json.loads(capsys.readouterr().out)}
    assert kinds == {"unreadable", "unmatched"}
    assert ran("datasets", "--check", "nowhere") == 2


def test_a_known_set_is_checked_in_every_split(registry, tmp_path):
    for split in ("train", "test"):
        pairs_in(tmp_path / split)
    assert catalogue.report("msrs", registry, str(tmp_path)) == []
    good = (tmp_path / "test" / "ir" / "0.png").read_bytes()
    (tmp_path / "test" / "ir" / "0.png").write_bytes(good[:60])
    problems = catalogue.report("msrs", registry, str(tmp_path))
    assert {problem.kind for problem in problems} == {"unreadable"}


def test_a_set_with_a_reader_of_its_own_is_read_through(registry, tmp_path):
    base = tmp_path / "Low_light" / "train"
    for side in ("Visible", "Visible_gt"):
        save(base / side / "a.png", np.zeros((6, 8, 3), np.uint8))
    for side in ("Infrared", "Infrared_gt"):
        save(base / side / "a.png", np.zeros((6, 8), np.uint8))
    assert catalogue.report("ems", registry, str(tmp_path)) == []
    save(base / "Infrared" / "a.png", np.zeros((3, 3), np.uint8))
    (problem,) = catalogue.report("ems", registry, str(tmp_path))
    assert problem.kind == "unreadable" and "one size" in problem.message


def test_a_set_without_all_is_checked_split_by_split(registry, tmp_path):
    pairs_in(tmp_path / "train")
    (problem,) = catalogue.report("rfc", registry, str(tmp_path))
    assert (problem.kind, problem.name) == ("split", "test")
    file = tmp_path / "train" / "ir" / "1.png"
    file.write_bytes(file.read_bytes()[:-20])
    found = catalogue.report("rfc", registry, str(tmp_path))
    assert [problem.kind for problem in found] == ["unreadable", "split"]
    with pytest.raises(BadRequest, match="'rfc' is not there"):
        catalogue.report("rfc", registry, str(tmp_path / "nowhere"))


def test_both_pictures_in_one_file_are_not_taken_for_a_mistake(registry, tmp_path):
    rng = np.random.default_rng(0)
    save(tmp_path / "images" / "a.png", rng.integers(0, 256, (6, 8, 4), dtype=np.uint8))
    for name in ("train", "val", "test"):
        (tmp_path / f"{name}.txt").write_text("a\n")
    assert catalogue.report("mfnet", registry, str(tmp_path)) == []
