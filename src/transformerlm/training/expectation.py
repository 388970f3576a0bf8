"""The bits per byte that were expected of a run, kept in its folder: `expectation.json`."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from transformerlm.storage.files import committed_file

FILE_NAME = "expectation.json"


@dataclass(frozen=True)
class Expectation:
    """Bits per byte of the validation text, with an interval."""

    bits_per_byte: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.bits_per_byte:.3f} bits per byte ({self.low:.2f} to {self.high:.2f})"

    def __contains__(self, bits_per_byte: float) -> bool:
        """Return True if a result is within the interval, to the two digits that are shown of it."""
        return round(self.low, 2) <= round(bits_per_byte, 2) <= round(self.high, 2)

    def write(self, run_dir: Path) -> None:
        """Write the file into a run's folder.

        Raises:
            OutputError: it cannot be written.
        """
        with committed_file(run_dir / FILE_NAME) as file:
            file.write(json.dumps(asdict(self)).encode())

    @classmethod
    def read(cls, run_dir: Path) -> Expectation | None:
        """Read the file of a run's folder; None if there is none, or if it is damaged."""
        try:
            found = cls(**json.loads((run_dir / FILE_NAME).read_bytes()))
        except (OSError, ValueError, TypeError):
            return None
        numbers = asdict(found).values()
        is_valid = all(isinstance(number, float) and math.isfinite(number) for number in numbers)
        return found if is_valid else None
