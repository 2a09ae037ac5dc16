"""The end of a chain that somebody noted in another place, and whether it still stands.

What belongs here: reading and comparing it. What does not: walking chains (``rul_store.chain``).
"""

from typing import NamedTuple

import typer

from rul_core.errors import StoreError


class Noted(NamedTuple):
    """An entry as it was."""

    position: int
    hash: str

    @classmethod
    def parse(cls, text: str) -> "Noted | None":
        """Of ``POSITION:HASH``; none of an empty text.

        Raises:
            typer.BadParameter: It is neither.
        """
        if not text:
            return None
        position, _, hash_ = text.partition(":")
        if not (position.isdecimal() and hash_):
            raise typer.BadParameter(f"--noted is {text!r}; give a position, a colon and a hash")
        return cls(int(position), hash_)

    def refuse_other(self, found: str, chain: str) -> None:
        """Compare with the hash that the entry has now; empty where there is none.

        Raises:
            StoreError: It is another.
        """
        if found != self.hash:
            raise StoreError(
                f"entry {self.position} of {chain} is not the one that was noted (its hash is "
                f"{found or 'none: it is missing'}); {chain} was written anew or cut off"
            )
