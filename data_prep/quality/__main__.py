"""Signals, decision and reasons of every file below some directories, as one JSON object per line.

Examples:
  python -m data_prep.quality --out records.jsonl src
  python -m data_prep.quality --profile reference --out records.jsonl sample
  python -m data_prep.quality --out records.jsonl --threshold 'code/general.num_lines=< 5' src
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from data_prep import command, workers


@command.one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    parser = command.parser("data_prep.quality", __doc__)
    parser.add_argument("directories", nargs="+", metavar="DIR", help="paths in the records are relative to it")
    parser.add_argument("--profile", default="refinecode", help="reference or refinecode (default)")
    parser.add_argument("--out", required=True, help="JSON-lines file to write")
    parser.add_argument("--workers", type=int, default=0, help="processes, 0 for one per core (default)")
    parser.add_argument(
        "--threshold",
        action="append",
        default=[],
        metavar="GROUP.SIGNAL=RULE,…",
        help="rules that replace those of a group; none after the = switches them off",
    )
    flags = parser.parse_args(argv)
    if flags.workers != 1:
        workers.server("data_prep.quality.records")  # imports there while the next lines import here
    from etils import epath

    from data_prep.quality import records, rules

    logging.basicConfig(level=logging.WARNING if sys.stderr.isatty() else logging.INFO, format="%(message)s")
    thresholds = rules.parse_overrides(flags.threshold)
    out = epath.Path(flags.out)
    count = records.write(flags.directories, out, flags.profile, thresholds, flags.workers)
    if not count:
        print(f"there are no files below {', '.join(flags.directories)}; {flags.out} is empty", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
