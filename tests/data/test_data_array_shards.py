"""Shards: what is written is what is read, by us and by any tar reader; what is not whole does not count."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import soundfile

from mooer_tk.data.array_shards import DamagedError, ShardReader, ShardWriter
from mooer_tk.data.atomic import mark_done
from mooer_tk.errors import UserError

META = {"fingerprint": "a", "encoder": {"name": "none"}}


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    # Names of every kind: tar has other headers for long names and for letters outside ASCII.
    names = ["plain", "a/folder/b", "ünïcødé-шум-音", "long-" + "x" * 300, "ä" * 120, "last"]
    return {name: rng.standard_normal((3 + 7 * i, 5)).astype(np.float16) for i, name in enumerate(names)}


def write(folder, arrays, number=0, skipped=None, meta=META):
    writer = ShardWriter(folder, meta)
    writer.write(number, [(utt, array, len(array) / 50) for utt, array in arrays.items()], skipped or {})
    return writer


def test_random_access_gives_what_was_written(tmp_path, arrays):
    names = list(arrays)
    write(tmp_path, {name: arrays[name] for name in names[:4]}, 0)
    write(tmp_path, {name: arrays[name] for name in names[4:]}, 1)
    mark_done(tmp_path, "a")
    reader = ShardReader(tmp_path)
    assert sorted(reader) == sorted(names) and len(reader) == len(names)
    assert "plain" in reader and "plane" not in reader
    for name in reversed(names):
        np.testing.assert_array_equal(reader[name], arrays[name])
        assert reader[name].dtype == np.float16
        assert reader.entries[name].seconds == len(arrays[name]) / 50
    assert reader.meta["encoder"] == {"name": "none"}


def test_an_array_is_a_view_of_the_mapped_file_and_takes_no_memory(tmp_path, arrays):
    write(tmp_path, arrays)
    array = ShardReader(tmp_path, unfinished=True)["last"]
    assert not array.flags.owndata and not array.flags.writeable


@pytest.mark.parametrize(
    "array", [np.arange(6, dtype=">i4").reshape(2, 3), np.ones((4, 3)).T[::2], np.zeros((0, 5), np.float16), np.ones(7)]
)
def test_every_dtype_layout_and_shape_survives(tmp_path, array):
    write(tmp_path, {"x": array, "y": np.ones((2, 2))})
    reader = ShardReader(tmp_path, unfinished=True)
    np.testing.assert_array_equal(reader["x"], array)
    assert reader["x"].shape == array.shape and reader["x"].dtype == array.dtype
    np.testing.assert_array_equal(reader["y"], np.ones((2, 2)))


def test_an_ordinary_tar_reader_reads_the_shards(tmp_path, arrays):
    write(tmp_path, arrays)
    with tarfile.open(tmp_path / "shard-00000.tar") as tar:
        found = {m.name.removesuffix(".npy"): np.load(io.BytesIO(tar.extractfile(m).read())) for m in tar}
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def test_skipped_utterances_are_listed_with_their_reason(tmp_path, arrays):
    write(tmp_path, arrays, skipped={"bad": "missing file: x.wav", "worse": "empty"})
    reader = ShardReader(tmp_path, unfinished=True)
    assert reader.skipped == {"bad": "missing file: x.wav", "worse": "empty"}
    assert "bad" not in reader and len(reader) == len(arrays)


def test_a_failing_source_leaves_no_shard(tmp_path, arrays):
    def items():
        yield "one", np.ones((2, 2)), 1.0
        raise MemoryError

    writer = ShardWriter(tmp_path, META)
    with pytest.raises(MemoryError):
        writer.write(0, items(), {})
    assert [path.name for path in tmp_path.iterdir()] == ["meta.json"]
    assert not writer.is_whole(0)


def test_a_killed_writer_leaves_no_whole_shard(tmp_path):
    script = """
import sys, time
import numpy as np
from mooer_tk.data.array_shards import ShardWriter

def items():
    for number in range(50):
        yield f"u{number}", np.ones((1000, 100)), 1.0
    print("half", flush=True)
    time.sleep(60)

writer = ShardWriter(sys.argv[1], {"fingerprint": "a"})
writer.write(0, [("first", np.ones((2, 2)), 1.0)], {})
writer.write(1, items(), {})
"""
    path = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}) as process:
        assert process.stdout.readline() == b"half\n"
        process.send_signal(signal.SIGKILL)
    writer = ShardWriter(tmp_path, {"fingerprint": "a"})
    assert writer.is_whole(0) and not writer.is_whole(1)
    assert list(ShardReader(tmp_path, unfinished=True)) == ["first"]
    assert not (tmp_path / "shard-00001.tar").exists()
    writer.write(1, [("second", np.zeros((2, 2)), 1.0)], {})
    assert sorted(ShardReader(tmp_path, unfinished=True)) == ["first", "second"]


@pytest.mark.parametrize("size", [0, 100, 3000])
def test_a_truncated_tar_is_a_user_error_that_names_it(tmp_path, size):
    write(tmp_path, {"one": np.ones((20, 50)), "two": np.ones((20, 50))})
    os.truncate(tmp_path / "shard-00000.tar", size)
    with pytest.raises(UserError, match=r"shard-00000\.tar.*stage 3"):
        ShardReader(tmp_path, unfinished=True)["two"]


def test_a_lost_tar_is_a_user_error_that_names_it(tmp_path):
    write(tmp_path, {"one": np.ones((2, 2))})
    (tmp_path / "shard-00000.tar").unlink()
    with pytest.raises(UserError, match=r"shard-00000\.tar"):
        ShardReader(tmp_path, unfinished=True)["one"]


def test_a_directory_that_was_not_finished_is_refused(tmp_path, arrays):
    with pytest.raises(UserError, match="stage 3"):
        ShardReader(tmp_path / "nowhere")
    write(tmp_path, arrays)
    with pytest.raises(UserError, match="stage 3"):
        ShardReader(tmp_path)


def test_another_fingerprint_starts_anew_and_the_same_one_goes_on(tmp_path, arrays):
    write(tmp_path, arrays, 0)
    write(tmp_path, {"more": np.ones((2, 2))}, 1)
    before = (tmp_path / "shard-00000.tar").read_bytes()
    again = ShardWriter(tmp_path, META)
    assert again.is_whole(0) and again.is_whole(1) and not again.is_whole(2)
    assert (tmp_path / "shard-00000.tar").read_bytes() == before
    mark_done(tmp_path, "a")
    other = ShardWriter(tmp_path, {"fingerprint": "b"})
    assert not other.is_whole(0)
    assert not list(tmp_path.glob("shard-*"))
    # Its marker would make a part of the new shards pass for all of the old ones.
    assert not (tmp_path / "done.json").exists()
    assert json.loads((tmp_path / "meta.json").read_text())["fingerprint"] == "b"


def test_audio_is_kept_as_flac_and_read_back(tmp_path, waves):
    writer = ShardWriter(tmp_path, META)
    writer.write(0, [(utt, wave, len(wave) / 16_000) for utt, wave in waves.items()], {}, audio=True)
    reader = ShardReader(tmp_path, unfinished=True)
    for utt, wave in waves.items():
        assert reader[utt].dtype == np.float32 and reader.entries[utt].shape == wave.shape
        np.testing.assert_allclose(reader[utt], wave, atol=2**-15)
    with tarfile.open(tmp_path / "shard-00000.tar") as tar:
        names = tar.getnames()
        samples, rate = soundfile.read(io.BytesIO(tar.extractfile(names[0]).read()), dtype="float32")
    assert names == [f"{utt}.flac" for utt in waves] and rate == 16_000
    np.testing.assert_array_equal(samples, reader[names[0].removesuffix(".flac")])
    assert (tmp_path / "shard-00000.tar").stat().st_size < sum(2 * len(wave) for wave in waves.values())


@pytest.mark.parametrize("audio", [False, True])
@pytest.mark.parametrize("place", [0, 2, 4])
def test_damage_at_any_place_of_a_tar_costs_one_utterance(tmp_path, waves, audio, place):
    """The original lost the rest of the epoch to one corrupt file at the end of a tar."""
    chosen = dict(list(waves.items())[:5])
    ShardWriter(tmp_path, META).write(0, [(u, w, len(w) / 16_000) for u, w in chosen.items()], {}, audio=audio)
    hurt = ShardReader(tmp_path, unfinished=True).entries[list(chosen)[place]]
    with (tmp_path / "shard-00000.tar").open("r+b") as tar:
        # The member's header and a part of its data: a reader that walks through the tar would stop here.
        tar.seek(hurt.offset - 300)
        tar.write(b"\xff" * 600)
    reader = ShardReader(tmp_path, unfinished=True)
    for utt, wave in chosen.items():
        if utt == hurt.utt:
            with pytest.raises(DamagedError, match=rf"shard-00000\.tar is damaged at '{utt}'"):
                reader[utt]
        else:
            np.testing.assert_allclose(reader[utt], wave, atol=2**-15)


def test_an_index_of_an_older_version_is_a_user_error(tmp_path, arrays):
    write(tmp_path, arrays)
    index = tmp_path / "shard-00000.jsonl"
    index.write_text(index.read_text().replace('"crc"', '"sum"'))
    with pytest.raises(UserError, match="older version: remove"):
        ShardReader(tmp_path, unfinished=True)
