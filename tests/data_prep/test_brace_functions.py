from __future__ import annotations

import sysconfig
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.brace_functions import LANGUAGES, Function, documented_functions

C = r"""#include <string.h>

/* A type, not a function. */
struct pair {
    int a, b;
};

/*
 * Count how often a character occurs in a text.
 *
 * The terminator "}" doesn't count.
 */
static size_t
count(const char *text, char wanted)
{
    size_t n = 0;
    for (size_t i = 0; i < strlen(text); i++) {
        if (text[i] == wanted && wanted != '{') /* { */
            n++; // }
    }
    return n;
}

/* Too far above. */

int far(int x) {
    return x;
}

/** \brief Twice the \p x
 *  \param x anything */
int twice(int x) {
    return helper(x) * LIMIT;
}

// Says that
// it is an alias.
#define alias(x) {

/* A declaration. */
int declared(int x);

/* One line. */
int one(int x) { return x; }

/* A stub. */
void stub(void) {
}

/* Which of these is compiled? */
int conditional(int x) {
#if A
    if (x) {
#else
    if (!x) {
#endif
        x = 1;
    }
    return x;
}

/* Leave alone what an odd quote's in. */
int last(int x) {
    return x + 1;
}
"""


def test_functions_are_cut_with_their_comment() -> None:
    count, twice, last = documented_functions(C.replace("\n", "\r\n"), "c")
    source = "/*\n * Count" + C.split("/*\n * Count")[1].split("\n\n/* Too far")[0] + "\n"
    assert count.source == count.document == source
    assert count.header.endswith("wanted)\n{\n")
    assert count.signature == "static size_t count(const char *text, char wanted)"
    assert C.split("\n")[count.line - 1 :][:2] == ["/*", " * Count how often a character occurs in a text."]
    assert count.docstring == 'Count how often a character occurs in a text.\n\nThe terminator "}" doesn\'t count.'
    assert count.summary == "Count how often a character occurs in a text."
    assert (count.missing, count.stands_alone) == ((), True)
    assert (twice.name, twice.summary, twice.missing) == ("twice", "Twice the x.", ("LIMIT", "helper"))
    assert not twice.stands_alone
    assert (last.name, last.undocumented) == ("last", "int last(int x) {\n    return x + 1;\n}\n")


def only(text: str, language: str) -> Function:
    (function,) = documented_functions(text, language)
    assert documented_functions(text, "python") == []
    return function


@pytest.mark.parametrize(
    ("language", "text", "name", "missing"),
    [
        (
            "cpp",
            "/// Adds.\ntemplate <class T>\nT A::add(std::vector<T> x) const {\n  return x;\n}\n",
            "add",
            ("this",),
        ),
        ("csharp", "/// <summary>\n/// Adds.\n/// </summary>\n[Pure]\nint Add(int x)\n{\n\treturn x;\n}\n", "Add", ()),
        ("java", "/** Adds. */\n@A(b = {1})\n<T> int add(T x) throws E {\n  return y.z();\n}\n", "add", ("y",)),
        ("javascript", "/** Adds. */\nconst add = async (x) => {\n  return `{` + /}/;\n};\n", "add", ()),
        ("javascript", "// Adds.\nexport default function* add(x) {\n  yield this.y;\n}\n", "add", ("this",)),
        ("typescript", "// Adds.\nexport function add<T>(x: {y: T}): T {\n  return x.y;\n}\n", "add", ()),
        ("go", "// Adds.\nfunc (a *A) add(x interface{}) int {\n\treturn len(x)\n}\n", "add", ("this",)),
        ("go", "// Adds.\nfunc add[T any](x []T) int {\n\ty, z := 1, fmt.X\n\treturn y.a + z.a\n}\n", "add", ("fmt",)),
        ("rust", "/// Adds.\n#[inline]\npub(crate) unsafe fn add<'a>(x: &'a T) -> char {\n    '}'\n}\n", "add", ()),
        (
            "php",
            "/** Adds. */\npublic static function &add($x) {\n  return $this->y(TODO);\n}\n",
            "add",
            ("$this", "TODO"),
        ),
        ("kotlin", "/** Adds. */\nprivate fun <T> List<T>.add(x: T): Int {\n  return y(x)\n}\n", "add", ("y",)),
        ("scala", "/** Adds. */\ndef add(x: Int): Int = {\n  return x\n}\n", "add", ()),
        (
            "java",
            "/** Adds. */\nint add(int x) {\n  for (Node n : nodes)\n    x++;\n  return x;\n}\n",
            "add",
            ("nodes",),
        ),
        ("swift", "/// Adds.\npublic func add(x: Int) -> Int {\n  return x\n}\n", "add", ()),
        ("dart", "/// Adds.\nint add(int x) {\n  return x;\n}\n", "add", ()),
    ],
)
def test_languages(language: str, text: str, name: str, missing: tuple[str, ...]) -> None:
    function = only(text, language)
    assert (function.name, function.missing, function.summary) == (name, missing, "Adds.")
    assert function.source == text
    method = only("class X {\n" + "".join(f"\t{line}\n" for line in text.splitlines()) + "}\n", language)
    assert (method.source, method.line) == (text, 2)


@pytest.mark.parametrize(
    "text",
    [
        "/** A class. */\nclass A {\n  int x;\n}\n",
        "/** A constructor. */\nA(int x) {\n  y = x;\n}\n",
        "/** A block. */\nif (x) {\n  y = x;\n}\n",
        "/** An object. */\nA a = new A(x) {\n  int x;\n};\n",
        "/** A record. */\npublic record A(int x) {\n  int y;\n}\n",
        '/** A text block. */\nString a(int x) {\n  return """\n  }\n  """;\n}\n',
        "/** No partner. */\nint a(int x) {\n  return (x;\n}\n",
        "/** Not closed */ int b;\nint a(int x) {\n  return x;\n}\n",
        "  /** Indented. */\n  int a(int x) {\nlabel:\n    return x;\n  }\n",
        "int b; /** Not above. */\nint a(int x) {\n  return x;\n}\n",
        "/** Never closed.\nint a(int x) {\n  return x;\n}\n",
    ],
)
def test_other_things_are_not_taken(text: str) -> None:
    assert documented_functions(text, "java") == []


def test_functions_in_functions_are_not_taken_apart() -> None:
    text = "// Outer one.\nfunction a(x) {\n  // Inner one.\n  function b(y) {\n    return y;\n  }\n  return b;\n}\n"
    assert only(text, "javascript").source == text


FRAGMENTS = [
    "/* A. */",
    "// B",
    "\n",
    "\n",
    "int f(int x) ",
    "{",
    "}",
    "(",
    ")",
    '"',
    "'",
    ";",
    "x",
    "\t",
    "func f() ",
    "`",
]


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=40).map("".join) | st.text(), st.sampled_from(sorted(LANGUAGES)))
def test_what_is_cut_stands_in_the_file_and_is_balanced(text: str, language: str) -> None:
    for function in documented_functions(text, language):
        margin = text.replace("\r\n", "\n").split("\n")[function.line - 1]
        margin = margin[: len(margin) - len(margin.lstrip())]
        lines = [line.removeprefix(margin) for line in text.replace("\r\n", "\n").split("\n")]
        assert "\n".join(lines).find(function.source.rstrip("\n")) >= 0
        assert function.head.rstrip().endswith("{") and function.body.rstrip().rstrip(";").endswith("}")


STATEMENTS = st.sampled_from(
    ['s = "}{\\"";', "c = '{';", "/* } */ x++;", "// {", "if (x) {\n    y();\n  }", "z[0] = (1);"]
)


@given(st.lists(STATEMENTS, min_size=1), st.sampled_from(["c", "cpp", "java", "csharp"]))
def test_any_body_is_found_to_its_end(statements: list[str], language: str) -> None:
    body = "".join(f"  {statement}\n" for statement in statements)
    function = f"/* Text. */\nint f(int x) {{\n{body}  return x;\n}}\n"
    assert [f.source for f in documented_functions(f"int a;\n\n{function}\nint b;\n", language)] == [function]


@pytest.mark.parametrize(
    "unit",
    [
        "/**/\n",
        "/**/int f(",
        "/* a */\nint f(int x) {\n",
        "// a\n@",
        "/* a */\nint ",
        "{",
        "'",
        "x ",
        "/*a*/ ",
        "a::b<",
        "*",
        "]",
    ],
)
@pytest.mark.parametrize("language", ["cpp", "rust", "typescript", "go"])
def test_time_is_linear(unit: str, language: str) -> None:
    seconds = []
    for size in (25_000, 200_000):
        filler = unit * (size // len(unit))
        text = f"{filler}\n/* {filler} x */\nint f(int x) {{\n  {filler}\n}}\n"
        started = time.process_time()
        documented_functions(text, language)
        seconds.append(time.process_time() - started)
    assert seconds[1] < 24 * seconds[0] + 0.2


def test_headers_of_the_interpreter_have_documented_functions() -> None:
    include = Path(sysconfig.get_path("include"))
    found = [f for path in include.rglob("*.h") for f in documented_functions(path.read_text("utf-8"), "c")]
    assert len(found) > 20
    assert all(function.source.count("{") >= 1 and function.name in function.signature for function in found)
