from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from data_prep.sampling import draw, heldout_groups, sample, split, star_filter


def test_draw_is_uniform_and_never_changes() -> None:
    draws = [draw("salt", str(i)) for i in range(20_000)]
    assert all(abs(sum(x < q for x in draws) / len(draws) - q) < 0.01 for q in (0.05, 0.5, 0.9))
    assert draw("salt", "key") == 0.3370333480265101
    assert draw("salt", "key") != draw("pepper", "key")


def test_sample_keeps_the_share_of_each_language(
    write_documents: Callable[..., epath.Path], run_stage: Callable[..., Any]
) -> None:
    files = [
        {"path": f"{i}.{language}", "text": f"{language} {i}", "language": language}
        for i in range(1000)
        for language in ("java", "html", "python")
    ]
    source = write_documents("quality_filter", files)
    result, rows = run_stage(sample, documents=source)
    kept = {
        name: sum(row["language"] == name and not row["reasons"] for row in rows) for name in ("java", "html", "python")
    }
    assert kept["python"] == 1000
    assert abs(kept["java"] - 1000 * 200 / 449) < 50 and abs(kept["html"] - 1000 * 64 / 474) < 40
    assert {tuple(row["reasons"]) for row in rows} == {(), ("down_sampled: java",), ("down_sampled: html",)}
    assert result["files_kept"] == sum(kept.values())

    # A file's fate is its own: neither the other files nor their order matter.
    fate = {row["id"]: row["reasons"] for row in rows}
    shuffled = write_documents("other", files[::-7], files[:100:3])
    _, rows = run_stage(sample, "again", documents=shuffled)
    assert all(row["reasons"] == fate[row["id"]] for row in rows)
    _, rows = run_stage(sample, "salted", documents=source, salt="another")
    assert any(row["reasons"] != fate[row["id"]] for row in rows)


@pytest.mark.parametrize("ratios, message", [({"Java": 0.5}, "no language 'Java'"), ({"java": 1.5}, "between 0 and 1")])
def test_bad_ratios(ratios: dict[str, float], message: str, tmp_path: Any) -> None:
    with pytest.raises(ValueError, match=message):
        sample(epath.Path(tmp_path), keep_ratios=ratios)


def test_star_filter(write_documents: Callable[..., epath.Path], run_stage: Callable[..., Any]) -> None:
    source = write_documents("sample", [{"path": str(stars), "stars": stars} for stars in (None, 0, 4, 5, 900)])
    _, rows = run_stage(star_filter, documents=source)
    assert [row["reasons"] for row in rows] == [["stars < 5 (unknown)"], ["stars < 5 (0)"], ["stars < 5 (4)"], [], []]


SIZES = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.integers(0, 1000), max_size=12)


@given(SIZES, st.floats(0.01, 0.99), st.floats(0.01, 0.99), st.text(max_size=2))
def test_heldout_groups(sizes: dict[str, int], fraction: float, share: float, salt: str) -> None:
    held = heldout_groups(sizes, fraction, share, salt)
    assert held == heldout_groups(dict(reversed(sizes.items())), fraction, share, salt)
    assert held <= sizes.keys()
    if len(sizes) < 2:
        assert not held
        return
    assert 0 < len(held) < len(sizes)
    small = {name for name, size in sizes.items() if size <= share * sum(sizes.values())}
    assert held <= small if small else sizes[min(held)] == min(sizes.values())
    if len(held) > 1:
        assert all(draw(salt, name) < fraction for name in held)


def test_split_by_repository(write_documents: Callable[..., epath.Path], run_stage: Callable[..., Any]) -> None:
    files = [{"path": f"{i}", "text": "x" * 50, "repo": f"r{i % 60}"} for i in range(600)]
    files += [{"path": f"big{i}", "text": "x" * 1000, "repo": "big"} for i in range(9)]
    dropped = {"path": "d", "repo": "r1", "reasons": ["too_large"], "size": 10**9}
    source = write_documents("decontaminate", files[::2], [*files[1::2], dropped])
    result, rows = run_stage(split, documents=source, heldout_fraction=0.99)
    assert {row["split"] for row in rows if row["repo"] == "big"} == {"train"}  # a fifth of all bytes: too much to lose
    result, rows = run_stage(split, "twentieth", documents=source)
    held = {row["repo"] for row in rows if row["split"] == "heldout"}
    assert held.isdisjoint(row["repo"] for row in rows if row["split"] == "train")
    assert sorted(held) == result["heldout_repositories"] and 1 <= len(held) <= 9
    assert result["heldout_by"] == "repository"
    assert result["heldout_files"] == 10 * len(held) and result["heldout_bytes"] == 500 * len(held)


def test_split_of_one_repository_is_by_file(
    write_documents: Callable[..., epath.Path], run_stage: Callable[..., Any]
) -> None:
    source = write_documents("decontaminate", [{"path": f"{i}", "text": "text"} for i in range(200)])
    result, rows = run_stage(split, documents=source)
    assert result["heldout_by"] == "file" and result["heldout_repositories"] == ["repo"]
    assert 2 <= sum(row["split"] == "heldout" for row in rows) == result["heldout_files"] <= 25


def test_split_of_nothing(write_documents: Callable[..., epath.Path], run_stage: Callable[..., Any]) -> None:
    result, rows = run_stage(split, documents=write_documents("decontaminate", []))
    assert rows == [] and result["heldout_files"] == result["heldout_bytes"] == 0
