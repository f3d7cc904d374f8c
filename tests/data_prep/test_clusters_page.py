from __future__ import annotations

import pathlib
import random
from collections.abc import Callable

import pytest
from etils import epath

from data_prep import clusters_page
from data_prep.dedup import fuzzy_dedup
from data_prep.engine import LocalEngine


def text(seed: int, changed: int = 0) -> str:
    """Sixty lines of five words; of the first lines so many are others."""
    draw, other = random.Random(seed), random.Random(seed + 1000)
    lines = [" ".join(f"w{draw.randrange(10**6)}" for _ in range(5)) for _ in range(60)]
    lines[:changed] = [" ".join(f"v{other.randrange(10**6)}" for _ in range(5)) for _ in range(changed)]
    return "\n".join(lines) + "\n"


def jaccard(one: str, other: str) -> float:
    sets = [set(zip(*(t.split()[i:] for i in range(5)), strict=False)) for t in (one, other)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


@pytest.fixture
def deduplicated(write_documents: Callable[..., epath.Path], tmp_path: pathlib.Path) -> epath.Path:
    """A cluster of three, one of two, a pair that is similar but below the threshold (0.93), and a file alone."""
    rows = [
        {"path": "big/one.py", "text": text(1), "stars": 9},
        {"path": "big/two.py", "text": text(1, 1), "stars": 3},
        {"path": "big/three.py", "text": text(1), "stars": None},
        {"path": "a/small.py", "text": text(2)},
        {"path": "b/small.py", "text": text(2)},
        {"path": "a/near.py", "text": text(3)},
        {"path": "b/near.py", "text": text(3, 6)},
        {"path": "alone.py", "text": text(4)},
    ]
    documents = write_documents("exact_dedup", rows[::2], rows[1::2])
    out = epath.Path(tmp_path / "fuzzy_dedup")
    out.mkdir()
    fuzzy_dedup(out, documents=documents, bands=8, rows=64, engine=LocalEngine(workers=1))
    return out


def test_the_page_tells_who_survived_and_why_and_how_similar_they_are(
    deduplicated: epath.Path, tmp_path: pathlib.Path
) -> None:
    out = tmp_path / "clusters.html"
    assert clusters_page.main([str(deduplicated), "--out", str(out)]) == 0
    page = out.read_text()
    assert "2 clusters with 5 members" in page
    largest = page[page.index("Largest clusters</h2>") : page.index("Pairs that were met</h2>")]
    assert largest.index("repo/big/one.py") < largest.index("repo/a/small.py")
    assert f"{jaccard(text(1), text(1, 1)):.3f}" in largest and ">stars<" in largest
    assert '<span class="less" data-n="1">' in largest and '<span class="more" data-n="1">' in largest
    unmet = page[page.index("Pairs that were not met</h2>") :]
    assert f"J = {jaccard(text(3), text(3, 6)):.3f}" in unmet and "near.py" in unmet
    assert "alone.py" not in page


def test_another_directory_is_refused(
    deduplicated: epath.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert clusters_page.main([str(deduplicated.parent / "exact_dedup"), "--out", str(tmp_path / "x.html")]) == 2
    assert "is not the output of fuzzy_dedup" in capsys.readouterr().err
