"""Names of servers as HTTP writes them: the Host header, origins. Pure functions."""

import ipaddress
import re
import socket
from dataclasses import dataclass

ANY_ORIGIN = "*"
_HOST = re.compile(r"[^\[\]:/?#@,\s]+")
_AUTHORITY = re.compile(rf"(\[[0-9A-Fa-f:.]+\]|{_HOST.pattern})(?::([0-9]*))?")
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(.+)", re.IGNORECASE)
_DEFAULT_PORTS = {"http": "80", "https": "443"}


@dataclass(frozen=True, slots=True)
class Authority:
    """``name[:port]``. ``host`` is canonical, without the brackets of IPv6; no port is empty."""

    host: str
    port: str


def parse_authority(text: str) -> Authority | None:
    """The value of a Host header; None if it is not one."""
    match = _AUTHORITY.fullmatch(text.strip())
    if match is None:
        return None
    return Authority(canonical(match[1]), match[2] or "")


def is_host(text: str) -> bool:
    """Whether ``text`` is a name or an address, without a port."""
    return _HOST.fullmatch(text) is not None or _is_address(text.strip("[]"))


def canonical(host: str) -> str:
    """Lower case, without the root's dot; addresses in their shortest form."""
    name = host.strip("[]").lower().removesuffix(".")
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether a canonical name always means this machine; browsers resolve \\*.localhost so."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def listens_on_loopback(address: str) -> bool:
    """Whether only this machine reaches a socket that is bound to ``address``."""
    host = canonical(address)
    if is_loopback(host):
        return True
    try:
        return is_loopback(socket.gethostbyname(host))
    except OSError:
        return False


def canonical_origin(text: str) -> str | None:
    """``HTTP://Name:80`` -> ``http://name``; None for ``null`` and whatever is no origin."""
    match = _ORIGIN.fullmatch(text.strip())
    authority = match and parse_authority(match[2])
    if match is None or authority is None:
        return None
    scheme = match[1].lower()
    host = f"[{authority.host}]" if ":" in authority.host else authority.host
    port = "" if authority.port == _DEFAULT_PORTS.get(scheme) else authority.port
    return f"{scheme}://{host}:{port}" if port else f"{scheme}://{host}"
