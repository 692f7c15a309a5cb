"""How the adapter's output enters the LLM: its direction and its scale must be those of token embeddings.

raw        as the adapter gives it (the paper's way)
norm       the same, each vector brought to the mean length of the embedding table's rows
compress   CTC compression: one vector a CTC segment, blanks dropped, repeats merged; the mean of the adapter's outputs
posterior  the same segments, but each frame is the posterior-weighted mean of token embeddings

The frames of a segment are weighted by how little blank they are.
"""

import torch
from torch import Tensor, nn

from mooer_tk.adapters.ctc_head import BLANK, EmbeddingCTCHead
from mooer_tk.errors import UserError, nearest

HANDOVERS = ("posterior", "compress", "norm", "raw")
BY_SEGMENTS = ("posterior", "compress")


class Handover(nn.Module):
    """Adapter outputs -> what the LLM is fed; see the module's docstring for the kinds.

    Args:
        kind: posterior, compress, norm or raw.
        table: the LLM's embedding table (vocabulary, H), for the scale.
        head: the CTC head; posterior and compress need it.
    """

    def __init__(self, kind: str, table: Tensor, head: EmbeddingCTCHead | None) -> None:
        super().__init__()
        if kind not in HANDOVERS:
            raise UserError(f"adapter.handover '{kind}' is unknown: {nearest(kind, HANDOVERS)}")
        if kind in BY_SEGMENTS and head is None:
            raise UserError(f"adapter.handover={kind} needs the warm start's CTC head: run stage 4 first, or use raw.")
        self.kind = kind
        self.head = head if kind in BY_SEGMENTS else None
        self.register_buffer("length", table.detach().float().norm(dim=-1).mean(), persistent=False)

    def forward(self, embeddings: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, H), lengths (B,) -> (B, T', H), lengths (B,); T' < T for segments."""
        if self.kind == "raw":
            return embeddings, lengths
        if self.kind == "norm":
            return nn.functional.normalize(embeddings, dim=-1) * self.length, lengths
        return self._segments(embeddings, lengths)

    def _segments(self, embeddings: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        probs = self.head.log_probs(embeddings).exp()
        best = probs.argmax(-1)
        inside = torch.arange(best.shape[1], device=best.device)[None] < lengths[:, None]
        speech = (best != BLANK) & inside
        starts = speech & torch.cat([torch.ones_like(speech[:, :1]), best[:, 1:] != best[:, :-1]], dim=1)
        # An utterance of nothing but blanks still needs one embedding: its least blank frame.
        silent = ~starts.any(1)
        if silent.any():
            loudest = probs[..., BLANK].masked_fill(~inside, 2.0).argmin(1)
            starts[silent, loudest[silent]] = speech[silent, loudest[silent]] = True
        segment = (starts.cumsum(1) - 1).clamp_min(0)
        counts = starts.sum(1)
        weight = (1 - probs[..., BLANK]) * speech
        if self.kind == "posterior":
            tokens = probs[..., 1:] / (1 - probs[..., BLANK : BLANK + 1]).clamp_min(1e-4)
            vectors = (tokens @ self.head.rows) * weight[..., None]
        else:
            vectors = embeddings * weight[..., None]
        merge = nn.functional.one_hot(segment, int(counts.max())).to(vectors.dtype) * speech[..., None]
        total = (merge * weight[..., None]).sum(1).clamp_min(1e-6)
        return merge.transpose(1, 2) @ vectors / total[..., None], counts
