"""Convert a CTranslate2 Whisper folder (as faster-whisper uses it) to a transformers folder.

CTranslate2 stores one binary file: a header, then named arrays, then aliases (format version 6, as written by
ctranslate2.specs.model_spec.ModelSpec.save). Attention projections are fused there and split here.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mooer_tk.data.atomic import replacing_dir
from mooer_tk.errors import UserError

# The dtype codes of CTranslate2's binary format.
DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
PROJECTIONS = ("q_proj", "k_proj", "v_proj")


def convert(source: Path | str, target: Path | str) -> None:
    """Write `target/` as a `WhisperForConditionalGeneration` folder (safetensors, fp32) from a CTranslate2 folder.

    Raises:
        UserError: not a CTranslate2 Whisper model, or its weights do not fill the model exactly.
    """
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    source = Path(source)
    arrays = read_ct2(source / "model.bin")
    config = WhisperConfig(**_shape(arrays), **_special_tokens(source / "config.json"))
    model = WhisperForConditionalGeneration(config)
    weights = {name: torch.from_numpy(array.astype(np.float32)) for name, array in _renamed(arrays, config).items()}
    weights["proj_out.weight"] = weights["model.decoder.embed_tokens.weight"]
    missing, unused = model.load_state_dict(weights, strict=False)
    if missing or unused:
        raise UserError(f"{source}: weights do not fit Whisper; missing {missing[:5]}, unused {unused[:5]}")
    with replacing_dir(target) as folder:
        model.save_pretrained(folder)


def read_ct2(path: Path | str) -> dict[str, np.ndarray]:
    """Read every array of a CTranslate2 `model.bin`: name -> array.

    Raises:
        UserError: the file is missing, cut short or of another format version.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            (version,) = struct.unpack("<I", file.read(4))
            name = _string(file)
            if version != 6 or name != "WhisperSpec":
                raise UserError(f"{path}: expected a CTranslate2 Whisper model of format 6, found '{name}' {version}.")
            _revision, count = struct.unpack("<II", file.read(8))
            arrays = {}
            for _ in range(count):
                key = _string(file)
                rank = file.read(1)[0]
                shape = struct.unpack(f"<{rank}I", file.read(4 * rank))
                code, size = struct.unpack("<BI", file.read(5))
                arrays[key] = np.frombuffer(file.read(size), dtype=DTYPES[code]).reshape(shape)
            return arrays
    except (OSError, struct.error, IndexError, ValueError, KeyError) as error:
        raise UserError(f"{path} is no whole CTranslate2 model ({error}); remove it and fetch it again.") from error


def _string(file: BinaryIO) -> str:
    (length,) = struct.unpack("<H", file.read(2))
    return file.read(length)[:-1].decode()


def _shape(arrays: dict[str, np.ndarray]) -> dict[str, int]:
    """Read the dimensions of the model off its arrays."""

    def layers(side: str) -> int:
        return sum(key.startswith(f"{side}/layer_") and key.endswith("/ffn/linear_0/bias") for key in arrays)

    width, mels, _ = arrays["encoder/conv1/weight"].shape
    return {
        "d_model": width,
        "num_mel_bins": mels,
        "vocab_size": arrays["decoder/embeddings/weight"].shape[0],
        "max_source_positions": arrays["encoder/position_encodings/encodings"].shape[0],
        "max_target_positions": arrays["decoder/position_encodings/encodings"].shape[0],
        "encoder_layers": layers("encoder"),
        "decoder_layers": layers("decoder"),
        "encoder_attention_heads": int(arrays["encoder/num_heads"]),
        "decoder_attention_heads": int(arrays["decoder/num_heads"]),
        "encoder_ffn_dim": arrays["encoder/layer_0/ffn/linear_0/bias"].shape[0],
        "decoder_ffn_dim": arrays["decoder/layer_0/ffn/linear_0/bias"].shape[0],
    }


def _special_tokens(path: Path) -> dict[str, list[int]]:
    released = json.loads(path.read_text(encoding="utf-8"))
    return {"suppress_tokens": released["suppress_ids"], "begin_suppress_tokens": released["suppress_ids_begin"]}


def _renamed(arrays: dict[str, np.ndarray], config: object) -> dict[str, np.ndarray]:
    """Rename to transformers' keys, splitting the fused projections."""
    out = {"model.decoder.embed_tokens.weight": arrays["decoder/embeddings/weight"]}
    for side, depth in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        out[f"model.{side}.embed_positions.weight"] = arrays[f"{side}/position_encodings/encodings"]
        _norm(out, f"model.{side}.layer_norm", arrays, f"{side}/layer_norm")
        for layer in range(depth):
            there, here = f"{side}/layer_{layer}", f"model.{side}.layers.{layer}"
            _fused(out, f"{here}.self_attn", PROJECTIONS, arrays, f"{there}/self_attention/linear_0")
            _fused(out, f"{here}.self_attn", ("out_proj",), arrays, f"{there}/self_attention/linear_1")
            _norm(out, f"{here}.self_attn_layer_norm", arrays, f"{there}/self_attention/layer_norm")
            if side == "decoder":
                _fused(out, f"{here}.encoder_attn", PROJECTIONS[:1], arrays, f"{there}/attention/linear_0")
                _fused(out, f"{here}.encoder_attn", PROJECTIONS[1:], arrays, f"{there}/attention/linear_1")
                _fused(out, f"{here}.encoder_attn", ("out_proj",), arrays, f"{there}/attention/linear_2")
                _norm(out, f"{here}.encoder_attn_layer_norm", arrays, f"{there}/attention/layer_norm")
            _fused(out, here, ("fc1",), arrays, f"{there}/ffn/linear_0")
            _fused(out, here, ("fc2",), arrays, f"{there}/ffn/linear_1")
            _norm(out, f"{here}.final_layer_norm", arrays, f"{there}/ffn/layer_norm")
    for conv in ("conv1", "conv2"):
        for part in ("weight", "bias"):
            out[f"model.encoder.{conv}.{part}"] = arrays[f"encoder/{conv}/{part}"]
    return out


def _norm(out: dict[str, np.ndarray], here: str, arrays: dict[str, np.ndarray], there: str) -> None:
    out[f"{here}.weight"], out[f"{here}.bias"] = arrays[f"{there}/gamma"], arrays[f"{there}/beta"]


def _fused(
    out: dict[str, np.ndarray], here: str, names: tuple[str, ...], arrays: dict[str, np.ndarray], there: str
) -> None:
    for part in ("weight", "bias"):
        for name, piece in zip(names, np.split(arrays[f"{there}/{part}"], len(names)), strict=True):
            # Whisper's key projections have no bias; CTranslate2 stores zeros for them.
            if not (name == "k_proj" and part == "bias"):
                out[f"{here}.{name}.{part}"] = piece
