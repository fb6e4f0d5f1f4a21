"""Successors under audit: whether each goes on from what its predecessor ended in (BYZ-24)."""

from __future__ import annotations

from ..succession import Link, contradiction
from .findings import Finding, about, blame


def check_link(link: Link, predecessor: Link | None, *, whole_log: bool) -> Finding | None:
    """The finding about a coordination that claims a predecessor, if there is one.

    Args:
        link: the coordination.
        predecessor: the one it names, ``None`` if that was not read.
        whole_log: every record of the log was read.
    """
    claim, request = link.predecessor, link.request
    if claim is None or request is None:
        return None
    if predecessor is not None:
        wrong = contradiction(link, predecessor)
    elif whole_log:
        wrong = f"the log holds nothing of {claim.coordination!r}"
    else:
        message = f"it goes on from {claim.coordination!r}, which is not among what was read"
        return about("warning", "unchecked_predecessor", request, message)
    return blame("false_predecessor", request, wrong) if wrong else None
