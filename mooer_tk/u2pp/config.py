"""The YAML of a U2++ experiment (`system: u2pp`): the model's shape, its training, its search."""

from dataclasses import dataclass, field

from mooer_tk.config import TrainConfig


@dataclass
class MoEConfig:
    """Experts in place of feed-forward layers (U2++ MoE; UME)."""

    experts: int = 0  # in place of every feed-forward layer of encoder and decoders; 0 is a dense model
    top_k: int = 2  # experts that a frame goes through (U2++ MoE)
    balance: float = 0.0  # weight of the balance loss; U2++ MoE has none, UME balances
    noise: float = 0.0  # deviation of the normal noise on the router's logits in training
    z_loss: float = 0.0  # weight of the squared log-sum of the router's logits


@dataclass
class ModelConfig:
    """The shape; the defaults are WeNet's AISHELL-1 model."""

    units: str = ""  # a table of characters (units.txt) or a sentencepiece model (*.model): utils/make_units.py
    mels: int = 80
    dim: int = 256
    heads: int = 4
    layers: int = 12  # of the encoder
    ffn: int = 2048  # inner width of feed-forward layers, of each expert too
    kernel: int = 8  # of the causal convolution
    channels: int = 0  # of the subsampling, a third of a small model's step and more; 0 is `dim`, as WeNet's
    decoder_layers: int = 3  # left to right
    right_layers: int = 3  # right to left; 0 leaves that decoder out
    decoder_heads: int = 4
    decoder_ffn: int = 2048
    dropout: float = 0.1
    moe: MoEConfig = field(default_factory=MoEConfig)


@dataclass
class LossConfig:
    """ctc_weight * CTC + (1 - ctc_weight) * [(1 - reverse_weight) * left to right + reverse_weight * right to left]."""

    ctc_weight: float = 0.3
    reverse_weight: float = 0.3
    smoothing: float = 0.1  # of the decoders' labels
    ctc_only_steps: int = 0  # first CTC alone, with whole utterances: on little data that finds the alignment sooner
    dynamic_chunk: bool = True  # half of the batches see chunks of 1 to `longest_chunk` frames, for streaming
    longest_chunk: int = 25  # encoder frames of 40 ms
    dynamic_left: bool = False  # and a random number of chunks to the left, not all of them
    freeze: bool = False  # train experts and routers alone (UME)


@dataclass
class SearchConfig:
    """Decoding, as a model keeps it; `mooer decode --set` changes it. All `modes` search the same encoder output."""

    modes: list[str] = field(default_factory=lambda: ["attention_rescoring"])  # u2pp/search.py lists them
    chunk: int = -1  # encoder frames (40 ms) that are heard at once; -1 is the whole utterance
    left_chunks: int = -1  # chunks that are remembered; -1 is all
    beam: int = 10
    ctc_weight: float = 0.5  # of the CTC score in rescoring
    reverse_weight: float = 0.3  # of the right-to-left decoder in rescoring
    batch_utts: int = 16


@dataclass
class U2ppConfig:
    """One experiment."""

    system: str = "u2pp"
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    decode: SearchConfig = field(default_factory=SearchConfig)
