from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep import languages
from data_prep.tables import generate


@pytest.mark.parametrize(
    "path, expected",
    [
        ("src/main.c", ("c", "code")),
        ("Main.java", ("java", "code")),
        ("a.b/server.go", ("go", "code")),
        ("x.tar.py", ("python", "code")),
        ("CMakeLists.txt", ("cmake", "code")),  # the name counts more than the extension
        ("deep/Cargo.lock", ("toml", "data")),
        ("Dockerfile", ("dockerfile", "code")),
        ("profile.py", ("python", "code")),  # not the shell file `profile`
        ("old.C", ("cpp", "code")),  # the case counts where the table knows both
        ("MODULE.PY", ("python", "code")),
        ("plot.R", ("r", "code")),
        ("configure.sh.in", ("shell", "code")),
        ("notes.md", ("markdown", "text")),
        ("data.json", ("json", "data")),
        ("table.csv", ("csv", "excluded")),
        ("board.gbr", ("gerber image", "data")),  # as the paper lists it
        ("SHA256SUMS", ("checksums", "excluded")),
        ("Token.sol", ("solidity", "code")),
        ("analysis.ipynb", ("jupyter notebook", "code")),
        ("README", ("unknown", "unknown")),
        ("photo.jpeg", ("unknown", "unknown")),
        ("dot.", ("unknown", "unknown")),
        ("", ("unknown", "unknown")),
    ],
)
def test_names(path: str, expected: tuple[str, str]) -> None:
    assert languages.detect(path, None) == expected


@pytest.mark.parametrize(
    "first_line, language",
    [
        ("#!/usr/bin/python", "python"),
        ("#! /usr/bin/env python3.11", "python"),
        ("#!/usr/bin/env -S LANG=C python3 -u", "python"),
        ("#!/bin/sh -e", "shell"),
        ("#!/usr/local/bin/bash", "shell"),
        ("#!/usr/bin/perl -w", "perl"),
        ("#!/usr/bin/env node", "javascript"),
        ("#!/usr/bin/env ruby", "ruby"),
        ("#!/usr/bin/env", "unknown"),
        ("#!", "unknown"),
        ("#!/bin/unheard-of", "unknown"),
        ("# !/bin/sh", "unknown"),
    ],
)
def test_interpreter_counts_only_where_the_name_says_nothing(first_line: str, language: str) -> None:
    text = first_line + "\nrest of the file\n"
    assert languages.detect("bin/tool", text)[0] == language
    assert languages.detect("tool.lua", text) == ("lua", "code")


@given(st.text(), st.none() | st.text())
def test_any_name_has_a_language_and_a_type(path: str, text: str | None) -> None:
    language, kind = languages.detect(path, text)
    assert language and kind in ("code", "data", "text", "excluded", "unknown")
    assert languages.doc_type(language) == kind


def test_names_of_other_data_sets() -> None:
    assert [languages.canonical(name) for name in ("C++", "C#", "Python", "Klingon", None)] == [
        "cpp",
        "csharp",
        "python",
        "unknown",
        "unknown",
    ]


CONTENTS = [
    ("list.h", "struct list { struct list *next; };\nint length(const struct list *);\n", "c"),
    ("list.h", '#ifdef __cplusplus\nextern "C" {\n#endif\nvoid f(void); /* operator of a class */\n', "c"),
    ("list.h", "#include <vector>\nstruct List { std::vector<int> items; };\n", "cpp"),
    ("list.h", "class List {\npublic:\n  int length() const;\n};\n", "cpp"),
    ("List.h", "#import <Foundation/Foundation.h>\n@interface List : NSObject\n@end\n", "objective-c"),
    ("f.m", "% sum of x\nfunction s = f(x)\ns = sum(x);\nend\n", "matlab"),
    ("f.m", "function s = f (x)\n  ## doc\n  #if debug\n  s = sum (x);\nendfunction\n", "matlab"),
    ("f.m", '#import "f.h"\n@implementation F\n@end\n', "objective-c"),
    ("f.m", "(* sum *)\nf[x_] := Total[x]\n", "mathematica"),
    ("f.m", ":- module f.\n:- interface.\n", "mercury"),
    ("f.m", 'implement F;\ninclude "sys.m";\n', "limbo"),
    ("F.m", "F ;sum of X\n ; more\n Q X+Y\n", "m"),
    ("adder.v", "module adder(input a, input b, output c);\n  assign c = a ^ b;\nendmodule\n", "verilog"),
    ("adder.v", "(* keep *)\nmodule adder(input a);\nendmodule\n", "verilog"),
    ("adder.v", "Lemma add_comm : forall n m, n + m = m + n.\nProof. intros. Qed.\n", "coq"),
    ("adder.v", "module main\n\nfn add(a int, b int) int {\n\treturn a + b\n}\n", "v"),
    ("list.pl", "use strict;\nmy %h;\nprint keys %h;\n", "perl"),
    ("list.pl", ":- module(list, [len/2]).\nlen([], 0).\n", "prolog"),
    ("list.t", "use Test::More tests => 1;\nok(1);\n", "perl"),
    ("list.t", "use v6;\nuse Test;\nplan 1;\n", "raku"),
    ("app_de.ts", '<?xml version="1.0"?>\n<TS language="de"></TS>\n', "xml"),
    ("app.ts", "export const x: Array<number> = [];\n", "typescript"),
    ("schema.sql", "CREATE TABLE a (b int);\n", "sql"),
    ("schema.sql", "SET NOCOUNT ON\nGO\n", "tsql"),
    ("schema.sql", "CREATE FUNCTION f() RETURNS int AS $$ BEGIN RETURN 1; END $$ LANGUAGE plpgsql;\n", "plpgsql"),
    ("schema.sql", "CREATE OR REPLACE PACKAGE p AS x VARCHAR2(9); END;\n/\n", "plsql"),
    ("setup.cfg", "[metadata]\nname = x\n", "ini"),
    ("proxy.cfg", "global\n    daemon\nfrontend www\n    bind *:80\n", "haproxy"),
    ("thesis.cls", "\\NeedsTeXFormat{LaTeX2e}\n", "tex"),
    ("Account.cls", "public class Account {\n}\n", "apex"),
    ("dgemm.f", "      SUBROUTINE DGEMM(A)\n      END\n", "fortran"),
    ("tools.f", ": square dup * ;\n", "forth"),
    ("site.pp", "class site {\n  file { 'a': ensure => present }\n}\n", "puppet"),
    ("unit1.pp", "unit unit1;\ninterface\nend.\n", "pascal"),
    ("table.inc", "<?php\n$a = 1;\n", "php"),
    ("boot.s", "\t.globl _start\n_start:\n\tmovl $1, %eax\n", "assembly"),
    ("Token.sol", "pragma solidity ^0.8.0;\ncontract Token {}\n", "solidity"),
    ("top.sol", "G04 top*\n%FSLAX24Y24*%\n", "gerber image"),
    ("player.gd", "extends Node2D\nfunc _ready():\n\tpass\n", "gdscript"),
    ("lib.gd", 'DeclareOperation( "Size", [ IsGroup ] );\n', "gap"),
    ("diet.mod", "param n;\nvar x {1..n} >= 0;\n", "ampl"),
    ("main.fs", "module Main\nlet f x = x + 1\n", "f#"),
    ("shade.fs", "#version 330\nvoid main() {}\n", "glsl"),
    ("Set.st", "Object subclass: #Set\n", "smalltalk"),
    ("main.d", "import std.stdio;\nvoid main() {}\n", "d"),
    ("main.d", "main.o: main.c \\\n  main.h\n", "makefile"),
    ("scan.l", "%{\n#include <stdio.h>\n%}\n%%\n", "lex"),
    ("util.l", "(defun f (x) x)\n", "common lisp"),
    ("app.pro", "TEMPLATE = app\nSOURCES += main.cpp\n", "qmake"),
    ("plot.pro", "pro plot\n  print, 1\nend\n", "idl"),
    ("day.q", "SELECT a FROM b WHERE c;\n", "hiveql"),
    ("day.q", "f:{x+y}\n", "q"),
    ("a.tst", "gap> 1+1;\n2\n", "gap"),
    ("film.srt", "1\n00:00:01,000 --> 00:00:02,000\nHello\n", "subrip text"),
    ("notes.txt", "plain\n", "text"),
    ("grep.1", ".TH GREP 1\n.SH NAME\n", "roff manpage"),
    ("libz.so.1", "something else\n", "unknown"),
]


@pytest.mark.parametrize("path, text, language", CONTENTS)
def test_content_decides_where_languages_share_an_extension(path: str, text: str, language: str) -> None:
    assert languages.detect(path, text)[0] == language
    assert languages.detect(path.upper(), text)[0] == language or path == "list.h"


def test_types_are_the_papers() -> None:
    tables = json.loads((Path(languages.__file__).parent / "tables" / "languages.json").read_text())
    added = set(tables["added"])
    counts = {kind: len(set(names) - added) for kind, names in tables["types"].items()}
    assert counts == {"code": 470, "data": 115, "text": 22, "excluded": 39}
    assert languages.doc_type("objective-c") == "code" and "objective-c" in added  # the paper has only limbo for .m


def test_every_language_can_be_found() -> None:
    tables = json.loads((Path(languages.__file__).parent / "tables" / "languages.json").read_text())
    found = {*tables["extensions"], *tables["filenames"]}
    found |= {name for rules in languages._AMBIGUOUS.values() for name in (*rules, rules["default"])}
    assert {name for names in tables["types"].values() for name in names} <= found


def test_the_released_filters_tables_are_kept() -> None:
    expected = {"a.m": "limbo", "a.h": "c", "a.sol": "gerber image", "a.v": "coq", "a.ipynb": "jupyter notebook"}
    assert {path: languages.detect_by_name(path, None)[0] for path in expected} == expected
    assert languages.detect_by_name("a.ipynb", None)[1] == "excluded"


@pytest.mark.parametrize(
    "unit", [" ", "\t", "\n", "a ", "(", "a: ", "case ", "func a", "{", "var a =", "/", "a/b ", '"']
)
def test_no_repetition_makes_a_pattern_slow(unit: str) -> None:
    text = (unit * 4096)[:4096]
    for extension in languages._AMBIGUOUS:
        start = time.process_time()
        languages.detect(f"x.{extension}", text)
        assert time.process_time() - start < 0.5, extension


@pytest.mark.slow
def test_the_table_is_what_the_generator_writes(tmp_path: Path) -> None:
    name = f"{generate.SOURCE['package']}@{generate.SOURCE['version']}"
    packed = subprocess.run(["npm", "pack", "--silent", name], cwd=tmp_path, capture_output=True, text=True)
    if packed.returncode:
        pytest.skip(f"npm cannot fetch {name}: {packed.stderr.strip()[-200:]}")
    made = generate.text(generate.table(generate.languages_of(tmp_path / packed.stdout.strip()), *generate.inputs()))
    assert made == (generate.HERE / "languages.json").read_text("utf-8")


def test_another_package_is_refused(tmp_path: Path) -> None:
    package = tmp_path / "other.tgz"
    package.write_bytes(b"something else")
    with pytest.raises(ValueError, match=re.escape("is not linguist-languages 9.5.0")):
        generate.languages_of(package)


def test_an_extension_that_nobody_decides_is_told() -> None:
    types, ambiguous = generate.inputs()
    entries = {
        name.strip(): {"name": name.strip(), "type": "programming", "extensions": [".zz"]}
        for kind in (*generate.KINDS, "added")
        for name in types[kind].split(",")
    }
    with pytest.raises(ValueError, match="ambiguous.toml lacks: zz"):
        generate.table({" ".join(name.split()): entry for name, entry in entries.items()}, types, ambiguous)
