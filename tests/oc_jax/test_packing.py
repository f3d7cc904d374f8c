import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oc_jax.packing import Windows, best_fit

lengths_of = st.lists(st.integers(0, 40), min_size=1, max_size=30)


@given(lengths_of, st.integers(1, 50), st.integers(0, 3))
def test_windows_are_the_cuts_of_the_concatenation(lengths, seq_len, seed):
    if sum(lengths) < seq_len + 1:
        with pytest.raises(ValueError, match="lower seq_len or add data"):
            Windows(np.asarray(lengths), seq_len, seed)
        return
    windows = Windows(np.asarray(lengths), seq_len, seed)
    assert sorted(windows.order) == list(range(len(lengths)))
    tokens = [(r, i) for r in windows.order for i in range(lengths[r])]  # what is concatenated, token by token
    assert len(windows) == (len(tokens) - 1) // seq_len
    for index in range(len(windows)):
        got = [(s.record, i) for s in windows.spans(index) for i in range(s.start, s.stop)]
        assert got == tokens[index * seq_len : index * seq_len + seq_len + 1]


@given(st.lists(st.integers(1, 64), min_size=0, max_size=80), st.integers(0, 3))
def test_best_fit_places_every_record_once_and_overfills_nothing(lengths, seed):
    lengths = np.asarray(lengths, np.int64)
    bins = best_fit(lengths, 64, seed)
    assert sorted(r for b in bins for r in b) == list(range(len(lengths)))
    assert all(lengths[b].sum() <= 64 for b in bins)
    # Best-fit decreasing never leaves two bins that would fit into one.
    fill = sorted(int(lengths[b].sum()) for b in bins)
    assert len(fill) < 2 or fill[0] + fill[1] > 64
    assert bins == best_fit(lengths, 64, seed)


def test_best_fit_is_close_to_the_lower_bound():
    lengths = np.random.default_rng(0).integers(20, 1000, 5000)
    bins = best_fit(lengths, 2048, 0)
    assert len(bins) <= 1.02 * np.ceil(lengths.sum() / 2048)


def test_a_record_that_does_not_fit_is_an_error():
    with pytest.raises(ValueError, match="truncate first"):
        best_fit(np.asarray([65]), 64, 0)
