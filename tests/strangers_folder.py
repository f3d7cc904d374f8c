"""A folder as strangers have them: little Python, other languages, prose, and everything that a file can have wrong."""

import gzip
import json
import os
import pathlib
import shutil
import sys
import sysconfig

JAVA = """package shapes;

/** Plane figures and what can be computed about them. */
public final class Figures {
    private static final double EPSILON = 1e-9;

    /**
     * Returns the area of a triangle from the lengths of its sides.
     *
     * @param a, b, c lengths that satisfy the triangle inequality
     */
    public static double triangleArea(double a, double b, double c) {
        double s = (a + b + c) / 2;
        return Math.sqrt(s * (s - a) * (s - b) * (s - c));
    }

    /**
     * Tells whether two lengths are equal up to rounding errors.
     */
    public static boolean equalLengths(double a, double b) {
        return Math.abs(a - b) < EPSILON;
    }

    /**
     * Counts the characters of a text that open or close a brace.
     */
    static int braces(String text) {
        int count = 0;
        for (char c : text.toCharArray()) {
            if (c == '{' || c == '}') {
                count++; // "}" in a comment
            }
        }
        return count;
    }
}
"""

GO = """package numbers

import "errors"

// ErrEmpty is returned where at least one number is needed.
var ErrEmpty = errors.New("no numbers")

// Sum returns the sum of all numbers in the slice.
func Sum(numbers []int) int {
	total := 0
	for _, n := range numbers {
		total += n
	}
	return total
}

// Largest returns the largest number or ErrEmpty for an empty slice.
func Largest(numbers []int) (int, error) {
	if len(numbers) == 0 {
		return 0, ErrEmpty
	}
	best := numbers[0]
	for _, n := range numbers[1:] {
		if n > best {
			best = n
		}
	}
	return best, nil
}
"""

JAVASCRIPT = """'use strict';

/**
 * Groups the items of an array by the value of a function.
 */
function groupBy(items, keyOf) {
  const groups = new Map();
  for (const item of items) {
    const key = keyOf(item);
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(item);
  }
  return groups;
}

// Returns a text in which the characters of HTML are escaped.
function escapeHtml(text) {
  return text
    .replace(/&/g, '&amp;')
    .replace(/[<{]/g, (c) => (c === '<' ? '&lt;' : '&#123;'))
    .replace(/"/g, `&quot;`);
}

module.exports = { groupBy, escapeHtml };
"""

MARKDOWN = """# Field notes

These pages tell how the tools in this folder came about, and what was learnt with each of them. The first was a small
calculator for areas of triangles; the second sums up numbers that come in slices; the third groups things.

## What worked

Keeping every tool in a file of its own made it easy to move them around. Tests were written by hand and run before
each journey. Nothing was thrown away, which is why there are broken files too.
"""

# Name below nasty/ → the reason it must be recorded with.
NASTY = {
    "latin1.c": "not_utf8",
    "zeros.c": "binary",
    "empty.js": "empty",
    "large.js": "too_large",
    "loop": "symlink",
    "dangling.c": "symlink",
    "pipe.c": "special_file",
    "broken.ipynb": "malformed_notebook",
    "truncated.gz": "binary",
}


def write(top: pathlib.Path, headers: int = 40) -> pathlib.Path:
    """Writes the folder: headers of Python's C interface, hand-written Java, Go, JavaScript and prose, nasty files."""
    include = pathlib.Path(sysconfig.get_path("include"))
    (top / "interface").mkdir(parents=True)
    for header in sorted(include.rglob("*.h"))[:headers]:
        shutil.copyfile(header, top / "interface" / header.name)
    files = {
        "shapes/src/Figures.java": JAVA,
        "shapes/README.md": MARKDOWN,
        "numbers/numbers.go": GO,
        "numbers/a name with spaces.go": GO.replace("numbers", "amounts").replace("Sum", "Total"),
        "web/group.js": JAVASCRIPT,
        "web/one\nname.js": JAVASCRIPT.replace("groupBy", "gather").replace("escapeHtml", "quoteHtml"),
        "web/notes.ipynb": json.dumps(notebook()),
        "script.py": '"""One Python file among many others."""\n\nimport sys\n\nprint(len(sys.argv))\n',
    }
    for name, text in files.items():
        path = top / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text)
    write_nasty(top / "nasty")
    return top


def notebook() -> dict:
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": ["# Squares\n", "A table of the first squares."]},
        {"cell_type": "code", "metadata": {}, "outputs": [], "source": ["for i in range(9):\n", "    print(i * i)\n"]},
    ]
    kernel = {"kernelspec": {"language": "python", "name": "python3"}}
    return {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}


def write_nasty(directory: pathlib.Path) -> None:
    directory.mkdir()
    (directory / "latin1.c").write_bytes("int größe;\n".encode("latin-1") * 30)
    (directory / "zeros.c").write_bytes(b"int a;\0\0\0int b;\n" * 30)
    (directory / "empty.js").write_bytes(b"")
    (directory / "large.js").write_bytes(b"var x = 1;\n" * 2_000_000)  # 22 MB
    (directory / "broken.ipynb").write_text(json.dumps(notebook())[:-40])
    (directory / "truncated.gz").write_bytes(gzip.compress(JAVA.encode() * 50)[:-30])
    (directory / "loop").symlink_to(directory)
    (directory / "dangling.c").symlink_to("nowhere.c")
    os.mkfifo(directory / "pipe.c")
    with open(os.fsencode(directory) + b"/\xff\xfe.go", "wb") as file:
        file.write(GO.encode())


if __name__ == "__main__":
    write(pathlib.Path(sys.argv[1]))
