"""Eight simulated CPU devices for every test, compiled steps that tests share, and no test against the clock."""

import os
import pathlib
import tempfile

import hypothesis
import pytest

hypothesis.settings.register_profile("project", deadline=None)  # a first call may compile
hypothesis.settings.load_profile("project")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
ROOT = pathlib.Path(__file__).resolve().parents[1]


def pytest_configure(config):
    import jax

    jax.config.update("jax_num_cpu_devices", 8)
    # Many tests compile the same training step; within one session they share it.
    config.compiled = tempfile.TemporaryDirectory()
    jax.config.update("jax_compilation_cache_dir", config.compiled.name)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_unconfigure(config):
    config.compiled.cleanup()


@pytest.fixture
def gin_cleared():
    import gin

    gin.clear_config()
    yield
    gin.clear_config()


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """Reference records and benchmark data that are not part of the project: OC_TEST_DATA, or ../shared/data."""
    path = pathlib.Path(os.environ.get("OC_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no test data at {path}: set OC_TEST_DATA")
    return path
