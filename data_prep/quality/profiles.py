"""The two ways to measure a file, and the signals of each group of files."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import importlib.util
from collections.abc import Callable, Iterator, Mapping

from data_prep import languages, natural_language
from data_prep.quality import (
    code,
    constructs,
    html,
    javascript,
    jupyter,
    python,
    reference,
    reference_html,
    reference_javascript,
    text,
)
from data_prep.quality.group import Group
from data_prep.quality.lexical_split import lexical_split
from data_prep.quality.pygments_split import pygments_split
from data_prep.quality.split import Split
from data_prep.quality.view import View
from data_prep.sources import notebooks
from data_prep.sources.reference import decode


@dataclasses.dataclass(frozen=True)
class Profile:
    """How files are measured and judged; profiles share every signal that they do not name here.

    Attributes:
      signals: signals by family: ``code``, ``text``, ``code/<language>``.
      decode: bytes of a file → its text, or None and the reason why it has none.
      detect: (path, text or None) → language and type of document.
      natural_language: (text, type of document) → the language it is written in, None where unknown or no text.
      splitter: (text, language) → code, comments and literals.
      max_characters: characters a file may have for costly signals, see `View`.
      keep_byte_order_mark: whether a leading U+FEFF is part of the text.
      failure_drops: whether a file is dropped when a signal that one of its rules needs could not be computed.
      packages: what the profile imports beyond requirements.txt.
    """

    signals: Mapping[str, Group]
    decode: Callable[[bytes], tuple[str | None, str | None]]
    detect: Callable[[str, str | None], tuple[str, str]]
    natural_language: Callable[[str, str], str | None]
    splitter: Callable[[str, str], Split]
    max_characters: int
    keep_byte_order_mark: bool
    failure_drops: bool
    packages: tuple[str, ...] = ()

    def families(self, doc_type: str, language: str) -> list[str]:
        """The families whose signals a file has, general ones first; none for types that no rule judges."""
        if doc_type == "text":
            return ["text"]
        if doc_type not in ("code", "data"):
            return []
        return [family for family in ("code", f"code/{language}") if family in self.signals]

    def names(self) -> list[str]:
        """Every signal that some file can have, each name once."""
        return list(dict.fromkeys(name for group in self.signals.values() for name in group))


_REFINECODE = {
    "code": code.SIGNALS,
    "text": text.SIGNALS,
    "code/python": python.SIGNALS,
    "code/html": html.SIGNALS,
    **{f"code/{language}": javascript.SIGNALS for language in javascript.LANGUAGES},
    **constructs.groups("refinecode"),
}
_REFERENCE = {
    **{family: Group(_REFINECODE[family] | variants) for family, variants in reference.VARIANTS.items()},
    "code/html": reference_html.SIGNALS,
    "code/javascript": reference_javascript.SIGNALS,
    **constructs.groups("reference", {"java": reference.JAVA}),
}

PROFILES = {
    "refinecode": Profile(
        _REFINECODE,
        lambda data: decode(data)[:2],
        languages.detect,
        lambda text, doc_type: natural_language.identify(text) if doc_type == "text" else None,
        lexical_split,
        max_characters=8_000_000,
        keep_byte_order_mark=False,
        failure_drops=True,
    ),
    "reference": Profile(
        _REFERENCE,
        reference.decode,
        languages.detect_by_name,
        lambda text, doc_type: "en",  # the released filter's model is not to be had
        pygments_split,
        max_characters=8_000_000,
        keep_byte_order_mark=True,
        failure_drops=False,
        packages=("esprima", "bs4"),
    ),
}


def profile_named(name: str) -> Profile:
    """The profile of that name.

    Raises:
        ValueError: there is none.
        ModuleNotFoundError: it needs packages that are not installed.
    """
    if name not in PROFILES:
        raise ValueError(f"unknown quality profile {name!r}: use one of {', '.join(PROFILES)}")
    missing = [package for package in PROFILES[name].packages if not importlib.util.find_spec(package)]
    if missing:
        raise ModuleNotFoundError(
            f"the quality profile {name} needs {', '.join(missing)}: pip install -r requirements-reference.txt"
        )
    return PROFILES[name]


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """No search for garbage inside: the nodes of a syntax tree set it off again and again, and it doubles the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_uncollected()  # of the whole call: with it ends the tree, which the collector would otherwise search once more
def measure(
    text: str,
    language: str,
    doc_type: str,
    size: int | None,
    profile: Profile,
    path: str = "",
    spoken: str | None = None,
) -> tuple[dict[str, float | None], dict[str, str]]:
    """All signals of one file, and the cause for each one that could not be computed; both by name.

    A signal is None where its definition gives no value, such as a share of the comments of a file without lines.
    """
    splitter = profile.splitter
    if language == notebooks.LANGUAGE:
        text, splitter = jupyter.without_markers(text)
    view = View(
        text,
        language,
        size,
        splitter,
        profile.max_characters,
        path,
        spoken,
        profile.keep_byte_order_mark,
    )
    values: dict[str, float | None] = {}
    failures: dict[str, str] = {}
    for family in profile.families(doc_type, language):
        for name, signal in profile.signals[family].items():
            try:
                values[name] = signal(view)
            except Exception as error:  # one signal must neither end the run nor hide the others
                failures[name] = f"{type(error).__name__}: {error}"
    python.parse.cache_clear()
    return values, failures
