"""[serve]: the address, and the limits of the server."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass

from transformerlm.config.report import MAX_PORT
from transformerlm.errors import Key, Problem
from transformerlm.schema import FilePath, NonNegativeInt, PositiveInt, Section, Text


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeSection(Section):
    """[serve]: which model to serve, to whom, and how much at a time."""

    checkpoint: FilePath = "runs/python-stdlib"
    """Folder of a run, which stands for its newest valid checkpoint or, if it has ended, for its best one; or
    of one checkpoint."""
    host: Text = "127.0.0.1"
    """Address to listen at. Any other than this machine's own, such as "0.0.0.0", needs a key_file."""
    port: NonNegativeInt = 8322
    """Port to listen at. 0: one that is free."""
    key_file: FilePath | None = None
    """File with the key that every request must have, as `Authorization: Bearer KEY`. None: no key."""
    allowed_hosts: tuple[Text, ...] = ()
    """Names, beside localhost, by which clients may call the server. Its addresses need no entry."""
    max_batch_size: PositiveInt = 64
    """Largest number of texts that are written at a time."""
    max_waiting: PositiveInt = 256
    """Largest number of texts that wait for a place; a request beyond it is answered with 429."""
    max_new_tokens: PositiveInt = 4096
    """Largest max_tokens that a request may have."""
    max_body_bytes: PositiveInt = 1_000_000
    """Size of the largest request, in bytes."""

    def conflicts(self) -> Iterator[Problem]:
        """Yield a port that does not exist, and other machines without a key."""
        if self.port > MAX_PORT:
            yield Problem(Key("port"), f"expected at most {MAX_PORT}, got {self.port}")
        if not self.is_local and self.key_file is None:
            what = f'expected a file with a key for the host "{self.host}", which other machines can reach'
            yield Problem(Key("key_file"), f"{what}, got None")

    @property
    def is_local(self) -> bool:
        """True if no other machine can reach the server."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
