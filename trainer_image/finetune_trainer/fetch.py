"""Every outbound download: allowed addresses, redirects, limits, retries.

The name is resolved once, every address it has is checked, and the connection goes to an address
that was checked: a name that changes between check and use reaches nothing new.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO, cast
from urllib.parse import SplitResult, urljoin, urlsplit

from finetune_trainer.errors import AccessError, ExternalServiceError

TIMEOUT_SECONDS = 30
MAX_REDIRECTS = 5
TRIES = 5
FIRST_DELAY_SECONDS = 0.5
AGAIN = {408, 429, 500, 502, 503, 504}
REDIRECTS = {301, 302, 303, 307, 308}


@dataclass(frozen=True)
class Web:
    """How this job may reach the network."""

    allowed: Collection[str] = ()
    """allowed are host names, or host:port, that may have a private address."""
    headers: dict[str, str] = field(default_factory=dict)
    """headers of the first host; never sent to another one."""
    other_hosts: bool = False
    """other_hosts: a redirect may leave the host, as hubs do towards their storage."""


@contextmanager
def opened(url: str, web: Web) -> Iterator[BinaryIO]:
    """Yield the body of a GET; raise AccessError or ExternalServiceError that names the host.

    Addresses in errors are cut to scheme, host and path: queries may hold signatures.
    """
    connection, response = _answered(url, web)
    try:
        yield cast("BinaryIO", response)
        # http.client ends a body that breaks off like one that is whole.
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)
    except (OSError, http.client.HTTPException) as error:
        raise ExternalServiceError(
            f"{shown(url)}: the connection broke ({type(error).__name__}); try again later"
        ) from error
    finally:
        connection.close()


def shown(url: str) -> str:
    """Return an address without user, query and fragment."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"


def checked_address(host: str, port: int, allowed: Collection[str]) -> str:
    """Return an address of the host that may be connected to.

    Raises AccessError (AddressNotAllowed) when any of its addresses is not public and the host is
    not allowed by the administrator, and ExternalServiceError when the name has no address.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ExternalServiceError(
            f"{host}: the name has no address; correct it, or check the cluster's DNS"
        ) from error
    addresses = [str(one[4][0]) for one in found]
    if host not in allowed and f"{host}:{port}" not in allowed:
        for address in addresses:
            if not _public(address):
                raise AccessError(
                    f"{host}: {address} is not a public address; use a public host, or ask the "
                    "administrator to allow this one",
                    reason="AddressNotAllowed",
                )
    return addresses[0]


def _public(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(parsed, "ipv4_mapped", None) or getattr(parsed, "sixtofour", None)
    checked = mapped or parsed
    return checked.is_global and not checked.is_multicast


def _answered(url: str, web: Web) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    """Return an open connection and its answer 200, having followed redirects and retried."""
    first, headers = urlsplit(url), dict(web.headers)
    for _ in range(MAX_REDIRECTS + 1):
        connection, response = _patiently(url, headers, web.allowed)
        if response.status == 200:
            return connection, response
        connection.close()
        if response.status not in REDIRECTS:
            raise _refused(url, response.status)
        url = urljoin(url, response.headers.get("Location", ""))
        target = urlsplit(url)
        if _origin(target) != _origin(first):
            if not web.other_hosts:
                raise AccessError(
                    f"{shown(first.geturl())}: redirects to {target.hostname}; use that address",
                    reason="AddressNotAllowed",
                )
            headers = {}
    raise AccessError(
        f"{shown(first.geturl())}: redirects more than {MAX_REDIRECTS} times; correct the address",
        reason="SourceNotFound",
    )


def _patiently(
    url: str, headers: dict[str, str], allowed: Collection[str]
) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    """Ask, and ask again with growing delays while the server is busy or cannot be reached."""
    delay = FIRST_DELAY_SECONDS
    for last in [False] * (TRIES - 1) + [True]:
        connection = _connection(urlsplit(url), allowed)
        try:
            connection.request("GET", _path(urlsplit(url)), headers=headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            if last or isinstance(error, ssl.SSLCertVerificationError):
                raise ExternalServiceError(
                    f"{shown(url)}: cannot be reached ({type(error).__name__}); check address and "
                    "network"
                ) from error
        else:
            if last or response.status not in AGAIN:
                return connection, response
            connection.close()
        time.sleep(delay)
        delay *= 2
    raise AssertionError("the last try returns or raises")


def _connection(parts: SplitResult, allowed: Collection[str]) -> http.client.HTTPConnection:
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username:
        raise AccessError(
            f"{parts.scheme}://{parts.hostname or ''}: only http and https without user name are "
            "fetched; correct the address",
            reason="AddressNotAllowed",
        )
    port = parts.port or (443 if parts.scheme == "https" else 80)
    address = checked_address(parts.hostname, port, allowed)
    kind = _CheckedHttps if parts.scheme == "https" else _CheckedHttp
    return kind(parts.hostname, port, address)


class _CheckedHttp(http.client.HTTPConnection):
    """A connection to the address that was checked, whatever the name says by now."""

    def __init__(self, host: str, port: int, address: str) -> None:
        super().__init__(host, port, timeout=TIMEOUT_SECONDS)
        self._address = address

    def connect(self) -> None:
        self.sock = socket.create_connection((self._address, self.port), TIMEOUT_SECONDS)


class _CheckedHttps(_CheckedHttp):
    """The same with TLS, verified for the name."""

    def connect(self) -> None:
        super().connect()
        context = ssl.create_default_context()
        self.sock = context.wrap_socket(self.sock, server_hostname=self.host)


def _refused(url: str, status: int) -> Exception:
    if status in {401, 403}:
        return AccessError(
            f"{shown(url)}: answers {status}; correct the Secret or the permission",
            reason="AccessDenied",
        )
    if status in {404, 410}:
        return AccessError(
            f"{shown(url)}: not found ({status}); correct the address", reason="SourceNotFound"
        )
    return ExternalServiceError(f"{shown(url)}: answers {status}; try again later")


def _origin(parts: SplitResult) -> tuple[str | None, int | None]:
    return parts.hostname, parts.port


def _path(parts: SplitResult) -> str:
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
