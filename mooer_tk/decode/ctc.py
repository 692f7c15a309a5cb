"""CTC-greedy decoding with the warm start alone: no LLM, only its tokeniser."""

from pathlib import Path

import torch

from mooer_tk.adapters.ctc_head import EmbeddingCTCHead
from mooer_tk.adapters.table import build_adapter
from mooer_tk.config import load_config
from mooer_tk.data.array_shards import ShardReader
from mooer_tk.data.atomic import fingerprint, is_done, mark_done
from mooer_tk.data.kaldi_dir import write_table
from mooer_tk.decode.directory import states_batch
from mooer_tk.llm.causal_lm import load_llm
from mooer_tk.llm.checkpoint import load_adapter
from mooer_tk.progress import log
from mooer_tk.weights import load_strictly

BATCH_UTTS = 32


@torch.no_grad()
def decode_ctc(states: Path, warm_start: Path, out: Path) -> None:
    """Write `out/hyp` from the states and the directory of a warm start (stage 4)."""
    shards = ShardReader(states)
    mark = fingerprint(shards.meta, warm_start / "done.json", sorted(shards))
    if is_done(out, mark):
        log(f"{out} is up to date")
        return
    config = load_config(warm_start / "config.yaml")
    weights = load_adapter(warm_start / "adapter.safetensors")
    llm, tokenizer = load_llm(config.llm)
    table = llm.get_input_embeddings().weight
    adapter = build_adapter(config.adapter, len(weights["adapter.mean"]), table.shape[1])
    head = EmbeddingCTCHead(weights["head.tokens"], table)
    load_strictly(torch.nn.ModuleDict({"adapter": adapter, "head": head}).eval(), weights, str(warm_start))
    hyps: dict[str, str] = {}
    utts = sorted(shards, key=lambda utt: shards.entries[utt].shape[0])
    for first in range(0, len(utts), BATCH_UTTS):
        some = utts[first : first + BATCH_UTTS]
        batch = states_batch(some, shards, "asr")
        answers = head.greedy(*adapter(batch.states, batch.lengths))
        hyps.update(zip(some, (" ".join(tokenizer.decode(ids).split()) for ids in answers), strict=True))
    write_table(out / "hyp", hyps)
    mark_done(out, mark, warm_start=str(warm_start))
    log(f"{out}: {len(hyps)} utterances decoded by CTC alone")
