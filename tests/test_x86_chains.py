"""What a block waits for: chains from run to run, through registers, flags and memory; whatever the text, an answer."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from code_rlm.inputs_rlm import format_header
from code_rlm.x86_chains_rlm import chains


def grows(*lines):
    """Cycles by which the longest chain grows from run to run."""
    return chains("\n".join(lines)).get("chain cycles", 0)


@pytest.mark.parametrize(
    ("lines", "cycles"),
    [
        (["add rax, 1"], 1),
        (["add eax, 1", "add rax, 2"], 2),  # one register by two names
        (["mov eax, 1", "add rax, 2"], 0),  # begins anew in every run
        (["mov al, bl", "add rax, 2"], 1),  # the rest of the register stays
        (["xor eax, eax", "add rax, 2"], 0),
        (["sub rax, rax", "imul rax, rbx"], 0),
        (["imul rax, rbx"], 3),
        (["imul rax, rbx, 7"], 0),
        (["mov rax, qword ptr [rax]"], 4),  # a pointer is followed
        (["mov rbx, qword ptr [rax]"], 0),
        (["add qword ptr [rsp + 8], 1"], 5),  # waits for what it stored
        (["add qword ptr [rsp + 8], 1", "add qword ptr [rsp + 16], 1"], 5),
        (["add qword ptr [rsp], 1", "add rsp, 8"], 1),  # another place in every run
        (["mov rbx, qword ptr [rsp]", "add qword ptr [rbx], 1"], 5),  # the same place in every run
        (["lea rbx, [rsp + 8]", "add qword ptr [rbx], 1", "add qword ptr [rsp + 8], 1"], 10),
        (["mov rbx, rcx", "add qword ptr [rbx], 1", "add qword ptr [rcx], 1"], 10),
        (["cmp rax, 1", "adc rbx, 1"], 1),
        (["adc rbx, 1"], 1),
        (["vaddsd xmm0, xmm0, xmm1"], 3),
        (["vaddsd xmm0, xmm1, xmm2"], 0),
        (["addsd xmm0, xmm1"], 3),
        (["vfmadd231ps ymm0, ymm1, ymm2"], 4),
        (["vxorps xmm0, xmm0, xmm0", "vaddsd xmm0, xmm0, xmm1"], 0),
        (["movsd xmm0, qword ptr [rax]", "addsd xmm0, xmm1"], 0),
        (["cvtsi2sd xmm0, eax"], 5),  # merges with what was there
        (["vdivsd xmm0, xmm0, xmm1", "add rax, 1"], 14),
        (["div rcx"], 14),
        (["push rax", "push rbx"], 0),
        (["cmp rax, rbx", "test rcx, rcx", "nop"], 0),
        (["lock add dword ptr [rcx], 1"], 22),
    ],
)
def test_when_a_block_runs_again_then_its_longest_chain_grows(lines, cycles):
    assert grows(*lines) == cycles


def test_when_a_block_is_counted_then_each_instruction_has_its_kind():
    found = chains(
        "mov rax, qword ptr [rbx]\nadd qword ptr [rbx], rax\nxor ecx, ecx\nvmulps ymm0, ymm1, ymm2\nlock inc dword ptr [rsi]"
    )
    counts = {name.removeprefix("count").strip(): n for name, n in found.items() if name.startswith("count")}
    assert counts == {
        "": 5, "move": 1, "integer": 2, "float multiply": 1, "lock": 1, "load": 3, "store": 2, "update": 2, "clear": 1,
    }  # fmt: skip
    assert found["instruction lock inc"] == 1 and found["places load"] == 2 and found["places store"] == 2


def test_when_lines_are_comments_or_empty_then_they_are_not_read():
    text = "add rax, 1\nimul rax, rbx"
    header = format_header(["cycles"], "x86asm", ["note: add rax, 1"])
    assert chains(header + text) == chains("\n" + text + "  # and so on\n") == chains(text.upper())
    assert chains("") == chains(header) == {}


@given(
    st.lists(
        st.sampled_from(
            ["add", "mov", "lock", "rep", "lea", "[", "]", "rax", ",", "st(9)", "eax", "1", "\n", " ", "é"]
        ),
        max_size=40,
    )
)
def test_when_a_text_makes_no_sense_then_its_counts_are_finite_all_the_same(parts):
    assert all(math.isfinite(count) and count > 0 for count in chains(" ".join(parts)).values())


@pytest.mark.parametrize(
    "lines", [["lea rax, [rax + rax*4]"], ["mov rax, qword ptr [rax + rax + 8]", "mov [rax], rbx"]]
)
def test_when_values_are_made_of_values_then_their_names_stay_short(lines):
    assert chains("\n".join(lines * 60))["count"] == 60 * len(lines)


def test_when_a_text_writes_names_of_values_then_no_chain_shrinks():
    names = [f"add qword ptr [%{k}], 1\nadd rax, qword ptr [\0{k}\0]" for k in range(60)]
    assert all(count > 0 for count in chains("imul rbx, rcx\n" * 8 + "\n".join(names)).values())


def test_when_a_block_is_long_then_its_beginning_counts():
    assert chains("add rax, 1\n" * 100_000)["count"] == 512
