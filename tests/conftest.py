"""What the tests share: small models, real speech, and ways to run and to kill the `mooer` command.

Models and recordings come through tools/fetch.py's cache (MOOER_CACHE, or the user's default), so that a second run of
the tests downloads nothing.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
# Sentences of the English studio prompts: short enough for a test, long enough for several words.
PROMPTS = (
    "agent-incorrect",
    "agent-newlocation",
    "cannot-complete-as-dialed",
    "conf-getpin",
    "conf-onlyperson",
    "pbx-invalidpark",
    "privacy-incorrect",
    "queue-thankyou",
    "ss-noservice",
    "tt-weasels",
    "vm-nobodyavail",
    "vm-sorry",
)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """One CPU thread here and in child processes: sums are taken in the same order, so results compare bit by bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_whisper() -> Path:
    """Whisper tiny.en as a transformers folder."""
    from hub.models import fetch_model

    return fetch_model("whisper-tiny.en").path


@pytest.fixture(scope="session")
def tiny_teacher() -> Path:
    """The same as a CTranslate2 folder; from then on the name whisper-tiny.en finds it as a teacher."""
    from hub.models import fetch_model

    return fetch_model("whisper-tiny.en", "teacher").path


@pytest.fixture(scope="session")
def toy_whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Whisper of two narrow layers: nothing but speed, for tests of what surrounds the encoder."""
    from transformers import WhisperConfig, WhisperModel

    folder = tmp_path_factory.mktemp("toy-whisper")
    sides = {f"{side}_{what}": 2 for side in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    widths = {"d_model": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "vocab_size": 64}
    tokens = {name: 0 for name in ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        WhisperModel(WhisperConfig(**sides, **widths, **tokens)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def smollm() -> Path:
    """SmolLM2-135M-Instruct itself."""
    from hub.models import fetch_model

    return fetch_model("smollm2-135m-instruct").path


@pytest.fixture(scope="session")
def tiny_llm(smollm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers and hidden size 64 with SmolLM2's tokeniser."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny-llm")
    tokenizer = AutoTokenizer.from_pretrained(smollm)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        # Wide weights: the next token is a clear choice, which rounding does not turn.
        initializer_range=0.3,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(2)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sounds() -> Path:
    """The package of English studio prompts: transcript.txt and audio/*.g722."""
    from hub.packages import fetch_package

    return fetch_package("asterisk-sounds-en-1.6.1")


@pytest.fixture(scope="session")
def prompts(sounds: Path) -> dict[str, tuple[Path, str]]:
    """A dozen real recordings of 1 to 5 seconds: id -> (file, transcript)."""
    lines = (sounds / "transcript.txt").read_text(encoding="utf-8-sig").splitlines()
    texts = dict(line.split(":", 1) for line in lines if ":" in line)
    return {name: (sounds / "audio" / f"{name}.g722", texts[name].strip()) for name in PROMPTS}


@pytest.fixture(scope="session")
def waves(prompts: dict[str, tuple[Path, str]]) -> dict[str, np.ndarray]:
    """The samples of `prompts` at 16 kHz."""
    from mooer_tk.data.audio import load_audio

    return {name: load_audio(path) for name, (path, _) in prompts.items()}


@pytest.fixture(scope="session")
def noisy_texts() -> Callable[..., tuple[dict[str, str], dict[str, str]]]:
    """noisy_texts(n, error=0.2, seed=0) -> n references and hypotheses, each word wrong with probability `error`.

    `seed` draws the errors; the references are always the same.
    """
    vocabulary = ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel"]

    def make(n: int, error: float = 0.2, seed: int = 0) -> tuple[dict[str, str], dict[str, str]]:
        texts, noise = np.random.default_rng(100), np.random.default_rng(seed)
        refs = {f"u{i:04d}": list(texts.choice(vocabulary, size=texts.integers(4, 15))) for i in range(n)}
        hyps = {utt: [w if noise.random() > error else "noise" for w in words] for utt, words in refs.items()}
        return tuple({utt: " ".join(words) for utt, words in side.items()} for side in (refs, hyps))

    return make


@pytest.fixture(scope="session")
def wer_statistics(noisy_texts: Callable[..., tuple]) -> Callable[..., object]:
    """wer_statistics(n, error=0.2, seed=0) -> the WER's statistics of `noisy_texts`."""
    from mooer_tk.score.error_rate import error_rate
    from mooer_tk.score.normalise import get_normaliser

    def make(n: int, **settings: float) -> object:
        return error_rate(*noisy_texts(n, **settings), unit="word", normaliser=get_normaliser("none")).statistics()

    return make


@pytest.fixture(scope="session")
def write_data() -> Callable[..., Path]:
    """write_data(folder, {utt: file}, text={utt: words}, ...) -> a Kaldi data directory."""
    from mooer_tk.data.kaldi_dir import write_table

    def write(folder: Path, wavs: dict[str, object], **tables: dict[str, str]) -> Path:
        write_table(folder / "wav.scp", {utt: str(path) for utt, path in wavs.items()})
        for name, table in tables.items():
            write_table(folder / name.replace("_", "."), table)
        return folder

    return write


@pytest.fixture(scope="session")
def write_prompts(prompts: dict[str, tuple[Path, str]], write_data: Callable[..., Path]) -> Callable[..., Path]:
    """write_prompts(folder, text_es={...}, ...) -> a data directory of the dozen recordings with their transcripts."""

    def write(folder: Path, **tables: dict[str, str]) -> Path:
        wavs = {utt: path for utt, (path, _) in prompts.items()}
        return write_data(folder, wavs, text={utt: words for utt, (_, words) in prompts.items()}, **tables)

    return write


@pytest.fixture(scope="session")
def write_mvn() -> Callable[..., None]:
    """write_mvn(path, cmvn) writes Kaldi's nnet text form (am.mvn)."""

    def write(path: Path, cmvn: object) -> None:
        size = len(cmvn.shift)
        lines = ["<Nnet>", f"<Splice> {size} {size}", "[ 0 ]"]
        for name, row in (("AddShift", cmvn.shift), ("Rescale", cmvn.scale)):
            values = " ".join(f"{value:.9g}" for value in row.tolist())
            lines += [f"<{name}> {size} {size}", f"<LearnRateCoef> 0 [ {values} ]"]
        path.write_text("\n".join([*lines, "</Nnet>", ""]))

    return write


@pytest.fixture(scope="session")
def write_paraformer(write_mvn: Callable[..., None]) -> Callable[..., Path]:
    """write_paraformer(folder, encoder) writes its weights and am.mvn as MooER's release has them."""

    def write(folder: Path, encoder: torch.nn.Module) -> Path:
        folder.mkdir(exist_ok=True)
        torch.save(encoder.state_dict(), folder / "paraformer-encoder.pth")
        write_mvn(folder / "am.mvn", encoder.cmvn)
        return folder

    return write


@pytest.fixture(scope="session")
def write_states() -> Callable[..., Path]:
    """write_states(folder, {utt: states}, ...) -> a finished directory of a shard for each dict, 20 ms a state."""
    from mooer_tk.data.array_shards import ShardWriter
    from mooer_tk.data.atomic import mark_done

    def write(folder: Path, *shards: dict[str, np.ndarray]) -> Path:
        writer = ShardWriter(folder, {"fingerprint": "test"})
        writer.describe(frame_ms=20.0)
        for number, arrays in enumerate(shards):
            items = [(utt, array.astype(np.float16), 0.02 * len(array)) for utt, array in arrays.items()]
            writer.write(number, items, {})
        mark_done(folder, "test")
        return folder

    return write


@pytest.fixture(scope="session")
def make_model(tiny_llm: Path) -> Callable[..., object]:
    """make_model(handover="raw", head=False, ...) -> a small SpeechLLM over states of size `dim`, always the same."""
    from mooer_tk.adapters.ctc_head import EmbeddingCTCHead
    from mooer_tk.adapters.table import build_adapter
    from mooer_tk.config import AdapterConfig, Config, LLMConfig, LoraConfig, TrainConfig
    from mooer_tk.llm.causal_lm import load_llm
    from mooer_tk.llm.checkpoint import build_model

    def make(handover: str = "raw", *, head: bool = False, dropout: float = 0.0, dim: int = 8, rank: int = 4) -> object:
        config = Config(
            adapter=AdapterConfig(stack=2, hidden=16, handover=handover),
            train=TrainConfig(state_dropout=dropout),
            llm=LLMConfig(model=str(tiny_llm), lora=LoraConfig(rank=rank, alpha=8, dropout=dropout)),
        )
        torch.manual_seed(3)
        llm = load_llm(config.llm)
        weights = None
        if head or handover == "posterior":
            table = llm[0].get_input_embeddings().weight
            used = torch.arange(300, 340)
            parts = {"adapter": build_adapter(config.adapter, dim, 64), "head": EmbeddingCTCHead(used, table)}
            weights = torch.nn.ModuleDict(parts).state_dict()
        model = build_model(config, dim, adapter=weights, llm=llm)
        model.config = config
        return model

    return make


@pytest.fixture(scope="session")
def export() -> Callable[..., None]:
    """export(model, folder, git="abc", ...) writes a model of `make_model` as stage 6 would."""
    from mooer_tk.llm.causal_lm import lora_weights
    from mooer_tk.llm.checkpoint import Parts, write_parts

    def write(model: torch.nn.Module, folder: Path, **info: object) -> None:
        trained = {"adapter": model.adapter, **({"head": model.head} if model.head is not None else {})}
        adapter = torch.nn.ModuleDict(trained).state_dict()
        dim = len(adapter["adapter.mean"])
        write_parts(folder, Parts(model.config, model.prompt, dim, adapter, lora_weights(model.llm)), info)

    return write


@pytest.fixture
def mooer(capsys: pytest.CaptureFixture[str]) -> Callable[..., int]:
    """mooer("states", ...) -> exit status of the command, run in this process."""
    from mooer_tk.bin.main import main

    def run(*words: object) -> int:
        return main([str(word) for word in words])

    return run


@pytest.fixture
def kill_mooer() -> Iterator[Callable[..., None]]:
    """kill_mooer([words], when) starts a real `mooer` process and kills it (-9) once `when()` holds and a moment more.

    `program` is what stands for `mooer` on the command line.

    A process that ends before it can be killed fails the test: it would prove nothing.
    """
    started: list[subprocess.Popen] = []

    def run(
        words: list[object],
        when: Callable[[], bool],
        moment: float = 0.1,
        program: tuple[str, ...] = ("-m", "mooer_tk.bin.main"),
    ) -> None:
        command = [sys.executable, *program, *map(str, words)]
        settings = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            command, env={**os.environ, **settings}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        started.append(process)
        deadline = time.monotonic() + 300
        while not when() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(random.uniform(0, moment))
        process.send_signal(signal.SIGKILL)
        output = process.communicate()[0]
        assert process.returncode == -signal.SIGKILL, f"ended by itself ({process.returncode}):\n{output[-3000:]}"
        assert when(), f"killed too early:\n{output[-3000:]}"

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()
