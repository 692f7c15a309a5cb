"""Every adapter: its lengths, and that company in a batch changes nothing; the paper's: its size."""

import pytest
import torch

from mooer_tk.adapters.linear import LinearAdapter
from mooer_tk.adapters.table import ADAPTERS, build_adapter
from mooer_tk.config import AdapterConfig
from mooer_tk.errors import UserError


def test_the_papers_adapter_has_the_papers_number_of_parameters():
    config = AdapterConfig(name="linear", stack=2, hidden=2048)
    assert sum(p.numel() for p in build_adapter(config, 512, 3584).parameters()) == 9_442_816


@pytest.fixture(params=sorted(ADAPTERS))
def make(request):
    """make(dropout=0.0) -> each adapter of the table in turn: 8 -> 6, three states to an embedding."""
    torch.manual_seed(0)
    return lambda **options: ADAPTERS[request.param](8, 6, 3, 16, **options)


@pytest.mark.parametrize(("frames", "length"), [(1, 1), (2, 1), (3, 1), (5, 1), (6, 2), (8, 2), (9, 3), (95, 31)])
def test_k_states_give_one_embedding_and_the_shortest_utterance_gives_one(make, frames, length):
    embeddings, lengths = make()(torch.randn(1, frames, 8), torch.tensor([frames]))
    assert embeddings.shape == (1, length, 6)
    assert lengths.tolist() == [length]
    assert torch.isfinite(embeddings).all()


def test_padding_never_changes_what_an_utterance_gives(make):
    adapter = make().eval()
    # A mean far from zero: padding with zeros is then far from silence.
    adapter.set_statistics(torch.full((8,), 5.0), torch.full((8,), 2.0))
    # The longest needs two windows of the Q-Former, the others one.
    utterances = [torch.randn(frames, 8) + 5 for frames in (1, 2, 3, 7, 20, 50)]
    lengths = torch.tensor([len(one) for one in utterances])
    padded = torch.nn.utils.rnn.pad_sequence(utterances, batch_first=True)
    # Whatever stands in the padding.
    padded[torch.arange(50)[None] >= lengths[:, None]] = 1e3
    together, sizes = adapter(padded, lengths)
    for row, size, states in zip(together, sizes.tolist(), utterances, strict=True):
        alone, (own,) = adapter(states[None], torch.tensor([len(states)]))
        assert own == size
        torch.testing.assert_close(row[:size], alone[0], atol=1e-5, rtol=0)


def test_states_are_standardised_with_the_statistics_that_travel_with_the_weights():
    torch.manual_seed(0)
    plain, told = LinearAdapter(4, 6, stack=2, hidden=8), LinearAdapter(4, 6, stack=2, hidden=8)
    mean, std = torch.randn(4), torch.rand(4) + 0.5
    plain.set_statistics(mean, std)
    told.load_state_dict(plain.state_dict())
    states, lengths = torch.randn(1, 6, 4), torch.tensor([6])
    expected, _ = plain(states, lengths)
    torch.testing.assert_close(told(states, lengths)[0], expected)
    told.set_statistics(torch.zeros(4), torch.ones(4))
    torch.testing.assert_close(told((states - mean) / std, lengths)[0], expected)
    # A dimension that never changes must not become infinite.
    told.set_statistics(torch.zeros(4), torch.zeros(4))
    assert torch.isfinite(told(states, lengths)[0]).all()


def test_dropout_is_off_in_eval_mode_and_on_in_training(make):
    adapter = make(dropout=0.5)
    states, lengths = torch.randn(2, 6, 8), torch.tensor([6, 6])
    assert not torch.equal(adapter(states, lengths)[0], adapter(states, lengths)[0])
    adapter.eval()
    torch.testing.assert_close(adapter(states, lengths)[0], adapter(states, lengths)[0])


def test_an_unknown_adapter_is_a_user_error_that_names_the_nearest():
    with pytest.raises(UserError, match=r"'linaer'.*'linear'"):
        build_adapter(AdapterConfig(name="linaer"), 4, 6)
