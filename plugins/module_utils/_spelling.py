# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Variables that look as if they were meant for this collection and are not known to it.

This module util is private to the collection. Ansible takes any variable name without a word, so a misspelt
one does nothing, and that is found out at night.
"""

from __future__ import annotations

import difflib
import re
import typing as t

# Similarity as difflib counts it: 2 * matching letters / all letters of both.
# "cosivoice" and "cosyvoice": 0.89; "traefic" and "traefik": 0.86; "service" and "voice": 0.5.
SAME_ROLE = 0.8
SAME_VARIABLE = 0.9
WORTH_NAMING = 0.6

# What Ansible itself, or a set_fact of facts, puts beside the user's variables.
NOT_A_USERS = re.compile(r"^(?:__|ansible_)")


class Misspelling(t.NamedTuple):
    """A variable's name, and the known one that was most likely meant (empty if none is similar)."""

    name: str
    nearest: str


def misspellings(
    names: t.Iterable[str], known: t.Iterable[str], roles: t.Iterable[str], everyday: t.Iterable[str] = ()
) -> list[Misspelling]:
    """Those of C(names) that are not C(known) and look as if they were meant to be, in alphabetical order.

    A name is one of ours if it begins with a role's name. Roles in C(everyday) are called by a word that
    other people's variables begin with too (V(verify_ssl)): there it takes a likeness to a known variable. A
    name that begins with something like a role's name (V(cosivoice_replicas)), or that runs its words
    together (V(cosyvoicereplicas)), is one of ours if the whole of it is like a known variable.
    """
    vocabulary, prefixes, words = sorted(set(known)), sorted(set(roles)), set(everyday)
    by_letters = {letters(name): name for name in vocabulary}
    found = []
    for name in sorted(set(names) - set(vocabulary)):
        if NOT_A_USERS.match(name):
            continue
        if letters(name) in by_letters:
            found.append(Misspelling(name, by_letters[letters(name)]))
            continue
        owners = [role for role in prefixes if name.startswith(f"{role}_")]
        if set(owners) - words:
            found.append(Misspelling(name, nearest_of(max(owners, key=len), name, vocabulary)))
        elif owners or any(similar_beginning(name, role) for role in prefixes):
            likely = nearest(name, vocabulary, SAME_VARIABLE)
            if likely:
                found.append(Misspelling(name, likely))
    return found


def letters(name: str) -> str:
    """The name without what people leave out or add: V(Cosyvoice_Replicas), V(cosyvoicereplicas)."""
    return name.replace("_", "").lower()


def similar_beginning(name: str, role: str) -> bool:
    """Whether as many words of the name as the role's name has are like it."""
    beginning = "_".join(name.lower().split("_")[: role.count("_") + 1])
    return difflib.SequenceMatcher(None, beginning, role).ratio() >= SAME_ROLE


def nearest_of(role: str, name: str, vocabulary: t.Sequence[str]) -> str:
    """The role's variable most similar to the name, judged by what follows the role's name in both."""
    prefix = f"{role}_"
    endings = [known[len(prefix) :] for known in vocabulary if known.startswith(prefix)]
    ending = nearest(name[len(prefix) :], endings, WORTH_NAMING)
    return prefix + ending if ending else ""


def nearest(name: str, vocabulary: t.Sequence[str], cutoff: float) -> str:
    """The most similar name of the vocabulary, empty if none comes up to the cutoff."""
    return next(iter(difflib.get_close_matches(name, vocabulary, n=1, cutoff=cutoff)), "")
