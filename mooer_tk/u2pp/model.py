"""The whole of U2++: encoder, CTC and decoders; its joint loss; and the directory that holds a trained one.

<model>/config.yaml          the resolved config; info.json says where the model comes from
        units.txt, units.model   what it writes (one of the two)
        model.safetensors    all weights, the statistics of its features among them
"""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mooer_tk import __version__
from mooer_tk.config import dump, load_config
from mooer_tk.data.atomic import replacing_dir, write_json, write_text
from mooer_tk.errors import UserError
from mooer_tk.llm.speech_llm import Batch, Fill
from mooer_tk.model_dir import U2PP, is_u2pp, model_folder
from mooer_tk.moe.layer import BALANCE, Z_LOSS, mixtures
from mooer_tk.moe.upcycle import freeze_all_but_experts, train_experts_only
from mooer_tk.precision import autocast
from mooer_tk.u2pp.config import LossConfig, ModelConfig, U2ppConfig
from mooer_tk.u2pp.decoder import Decoder
from mooer_tk.u2pp.encoder import ConformerEncoder, draw_chunk, encoder_frames
from mooer_tk.u2pp.units import BLANK, Units
from mooer_tk.weights import load_strictly, read_tensors

CTC, LEFT, RIGHT = "ctc", "l2r", "r2l"


class U2pp(nn.Module):
    """Encoder, CTC head, left-to-right and right-to-left decoder.

    Args:
        config: the shape.
        vocabulary: number of units, blank and ends among them; the last one is both ends.

    Attributes:
        right: None without right-to-left layers.
        loss: settings of the training loss; `precision` is that of its matrix products.
        ctc_only: train CTC alone for now, with whole utterances.
        fill: how the last micro-batch filled the encoder.
    """

    def __init__(self, config: ModelConfig, vocabulary: int) -> None:
        super().__init__()
        if config.dim % config.heads or config.dim % config.decoder_heads:
            raise UserError(f"model.heads and model.decoder_heads must divide model.dim, which is {config.dim}.")
        self.ends = vocabulary - 1
        self.encoder = ConformerEncoder(config)
        self.ctc = nn.Linear(config.dim, vocabulary)
        self.left = Decoder(config, config.decoder_layers, vocabulary)
        self.right = Decoder(config, config.right_layers, vocabulary) if config.right_layers else None
        self.loss, self.precision, self.fill = LossConfig(), "float32", Fill(0, 0, 0)
        self.ctc_only = False

    def freeze_dense(self) -> Self:
        """Train experts and routers alone from now on (UME)."""
        freeze_all_but_experts(self)
        return self

    def train(self, mode: bool = True) -> Self:
        """Switch modes; around frozen weights dropout stays off."""
        if all(parameter.requires_grad for parameter in self.parameters()):
            return super().train(mode)
        train_experts_only(self, mode)
        self.training = mode
        return self

    def forward(self, batch: Batch) -> dict[str, tuple[Tensor, int]]:
        """Summed losses and what they are summed over: "ctc", "l2r", "r2l" over units, the routers' over layers."""
        frames = int(encoder_frames(batch.lengths).max())
        joint = not (self.ctc_only and self.training)
        chunk, left = draw_chunk(frames, self.loss) if self.training and joint else (-1, -1)
        with autocast(self.precision, batch.states.device.type):
            states, lengths, heard = self.encoder(batch.states, batch.lengths, chunk, left)
            self.fill = Fill(int(lengths.sum()), int(lengths.square().sum()), states.shape[0] * states.shape[1])
            losses = {CTC: self._ctc_loss(states, lengths, batch.answers)}
            if joint:
                losses[LEFT] = self._decoder_loss(self.left, states, heard, batch.answers)
            if joint and self.right is not None and self.loss.reverse_weight:
                turned = [answer[::-1] for answer in batch.answers]
                losses[RIGHT] = self._decoder_loss(self.right, states, heard, turned)
        routed = [moe.losses for moe in mixtures(self).values() if moe.training and moe.losses]
        for name in routed[0] if routed else ():
            losses[name] = torch.stack([one[name] for one in routed]).sum(), len(routed)
        return losses

    def _ctc_loss(self, states: Tensor, lengths: Tensor, answers: list[list[int]]) -> tuple[Tensor, int]:
        sizes = torch.tensor([len(answer) for answer in answers])
        flat = torch.tensor([token for answer in answers for token in answer], device=states.device)
        log_probs = self.log_probs(states).transpose(0, 1)
        options = {"blank": BLANK, "reduction": "sum", "zero_infinity": True}
        return nn.functional.ctc_loss(log_probs, flat, lengths.cpu(), sizes, **options), int(sizes.sum())

    def _decoder_loss(
        self, decoder: Decoder, states: Tensor, heard: Tensor, answers: list[list[int]]
    ) -> tuple[Tensor, int]:
        inputs, targets, lengths = self.teach(answers, states.device)
        logits = decoder(inputs, lengths, states, heard)[0].float()
        chosen = targets >= 0
        # Mass smoothing / (V - 1) on each of the others, as WeNet's KL form has it (up to a constant).
        eps = self.loss.smoothing * logits.shape[-1] / (logits.shape[-1] - 1)
        loss = nn.functional.cross_entropy(logits[chosen], targets[chosen], reduction="sum", label_smoothing=eps)
        return loss, int(lengths.sum())

    def teach(self, answers: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs (B, L) that start with sos, targets (B, L) that end with eos (-1: padding), and lengths (B,)."""
        rows = [torch.tensor([self.ends, *answer, self.ends]) for answer in answers]
        inputs = nn.utils.rnn.pad_sequence([row[:-1] for row in rows], True, self.ends).to(device)
        targets = nn.utils.rnn.pad_sequence([row[1:] for row in rows], True, -1).to(device)
        return inputs, targets, torch.tensor([len(row) - 1 for row in rows])

    def log_probs(self, states: Tensor) -> Tensor:
        """CTC log-probabilities (B, T, vocabulary) of states, float32."""
        return self.ctc(states.to(self.ctc.weight.dtype)).float().log_softmax(-1)


def loss_weights(config: U2ppConfig) -> dict[str, float]:
    """Weight of each loss in the sum (U2++, equations 1 and 2)."""
    loss, moe = config.loss, config.model.moe
    attention, reverse = 1 - loss.ctc_weight, loss.reverse_weight
    weights = {CTC: loss.ctc_weight, LEFT: attention * (1 - reverse), RIGHT: attention * reverse}
    return {**weights, BALANCE: moe.balance, Z_LOSS: moe.z_loss}


def save_model(folder: Path, config: U2ppConfig, units: Path, weights: dict[str, Tensor], info: dict[str, Any]) -> None:
    """Write what `load_model` reads, atomically."""
    with replacing_dir(folder) as target:
        name = "units.model" if units.suffix == ".model" else "units.txt"
        shutil.copyfile(units, target / name)
        write_text(target / "config.yaml", dump(replace(config, model=replace(config.model, units=name))))
        save_file(
            {key: value.detach().cpu().contiguous() for key, value in weights.items()}, target / "model.safetensors"
        )
        write_json(target / "info.json", {"mooer_tk": __version__, "system": U2PP, **info})


def read_weights(folder: Path | str) -> dict[str, Tensor]:
    """The weights of a model's directory.

    Raises:
        UserError: not such a directory, or a broken file.
    """
    if not is_u2pp(folder):
        raise UserError(f"{folder} holds no U2++ model (info.json): give exp/NAME once it has been exported.")
    return read_tensors(model_folder(folder) / "model.safetensors", "Export the model again.")


def load_model(folder: Path | str) -> tuple[U2pp, U2ppConfig, Units]:
    """Load a model for decoding, in eval mode; the config's units are a full path.

    Raises:
        UserError: not such a directory, or weights that do not fit.
    """
    weights = read_weights(folder)
    config = load_config(model_folder(folder) / "config.yaml", kind=U2ppConfig)
    config.model.units = str(model_folder(folder) / config.model.units)
    units = Units(config.model.units)
    model = U2pp(config.model, units.size)
    load_strictly(model, weights, str(folder))
    return model.eval(), config, units
