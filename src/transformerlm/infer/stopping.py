"""Stop strings in a text that arrives piece by piece: where it ends, and what of it can be shown already.

It knows nothing of tokens: a piece is any number of characters, and where a text is cut into pieces makes
no difference.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Ends one text before the first of some strings to be complete in it.

    Of strings complete at the same character the longest counts. With "cd" and "bcde", the text "abcde"
    ends as "ab": "cd" was there first.

        finder = StopStrings(["END"])
        finder.feed("the E")  ->  "the ", for "E" may become "END"
        finder.feed("ND, or")  ->  "", and finder.found is "END"

    Args:
        stops: strings of at least one character; without any a text never ends.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(sorted(stops, key=len, reverse=True))
        self._held = ""
        self.found: str | None = None
        """The string that has ended the text."""

    def feed(self, piece: str) -> str:
        """What is certain to be text now; once a string is found, nothing more is."""
        if not self._stops:
            return piece
        for character in "" if self.found else piece:
            self._held += character
            if self._held.endswith(self._stops):
                self.found = next(stop for stop in self._stops if self._held.endswith(stop))
                return self._release(len(self.found), forget=True)
        return self._release(self._num_undecided())

    def flush(self) -> str:
        """What was held back, where the text ends for another reason."""
        return self._release(0)

    def _num_undecided(self) -> int:
        """Length of the longest end of the text that begins one of the strings."""
        longest = min(len(self._held), max(map(len, self._stops)) - 1)
        undecided = (
            length
            for length in range(longest, 0, -1)
            if any(stop.startswith(self._held[-length:]) for stop in self._stops)
        )
        return next(undecided, 0)

    def _release(self, num_held: int, *, forget: bool = False) -> str:
        kept = len(self._held) - num_held
        text, self._held = self._held[:kept], "" if forget else self._held[kept:]
        return text
