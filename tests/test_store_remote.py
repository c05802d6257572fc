"""Stored runs behind an fsspec address: a real S3-compatible server on the loopback interface."""

import json
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray

from fusionkit import store
from fusionkit.store import location

pytest.importorskip("s3fs", reason="the extra s3 is not installed")
moto = pytest.importorskip("moto.server", reason="the S3-compatible server is not installed")

BUCKET = "runs"
NUMBERS = iter(range(1000))


def begin(path, **changes):
    request = {"parameters": {"steps": 1}, "recipe": {}, "components": {}, "seed": 0}
    return store.create_run(path, **{**request, "device": "cpu", **changes})


def noise(*shape, seed=0):
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def fill(run, pair, seed=0):
    """Little of each pair: every request to the server costs time."""
    run.put_heatmaps("clip", pair, noise(2, 16, 20, seed=seed), ["a car", f"car {seed}"])
    run.put_image("fused", pair, noise(3, 16, 20, seed=seed))


@pytest.fixture(scope="module")
def server():
    served = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    served.start()
    host, port = served.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("NO_PROXY", "127.0.0.1")
        import s3fs

        s3fs.S3FileSystem().mkdir(BUCKET)
        yield f"http://{host}:{port}"
    served.stop()


@pytest.fixture
def url(server):
    return f"s3://{BUCKET}/run-{next(NUMBERS)}.zarr"


def test_a_run_on_s3_comes_out_by_name_while_and_after_it_is_written(url):
    with begin(url) as run:
        run.declare_pairs(["a", "b"], 16, 20)
        run.declare_metrics(["EN"])
        run.declare_history(["film"], [0], 3, ["total"])
        fill(run, "a", 1)
        run.put_features("layer", "a", noise(19, 16, 20, seed=1))
        run.put_history("film", 0, 0, {"total": 2.0})
        run.flush()
        tree = store.open_run(url)
        assert tree.attrs["status"] == "running"
        assert np.array_equal(store.read_image(tree, "fused", "a"), noise(3, 16, 20, seed=1))
        with pytest.raises(store.NotComputed):
            store.read_image(tree, "fused", "b")
        fill(run, "b", 2)
        run.put_scores("score", "b", {"EN": 2})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tree = store.open_run(url)
        assert tree.attrs["status"] == "complete"
        assert float(tree["scores"]["score"].sel(pair="b", metric="EN")) == 2
        assert store.read_heatmaps(url, "clip", "b")[1] == ["a car", "car 2"]
        assert store.read_history(url, "total")[1]["film"][0][0] == 2.0
        plain = xarray.open_datatree(url, engine="zarr")
        assert plain["features/layer"]["maps"].dims == ("pair", "channel", "y", "x")
    info = store.run_info(url)
    assert info["contents"]["images"] == {"written": 2, "of": 2, "variables": ["fused"]}
    assert store.kept_pairs(url) == ["a", "b"]


def test_one_channel_on_s3_is_fetched_without_the_others(url, monkeypatch):
    with begin(url) as run:
        run.declare_pairs(["a"], 96, 96)
        run.put_features("layer", "a", noise(64, 96, 96))
    import zarr

    fetched = []
    original = zarr.storage.FsspecStore.get

    async def counting(self, key, *args, **options):
        data = await original(self, key, *args, **options)
        if data is not None and "/maps/c/" in key:
            fetched.append(len(data))
        return data

    monkeypatch.setattr(zarr.storage.FsspecStore, "get", counting)
    channel = store.read_channel(url, "layer", "a", 17)
    assert np.allclose(channel, noise(64, 96, 96)[17], atol=1e-3)
    assert 0 < sum(fetched) < 0.2 * noise(64, 96, 96).nbytes / 2


def test_options_of_the_place_can_be_given_in_the_call(url, server, monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    options = {"endpoint_url": server, "key": "key", "secret": "secret"}
    with begin(url, storage_options=options) as run:
        run.declare_pairs(["a"], 16, 20)
        run.put_image("fused", "a", noise(3, 16, 20))
    tree = store.open_run(url, storage_options=options)
    assert np.array_equal(store.read_image(tree, "fused", "a"), noise(3, 16, 20))
    assert store.run_info(url, storage_options=options)["status"] == "complete"


def test_a_run_on_s3_is_taken_up_refused_and_replaced_like_a_local_one(url):
    with pytest.raises(RuntimeError), begin(url) as run:
        run.declare_pairs(["a", "b"], 16, 20)
        run.put_image("fused", "a", noise(3, 16, 20))
        raise RuntimeError("power cut")
    with pytest.raises(store.RunMismatch, match=r"parameters\.steps: stored 1, asked for 2"):
        begin(url, parameters={"steps": 2})
    with begin(url) as run:
        assert run.done("images", "a") and not run.done("images", "b")
        run.put_image("fused", "b", noise(3, 16, 20))
    assert store.run_info(url)["status"] == "complete"
    with begin(url, parameters={"steps": 2}, resume=False) as run:
        pass
    assert store.run_info(url)["contents"] == {}


def test_two_processes_that_write_and_declare_at_the_same_moment_lose_nothing(url, tmp_path):
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_store_remote import *
url, mine, gate = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
run = begin(url)
print("ready", flush=True)
while not gate.exists():
    time.sleep(0.001)
for index in range(mine, 4, 2):
    run.declare_pairs([f"p{{index}}"], 16, 20)
    run.declare_metrics([f"m{{index}}"])
    fill(run, f"p{{index}}", index)
run.complete()
"""
    gate = tmp_path / "go"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", code, url, str(which), str(gate)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for which in (0, 1)
    ]  # fmt: skip
    try:
        for writer in writers:
            assert writer.stdout.readline() == "ready\n", writer.communicate()
        gate.touch()
        for writer in writers:
            _, errors = writer.communicate(timeout=600)
            assert (writer.returncode, errors) == (0, "")
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    tree = store.open_run(url)
    assert tree.attrs["status"] == "complete" and len(tree.attrs["sessions"]) == 2
    assert sorted(tree.attrs["pairs"]) == [f"p{i}" for i in range(4)]
    assert sorted(tree["scores"].attrs["metrics"]) == [f"m{i}" for i in range(4)]
    for i in range(4):
        assert np.array_equal(store.read_image(tree, "fused", f"p{i}"), noise(3, 16, 20, seed=i))
        assert store.read_heatmaps(tree, "clip", f"p{i}")[1] == ["a car", f"car {i}"]


def test_the_lock_of_a_dead_process_is_taken_over_and_a_living_one_is_waited_for(url, monkeypatch):
    place = location.Location(url)
    key = f"{BUCKET}/{place.name}.lock"
    place._fs.pipe_file(key, b"of somebody who died")
    monkeypatch.setattr(location, "_DEAD_SECONDS", 0.3)
    start = time.monotonic()
    with place.lock(), place.lock():  # re-entrant
        assert time.monotonic() - start >= 0.3
        assert place._fs.exists(key)
    place._fs.invalidate_cache()
    assert not place._fs.exists(key)
    monkeypatch.setattr(location, "_DEAD_SECONDS", 60.0)
    place._fs.pipe_file(key, b"of somebody alive")
    threading.Timer(0.3, lambda: place._fs.rm_file(key)).start()
    start = time.monotonic()
    with place.lock():
        assert 0.2 < time.monotonic() - start < 30
        monkeypatch.setattr(location, "_DEAD_SECONDS", 0.0)
        before = place._fs.cat_file(key)
        place.read("zarr.json")
        assert place._fs.cat_file(key) != before, "a holder at work says that it lives"
    place._fs.invalidate_cache()
    assert not place._fs.exists(key)


def test_what_is_wrong_with_a_remote_place_is_said_in_words(server, url, monkeypatch):
    with pytest.raises(store.StoreError, match=r"no run at s3://runs/nothing\.zarr"):
        store.open_run(f"s3://{BUCKET}/nothing.zarr")
    with pytest.raises(store.StoreError, match=r"no-bucket/run\.zarr cannot be written"):
        begin("s3://no-bucket/run.zarr")
    with begin(url):
        pass
    place = location.Location(url)
    root = place.read("zarr.json")
    root["attributes"]["format_version"] = 99
    place._fs.pipe_file(f"{place._root}/zarr.json", json.dumps(root).encode())
    with pytest.raises(store.StoreError, match="newer fusionkit"):
        store.open_run(url)
    with pytest.raises(store.StoreError, match=r"nosuch://a/b is no address.*nosuch"):
        store.open_run("nosuch://a/b")
    refused = {
        "endpoint_url": "http://127.0.0.1:9",
        "config_kwargs": {"retries": {"max_attempts": 0}},
    }
    with pytest.raises(store.StoreError, match=r"cannot be (reached|read)"):
        store.open_run(url, storage_options=refused)

    def denied(*args, **options):
        raise PermissionError("Access Denied")

    monkeypatch.setattr(place._fs, "pipe_file", denied)
    with pytest.raises(store.StoreError, match=r"cannot be written \(Access Denied\)"):
        begin(f"s3://{BUCKET}/other.zarr")
