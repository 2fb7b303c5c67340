"""Assembly as compilers, disassemblers and people write it: one spelling, blocks, loops, and errors that name the line."""

import random
import shutil
import subprocess
import time

import pytest

from code_rlm.assembly_rlm import looks_like_assembly, parse_assembly
from code_rlm.errors_rlm import InputError
from code_rlm.processing_rlm import CodeInput, expand_input, read_input

C_CODE = """
double dot(double *a, double *b) { double s = 0; for (int i = 0; i < 1024; i++) s += a[i] * b[i]; return s; }
int spaces(const char *s) { int n = 0; while (*s) { if (*s == ' ') n++; s++; } return n; }
long sum(long *p, long n) { long s = 0; for (long i = 0; i < n; i++) s += p[i]; return s; }
"""
DOT = """
dot:
        xorl    %eax, %eax
        pxor    %xmm1, %xmm1
.L2:
        movsd   (%rdi,%rax), %xmm0
        mulsd   (%rsi,%rax), %xmm0
        addq    $8, %rax
        addsd   %xmm0, %xmm1
        cmpq    $8192, %rax
        jne     .L2
        movapd  %xmm1, %xmm0
        ret
"""


def lines(text):
    return [instruction.text for instruction in parse_assembly(text).instructions]


# ------------------------------------------------------------------------------------------------------------------ spelling


@pytest.mark.parametrize(
    "text",
    [
        "movsxd rax, dword ptr [r14 + 0x50]",
        "and rax, 0xffffffffffffffc0",
        "add rsp, -0x80",
        "cmp dword ptr [rdi], -1",
        "mov ecx, 0xffffffff",
        "movabs rax, 0xaaaaaaaaaaaaaaab",
        "lea r15, [r10*8]",
        "mov r9d, dword ptr [r8*4 + 0x5e0580]",
        "xor rbx, qword ptr fs:[0x28]",
        "nop word ptr cs:[rax + rax]",
        "lock cmpxchg dword ptr [rbx + 4], esi",
        "vfmadd231ps ymm0, ymm1, ymmword ptr [rsi + rcx*4]",
        "vcmplt_oqps ymm11, ymm2, ymm7",
        "fstp xword ptr [rsp + 0x10]",
        "fsubp st(1)",
        "vcvtsi2sd xmm0, xmm0, qword ptr [rax + 0x70]",
        "shl rax, 1",
        "prefetcht0 byte ptr [r12 + 0x40]",
    ],
)
def test_when_an_instruction_is_spelled_as_in_training_then_it_stays_as_it_is(text):
    assert lines(text) == [text]


@pytest.mark.parametrize(
    ("written", "spelled"),
    [
        # AT&T
        ("imulq %rbx, %rax", "imul rax, rbx"),
        ("movl $16, -8(%rbp)", "mov dword ptr [rbp - 8], 0x10"),
        ("leaq 4(%rdi,%rcx,8), %rax", "lea rax, [rdi + rcx*8 + 4]"),
        ("movzbl (%rdi), %eax", "movzx eax, byte ptr [rdi]"),
        ("movslq %edi, %rax", "movsxd rax, edi"),
        ("movq %xmm0, %rax", "movq rax, xmm0"),
        ("movq %rbx, %rax", "mov rax, rbx"),
        ("movabsq $0x123456789abcdef, %rax", "movabs rax, 0x123456789abcdef"),
        ("cltq", "cdqe"),
        ("cqto", "cqo"),
        ("pushq $700", "push 0x2bc"),
        ("vfmadd231ps (%rsi,%rcx,4), %ymm1, %ymm0", "vfmadd231ps ymm0, ymm1, ymmword ptr [rsi + rcx*4]"),
        ("vcvtsi2sdq 112(%rax), %xmm0, %xmm0", "vcvtsi2sd xmm0, xmm0, qword ptr [rax + 0x70]"),
        ("cmpltsd %xmm1, %xmm0", "cmpltsd xmm0, xmm1"),
        ("fldl (%rax)", "fld qword ptr [rax]"),
        ("fsubrp %st, %st(1)", "fsubp st(1)"),
        ("sarl %eax", "sar eax, 1"),
        ("lock addl $1, (%rcx)", "lock add dword ptr [rcx], 1"),
        ("lock; addl $1, (%rcx)", "lock add dword ptr [rcx], 1"),
        ("movq %fs:40, %rax", "mov rax, qword ptr fs:[0x28]"),
        ("vmovups %zmm1, (%rax){%k1}", "vmovups zmmword ptr [rax]{k1}, zmm1"),
        # gcc's and clang's Intel syntax
        ("movsd QWORD PTR -8[rdi], xmm1", "movsd qword ptr [rdi - 8], xmm1"),
        ("mov eax, DWORD PTR 8[rax+rdx*4]", "mov eax, dword ptr [rax + rdx*4 + 8]"),
        ("mov rax, QWORD PTR fs:40", "mov rax, qword ptr fs:[0x28]"),
        ("lea rax, [rax*4+rdx]", "lea rax, [rdx + rax*4]"),
        ("add rsp, 0xffffffffffffff80", "add rsp, -0x80"),
        ("rep ret", "ret"),
        ("notrack jmp rax", "jmp rax"),
        ("vcmppd ymm0, ymm1, ymm2, 1", "vcmpltpd ymm0, ymm1, ymm2"),
        ("cmovnz eax, ecx", "cmovne eax, ecx"),
        ("imul eax, 7", "imul eax, eax, 7"),
        ("test rax, QWORD PTR [rdi]", "test qword ptr [rdi], rax"),
        # NASM and MASM
        ("mov rax, [rsi]", "mov rax, qword ptr [rsi]"),
        ("mov dword [rsi], 10h", "mov dword ptr [rsi], 0x10"),
        ("mov [rsi], dword 5", "mov dword ptr [rsi], 5"),
        ("addsd xmm0, [rsi+8*2]", "addsd xmm0, qword ptr [rsi + 0x10]"),
        ("vpmovzxbd ymm0, [rsi]", "vpmovzxbd ymm0, qword ptr [rsi]"),
        ("mov eax, 0FFh", "mov eax, 0xff"),
        ("MOV\tRAX,[RSI][RCX*4]", "mov rax, qword ptr [rsi + rcx*4]"),
    ],
)
def test_when_an_instruction_is_written_otherwise_then_it_has_the_one_spelling(written, spelled):
    assert lines(written) == [spelled]


def test_when_a_name_stands_in_an_address_then_it_is_one_number_wherever_it_stands():
    first, second, third = lines("mov eax, DWORD PTR x[rip]\nmov ecx, DWORD PTR y[rip]\nadd edx, DWORD PTR x[rip]")
    address = first.partition("[")[2]
    assert third.endswith(address) and not second.endswith(address)


@pytest.mark.parametrize(
    "text",
    [
        "imul rax, rbx ; inc rdx\nadd rax, rcx ; div rbx",
        "loop1: imul rax, rbx\nadd rax, rcx",
        "  401000:\t48 0f af c3          \timul   rax,rbx\n  401004:\t48 01 c8             \tadd    rax,rcx",
        "  401000: imul rax,rbx\n  401004: add rax,rcx",
        "0000000000401000 <f>:\n  401000:\timul rax,rbx\n  401004:\tadd rax,rcx",
        "Dump of assembler code for function f:\n=> 0x0000000000401000 <+0>:\timul   rax,rbx\n"
        "   0x0000000000401004 <+4>:\tadd    rax,rcx\nEnd of assembler dump.",
        "imul rax, rbx; add rax, rcx",
        "imul rax, rbx # twice\nadd rax, rcx // and on\n",
        "/* a\n block */ imul rax, rbx /* b */\nadd rax, rcx",
        "section .text\nglobal f\nbits 64\nf:\nimul rax, rbx\nadd rax, rcx\nmsg db 'hello', 0",
        "f PROC\nimul rax, rbx\nadd rax, rcx\nf ENDP\nEND",
        "\t.intel_syntax noprefix\n\t.globl f\n\t.type f, @function\nf:\n.LFB0:\n\t.cfi_startproc\n"
        "\timul rax, rbx\n\tadd rax, rcx\n",
        "mov eax, 1\n# LLVM-MCA-BEGIN inner\nimul rax, rbx\nadd rax, rcx\n# LLVM-MCA-END\nret",
        "mov eax, 1\n// OSACA-BEGIN\nimulq %rbx, %rax\naddq %rcx, %rax\n// OSACA-END",
        "mov ebx, 111\n.byte 100,103,144\nimul rax, rbx\nadd rax, rcx\nmov ebx, 222\n.byte 100,103,144\n",
    ],
)
def test_when_labels_comments_headers_and_marks_stand_around_then_the_block_is_the_same(text):
    assert parse_assembly(text).text == "imul rax, rbx\nadd rax, rcx"


# ------------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("add rax, 1\nfoo rax, 2", r"1 of 2 lines .* line 2 \('foo'"),
        ("add rax, 1\nadd rax", "line 2"),
        ("add rax, 1\nmov rax, [rbx + rcx + rdx]", "line 2"),
        ("add 1, rax", "line 1"),
        ("add rax, 1; foo rax, 2", "line 1"),
        ("ldr x0, [x1]\nadd x0, x0, #1\nstr x0, [x1], #8\nb.ne .L3", "AArch64"),
        ("ldr r0, [r1]\nadd r0, r0, #1\nbx lr", "ARM assembly"),
        ("lw a0, 0(a1)\naddi a0, a0, 1\nsw a0, 0(a1)\nbnez a0, .L3", "RISC-V"),
        ("define i32 @f(i32 %x) {\n  %y = add i32 %x, 1\n  ret i32 %y\n}", "LLVM IR"),
        ("This is a text about a loop.\nIt says nothing at all to a processor, however long it is.", "prose"),
        ("/* never ends\nadd rax, 1", "line 1"),
        ("k.o:     file format elf64-x86-64\n\nDisassembly of section .text:\n", "no instructions"),
        ("# LLVM-MCA-BEGIN\n# LLVM-MCA-END\nadd rax, 1", "between its marks"),
    ],
)
def test_when_a_line_is_no_x86_instruction_then_the_error_names_it_or_the_language(text, words):
    with pytest.raises(InputError, match=words):
        parse_assembly(text, "a.s")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (DOT, True),
        ("mov rax, rbx\nfoo rax\nadd rax, 1\nadd rcx, 2", True),
        ("x = 1\ny = 2", False),
        ("nop", False),
        ("int main(void) { return 0; }", False),
        ("ldr x0, [x1]\nadd x0, x0, #1", False),
    ],
)
def test_when_a_text_is_guessed_then_most_of_its_lines_are_instructions(text, expected):
    assert looks_like_assembly(text) == expected


# ------------------------------------------------------------------------------------------------------------ blocks and loops


def trips(text):
    return [loop.trip_count for loop in parse_assembly(text).loops]


def test_when_a_function_has_a_loop_then_it_has_lines_and_a_trip_count():
    assembly = parse_assembly(DOT)
    [loop] = assembly.loops
    assert (loop.first_line, loop.last_line, loop.trip_count, loop.innermost) == (6, 11, 1024, True)
    found = [(r.lines, r.is_loop, r.executions, r.function) for r in assembly.regions()]
    assert found == [("3-4", False, 1, "dot"), ("6-11", True, 1024, "dot"), ("12-13", False, 1, "dot")]
    assert "jne" not in assembly.regions()[1].text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mov ecx, 100\na: add rax, 1\ndec ecx\njnz a", 100),
        ("mov ecx, 100\na: add rax, 1\nsub ecx, 3\njns a", 34),
        ("xor eax, eax\na: add rbx, 1\nadd rax, 4\ncmp rax, 0x100\njl a", 64),
        ("xor eax, eax\na: add rbx, 1\nadd rax, 3\ncmp rax, 10\njle a", 4),
        ("xor eax, eax\na: cmp eax, 7\njge b\nadd eax, 1\njmp a\nb: ret", 8),
        ("mov rdx, rdi\nlea rcx, [rdi + 0x400]\na: add rax, qword ptr [rdx]\nadd rdx, 8\ncmp rdx, rcx\njne a", 128),
        ("mov ecx, 12\na: imul rax, rbx\nloop a", 12),
        ("a: add rax, 1\ndec ecx\njnz a", None),
        ("mov ecx, 5\na: add rax, 1\nimul ecx, ecx, 3\ncmp ecx, 9\njne a", None),
        ("mov ecx, 5\na: dec ecx\nje b\ncmp rax, rbx\njne a\nb: ret", None),
        ("1: add rax, 1\ndec ecx\njnz 1b", None),
    ],
)
def test_when_a_loop_counts_to_a_constant_then_the_trips_are_known(text, expected):
    assert trips(text) == [expected]


def test_when_loops_are_nested_then_executions_multiply_and_conditional_blocks_have_none():
    text = """
        mov ecx, 10
    outer: mov edx, 20
    inner: add rax, 1
        dec edx
        jne inner
        test rbx, rbx
        je skip
        imul rax, rbx
    skip: dec ecx
        jne outer
        ret"""
    assembly = parse_assembly(text)
    assert [(loop.trip_count, loop.parent, loop.innermost) for loop in assembly.loops] == [
        (10, None, False),
        (20, 0, True),
    ]
    assert [r.executions for r in assembly.regions()] == [1, 10, 200, 10, None, 10]


def test_when_a_text_has_several_loops_then_they_are_separate_inputs_with_their_lines():
    text = DOT + DOT.replace("dot", "two").replace(".L2", ".L9")
    with pytest.raises(InputError, match=r"2 loops \(lines 6-11, 19-24\)"):
        read_input({"text": text, "language": "x86asm"})
    inputs = expand_input(CodeInput(text, source="a.s"))
    assert [i.source for i in inputs] == ["a.s:6-11", "a.s:19-24"]
    assert inputs[0].text == inputs[1].text == read_input(DOT).text
    assert [i.source for i in expand_input(CodeInput(DOT, source="b.s"))] == ["b.s:6-11"]
    assert [i.text for i in expand_input("add rax, 1")] == ["add rax, 1"] and expand_input("x = 1")[
        0
    ].language == "python"


def test_when_a_block_was_read_then_reading_it_again_changes_nothing():
    first = read_input({"text": DOT, "language": "x86asm"})
    assert read_input(first) == first and dict(first.lower_bounds)["cycles"] > 2.6


def test_when_nests_are_deep_or_texts_long_then_reading_takes_no_time_to_speak_of():
    start = time.perf_counter()
    depth = 300
    nest = [f"l{k}:\nadd rax, {k}" for k in range(depth)] + [f"dec rcx\njne l{k}" for k in reversed(range(depth))]
    assert len(parse_assembly("\n".join(nest)).loops) == depth
    parse_assembly("\n".join(f"x{k}: add rax, 1\njne x{k + 1}" for k in range(3000)))
    for odd in ("[" * 5000, "(" * 5000, "add " * 5000, "/*" * 5000, ";" * 5000, "a:" * 5000, "rep " * 2000, "{" * 5000):
        with pytest.raises(InputError):
            parse_assembly(odd)
    assert time.perf_counter() - start < 10


def test_when_the_least_cycles_are_known_then_no_answer_lies_below_them(pipe):
    text = "imul rax, rcx\n" * 64
    [entry] = pipe(text, metrics=["cycles"])
    bound = dict(read_input(text).lower_bounds)["cycles"]
    assert bound > 170 and bound <= entry["low"] <= entry["value"]
    [ranked, other] = pipe.rank([text, "add rax, 1"], "cycles")
    assert {ranked["index"], other["index"]} == {0, 1} and min(ranked["value"], other["value"]) >= 0.8


# ------------------------------------------------------------------------------------------------------------------ tools


needs_gcc = pytest.mark.skipif(not (shutil.which("gcc") and shutil.which("objdump")), reason="needs gcc and objdump")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compiled")
    (folder / "k.c").write_text(C_CODE)

    def run(command):
        done = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True, check=True, timeout=60)
        return done.stdout

    run("gcc -O2 -fno-tree-vectorize -c k.c -o k.o")
    return run


@needs_gcc
@pytest.mark.parametrize("options", ["", "-M intel", "--no-show-raw-insn", "-w -M intel --no-show-raw-insn", "-r"])
def test_when_objdump_lists_an_object_file_then_its_loops_are_read(compiled, options):
    listing = compiled(f"objdump -d {options} k.o")
    assembly = parse_assembly(listing)
    assert {r.function for r in assembly.regions()} == {"dot", "spaces", "sum"}
    assert [loop.trip_count for loop in assembly.loops] == [1024, None, None]
    inputs = expand_input({"text": listing})
    assert len(inputs) == 3 and all(i.language == "x86asm" and i.source.startswith("<text>:") for i in inputs)


@needs_gcc
def test_when_gcc_prints_both_syntaxes_then_they_read_the_same(compiled):
    att = compiled("gcc -O2 -S k.c -o -")
    intel = compiled("gcc -O2 -S -masm=intel k.c -o -")
    assert lines(att) == lines(intel)
    assert [b.successors for b in parse_assembly(att).blocks] == [b.successors for b in parse_assembly(intel).blocks]


# ------------------------------------------------------------------------------------------------------------------ fuzz


PIECES = (
    "add mov lea jmp jne call ret rax ebx xmm0 ymm1 zmm2 st(1) %rax %xmm0 $1 $-8 [ ] ( ) , ; : # // /* */ + - * 0x10 10h 8 "
    "qword ptr byte fs: .L1 .L1: 1: 1b lock rep {k1} {z} .text .byte section db PROC <f>: 401000: 48 0f af \t \n"
).split(" ")


def test_when_texts_are_random_or_broken_then_nothing_but_an_input_error_comes_of_them():
    chance = random.Random(0)
    for _ in range(400):
        if chance.random() < 0.5:
            text = " ".join(chance.choices(PIECES, k=chance.randrange(1, 40)))
        else:
            letters = list(DOT)
            for _ in range(chance.randrange(1, 12)):
                letters[chance.randrange(len(letters))] = chance.choice(
                    ["", "%", "(", ",", "\n", "é", "\0", "[", ":", "9"]
                )
            text = "".join(letters)
        try:
            regions = parse_assembly(text).regions()
        except InputError as error:
            assert len(str(error)) < 700
        else:
            assert all(region.text for region in regions)
