"""Endpoints kept in a Ray cluster itself, so that a job in it finds the services.

Ray's key-value store is used and not a named actor: an actor costs a process for five strings.
"""

from __future__ import annotations

import json

from ray.experimental import internal_kv

from enchanted.cluster.state import Endpoints

NAMESPACE = b"enchanted"
KEY = b"endpoints"


def register(endpoints: Endpoints) -> None:
    """Make ``endpoints`` the ones of the connected cluster."""
    value = json.dumps(endpoints.as_dict()).encode()
    internal_kv._internal_kv_put(KEY, value, overwrite=True, namespace=NAMESPACE)


def registered() -> Endpoints | None:
    """The endpoints of the connected cluster, if it has any."""
    value = internal_kv._internal_kv_get(KEY, namespace=NAMESPACE)
    return Endpoints.from_dict(json.loads(value)) if value else None


def unregister(endpoints: Endpoints) -> None:
    """Remove ``endpoints``, unless those of another home have taken their place."""
    known = registered()
    if known is not None and known.home == endpoints.home:
        internal_kv._internal_kv_del(KEY, namespace=NAMESPACE)
