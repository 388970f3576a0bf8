"""From a text, a machine and a time to a config: what is measured, the scaling law, and the choice."""

from transformerlm.recipe.choice import Budget, Candidate, Choice, choose, make_choice
from transformerlm.recipe.speed import TrainingSpeed, measure_speed, step_seconds
from transformerlm.recipe.table import choice_rows, warnings
from transformerlm.recipe.text import TextFacts, survey

__all__ = [
    "Budget",
    "Candidate",
    "Choice",
    "TextFacts",
    "TrainingSpeed",
    "choice_rows",
    "choose",
    "make_choice",
    "measure_speed",
    "step_seconds",
    "survey",
    "warnings",
]
