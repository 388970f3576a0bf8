"""Counts of the server, and their form for Prometheus."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "transformerlm_"


@dataclass
class Statistics:
    """What the server has done since it was started. Each number is changed by one thread alone."""

    answers: Counter[int] = field(default_factory=Counter)
    """Requests for completions by the status of their answer."""
    clients_gone: int = 0
    """Requests whose client went away before the end."""
    prompt_tokens: int = 0
    shared_tokens: int = 0
    """Tokens of prompts that were not computed, since another text had begun with them."""
    written_tokens: int = 0
    scored_tokens: int = 0
    steps: int = 0
    """Steps of the batch."""
    errors: int = 0
    """Steps that failed."""
    texts_writing: int = 0
    texts_open: int = 0
    """Texts that have been asked for and have not ended."""
    seconds_to_first_token: float = 0.0
    first_tokens: int = 0

    def lines(self) -> str:
        """Return all numbers in the text format of Prometheus."""
        counters = {
            "clients_gone_total": self.clients_gone,
            "prompt_tokens_total": self.prompt_tokens,
            "shared_prompt_tokens_total": self.shared_tokens,
            "written_tokens_total": self.written_tokens,
            "scored_tokens_total": self.scored_tokens,
            "steps_total": self.steps,
            "errors_total": self.errors,
        }
        gauges = {
            "texts_writing": self.texts_writing,
            "texts_waiting": max(0, self.texts_open - self.texts_writing),
        }
        lines = [f"# TYPE {PREFIX}requests_total counter"]
        lines += [f'{PREFIX}requests_total{{status="{s}"}} {n}' for s, n in sorted(self.answers.items())]
        for kind, values in (("counter", counters), ("gauge", gauges)):
            for name, value in values.items():
                lines += [f"# TYPE {PREFIX}{name} {kind}", f"{PREFIX}{name} {value}"]
        name = f"{PREFIX}first_token_seconds"
        lines += [f"# TYPE {name} summary", f"{name}_sum {self.seconds_to_first_token:.6f}"]
        return "\n".join([*lines, f"{name}_count {self.first_tokens}", ""])
