from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.pii import redact

PEM = "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEpAIBAAKCAQEA7bq9\n" * 12 + "-----END RSA PRIVATE KEY-----"
JWT = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c"

# Assembled here, so that no scanner of repositories takes them for leaked keys.
REDACTED = {
    "author = 'jo.doe+x@mail.corp.co.uk'": ("author = '<email>'", {"email": 1}),
    "# by jo@corp.com and al@corp.de.": ("# by <email> and <email>.", {"email": 2}),
    "mailto:jo@corp.org?subject=x": ("mailto:<email>?subject=x", {"email": 1}),
    'host = "52.95.110.1"': ('host = "<ip_address>"', {"ip_address": 1}),
    "ssh root@93.184.216.34:22": ("ssh root@<ip_address>:22", {"ip_address": 1}),
    "[2606:4700:10::ac43:8d1]:80": ("[<ip_address>]:80", {"ip_address": 1}),
    'password = "hunter2"': ('password = "<password>"', {"password": 1}),
    '{"db_passwd": "s3cret!x",': ('{"db_passwd": "<password>",', {"password": 1}),
    "char pwd[] = 'Qwe!rt';": ("char pwd[] = '<password>';", {"password": 1}),
    "login(password: str = 'a1b2c3')": ("login(password: str = '<password>')", {"password": 1}),
    "if passphrase == 'tr0ub4dor&3':": ("if passphrase == '<password>':", {"password": 1}),
    "postgres://app:p4ss-w0@db/x": ("postgres://app:<password>@db/x", {"password": 1}),
    'id = "AKIA' + 'QWERTYUIOP234567"': ('id = "<key>"', {"key": 1}),
    "ghp_" + "a1B2" * 9: ("<key>", {"key": 1}),
    "openai.key=sk-" + "proj-Ab12" * 5: ("openai.key=<key>", {"key": 1}),
    f"Bearer {JWT}": ("Bearer <key>", {"key": 1}),
    "API_KEY = '9f8a7b6c5d4e3f2a1b0c'": ("API_KEY = '<key>'", {"key": 1}),
    '"client_secret": "Zx8-_kQ2mP0vR7tLw9Ys"': ('"client_secret": "<key>"', {"key": 1}),
    PEM: ("-----BEGIN RSA PRIVATE KEY-----<key>-----END RSA PRIVATE KEY-----", {"key": 1}),
}
KEPT = [
    "me@example.com, a@b.example, root@localhost",  # reserved domains
    "git@github.com:a/b.git",
    "icon@2x.png, @types/node@16.9.1, pkg@1.2.3.js",
    "y = A@B.T + x@self.weight + A@B.conj()",
    "@app.route('/')\n@pytest.mark.slow",
    "127.0.0.1 0.0.0.0 10.1.2.3 192.168.1.1 172.16.0.1 169.254.1.1 255.255.255.0 224.0.0.1",
    "192.0.2.1 198.51.100.7 203.0.113.9 2001:db8::1 ::1 fe80::1 8.8.8.8 1.1.1.1",  # documentation, link, resolvers
    'version = "1.22.333.4"; v2.0.50.727; AssemblyVersion("4.8.90.1"); foo==1.2.3.40; foo-1.2.33.4.tar.gz',
    "Chrome/99.0.44.124",
    "1.3.6.1.4.1.311.2.1.12 and 3.2.1.4 and 999.1.1.1",  # object identifier, section, no address
    "std::vector<a::b> dead::beef 00:11:22:33:44:55 12:30:45 aa:bb:cc:dd",
    'password = "xxx"; password = ""; pwd = "********"; password = "changeme1"; password = "your-password-1"',
    "password = os.environ['DB_PASSWORD_1']; password = getpass(); passwd = arg2",
    'password = "${DB_PASS1}"; password = f"{secret1}"; password = "%(pw1)s"; password = "<pw1>"',
    'pwd = "/home/u1"; "password": "Mot de passe 1"; "password": "Passwort"; password_field = "input1"',
    'AWS = "AKIAIOSFODNN7EXAMPLE"; api_key = "YOUR_API_KEY_12345678"; token = "tokenizer.v1.model.2020"',
    "key = 'abcdefghijklmnop'; cache_key = 'user.profile.settings'; sha = '9f8a7b6c5d4e3f2a1b0c'",
    "task-force-for-a-better-2023-world sk-learn",
]


@pytest.mark.parametrize("text", REDACTED)
def test_values_are_replaced(text: str) -> None:
    assert redact(text) == REDACTED[text]


@pytest.mark.parametrize("text", KEPT)
def test_harmless_values_stay(text: str) -> None:
    assert redact(text) == (text, {})


def test_passwords_without_quotes_only_where_values_need_none() -> None:
    text = "db:\n  password: s3cr3tw0rd\n  user: x\n"
    assert redact(text, "yaml") == ("db:\n  password: <password>\n  user: x\n", {"password": 1})
    assert redact(text, "python") == (text, {})
    assert redact('PASSWORD="a1b2c3"\nPWD=$1\n', "shell")[0] == 'PASSWORD="<password>"\nPWD=$1\n'


PIECES = [
    *REDACTED,
    *KEPT,
    "<email>",
    "<key>",
    "<",
    ">",
    "@",
    ".",
    ":",
    "-",
    "'",
    '"',
    "=",
    " ",
    "\n",
    "1",
    "a",
    "//",
    "52.95.1.77",
]


@settings(max_examples=300)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), st.sampled_from(["python", "yaml"]))
def test_second_pass_finds_nothing(text: str, language: str) -> None:
    once, _ = redact(text, language)
    assert redact(once, language) == (once, {})


UNITS = "a|a@|a.|a@b.|1.|1:|2000:|password='|password: a|'|://a:|eyJaaaaaaaaaaa.|sk-|-----BEGIN PRIVATE KEY-----".split(
    "|"
)
UNITS += ["pwd" + " " * 9, "token='" + "a1" * 9, "token=" + " " * 8, "://" + "a" * 60 + ":" + "b" * 100, "x" * 63 + "."]


@pytest.mark.parametrize("unit", UNITS)
def test_time_is_linear(unit: str) -> None:
    text = unit * (8_000_000 // len(unit))
    start = time.process_time()
    redact(text, "yaml")
    assert time.process_time() - start < 5
