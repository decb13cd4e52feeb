"""redis-py's errors and the server's error replies as somactl's, translated once, here."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ClusterError,
    InvalidResponse,
    RedisClusterException,
    RedisError,
    ResponseError,
    TimeoutError as RedisTimeout,
)

from somactl.errors import (
    AccessDenied,
    ClusterDown,
    ConfigurationError,
    NotPrimary,
    OutcomeUnknown,
    SlotMoving,
    SomactlError,
    StoreBusy,
    StoreDamaged,
    StoreFull,
    StoreLoading,
    StoreTimeout,
    StoreUnavailable,
    TlsFailure,
    TooFewReplicas,
    WritesStopped,
)

ERROR_CHARACTERS = 500
"""Of the text of an error; the rest is dropped, however much a server sends."""
_RIGHTS = "docs/STORE_REDIS.md lists the rights a store needs"

# First word of an error reply -> what it is, in a sentence about the server, and what to do.
_REPLIES: dict[str, tuple[type[SomactlError], str, str]] = {
    "ASK": (SlotMoving, "the namespace's slot is on its way to another node", "run it again"),
    "MOVED": (SlotMoving, "the namespace's slot has moved to another node", "run it again"),
    "TRYAGAIN": (SlotMoving, "the namespace's slot is half-way to another node", "run it again"),
    "CLUSTERDOWN": (
        ClusterDown,
        "the cluster does not serve the namespace's slot",
        "look at `redis-cli cluster info` and mend the nodes that are down",
    ),
    "MASTERDOWN": (
        NotPrimary,
        "it is a replica that has lost its primary",
        "wait for the failover, or name the primary in the URL",
    ),
    "READONLY": (
        NotPrimary,
        "it is a replica and takes no writes",
        "wait for the failover, or name the primary in the URL",
    ),
    "UNBLOCKED": (
        NotPrimary,
        "it became a replica while it was asked",
        "wait for the failover, or name the primary in the URL",
    ),
    "LOADING": (StoreLoading, "it still reads its data from disk", "run it again in a moment"),
    "BUSY": (
        StoreBusy,
        "it is busy with a client's long script",
        "run it again; if it lasts, an operator can end a script that has not written with `SCRIPT KILL`",
    ),
    "MISCONF": (
        WritesStopped,
        "it cannot save to disk, so it takes no writes",
        "look at its log and its disk; see stop-writes-on-bgsave-error",
    ),
    "NOREPLICAS": (
        TooFewReplicas,
        "fewer replicas are attached than min-replicas-to-write demands",
        "bring the replicas back, or lower min-replicas-to-write",
    ),
    "OOM": (
        StoreFull,
        "its memory is full (maxmemory), so nothing was written",
        "raise maxmemory, or make room",
    ),
    "NOAUTH": (AccessDenied, "it demands a password", "put user and password into the URL"),
    "WRONGPASS": (AccessDenied, "it refuses the user or the password", "check both; `ACL LIST` shows users"),
    "DENIED": (
        AccessDenied,
        "it runs in protected mode and admits only its own machine",
        "give it a password, or bind it to an inner network and turn protected-mode off",
    ),
    "NOPERM": (AccessDenied, "the user lacks a right", _RIGHTS),
    "WRONGTYPE": (
        StoreDamaged,
        "a key of somactl's holds a value of a foreign type",
        "find what else writes keys that begin with `somactl:`",
    ),
    "CROSSSLOT": (ConfigurationError, "it is a cluster", "name a cluster as redis+cluster://"),
    "NOPROTO": (ConfigurationError, "it does not speak the protocol RESP2", "use Redis 7.0 or newer"),
}
# Beginning of what follows `ERR` -> the same.
_GENERIC: dict[str, tuple[type[SomactlError], str, str]] = {
    "max number of clients reached": (
        StoreBusy,
        "it has no room for another connection",
        "raise maxclients, or find who holds them with `CLIENT LIST`",
    ),
    "unknown command": (
        AccessDenied,
        "it does not know a command that a store needs",
        "use Redis 7.0 or newer, with no command renamed or disabled",
    ),
    "Protocol error: unauthenticated": (
        AccessDenied,
        "it demands a password",
        "put user and password into the URL",
    ),
    "Protocol error: invalid bulk length": (
        ConfigurationError,
        "its proto-max-bulk-len is smaller than the value",
        "set it to its default of 512 MB",
    ),
    "DB index is out of range": (ConfigurationError, "it has no database of that number", "check the URL"),
    "SELECT is not allowed": (ConfigurationError, "a cluster has database 0 alone", "check the URL"),
    "This instance has cluster support disabled": (
        ConfigurationError,
        "it is no cluster",
        "name a single server as redis://",
    ),
    "ACL failure in script": (
        AccessDenied,
        "the user lacks a right that somactl's scripts need",
        _RIGHTS,
    ),
    "The user executing the script can't": (
        AccessDenied,
        "the user lacks a right that somactl's scripts need",
        _RIGHTS,
    ),
    "AUTH <password> called without any password": (
        AccessDenied,
        "it knows no password, and the URL has one",
        "take it out of the URL, or set requirepass",
    ),
}
_SCRIPTING = ("'eval", "'evalsha", "'script", "'EVAL", "'EVALSHA", "'SCRIPT")


@contextmanager
def translated(place: str, commit_id: str | None = None, *, connecting: bool = False) -> Iterator[None]:
    """Raise what redis-py raises on the server at `place` as an error of `somactl.errors`.

    `commit_id` ('' for notes) belongs around a write from the moment its command may have reached the
    server: a lost connection, or no answer in time, is then OutcomeUnknown. An error *reply* never is: the
    server has said that it did not do it.
    """
    try:
        yield
    except SomactlError:
        raise
    except Exception as exc:
        error = translate(exc, place, commit_id)
        if error is None:
            raise
        if connecting and isinstance(error, StoreTimeout):
            error = StoreUnavailable(
                f"{place} does not accept a connection in time", hint="check host, port and firewall"
            )
        raise error from exc


def translate(exc: Exception, place: str, commit_id: str | None = None) -> SomactlError | None:
    """The somactl error for `exc`; None where it can only be a bug of ours (exit code 1)."""
    code, text = reply(exc)
    known = _known(code, text)
    if known is not None:
        return _from_reply(known, code, text, place)
    if isinstance(exc, AuthenticationError | AuthorizationError):
        return _from_reply(_REPLIES["WRONGPASS"], "WRONGPASS", text, place)
    if isinstance(exc, ResponseError):
        return None if _is_of_a_script(text) else _unknown_reply(f"{code} {text}".strip(), place)
    if not isinstance(exc, RedisError | RedisClusterException | OSError):
        return None
    lost = _tls_failure(exc, place) or _lost(exc, place)
    if isinstance(lost, StoreUnavailable) and commit_id == "":
        return OutcomeUnknown(
            f"the connection to {place} was lost before it confirmed that notes were written",
            commit_id="",
            hint="read the notes again: their versions tell",
        )
    if isinstance(lost, StoreUnavailable) and commit_id is not None:
        return OutcomeUnknown(
            f"the connection to {place} was lost before it confirmed commit {commit_id}", commit_id=commit_id
        )
    if isinstance(exc, InvalidResponse):
        return TlsFailure(
            f"{place} does not answer as a Redis server does ({str(exc)[:ERROR_CHARACTERS]})",
            hint="check host and port; a server with TLS is named rediss://",
        )
    if isinstance(exc, ClusterError):
        return SlotMoving(f"{place}: redirections from node to node did not end", hint="run it again")
    if isinstance(exc, RedisClusterException):
        return ClusterDown(
            f"{place}: no node of the cluster tells where its slots are",
            hint="look at `redis-cli cluster info`",
        )
    return lost


def refused(exc: Exception, place: str, commit_id: str) -> SomactlError:
    """The error for an error reply to a write that is made by one script.

    The replies that we know come before its first write. Of one that we do not know, and of one that ends a
    wait, that is not certain: OutcomeUnknown. `commit_id` is '' for notes.
    """
    code, text = reply(exc)
    if code != "UNBLOCKED" and _known(code, text) is not None:
        error = translate(exc, place)
        assert error is not None  # it is known
        return error
    what = f"commit {commit_id} was made" if commit_id else "notes were written"
    return OutcomeUnknown(
        f"{place} does not tell whether {what}; it answered {f'{code} {text}'.strip()[:200]!r}",
        commit_id=commit_id,
        **({} if commit_id else {"hint": "read the notes again: their versions tell"}),
    )


def reply(exc: BaseException) -> tuple[str, str]:
    """First word and rest of the error reply behind `exc`; ("", message) where there was no such word.

    redis-py cuts off the words it has a class for; those come back from `status_code`, or from the class
    where an older redis-py does not set it.
    """
    text = str(exc)[:ERROR_CHARACTERS]
    code = getattr(exc, "status_code", None) or _CODES.get(type(exc).__name__, "")
    if code:
        return code, text
    word, _, rest = text.partition(" ")
    if word in _REPLIES:
        return word, rest
    return "", text


_CODES = {
    "AskError": "ASK",
    "MovedError": "MOVED",
    "TryAgainError": "TRYAGAIN",
    "ClusterDownError": "CLUSTERDOWN",
    "MasterDownError": "MASTERDOWN",
    "ReadOnlyError": "READONLY",
    "BusyLoadingError": "LOADING",
    "OutOfMemoryError": "OOM",
    "NoPermissionError": "NOPERM",
    "ClusterCrossSlotError": "CROSSSLOT",
}


def _known(code: str, text: str) -> tuple[type[SomactlError], str, str] | None:
    if code in _REPLIES:
        return _REPLIES[code]
    generic = text.removeprefix("ERR ")
    return next((known for start, known in _GENERIC.items() if generic.startswith(start)), None)


def _from_reply(known: tuple[type[SomactlError], str, str], code: str, text: str, place: str) -> SomactlError:
    kind, sentence, hint = known
    if code == "NOPERM":
        sentence = f"the user lacks a right: {text.removeprefix('NOPERM ')}"
        if any(command in text for command in _SCRIPTING):
            hint = f"a store works through scripts: grant the user +@scripting ({_RIGHTS})"
    said, _, _ = f"{code} {text}".partition(", with args beginning with")  # those of AUTH, perhaps
    return kind(f"{place}: {sentence}", hint=hint, reply=said.strip()[:500])


def _is_of_a_script(text: str) -> bool:
    """Whether a script of ours failed, which only a bug in it can bring about."""
    return "user_script" in text


def _unknown_reply(text: str, place: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"{place} answered {text[:200]!r}, which this somactl does not know",
        hint="run it again; look at the server's log, and use Redis 7.0 or newer",
        reply=text[:500],
    )


def _tls_failure(exc: BaseException, place: str) -> TlsFailure | None:
    """A TLS error anywhere behind `exc`; redis-py wraps it without saying so."""
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return TlsFailure(
                f"the certificate of {place} cannot be trusted: {cause.verify_message}",
                hint="name the authority that signed it with ?ssl_ca_certs=FILE in the URL, and the server "
                "as the certificate names it",
            )
        if isinstance(cause, ssl.SSLError):
            return TlsFailure(
                f"no encrypted connection to {place}: {cause.reason or cause}",
                hint="check that its port speaks TLS, and whether it demands a client's certificate "
                "(?ssl_certfile=FILE&ssl_keyfile=FILE)",
            )
        cause = cause.__cause__ or cause.__context__
    return None


def _lost(exc: BaseException, place: str) -> StoreUnavailable:
    """No answer: no connection, or one that broke, or too late."""
    if isinstance(exc, RedisTimeout | TimeoutError):
        return StoreTimeout(f"{place} did not answer in time", hint="run it again")
    return StoreUnavailable(
        f"{place} cannot be reached: {str(exc)[:ERROR_CHARACTERS]}",
        hint="check that Redis runs there, and the URL",
    )
