"""What users pass, what the model reads of it, and what is said of the rest."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from code_rlm import processing_rlm
from code_rlm.errors_rlm import InputError, MetricError
from code_rlm.processing_rlm import CodeInput, context_lines, encode_inputs, format_header, read_input, tokenize

CODE = "def f(x):\n    return x + 1\n"


# The header


@pytest.mark.parametrize(
    ("metrics", "language", "context", "header"),
    [
        (["latency_ms"], None, (), "# predict: latency_ms\n"),
        (["a", "b@pixel3"], "python", (), "# predict: a, b@pixel3\n# language: python\n"),
        (("a",), "c", ["n: 3", "dtype: f32"], "# predict: a\n# language: c\n# n: 3\n# dtype: f32\n"),
        (["b", "a"], None, ["n: 3"], "# predict: b, a\n# n: 3\n"),
    ],
)
def test_when_a_header_is_written_then_it_is_this_text(metrics, language, context, header):
    assert format_header(metrics, language, context) == header


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ([], r"metrics must be a non-empty list of names, got \[\]"),
        ("latency_ms", "non-empty list of names, got 'latency_ms'"),
        (["a", "b", "a"], "metrics names 'a' more than once"),
    ],
)
def test_when_metrics_are_not_a_list_of_names_then_no_header_is_written(metrics, message):
    with pytest.raises(MetricError, match=message):
        format_header(metrics)


@pytest.mark.parametrize(
    ("context", "lines"),
    [
        (None, ()),
        ((), ()),
        ({}, ()),
        ("n: 3", ("n: 3",)),
        (["n: 3", "url: http://x"], ("n: 3", "url: http://x")),
        ({"n": 3, "size": "4x4"}, ("n: 3", "size: 4x4")),
    ],
)
def test_when_context_comes_in_any_form_then_it_becomes_lines(context, lines):
    assert context_lines(context) == lines


@pytest.mark.parametrize("context", ["n", ["n: 3", "alone"], ["a: 1\nb: 2"], {"n": "3\n# predict: x"}, [3], ": 3"])
def test_when_a_context_line_is_not_key_and_value_then_it_is_refused(context):
    with pytest.raises(InputError, match="A context line must read 'key: value' on one line, got"):
        context_lines(context)


# Reading


def test_when_code_is_passed_as_text_then_it_is_kept_as_it_is():
    text = "  x = 1\r\n\ty = '日本'\n"
    assert read_input(text) == CodeInput(text)
    assert read_input(text, language="python", context={"n": 3}) == CodeInput(text, "python", ("n: 3",))


def test_when_a_dict_is_passed_then_its_own_language_comes_first():
    item = {"text": CODE, "language": "c", "context": {"n": 3}}
    assert read_input(item, language="python", context="m: 4") == CodeInput(CODE, "c", ("n: 3", "m: 4"))
    assert read_input({"text": CODE}, language="python") == CodeInput(CODE, "python")
    assert item == {"text": CODE, "language": "c", "context": {"n": 3}}


def test_when_a_code_input_is_passed_then_it_gains_the_common_context():
    item = CodeInput(CODE, None, ("n: 3",), "here")
    assert read_input(item, language="c", context="m: 4") == CodeInput(CODE, "c", ("n: 3", "m: 4"), "here")
    assert read_input(CodeInput(CODE, "python"), language="c").language == "python"


@pytest.mark.parametrize(
    ("name", "language"), [("a.py", "python"), ("a.S", "x86asm"), ("a.cc", "cpp"), ("a.f90", "fortran")]
)
def test_when_a_path_is_passed_then_its_suffix_names_the_kind(tmp_path, name, language):
    path = tmp_path / name
    code = "add rax, 1" if language == "x86asm" else CODE
    path.write_text(code)
    read = read_input(path)
    assert (read.text, read.language, read.source) == (code, language, str(path))
    assert read_input(path, language="lua").language == "lua"
    assert read_input({"text": path}).source == str(path)


def test_when_a_text_names_a_file_then_the_file_is_read_and_a_missing_one_is_an_error(tmp_path):
    for name in ("a.py", "a.txt"):
        (tmp_path / name).write_text(CODE)
        assert read_input(str(tmp_path / name)).text == CODE
    with pytest.raises(InputError, match="looks like a path"):
        read_input(str(tmp_path / "missing.py"))
    assert read_input("import a.py").text == "import a.py"


def test_when_a_file_has_windows_line_ends_or_a_byte_order_mark_then_it_reads_as_without(tmp_path):
    path = tmp_path / "a.py"
    path.write_bytes(b"\xef\xbb\xbf" + CODE.replace("\n", "\r\n").encode())
    assert read_input(path).text == CODE


@pytest.mark.parametrize("suffix", [".py", ".txt"])
def test_when_code_is_a_triton_kernel_then_its_kind_is_found(tmp_path, suffix):
    kernel = "import triton\n\n@triton.jit\ndef add(x):\n    pass\n"
    (tmp_path / f"a{suffix}").write_text(kernel)
    assert read_input(tmp_path / f"a{suffix}").language == "triton"
    assert read_input(kernel).language == "triton"
    assert read_input(kernel, language="python").language == "python"


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (CODE, "python"),
        ("import numpy as np\nx = np.zeros(3)\n", "python"),
        ("mov eax, dword ptr [rsp + 8]\nvaddps ymm0, ymm1, ymm2\nret\n", "x86asm"),
        ("int main(void) { return 0; }\n", None),
        ("the quick brown fox\n", None),
        ("-" * 100_000 + "1", None),
        ("(" * 100_000, None),
    ],
)
def test_when_code_comes_without_a_name_then_its_kind_is_told_only_where_it_is_sure(text, language):
    assert read_input(text).language == language


def test_when_a_graph_is_passed_then_it_becomes_text():
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        "net",
        [value("x", onnx.TensorProto.FLOAT, [1, 3])],
        [value("y", onnx.TensorProto.FLOAT, [1, 3])],
    )
    item = read_input(onnx.helper.make_model(graph), context="n: 3")
    assert item.language == "onnx" and "relu" in item.text.lower() and item.context == ("n: 3",)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("", "<text>: the text is empty or only whitespace"),
        (" \t\r\n\u00a0", "<text>: the text is empty or only whitespace"),
        ("ab\0c", "holds NUL bytes at position 2; is it a binary file"),
        ("ab\ud800", "holds a lone surrogate at position 2"),
        (CodeInput("", source="row 3"), "row 3: the text is empty"),
        (CodeInput(b"x", source="row 3"), "row 3: the text must be a str, got bytes"),
        (b"x = 1", "Cannot read bytes as an input. Pass code as str"),
        (None, "Cannot read NoneType"),
        (3, "Cannot read int"),
        ([CODE], "Cannot read list"),
        (np.array([CODE]), "Cannot read ndarray"),
        ({"text": None}, "Cannot read NoneType"),
        ({"code": CODE}, r"needs a 'text' key, got the keys \['code'\]"),
        ({"language": "c"}, "needs a 'text' key"),
        ({"text": ""}, "<text>: the text is empty"),
        ({"text": CODE, "context": "alone"}, "A context line must read 'key: value'"),
    ],
)
def test_when_an_item_is_not_code_then_the_message_says_what_is(item, message):
    with pytest.raises(InputError, match=message):
        read_input(item)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a.py: the text is empty or only whitespace"),
        (b"  \n", "a.py: the text is empty or only whitespace"),
        (b"x = 1\0", "a.py: the text holds NUL bytes at position 5; is it a binary file"),
        (b"x = '\xff\xfe'", r"a.py is not UTF-8 text \(byte 5\); is it a binary file"),
        (b"\x7fELF\x02\x01\x01\x00", "is it a binary file"),
        (b"\xed\xa0\x80", r"not UTF-8 text \(byte 0\)"),
        (None, "a.py does not exist"),
        ("folder", "a.py is a directory; pass its files"),
    ],
)
def test_when_a_file_is_not_code_then_the_message_names_it(tmp_path, content, message):
    path = tmp_path / "a.py"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_input(Path(path))


def test_when_a_text_or_file_is_too_large_then_the_limit_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(processing_rlm, "MAX_CHARACTERS", 1000)
    (tmp_path / "a.py").write_text("x" * 1001)
    with pytest.raises(InputError, match="1,001 characters; at most 1,000 are read"):
        read_input("x" * 1001)
    with pytest.raises(InputError, match=r"a.py is larger than 1,000 bytes"):
        read_input(tmp_path / "a.py")
    assert len(read_input("x" * 1000).text) == 1000


# Token ids


def parts(tokenizer, text, metrics=("latency_ms",)):
    return tokenize(tokenizer, [format_header(metrics), text])


def test_when_code_fits_then_it_stands_whole_between_header_and_end(tokenizer):
    (encoded,) = encode_inputs(tokenizer, [CodeInput(CODE, "python", ("n: 3",))], [["a", "b"]], 200)
    header = "# predict: a, b\n# language: python\n# n: 3\n"
    assert tokenizer.decode(encoded.input_ids) == header + CODE + "<eos>"
    assert encoded.truncated_tokens == 0 and encoded.language == "python"


@pytest.mark.parametrize("room", [8, 9, 20, 21, 59])
def test_when_code_is_too_long_then_head_and_tail_remain_and_the_loss_is_counted(tokenizer, room):
    text = "".join(f"x{i} = {i}\n" for i in range(100))
    head, body = parts(tokenizer, text)
    (encoded,) = encode_inputs(tokenizer, [CodeInput(text)], [["latency_ms"]], len(head) + room + 1)
    first, last = room // 2, (room - 1) // 2  # one place is the filler's
    assert first + last + 1 == room
    assert encoded.input_ids == [*head, *body[:first], 3, *body[-last:], 1]
    assert encoded.truncated_tokens == len(body) - first - last


def test_when_the_limit_grows_then_code_is_cut_up_to_the_token_that_fits(tokenizer):
    head, body = parts(tokenizer, CODE)
    for limit in range(len(head) + 9, len(head) + len(body) + 3):
        (encoded,) = encode_inputs(tokenizer, [CodeInput(CODE)], [["latency_ms"]], limit)
        ids, lost = encoded.input_ids, encoded.truncated_tokens
        fits = limit >= len(head) + len(body) + 1
        assert (lost == 0, 3 not in ids) == (fits, fits)
        assert len(ids) == min(limit, len(head) + len(body) + 1)
        assert lost == 0 or len(ids) + lost == len(head) + len(body) + 2


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1, max_size=3), st.integers(24, 80))
@settings(max_examples=100, deadline=None)
def test_when_texts_are_any_then_ids_keep_within_the_limit_and_the_header_is_intact(tokenizer, texts, limit):
    inputs = [CodeInput(text) for text in texts]
    encoded = encode_inputs(tokenizer, inputs, [["a"]] * len(inputs), limit)
    for text, each in zip(texts, encoded, strict=True):
        ids, lost = each.input_ids, each.truncated_tokens
        head, body = parts(tokenizer, text, ["a"])
        assert len(ids) <= limit and ids[: len(head)] == head and ids[-1] == 1
        assert len(body) - lost == len(ids) - len(head) - 1 - (lost > 0)


def test_when_inputs_are_encoded_together_then_each_is_as_alone(tokenizer):
    inputs = [CodeInput(CODE), CodeInput(CODE * 20, "python"), CodeInput("mov eax, 1\n", "x86asm", ("n: 3",))]
    metrics = [["a"], ["b", "c"], ["a", "b"]]
    together = encode_inputs(tokenizer, inputs, metrics, 64)
    for i in range(3):
        assert encode_inputs(tokenizer, [inputs[i]], [metrics[i]], 64) == [together[i]]
    assert encode_inputs(tokenizer, [], [], 64) == []


@pytest.mark.parametrize("unit", ["ab, ", "x" * 24 + " "])
def test_when_a_megabyte_stands_on_one_line_then_its_ends_are_read_and_the_loss_is_counted(tokenizer, unit):
    text = "begin(" + unit * (1_000_000 // len(unit)) + ")end"
    head, body = parts(tokenizer, text)
    (encoded,) = encode_inputs(tokenizer, [CodeInput(text)], [["latency_ms"]], 64)
    ids, lost = encoded.input_ids, encoded.truncated_tokens
    assert len(ids) == 64 and ids[: len(head)] == head
    assert ids[len(head) : -1].count(3) == 1
    cut = ids.index(3, len(head))
    assert ids[len(head) : cut] == body[: cut - len(head)] and ids[cut + 1 : -1] == body[-(63 - cut - 1) :]
    # The middle is counted apart, so that a token or two may differ where it was cut out.
    assert abs(lost - (len(body) - (62 - len(head)))) <= 8


def test_when_code_spells_a_special_token_then_it_is_text_like_any_other(tokenizer):
    text = "a = '<eos>' + '<pad><cut>'\n"
    ids = encode_inputs(tokenizer, [CodeInput(text)], [["a"]], 128)[0].input_ids
    assert not {0, 1, 2, 3} & set(ids[:-1]) and ids[-1] == 1
    assert tokenizer.decode(ids) == "# predict: a\n" + text + "<eos>"


def test_when_the_header_fills_the_limit_then_the_sizes_are_named(tokenizer):
    metrics = [f"metric_{i}" for i in range(20)]
    header = len(parts(tokenizer, CODE, metrics)[0])
    with pytest.raises(InputError, match=f"row 3: the header takes {header} of {header + 8} tokens"):
        encode_inputs(tokenizer, [CodeInput(CODE, source="row 3")], [metrics], header + 8)
    assert len(encode_inputs(tokenizer, [CodeInput(CODE)], [metrics], header + 9)[0].input_ids) == header + 9


def test_when_inputs_and_metrics_differ_in_number_then_it_is_an_error(tokenizer):
    with pytest.raises(ValueError):
        encode_inputs(tokenizer, [CodeInput(CODE)], [["a"], ["b"]], 64)


@pytest.mark.parametrize(
    ("text", "listing"),
    [
        ("mov rax, rbx; add rax, 1", "mov rax, rbx\nadd rax, 1"),
        ("\tMOV\tRAX,[RSI+RCX*4-0x10]", "mov rax, qword ptr [rsi + rcx*4 - 0x10]"),
        ("main:\n\t.cfi_startproc\n\tret # done\n", "ret"),
        ("add rax, 1 ; count up", "add rax, 1"),
    ],
)
def test_when_assembly_comes_in_any_layout_then_it_reads_as_one_instruction_a_line(text, listing):
    assert read_input({"text": text, "language": "x86asm"}).text == listing
    assert read_input({"text": listing, "language": "x86asm"}).text == listing


def test_when_assembly_has_no_instruction_then_the_error_says_so():
    with pytest.raises(InputError, match="no instructions"):
        read_input({"text": ".text\nmain:\n# nothing", "language": "x86asm"})


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("def f(x):\n    return x\n", "python"),
        ("vaddps ymm0, ymm1, ymmword ptr [rdi]\nret", "x86asm"),
        ("import triton\n@triton.jit\ndef k(x): pass", "triton"),
        ("int main(void) { return 0; }", None),
    ],
)
def test_when_no_name_tells_the_kind_then_the_text_does_or_nothing_is_guessed(text, language):
    assert read_input(text).language == language


@pytest.mark.parametrize("language", ["a\nb", " ", "two words"])
def test_when_a_language_is_not_one_word_then_it_cannot_break_the_header(language):
    with pytest.raises(InputError, match="one word"):
        format_header(["ms"], language)
