"""Texts under way in one batch, and the model's logits for the token that follows each of them.

`Texts` computes every step from the beginning: short, slow, and the definition. `CachedTexts` gives
the same logits and computes each token once. Neither knows how a token is chosen.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from transformerlm.infer.decoder import Decoder, make_decoder
from transformerlm.nn import KVCache, TransformerLM


def window_start(num_tokens: int, context_length: int) -> int:
    """Index of the first token that the model sees of a text of `num_tokens`.

    0 while the whole text fits. A text that outgrows the context is cut to its newest
    context_length // 2 tokens (1 at least), grows to context_length again, is cut again. This is a
    function of the length alone: a text goes on in the same way whoever wrote its beginning.

        context_length 4, lengths 1 to 9: starts at 0 0 0 0 3 3 3 6 6
    """
    tokens_cut = context_length + 1 - max(1, context_length // 2)
    num_cuts = -((context_length - num_tokens) // tokens_cut)
    return max(0, num_cuts) * tokens_cut


class Texts:
    """Lists of ids that grow by one each per step; the logits are computed anew each time."""

    def __init__(self, model: TransformerLM, prompts: Sequence[Sequence[int]]) -> None:
        self.model = model
        self.ids = [[int(token_id) for token_id in prompt] for prompt in prompts]
        self.device = model.embedding.weight.device

    def next_logits(self) -> Tensor:
        """[texts, vocabulary]"""
        padded, lengths = self._padded([self._window(ids) for ids in self.ids])
        # The head is a large part of a small model: only for the positions whose logits are wanted.
        return self.model.logits(self._last(self.model.hidden_states(padded), lengths))

    def append(self, new_ids: Tensor, on_host: Sequence[int]) -> None:
        """Continue each text with its new id: LongTensor [texts], and the same ids as Python numbers."""
        for ids, new_id in zip(self.ids, on_host, strict=True):
            ids.append(new_id)

    def select(self, texts: Sequence[int]) -> None:
        """Keep these texts, in this order, and drop the others."""
        self.ids = [self.ids[text] for text in texts]

    def _window(self, ids: list[int]) -> list[int]:
        """What the model sees of a text."""
        return ids[window_start(len(ids), self.model.config.context_length) :]

    def _padded(self, windows: Sequence[Sequence[int]]) -> tuple[Tensor, list[int]]:
        """Windows, padded on the right to [texts, longest], and their lengths.

        What stands in the padding is of no consequence: no token attends to a later one.
        """
        lengths = [len(window) for window in windows]
        longest = max(lengths)
        padded = [[*window, *[0] * (longest - len(window))] for window in windows]
        return torch.tensor(padded, device=self.device), lengths

    def _last(self, hidden: Tensor, lengths: Sequence[int]) -> Tensor:
        last = torch.tensor(lengths, device=self.device) - 1
        return hidden[torch.arange(len(lengths), device=self.device), last]


class CachedTexts(Texts):
    """The same texts and logits, with the keys and values of all tokens but the newest in a cache.

    Args:
        max_new_tokens: what the cache, allocated once, has to have room for besides the prompts.
    """

    def __init__(self, model: TransformerLM, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
        super().__init__(model, prompts)
        longest = max(len(ids) for ids in self.ids) + max_new_tokens
        self.cache = self._empty_cache(len(self.ids), min(model.config.context_length, longest))
        self.decoder: Decoder | None = None
        self.new_ids: Tensor | None = None

    def next_logits(self) -> Tensor:
        """[texts, vocabulary]; the next call may overwrite them."""
        if self.new_ids is None:
            windows = [self._window(ids) for ids in self.ids]
            return self.model.logits(self._fill(range(len(self.ids)), windows))
        self._move_windows()
        self.decoder = self.decoder or make_decoder(self.model, self.cache)
        return self.decoder(self.new_ids)

    def append(self, new_ids: Tensor, on_host: Sequence[int]) -> None:
        """Continue each text with its new id."""
        super().append(new_ids, on_host)
        self.new_ids = new_ids

    def select(self, texts: Sequence[int]) -> None:
        """Keep these texts, in this order, and drop the others."""
        super().select(texts)
        self.cache.select(texts)

    def _move_windows(self) -> None:
        """Where a text's newest token makes its window jump, fill its row of the cache anew, up to there."""
        context_length = self.model.config.context_length
        starts = [window_start(len(ids), context_length) for ids in self.ids]
        before = [window_start(len(ids) - 1, context_length) for ids in self.ids]
        moved = [text for text in range(len(self.ids)) if starts[text] > before[text]]
        # All windows that jump are equally long then: half the context, less the newest token.
        windows = [self.ids[text][starts[text] : -1] for text in moved]
        if moved and not windows[0]:
            lengths = self.cache.lengths.tolist()
            self.cache.set_lengths([0 if text in moved else n for text, n in enumerate(lengths)])
        elif moved:
            self._fill(moved, windows)

    def _fill(self, texts: Sequence[int], windows: Sequence[Sequence[int]]) -> Tensor:
        """Put windows into the texts' rows of the cache; their last hidden states [windows, d_model]."""
        ends: list[Tensor] = [torch.empty(0)] * len(windows)
        for group in groups_of_similar_length(windows):
            found = self._fill_group([texts[place] for place in group], [windows[place] for place in group])
            for place, row in zip(group, found, strict=True):
                ends[place] = row
        return torch.stack(ends)

    def _fill_group(self, texts: Sequence[int], windows: Sequence[Sequence[int]]) -> Tensor:
        # Equal windows, as where a prompt is to be continued several times, are computed once.
        row_of = {window: row for row, window in enumerate(dict.fromkeys(map(tuple, windows)))}
        rows = [row_of[tuple(window)] for window in windows]
        padded, lengths = self._padded(list(row_of))
        fresh = self._empty_cache(*padded.shape)
        hidden = self.model.hidden_states(padded, fresh)
        fresh.set_lengths(lengths)
        self.cache.put(texts, fresh, rows)
        return self._last(hidden, lengths)[rows]

    def _empty_cache(self, rows: int, capacity: int) -> KVCache:
        return KVCache.for_model(self.model.config, rows, self.device, self._cache_dtype(), capacity)

    def _cache_dtype(self) -> torch.dtype:
        """The precision in which keys and values come out of the model."""
        if torch.is_autocast_enabled(self.device.type):
            return torch.get_autocast_dtype(self.device.type)
        return self.model.embedding.weight.dtype


MAX_TOKENS = 8192
"""Of a group: what is computed together has to be in memory together."""
MAX_PADDING, FREE_PADDING = 0.2, 256
"""The part of a group's tokens that may be padding; as many as FREE_PADDING may be, as a pass over them
costs little more than a pass over none."""


def groups_of_similar_length(windows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Indices of windows that are worth computing side by side, padded to the longest of them.

    Equal windows are in one group, whatever their number; they count once.
    """
    longest_first = sorted(range(len(windows)), key=lambda at: (-len(windows[at]), tuple(windows[at])))
    groups: list[list[int]] = []
    rows = tokens = 0
    for at in longest_first:
        window = windows[at]
        if groups and tuple(windows[groups[-1][-1]]) == tuple(window):
            groups[-1].append(at)
            continue
        padded = (rows + 1) * len(windows[groups[-1][0]]) if groups else 0
        padding = padded - tokens - len(window)
        if not groups or padded > MAX_TOKENS or padding > max(FREE_PADDING, MAX_PADDING * padded):
            groups.append([])
            rows = tokens = 0
        groups[-1].append(at)
        rows, tokens = rows + 1, tokens + len(window)
    return groups
