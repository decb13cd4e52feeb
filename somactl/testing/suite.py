"""`ReadContract` and `StoreContract`: the contract suite, put together from its parts."""

from __future__ import annotations

from somactl.testing.arguments import ArgumentChapter, ArgumentReadChapter
from somactl.testing.commits import CommitChapter
from somactl.testing.concurrency import ConcurrencyChapter
from somactl.testing.corruption import CorruptionChapter
from somactl.testing.dark import DarkChapter
from somactl.testing.events import EventChapter
from somactl.testing.grace import GraceChapter
from somactl.testing.identity import IdentityChapter
from somactl.testing.namespaces import NamespaceChapter
from somactl.testing.notes import NoteChapter, NoteReadChapter
from somactl.testing.reads import ReadChapter
from somactl.testing.retention import RetentionChapter
from somactl.testing.state_machine import StateMachineChapter


class ReadContract(ArgumentReadChapter, ReadChapter, NoteReadChapter, CorruptionChapter):
    """What holds for reads alone. A wrapper that refuses writes overrides `reader` and runs this."""


class StoreContract(
    NamespaceChapter,
    ArgumentChapter,
    CommitChapter,
    IdentityChapter,
    RetentionChapter,
    GraceChapter,
    EventChapter,
    DarkChapter,
    NoteChapter,
    ConcurrencyChapter,
    StateMachineChapter,
    ReadContract,
):
    """Every sentence of `somactl.store.contract` as tests.

    It needs one fixture, `make_backend`: a function that returns a `Backend` on a new and empty database
    each time it is called.
    """
