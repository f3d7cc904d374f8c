"""Writes languages.json, the table of languages, from GitHub's linguist:

    npm pack linguist-languages@9.5.0
    python -m data_prep.tables.generate linguist-languages-9.5.0.tgz

paper_types.toml says which languages it holds, ambiguous.toml which extensions need a look at the file.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import re
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SOURCE = {
    "package": "linguist-languages",
    "version": "9.5.0",
    "integrity": "sha512-Wtg9O6iHNBYFJQVtPNwWCaWkNEqZqiCGI4gSkeH8TqvgZUyb1IUWmFSa9Z9UhT392/aX6Peoa91bH9sDah1ZVw==",
    "licence": "MIT",
    "upstream": "languages.yml of github-linguist, Copyright (c) 2017 GitHub, Inc., MIT licence",
}
KINDS = ("code", "data", "text", "excluded")


def languages_of(package: Path) -> dict[str, dict[str, Any]]:
    """The entries of linguist's languages.yml, by name, from the npm package.

    Raises:
      ValueError: it is not the release that `SOURCE` names.
    """
    digest = base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode()
    if SOURCE["integrity"] != f"sha512-{digest}":
        raise ValueError(f"{package} is not {SOURCE['package']} {SOURCE['version']}: its hash is sha512-{digest}")
    with tarfile.open(package) as archive:
        members = [m for m in archive.getmembers() if re.fullmatch(r"package/data/.*\.js", m.name)]
        entries = [_literal(archive.extractfile(member).read().decode()) for member in members]  # pyright: ignore
    return {entry["name"]: entry for entry in sorted(entries, key=lambda entry: entry["name"].lower())}


def _literal(module: str) -> dict[str, Any]:
    """The object that a module of nothing but ``export default {…}`` exports."""
    text = re.sub(r"^( *)(\w+):", r'\1"\2":', module.removeprefix("export default "), flags=re.MULTILINE)
    return ast.literal_eval(re.sub(r": (true|false),$", lambda m: f": {m[1].title()},", text, flags=re.MULTILINE))


def canonical(name: str) -> str:
    """The name of a language in all our tables."""
    return {"c++": "cpp", "c#": "csharp"}.get(name.lower(), name.lower())


def table(entries: dict[str, dict[str, Any]], types: dict[str, Any], ambiguous: dict[str, dict]) -> dict[str, Any]:
    """languages.json: for each language its type, extensions, file names and interpreters.

    Extensions that several languages claim are left to `ambiguous`, and so is what it says of others.

    Raises:
      ValueError: the inputs do not fit together.
    """
    kinds = {kind: [canonical(" ".join(name.split())) for name in types[kind].split(",")] for kind in (*KINDS, "added")}
    by_content = {extension for extensions in ambiguous for extension in extensions.split()}
    entries = {canonical(name): entry for name, entry in entries.items()}
    called = {canonical(name): canonical(ours) for name, ours in types["called"].items()}
    for name in kinds["added"]:
        kinds[{"programming": "code", "markup": "code", "data": "data"}[entries[name]["type"]]].append(name)
    listed = {name for kind in KINDS for name in kinds[kind]}
    _require(set(called.values()) <= listed, "[called] in paper_types.toml", set(called.values()) - listed)
    claims: dict[str, dict[str, list[str]]] = {"extensions": {}, "filenames": {}, "interpreters": {}}
    for name, entry in entries.items():
        if (ours := called.get(name, name)) in listed:
            for what, claimed in claims.items():
                for item in entry.get(what, []):
                    claimed.setdefault(item.removeprefix(".") if what == "extensions" else item, []).append(ours)
    for name, extensions in types["extensions"].items():
        for extension in extensions:
            claims["extensions"].setdefault(extension, []).append(canonical(name))
    shared = {item for item, names in claims["extensions"].items() if len(set(names)) > 1}
    _require(shared <= by_content, "ambiguous.toml lacks", shared - by_content)
    named = {name for rules in ambiguous.values() for name in [*(set(rules) - {"default"}), rules["default"]]}
    _require(named <= listed | {"unknown"}, "ambiguous.toml names", named - listed)
    for extension in by_content & claims["extensions"].keys():
        del claims["extensions"][extension]
    return {
        "source": SOURCE,
        **{what: _by_language(what, claimed) for what, claimed in claims.items()},
        "types": {kind: sorted(kinds[kind]) for kind in KINDS},
        "added": sorted(kinds["added"]),
        "called": dict(sorted(called.items())),
    }


def _by_language(what: str, claimed: dict[str, list[str]]) -> dict[str, list[str]]:
    """Language → its file names (or the like): of several languages that share one, the first has it."""
    found: dict[str, list[str]] = {}
    for item, names in sorted(claimed.items()):
        found.setdefault(names[0], []).append(item)
    return dict(sorted(found.items()))


def _require(holds: bool, what: str, names: set[str]) -> None:
    if not holds:
        raise ValueError(f"{what}: {', '.join(sorted(names))}")


def text(content: dict[str, Any]) -> str:
    """`content` as JSON with a line for each language, so that changes can be read."""
    return "\n".join(_lines(content)) + "\n"


def _lines(content: dict[str, Any]) -> Iterator[str]:
    yield "{"
    for i, (key, value) in enumerate(content.items()):
        comma = "," if i + 1 < len(content) else ""
        if isinstance(value, dict):
            rows = [f"  {json.dumps(name)}: {json.dumps(row, ensure_ascii=False)}" for name, row in value.items()]
            yield f" {json.dumps(key)}: {{"
            yield ",\n".join(rows)
            yield f" }}{comma}"
        else:
            yield f" {json.dumps(key)}: {json.dumps(value)}{comma}"
    yield "}"


def inputs() -> tuple[dict[str, Any], dict[str, dict]]:
    """The contents of paper_types.toml and ambiguous.toml."""
    types, ambiguous = (
        tomllib.loads((HERE / name).read_text("utf-8")) for name in ("paper_types.toml", "ambiguous.toml")
    )
    return types, ambiguous


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    (HERE / "languages.json").write_text(text(table(languages_of(Path(sys.argv[1])), *inputs())), "utf-8")
