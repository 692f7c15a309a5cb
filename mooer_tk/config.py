"""One YAML an experiment, read into dataclasses; an unknown key is an error that names the nearest one.

Every field has its reason beside it. `key=value` on the command line overrides the file; the resolved copy and the
git hash are written to the experiment directory.
"""

import copy
import dataclasses
import subprocess
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from mooer_tk.errors import UserError, nearest

T = TypeVar("T")


@dataclass
class EncoderConfig:
    """The frozen speech encoder."""

    name: str = "whisper"  # a line of encoders/table.py
    model: str = "whisper-base"  # local path, hub id, or an embedded package's name
    window_s: float = 10.0  # Whisper only: windows of k x this many seconds
    precision: str = "auto"  # of matrix products: auto | float32 | bfloat16 (mooer_tk/precision.py)


@dataclass
class AdapterConfig:
    """From encoder states to LLM embeddings (MooER section 2: stack, Linear, ReLU, Linear)."""

    name: str = "linear"  # a line of adapters/table.py
    stack: int = 5  # encoder states per embedding: 5 x 20 ms = 100 ms (the paper's 120 ms needs 6)
    frame_ms: float = 0.0  # milliseconds per embedding, instead of `stack`: the paper tried 120, 180 and 240
    hidden: int = 2048  # the paper's width
    handover: str = "posterior"  # what the LLM is fed: posterior | compress | norm | raw (adapters/handover.py)


@dataclass
class LoraConfig:
    """Low-rank updates of the LLM (peft)."""

    rank: int = 64  # MooER's release; small LLMs need less; 0 leaves the LLM frozen
    alpha: int = 16  # MooER's release: scale alpha / rank = 0.25
    dropout: float = 0.05  # MooER's release
    targets: list[str] = field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )


@dataclass
class LLMConfig:
    """The language model."""

    model: str = "smollm2-135m-instruct"  # local path, hub id, or an embedded package's name
    dtype: str = "float32"  # of the frozen weights; bfloat16 halves their memory
    lora: LoraConfig = field(default_factory=LoraConfig)


@dataclass
class DataConfig:
    """Which utterances are trained on, and in what company."""

    min_seconds: float = 0.2  # MooER: 20 frames
    max_seconds: float = 20.0  # MooER: 2,000 frames
    batch_positions: int = 1200  # budget of a micro-batch: padded positions (speech + prompt + answer)
    batch_utts: int = 32  # and never more utterances than this
    pack_positions: int = 0  # rows of about so many positions hold several utterances; 0: one a row, padded
    shuffle_utts: int = 0  # shuffle within so many, shard by shard, where random reads are slow; 0: over everything
    workers: int = 0  # processes that read ahead; for audio shards, a few for each GPU


@dataclass
class AugmentConfig:
    """What changes the speech in training; speed, noise and SpecAugment need audio shards (`mooer states --audio`)."""

    speed: list[float] = field(default_factory=list)  # one is drawn an utterance and pass, such as [0.9, 1.0, 1.1]
    noise: str = ""  # audio shards of noise
    noise_share: float = 0.5  # of the utterances that get noise
    noise_snr: list[float] = field(default_factory=lambda: [5.0, 20.0])  # dB, drawn between the two
    freq_masks: int = 0  # SpecAugment: masks over features, of at most `freq_width` bins each
    freq_width: int = 27
    time_masks: int = 0  # SpecAugment: masks over frames, of at most `time_share` of the utterance each
    time_share: float = 0.05
    time_width: int = 0  # and never more frames than this; 0 is no such limit
    sub_masks: int = 0  # stretches of at most `sub_width` frames that an earlier stretch is copied over (spec-sub)
    sub_width: int = 30
    trim_width: int = 0  # cut up to so many frames from the end, if that is less than half (spec-trim)


@dataclass
class OptimConfig:
    """AdamW with a warm-up and a decay."""

    name: str = "adamw"  # adamw | adam
    lr: float = 1e-4  # peak learning rate (MooER: 1e-4)
    schedule: str = "cosine"  # cosine | constant | inverse_sqrt | warmup_decay, MooER's (train/schedule.py)
    warmup_steps: int = 100
    min_lr_share: float = 0.05  # cosine, constant: it ends at this share of the peak
    decay_from: float = 0.8  # constant: the share of the steps after which it falls
    decay_steps: int = 0  # warmup_decay: the step at which the rate is 0; 0 is the last one
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])  # MooER
    weight_decay: float = 0.0  # MooER
    clip: float = 1.0  # gradient norm; 0 clips nothing, as MooER


@dataclass
class TrainConfig:
    """One training run (the warm start, or adapter + LoRA)."""

    engine: str = "torch"  # torch | deepspeed, in one process or in several
    zero_stage: int = 2  # deepspeed: 2 shares out gradients and optimizer states, 3 the weights too
    steps: int = 500  # optimizer steps
    accumulate: int = 1  # micro-batches per step
    seed: int = 42
    log_every: int = 10  # steps
    eval_every: int = 100  # steps between dev losses, dev errors and checkpoints
    save_every: int = 0  # steps between checkpoints without dev scores; 0: none but those of eval_every
    keep: int = 3  # checkpoints kept, by dev error
    keep_last: int = 1  # and the newest ones
    patience: int = 0  # stop after so many evaluations without a better criterion; 0: never
    max_bad_steps: int = 0  # steps with a loss or gradient that is not finite: so many are passed over, then it stops
    checkpointing: bool = False  # compute the LLM's activations twice instead of keeping them
    precision: str = "auto"  # of the LLM's matrix products: auto | float32 | bfloat16 (mooer_tk/precision.py)
    state_dropout: float = 0.0  # on the encoder states; the paper has none, the embedded recipe has little data
    ctc_weight: float = 0.0  # weight of the adapter's CTC loss beside the LLM's (per token)
    adapter_lr_scale: float = 1.0  # the warm-started adapter may want smaller steps than LoRA
    optim: OptimConfig = field(default_factory=OptimConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    data: DataConfig = field(default_factory=DataConfig)


@dataclass
class DecodeConfig:
    """Generation (MooER's release: beam 4, 200 tokens, length penalty 0.8, eos bias -0.2)."""

    beam: int = 4
    max_new_tokens: int = 200
    tokens_per_second: float = 8.0  # output cap: this many tokens a second of speech (+ 5) stops loops
    length_penalty: float = 0.8
    eos_bias: float = -0.2
    repetition_penalty: float = 1.0
    ctc_weight: float = 0.0  # of the CTC head's log-probability beside the LLM's, in transcripts (decode/ctc_prefix.py)
    batch_utts: int = 16


@dataclass
class Config:
    """One experiment."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    llm: LLMConfig = field(default_factory=LLMConfig)
    prompt: str = "chatml"  # a line of llm/prompt.py
    warm_start: TrainConfig = field(default_factory=TrainConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)


def load_config(path: Path | str | None, overrides: list[str] | None = None, kind: type[T] = Config) -> T:
    """Read a YAML file into a dataclass and apply `section.key=value` overrides.

    Raises:
        UserError: unreadable YAML, an unknown key (the nearest known one is named), or a value of the wrong type.
    """
    values = _read(path) if path is not None else {}
    wanted = getattr(kind, "system", "mooer")
    if (system := values.get("system", wanted)) != wanted:
        raise UserError(f"{path} is a config of {system}, not {wanted} (u2pp needs none for mooer states --audio).")
    for override in overrides or []:
        key, equals, value = override.partition("=")
        if not equals:
            raise UserError(f"override '{override}' is not of the form section.key=value.")
        try:
            _set(values, key.split("."), yaml.safe_load(value), override)
        except yaml.YAMLError as error:
            raise UserError(f"override '{override}': the value is no valid YAML: {error}") from error
    return _build(kind, values, "", str(path or "command line"))


def system_of(path: Path | str) -> str:
    """Which system a YAML is for: "mooer", or "u2pp" where it says so."""
    return str(_read(path).get("system", "mooer"))


def _read(path: Path | str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise UserError(f"cannot read the config {path}: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"the config {path} is no valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"the config {path} must hold sections with keys, found {values!r:.60}.")
    return values


def dump(config: Any) -> str:
    """The resolved config as YAML."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)


def essence(config: Any) -> str:
    """The config without what changes no result: a run may go on with more readers or another log."""
    same = copy.deepcopy(config)
    if hasattr(same, "system"):
        same.decode = None  # a recogniser does not search in training
    for settings in (one for one in vars(same).values() if isinstance(one, TrainConfig)):
        settings.data.workers = settings.log_every = settings.save_every = settings.keep_last = 0
    return dump(same)


def git_hash() -> str:
    """Short hash of the checkout this package stands in, `+` when it has uncommitted changes, or `unknown`."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *words], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        # Results written by the recipe itself are no change of the code.
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "*.py", "*.sh", "*.yaml")
        return git("rev-parse", "--short=10", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _set(values: dict[str, Any], keys: list[str], value: Any, override: str) -> None:
    for key in keys[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise UserError(f"override '{override}': '{key}' is a value, not a section.")
    values[keys[-1]] = value


def _build(cls: type, values: Any, where: str, source: str) -> Any:
    if not isinstance(values, dict):
        raise UserError(f"{source}: '{where.rstrip('.')}' must be a section with keys, found {values!r}.")
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in hints:
            raise UserError(f"{source}: unknown key '{where}{key}': {nearest(str(key), hints)}")
    return cls(**{key: _value(hints[key], value, f"{where}{key}", source) for key, value in values.items()})


def _value(kind: Any, value: Any, where: str, source: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _build(kind, value, f"{where}.", source)
    if isinstance(kind, types.GenericAlias):
        (inner,) = typing.get_args(kind)
        if isinstance(value, list):
            return [_value(inner, one, where, source) for one in value]
    elif kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        # YAML reads 1e-4 as a string.
        try:
            return float(value)
        except ValueError:
            pass
    elif isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    name = getattr(kind, "__name__", str(kind))
    raise UserError(f"{source}: '{where}' must be of type {name}, found {value!r}.")
