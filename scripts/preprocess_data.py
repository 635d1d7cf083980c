"""Tokenises text files into one indexed corpus.

    python scripts/preprocess_data.py --input a.jsonl b.txt.gz --output data/corpus \\
        --tokenizer bert --tokenizer-path vocab.txt --workers 8
"""

from __future__ import annotations

import argparse
import sys

from glmkd_nemo.data.config import TOKENIZER_TYPES, TokenizerConfig
from glmkd_nemo.data.preprocess import preprocess


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--input", nargs="+", required=True, help=".jsonl or .txt files, each plain or .gz")
    add("--output", required=True, help="path of the corpus without suffix")
    add("--tokenizer", default="bert", choices=TOKENIZER_TYPES, help="kind of vocabulary")
    add("--tokenizer-path", required=True, help="vocabulary file, its folder, or a model name")
    add("--cased", action="store_true", help="WordPiece: keep upper case and accents")
    add("--fix-command-token", action="store_true", help="SentencePiece: corrected id layout")
    add("--text-key", default="text", help="key of the text in jsonl rows (default: text)")
    add(
        "--document-by",
        default="auto",
        choices=("auto", "line", "blank_line"),
        help="where a document of a .txt file ends (default: at a blank line)",
    )
    add("--workers", type=int, default=1, help="tokenising processes (default: 1)")
    add("--max-bad-rows", type=int, default=1000, help="more malformed rows stop the run")
    add("--overwrite", action="store_true", help="replace an existing corpus")
    add("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    args = parse(argv)
    tokenizer = TokenizerConfig(
        type=args.tokenizer,
        path=args.tokenizer_path,
        fix_command_token=args.fix_command_token,
        lower_case=not args.cased,
    )
    try:
        summary = preprocess(
            args.input,
            args.output,
            tokenizer,
            text_key=args.text_key,
            document_by=args.document_by,
            workers=args.workers,
            max_bad_rows=args.max_bad_rows,
            overwrite=args.overwrite,
            progress=not args.quiet,
        )
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(
        f"{summary.prefix}: {summary.documents} documents, {summary.tokens} tokens, "
        f"{summary.bad_rows} malformed rows"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
