"""What `doctor` tells of a table."""

from __future__ import annotations

from dataclasses import dataclass

# Seconds from which on an open transaction of somebody else makes every claim slow.
LONG_TRANSACTION = 60.0


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that would slow or endanger a run: `what` in a word or two, the facts, and the remedy."""

    what: str
    detail: str
    remedy: str
