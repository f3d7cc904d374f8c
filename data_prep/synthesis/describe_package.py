"""A process of its own: imports a package and says what its functions are. Needs the standard library only.

Names to look up come as JSON on standard input; the last line of the output is JSON: name → signature and docstring.
"""

import inspect
import json
import pydoc
import sys


def describe(names: list[str]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            value = pydoc.locate(name)
        except Exception:  # whatever importing a submodule may raise
            continue
        if callable(value) and (text := inspect.getdoc(value)):
            try:
                signature = str(inspect.signature(value))
            except (ValueError, TypeError):  # builtins need not have one; their docstring often begins with it
                signature = ""
            found[name] = f"{name}{signature}\n{text}"
    return found


if __name__ == "__main__":
    wanted = json.load(sys.stdin)
    __import__(sys.argv[1])
    print(f"\n{json.dumps(describe(wanted))}")
