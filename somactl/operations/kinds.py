"""A live rho keeps its invariants: no commit puts a value of another kind over it without being told to.

Which kind is live is looked at before the commit is sent, and the versions that were seen go with it as
guards: what is written in between is noticed by the store, in the transaction that writes.
"""

from __future__ import annotations

from collections.abc import Mapping

from somactl.errors import KindRefused, NamespaceNotFound
from somactl.operations.admission import Admitted
from somactl.store.contract import Store
from somactl.suggestion import again, run


async def guards_of(store: Store, admitted: Mapping[str, Admitted | None]) -> dict[str, int]:
    """Key -> the version at which it is no rho (0: absent), for each put that is none.

    Raises KindRefused where one would replace a rho, StoreUnavailable.
    """
    kinds = {key: put.header.kind for key, put in admitted.items() if put and put.header.kind != "rho"}
    if not kinds:
        return {}
    try:
        live = (await store.stat_many(list(kinds))).stats
    except NamespaceNotFound:
        return dict.fromkeys(kinds, 0)
    for key, kind in kinds.items():
        if key in live and live[key].kind == "rho":
            raise KindRefused(
                f"key {key!r} holds a rho (version {live[key].version}), and would become a {kind}, of which "
                "nothing is proven",
                hint="commit it under another key; `change_kind` does it all the same",
                next=[run("show", key, from_="authority"), again(change_kind=True)],
                key=key,
                kind=kind,
                version=live[key].version,
            )
    return {key: live[key].version if key in live else 0 for key in kinds}
