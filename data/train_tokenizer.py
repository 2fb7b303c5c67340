"""Trains the text tokenizer: byte-level BPE that loses no whitespace and reads digits one by one.

    python -m code_rlm.data.train_tokenizer --out checkpoints/default --vocab-size 8192 \\
        --files '/usr/lib/python3/**/*.py' --tasks bhive_zen4 nasbench201 --data-root DATA
    python -m code_rlm.data.train_tokenizer --extend checkpoints/default --out extended --phrases 128 \\
        --tasks nasbench201 fbnet --data-root DATA

Any mixture of text files (globs; each kind capped so that none drowns the others) and of this package's tasks. `--extend` keeps
every token of a tokenizer and adds whole phrases, such as ` conv3x3-bn-relu`, that it would write as many tokens; a checkpoint
trained on with the result starts each phrase from the mean of the tokens that it replaces.
"""

import argparse
import glob
import os
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from code_rlm.numbers_rlm import NumberFormat
from code_rlm.tokenization_rlm import RLMTokenizer

SPECIAL_TOKENS = ("<pad>", "<eos>", "<mask>", "<cut>")
# Runs of line breaks with the indentation that follows, words with one leading space, digits alone, punctuation runs.
SPLIT = r"\r?\n[\r\n\t ]*|[^\S\r\n]?[\p{L}_]+|\d|[^\S\r\n]?[^\s\p{L}\d_]{1,4}|[^\S\r\n]+"

# Of a graph's text: words with the space before them, letters and digits joined by hyphens, such as ` dwconv5x5-bn-relu6`; the
# line of an input's shape; and the usual end of an image classifier.
_WORD = r"(?:(?<=\n)|^| )"
PHRASE = re.compile(
    rf"{_WORD}[a-z][a-z0-9]*(?:-[a-z0-9]+)+|{_WORD}[a-z]+\d+x\d+|\nin 1 \d+ \d+ \d+\n|\ngap\nflatten\nfc \d+ bias"
)


def train_tokenizer(texts: Iterator[str], vocab_size: int, number_format: NumberFormat | None = None) -> RLMTokenizer:
    """Returns a tokenizer of `vocab_size` entries (special tokens and 256 bytes included) trained on texts."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=24,
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return RLMTokenizer(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<eos>",
        mask_token="<mask>",
        extra_special_tokens=["<cut>"],
        clean_up_tokenization_spaces=False,
        number_format=(number_format or NumberFormat()).to_dict(),
    )


def extend_tokenizer(tokenizer: RLMTokenizer, texts: Iterable[str], phrases: int) -> list[str]:
    """Adds the phrases that save the most tokens in texts, each in its place in a line (behind a space) and at its beginning.

    Args:
        tokenizer: Gets at most `phrases` entries more behind its own, which keep their ids.
        texts: Where phrases (`PHRASE`) are looked for and counted.
        phrases: The most entries to add.

    Returns:
        The phrases added, those that save most first.
    """
    counts = Counter(found for text in texts for found in PHRASE.findall(text))
    saved = {phrase: count * (len(tokenizer.encode(phrase)) - 1) for phrase, count in counts.items()}
    best = sorted((phrase for phrase, gain in saved.items() if gain > 0), key=lambda p: (-saved[p], p))[:phrases]
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in best])
    return best


def read_texts(
    globs: list[str], tasks: list[str], data_root: str | None, limit: int, rows: int | None = None, seed: int = 0
) -> Iterator[str]:
    """Yields texts of the files and tasks, at most `limit` characters of each, and `rows` rows of each task."""
    rng = random.Random(seed)
    for pattern in globs:
        paths = sorted(p for p in glob.glob(os.path.expanduser(pattern), recursive=True) if os.path.isfile(p))
        rng.shuffle(paths)
        used = 0
        for path in paths:
            text = Path(path).read_text(encoding="utf-8", errors="ignore")[:50_000]
            used += len(text)
            yield text
            if used > limit:
                break
    if tasks:
        from code_rlm.data.readers import read_task

        for task in tasks:
            used = 0
            for row in read_task(task, data_root=data_root, split="train", limit=rows).shuffle(seed=seed):
                text = "\n".join([*(f"# predict: {m}" for m in row["metrics"]), *row["context"], row["text"]])
                used += len(text)
                yield text
                if used > limit:
                    break


def main(argv: list[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder to write the tokenizer's files to")
    parser.add_argument("--vocab-size", type=int, default=8192, help="entries in the vocabulary")
    parser.add_argument("--files", nargs="*", default=[], help="globs of text files")
    parser.add_argument("--tasks", nargs="*", default=[], help="task names, see data/readers.py")
    parser.add_argument("--data-root", help="folder of the tasks' tables")
    parser.add_argument("--limit", type=int, default=8_000_000, help="characters read of each glob and task")
    parser.add_argument("--rows", type=int, help="rows read of each task; by default all")
    parser.add_argument("--extend", metavar="FOLDER", help="add phrases to this tokenizer instead of training one")
    parser.add_argument("--phrases", type=int, default=128, help="with --extend: the most phrases to add")
    args = parser.parse_args(argv)
    texts = read_texts(args.files, args.tasks, args.data_root, args.limit, args.rows)
    if args.extend:
        tokenizer = RLMTokenizer.from_pretrained(args.extend)
        print(*map(repr, extend_tokenizer(tokenizer, texts, args.phrases)), sep="\n")
    else:
        tokenizer = train_tokenizer(texts, args.vocab_size)
    tokenizer.save_pretrained(args.out)


if __name__ == "__main__":
    main()
