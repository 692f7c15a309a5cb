"""Data directories of lhotse's manifests: files, not pipes, and segments where a recording holds several utterances."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from mooer_tk.data.audio import load_utterance
from mooer_tk.data.kaldi_dir import read_table, read_utterances
from mooer_tk.errors import UserError
from utils.lhotse_to_kaldi import write_data_dir

lhotse = pytest.importorskip("lhotse", reason="lhotse is an extra: make install EXTRAS=corpora")
Manifests = tuple[Path, Path]


def manifests(folder: Path, path: Path, utts: dict[str, tuple[float, float]], speaker: str | None = None) -> Manifests:
    """Manifests of one recording, with utterances from second to second."""
    recording = lhotse.Recording.from_file(path)
    spoken = [
        lhotse.SupervisionSegment(
            utt, recording.id, begin, round(end - begin, 3), text=f"text of {utt}", speaker=speaker
        )
        for utt, (begin, end) in utts.items()
    ]
    written = folder / "recordings.jsonl.gz", folder / "supervisions.jsonl.gz"
    lhotse.RecordingSet.from_recordings([recording]).to_file(written[0])
    lhotse.SupervisionSet.from_segments(spoken).to_file(written[1])
    return written


@pytest.fixture
def recording(tmp_path: Path, waves: dict[str, np.ndarray]) -> tuple[Path, float]:
    """Real speech as FLAC, for which `lhotse kaldi export` would write a pipe, and its seconds."""
    samples = waves[sorted(waves)[0]]
    soundfile.write(tmp_path / "a.flac", samples, 16_000)
    return tmp_path / "a.flac", len(samples) / 16_000


def test_a_recording_of_one_utterance_is_its_file(recording: tuple[Path, float], tmp_path: Path) -> None:
    path, seconds = recording
    assert write_data_dir(*manifests(tmp_path, path, {"u1": (0.0, seconds)}, "s1"), tmp_path / "data") == 1
    assert read_table(tmp_path / "data" / "wav.scp") == {"u1": str(path)}
    assert read_table(tmp_path / "data" / "text") == {"u1": "text of u1"}
    assert read_table(tmp_path / "data" / "utt2spk") == {"u1": "s1"}
    assert not (tmp_path / "data" / "segments").exists()


def test_parts_of_a_recording_are_segments_in_the_order_of_their_ids(
    recording: tuple[Path, float], tmp_path: Path
) -> None:
    path, seconds = recording
    written = manifests(tmp_path, path, {"u2": (0.5, seconds), "u1": (0.1, 0.5)})
    assert write_data_dir(*written, tmp_path / "data") == 2
    assert not (tmp_path / "data" / "utt2spk").exists()
    first, second = read_utterances(tmp_path / "data")
    assert (first.utt, second.utt) == ("u1", "u2")
    assert len(load_utterance(first)) == 6400
    assert write_data_dir(*written, tmp_path / "one", max_utts=1) == 1
    assert list(read_table(tmp_path / "one" / "text")) == ["u1"]


def test_a_recording_of_several_channels_is_refused(tmp_path: Path, waves: dict[str, np.ndarray]) -> None:
    samples = waves[sorted(waves)[0]]
    soundfile.write(tmp_path / "a.flac", np.stack([samples, samples], 1), 16_000)
    with pytest.raises(UserError, match="recording a is not one file of one channel"):
        write_data_dir(*manifests(tmp_path, tmp_path / "a.flac", {"u1": (0.0, 1.0)}), tmp_path / "data")


def test_no_transcript_is_no_word_and_a_recording_that_is_missing_is_named(
    recording: tuple[Path, float], tmp_path: Path
) -> None:
    path, seconds = recording
    recordings, supervisions = manifests(tmp_path, path, {"u1": (0.0, seconds)})
    silent = [lhotse.SupervisionSegment("u1", "a", 0.0, seconds)]
    lhotse.SupervisionSet.from_segments(silent).to_file(supervisions)
    write_data_dir(recordings, supervisions, tmp_path / "data")
    assert read_table(tmp_path / "data" / "text") == {"u1": ""}
    lost = [lhotse.SupervisionSegment("u2", "gone", 0.0, 1.0, text="x")]
    lhotse.SupervisionSet.from_segments(lost).to_file(supervisions)
    with pytest.raises(UserError, match=r"lacks \(gone\)"):
        write_data_dir(recordings, supervisions, tmp_path / "data")
