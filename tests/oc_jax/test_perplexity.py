import math
import types

import numpy as np
import pytest

from oc_jax.evals import perplexity as module


@pytest.fixture
def engine(monkeypatch):
    """Gives token t the probability 1 / t; a context holds eight tokens."""

    def score(sequences):
        assert all(2 <= len(sequence) <= 8 and sequence[0] == 99 for sequence in sequences)
        return [-np.log(np.asarray(sequence[1:], np.float32)) for sequence in sequences]

    tokenizer = types.SimpleNamespace(start=[99], encode=lambda text: [int(word) for word in text.split()])
    config = types.SimpleNamespace(max_position_embeddings=8)
    engine = types.SimpleNamespace(config=config, tokenizer=tokenizer, score=score)
    monkeypatch.setattr(module, "_engine", lambda checkpoint, tokenizer: engine)


def test_perplexity_is_the_geometric_mean_of_what_each_token_could_have_been(engine):
    found = module.perplexity("checkpoint", "tokenizer", ["2 8", "", "5 5 5", "3 " * 40])
    assert found[0] == pytest.approx(4) and found[2] == pytest.approx(5) and found[3] == pytest.approx(3)
    assert math.isnan(found[1])
