"""HTTP to servers of our own, on this machine or in this job."""

from __future__ import annotations

from urllib.request import BaseHandler, OpenerDirector, ProxyHandler, build_opener


def direct_opener(
    *handlers: BaseHandler | type[BaseHandler],
) -> OpenerDirector:
    """An opener that no proxy sees: a site's http_proxy must not get requests to the loopback, nor their key."""
    return build_opener(ProxyHandler({}), *handlers)
