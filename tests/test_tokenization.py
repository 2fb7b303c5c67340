"""The tokenizer: nothing of a text is lost, and a reloaded one is the same one."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from code_rlm.data.train_tokenizer import main, read_texts, train_tokenizer
from code_rlm.errors_rlm import NumberCodeError, NumberRangeError
from code_rlm.numbers_rlm import NumberFormat, is_failed
from code_rlm.tokenization_rlm import RLMTokenizer

# Text


def test_when_a_text_is_odd_then_it_survives(tokenizer, odd_texts):
    assert [tokenizer.decode(tokenizer(text)["input_ids"]) for text in odd_texts] == odd_texts


@given(st.text(st.characters(exclude_categories=["Cs"])))
@settings(max_examples=200, deadline=None)
def test_when_a_text_is_any_unicode_then_it_survives(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@given(st.text(" \t\r\n\f\v\x0b0a_.#\u00a0\u2028", max_size=60))
@settings(max_examples=200, deadline=None)
def test_when_a_text_is_mostly_whitespace_then_it_survives(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.parametrize("text", ["1234567890", "x = 1000000", "3.14159e-10", "v12 v1234", "a1b22c333"])
def test_when_a_text_has_digits_then_each_is_a_token_of_its_own(tokenizer, text):
    pieces = [tokenizer.decode([i]) for i in tokenizer(text)["input_ids"]]
    assert [piece for piece in pieces if any(c.isdigit() for c in piece)] == [c for c in text if c.isdigit()]


def test_when_a_corpus_is_full_of_one_number_then_no_merge_swallows_its_digits():
    tokenizer = train_tokenizer(iter(["1024 x1024 =1024\n"] * 50), 300)
    assert not [token for token in tokenizer.get_vocab() if sum(c in "0123456789" for c in token) and len(token) > 1]


def test_when_ids_are_special_then_they_are_the_models(tokenizer):
    assert [tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id] == [0, 1, 2]
    assert tokenizer.convert_tokens_to_ids("<cut>") == 3
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<pad>", "<eos>")


def test_when_a_batch_is_padded_then_the_mask_covers_the_texts_alone(tokenizer):
    texts = ["def f", "for i in range(10): pass"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    assert set(batch) == {"input_ids", "attention_mask"}
    for row, mask, text in zip(batch["input_ids"], batch["attention_mask"], texts, strict=True):
        assert row[mask.bool()].tolist() == tokenizer(text)["input_ids"]
        assert not row[~mask.bool()].any()


def test_when_a_corpus_repeats_then_merges_shorten_it(tokenizer):
    text = "def f(x):\n    return x + 1\n"
    assert len(tokenizer(text)["input_ids"]) < 0.75 * len(text)
    assert len(tokenizer) == 300


# Numbers


def test_when_numbers_are_written_then_the_format_is_the_tokenizers():
    tokenizer = train_tokenizer(iter(["x"]), 261, NumberFormat.p10(3, 10))
    ids = tokenizer.encode_numbers([[123.4, -0.5]])
    assert ids.shape == (1, 2, 5)
    assert tokenizer.decode_numbers(ids).tolist() == [[123.0, -0.5]]
    assert tokenizer.decode_numbers(torch.from_numpy(ids)).tolist() == [[123.0, -0.5]]
    assert tokenizer.codec is tokenizer.codec


def test_when_numbers_are_special_or_out_of_range_then_the_tokenizer_passes_the_choice_on(tokenizer):
    back = tokenizer.decode_numbers(tokenizer.encode_numbers([1.23456, "failed", math.inf]))
    assert back[0] == 1.235 and is_failed(back).tolist() == [False, True, False] and back[2] == math.inf
    with pytest.raises(NumberRangeError):
        tokenizer.encode_numbers(1e30)
    ids, saturated = tokenizer.encode_numbers([1e30, 1.0], out_of_range="saturate", return_saturated=True)
    assert tokenizer.decode_numbers(ids).tolist() == [9.999e20, 1.0] and saturated.tolist() == [True, False]
    with pytest.raises(NumberCodeError):
        tokenizer.decode_numbers(np.zeros((1, 6), dtype=int))


# Saving


@pytest.mark.parametrize("loader", [RLMTokenizer, AutoTokenizer], ids=lambda c: c.__name__)
def test_when_a_tokenizer_is_saved_and_loaded_then_ids_and_format_are_the_same(loader, odd_texts, tmp_path):
    number_format = NumberFormat(mantissa_digits=2, min_exponent=-3, max_exponent=3)
    tokenizer = train_tokenizer(iter(odd_texts * 5), 300, number_format)
    tokenizer.save_pretrained(tmp_path)
    again = loader.from_pretrained(tmp_path)
    assert type(again) is RLMTokenizer
    assert again(odd_texts)["input_ids"] == tokenizer(odd_texts)["input_ids"]
    assert again.codec.format == number_format
    assert again.get_vocab() == tokenizer.get_vocab()
    again.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "tokenizer.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("how", ["remote", "own"])
@pytest.mark.parametrize("what", ["ids", "decoded", "special", "format", "codes"])
def test_when_a_checkpoint_is_loaded_in_a_fresh_process_then_its_tokenizer_is_the_same(reloaded, how, what):
    assert reloaded[how][what] == reloaded["here"][what]


# Training


def test_when_the_command_runs_then_it_writes_a_tokenizer(tmp_path):
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("def total(values):\n    return sum(values)\n" * 20)
    main(["--out", str(tmp_path / "out"), "--vocab-size", "280", "--files", str(tmp_path / "*.py")])
    tokenizer = RLMTokenizer.from_pretrained(tmp_path / "out")
    assert len(tokenizer) == 280 and tokenizer.codec.format == NumberFormat()


def test_when_one_kind_of_file_is_large_then_the_limit_holds_for_each(tmp_path):
    for name in ("a.py", "b.py", "c.c"):
        (tmp_path / name).write_text("x" * 1000)
    globs = [str(tmp_path / "*.py"), str(tmp_path / "*.c")]
    assert len(list(read_texts(globs, [], None, limit=500))) == 2
    assert len(list(read_texts(globs, [], None, limit=1500))) == 3
