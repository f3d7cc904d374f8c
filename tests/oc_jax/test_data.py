import collections
import itertools
import json
import shutil

import jax
import numpy as np
import pytest

from oc_jax.data import PackedDocuments, Records, batches, open_examples, open_mixture, read_records, verify
from oc_jax.model import ModelConfig
from oc_jax.optim import adamw
from oc_jax.packing import Batch
from oc_jax.sharding import MeshConfig, make_layout
from oc_jax.step import init_state, make_train_step
from oc_jax.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(datasets):
    return Tokenizer.load(datasets.tokenizer)


def examples(datasets, tokenizer, name="corpus", seq_len=96, mask=False, pack=True):
    return open_examples(
        getattr(datasets, name), tokenizer, seq_len=seq_len, seed=0, mask_documents=mask, pack_chats=pack
    )


def take(datasets, tokenizer, count, **options):
    mixture = {"corpus": (examples(datasets, tokenizer), 3.0), "other": (examples(datasets, tokenizer, "other"), 1.0)}
    options = {"batch_size": 8, "accumulation": 1, "seed": 7, "start": 0} | options
    return [batch for batch, _ in itertools.islice(batches(mixture, **options), count)]


def test_records_hold_each_document_once_and_end_with_eos(datasets, tokenizer):
    records = list(read_records(datasets.corpus))
    tokens = [np.frombuffer(r["tokens"], "<u4") for r in records]
    assert {r["id"].decode(): tokenizer.decode_text(t) for r, t in zip(records, tokens, strict=True)} == datasets.texts
    assert all(t[-1] == tokenizer.eos and (t[:-1] != tokenizer.eos).all() for t in tokens)
    np.testing.assert_array_equal(np.load(datasets.corpus / "lengths.npy"), [len(t) for t in tokens])


def test_windows_read_one_after_the_other_spell_the_documents(datasets, tokenizer):
    packed = PackedDocuments(datasets.corpus, seq_len=96, seed=3, mask_documents=False)
    windows = [packed[i] for i in range(len(packed))]
    stream = np.concatenate([windows[0]["tokens"][:1], *(w["targets"] for w in windows)])
    texts = [tokenizer.decode_text(part) for part in np.split(stream, np.flatnonzero(stream == tokenizer.eos) + 1)]
    whole = set(datasets.texts.values())
    assert all(text in whole for text in texts[:-1]) and len(texts) >= len(whole) - 1
    assert any(text.startswith(texts[-1]) for text in whole)  # the last window ends inside a document
    assert all((w["weights"] == 1).all() and (w["positions"] == np.arange(96)).all() for w in windows)


def test_masked_documents_restart_positions_and_do_not_predict_each_other(datasets, tokenizer):
    window = next(w for w in examples(datasets, tokenizer, seq_len=2048, mask=True) if w["segment_ids"].max() > 1)
    starts = np.flatnonzero(np.diff(window["segment_ids"], prepend=0))
    assert (window["positions"][starts] == 0).all()
    np.testing.assert_array_equal(np.delete(np.diff(window["positions"]), starts[1:] - 1), 1)
    # The token that ends a document is trained on, the first of the next one is not.
    np.testing.assert_array_equal(np.flatnonzero(window["weights"] == 0), starts[1:] - 1)
    assert (window["tokens"][starts[1:] - 1] == tokenizer.eos).all()


def test_a_resume_is_a_seek_and_hosts_share_the_global_batch(datasets, tokenizer):
    whole = take(datasets, tokenizer, 12)
    for a, b in zip(whole[5:], take(datasets, tokenizer, 7, start=5), strict=True):
        np.testing.assert_array_equal(a.tokens, b.tokens)
    for hosts in (2, 4):
        parts = [take(datasets, tokenizer, 12, part=i, parts=hosts) for i in range(hosts)]
        for step, batch in enumerate(whole):
            shared = np.concatenate([part[step].tokens[0] for part in parts])
            assert sorted(map(bytes, shared)) == sorted(map(bytes, batch.tokens[0]))


def test_accumulation_cuts_the_same_batch(datasets, tokenizer):
    (one,), (four,) = take(datasets, tokenizer, 1), take(datasets, tokenizer, 1, accumulation=4)
    assert four.tokens.shape == (4, 2, 96)
    np.testing.assert_array_equal(four.tokens.reshape(1, 8, 96), one.tokens)
    with pytest.raises(ValueError, match="does not divide"):
        take(datasets, tokenizer, 1, accumulation=3)


def test_mixture_weights_are_shares_of_tokens(datasets, tokenizer):
    """Padding does not count, and weights need not be round."""
    opened = {name: examples(datasets, tokenizer, name, pack=False) for name in ("corpus", "other", "chats")}
    whose = {bytes(w[i]["tokens"]): name for name, w in opened.items() for i in range(len(w))}
    wanted = {"corpus": 0.8394, "other": 0.1244, "chats": 0.0362}
    mixture = {name: (opened[name], 100 * wanted[name]) for name in opened}
    counted, told = collections.Counter(), np.zeros(3, int)
    for batch, read in itertools.islice(batches(mixture, batch_size=100, accumulation=2, seed=0, start=0), 150):
        told += read
        for tokens, segments in zip(batch.tokens.reshape(-1, 96), batch.segment_ids.reshape(-1, 96), strict=True):
            counted[whose[bytes(tokens)]] += int((segments > 0).sum())
    assert [counted[name] for name in opened] == told.tolist()
    for name, tokens in counted.items():
        assert tokens / counted.total() == pytest.approx(wanted[name], abs=1e-3 * wanted["other"]), name


def test_every_epoch_permutes_the_windows_anew(datasets, tokenizer):
    corpus = examples(datasets, tokenizer, "other", seq_len=512)
    stream = batches({"other": (corpus, 1.0)}, batch_size=1, accumulation=1, seed=0, start=0)
    rows = [bytes(b.tokens) for b, _ in itertools.islice(stream, 2 * len(corpus))]
    first, second = rows[: len(corpus)], rows[len(corpus) :]
    assert len(set(first)) == len(corpus) and set(first) == set(second) and first != second


def test_stages_of_other_lengths_go_on_in_one_order(datasets, tokenizer):
    short, long = (examples(datasets, tokenizer, "corpus", seq_len=n) for n in (64, 128))
    first = itertools.islice(batches({"x": (short, 1.0)}, batch_size=2, accumulation=1, seed=3, start=0, block=2), 200)
    second = itertools.islice(batches({"x": (long, 1.0)}, batch_size=1, accumulation=1, seed=3, start=0), 200)
    for (halves, _), (whole, _) in zip(first, second, strict=True):
        assert halves.tokens.ravel().tolist() == whole.tokens.ravel().tolist()


def test_chats_train_answers_and_their_end_token_only(datasets, tokenizer):
    packed = examples(datasets, tokenizer, "chats", seq_len=256)
    answers = []
    for window in packed:
        for segment in range(1, window["segment_ids"].max() + 1):
            trained = (window["segment_ids"] == segment) & (window["weights"] == 1)
            answers.append((window["targets"][trained][:-1].tolist(), window["targets"][trained][-1]))
    expected = [json.loads(r["messages"])[1]["content"] for r in read_records(datasets.chats)]
    assert sorted(tokenizer.decode_text(a) for a, _ in answers) == sorted(expected)
    assert all(end == tokenizer.im_end for _, end in answers)


def test_packed_and_single_chats_give_the_same_loss_and_gradient(datasets, tokenizer):
    model = ModelConfig(tokenizer.vocab_size, 32, 64, 2, 2, 1, 16, 128)
    layout = make_layout(MeshConfig(), jax.devices()[:1])
    step = make_train_step(model, adamw(), lambda step: 0.0, layout, compute_dtype="float32", loss_chunk=64)
    measured = []
    for pack in (True, False):
        windows = list(examples(datasets, tokenizer, "chats", seq_len=128, pack=pack))
        batch = Batch(**{name: np.stack([w[name] for w in windows])[None] for name in Batch._fields})
        _, metrics = step(init_state(model, adamw(), layout, seed=0), batch)
        measured.append((len(windows), [float(metrics[name]) for name in ("loss", "tokens", "grad_norm")]))
    (packed, with_packing), (single, without) = measured
    assert packed < single == len(Records(datasets.chats))
    np.testing.assert_allclose(with_packing, without, rtol=1e-5)


def test_a_cut_answer_is_not_trained_as_finished(datasets, tokenizer):
    longest = max(range(20), key=lambda i: len(examples(datasets, tokenizer, "chats", seq_len=256).render(i)[0]))
    full = len(examples(datasets, tokenizer, "chats", seq_len=256).render(longest)[0])
    packed = examples(datasets, tokenizer, "chats", seq_len=full - 6)
    windows = [w for w in packed if w["segment_ids"].max() == 1 and w["segment_ids"].min() == 1]
    assert windows and all(w["targets"][-1] != tokenizer.im_end for w in windows)


@pytest.mark.slow
def test_many_conversations_are_measured_by_processes_to_the_same_windows(datasets, tokenizer, monkeypatch):
    alone = examples(datasets, tokenizer, "chats", seq_len=256)
    monkeypatch.setattr("oc_jax.data.CHATS_AT_ONCE", 7)
    together = examples(datasets, tokenizer, "chats", seq_len=256)
    assert together.bins == alone.bins and together.tokens == alone.tokens


def test_an_answer_that_never_begins_is_an_error(datasets, tokenizer):
    with pytest.raises(ValueError, match="raise seq_len or add data"):
        examples(datasets, tokenizer, "chats", seq_len=8)


def test_missing_and_damaged_files_are_named_at_once(datasets, tokenizer, tmp_path):
    copy = tmp_path / "corpus"
    shutil.copytree(datasets.corpus, copy)
    shard = copy / verify(copy)["shards"][1]["file"]
    intact = shard.read_bytes()
    shard.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    with pytest.raises(ValueError, match=f"{shard.name} is damaged"):
        open_examples(copy, tokenizer, seq_len=64, seed=0, mask_documents=False, pack_chats=True)
    shard.write_bytes(intact[:-1])
    with pytest.raises(ValueError, match=f"{shard.name} is damaged"):
        verify(copy)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=f"{shard.name} is missing"):
        verify(copy)
    (copy / "manifest.json").unlink()
    with pytest.raises(FileNotFoundError, match="not a dataset directory"):
        Records(copy)


def test_another_tokenizer_is_refused(datasets, tokenizer, tmp_path):
    copy = tmp_path / "corpus"
    shutil.copytree(datasets.corpus, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"tokenizer_digest": "0" * 64}))
    with pytest.raises(ValueError, match="another tokenizer"):
        open_examples(copy, tokenizer, seq_len=64, seed=0, mask_documents=False, pack_chats=True)


def test_data_sets_with_nothing_to_train_on_are_left_out_where_that_is_asked_for(datasets, tokenizer, caplog):
    mixture = {datasets.corpus: 3.0, datasets.other: 0.0}
    options = {"seed": 0, "mask_documents": False, "pack_chats": True}
    opened = open_mixture(mixture, tokenizer, seq_len=96, skip_empty=True, **options)
    assert [(len(examples) > 0, weight) for examples, weight in opened.values()] == [(True, 3.0)]
    assert f"{datasets.other.name}: its weight is 0.0" in caplog.text
    with pytest.raises(ValueError, match="skip_empty = True"):
        open_mixture(mixture, tokenizer, seq_len=96, skip_empty=False, **options)
    # Neither fills a window of this length, of which the error has to be one line.
    with pytest.raises(ValueError, match="no data set of train.mixture .* add data; .*$"):
        open_mixture(mixture, tokenizer, seq_len=10**6, skip_empty=True, **options)
