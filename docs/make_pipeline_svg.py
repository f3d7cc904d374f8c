"""Draws docs/pipeline.svg, the picture of the README: python docs/make_pipeline_svg.py"""

import pathlib

ROWS = [
    ("data_prep", "#0f766e", [
        ("sources", "packages, git, archives,\nParquet, JSONL, notebooks"),
        ("dedup", "SHA-256, then MinHash\n2,048 hashes, 16 × 128"),
        ("transform", "copyright headers,\nPII → placeholders"),
        ("filter", "quality signals,\nthresholds as data"),
        ("sample, split", "ratios per language,\nheld-out repositories"),
    ]),
    ("meeting point", "#57534e", [
        ("tokenizer", "SentencePiece BPE,\nexact for every byte"),
        ("ArrayRecord shards", "shuffled by hash, TFDS\nmetadata, digests"),
        ("annealing data", "algorithmic code,\ndocumented functions"),
        ("instructions", "two sets of\nChatML conversations"),
        ("funnel.json", "what was dropped\nwhere, and why"),
    ]),
    ("oc_jax", "#4338ca", [
        ("pretrain", "warm-up, stable\n(WSD)"),
        ("anneal", "exponential decay,\n16 % high quality"),
        ("SFT 1 → SFT 2", "breadth, then quality,\nloss on answers"),
        ("evaluate", "bits per byte, HumanEval\nin a sandbox, samples"),
        ("report", "one page that\nexplains all of it"),
    ]),
]  # fmt: skip
WIDTH, HEIGHT, BOX, GAP = 1120, 380, 188, 16


def main() -> None:
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="system-ui, sans-serif">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="12" fill="#fafaf9"/>',
        '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#78716c"/></marker></defs>',
    ]
    for row, (name, colour, boxes) in enumerate(ROWS):
        y = 22 + row * 118
        middle = y + 48
        parts.append(
            f'<text x="34" y="{middle}" font-size="13" font-weight="600" fill="{colour}" text-anchor="middle" '
            f'transform="rotate(-90 34 {middle})">{name}</text>'
        )
        for column, (title, text) in enumerate(boxes):
            x = 62 + column * (BOX + GAP + 4)
            parts.append(
                f'<rect x="{x}" y="{y}" width="{BOX}" height="96" rx="8" fill="white" stroke="{colour}"/>'
                f'<text x="{x + 14}" y="{y + 30}" font-size="15" font-weight="600" fill="#1c1917">{title}</text>'
            )
            for line, words in enumerate(text.split("\n")):
                parts.append(
                    f'<text x="{x + 14}" y="{y + 54 + 18 * line}" font-size="12.5" fill="#57534e">{words}</text>'
                )
            if column and name != "meeting point":
                parts.append(
                    f'<line x1="{x - GAP - 3}" y1="{middle}" x2="{x - 2}" y2="{middle}" stroke="#78716c" '
                    'stroke-width="1.5" marker-end="url(#a)"/>'
                )
    for y in (118, 236):
        parts.append(
            f'<line x1="{WIDTH / 2}" y1="{y + 2}" x2="{WIDTH / 2}" y2="{y + 20}" stroke="#78716c" stroke-width="1.5" '
            'marker-end="url(#a)"/>'
        )
    parts.append("</svg>")
    pathlib.Path(__file__).with_name("pipeline.svg").write_text("\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
