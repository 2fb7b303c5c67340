"""Innermost loops of small C kernels as gcc makes them: measured cycles beside this model's and llvm-mca's.

    python benchmarks/gcc_loops.py --out benchmarks/results/gcc_loops.csv --mca llvm-mca-19

Every kernel is compiled with -O2 and with -O3 -march=x86-64-v3. Its innermost loops are read by `assembly_rlm`. A first
build counts iterations at the head of every loop; the loop that runs most is the one that is measured. A second build,
unchanged, runs over two sizes of arrays that both fit into the first-level cache: the difference of the times by the
difference of the iterations is the cycles of an iteration. Times are read from the time-stamp counter and converted into core
cycles by a chain of dependent additions that is timed beside every run; the 5% quantile of the runs counts, as those beside
other work on the same core take longer. The processor is that of the machine: run it on a
Zen 4 to compare with the metric `cycles` of the weights that ship.
"""

import argparse
import csv
import ctypes
import math
import platform
import re
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path

import code_rlm
from code_rlm.assembly_rlm import Assembly, Loop, parse_assembly
from code_rlm.processing_rlm import CodeInput
from code_rlm.x86_rlm import lower_bound

FLAGS = {"O2": ["-O2"], "O3": ["-O3", "-march=x86-64-v3"]}
SIZES = (512, 1024)  # elements: three arrays of doubles take 24 KiB
COLUMNS = ("kernel", "flags", "instructions", "measured", "predicted", "low", "high", "bound", "mca", "zmm")

# Name: result, types of the three arrays, body. `n` elements; `restrict` throughout.
KERNELS = {
    "sum": ("double", "double double double", "double s=0; for(long i=0;i<n;i++) s+=a[i]; return s;"),
    "sum_float": ("float", "float float float", "float s=0; for(long i=0;i<n;i++) s+=a[i]; return s;"),
    "sum_long": ("long", "long long long", "long s=0; for(long i=0;i<n;i++) s+=a[i]; return s;"),
    "sum_bytes": ("long", "char char char", "long s=0; for(long i=0;i<n;i++) s+=a[i]; return s;"),
    "dot": ("double", "double double double", "double s=0; for(long i=0;i<n;i++) s+=a[i]*b[i]; return s;"),
    "dot_float": ("float", "float float float", "float s=0; for(long i=0;i<n;i++) s+=a[i]*b[i]; return s;"),
    "dot_int": ("int", "int int int", "int s=0; for(long i=0;i<n;i++) s+=a[i]*b[i]; return s;"),
    "axpy": ("void", "double double double", "for(long i=0;i<n;i++) a[i]+=3.5*b[i];"),
    "axpy_float": ("void", "float float float", "for(long i=0;i<n;i++) a[i]+=3.5f*b[i];"),
    "triad": ("void", "double double double", "for(long i=0;i<n;i++) a[i]=b[i]+2.5*c[i];"),
    "add_int": ("void", "int int int", "for(long i=0;i<n;i++) a[i]=b[i]+c[i];"),
    "copy": ("void", "long long long", "for(long i=0;i<n;i++) a[i]=b[i]^c[i];"),
    "scale": ("void", "double double double", "for(long i=0;i<n;i++) a[i]*=1.0000001;"),
    "divide": ("void", "double double double", "for(long i=0;i<n;i++) a[i]=b[i]/c[i];"),
    "divide_float": ("void", "float float float", "for(long i=0;i<n;i++) a[i]=b[i]/c[i];"),
    "root": ("void", "double double double", "for(long i=0;i<n;i++) a[i]=__builtin_sqrt(b[i]*b[i]+c[i]*c[i]);"),
    "root_float": ("void", "float float float", "for(long i=0;i<n;i++) a[i]=__builtin_sqrtf(b[i]*b[i]);"),
    "prefix": ("void", "double double double", "for(long i=1;i<n;i++) a[i]=a[i-1]+b[i];"),
    "prefix_int": ("void", "int int int", "int s=0; for(long i=0;i<n;i++) {s+=b[i]; a[i]=s;}"),
    "recurrence": ("void", "double double double", "double x=0.5; for(long i=0;i<n;i++) {x=x*b[i]+c[i]; a[i]=x;}"),
    "horner": ("double", "double double double", "double s=0; for(long i=0;i<n;i++) s=s*0.999+a[i]; return s;"),
    "logistic": ("double", "double double double", "double x=.3; for(long i=0;i<n;i++) x=3.9*x*(1-x); return x;"),
    "newton": ("double", "double double double", "double x=2; for(long i=0;i<n;i++) x=0.5*(x+a[i]/x); return x;"),
    "hash": ("long", "long long long", "unsigned long h=1; for(long i=0;i<n;i++) h=(h^a[i])*1099511628211ul; return h;"),
    "hash_bytes": ("int", "char char char", "unsigned h=5381; for(long i=0;i<n;i++) h=h*33+a[i]; return h;"),
    "xorshift": (
        "long", "long long long",
        "unsigned long x=88172645463325252ul; for(long i=0;i<n;i++){x^=x<<13;x^=x>>7;x^=x<<17;a[i]=x;} return x;",
    ),
    "congruential": (
        "long", "long long long",
        "unsigned long x=1; for(long i=0;i<n;i++){x=x*6364136223846793005ul+1442695040888963407ul; a[i]=x>>33;} return x;",
    ),
    "modulo": ("long", "int int int", "long s=0; for(long i=0;i<n;i++) s+=(unsigned)a[i]%7; return s;"),
    "divide_int": ("long", "int int int", "long s=0; for(long i=0;i<n;i++) s+=a[i]/((b[i]&15)+3); return s;"),
    "fibonacci": ("long", "long long long", "long x=0,y=1; for(long i=0;i<n;i++){long t=x+y;x=y;y=t^a[i];} return x;"),
    "maximum": ("int", "int int int", "int m=a[0]; for(long i=0;i<n;i++) m=a[i]>m?a[i]:m; return m;"),
    "maximum_double": ("double", "double double double", "double m=a[0]; for(long i=0;i<n;i++) m=a[i]>m?a[i]:m; return m;"),
    "clamp": ("void", "int int int", "for(long i=0;i<n;i++) {int v=b[i]; v=v<0?0:v; a[i]=v>255?255:v;}"),
    "count_equal": ("long", "int int int", "long s=0; for(long i=0;i<n;i++) s+=a[i]==42; return s;"),
    "count_bits": (
        "long", "long long long",
        "long s=0; for(long i=0;i<n;i++){unsigned long v=a[i]; v-=(v>>1)&0x5555555555555555ul; s+=v;} return s;",
    ),
    "gather": ("long", "long int long", "long s=0; for(long i=0;i<n;i++) s+=a[b[i]&255]; return s;"),
    "scatter": ("void", "int int int", "for(long i=0;i<n;i++) a[b[i]&255]=i;"),
    "histogram": ("void", "int int int", "for(long i=0;i<n;i++) a[b[i]&255]++;"),
    "chase": ("long", "long long long", "long p=0; for(long i=0;i<n;i++) p=c[p&255]&255; return p;"),
    "stencil": ("void", "double double double", "for(long i=1;i<n-1;i++) a[i]=b[i-1]+b[i]+b[i+1];"),
    "stencil_float": ("void", "float float float", "for(long i=1;i<n-1;i++) a[i]=0.25f*b[i-1]+0.5f*b[i]+0.25f*b[i+1];"),
    "reverse": ("void", "int int int", "for(long i=0;i<n;i++) a[i]=b[n-1-i];"),
    "convert": ("void", "float int int", "for(long i=0;i<n;i++) a[i]=b[i];"),
    "convert_back": ("void", "int double double", "for(long i=0;i<n;i++) a[i]=b[i];"),
    "complex": (
        "void", "double double double",
        "for(long i=0;i<n;i+=2){double x=b[i],y=b[i+1]; a[i]=x*c[i]-y*c[i+1]; a[i+1]=x*c[i+1]+y*c[i];}",
    ),
    "norm": ("float", "float float float", "float s=0; for(long i=0;i<n;i++){float d=a[i]-b[i]; s+=d*d;} return s;"),
    "polynomial": ("void", "double double double", "for(long i=0;i<n;i++){double x=b[i]; a[i]=((x*.1+.2)*x+.3)*x+.4;}"),
    "checksum": ("int", "char char char", "unsigned s=1,t=0; for(long i=0;i<n;i++){s+=(unsigned char)a[i]; t+=s;} return s^t;"),
    "uppercase": ("void", "char char char", "for(long i=0;i<n;i++){char v=b[i]; a[i]=v>='a'&&v<='z'?v-32:v;}"),
    "shift_mix": ("int", "int int int", "unsigned h=7; for(long i=0;i<n;i++){h+=a[i]; h+=h<<10; h^=h>>6;} return h;"),
    "product_long": ("long", "long long long", "long p=1; for(long i=0;i<n;i++) p*=a[i]|1; return p;"),
    "mean_pair": ("void", "short short short", "for(long i=0;i<n;i++) a[i]=(b[i]+c[i])>>1;"),
}  # fmt: skip

HARNESS = r"""
#include <stdint.h>
#include <x86intrin.h>
typedef void (*kernel)(void *, void *, void *, long);
static inline uint64_t now(void) { unsigned x; _mm_lfence(); uint64_t t = __rdtscp(&x); _mm_lfence(); return t; }
static uint64_t additions(int blocks) {  // 80 dependent additions take 80 cycles
  uint64_t x = 1, start = now();
  for (int i = 0; i < blocks; i++)
    __asm__ volatile(".rept 80\n add $1, %0\n .endr" : "+r"(x));
  return now() - start;
}
void measure(kernel k, void *a, void *b, void *c, long n, int repeats, double *cycles) {
  for (int i = 0; i < 20; i++) k(a, b, c, n);
  for (int i = 0; i < repeats; i++) {
    uint64_t few = additions(2), many = additions(52);
    uint64_t start = now();
    for (int call = 0; call < 16; call++) k(a, b, c, n);
    uint64_t time = (now() - start) / 16;
    many += additions(52), few += additions(2);
    cycles[i] = 2 * 50 * 80.0 * time / (double)(many - few);
  }
}
"""
ELEMENT = {"double": 8, "float": 4, "long": 8, "int": 4, "short": 2, "char": 1}


def source(name: str) -> str:
    """C source of a kernel, alone in its file."""
    result, types, body = KERNELS[name]
    a, b, c = types.split()
    return f"{result} {name}({a} *restrict a, {b} *restrict b, {c} *restrict c, long n) {{ {body} }}\n"


def compile_to_text(name: str, flags: list[str], folder: Path) -> str:
    """Assembly of a kernel, AT&T syntax, as gcc prints it."""
    (folder / f"{name}.c").write_text(source(name))
    command = ["gcc", *flags, "-S", "-fno-asynchronous-unwind-tables", f"{name}.c", "-o", "-"]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def counted(text: str, assembly: Assembly, loops: list[Loop]) -> str:
    """The assembly with a counter at the head of every loop, which changes neither registers nor flags."""
    lines = text.split("\n")
    places = {assembly.blocks[loop.header].first_line: number for number, loop in enumerate(loops)}
    written = []
    for number, line in enumerate(lines, 1):
        if number in places:
            slot = f"rlm_counts+{8 * places[number]}(%rip)"
            written += [
                "\tmovq %rax, rlm_saved(%rip)", f"\tmovq {slot}, %rax", "\tleaq 1(%rax), %rax", f"\tmovq %rax, {slot}",
                "\tmovq rlm_saved(%rip), %rax",
            ]  # fmt: skip
        written.append(line)
    return "\n".join([*written, "\t.globl rlm_counts", "\t.comm rlm_counts,512,8", "\t.comm rlm_saved,8,8", ""])


def load(assembly: str, folder: Path, name: str) -> ctypes.CDLL:
    """A shared library of an assembly text and the harness."""
    (folder / f"{name}.s").write_text(assembly)
    (folder / "harness.c").write_text(HARNESS)
    target = folder / f"{name}.so"
    command = ["gcc", "-O1", "-shared", "-fPIC", f"{name}.s", "harness.c", "-o", str(target), "-Wl,-Bsymbolic"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return ctypes.CDLL(str(target))


def arrays(name: str) -> list[ctypes.Array]:
    """Three arrays of a kernel's types, aligned to 64 bytes, with small values that never become subnormal."""
    kinds = {
        "double": ctypes.c_double, "float": ctypes.c_float, "long": ctypes.c_long, "int": ctypes.c_int,
        "short": ctypes.c_short, "char": ctypes.c_byte,
    }  # fmt: skip
    made = []
    for place, kind in enumerate(KERNELS[name][1].split()):
        size = ELEMENT[kind]
        raw = (ctypes.c_byte * (size * SIZES[1] + 4096))()
        shift = -ctypes.addressof(raw) % 64 + 64 * (place + 1)  # not one above the other in the cache
        array = (kinds[kind] * SIZES[1]).from_buffer(raw, shift)
        for index in range(SIZES[1]):
            array[index] = 1.0 + (index % 7) / 8 if kind in ("double", "float") else (index * 37 + 11) % 100 + 1
        made.append(array)
    return made


def measure(name: str, label: str, folder: Path, repeats: int) -> tuple[str, Assembly, Loop, float] | None:
    """Text, what it holds, the loop that runs most, and cycles of its iteration; None where gcc left no loop."""
    text = compile_to_text(name, FLAGS[label], folder)
    assembly = parse_assembly(text, name)
    loops = [loop for loop in assembly.loops if loop.innermost]
    if not loops:
        return None
    library = load(counted(text, assembly, loops), folder, f"{name}_{label}_counted")
    counts = (ctypes.c_long * 64).in_dll(library, "rlm_counts")
    data = arrays(name)
    iterations = []
    for size in SIZES:
        before = list(counts)
        getattr(library, name)(*data, ctypes.c_long(size))
        iterations.append([after - b for after, b in zip(counts, before, strict=True)])
    most = max(range(len(loops)), key=lambda number: iterations[1][number])
    if not repeats:
        return text, assembly, loops[most], math.nan
    library = load(text, folder, f"{name}_{label}_plain")
    data = arrays(name)
    times = []
    for size in SIZES:
        cycles = (ctypes.c_double * repeats)()
        library.measure(getattr(library, name), *data, ctypes.c_long(size), repeats, cycles)
        times.append(statistics.quantiles(cycles, n=20)[0])  # a thread on the same core takes from the units
    return text, assembly, loops[most], (times[1] - times[0]) / (iterations[1][most] - iterations[0][most])


def mca_cycles(command: str, text: str, loop: Loop) -> float | None:
    """Cycles of an iteration by llvm-mca for Zen 4."""
    lines = text.split("\n")[loop.first_line - 1 : loop.last_line]
    options = ["-mcpu=znver4", "-iterations=1000", "-instruction-info=0", "-resource-pressure=0"]
    done = subprocess.run([command, *options], input="\n".join(lines), capture_output=True, text=True)
    found = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    return int(found[1]) / 1000 if found else None


def report(rows: list[dict]) -> str:
    """Mean and median relative errors over the loops without zmm, as a Markdown table."""
    narrow = [row for row in rows if not row["zmm"] and row["mca"] is not None]
    lines = ["| | loops | mean error | median error | inside the 90% interval |", "|---|---|---|---|---|"]
    for label, column in (("this model", "predicted"), ("lower bound alone", "bound"), ("llvm-mca", "mca")):
        errors = [abs(row[column] / row["measured"] - 1) for row in narrow]
        inside = sum(row["low"] <= row["measured"] <= row["high"] for row in narrow) / len(narrow)
        share = f"{inside:.0%}" if column == "predicted" else "–"
        lines.append(
            f"| {label} | {len(narrow)} | {statistics.mean(errors):.1%} | {statistics.median(errors):.1%} | {share} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measures, predicts, writes the table and prints the errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="CSV")
    parser.add_argument("--mca", default="llvm-mca", help="command of llvm-mca, one that knows znver4")
    parser.add_argument("--model", help="checkpoint folder [the weights that ship]")
    parser.add_argument("--repeats", type=int, default=400, help="timed runs of a kernel")
    parser.add_argument("--measured", type=Path, help="take the measured cycles from this table of an earlier run")
    args = parser.parse_args()
    mca = shutil.which(args.mca)
    known = {}
    if args.measured:
        with args.measured.open(newline="", encoding="utf-8") as file:
            known = {(row["kernel"], row["flags"]): float(row["measured"]) for row in csv.DictReader(file)}
    pipe = code_rlm.pipeline(args.model)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in KERNELS:
            for label in FLAGS:
                found = measure(name, label, Path(temporary), 0 if args.measured else args.repeats)
                if found is None:
                    continue
                text, assembly, loop, cycles = found
                region = next(r for r in assembly.regions() if r.is_loop and r.first_line == loop.first_line)
                lines = "\n".join(text.split("\n")[loop.first_line - 1 : loop.last_line])
                [entry] = pipe(CodeInput(loop_text(text, loop), "x86asm", source=name), metrics=["cycles"])
                row = {
                    "kernel": name, "flags": label, "instructions": len(region.text.split("\n")),
                    "measured": known[name, label] if args.measured else round(cycles, 3),
                    "predicted": round(entry["value"], 3),
                    "low": round(entry["low"], 3), "high": round(entry["high"], 3),
                    "bound": round(lower_bound(region.bound_text), 3),
                    "mca": mca_cycles(mca, text, loop) if mca else None, "zmm": int("zmm" in lines),
                }  # fmt: skip
                rows.append(row)
                print(*row.values(), flush=True)
    with args.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    print(f"{len(rows)} loops, {platform.processor() or platform.machine()}")
    print(report(rows))


def loop_text(text: str, loop: Loop) -> str:
    """The lines of a loop with its label in front, so that it is read as a loop."""
    lines = text.split("\n")
    start = loop.first_line - 1
    while start and lines[start - 1].endswith(":"):
        start -= 1
    return "\n".join(lines[start : loop.last_line])


if __name__ == "__main__":
    main()
