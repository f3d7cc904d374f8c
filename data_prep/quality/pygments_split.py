"""The released filter's splitter: Pygments where it has a lexer of the language's name, line scanners elsewhere.

It is kept to the letter, mistakes included, for the profile that must reproduce the released values. The default
profile uses `data_prep.quality.lexical_split`.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from functools import cache

from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name
from pygments.token import Comment, String
from pygments.util import ClassNotFound

from data_prep.quality import python
from data_prep.quality.lexical_split import spans
from data_prep.quality.pygments_engine import accelerated
from data_prep.quality.split import Split
from data_prep.quality.view import OverBudgetError

_COMMENT_TOKENS = frozenset((Comment.Multiline, Comment.Single, Comment.Hashbang, Comment.Special, String.Doc))

# The Java lexer takes quadratic time in a run of words without punctuation: about 1 s for 10,000 characters.
_WORDS_RUN = re.compile(r"[\w\s.$<>?\[\]]{2000,}+")
_MAX_JAVA_WORK = 2e8  # sum of squared lengths of such runs


def pygments_split(text: str, language: str) -> Split:
    """Comments are the tokens of exactly five types, or whole lines where there is no lexer; no separators between.

    Raises:
        OverBudgetError: the lexer would take too long.
    """
    if language == "java" and sum(len(run) ** 2 for run in _WORDS_RUN.findall(text)) > _MAX_JAVA_WORK:
        raise OverBudgetError("code and comments: too many words without punctuation for the Java lexer")
    lexer = _lexer(language)
    if language == "perl":
        code, comment = _split_perl(text)
    elif lexer is not None:
        code, comment = _split_tokens(text, lexer)
    else:
        code, comment = _split_lines(text)
    characters = len(_python_comment(text)) if language == "python" else len(comment)
    return Split(code, comment, characters)


@cache
def _lexer(language: str) -> Lexer | None:
    try:
        return accelerated(get_lexer_by_name(language))
    except ClassNotFound:
        return None


def _split_tokens(text: str, lexer: Lexer) -> tuple[str, str]:
    code: list[str] = []
    comment: list[str] = []
    for kind, value in lexer.get_tokens(text):
        (comment if kind in _COMMENT_TOKENS else code).append(value)
    return "".join(code), "".join(comment)


def _split_perl(text: str) -> tuple[str, str]:
    code: list[str] = []
    comment: list[str] = []
    in_pod = False
    for line in io.StringIO(text, newline="\n"):
        start = line.strip()
        if start.startswith("="):
            in_pod = not start.startswith("=cut")
            comment.append(line)
        else:
            (comment if in_pod or start.startswith("#") else code).append(line)
    return "".join(code), "".join(comment)


def _split_lines(text: str) -> tuple[str, str]:
    code: list[str] = []
    comment: list[str] = []
    in_comment = False  # a line comment sets it as well, and only a block delimiter clears it
    for line in io.StringIO(text, newline="\n"):
        stripped = line.strip()
        if stripped.startswith(('"""', "/*")) or stripped.endswith(('"""', "*/")):
            in_comment = not in_comment
            comment.append(line)
        elif in_comment or stripped.startswith(("#", "//", "--")):
            in_comment = True
            comment.append(line)
        else:
            code.append(line)
    return "".join(code), "".join(comment)


def _python_comment(text: str) -> str:
    """Docstrings, then the ``#`` comments with every ``#`` removed."""
    tree = python.parse(text)
    docstrings = _docstrings(tree) if tree else ""
    comments = _comments(text) if tree else _comments_of_tokens(text)
    return f"{docstrings}\n{''.join(comments).replace('#', '')}".strip()


def _docstrings(tree: ast.Module) -> str:
    """By kind and name of what they document, then by depth."""
    found = []
    level: list[ast.AST] = [tree]
    while level:
        for node in level:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.Module)) and (text := ast.get_docstring(node)):
                found.append((type(node).__name__, getattr(node, "name", ""), text))
        level = [child for node in level for child in python.children(node)]
    return "\n".join(text for _, _, text in sorted(found, key=lambda entry: entry[:2]))


def _comments(text: str) -> list[str]:
    """What `_comments_of_tokens` finds in a text that parses, ten times faster."""
    return [text[span.start : span.end] for span in spans(text, "python") if span.kind == "comment"]


def _comments_of_tokens(text: str) -> list[str]:
    try:
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        return [token.string for token in tokens if token.type == tokenize.COMMENT]
    except (tokenize.TokenError, SyntaxError):
        return []
