"""A model's directory, whatever its kind: where it lies, its files, and which system it is of."""

from pathlib import Path

from mooer_tk.data.atomic import read_json

U2PP = "u2pp"


def model_folder(folder: Path | str) -> Path:
    """The model's own directory: `exp/NAME` is what people have at hand, the model lies below it."""
    folder = Path(folder)
    return folder / "model" if (folder / "model" / "info.json").is_file() else folder


def model_files(folder: Path | str) -> list[Path]:
    """The files that make up a model, for fingerprints of what is computed with it."""
    return sorted(path for path in model_folder(folder).rglob("*") if path.is_file())


def is_u2pp(folder: Path | str) -> bool:
    """Whether a directory holds a model of U2++."""
    return read_json(model_folder(folder) / "info.json").get("system") == U2PP
