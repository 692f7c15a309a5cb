"""The recipes of public corpora, stages 1 to 3, on corpora of their layout: real speech, a few utterances of it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mooer_tk.data.array_shards import ShardReader
from mooer_tk.data.kaldi_dir import read_table
from tests.recipes.conftest import environment

NUMBERS = ("one", "two", "three")


def put(path: Path, samples: np.ndarray, **form: str) -> float:
    """Write 16 kHz audio; returns its seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, 16_000, **form)
    return len(samples) / 16_000


def aishell(folder: Path, waves: list[np.ndarray]) -> None:
    corpus, lines = folder / "downloads" / "aishell" / "data_aishell", []
    for speaker, part in enumerate(("train", "dev", "test"), 2):
        for number, samples in enumerate(waves):
            utt = f"BAC009S{speaker:04d}W{number:04d}"
            put(corpus / "wav" / part / f"S{speaker:04d}" / f"{utt}.wav", samples)
            lines.append(f"{utt} 而 对 楼市 成交 {'一二三'[number]}\n")
    (corpus / "transcript").mkdir()
    (corpus / "transcript" / "aishell_transcript_v0.8.txt").write_text("".join(lines), encoding="utf-8")


def librispeech(folder: Path, waves: list[np.ndarray]) -> None:
    parts = ("train-clean-100", "train-clean-360", "train-other-500", "dev-clean", "dev-other")
    for speaker, part in enumerate((*parts, "test-clean", "test-other"), 100):
        chapter, lines = folder / "downloads" / "LibriSpeech" / part / str(speaker) / "7", []
        for number, samples in enumerate(waves):
            put(chapter / f"{speaker}-7-{number:04d}.flac", samples)
            lines.append(f"{speaker}-7-{number:04d} AGENT NUMBER {NUMBERS[number].upper()}\n")
        (chapter / f"{speaker}-7.trans.txt").write_text("".join(lines))


def wenetspeech(folder: Path, waves: list[np.ndarray]) -> None:
    """Long recordings that hold all utterances of a part."""
    corpus, audios = folder / "downloads" / "WenetSpeech", []
    for part in ("L", "DEV", "TEST_NET", "TEST_MEETING"):
        path = f"audio/{part}/Y-{part}.opus"
        whole = put(corpus / path, np.concatenate(waves), format="OGG", subtype="OPUS")
        ends = (np.cumsum([len(one) for one in waves]) / 16_000).round(3).tolist()
        segments = [
            {"sid": f"Y-{part}-S{i}", "begin_time": begin, "end_time": end, "subsets": [part], "text": f"你好{i}"}
            for i, (begin, end) in enumerate(zip([0.0, *ends], ends, strict=False))
        ]
        audios.append({"aid": f"Y-{part}", "duration": whole, "path": path, "segments": segments})
    (corpus / "WenetSpeech.json").write_text(json.dumps({"audios": audios}), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("make", [aishell, librispeech, wenetspeech])
def test_a_corpus_becomes_data_directories_shards_and_units(
    make: Callable[..., None], recipe: Path, waves: dict[str, np.ndarray]
) -> None:
    pytest.importorskip("lhotse", reason="lhotse is an extra: make install EXTRAS=corpora")
    folder = recipe.parents[1] / make.__name__ / "u2pp_moe"
    make(folder, [waves[name] for name in sorted(waves)[:3]])
    options = ["--stage", "1", "--stop-stage", "3", "--pieces", "20" if make is librispeech else "0"]
    command = ["bash", "run.sh", *options]
    done = subprocess.run(command, cwd=folder, env=environment(recipe), text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-3000:]
    shards = {path.parent.name: ShardReader(path.parent) for path in folder.glob("dump/*/done.json")}
    assert {len(one) for one in shards.values()} == {3}
    assert len(shards) == {aishell: 3, librispeech: 6, wenetspeech: 4}[make]
    for name, reader in shards.items():
        data = folder / "data" / name
        assert read_table(data / "text").keys() == set(reader)
        # The files themselves: a pipe is a command that no stage may run.
        assert not [source for source in read_table(data / "wav.scp").values() if "|" in source]
        assert (data / "segments").is_file() == (make is wenetspeech)
        for utt, seconds in read_table(data / "utt2dur").items():
            assert reader.entries[utt].seconds == pytest.approx(float(seconds), abs=0.01)
