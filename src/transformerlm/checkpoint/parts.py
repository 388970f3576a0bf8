"""Writing of checkpoints of a model that is divided among ranks: each rank writes parts, none has the whole.

    checkpoints/step_00000500/
        model-00001-of-00008.safetensors, ...      whole tensors, each of them in one of the parts
        model.safetensors.index.json               the part that has each tensor, as in Hugging Face's folders
        training-00001-of-00008.safetensors, ...   of the optimizer the same; all else is in the first part
        manifest.json                              as of other checkpoints

The folder appears in one step, after all ranks have written their parts. Tensors are whole in the files, so
that any number of ranks, or other programs, can read them.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from transformerlm.checkpoint.manifest import INDEX, MANIFEST, MODEL, TRAINING, make_manifest, part_names
from transformerlm.checkpoint.store import checkpoint_name, committed_checkpoint, write_member
from transformerlm.distributed.exchange import DividedTensor, exchanged, received_by
from transformerlm.distributed.ranks import Ranks
from transformerlm.storage.safetensors import DeferredTensor, tensor_chunks
from transformerlm.storage.tree import flatten

if TYPE_CHECKING:
    from transformerlm.distributed.sharding import Parallelism


def write_checkpoint_in_parts(
    directory: Path,
    step: int,
    model_state: Mapping[str, Any],
    training_state: Mapping[str, Any],
    about: Mapping[str, Any],
    parallelism: Parallelism,
) -> None:
    """`write_checkpoint` by all ranks, of states whose tensors are divided among them.

    A rank has at most one whole tensor at a time. An error of one rank, whose file cannot be written, is one
    of all, and leaves the former checkpoints as they are; so does the end of a process at any time.

    Raises:
        AgreedError: an error of one rank, such as a full disk.
    """
    ranks, target = parallelism.ranks, directory / checkpoint_name(step)
    with contextlib.ExitStack() as committed:
        states = {MODEL: model_state, TRAINING: training_state}
        parts = {name: _Part(parallelism.divided(state), ranks) for name, state in states.items()}
        num_bytes = sum(part.num_bytes for part in parts.values())
        with ranks.collective_errors():
            folder = committed.enter_context(committed_checkpoint(target, num_bytes)) if ranks.is_main else ""
        folder = Path(ranks.broadcast_bytes(str(folder).encode()).decode())
        members: dict[str, Any] = {}
        for name, part in parts.items():
            with ranks.collective_errors():
                own_name = part_names(name, ranks.size)[ranks.rank]
                written = {own_name: part.write(folder / own_name)}
            for others in ranks.all_gather_bytes(json.dumps(written).encode()):
                members |= json.loads(others)
        with ranks.collective_errors():
            if ranks.is_main:
                if ranks.size > 1:
                    members[INDEX] = write_member(folder / INDEX, iter([parts[MODEL].index()]))
                (folder / MANIFEST).write_bytes(make_manifest(target, step, about, members))
                committed.close()


class _Part:
    """This rank's part of a tree.

    Args:
        tree: with `DividedTensor`s; the other tensors and values are written by rank 0.
    """

    def __init__(self, tree: Any, ranks: Ranks) -> None:
        self.ranks = ranks
        self.tensors, self.structure = flatten(tree)
        self.divided = {name: t for name, t in self.tensors.items() if isinstance(t, DividedTensor)}

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensors of all parts."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def write(self, path: Path) -> dict[str, Any]:
        """Write the file; return its size and SHA-256. Collective."""
        rounds = exchanged(self.divided, self.ranks)
        try:
            structure = self.structure if self.ranks.is_main else {}
            metadata = {"format": "pt", **structure}  # the format, since other readers ask for it
            _, chunks = tensor_chunks(self._content(rounds), metadata)
            return write_member(path, chunks, flush=True)
        finally:
            for _ in rounds:  # the others wait for this rank's rows, whatever has happened to its file
                pass

    def _content(self, rounds: Iterator[Tensor | None]) -> dict[str, Tensor | DeferredTensor]:
        """Return this rank's tensors by name; they are received when they are written, in this order."""
        own = {name: self.divided[name] for name in self._received_by(self.ranks.rank)}
        deferred = {name: DeferredTensor(t.shape, t.dtype, partial(next, rounds)) for name, t in own.items()}
        return (self._undivided() if self.ranks.is_main else {}) | deferred

    def _undivided(self) -> dict[str, Tensor | DeferredTensor]:
        return {name: tensor for name, tensor in self.tensors.items() if name not in self.divided}

    def _received_by(self, rank: int) -> list[str]:
        return received_by(rank, self.ranks.size, self.divided)

    def index(self) -> bytes:
        """Return what is in which part, in the form of Hugging Face."""
        names = [self._received_by(rank) for rank in range(self.ranks.size)]
        names[0] += self._undivided()
        files = part_names(MODEL, self.ranks.size)
        parts = {name: file for file, own in zip(files, names, strict=True) for name in sorted(own)}
        index = {"metadata": {"total_size": self.num_bytes}, "weight_map": parts}
        return (json.dumps(index, indent=2) + "\n").encode()
