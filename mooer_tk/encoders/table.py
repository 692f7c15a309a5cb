"""The table of encoders: a new one is a class and a line here."""

from mooer_tk.config import EncoderConfig
from mooer_tk.encoders.base import SpeechEncoder
from mooer_tk.encoders.espnet import ESPnetEncoder
from mooer_tk.encoders.paraformer import ParaformerEncoder
from mooer_tk.encoders.self_supervised import SelfSupervisedEncoder
from mooer_tk.encoders.u2pp import U2ppEncoder
from mooer_tk.encoders.whisper import WhisperEncoder
from mooer_tk.errors import UserError, nearest
from mooer_tk.models import resolve_model


def _self_supervised(config: EncoderConfig) -> SpeechEncoder:
    return SelfSupervisedEncoder(resolve_model(config.model).path, config.precision)


ENCODERS = {
    "whisper": lambda c: WhisperEncoder(resolve_model(c.model).path, window_s=c.window_s, precision=c.precision),
    "paraformer": lambda c: ParaformerEncoder.load(c.model, c.precision),
    "w2v-bert": _self_supervised,
    "hubert": _self_supervised,
    "wav2vec2": _self_supervised,
    "u2pp": lambda c: U2ppEncoder(c.model, c.precision),
    "espnet": lambda c: ESPnetEncoder.load(c.model, c.precision),
}


def build_encoder(config: EncoderConfig) -> SpeechEncoder:
    """Load the frozen encoder that a config names.

    Raises:
        UserError: an unknown kind of encoder, or a model that cannot be found.
    """
    if config.name not in ENCODERS:
        raise UserError(f"encoder.name '{config.name}' is unknown: {nearest(config.name, ENCODERS)}")
    return ENCODERS[config.name](config).freeze()
