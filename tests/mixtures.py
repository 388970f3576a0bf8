"""Three small corpora of different kinds and sizes, and [data] for a mixture of them."""

import json
from pathlib import Path

from transformerlm.config import DataConfig, MixtureConfig

NAMES = ("books", "notes", "tale")


def write_corpora(folder: Path) -> None:
    """Write a folder of files, JSON lines, and one file that is one document."""
    (folder / "books").mkdir(parents=True)
    for number in range(40):
        text = f"Chapter {number}. The fox met a crow by the river, and said good day to it.\n"
        (folder / "books" / f"{number}.txt").write_text(text * 9)
    notes = [{"text": f"note {n}: buy {n % 7} apples and {n % 5} pears, call {n}"} for n in range(60)]
    (folder / "notes.jsonl").write_text("".join(json.dumps(note) + "\n" for note in notes))
    (folder / "tale.txt").write_text(
        "Es war einmal eine Königin, die hatte zwölf Töchter, eine schöner als die andere.\n" * 30
    )


def mixture(folder: Path, **shares) -> tuple[MixtureConfig, ...]:
    """`mixture(folder, books={"weight": 2}, notes={"passes": 3})`; the names are those of NAMES."""
    paths = {"books": "books", "notes": "notes.jsonl", "tale": "tale.txt"}
    return tuple(MixtureConfig(path=str(folder / paths[name]), **own) for name, own in shares.items())


def data_config(folder: Path, **shares) -> DataConfig:
    """[data] for a mixture, whose token files are in `folder / "data"`."""
    shares = shares or {name: {"weight": 1} for name in NAMES}
    return DataConfig(mixture=mixture(folder, **shares), token_dir=str(folder / "data"))
