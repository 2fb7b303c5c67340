"""How large the numbers of a text are, told to the encoder."""

import pytest
import torch

from code_rlm.decoders_rlm import KNOTS_PER_DECADE, NumberEmbedding
from code_rlm.loading import load
from code_rlm.processing_rlm import tokenize
from code_rlm.training.encoder_cache import encoder_digest
from code_rlm.training.models import build_model
from code_rlm.training.options import TrainError, make_options


def ids_of(tokenizer, *texts):
    rows = tokenize(tokenizer, list(texts))
    ids = torch.full((len(rows), max(map(len, rows))), tokenizer.pad_token_id)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return ids


@pytest.fixture(scope="module")
def embedding(tokenizer):
    """One that adds the size itself, in decades and one more, to the first column for digits, to the second for names."""
    made = NumberEmbedding(len(tokenizer), 2)
    special = set(tokenizer.all_special_ids)
    made.read_vocabulary(["" if i in special else tokenizer.decode([i]) for i in range(len(tokenizer))])
    sizes = torch.arange(len(made.literals)) / KNOTS_PER_DECADE + 1
    made.literals.data[:, 0], made.names.data[:, 1] = sizes, sizes
    return made


def named(embedding, tokenizer, text):
    """The sizes of names, in decades, by the text of each run of tokens that has one."""
    ids = ids_of(tokenizer, text)
    sizes = embedding(ids)[0, :, 1].tolist()
    found, previous = [], 0.0
    for token, size in zip(ids[0].tolist(), sizes):
        piece = tokenizer.decode([token])
        if size and previous and not piece.startswith(" "):
            found[-1] = (found[-1][0] + piece, found[-1][1])
        elif size:
            found.append((piece.strip(), round(size - 1, 2)))
        previous = size
    return found


@pytest.fixture
def folder(make_model, tokenizer, tmp_path):
    for each in (make_model(), tokenizer):
        each.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def built(folder, tokenizer, **options):
    return build_model(make_options(data=[{}], max_objectives=3, init=folder, **options), tokenizer, [])


def test_when_a_token_is_a_digit_then_the_size_of_its_number_is_added(embedding, tokenizer):
    ids = ids_of(tokenizer, "f(9999) + y[99]\ng(0)")
    added = embedding(ids)[..., 0]
    digits = torch.tensor([tokenizer.decode([i]).isdigit() for i in ids[0]])
    assert not added[0, ~digits].any() and not embedding(ids)[..., 1].any()
    assert added[0, digits].tolist() == pytest.approx([5, 5, 5, 5, 3, 3, 1])


def test_when_a_number_lies_between_knots_or_beyond_then_it_is_interpolated_or_the_last(embedding, tokenizer):
    sizes = embedding(ids_of(tokenizer, "149", "9" * 40))[..., 0].amax(1)
    assert sizes.tolist() == pytest.approx([3.1761, 11.0], abs=1e-3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rows = 999\nx = [0] * rows\n", [("rows", 3.0), ("rows", 3.0)]),
        ("let rows: i64 = 999; vec![0; rows]", [("rows", 3.0), ("rows", 3.0)]),
        ("const int ROW_COUNT = 99;\nint[] a = new int[ROW_COUNT];", [("ROW_COUNT", 2.0), ("ROW_COUNT", 2.0)]),
        ("(define at2 999) (make-vector at2 0)", [("at2", 3.0), ("at2", 3.0)]),
        ("#define N 9\nchar a[N];", [("N", 1.0), ("N", 1.0)]),
        ("m := 99\nmake([]int, m)", [("m", 2.0), ("m", 2.0)]),
        ("my $m = 99; (0) x $m;", [("m", 2.0), ("m", 2.0)]),
        # The largest counts, and a name that is part of another is none.
        ("n = 9\nn = 999\nnn + n", [("n", 3.0), ("n", 3.0), ("n", 3.0)]),
        # Not a binding: a sum, a comparison, a call, a line of its own.
        ("n = k + 9\nif n == 9: f(n, 9)\nn =\n9", []),
        # A colon that ends a line is no annotation.
        ("def main():\n    m = 99\n    f(m)\n", [("m", 2.0), ("m", 2.0)]),
    ],
)
def test_when_a_name_is_bound_to_a_number_then_its_size_is_added_wherever_it_stands(
    embedding, tokenizer, text, expected
):
    assert named(embedding, tokenizer, text) == expected


def test_when_texts_are_padded_then_each_is_read_as_alone(embedding, tokenizer):
    texts = ["n = 999\nf(n)", "x", "count = 7\n" * 30 + "f(count)"]
    together = embedding(ids_of(tokenizer, *texts))
    for text, row in zip(texts, together, strict=True):
        alone = embedding(ids_of(tokenizer, text))[0]
        assert torch.equal(row[: len(alone)], alone) and not row[len(alone) :].any()


def test_when_names_are_more_than_are_followed_then_the_largest_are(embedding, tokenizer):
    text = "".join(f"a{i} = {i}\n" for i in range(100)) + "f(a3, a99)"
    found = dict(named(embedding, tokenizer, text))
    assert found["a99"] == pytest.approx(2.0) and "a3" not in found


def test_when_a_name_is_bound_again_and_again_then_it_takes_one_place(embedding, tokenizer):
    text = "".join(f"f(channels = 512, k = {i})\n" for i in range(70)) + "n = 99\nalloc(n)"
    found = dict(named(embedding, tokenizer, text))
    assert found == {"channels": 2.71, "k": 1.85, "n": 2.0}


def test_when_magnitudes_are_added_then_answers_change_only_with_training(folder, tokenizer):
    plain, model = built(folder, tokenizer), built(folder, tokenizer, number_embeddings=True)
    ids = ids_of(tokenizer, "n = 400\nx = [0] * n")
    assert torch.equal(plain.encode_memory(ids), model.encode_memory(ids))
    model.encode_memory(ids).square().sum().backward()
    assert model.number_embeddings.literals.grad.abs().sum() > 0 and model.number_embeddings.names.grad.abs().sum() > 0
    before = encoder_digest(model)
    torch.nn.init.normal_(model.number_embeddings.names)
    assert not torch.allclose(plain.encode_memory(ids), model.encode_memory(ids), atol=1e-3)
    assert encoder_digest(model) not in (before, encoder_digest(plain))


def test_when_a_checkpoint_is_saved_then_magnitudes_come_back(folder, tokenizer, tmp_path):
    model = built(folder, tokenizer, number_embeddings=True)
    torch.nn.init.normal_(model.number_embeddings.literals)
    torch.nn.init.normal_(model.number_embeddings.names)
    for each in (model, tokenizer):
        each.save_pretrained(tmp_path / "wide")
    again, _ = load(str(tmp_path / "wide"))
    ids = ids_of(tokenizer, "x = 17; f(x)")
    assert torch.equal(again.encode_memory(ids), model.eval().encode_memory(ids))
    tuned = built(str(tmp_path / "wide"), tokenizer)
    for name, tensor in model.number_embeddings.state_dict().items():
        assert torch.equal(tuned.number_embeddings.state_dict()[name], tensor), name


def test_when_the_encoder_is_frozen_then_so_are_its_magnitudes(folder, tokenizer):
    model = built(folder, tokenizer, number_embeddings=True, freeze_encoder=True).train()
    assert not model.number_embeddings.literals.requires_grad
    model.encoder_requires_grad_(True)
    assert model.number_embeddings.literals.requires_grad


def test_when_magnitudes_cannot_be_then_the_error_says_why(folder, tokenizer):
    with pytest.raises(TrainError, match=r"which an adapter of .* would not hold"):
        built(folder, tokenizer, number_embeddings=True, lora={})
    with pytest.raises(ValueError, match="3 tokens are more than the 2"):
        NumberEmbedding(2, 4).read_vocabulary(["a", "b", "c"])
