"""The attention decoders of U2++: Transformers that spell left to right, or right to left."""

import torch
from torch import Tensor, nn

from mooer_tk.u2pp.attention import Attention, sinusoids
from mooer_tk.u2pp.config import ModelConfig
from mooer_tk.u2pp.encoder import feed_forward


class DecoderLayer(nn.Module):
    """Self-attention, attention to the speech, feed-forward; each behind a LayerNorm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(config.dim) for _ in range(3))
        self.own, self.speech = (Attention(config.dim, config.decoder_heads, config.dropout) for _ in range(2))
        self.ffn = feed_forward(config, config.decoder_ffn, nn.ReLU)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, past: Tensor | None, inside: Tensor, mask: Tensor, states: Tensor, heard: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Tokens (B, L, D) after `past` (B, P, D) -> (B, L, D), and what the next ones need as `past`.

        `inside` (B, L): no padding; `mask` (B or 1, L, P + L): where tokens may look; `heard` (B, 1, T): frames there.
        """
        own, speech, feed = self.norms
        y = own(x)
        known = y if past is None else torch.cat([past, y], 1)
        x = x + self.dropout(self.own(y, known, mask))
        x = x + self.dropout(self.speech(speech(x), states, heard))
        return x + self.dropout(self.ffn(feed(x), inside)), known


class Decoder(nn.Module):
    """Tokens and encoder states -> logits of the next token."""

    def __init__(self, config: ModelConfig, layers: int, vocabulary: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, config.dim)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(layers))
        self.norm, self.dropout = nn.LayerNorm(config.dim), nn.Dropout(config.dropout)
        self.out = nn.Linear(config.dim, vocabulary)

    def forward(
        self,
        tokens: Tensor,
        lengths: Tensor,
        states: Tensor,
        heard: Tensor,
        pasts: list[Tensor] | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Logits (B, L, vocabulary) of what follows each token, and what the next tokens need as `pasts`.

        Args:
            tokens: (B, L), the first one is sos; lengths (B,).
            states: (B, T, D) of the encoder; heard (B, T), True where they are no padding.
            pasts: of the tokens before these, a tensor a layer.
        """
        before = pasts[0].shape[1] if pasts else 0
        places = torch.arange(before, before + tokens.shape[1], device=tokens.device)
        x = self.embed(tokens)
        x = self.dropout(x * x.shape[-1] ** 0.5 + sinusoids(places, x.shape[-1]))
        inside = torch.arange(tokens.shape[1], device=tokens.device) < lengths.to(tokens.device)[:, None]
        mask = (torch.arange(before + tokens.shape[1], device=tokens.device) <= places[:, None])[None]
        new = []
        for number, layer in enumerate(self.layers):
            x, known = layer(x, pasts[number] if pasts else None, inside, mask, states, heard[:, None])
            new.append(known)
        return self.out(self.norm(x)), new
