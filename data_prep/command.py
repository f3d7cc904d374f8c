"""What the commands of this package share: help made of the module's docstring, and one line for every mistake."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Sequence


def parser(module: str, doc: str | None) -> argparse.ArgumentParser:
    """The parser of ``python -m <module>``; what follows "Example" in its docstring stands below the flags."""
    summary, _, examples = (doc or "").partition("\n\nExample")
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=summary,
        epilog=examples and "example" + examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def one_line_errors(main: Callable[[Sequence[str] | None], int]) -> Callable[..., int]:
    """`main` that prints what a user can mend as one line and returns 2 for it."""

    @functools.wraps(main)
    def checked(argv: Sequence[str] | None = None) -> int:
        try:
            return main(argv)
        except (FileNotFoundError, ModuleNotFoundError, ValueError) as error:
            print(error, file=sys.stderr)
            return 2

    return checked
