from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_prep.notices import remove_notice

INTEL = """/*
 * Copyright (c) 2014-2016, Intel Corporation
 *
 * Redistribution and use in source and binary forms, with or without
 * modification, are permitted provided that the following conditions are met:
 *
 *   1. Redistributions of source code must retain the above copyright notice.
 *
 * THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS "AS IS" WITHOUT WARRANTY.
 */
"""
APACHE = """# Copyright 2020 The Authors. All Rights Reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS.
# ==============================================================================
"""

# name -> (language, doc_type, before, after)
CASES: dict[str, tuple[str, str, str, str]] = {
    "c": ("c", "code", INTEL + "\n#include <math.h>\n", "#include <math.h>\n"),
    "python": (
        "python",
        "code",
        "#!/usr/bin/env python\n# -*- coding: utf-8 -*-\n" + APACHE + '"""Adds numbers."""\n',
        '#!/usr/bin/env python\n# -*- coding: utf-8 -*-\n"""Adds numbers."""\n',
    ),
    "description stays": (
        "c",
        "code",
        "/* queue.c - a lock-free queue\n *\n * (c) 2003 J.\n * MIT License\n *\n * Pushes never wait.\n */\nint n;",
        "/* queue.c - a lock-free queue\n *\n * Pushes never wait.\n */\nint n;",
    ),
    "notice first, description last": (
        "javascript",
        "code",
        "/** Copyright (c) Facebook, Inc.\r\n *\r\n * Renders a tree. */\r\nrender();\r\n",
        "/*\r\n * Renders a tree. */\r\nrender();\r\n",
    ),
    "two comments around one": (
        "go",
        "code",
        "// +build linux\n/* Copyright 2020 Me */\n\n// Package a does b.\npackage a\n",
        "// +build linux\n\n// Package a does b.\npackage a\n",
    ),
    "php": (
        "php",
        "code",
        "<?php\n\n/*\n * This file is part of the Foo package.\n *\n * (c) 2011 Fabien <f@a.com>\n */\nnamespace A;\n",
        "<?php\n\n/*\n * This file is part of the Foo package.\n */\nnamespace A;\n",
    ),
    "include guard": (
        "c",
        "code",
        "#ifndef A_H\n#define A_H\n// Copyright 2011 Google Inc.\n\nint a;\n",
        "#ifndef A_H\n#define A_H\nint a;\n",
    ),
    "lisp": (
        "emacs lisp",
        "code",
        ";;; a.el --- does a\n\n;; Copyright (C) 2001 X\n\n(a)\n",
        ";;; a.el --- does a\n\n(a)\n",
    ),
    "sql": ("sql", "code", "-- SPDX-License-Identifier: MIT\nSELECT 1;\n", "SELECT 1;\n"),
    "lua": ("lua", "code", "--[[\n  Copyright 2020 X\n]]\nlocal a\n", "local a\n"),
    "erlang": (
        "erlang",
        "code",
        "%%% @copyright 2020 X\n%%%\n%%% @doc Sums.\n-module(a).\n",
        "%%% @doc Sums.\n-module(a).\n",
    ),
    "html": ("html", "code", "<!DOCTYPE html>\n<!-- Copyright 2020 X -->\n<html>\n", "<!DOCTYPE html>\n<html>\n"),
    "xml": (
        "xml",
        "data",
        "<?xml version='1.0'?>\n<!--\n  Licensed to the ASF under one\n  or more agreements.\n-->\n<a/>\n",
        "<?xml version='1.0'?>\n<a/>\n",
    ),
    "batch": (
        "batchfile",
        "code",
        "@echo off\nREM Copyright 2020 X\nREM\nREM Builds.\ndir\n",
        "@echo off\nREM Builds.\ndir\n",
    ),
    "ocaml": ("ocaml", "code", "(* Copyright INRIA *)\nlet a = 1\n", "let a = 1\n"),
    "fortran": ("fortran", "code", "C     Copyright 1990 X\n      INTEGER I\n", "      INTEGER I\n"),
    "basic": ("visual basic .net", "code", "' Copyright 2020 X\nDim a\n", "Dim a\n"),
    "vim": ("vim script", "code", '" License: MIT\nlet a = 1\n', "let a = 1\n"),
    "only a notice": ("python", "code", APACHE, ""),
    "c sharp": ("csharp", "code", "// Copyright (c) Me. All rights reserved.\nclass A {}\n", "class A {}\n"),
    "justified": ("c", "code", "/* Permission  is  hereby\n * granted to all. */\nint a;\n", "int a;\n"),
    "markdown": ("markdown", "text", "<!-- Copyright 2020 X -->\n# License\n", "# License\n"),
}
UNTOUCHED = {
    "later comment": ("c", "code", "int a;\n/* Copyright 2020 X */\n"),
    "other comment": ("python", "code", "# Finds copyright notices in a tree of files.\nimport os\n"),
    "code behind it": ("c", "code", "/* Copyright 2020 X */ int a;\n"),
    "never closed": ("c", "code", "/* Copyright 2020 X\nint a;\n"),
    "define": ("c", "code", '#define COPYRIGHT "Copyright (c) 2020 X"\n'),
    "style sheet": ("css", "code", "#copyright: 2020 { color: red }\n"),
    "minified": ("javascript", "code", ";(function(){/* Copyright 2020 X */})()\n"),
    "heading": ("markdown", "text", "# License\n\nMIT License, Copyright 2020 X\n"),
    "docstring": ("python", "code", '"""Copyright 2020 X"""\n'),
}


@pytest.mark.parametrize("name", CASES)
def test_notice_is_removed(name: str) -> None:
    language, doc_type, before, after = CASES[name]
    assert remove_notice(before, language, doc_type) == after


@pytest.mark.parametrize("name", UNTOUCHED)
def test_stays_as_it_is(name: str) -> None:
    language, doc_type, text = UNTOUCHED[name]
    assert remove_notice(text, language, doc_type) == text


FRAGMENTS = "\n|\r\n|\n\n|\t| |#|# |//|/*|*/| * |<!--|-->|-- |(*|*)|#<|;|%|!|'|REM |a|:|<|>|====".split("|")
FRAGMENTS += "copyright 2020|licensed| under| the| terms|© |all rights| reserved|#!|<?php|#include|#define A".split("|")


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=40).map("".join), st.sampled_from(["python", "c", "fortran"]))
@example("// all\n/* © */\n// rights reserved\n", "c")
def test_second_pass_changes_nothing(text: str, language: str) -> None:
    once = remove_notice(text, language)
    assert remove_notice(once, language) == once
    remaining = iter(text + "\n")  # nothing is added but blank lines and the delimiters of a shortened comment
    assert all(c in remaining for c in once if not c.isspace())


@pytest.mark.parametrize(
    "unit",
    [
        "# copyright\n",
        "# a\n",
        "/**/\n",
        "/*\n",
        "/* the ",
        "{-",
        "(* a *)\n",
        "© ",
        "#",
        "# see the \n",
        "\n",
        "//\n\n",
    ],
)
def test_time_is_linear(unit: str) -> None:
    text = unit * (8_000_000 // len(unit))
    start = time.process_time()
    remove_notice(text)
    assert time.process_time() - start < 3
