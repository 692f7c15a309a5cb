"""What the model writes: characters, or pieces of sentencepiece; a blank before them and one token for both ends.

utils/make_units.py makes either from the training text.
"""

from pathlib import Path

from mooer_tk.errors import UserError

BLANK, UNKNOWN = 0, 1
SPACE = "▁"


class Units:
    """Texts <-> ids: 0 is CTC's blank, 1 what is unknown, the last one starts and ends a sequence (WeNet's order).

    Args:
        path: `units.txt`, a character a line (▁ for the blank between words), or a sentencepiece model (`*.model`).

    Attributes:
        size: how many ids there are.
        ends: id of both ends, `size - 1`.

    Raises:
        UserError: no such file, or not of that form.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"there are no units {path or '(model.units is empty)'}: make them, utils/make_units.py.")
        self.pieces = None
        if self.path.suffix == ".model":
            from sentencepiece import SentencePieceProcessor

            try:
                self.pieces = SentencePieceProcessor(model_file=str(self.path))
            except (RuntimeError, OSError) as error:
                raise UserError(f"{path} is no sentencepiece model ({error}): utils/make_units.py.") from error
            ids = range(self.pieces.get_piece_size())
            written = [i for i in ids if not self.pieces.is_control(i) and not self.pieces.is_unknown(i)]
            names = [self.pieces.id_to_piece(i) for i in written]
        else:
            names = self.path.read_text(encoding="utf-8").split()
        self.names = ["<blank>", "<unk>", *names, "<sos/eos>"]
        self.ids = {name: number for number, name in enumerate(self.names)}
        self.size, self.ends = len(self.names), len(self.names) - 1
        if len(self.ids) != self.size or self.size < 4:
            raise UserError(f"{path}: {self.size - 3} units, some of them twice or none: utils/make_units.py makes it.")

    def encode(self, text: str, **_: object) -> list[int]:
        """Ids of a text, without the ends; what no unit covers is UNKNOWN."""
        words = text.split()
        pieces = self.pieces.encode(" ".join(words), out_type=str) if self.pieces else SPACE.join(words)
        return [self.ids.get(piece, UNKNOWN) for piece in pieces]

    def decode(self, ids: list[int]) -> str:
        """The text of ids."""
        return " ".join("".join(self.names[i] for i in ids if UNKNOWN < i < self.ends).replace(SPACE, " ").split())
