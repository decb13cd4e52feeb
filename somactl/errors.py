"""Every error somactl raises, in one tree.

::

    SomactlError                     1    a bug, unless a subclass says otherwise
    ├── UsageError                   2    the command line is wrong
    ├── CorruptValue                 3    a stored value is not what was committed
    ├── ConfigurationError          10
    │   ├── SecretExposed                 a password stands in a URL on the command line
    │   ├── AccessDenied                  wrong password, unknown database, a right that is missing
    │   ├── TlsFailure                    the server's certificate, or none where one is demanded
    │   └── UnsafeServer                  its settings would lose or evict what a store must keep
    ├── InputRejected               11    nothing written
    │   ├── InvalidName                   key, namespace, commit id, kind
    │   ├── TargetRefused                 a file that cannot be written; refused before any work
    │   ├── InvalidFile                   a file that is no matrix we read
    │   ├── InvalidJson                   JSON that holds no matrix, or holds it badly
    │   ├── EnvelopeError                 one subclass for each defect of the format:
    │   │   └── BadMagic, UnsupportedVersion, Truncated, TrailingBytes, BadHeader, BadBase64, BadPayload,
    │   │       DigestMismatch, NonFinite, WrongAddress (written for another namespace or key)
    │   ├── InputsRejected                several of one commit, each named
    │   ├── LimitExceeded                 larger than an envelope or a commit may be
    │   ├── InvariantViolated             carries the verdict
    │   ├── VerdictMissing                a rho reached a store without its proof
    │   ├── EmptyCommit
    │   ├── CommitIdReused                the same id with another request
    │   ├── CommitExpired                 the id is older than the records kept
    │   ├── CommitAborted                 the id was claimed by `status --resolve`
    │   ├── OrderRefused                  expired, replaced by a newer one, or for another namespace
    │   └── EvidenceRejected              damaged, or parts that do not make one audit
    ├── VersionConflict, PlanStale  12    nothing written; or nothing more of a plan
    ├── StoreUnavailable            13    nothing written; retryable
    │   ├── StoreBusy                     another writer, or a server that runs a long script
    │   ├── StoreTimeout                  no answer in time
    │   ├── StoreLoading, ClusterDown, SlotMoving, NotPrimary, TooFewReplicas
    │   ├── WritesStopped, StoreFull      not retryable: the server cannot persist
    │   ├── WorkerLost                    a worker process or a scheduler that an audit relied on
    │   ├── StoreDamaged                  not retryable: needs an operator
    │   └── SchemaMismatch                not retryable: newer, older or foreign schema
    ├── OutcomeUnknown              14
    ├── NotFound                    15
    │   ├── KeyNotFound
    │   ├── NamespaceNotFound
    │   ├── CommitNotFound
    │   └── VersionCompacted              it existed; retention removed it
    ├── LockHeld                    16
    ├── ResultNotWritten            17    the work stands as stderr tells
    ├── ReadOnlyStore                1    a dry run tried to write: a bug
    └── Interrupted                130    Terminated 143

An error is a fact: it knows its exit code, whether the same call may be tried again unchanged, the
runbook page an operator should open, what to do (`hint`, a sentence) and which command to run next
(`next`, as data: the command line and Python each say it in their own words). `facts` carries whatever
a program would want to read; it holds only JSON values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from somactl.suggestion import Suggestion, again, run

if TYPE_CHECKING:
    from somactl.core.verdict import Verdict


class SomactlError(Exception):
    """Base of the tree.

    `message` is one sentence that names the key or file and the defect; `hint` is one sentence that
    says what to do, and names no command; `next` holds the commands to run, the most useful first (a
    class may have some of its own); `facts` holds JSON values for machines. `command`, `store` (its
    address, without secrets) and `namespace` say where it came up, as far as that is known: the frame
    around a command or an opened store notes it.
    """

    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False
    runbook: ClassVar[str | None] = None
    usual_next: ClassVar[tuple[Suggestion, ...]] = ()

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        next: Suggestion | Sequence[Suggestion] = (),
        **facts: Any,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.next = ((next,) if isinstance(next, Suggestion) else tuple(next)) or self.usual_next
        self.facts: dict[str, Any] = facts
        self.command = self.store = self.namespace = ""

    def __reduce__(self) -> tuple[Any, ...]:
        """How it travels from a worker process: as it is, without calling a constructor that wants more."""
        return _restored, (type(self), self.args), self.__dict__

    def during(self, *, command: str = "", store: str = "", namespace: str = "") -> None:
        """Note where it came up; what is known already stays, since the inner frame knows best."""
        self.command = self.command or command
        self.store = self.store or store
        self.namespace = self.namespace or namespace

    def about(self, subject: str) -> SomactlError:
        """The same error with `subject` (a key, a file) named in front, once."""
        if subject not in self.message:
            self.message = f"{subject}: {self.message}"
            self.args = (self.message,)
        self.facts.setdefault("subject", subject)
        return self


def _restored(kind: type[SomactlError], args: tuple[Any, ...]) -> SomactlError:
    return kind.__new__(kind, *args)


class UsageError(SomactlError):
    exit_code = 2


class CorruptValue(SomactlError):
    """A stored value fails its digest, its framing or its address. It is never served."""

    exit_code = 3
    runbook = "corrupt-value"


class ConfigurationError(SomactlError):
    exit_code = 10
    runbook = "configuration"
    usual_next: ClassVar[tuple[Suggestion, ...]] = (run("config"),)


class SecretExposed(ConfigurationError):
    """A password in a URL on the command line, where every process of the machine can read it."""


class AccessDenied(ConfigurationError):
    """The server refuses who we are or what we may do: password, database, a missing right."""

    runbook = "access-denied"
    usual_next = (run("doctor"),)


class TlsFailure(ConfigurationError):
    """No encrypted connection that can be trusted: an unknown or wrong certificate, or no TLS at all."""

    runbook = "access-denied"
    usual_next = (run("doctor"),)


class UnsafeServer(ConfigurationError):
    """The server works, but its settings would lose or evict what a store must keep."""

    runbook = "unsafe-server"
    usual_next = (run("doctor"),)


class InputRejected(SomactlError):
    exit_code = 11
    runbook = "input-rejected"


class InvalidName(InputRejected):
    """A key, namespace, commit id or kind outside its grammar."""


class TargetRefused(InputRejected):
    """What a result cannot be written to: a folder, a name in a folder that is missing, a right that is
    not there. Refused before any work."""


class InvalidFile(InputRejected):
    """A file that cannot be read as a matrix."""


class InvalidJson(InputRejected):
    """JSON that holds no matrix in a form the old service wrote, or holds it damaged."""


class EnvelopeError(InputRejected):
    """Bytes that are not an envelope `docs/ENVELOPE.md` allows."""


class BadMagic(EnvelopeError):
    """The bytes do not start as an envelope does."""


class UnsupportedVersion(EnvelopeError):
    """A format version this somactl does not read; the message says which one does."""


class Truncated(EnvelopeError):
    """Fewer bytes than the header promises."""


class TrailingBytes(EnvelopeError):
    """More bytes than the header promises."""


class BadHeader(EnvelopeError):
    """A header field is malformed, out of range or inconsistent with another."""


class BadBase64(EnvelopeError):
    """Text that is not the strict base64 of an envelope."""


class BadPayload(EnvelopeError):
    """A payload that does not decode: decompression fails, or expands beyond what the header says."""


class DigestMismatch(EnvelopeError):
    """Bytes changed after they were written."""


class NonFinite(EnvelopeError):
    """NaN or Inf among the numbers."""


class WrongAddress(EnvelopeError):
    """An envelope written for another namespace or key."""


class InputsRejected(InputRejected):
    """Several matrices of one commit are refused; the fact `rejected` names each, up to a bound."""

    MOST = 100

    def __init__(self, errors: Sequence[tuple[str, SomactlError]], *, total: int) -> None:
        rejected = [
            {"source": source, "error": type(error).__name__, "message": error.message}
            for source, error in errors[: self.MOST]
        ]
        super().__init__(
            f"{len(errors)} of {total} inputs are rejected; nothing was written",
            hint="mend each input, or leave it out",
            rejected=rejected,
            rejected_total=len(errors),
        )


class LimitExceeded(InputRejected):
    """Larger than one envelope (256 MiB) or one commit (1 GiB) may be."""


class InvariantViolated(InputRejected):
    """A `rho` that does not hold its invariants, with the verdict that says why."""

    runbook = "RHO_VIOLATION"

    def __init__(self, message: str, *, verdict: Verdict, hint: str | None = None, **facts: Any) -> None:
        super().__init__(message, hint=hint, **facts)
        self.verdict = verdict


class KindRefused(InputRejected):
    """A value of another kind that would replace a live `rho`, and with it what was proven."""


class VerdictMissing(InputRejected):
    """A `rho` envelope reached a store without a verdict that is `valid`, or marked by dark mode."""


class EmptyCommit(InputRejected):
    """A commit without a single update."""


class CommitIdReused(InputRejected):
    """The commit id is known, with another request."""


class CommitExpired(InputRejected):
    """A generated commit id older than the commit records the namespace keeps."""


class CommitAborted(InputRejected):
    """The commit id was claimed by an `aborted` record, so this late arrival must fail."""


class OrderRefused(InputRejected):
    """A prune order that may not be carried out, here or any more; `facts.ruling` names the rule it broke."""

    runbook = "prune"


class EvidenceRejected(InputRejected):
    """Evidence of audits that is damaged, or does not add up; `facts.defect` names what is wrong."""

    runbook = "evidence"


class VersionConflict(SomactlError):
    """At least one key is not where the caller expected it. Nothing was written.

    `conflicts` maps each such key to what was expected and what is there, as JSON values.
    """

    exit_code = 12
    runbook = "version-conflict"

    def __init__(
        self,
        message: str,
        *,
        conflicts: Mapping[str, Mapping[str, Any]],
        hint: str | None = None,
        next: Suggestion | Sequence[Suggestion] = (),
    ) -> None:
        super().__init__(message, hint=hint, next=next, conflicts={k: dict(v) for k, v in conflicts.items()})
        self.conflicts = conflicts


class PlanStale(SomactlError):
    """What a plan was made from, source or target, is not what it was: nothing more of it is done."""

    exit_code = 12
    runbook = "migration"


class StoreUnavailable(SomactlError):
    exit_code = 13
    retryable = True
    runbook = "store-unavailable"
    usual_next: ClassVar[tuple[Suggestion, ...]] = (run("doctor"),)


class StoreBusy(StoreUnavailable):
    """Another writer holds the store longer than the busy timeout."""


class StoreTimeout(StoreUnavailable):
    """The server took the call and did not answer in time. Only for calls that write nothing."""


class StoreLoading(StoreUnavailable):
    """The server has started and still reads its data."""


class ClusterDown(StoreUnavailable):
    """The cluster does not serve the namespace's slot."""


class SlotMoving(StoreUnavailable):
    """The namespace's slot is being moved, and redirections did not end in time."""


class NotPrimary(StoreUnavailable):
    """The server is a replica, or was demoted to one: a failover is under way, or the URL is wrong."""


class TooFewReplicas(StoreUnavailable):
    """Fewer replicas are attached than the server demands for a write."""


class WritesStopped(StoreUnavailable):
    """The server cannot persist, and refuses writes until an operator mends that."""

    retryable = False


class StoreFull(StoreUnavailable):
    """The disk or the server's memory is full. Nothing was written."""

    retryable = False
    runbook = "store-full"
    usual_next = (run("doctor"), run("compact", dry_run=True))


class WorkerLost(StoreUnavailable):
    """A process that an audit had given work to is gone: killed, out of memory, or out of reach."""

    retryable = False
    usual_next = (again(jobs=1, dask=None),)


class StoreDamaged(StoreUnavailable):
    """The store contradicts itself; writing on could only make it worse."""

    retryable = False
    runbook = "store-damaged"


class SchemaMismatch(StoreUnavailable):
    """The store's schema is unknown to this somactl: newer, not migrated, or not ours."""

    retryable = False
    runbook = "schema-mismatch"


class OutcomeUnknown(SomactlError):
    """A write was sent and no reply came. `somactl status COMMIT_ID` tells what became of it."""

    exit_code = 14
    runbook = "outcome-unknown"

    def __init__(self, message: str, *, commit_id: str, hint: str | None = None, **facts: Any) -> None:
        facts.setdefault("next", run("status", commit_id, resolve=True) if commit_id else again())
        super().__init__(message, hint=hint, commit_id=commit_id, **facts)
        self.commit_id = commit_id


class NotFound(SomactlError):
    exit_code = 15


class KeyNotFound(NotFound):
    """The key was never written, or is deleted at the version asked for."""


class NamespaceNotFound(NotFound):
    """The namespace (or its database) does not exist yet."""


class CommitNotFound(NotFound):
    """No commit of that id is recorded."""


class VersionCompacted(NotFound):
    """The version existed (or may have existed), and retention has removed it."""

    runbook = "version-compacted"


class LockHeld(SomactlError):
    exit_code = 16
    runbook = "lock-held"


class ResultNotWritten(SomactlError):
    """Standard output or a file could not take the result: closed, full or failing. The work is done, and
    stands as the message tells."""

    exit_code = 17


class ReadOnlyStore(SomactlError):
    """A write reached a store that was opened read-only."""


class Interrupted(SomactlError):
    exit_code = 130


class Terminated(SomactlError):
    exit_code = 143
