"""MinHash signatures: documents per second of CPU beside other projects, and the error of the estimate.

    python benchmarks/minhash_speed.py FORKS [--files 300] [--rounds 3]

FORKS holds a folder for each version of each package (the corpus of that name from corpora.py). All contenders get the
bytes of the same files and make 2,048 MinHash values of 5-grams on one core, interleaved, the median of the rounds
counts. malloc keeps memory (`MALLOC`), which makes the large temporaries of the peers in NumPy up to twice as fast.
Peers that are not installed are named and left out. The estimate is held against the exact Jaccard similarity of the
5-grams themselves, on files that differ between two versions of a package; the standard error of the bias is that of
the means of the seeds, for the pairs of one seed share its permutations.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import os
import pathlib
import platform
import random
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")

from data_prep import minhash  # noqa: E402

MALLOC = dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), str(1 << 32))
PERMUTATIONS, NGRAM = 2048, 5
BANDS, ROWS = 16, 128
SUFFIXES = (".py", ".js", ".html", ".css", ".txt")
Signer = Callable[[Sequence[bytes]], object]


def words(text: bytes) -> list[bytes]:
    return re.findall(rb"[0-9A-Za-z_\x80-\xff]+", text)


def grams(text: bytes) -> set[tuple[bytes, ...]]:
    tokens = words(text)
    return set(zip(*(tokens[i:] for i in range(NGRAM)), strict=False)) if len(tokens) >= NGRAM else {tuple(tokens)}


def ours() -> Signer:
    return functools.partial(minhash.signatures, scheme=minhash.Scheme())


def ours_numpy() -> Signer:
    def sign(texts: Sequence[bytes]) -> None:
        compiled, minhash.compiled = minhash.compiled, lambda: None
        minhash.signatures(texts, minhash.Scheme())
        minhash.compiled = compiled

    return sign


def datasketch() -> Signer:
    import datasketch

    empty = datasketch.MinHash(PERMUTATIONS)

    def sign(texts: Sequence[bytes]) -> None:
        for text in texts:
            sketch, shingles = empty.copy(), [b" ".join(gram) for gram in grams(text)]
            for start in range(0, len(shingles), 64):  # twice as fast as all at once
                sketch.update_batch(shingles[start : start + 64])

    return sign


def rensa() -> Signer:
    import rensa

    def sign(texts: Sequence[bytes]) -> None:
        for text in texts:
            sketch = rensa.RMinHash(num_perm=PERMUTATIONS, seed=1)
            sketch.update([b" ".join(gram).decode("utf-8", "replace") for gram in grams(text)])
            sketch.digest()

    return sign


def daft() -> Signer:
    import daft

    daft.set_runner_native()

    def sign(texts: Sequence[bytes]) -> None:
        # It splits at single spaces only, so it gets the words.
        frame = daft.from_pydict({"text": [b" ".join(words(text)).decode("utf-8", "replace") for text in texts]})
        frame.select(frame["text"].minhash(num_hashes=PERMUTATIONS, ngram_size=NGRAM)).collect()

    return sign


def text_dedup() -> Signer:
    from text_dedup.minhash import RNG, embed_func
    from text_dedup.utils import sha1_hash

    prime = np.uint64((1 << 61) - 1)
    parameters = {
        "num_perm": PERMUTATIONS,
        "ngram_size": NGRAM,
        "min_length": NGRAM,
        "hashranges": [(i * ROWS, (i + 1) * ROWS) for i in range(BANDS)],
        "permutations": tuple(RNG.randint(1, prime, PERMUTATIONS, np.uint64) for _ in range(2)),
        "hash_func": functools.partial(sha1_hash, d=32),
        "dtype": np.uint64,
        "max_hash": np.uint32((1 << 32) - 1),
        "modulo_prime": prime,
    }

    def sign(texts: Sequence[bytes]) -> None:
        for text in texts:
            embed_func(text.decode("utf-8", "replace"), 0, **parameters)

    return sign


def datatrove() -> Signer:
    from datatrove.pipeline.dedup import minhash as theirs

    config = theirs.MinhashConfig(n_grams=NGRAM, num_buckets=BANDS, hashes_per_bucket=ROWS)
    theirs.load_word_tokenizer = lambda language: type("Split", (), {"word_tokenize": staticmethod(str.split)})
    step = theirs.MinhashDedupSignature("/tmp", config)  # str.split is twice as fast as their default, spaCy

    def sign(texts: Sequence[bytes]) -> None:
        for text in texts:
            shingles = step.get_shingles(text.decode("utf-8", "replace"))
            if shingles.size:
                step.get_signature(shingles)

    return sign


CONTENDERS = {  # name → (what makes it, how many times as fast this project should be)
    "this project": (ours, None),
    "this project, numpy": (ours_numpy, None),
    "datasketch": (datasketch, 10),
    "text-dedup, 64 bit": (text_dedup, 40),
    "datatrove": (datatrove, 40),
    "daft": (daft, 4),
    "rensa RMinHash": (rensa, 2),
}


def speed(texts: list[bytes], rounds: int) -> None:
    signers: dict[str, Signer] = {}
    for name, (make, _) in CONTENDERS.items():
        try:
            signers[name] = make()
            signers[name](texts[:4])  # compilers, caches
        except ImportError as error:
            print(f"missing: {name} ({error})")
    seconds: dict[str, list[float]] = {name: [] for name in signers}
    for _ in range(rounds):
        for name, sign in signers.items():
            start = time.process_time()
            sign(texts)
            seconds[name].append(time.process_time() - start)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    print(f"{'':<22}{'files/s':>9}{'MB/s':>8}{'ratio':>8}{'goal':>6}")
    for name, cost in median.items():
        ratio, goal = cost / median["this project"], CONTENDERS[name][1]
        rate, megabytes = len(texts) / cost, sum(map(len, texts)) / cost / 1e6
        print(f"{name:<22}{rate:>9,.0f}{megabytes:>8.2f}{ratio:>8.1f}{goal or '':>6}")


def accuracy(root: pathlib.Path, seeds: int, limit: int) -> None:
    """Prints error and bias of the estimate in bins of the exact similarity, over pairs and seeds."""
    pairs = list(itertools.islice(changed_files(root), limit))
    texts = sorted({text for pair in pairs for text in pair})
    number = {text: i for i, text in enumerate(texts)}
    sets = [grams(text) for text in texts]
    ends = np.array([[number[a], number[b]] for a, b in pairs]).T
    exact = np.array([len(sets[i] & sets[j]) / len(sets[i] | sets[j]) for i, j in ends.T])
    estimates = []
    for seed in range(1, seeds + 1):
        sketches = minhash.signatures(texts, minhash.Scheme(seed=seed))
        estimates.append((sketches[ends[0]] == sketches[ends[1]]).mean(1))
    error = np.array(estimates) - exact
    print(f"\nestimate of the Jaccard similarity: {len(pairs):,} pairs, {seeds} seeds; bias {error.mean():+.5f}")
    print(f"{'J':<12}{'pairs':>7}{'rmse':>9}{'theory':>9}{'ratio':>7}{'bias':>10}{'± s.e.':>9}")
    for low in np.arange(0, 1, 0.1):
        chosen = (exact >= low) & (exact < low + 0.1)
        if chosen.any():
            theory = np.sqrt((exact * (1 - exact))[chosen].mean() / PERMUTATIONS)
            rmse, biases = np.sqrt((error[:, chosen] ** 2).mean()), error[:, chosen].mean(1)
            row = f"{chosen.sum():>9,}{rmse:>9.5f}{theory:>9.5f}{rmse / theory:>7.2f}{biases.mean():>+10.5f}"
            row += f"{biases.std(ddof=1) / np.sqrt(seeds):>9.5f}"
            print(f"{low:.1f} … {low + 0.1:.1f}{row}")


def changed_files(root: pathlib.Path):
    """(old, new) text of every file that differs between two versions of a package."""
    versions: dict[str, list[dict[str, pathlib.Path]]] = {}
    for folder in sorted(root.iterdir()):
        package = re.split(r"[-=]", folder.name)[0].lower()
        versions.setdefault(package, []).append(
            {str(path.relative_to(folder)): path for path in folder.rglob("*.py") if "-info" not in str(path)}
        )
    for folders in versions.values():
        for old, new in itertools.combinations(folders, 2):
            for name in sorted(old.keys() & new.keys()):
                a, b = old[name].read_bytes(), new[name].read_bytes()
                if words(a) and words(b) and words(a) != words(b):
                    yield a, b


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("forks", type=pathlib.Path, nargs="?", default=pathlib.Path("corpora/forks"))
    parser.add_argument("--files", type=int, default=300, help="files to sign in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=16, help="of permutations, for the error")
    parser.add_argument("--pairs", type=int, default=4000, help="most pairs, for the error")
    flags = parser.parse_args()
    if not MALLOC.items() <= os.environ.items():  # which malloc reads when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | MALLOC)
    if not flags.forks.is_dir():
        print(f"no corpus at {flags.forks}: build it with benchmarks/corpora.py")
        return
    paths = sorted(path for path in flags.forks.rglob("*") if path.suffix in SUFFIXES and path.is_file())
    random.Random(0).shuffle(paths)
    texts = [path.read_bytes() for path in paths[: flags.files]]
    mean = statistics.mean(len(grams(text)) for text in texts)
    print(f"{len(texts):,} files, mean {sum(map(len, texts)) / len(texts):,.0f} bytes, {mean:,.0f} different 5-grams")
    print(f"{platform.machine()}, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}")
    speed(texts, flags.rounds)
    accuracy(flags.forks, flags.seeds, flags.pairs)


if __name__ == "__main__":
    main()
