"""A model's directory, whatever its kind: where it lies, its files, and which system it is of."""

from pathlib import Path
from typing import Any

from mooer_tk.data.atomic import read_json
from mooer_tk.errors import UserError

U2PP = "u2pp"


def model_folder(folder: Path | str) -> Path:
    """The model's own directory: `exp/NAME` is what people have at hand, the model lies below it."""
    folder = Path(folder)
    return folder / "model" if (folder / "model" / "info.json").is_file() else folder


def model_files(folder: Path | str) -> list[Path]:
    """The files that make up a model, for fingerprints of what is computed with it."""
    return sorted(path for path in model_folder(folder).rglob("*") if path.is_file())


def read_info(folder: Path | str) -> dict[str, Any]:
    """What info.json says of a model; a directory without it holds none, which is a UserError."""
    info = read_json(model_folder(folder) / "info.json")
    if not info:
        hint = "give exp/NAME after stage 6 has run, or a release of MooER after tools/mooer_release.py read"
        raise UserError(f"{folder} holds no exported model (info.json): {hint}.")
    return info


def is_u2pp(folder: Path | str) -> bool:
    """Whether a directory holds a model of U2++."""
    return read_json(model_folder(folder) / "info.json").get("system") == U2PP
