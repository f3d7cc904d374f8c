"""Replacement of personal data and secrets in source code by placeholders (arXiv 2411.04905, section 2.1.1).

Only values go, never the names of variables. What identifies nobody stays, so that code keeps its sense:

- addresses that are not globally routable (loopback, private, documentation, multicast, netmasks), public DNS servers,
  and dotted quads that are version numbers;
- e-mail addresses of reserved domains (RFC 2606) and ``git@`` remotes;
- passwords and keys that are placeholders, templates, paths or plain words, see `_is_secret`.

All repeats are bounded or possessive, so the time is linear in the length of the text.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

Span = tuple[int, int]

# Where a value needs no quotes; elsewhere `password = pw2` names a variable.
_BARE_VALUES = frozenset({"dockerfile", "dotenv", "ini", "java properties", "shell", "yaml"})
_PASSWORD = r"(?:password|passwd|passphrase|passwort|pwd)"
_KEY = r"(?:(?:api|access|secret|private|account|auth|encryption|signing)_?key|secret|token)"
# From a name to its quoted value: digits, closing brackets, a type, one of = == := : =>, a string prefix such as b.
_ASSIGNED = (
    r"""\d?["'\[\])]{0,3}[ \t]{0,8}(?::[ \t]{0,2}[a-z_][\w.\[\]]{0,30}[ \t]{0,2})?(?:={1,3}|:=?|=>)[ \t]{0,8}[a-z]?"""
)

_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----((?:[^-]|-(?!----)){64,}+)-----END")
_KNOWN_KEY = re.compile(
    r"""(?<![\w-])(?: (?:AKIA|ASIA)[0-9A-Z]{16} | gh[pousr]_[0-9A-Za-z]{36,255} | github_pat_\w{22,255}
    | glpat-[\w-]{20,64} | xox[abeoprs]-[\w-]{10,250} | sk-[\w-]{20,250} | [rs]k_live_[0-9A-Za-z]{20,250}
    | AIza[\w-]{35} | npm_[0-9A-Za-z]{36} | hf_[0-9A-Za-z]{34} | pypi-[\w-]{50,250} | SG\.[\w-]{22}\.[\w-]{43}
    | eyJ[\w-]{10,2000}+\.eyJ[\w-]{10,4000}+\.[\w-]{10,1000} )(?![\w-])""",
    re.VERBOSE,
)
_KNOWN_KEY_HINTS = (
    "AKIA ASIA ghp_ gho_ ghu_ ghs_ ghr_ github_pat_ glpat- xox sk- _live_ AIza npm_ hf_ pypi- SG. eyJ".split()
)
_TOKEN_LITERAL = re.compile(r"""(["'])([\w+/=.-]{16,512}+)\1""")
_KEY_ASSIGNED = re.compile(_KEY + _ASSIGNED + "$", re.IGNORECASE)
_PASSWORD_ASSIGNED = re.compile(_PASSWORD + _ASSIGNED + r"""(["'])([^"'\\\n]{4,128}+)\1""", re.IGNORECASE)
_PASSWORD_BARE = re.compile(_PASSWORD + r"""[ ]?[=:][ ]?()([^\s"'`,;()\[\]]{4,128}+)$""", re.IGNORECASE | re.MULTILINE)
_URL_PASSWORD = re.compile(r"""://[\w.+-]{1,64}(:)([^\s:/@"'`<>{}]{3,128}+)@(?=[\w\[])""")
_PLACEHOLDER = re.compile(
    r"""pass(?:word|wd|wort|phrase)|secret|token|api_?key|your|change_?me|example|sample|dummy|fake|test|placeholder
    | redacted|replace|default|insert|enter|todo|foo|bar|x{3}|\*{3}|\.{3}|1234|abcd|[{<]\w*[}>]|\$[({\w]|%[(sd]|\#\{""",
    re.VERBOSE | re.IGNORECASE,
)

_MAIL_DOMAIN = re.compile(
    r"""@((?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,6}(?:[A-Za-z]{2}|com|org|net|edu|gov|mil|int|info|biz
    |name|dev|app|tech|online|cloud|email|xyz|site|pro|work))(?![\w(\[-]|\.\w|@)""",
    re.VERBOSE | re.ASCII,
)
_MAIL_LOCAL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}$", re.ASCII)
_RESERVED_DOMAIN = re.compile(r"(?:^|\.)(?:example\.(?:com|org|net|edu)|example|test|invalid|local|localdomain)$")
_FILE_ENDINGS = frozenset(("js", "ts", "md", "py", "rb", "rs", "sh"))  # two letters, so they look like a country

_IPV4 = re.compile(r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}(?!\w|\.\w|-[A-Za-z])", re.ASCII)
_IPV6 = re.compile(r"[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{5,34}(?![\w:])", re.ASCII)  # 2000::/3 is all that is assigned
_NOT_GLOBAL = [
    ipaddress.ip_network(network)
    for network in """0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24
    192.0.2.0/24 192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/3
    2001:db8::/32""".split()
]
_PUBLIC_DNS = frozenset(
    """8.8.8.8 8.8.4.4 1.1.1.1 1.0.0.1 9.9.9.9 149.112.112.112 208.67.222.222 208.67.220.220 4.2.2.1 4.2.2.2
    114.114.114.114 223.5.5.5 2001:4860:4860::8888 2001:4860:4860::8844 2606:4700:4700::1111""".split()
)
_VERSION_BEFORE = re.compile(
    r"""(?: (?:version|release|revision|section|chapter|\b(?:v|ver|rev|rfc|oid))\w{0,10}
            ["']?[ \t]{0,3}[:=(]?[ \t]{0,3}["']?
        | [<>=~!^]=?[ \t]? | [A-Za-z][/-] | [\w.] )$""",
    re.VERBOSE | re.IGNORECASE,
)


def redact(text: str, language: str = "unknown") -> tuple[str, dict[str, int]]:
    """Replaces personal data and secrets by ``<email>``, ``<ip_address>``, ``<password>`` and ``<key>``.

    Args:
      text: any text.
      language: name as in `languages`; decides whether a password may stand without quotes.

    Returns:
      The text, and how many values of each kind were replaced. A second pass replaces nothing.
    """
    counts: dict[str, int] = {}
    for kind, spans in (
        ("key", _private_keys),
        ("key", _known_keys),
        ("key", _assigned_keys),
        ("password", _bare_passwords if language in _BARE_VALUES else _quoted_passwords),
        ("password", _url_passwords),
        ("email", _emails),
        ("ip_address", _ip_addresses),
    ):
        pieces, end = [], 0
        for start, stop in spans(text):
            pieces += [text[end:start], f"<{kind}>"]
            end = stop
        if pieces:
            text = "".join([*pieces, text[end:]])
            counts[kind] = counts.get(kind, 0) + len(pieces) // 2
    return text, counts


def _private_keys(text: str) -> Iterator[Span]:
    if "PRIVATE KEY-----" in text:
        yield from (match.span(1) for match in _PRIVATE_KEY.finditer(text))


def _known_keys(text: str) -> Iterator[Span]:
    if any(hint in text for hint in _KNOWN_KEY_HINTS):
        for match in _KNOWN_KEY.finditer(text):
            if "EXAMPLE" not in match[0].upper() and any(c.isdigit() for c in match[0]):
                yield match.span()


def _assigned_keys(text: str) -> Iterator[Span]:
    for match in _TOKEN_LITERAL.finditer(text):
        # Drawn at random, to all appearance: words joined by dots or dashes have few digits.
        value = match[2]
        if len(set(value)) >= 10 and sum(c.isdigit() for c in value) >= 3 and _is_secret(value):
            if _KEY_ASSIGNED.search(text, max(0, match.start() - 100), match.start()):
                yield match.span(2)


def _quoted_passwords(text: str) -> Iterator[Span]:
    return _passwords(_PASSWORD_ASSIGNED, text)


def _bare_passwords(text: str) -> Iterator[Span]:
    spans = {*_passwords(_PASSWORD_ASSIGNED, text), *_passwords(_PASSWORD_BARE, text)}
    yield from sorted(spans)


def _passwords(pattern: re.Pattern[str], text: str) -> Iterator[Span]:
    lowered = text.lower()
    if any(hint in lowered for hint in ("passw", "passphrase", "pwd")):
        yield from (match.span(2) for match in pattern.finditer(text) if _is_secret(match[2]))


def _url_passwords(text: str) -> Iterator[Span]:
    yield from (match.span(2) for match in _URL_PASSWORD.finditer(text) if _is_secret(match[2]))


def _is_secret(value: str) -> bool:
    """Whether a literal looks like a secret: letters with digits or symbols, no blank, no placeholder in it."""
    return (
        any(c.isalpha() for c in value)
        and any(c.isdigit() or c in "!@#$%^&*+=?~" for c in value)
        and not any(c.isspace() for c in value)
        and not value.startswith(("/", "./", "../", "#", "@"))
        and not _PLACEHOLDER.search(value)
    )


def _emails(text: str) -> Iterator[Span]:
    for match in _MAIL_DOMAIN.finditer(text):
        domain = match[1].lower()
        if domain.rpartition(".")[2] in _FILE_ENDINGS or _RESERVED_DOMAIN.search(domain):
            continue
        local = _MAIL_LOCAL.search(text, max(0, match.start() - 65), match.start())
        if local and local[0] != "git":
            yield local.start(), match.end()


def _ip_addresses(text: str) -> Iterator[Span]:
    matches = [match for pattern in (_IPV4, _IPV6) for match in pattern.finditer(text) if _identifies(match)]
    yield from sorted(match.span() for match in matches)


def _identifies(match: re.Match[str]) -> bool:
    """Whether a match is the address of a host that others can reach."""
    try:
        address = ipaddress.ip_address(match[0])
    except ValueError:
        return False
    if str(address) in _PUBLIC_DNS or any(address in network for network in _NOT_GLOBAL):
        return False
    before = match.string[max(0, match.start() - 32) : match.start()].rpartition("\n")[2]
    if address.version == 6:
        return not re.search(r"[\w:.]$", before)
    # Four numbers below 32 are far more often a version or a made-up example than a host.
    return max(address.packed) >= 32 and not _VERSION_BEFORE.search(before)
