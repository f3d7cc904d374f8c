from __future__ import annotations

import argparse
import ast
import difflib
import inspect
import io
import pathlib
import shlex
import statistics
import time
import tokenize
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep import languages
from data_prep.quality import lexical_split as lexical
from data_prep.quality.lexical_split import lexical_split
from data_prep.quality.pygments_split import pygments_split
from data_prep.quality.split import Literals

FRAGMENTS = [
    "//",
    "/*",
    "*/",
    "#",
    '"',
    "'",
    "\\",
    "\n",
    " ",
    "x",
    '"""',
    "'''",
    "`",
    "--",
    "{-",
    "-}",
    "=cut",
    "=pod",
    "%",
]


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=40).map("".join), st.sampled_from(sorted(lexical._SYNTAX)))
def test_spans_are_ordered_and_code_and_comments_are_the_whole_file(text: str, family: str):
    spans = list(lexical.spans(text, family))
    bounds = [0, *(bound for span in spans for bound in (span.start, span.end)), len(text)]
    assert bounds == sorted(bounds)
    split = lexical_split(text, lexical._SYNTAX[family]["languages"][0])
    assert sorted(split.code + split.comment.replace("\n", "")) == sorted(
        text.replace("\n", "") + "\n" * split.code.count("\n")
    )


@pytest.mark.parametrize("module", [argparse, difflib, inspect, shlex, statistics, tokenize])
def test_python_comments_equal_those_of_the_tokeniser(module: types.ModuleType):
    text = inspect.getsource(module)
    comments = [t.string for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type == tokenize.COMMENT]
    spans = list(lexical.spans(text, "python"))
    assert [text[s.start : s.end] for s in spans if s.kind == "comment"] == comments
    documentation = {text[s.start : s.end] for s in spans if s.kind == "docstring"}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node):
            source = ast.get_source_segment(text, node.body[0]).lstrip("rRbBuUfF")
            assert source in documentation or not source.startswith(('"""', "'''"))


@pytest.mark.parametrize(
    ("language", "text", "code", "comment"),
    [
        ("c", "int a; // one\nint b; /* two */\n", "int a; \nint b; \n", "// one\n/* two */\n"),
        ("c", "/*\n * top\n */\nint a;\n", "int a;\n", "/*\n * top\n */\n"),
        ("c", 'char *u = "http://x /* no */";\n', 'char *u = "http://x /* no */";\n', ""),
        ("c", "char q = '\"'; // x\n", "char q = '\"'; \n", "// x\n"),
        ("rust", "fn f<'a>(x: &'a str) {} // y\n", "fn f<'a>(x: &'a str) {} \n", "// y\n"),
        ("javascript", "s = s.replace(/['\"/*]/g, ''); // z\n", "s = s.replace(/['\"/*]/g, ''); \n", "// z\n"),
        ("typescript", "const u = `// ${x}`; // t\n", "const u = `// ${x}`; \n", "// t\n"),
        ("vue", "<!-- a -->\n<a href=https://b.c/>\n", "<a href=https://b.c/>\n", "<!-- a -->\n"),
        ("shell", "echo $# ${#a} # n\n#!x\n", "echo $# ${#a} \n", "# n\n#!x\n"),
        (
            "python",
            'def f():\n    """Doc."""\n    return "#"  # c\n',
            'def f():\n    return "#"  \n',
            '    """Doc."""\n# c\n',
        ),
        ("python", 'f(\n"""a"""\n)\nx = """b"""\n', 'f(\n)\nx = """b"""\n', '"""a"""\n'),
        ("lua", "--[[ a\nb ]]\nx = 1 -- c\n", "x = 1 \n", "--[[ a\nb ]]\n-- c\n"),
        ("lua", "--[[ never closed\nx = 1\n", "x = 1\n", "--[[ never closed\n"),
        ("haskell", "{- a -}\nf' x = 1 -- b\n", "f' x = 1 \n", "{- a -}\n-- b\n"),
        ("sql", "-- a\nselect '--' from t; /* b */\n", "select '--' from t; \n", "-- a\n/* b */\n"),
        ("perl", "$#x; # a\n\n=pod\n\nb\n\n=cut\n\nmy $y;\n", "$#x; \n\n\nmy $y;\n", "# a\n=pod\n\nb\n\n=cut\n"),
        ("batchfile", "@echo off\nREM a\n:: b\necho rem c\n", "@echo off\necho rem c\n", "REM a\n:: b\n"),
        ("emacs lisp", '(setq a ";") ; b\n;; c\n', '(setq a ";") \n', "; b\n;; c\n"),
        ("protocol buffer", "// a\nmessage M {} // b\nmessage N {}\n", "message M {} \nmessage N {}\n", "// a\n// b\n"),
        ("fortran free form", "x = 'a!b' ! c\n", "x = 'a!b' \n", "! c\n"),
    ],
)
def test_lexical_split(language: str, text: str, code: str, comment: str):
    split = lexical_split(text, language)
    assert (split.code, split.comment) == (code, comment)


def test_literals_know_escapes_and_comments_with_apostrophes():
    split = lexical_split('// don\'t\nputs("say \\"hi\\""); // isn\'t\nputs("x");\n', "c")
    assert split.strings == Literals('say \\"hi\\"\nx\n', len('say \\"hi\\"x'))
    assert split.strings_in_line == split.strings


def test_a_language_without_known_comments_has_none():
    assert lexical_split("# a\n", "brainfuck").comment_characters is None


def test_languages_without_a_lexer_have_comments_of_their_own():
    text = "// head\nmessage A {}\n" + "message B {}\n" * 50
    assert lexical_split(text, "protocol buffer").comment == "// head\n"
    assert pygments_split(text, "protocol buffer").comment == text  # what the released filter makes of it


def test_each_language_belongs_to_one_family_and_is_known():
    named = [language for family in lexical._SYNTAX.values() for language in family["languages"]]
    assert len(named) == len(set(named))
    unknown = [language for language in named if languages.canonical(language) == languages.UNKNOWN]
    assert not unknown


@pytest.mark.parametrize("language", ["c", "javascript", "python", "scheme", "pascal", "assembly", "m4", "perl", "php"])
@pytest.mark.parametrize("unit", ["/*", '" \\', "'", "{ (* ", "=/[", "*", "=pod\n", "x = '''", "dnl"])
def test_splitting_takes_linear_time(language: str, unit: str):
    text = unit * (200_000 // len(unit))
    start = time.process_time()
    lexical_split(text, language)
    assert time.process_time() - start < 2


def test_the_tables_name_their_families_once():
    path = pathlib.Path(lexical.__file__).parent / "syntax.toml"
    assert path.read_text("utf-8").count("\n[") == len(lexical._SYNTAX)
