import jax.numpy as jnp
import numpy as np
import pytest

from oc_jax import schedule


def curve(function, steps):
    return np.asarray([float(function(jnp.int32(s))) for s in range(steps)])


def test_wsd_warms_up_stays_and_decays_exponentially():
    lr = curve(schedule.wsd(3e-4, 10, 50, 40, 1e-5), 100)
    np.testing.assert_allclose(lr[:10], 3e-4 * np.arange(1, 11) / 10, rtol=1e-5)
    np.testing.assert_allclose(lr[10:51], 3e-4, rtol=1e-5)
    expected = 3e-4 * (1e-5 / 3e-4) ** (np.arange(40) / 40)  # the paper's formula for the annealing phase
    np.testing.assert_allclose(lr[50:90], expected, rtol=1e-5)
    np.testing.assert_allclose(lr[90:], 1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind, halfway", [("linear", 0.5), ("cosine", 0.5), ("sqrt", 1 - np.sqrt(0.5))])
def test_other_decays_pass_the_right_point_halfway(kind, halfway):
    lr = curve(schedule.wsd(1.0, 0, 0, 10, 0.0, decay=kind), 11)
    assert lr[0] == pytest.approx(1.0) and lr[10] == pytest.approx(0.0, abs=1e-7)
    assert lr[5] == pytest.approx(halfway, abs=1e-6)


def test_anneal_from_continues_a_stable_phase():
    stable = schedule.wsd(3e-4, 5, 100, 20, 1e-5)
    np.testing.assert_allclose(curve(stable, 130)[100:], curve(schedule.anneal_from(100, 20, 3e-4, 1e-5), 130)[100:])


def test_cosine_of_fine_tuning():
    lr = curve(schedule.cosine(2e-5, 10, 110), 120)
    assert lr[9] == pytest.approx(2e-5) and lr[60] == pytest.approx(1e-5) and lr[110] == pytest.approx(0, abs=1e-12)
    assert (np.diff(lr[:10]) > 0).all() and (np.diff(lr[10:111]) < 0).all()


def test_unknown_decay_is_named():
    with pytest.raises(ValueError, match="decay 'stairs' is unknown"):
        schedule.wsd(1.0, 0, 0, 1, 0.1, decay="stairs")(jnp.int32(0))
