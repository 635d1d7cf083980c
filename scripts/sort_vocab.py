"""Counts the tokens of corpora and sorts the vocabulary, for model.vocab_map.table.

    python scripts/sort_vocab.py --corpus data/corpus --output data/vocab.tsv \\
        --tokenizer bert --tokenizer-path vocab.txt

Give the tokenizer options that the model has: command tokens are part of the vocabulary.
"""

from __future__ import annotations

import argparse
import sys

from glmkd_nemo.data.config import TOKENIZER_TYPES, TokenizerConfig
from glmkd_nemo.data.sort_vocab import ANSWERS, sort_vocab
from glmkd_nemo.data.tokenizer import build_tokenizer


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--corpus", nargs="+", required=True, help="indexed corpora, or .jsonl and .txt files")
    add("--output", required=True, help="the table (.tsv)")
    add("--tokenizer", default="bert", choices=TOKENIZER_TYPES, help="kind of vocabulary")
    add("--tokenizer-path", required=True, help="vocabulary file, its folder, or a model name")
    add("--cased", action="store_true", help="WordPiece: keep upper case and accents")
    add("--fix-command-token", action="store_true", help="SentencePiece: corrected id layout")
    add("--task-mask", action="store_true", help="the vocabulary has [gMASK] and [sMASK]")
    add("--block-mask", action="store_true", help="the vocabulary has [dBLOCK]")
    add("--sentinels", type=int, default=0, help="numbered mask and start pairs (default: 0)")
    add("--keep", nargs="*", default=ANSWERS, help="words to keep (default: those of cloze tasks)")
    add("--overwrite", action="store_true", help="replace an existing table")
    add("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; exit code 0, or 2 (a user's error, as all scripts have it)."""
    args = parse(argv)
    config = TokenizerConfig(
        type=args.tokenizer,
        path=args.tokenizer_path,
        task_mask=args.task_mask,
        block_mask=args.block_mask,
        fix_command_token=args.fix_command_token,
        sentinels=args.sentinels,
        lower_case=not args.cased,
    )
    try:
        made = sort_vocab(
            args.corpus,
            args.output,
            build_tokenizer(config),
            keep=args.keep,
            overwrite=args.overwrite,
            progress=not args.quiet,
        )
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{made.path}: {made.tokens} tokens, {made.used} different; {made.kept} come first")
    if made.unknown:
        print(f"no single token, so not kept: {', '.join(made.unknown)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
