"""What a block waits for: paths from run to run, through registers, flags and memory; whatever the text, an answer."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from code_rlm.processing_rlm import format_header
from code_rlm.x86_rlm import dependency_bound, dependency_features, least_measured, lower_bound, unit_bound


def grows(*lines):
    """Cycles by which the longest path grows from run to run."""
    return dependency_features("\n".join(lines)).get("chain cycles", 0)


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
def test_when_a_block_runs_again_then_its_longest_path_grows(lines, cycles):
    assert grows(*lines) == cycles


def test_when_a_block_is_counted_then_each_instruction_has_its_class():
    found = dependency_features(
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
    expected = dependency_features(text)
    assert dependency_features(header + text) == expected
    assert dependency_features("\n" + text + "  # and so on\n") == expected
    assert dependency_features(text.upper()) == expected
    assert dependency_features("") == dependency_features(header) == {}


@given(
    st.lists(
        st.sampled_from(
            ["add", "mov", "lock", "rep", "lea", "[", "]", "rax", ",", "st(9)", "eax", "1", "\n", " ", "é"]
        ),
        max_size=40,
    )
)
def test_when_a_text_makes_no_sense_then_its_counts_are_finite_all_the_same(parts):
    assert all(math.isfinite(count) and count > 0 for count in dependency_features(" ".join(parts)).values())


@pytest.mark.parametrize(
    "lines", [["lea rax, [rax + rax*4]"], ["mov rax, qword ptr [rax + rax + 8]", "mov [rax], rbx"]]
)
def test_when_values_are_made_of_values_then_their_names_stay_short(lines):
    assert dependency_features("\n".join(lines * 60))["count"] == 60 * len(lines)


def test_when_a_text_writes_names_of_values_then_no_path_shrinks():
    names = [f"add qword ptr [%{k}], 1\nadd rax, qword ptr [\0{k}\0]" for k in range(60)]
    assert all(count > 0 for count in dependency_features("imul rbx, rcx\n" * 8 + "\n".join(names)).values())


def test_when_a_block_is_long_then_its_beginning_counts():
    assert dependency_features("add rax, 1\n" * 100_000)["count"] == 512


@pytest.mark.parametrize(
    ("lines", "cycles"),
    [
        (["imul rax, rcx"] * 64, 192),
        (["add rax, 1"], 1),
        (["mov rbx, rax", "add rbx, 1", "mov rax, rbx"], 1),  # copies are renamed
        (["xor eax, eax", "add rax, 1", "imul rax, rbx"], 0),
        (["sbb eax, eax"], 1),
        (["mov rax, qword ptr [rax]"], 4),
        (
            [
                "vmovups ymm1, ymmword ptr [rdi + rcx*4]",
                "vfmadd231ps ymm0, ymm1, ymmword ptr [rsi + rcx*4]",
                "add rcx, 8",
            ],
            4,
        ),
        (["mulsd xmm0, xmm1", "addsd xmm0, xmm2"], 6),
        (["vaesenc xmm0, xmm0, xmm1"], 4),
        (["divsd xmm0, xmm1"], 13),
        (["xor edx, edx", "div rcx"], 7),  # the quotient is divided again
        (["mov rax, rsi", "cdq", "idiv ecx"], 0),
        (["vcvtsi2sd xmm0, xmm0, rax", "vaddsd xmm0, xmm0, xmm1"], 0),
        (["vsqrtss xmm0, xmm0, xmm1"], 0),
        (["vsqrtss xmm0, xmm1, xmm0"], 14),
        (["maxsd xmm0, qword ptr [rdi]"], 2),
        (["mov rax, qword ptr [rdi]", "add rax, 1", "mov qword ptr [rdi], rax"], 1),  # forwarded for nothing
        (["lock add dword ptr [rcx], 1"], 0),  # what the table does not hold breaks every path
        (["foo rax, rbx"], 0),
        (["add rax, 1", "add rbx, rax", "mov rcx, rbx"], 1),
    ],
)
def test_when_a_block_runs_again_then_its_dependencies_bound_its_cycles(lines, cycles):
    assert dependency_bound("\n".join(lines)) == pytest.approx(cycles)


@pytest.mark.parametrize(
    ("lines", "cycles"),
    [
        (["mov rax, rbx"] * 6, 1),
        (["mov rax, qword ptr [rdi]"] * 6, 2),
        (["mov qword ptr [rdi], rax"] * 6, 3),
        (["vmovups ymmword ptr [rdi], ymm0"] * 2, 2),
        (["vaddps zmm0, zmm1, zmm2"] * 8, 8),
        (["vaddps ymm0, ymm1, ymm2"] * 8, 4),
        (["vsqrtpd ymm0, ymm1"], 8),
        (["imul rax, rbx, 3"] * 4, 4),
        (["vpxor xmm0, xmm0, xmm0"] * 6, 1),
        (["add rax, 1", "cmp rax, rbx", "jne .l"], 1),  # one jump is taken a cycle
        (["nop"] * 8, 0),
        ([], 0),
    ],
)
def test_when_a_block_keeps_units_busy_then_they_bound_its_cycles(lines, cycles):
    assert unit_bound("\n".join(lines)) == pytest.approx(cycles)


def test_when_a_bound_is_compared_with_measurements_then_it_leaves_room_for_their_clock():
    assert lower_bound("imul rax, rcx\n" * 64) == 192
    assert 0.85 < least_measured(1) < 0.9 and 176 < least_measured(192) < 177 and least_measured(0) == 0
