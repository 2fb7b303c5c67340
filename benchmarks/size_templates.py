"""Small programs of one size n, in every language that memory and time of programs were learned for.

`TEMPLATES` has four programs a language: an array of n elements, a loop of n steps, two nested loops of n steps each, and a map or
a list that grows n times. `@` stands for n, which is written as a language's `SPELLINGS` say. They are not training rows.
"""

KINDS = ("array", "loop", "nested", "growth")
TEMPLATES: dict[str, dict[str, str]] = {
    "bash": {
        "array": 'n=@\na=($(seq 1 $n))\necho "${#a[@@]}"\n',
        "loop": "n=@\ns=0\nfor ((i = 0; i < n; i++)); do\n  s=$(((s + i) % 1000))\ndone\necho $s\n",
        "nested": "n=@\ns=0\nfor ((i = 0; i < n; i++)); do\n  for ((j = 0; j < n; j++)); do\n    ((s += j & 3))\n  done\ndone\necho $s\n",
        "growth": "n=@\ndeclare -A m\nfor ((i = 0; i < n; i++)); do\n  m[$i]=$((i * i))\ndone\necho ${#m[@@]}\n",
    },
    "c": {
        "array": "#include <stdio.h>\n#include <stdlib.h>\nint main(void) {\n    long n = @;\n    int *a = malloc(n * sizeof(int));\n"
        '    for (long i = 0; i < n; i++) a[i] = (int)i;\n    printf("%d\\n", a[n - 1]);\n    return 0;\n}\n',
        "loop": "#include <stdio.h>\n#define N @\nint main(void) {\n    unsigned s = 0;\n    for (long i = 0; i < N; i++) s = s * 31 + i;\n"
        '    printf("%u\\n", s);\n    return 0;\n}\n',
        "nested": "#include <stdio.h>\nint main(void) {\n    long n = @;\n    unsigned s = 0;\n    for (long i = 0; i < n; i++)\n"
        '        for (long j = 0; j < n; j++) s += i ^ j;\n    printf("%u\\n", s);\n    return 0;\n}\n',
        "growth": "#include <stdio.h>\n#include <stdlib.h>\nstruct node { long value; struct node *next; };\nint main(void) {\n"
        "    struct node *head = NULL;\n    for (long i = 0; i < @; i++) {\n        struct node *one = malloc(sizeof *one);\n"
        '        one->value = i;\n        one->next = head;\n        head = one;\n    }\n    printf("%ld\\n", head->value);\n    return 0;\n}\n',
    },
    "cpp": {
        "array": "#include <iostream>\n#include <vector>\nint main() {\n    const int n = @;\n    std::vector<int> a(n);\n"
        "    for (int i = 0; i < n; i++) a[i] = i;\n    std::cout << a[n - 1] << std::endl;\n}\n",
        "loop": "#include <cstdio>\nconstexpr long N = @;\nint main() {\n    unsigned s = 1;\n    for (long i = 0; i < N; ++i) s = s * 31 + i;\n"
        '    std::printf("%u\\n", s);\n}\n',
        "nested": "#include <iostream>\nint main() {\n    const long n = @;\n    long s = 0;\n    for (long i = 0; i < n; i++)\n"
        "        for (long j = 0; j < n; j++) s += (i ^ j) & 7;\n    std::cout << s << std::endl;\n}\n",
        "growth": "#include <iostream>\n#include <unordered_map>\nint main() {\n    std::unordered_map<int, int> seen;\n"
        "    for (int i = 0; i < @; i++) seen[i] = i * 2;\n    std::cout << seen.size() << std::endl;\n}\n",
    },
    "csharp": {
        "array": "using System;\nclass Program {\n    static void Main() {\n        int n = @;\n        int[] a = new int[n];\n"
        "        for (int i = 0; i < n; i++) a[i] = i;\n        Console.WriteLine(a[n - 1]);\n    }\n}\n",
        "loop": "using System;\nclass Program {\n    const int N = @;\n    static void Main() {\n        uint s = 1;\n"
        "        for (int i = 0; i < N; i++) s = s * 31 + (uint)i;\n        Console.WriteLine(s);\n    }\n}\n",
        "nested": "using System;\nclass Program {\n    static void Main() {\n        long n = @;\n        long s = 0;\n"
        "        for (long i = 0; i < n; i++)\n            for (long j = 0; j < n; j++) s += i ^ j;\n        Console.WriteLine(s);\n    }\n}\n",
        "growth": "using System;\nusing System.Collections.Generic;\nclass Program {\n    static void Main() {\n"
        "        var seen = new Dictionary<int, int>();\n        for (int i = 0; i < @; i++) seen[i] = i * 2;\n"
        "        Console.WriteLine(seen.Count);\n    }\n}\n",
    },
    "d": {
        "array": "import std.stdio;\nvoid main() {\n    int n = @;\n    int[] a = new int[n];\n    foreach (i; 0 .. n) a[i] = i;\n    writeln(a[n - 1]);\n}\n",
        "loop": "import std.stdio;\nenum N = @;\nvoid main() {\n    uint s = 1;\n    for (int i = 0; i < N; i++) s = s * 31 + i;\n    writeln(s);\n}\n",
        "nested": "import std.stdio;\nvoid main() {\n    long n = @;\n    long s = 0;\n    for (long i = 0; i < n; i++)\n"
        "        for (long j = 0; j < n; j++) s += i ^ j;\n    writeln(s);\n}\n",
        "growth": "import std.stdio;\nvoid main() {\n    int[int] seen;\n    foreach (i; 0 .. @) seen[i] = i * 2;\n    writeln(seen.length);\n}\n",
    },
    "fortran": {
        "array": "program fill\n  implicit none\n  integer, parameter :: n = @\n  integer, allocatable :: a(:)\n  integer :: i\n  allocate(a(n))\n"
        "  do i = 1, n\n    a(i) = i\n  end do\n  print *, a(n)\nend program fill\n",
        "loop": "program steps\n  implicit none\n  integer, parameter :: n = @\n  integer :: i, s\n  s = 0\n  do i = 1, n\n    s = mod(s + i, 1000)\n"
        "  end do\n  print *, s\nend program steps\n",
        "nested": "program pairs\n  implicit none\n  integer :: n, i, j, s\n  n = @\n  s = 0\n  do i = 1, n\n    do j = 1, n\n      s = mod(s + j, 1000)\n"
        "    end do\n  end do\n  print *, s\nend program pairs\n",
        "growth": "program table\n  implicit none\n  integer, parameter :: n = @\n  real(8) :: a(n), b(n)\n  integer :: i\n  do i = 1, n\n    a(i) = i\n"
        "    b(i) = 2 * a(i)\n  end do\n  print *, b(n)\nend program table\n",
    },
    "go": {
        "array": 'package main\n\nimport "fmt"\n\nfunc main() {\n\tn := @\n\ta := make([]int, n)\n\tfor i := range a {\n\t\ta[i] = i\n\t}\n\tfmt.Println(a[n-1])\n}\n',
        "loop": 'package main\n\nimport "fmt"\n\nconst n = @\n\nfunc main() {\n\ts := uint32(1)\n\tfor i := 0; i < n; i++ {\n\t\ts = s*31 + uint32(i)\n\t}\n\tfmt.Println(s)\n}\n',
        "nested": 'package main\n\nimport "fmt"\n\nfunc main() {\n\tn := @\n\ts := 0\n\tfor i := 0; i < n; i++ {\n\t\tfor j := 0; j < n; j++ {\n\t\t\ts += i ^ j\n\t\t}\n\t}\n\tfmt.Println(s)\n}\n',
        "growth": 'package main\n\nimport "fmt"\n\nfunc main() {\n\tseen := map[int]int{}\n\tfor i := 0; i < @; i++ {\n\t\tseen[i] = i * 2\n\t}\n\tfmt.Println(len(seen))\n}\n',
    },
    "haskell": {
        "array": "import qualified Data.Vector.Unboxed as V\n\nmain :: IO ()\nmain = do\n  let n = @ :: Int\n  let a = V.replicate n (1 :: Int)\n  print (V.sum a)\n",
        "loop": "import Data.List (foldl')\n\nmain :: IO ()\nmain = print (foldl' (\\s i -> (s * 31 + i) `mod` 1000003) 1 [1 .. @ :: Int])\n",
        "nested": "main :: IO ()\nmain = do\n  let n = @ :: Int\n  print (sum [i * j `mod` 7 | i <- [1 .. n], j <- [1 .. n]])\n",
        "growth": "import qualified Data.Map.Strict as M\n\nmain :: IO ()\nmain = do\n  let n = @ :: Int\n  let seen = M.fromList [(i, i * 2) | i <- [1 .. n]]\n  print (M.size seen)\n",
    },
    "java": {
        "array": "public class Main {\n    public static void main(String[] args) {\n        int n = @;\n        int[] a = new int[n];\n"
        "        for (int i = 0; i < n; i++) a[i] = i;\n        System.out.println(a[n - 1]);\n    }\n}\n",
        "loop": "public class Main {\n    static final int N = @;\n    public static void main(String[] args) {\n        int s = 1;\n"
        "        for (int i = 0; i < N; i++) s = s * 31 + i;\n        System.out.println(s);\n    }\n}\n",
        "nested": "public class Main {\n    public static void main(String[] args) {\n        long n = @;\n        long s = 0;\n"
        "        for (long i = 0; i < n; i++)\n            for (long j = 0; j < n; j++) s += i ^ j;\n        System.out.println(s);\n    }\n}\n",
        "growth": "import java.util.*;\npublic class Main {\n    public static void main(String[] args) {\n"
        "        Map<Integer, Integer> seen = new HashMap<>();\n        for (int i = 0; i < @; i++) seen.put(i, i * 2);\n"
        "        System.out.println(seen.size());\n    }\n}\n",
    },
    "javascript": {
        "array": "const n = @;\nconst a = new Array(n).fill(0);\nfor (let i = 0; i < n; i++) a[i] = i;\nconsole.log(a[n - 1]);\n",
        "loop": "const N = @;\nlet s = 1;\nfor (let i = 0; i < N; i++) s = (s * 31 + i) % 1000003;\nconsole.log(s);\n",
        "nested": "const n = @;\nlet s = 0;\nfor (let i = 0; i < n; i++) {\n  for (let j = 0; j < n; j++) s += i ^ j;\n}\nconsole.log(s);\n",
        "growth": "const seen = new Map();\nfor (let i = 0; i < @; i++) seen.set(i, i * 2);\nconsole.log(seen.size);\n",
    },
    "lua": {
        "array": "local n = @\nlocal a = {}\nfor i = 1, n do\n  a[i] = 0\nend\nprint(#a)\n",
        "loop": "local n = @\nlocal s = 1\nfor i = 1, n do\n  s = (s * 31 + i) % 1000003\nend\nprint(s)\n",
        "nested": "local n = @\nlocal s = 0\nfor i = 1, n do\n  for j = 1, n do\n    s = s + (i * j) % 7\n  end\nend\nprint(s)\n",
        "growth": "local t = {}\nfor i = 1, @ do\n  t[#t + 1] = i * 2\nend\nprint(#t)\n",
    },
    "ocaml": {
        "array": 'let () =\n  let n = @ in\n  let a = Array.make n 0 in\n  for i = 0 to n - 1 do\n    a.(i) <- i\n  done;\n  Printf.printf "%d\\n" a.(n - 1)\n',
        "loop": 'let n = @\nlet () =\n  let s = ref 1 in\n  for i = 1 to n do\n    s := (!s * 31 + i) mod 1000003\n  done;\n  Printf.printf "%d\\n" !s\n',
        "nested": 'let () =\n  let n = @ in\n  let s = ref 0 in\n  for i = 1 to n do\n    for j = 1 to n do\n      s := !s + (i * j) mod 7\n    done\n  done;\n  Printf.printf "%d\\n" !s\n',
        "growth": 'let () =\n  let seen = Hashtbl.create 16 in\n  for i = 1 to @ do\n    Hashtbl.replace seen i (i * 2)\n  done;\n  Printf.printf "%d\\n" (Hashtbl.length seen)\n',
    },
    "pascal": {
        "array": "program Fill;\nconst\n  N = @;\nvar\n  a: array of longint;\n  i: longint;\nbegin\n  SetLength(a, N);\n  for i := 0 to N - 1 do\n    a[i] := i;\n  writeln(a[N - 1]);\nend.\n",
        "loop": "program Steps;\nconst\n  N = @;\nvar\n  i, s: int64;\nbegin\n  s := 1;\n  for i := 1 to N do\n    s := (s * 31 + i) mod 1000003;\n  writeln(s);\nend.\n",
        "nested": "program Pairs;\nvar\n  n, i, j, s: int64;\nbegin\n  n := @;\n  s := 0;\n  for i := 1 to n do\n    for j := 1 to n do\n      s := s + (i xor j);\n  writeln(s);\nend.\n",
        "growth": "program Grow;\nvar\n  a: array[1..@] of int64;\n  i: int64;\nbegin\n  for i := 1 to @ do\n    a[i] := i * 2;\n  writeln(a[1]);\nend.\n",
    },
    "perl": {
        "array": 'use strict;\nuse warnings;\nmy $n = @;\nmy @@a = (0) x $n;\nprint scalar(@@a), "\\n";\n',
        "loop": 'use strict;\nmy $n = @;\nmy $s = 1;\nfor my $i (1 .. $n) {\n    $s = ($s * 31 + $i) % 1000003;\n}\nprint "$s\\n";\n',
        "nested": 'use strict;\nmy $n = @;\nmy $s = 0;\nfor my $i (1 .. $n) {\n    for my $j (1 .. $n) {\n        $s += ($i * $j) % 7;\n    }\n}\nprint "$s\\n";\n',
        "growth": 'use strict;\nmy %seen;\nfor (my $i = 0; $i < @; $i++) {\n    $seen{$i} = $i * 2;\n}\nprint scalar(keys %seen), "\\n";\n',
    },
    "php": {
        "array": "<?php\n$n = @;\n$a = array_fill(0, $n, 0);\necho count($a), PHP_EOL;\n",
        "loop": "<?php\n$n = @;\n$s = 1;\nfor ($i = 0; $i < $n; $i++) {\n    $s = ($s * 31 + $i) % 1000003;\n}\necho $s, PHP_EOL;\n",
        "nested": "<?php\n$n = @;\n$s = 0;\nfor ($i = 0; $i < $n; $i++) {\n    for ($j = 0; $j < $n; $j++) {\n        $s += $i ^ $j;\n    }\n}\necho $s, PHP_EOL;\n",
        "growth": "<?php\n$seen = [];\nfor ($i = 0; $i < @; $i++) {\n    $seen[$i] = $i * 2;\n}\necho count($seen), PHP_EOL;\n",
    },
    "python": {
        "array": "n = @\na = [0] * n\nfor i in range(n):\n    a[i] = i\nprint(a[-1])\n",
        "loop": "N = @\ns = 1\nfor i in range(N):\n    s = (s * 31 + i) % 1000003\nprint(s)\n",
        "nested": "n = @\ns = 0\nfor i in range(n):\n    for j in range(n):\n        s += i ^ j\nprint(s)\n",
        "growth": "seen = {}\nfor i in range(@):\n    seen[i] = i * 2\nprint(len(seen))\n",
    },
    "ruby": {
        "array": "n = @\na = Array.new(n, 0)\nn.times { |i| a[i] = i }\nputs a[-1]\n",
        "loop": "n = @\ns = 1\n(1..n).each do |i|\n  s = (s * 31 + i) % 1000003\nend\nputs s\n",
        "nested": "n = @\ns = 0\nn.times do |i|\n  n.times do |j|\n    s += i ^ j\n  end\nend\nputs s\n",
        "growth": "seen = {}\n@.times do |i|\n  seen[i] = i * 2\nend\nputs seen.size\n",
    },
    "rust": {
        "array": 'fn main() {\n    let n: usize = @;\n    let mut a = vec![0i32; n];\n    for i in 0..n {\n        a[i] = i as i32;\n    }\n    println!("{}", a[n - 1]);\n}\n',
        "loop": 'const N: u64 = @;\n\nfn main() {\n    let mut s: u64 = 1;\n    for i in 0..N {\n        s = (s * 31 + i) % 1000003;\n    }\n    println!("{}", s);\n}\n',
        "nested": 'fn main() {\n    let n: u64 = @;\n    let mut s: u64 = 0;\n    for i in 0..n {\n        for j in 0..n {\n            s += (i ^ j) & 7;\n        }\n    }\n    println!("{}", s);\n}\n',
        "growth": 'use std::collections::HashMap;\n\nfn main() {\n    let mut seen: HashMap<u32, u32> = HashMap::new();\n    for i in 0..@ {\n        seen.insert(i, i * 2);\n    }\n    println!("{}", seen.len());\n}\n',
    },
    "scheme": {
        "array": "(define n @)\n(define a (make-vector n 0))\n(do ((i 0 (+ i 1)))\n    ((= i n))\n  (vector-set! a i i))\n(display (vector-ref a (- n 1)))\n(newline)\n",
        "loop": "(define n @)\n(define (steps i s)\n  (if (= i n)\n      s\n      (steps (+ i 1) (modulo (+ (* s 31) i) 1000003))))\n(display (steps 0 1))\n(newline)\n",
        "nested": "(define n @)\n(define s 0)\n(do ((i 0 (+ i 1)))\n    ((= i n))\n  (do ((j 0 (+ j 1)))\n      ((= j n))\n    (set! s (+ s (modulo (* i j) 7)))))\n(display s)\n(newline)\n",
        "growth": "(define (grow i out)\n  (if (= i @)\n      out\n      (grow (+ i 1) (cons (* i 2) out))))\n(display (length (grow 0 '())))\n(newline)\n",
    },
    "typescript": {
        "array": "const n: number = @;\nconst a: number[] = new Array(n).fill(0);\nfor (let i = 0; i < n; i++) a[i] = i;\nconsole.log(a[n - 1]);\n",
        "loop": "const N: number = @;\nlet s: number = 1;\nfor (let i = 0; i < N; i++) s = (s * 31 + i) % 1000003;\nconsole.log(s);\n",
        "nested": "const n: number = @;\nlet s: number = 0;\nfor (let i = 0; i < n; i++) {\n  for (let j = 0; j < n; j++) s += i ^ j;\n}\nconsole.log(s);\n",
        "growth": "const seen: Map<number, number> = new Map();\nfor (let i = 0; i < @; i++) seen.set(i, i * 2);\nconsole.log(seen.size);\n",
    },
}  # fmt: skip

_UNDERSCORES = frozenset("d go java javascript ocaml perl php python ruby rust typescript csharp haskell".split())
_PRODUCT = frozenset("c cpp csharp d go java javascript lua pascal perl php python rust typescript fortran".split())
_POWERS = {
    "python": "10 ** {}",
    "fortran": "10 ** {}",
    "perl": "10 ** {}",
    "javascript": "10 ** {}",
    "haskell": "10 ^ {}",
}


def spellings(language: str, exponent: int) -> dict[str, str]:
    """How a language writes 10 to the power of `exponent`, by the name of the spelling."""
    digits = str(10**exponent)
    found = {"plain": digits}
    if language in _UNDERSCORES:
        found["underscores"] = f"{10**exponent:_}"
    if language == "cpp":
        found["quotes"] = f"{10**exponent:,}".replace(",", "'")
    if language in _PRODUCT and exponent >= 3:
        found["product"] = " * ".join([str(10 ** (exponent - 3)), "1000"]) if exponent > 3 else "10 * 100"
    if language in _POWERS:
        found["power"] = _POWERS[language].format(exponent)
    return found


def program(language: str, kind: str, spelled: str) -> str:
    """A template with n as it is spelled."""
    return TEMPLATES[language][kind].replace("@@", "\0").replace("@", spelled).replace("\0", "@")
