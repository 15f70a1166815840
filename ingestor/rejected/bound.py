"""How many bytes the quarantine may hold and holds: the books, kept by the sink and the chore `quarantine`."""

from __future__ import annotations

from dataclasses import dataclass

# Deleted rows take room until a VACUUM. Autovacuum looks once a minute; a flood fills a disk in that time.
VACUUM_SHARE = 8


@dataclass(slots=True)
class ByteBound:
    """The books of the quarantine's size."""

    bytes_max: int
    held: int = 0
    deleted_since_vacuum: int = 0

    @property
    def excess(self) -> int:
        """Bytes above the bound; below it, less than 0."""
        return self.held - self.bytes_max

    @property
    def overflowing(self) -> bool:
        """Deleting the oldest does not help: there is twice as much as there may be."""
        return self.held > 2 * self.bytes_max

    def changed(self, stored: int, deleted: int) -> None:
        """A transaction that stored and deleted so many bytes has been committed."""
        self.held += stored - deleted
        self.deleted_since_vacuum += deleted

    @property
    def wants_vacuum(self) -> bool:
        """So much was deleted that its room should be used again soon."""
        return self.deleted_since_vacuum > self.bytes_max // VACUUM_SHARE
