"""The table of encoders: a new one is a class and a line here."""

from __future__ import annotations

from mooer_tk.config import EncoderConfig
from mooer_tk.encoders.base import SpeechEncoder
from mooer_tk.encoders.whisper import WhisperEncoder
from mooer_tk.errors import UserError, nearest
from mooer_tk.hub.models import resolve_model

ENCODERS = {
    "whisper": lambda path, config: WhisperEncoder(path, window_s=config.window_s, precision=config.precision),
}


def build_encoder(config: EncoderConfig) -> SpeechEncoder:
    """Load the frozen encoder that a config names.

    Raises:
        UserError: an unknown kind of encoder, or a model that cannot be found.
    """
    if config.name not in ENCODERS:
        raise UserError(f"encoder.name '{config.name}' is unknown: {nearest(config.name, ENCODERS)}")
    return ENCODERS[config.name](resolve_model(config.model).path, config).freeze()
