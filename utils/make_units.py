#!/usr/bin/env python3
"""Make the table of units that a recogniser writes: the characters of its training text, or sentencepiece's pieces.

  utils/make_units.py data/units.txt data/train/text ...                     # characters, ▁ between words
  utils/make_units.py data/units.model data/train/text ... --pieces 5000     # byte pairs

Texts are brought to the form of training targets first (normaliser target-en).
"""

from __future__ import annotations

import argparse
import io
import sys
from collections import Counter
from pathlib import Path

from mooer_tk.data.atomic import replacing, write_text
from mooer_tk.data.kaldi_dir import read_table
from mooer_tk.errors import UserError, exit_status
from mooer_tk.score.normalise import get_normaliser
from mooer_tk.u2pp.units import SPACE


def make_characters(texts: list[str], out: Path, least: int) -> None:
    """Write every character that occurs `least` times or more, the most frequent first."""
    counts = Counter(character for text in texts for character in SPACE.join(text.split()))
    write_text(out, "".join(f"{unit}\n" for unit, count in counts.most_common() if count >= least))


def make_pieces(texts: list[str], out: Path, pieces: int) -> None:
    """Write a sentencepiece model of byte pairs.

    Raises:
        UserError: more pieces than the texts give.
    """
    import sentencepiece

    # Not through a file: its name would stand in the model, and the same texts would give another one each time.
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=pieces,
            character_coverage=1.0,
            bos_id=-1,
            eos_id=-1,
            normalization_rule_name="identity",
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(f"sentencepiece makes no {pieces} pieces of these texts: {error}. Try fewer.") from error
    with replacing(out) as temporary:
        temporary.write_bytes(model.getvalue())


def main() -> int:
    """Read the command line, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="units.txt, or units.model with --pieces")
    parser.add_argument("texts", type=Path, nargs="+", help="Kaldi text tables")
    parser.add_argument("--pieces", type=int, default=0, help="how many pieces; 0 makes characters")
    parser.add_argument("--least", type=int, default=1, help="characters that are rarer are left out (%(default)s)")
    args = parser.parse_args()
    return exit_status("utils/make_units.py", lambda: make_units(args))


def make_units(args: argparse.Namespace) -> int:
    """Read the texts, write what was asked for."""
    if (args.out.suffix == ".model") != bool(args.pieces):
        raise UserError(f"{args.out}: characters are a .txt, pieces a .model; give --pieces for the latter.")
    normalise = get_normaliser("target-en")
    texts = [normalise(text) for path in args.texts for text in read_table(path).values()]
    if not any(texts):
        raise UserError(f"there is no text in {', '.join(map(str, args.texts))}.")
    if args.pieces:
        make_pieces(texts, args.out, args.pieces)
    else:
        make_characters(texts, args.out, args.least)
    return 0


if __name__ == "__main__":
    sys.exit(main())
