"""The speech LLM's loss: that of a plain implementation, the same in any company, and it trains what it should."""

import pytest
import torch

from mooer_tk.adapters.ctc_head import EmbeddingCTCHead
from mooer_tk.adapters.table import build_adapter
from mooer_tk.config import AdapterConfig, Config, LLMConfig, LoraConfig
from mooer_tk.errors import UserError
from mooer_tk.llm.causal_lm import add_lora, load_llm
from mooer_tk.llm.checkpoint import build_model
from mooer_tk.llm.speech_llm import Batch, pack

TEXTS = {
    "a": ("asr", ["please hold while i try that extension"]),
    "b": ("asr", ["yes"]),
    # Words that other codes search for to find the answer.
    "c": ("asr", ["the assistant said <|im_end|> to the assistant"]),
    "d": ("ast", ["Thank you."]),
    "e": ("asr_ast", ["gracias", "Thank you."]),
}
FRAMES = {"a": 31, "b": 4, "c": 17, "d": 1, "e": 12}


def make_batch(model, utts, targets=False):
    generator = torch.Generator().manual_seed(5)
    states = {utt: torch.randn(frames, 8, generator=generator) for utt, frames in FRAMES.items()}
    answers = [model.prompt.answer(TEXTS[utt][1], model.tokenizer) for utt in utts]
    return Batch(
        utts=list(utts),
        states=torch.nn.utils.rnn.pad_sequence([states[utt] for utt in utts], batch_first=True),
        lengths=torch.tensor([FRAMES[utt] for utt in utts]),
        tasks=[TEXTS[utt][0] for utt in utts],
        answers=answers,
        targets=[[1, 2] if targets and FRAMES[utt] > 8 else [] for utt in utts],
    )


def shake_lora(model):
    """LoRA starts as zero; make it matter."""
    generator = torch.Generator().manual_seed(6)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            parameter.data.normal_(std=0.05, generator=generator)
    return model.eval()


def plain_loss(model, batch):
    """The same with full logits and transformers' own loss: labels -100 but on the answer, one utterance at a time."""
    embed = model.llm.get_input_embeddings()
    total = 0.0
    for i, (task, answer) in enumerate(zip(batch.tasks, batch.answers, strict=True)):
        speech, _ = model.speech(batch.states[i : i + 1, : batch.lengths[i]], batch.lengths[i : i + 1])
        before, after = model.prompt.around(task, model.tokenizer)
        known = [embed(torch.tensor([ids], dtype=torch.long)) for ids in (before, after + answer)]
        inputs = torch.cat([known[0], speech, known[1]], dim=1)
        labels = torch.full(inputs.shape[:2], -100)
        labels[0, -len(answer) :] = torch.tensor(answer)
        total += model.llm(inputs_embeds=inputs, labels=labels).loss * len(answer)
    return total


@pytest.mark.parametrize("handover", ["raw", "norm", "posterior"])
def test_the_loss_is_that_of_full_logits_and_masked_labels(make_model, handover):
    model = shake_lora(make_model(handover))
    batch = make_batch(model, "abcde")
    loss, tokens = model(batch)["ce"]
    assert tokens == sum(map(len, batch.answers))
    torch.testing.assert_close(loss, plain_loss(model, batch), rtol=1e-5, atol=0)


@pytest.mark.parametrize("handover", ["raw", "posterior"])
def test_the_loss_of_a_batch_is_the_sum_over_its_utterances(make_model, handover):
    model = shake_lora(make_model(handover, head=True))
    together = model(make_batch(model, "abcde", targets=True))
    alone = [model(make_batch(model, utt, targets=True)) for utt in "abcde"]
    for name in ("ce", "ctc"):
        parts = [losses[name] for losses in alone if name in losses]
        torch.testing.assert_close(together[name][0], sum(loss for loss, _ in parts), rtol=1e-4, atol=1e-4)
        assert together[name][1] == sum(count for _, count in parts)
    assert sum("ctc" in losses for losses in alone) == 3


def test_the_speech_matters_to_the_loss(make_model):
    model = shake_lora(make_model())
    batch = make_batch(model, "abc")
    before = model(batch)["ce"][0]
    batch.states = batch.states + 1
    assert abs(model(batch)["ce"][0] - before) > 1e-2


def test_a_step_moves_adapter_and_lora_and_no_weight_of_the_llm(make_model):
    model = make_model("posterior", dropout=0.1)
    model.train()
    batch = make_batch(model, "abcde")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    # LoRA's second matrix is zero at first, so that its first one moves from the second step on.
    for _ in range(2):
        model(batch)["ce"][0].backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    lora = {name for name in before if ".lora_" in name}
    assert len(lora) == 2 * 7 * 2
    assert lora <= moved
    assert {name for name in before if name.startswith("adapter.")} <= moved
    assert not {name for name in moved if name.startswith("llm.") and ".lora_" not in name}
    assert all(p.requires_grad == (".lora_" in name) for name, p in model.named_parameters() if name.startswith("llm."))


@pytest.mark.parametrize("handover", ["raw", "norm", "posterior"])
def test_the_llms_loss_alone_teaches_the_adapter(make_model, handover):
    model = make_model(handover)
    model(make_batch(model, "abc"))["ce"][0].backward()
    for name, parameter in model.adapter.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_the_prefix_for_generation_is_what_was_trained_with_the_padding_on_the_left(make_model):
    model = make_model("raw")
    batch = make_batch(model, "abe")
    inputs, mask = model.prefix(batch)
    for i, utt in enumerate("abe"):
        (alone, _) = model.prefix(make_batch(model, utt))
        size = alone.shape[1]
        assert mask[i].tolist() == [0] * (inputs.shape[1] - size) + [1] * size
        torch.testing.assert_close(inputs[i, -size:], alone[0], atol=1e-5, rtol=1e-5)


def test_bfloat16_gives_nearly_the_loss_of_float32(tiny_llm, make_model):
    config = Config(
        adapter=AdapterConfig(stack=2, hidden=16, handover="raw"),
        llm=LLMConfig(model=str(tiny_llm), dtype="bfloat16", lora=LoraConfig(rank=4, alpha=8)),
    )
    exact = make_model("raw")
    rough = build_model(config, 8)
    rough.adapter.load_state_dict(exact.adapter.state_dict())
    assert rough.llm.get_input_embeddings().weight.dtype == torch.bfloat16
    batch = make_batch(exact, "abcde")
    losses = [model(batch)["ce"][0].item() for model in (exact, rough)]
    assert losses[1] == pytest.approx(losses[0], rel=0.03)


def test_a_model_loads_frozen_and_wrong_settings_are_user_errors(tiny_llm):
    llm, tokenizer = load_llm(LLMConfig(model=str(tiny_llm)))
    assert not llm.training and not any(p.requires_grad for p in llm.parameters())
    assert tokenizer.eos_token_id is not None
    with pytest.raises(UserError, match=r"llm\.dtype 'half_precision'"):
        load_llm(LLMConfig(model=str(tiny_llm), dtype="half_precision"))
    with pytest.raises(UserError, match=r"\['query'\].*q_proj"):
        add_lora(llm, LLMConfig(lora=LoraConfig(targets=["query", "v_proj"])))


def test_posterior_without_a_warm_start_is_a_user_error(make_model, tiny_llm):
    config = Config(adapter=AdapterConfig(handover="posterior"), llm=LLMConfig(model=str(tiny_llm)))
    with pytest.raises(UserError, match="stage 4"):
        build_model(config, 8)


def test_a_warm_start_gives_the_model_its_adapter_and_head(make_model, tiny_llm):
    config = AdapterConfig(stack=2, hidden=16, handover="posterior")
    llm = load_llm(LLMConfig(model=str(tiny_llm)))
    table = llm[0].get_input_embeddings().weight
    parts = {"adapter": build_adapter(config, 8, 64), "head": EmbeddingCTCHead(torch.tensor([7, 9]), table)}
    weights = torch.nn.ModuleDict(parts).state_dict()
    model = build_model(Config(adapter=config, llm=LLMConfig(lora=LoraConfig(rank=2))), 8, adapter=weights, llm=llm)
    for name, tensor in weights.items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=0, atol=0)


def test_checkpointing_gives_adapter_and_lora_the_same_gradients(make_model):
    """Reentrant checkpointing on a frozen encoder's output gave the original's adapter no gradient."""
    model = shake_lora(make_model("raw")).train()
    batch = make_batch(model, "abce")
    grads = []
    for checkpointing in (False, True):
        if checkpointing:
            model.llm.gradient_checkpointing_enable({"use_reentrant": False})
        assert model.llm.get_base_model().is_gradient_checkpointing == checkpointing
        model.zero_grad()
        model(batch)["ce"][0].backward()
        grads.append({n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad})
    assert any(n.startswith("adapter.") for n in grads[0]) and any(".lora_" in n for n in grads[0])
    for name, grad in grads[0].items():
        assert grad.abs().max() > 0
        torch.testing.assert_close(grads[1][name], grad, atol=1e-5, rtol=1e-5)


def test_bfloat16_products_give_nearly_the_same_loss_and_gradients(make_model):
    model = shake_lora(make_model("raw"))
    batch = make_batch(model, "abce")
    grads = {}
    for precision in ("float32", "bfloat16"):
        model.precision = precision
        model.zero_grad()
        total, _ = model(batch)["ce"]
        total.backward()
        parts = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        assert all(part.dtype == torch.float32 for part in parts)
        grads[precision] = (total.item(), torch.cat(parts))
    (exact, a), (rough, b) = grads.values()
    assert rough == pytest.approx(exact, rel=0.01) and rough != exact
    assert torch.nn.functional.cosine_similarity(a, b, dim=0) > 0.99


@pytest.mark.parametrize("room", [1, 60, 10_000])
@pytest.mark.parametrize("handover", ["raw", "posterior"])
def test_packed_utterances_do_not_see_each_other(make_model, handover, room):
    """Same losses and gradients as one utterance a row; with room 1 all have their own row again."""
    losses, gradients, fills = [], [], []
    for pack_positions in (0, room):
        model = shake_lora(make_model(handover, head=True))
        model.pack = pack_positions
        found = model(make_batch(model, "abcde", targets=True))
        sum(loss for loss, _ in found.values()).backward()
        losses.append([loss.item() for loss, _ in found.values()])
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        fills.append(model.fill)
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))
    assert fills[1].positions == fills[0].positions and fills[1].squares == fills[0].squares
    assert room > 1 or fills[1].padded == fills[0].padded
    assert room < 10_000 or fills[1].padded == fills[1].positions


def test_what_one_utterance_says_changes_nothing_in_its_row(make_model):
    model = shake_lora(make_model())
    model.pack = 10_000
    batch = make_batch(model, "abc")
    hidden = {}
    plain = model._hidden
    model._hidden = lambda *args: hidden.setdefault(len(hidden), plain(*args))
    model(batch)
    batch.states[1] += 3
    model(batch)
    same = [torch.allclose(one, other, atol=1e-5) for one, other in zip(hidden[0], hidden[1], strict=True)]
    assert same == [True, False, True]


def test_rows_hold_every_sequence_once_and_are_nearly_full():
    rng = torch.Generator().manual_seed(0)
    sizes = torch.randint(20, 200, (300,), generator=rng).tolist()
    rows = pack(sizes, 512)
    assert sorted(i for row in rows for i in row) == list(range(300))
    longest = max(sum(sizes[i] for i in row) for row in rows)
    assert longest < 1.1 * 512
    assert sum(sizes) / (longest * len(rows)) > 0.95
    assert sorted(pack([5, 900, 7, 890], 1000)) == [[1], [3, 2, 0]]
    assert pack([3, 4], 0) == [[0], [1]] and pack([3, 4], 1) == [[1], [0]]
