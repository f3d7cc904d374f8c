"""Signals of C, C++, C#, Go, Java, JavaScript, TypeScript and HTML in the default profile."""

from __future__ import annotations

import time

import pytest

from data_prep.quality.profiles import PROFILES, measure


def signals(text: str, language: str, path: str = "") -> dict[str, float | None]:
    values, failures = measure(text, language, "code", len(text), PROFILES["refinecode"], path)
    assert not failures
    return values


C = """\
#include <stdio.h>
#  include "list.h"
static int count;
int add(int a, int b);           /* a prototype */
static struct list *
append(struct list *head, int value)
{
    if (head == NULL) {
        return make_list(value);
    }
    for (int i = 0; i < 3; i++) {
        goto done;
    }
done:
    return head;
}
int main(void) { printf("%d", add(1, 2)); return 0; }
"""
CPP = """\
Point::Point(double x, double y) : x_(x), y_(y) {
}
auto names(const std::vector<std::string>& all) -> std::map<std::string, int> {
    std::transform(all.begin(), all.end(), [](const auto& one) {
        return one;
    });
    std::cout << "done";
    return {};
}
"""
CSHARP = """\
using System;
using static System.Math;
using Text = System.Text;
public class Point : IPoint {
    private int x;
    public Point(int x) { this.x = x; }
    public int Twice() => 2 * x;
    public void Show() {
        foreach (var c in Name) { Console.WriteLine(c); }
        return;
    }
}
"""
GO = """\
package main

import (
	"fmt"
	str "strings"
)

type Point struct {
	x int
}

func (p *Point) Twice() (int, error) {
	fmt.Println("twice")
	return 2 * p.x, nil
}

func main() {
	return
}
"""
JAVA = """\
import java.util.List;
import static java.lang.Math.max;
public class Point {
    private long number_of;
    private final Map<String, List<Integer>> table = null;
    Point(int x) { table = x; }
    public List<String> names(int max) throws IOException {
        run(() -> {
            return 1;
        });
        return table;
    }
}
"""


@pytest.mark.parametrize(
    ("text", "language", "functions", "without_logic"),
    [
        (C, "c", 2, 2 + 2 + 1 + 1),  # functions, includes, a variable without value, a simple return
        (CPP, "cpp", 2, 2 + 1),  # the lambda returns a name
        (CSHARP, "csharp", 3, 3 + 3 + 1 + 1 + 1),  # …, a variable, a return and a class
        (GO, "go", 2, 2 + 2 + 1 + 1),
        (JAVA, "java", 2, 2 + 2 + 1 + 1 + 2),
    ],
)
def test_constructs_are_counted(text: str, language: str, functions: int, without_logic: int):
    lines = len([line for line in text.splitlines() if line.strip()])
    found = signals(text, language)
    assert found["frac_lines_func_ratio"] == pytest.approx(functions / lines)
    assert found["score_lines_no_logic"] == pytest.approx(without_logic / lines)
    assert found["cate_var_zero"] == 0
    assert found["frac_lines_print"] == pytest.approx((0 if language == "java" else 1) / lines)


def test_signals_of_c_alone():
    found = signals(C, "c", "list.c")
    assert found["nums_lines_main"] == 1
    assert found["frac_lines_goto"] == pytest.approx(1 / 17)
    assert found["frac_lines_preprocessor_directives"] == pytest.approx(2 / 17)  # and not the line with "struct"
    assert signals(C, "c", "list.h")["frac_lines_preprocessor_directives"] is None


def test_names_and_modifiers_of_java():
    found = signals(JAVA, "java")
    assert found["frac_words_no_modifier"] == pytest.approx(1 / 3)  # the constructor
    assert found["frac_words_legal_var_name"] == pytest.approx(3 / 4)  # number_of is not in camel case
    assert found["frac_words_legal_func_name"] == 0.5  # nor is Point, which is a constructor
    assert found["frac_words_legal_class_name"] == 1


@pytest.mark.parametrize(
    ("text", "language", "none"),
    [
        ("import java.util.List;\npublic class Empty {\n}\n", "java", 1),
        ("public @interface Mark {\n}\n", "java", 0),  # nobody expects variables of it
        ('package time\n\nimport _ "time/tzdata"\n', "go", 1),
        ("package time\n\nvar x int\n", "go", 0),
        ("namespace A { class B { } }\n", "csharp", 1),
        ("public interface IEmpty {\n}\n", "csharp", 0),
        ("export interface Empty {}\n", "typescript", 1),
        ("export const f = ({ a }) => a;\n", "javascript", 0),
        ("console.log('hello');\n", "javascript", 1),
    ],
)
def test_files_without_variables(text: str, language: str, none: int):
    assert signals(text, language)["cate_var_zero"] == none


def test_go_tests_are_known_by_the_name_of_the_file():
    assert signals(GO, "go", "a/b/point_test.go")["cate_testfile"] == 1
    assert signals(GO, "go", "a/b/point.go")["cate_testfile"] == 0


MODERN = """\
#!/usr/bin/env node
import a from "a";
export * as b from "b";
class Counter {
  #count = 1_000n;
  static total = 0;
  next() { return this.#count ?? a?.b; }
}
const twice = (x) => 2 * x;
exports.thrice = function (x) { return 3 * x; };
try { twice(import.meta.url); } catch {}
"""


def test_modern_javascript_parses():
    found = signals(MODERN, "javascript")
    assert found["cate_ast"] == 1
    assert found["frac_lines_func_ratio"] == pytest.approx(3 / 11)  # next, twice and thrice
    assert found["score_lines_no_logic"] == pytest.approx((3 + 1 + 1) / 11)  # …, an import and a class
    assert found["num_statement_line"] == pytest.approx(6 / 11)
    assert found["frac_words_legal_var_name"] == 1
    assert signals(MODERN + "class {\n", "javascript")["cate_ast"] == 0


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("const view = <p className='x'>{text}</p>;\n", "javascript"),
        ("const view = (p: Props): Node => <p>{text}</p>;\n", "tsx"),
        ("function f(x: number): string { return `${x}`; }\n", "javascript"),  # Flow
        ("export declare const day: import('./types').Fn<number, string>;\n", "typescript"),
        ("let x = <Element>y;\n", "typescript"),
    ],
)
def test_dialects_parse(text: str, language: str):
    assert signals(text, language)["cate_ast"] == 1


def test_text_of_a_page():
    page = "<!DOCTYPE html><script>var x = '<p>no</p>';</script><p class='a'>5 &lt; 6</p><!-- <p>no</p> -->"
    found = signals(page, "html")
    assert found["num_chars_text"] == len("5 < 6")
    assert found["frac_words_text"] == pytest.approx(len("5 < 6") / len("<!DOCTYPE html><p class='a'>5 &lt; 6</p>"))
    assert found["cate_ast"] == 1
    assert signals("no tags, 1 < 2", "html")["cate_ast"] == 0
    assert signals("<p>text</p><script>never closed", "html")["num_chars_text"] == len("textnever closed")


@pytest.mark.parametrize("language", ["c", "cpp", "csharp", "go", "java", "html", "javascript", "typescript"])
@pytest.mark.parametrize(
    "unit", ["ab ", "a()\n", "a(", "f(a, ", "<script>", "{", "return x;\n", "int a,", "<a ", "class a:\n"]
)
def test_no_repetition_takes_long(language: str, unit: str):
    text = unit * (200_000 // len(unit))
    start = time.process_time()
    _, failures = measure(text, language, "code", len(text), PROFILES["refinecode"])
    assert time.process_time() - start < 8
    assert all(cause.startswith("OverBudgetError: ") for cause in failures.values())
