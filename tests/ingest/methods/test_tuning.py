"""What neurons are tuned to, found again where it was planted in their responses, and nothing found where nothing was."""

from dataclasses import asdict

import numpy as np
import polars as pl
import pytest

from ingest.methods.tuning import curves
from ingest.methods.tuning.measures import TESTS, measure
from ingest.sounds.stimuli import DENSITIES, RIPPLE_RATES_HZ, battery

TABLE = pl.DataFrame([asdict(stimulus) for stimulus in battery()], infer_schema_length=None)
N = 200
NOISE = 0.1  # of the responses' height, the standard deviation of chance
CHANCE = np.random.default_rng(3)


def rows(**which):
    found = np.ones(len(TABLE), dtype=bool)
    for name, value in which.items():
        found &= (TABLE[name] == value).fill_null(False).to_numpy()
    return found


def column(name):
    return TABLE[name].to_numpy().astype(float)


def bump(x, best, wide):
    """Gauss of a full width at half height over x, [neurons, ...]; 0 where x is undefined."""
    return np.nan_to_num(np.exp(-4 * np.log(2) * ((x - best) / wide) ** 2))


def found(planted, *, silent=N):
    """Measures of neurons with planted responses and chance, of as many that are chance alone, and of some dead ones."""
    values = np.concatenate([planted, np.zeros((silent, len(TABLE)))])
    values += NOISE * np.random.default_rng(1).standard_normal(values.shape)
    return measure(np.concatenate([values, np.zeros((5, len(TABLE)))]).astype(np.float32), TABLE).measures


def right(measured, expected, within):
    return np.mean(np.abs(measured[:N] - expected) <= within)


def neurons_given_nothing(measures):
    return np.mean(np.isnan(np.stack([m.value for m in measures.values()])[:, N:]).all(axis=0))


def test_best_frequency_and_bandwidth():
    best, wide = CHANCE.uniform(np.log2(140), np.log2(5000), (N, 1)), CHANCE.uniform(0.6, 2, (N, 1))
    loud = (column("level_dbfs") + 90) / 70
    measures = found(np.where(rows(kind="tone"), bump(np.log2(column("frequency_hz")), best, wide) * loud, 0))
    its = measures["frequency_hz"]
    assert right(np.log2(its.value), best[:, 0], 1 / 6) >= 0.95
    assert np.mean((its.low[:N] <= 2 ** best[:, 0]) & (2 ** best[:, 0] <= its.high[:N])) >= 0.9
    assert np.nanmedian(its.q[:N]) < 1e-4
    width = measures["bandwidth_octaves"]
    assert np.nanmedian(np.abs(width.value[:N] / wide[:, 0] - 1)) < 0.2
    assert np.mean((width.low[:N] <= wide[:, 0]) & (wide[:, 0] <= width.high[:N])) >= 0.8
    assert neurons_given_nothing(measures) >= 0.95


def test_level_threshold_and_monotonicity():
    threshold = CHANCE.uniform(-85, -25, (N, 1))
    levels = column("level_dbfs")
    sign = CHANCE.choice([-1, 1], (N, 1))
    sharp = np.where(rows(kind="level"), sign * (levels > threshold), 0)
    measures = found(sharp)
    first = np.ceil(threshold[:, 0] / 10) * 10
    assert right(measures["level_dbfs"].value, first, 0) >= 0.95
    assert right(measures["monotonicity"].value, sign[:, 0], 0.4) >= 0.95
    assert neurons_given_nothing(measures) >= 0.95
    falls = found(np.where(rows(kind="level"), bump(levels, -50, 30) + np.zeros((N, 1)), 0))["monotonicity"].value[:N]
    assert np.nanmedian(np.abs(falls)) < 0.2


@pytest.mark.parametrize("carriers", [("tone", "noise"), ("tone",), ("noise",)])
def test_best_modulation_rate_and_its_carriers(carriers):
    best = CHANCE.uniform(0.5, 6.5, (N, 1))
    heard = rows(kind="modulation") & np.isin(TABLE["carrier"].fill_null("").to_numpy(), carriers)
    depth = np.nan_to_num(column("depth"))
    measures = found(np.where(heard, bump(np.log2(np.abs(column("rate_hz"))), best, 2.5) * depth, 0))
    assert right(np.log2(measures["rate_hz"].value), best[:, 0], 0.5) >= 0.95
    assert right(measures["rate_holds"].value, float(len(carriers) == 2), 0) >= 0.95
    for carrier in ("tone", "noise"):
        assert np.isfinite(measures[f"{carrier}_rate_hz"].value[:N]).mean() == pytest.approx(float(carrier in carriers), abs=0.05)
    assert neurons_given_nothing(measures) >= 0.95


def test_direction_of_sweeps():
    way = CHANCE.choice([-1, 1], N)
    prefers = np.where(way[:, None] > 0, rows(kind="sweep", direction="up"), rows(kind="sweep", direction="down"))
    values = 0.6 * rows(kind="sweep") + 0.4 * prefers
    measures = found(values)
    assert right(np.sign(measures["direction"].value), way, 0) >= 0.95
    assert right(measures["direction"].value, way * 0.25, 0.15) >= 0.9
    assert neurons_given_nothing(measures) >= 0.95


def test_pitch_is_apart_from_spectrum():
    best = CHANCE.uniform(np.log2(70), np.log2(1200), (N, 1))
    curve = bump(np.log2(column("f0_hz")), best, 1.5)
    harmonic = rows(partials="all") | rows(partials="no fundamental")
    measures = found(np.where(harmonic, curve, 0))
    assert right(np.log2(measures["pitch_hz"].value), best[:, 0], 0.5) >= 0.9
    assert neurons_given_nothing(measures) >= 0.95
    for spectral in (rows(kind="complex"), rows(partials="all")):  # by the density of partials alone; by the fundamental alone
        assert np.isnan(found(np.where(spectral, curve, 0))["pitch_hz"].value[:N]).mean() >= 0.95


def test_shortest_gap():
    least = CHANCE.choice([2.0, 5.0, 10.0, 20.0, 50.0, 100.0], (N, 1))
    gap = np.nan_to_num(column("gap_ms"))
    noise = np.random.default_rng(8).standard_normal((N, 1)) * rows(kind="gap")
    measures = found(np.where(rows(kind="gap") & (gap >= least), -1.0, 0) + noise)
    assert right(measures["gap_ms"].value, least[:, 0], 0) >= 0.95
    assert neurons_given_nothing(measures) >= 0.95


def test_ripple():
    rate, density = CHANCE.choice(RIPPLE_RATES_HZ, (N, 1)), CHANCE.choice(DENSITIES, (N, 1))
    values = np.where(rows(kind="ripple") & (column("rate_hz") == rate), bump(np.log2(column("density")), np.log2(density), 2), 0)
    measures = found(values)
    assert right(measures["ripple_rate_hz"].value, rate[:, 0], 0) >= 0.95
    assert right(np.log2(measures["ripple_density"].value), np.log2(density[:, 0]), 1) >= 0.95
    assert neurons_given_nothing(measures) >= 0.95


@pytest.mark.parametrize("kind", ["gauss", "seldom", "skewed"])
def test_neurons_of_chance_alone_are_given_nothing(kind):
    rng = np.random.default_rng(5)
    values = rng.standard_normal((2000, len(TABLE)))
    values = {"gauss": values, "seldom": np.maximum(values - 2, 0), "skewed": np.exp(values)}[kind]
    given = np.isfinite(np.stack([m.value for m in measure(values, TABLE).measures.values()])).any(axis=0)
    assert given.mean() <= 0.02


def test_what_is_undefined_is_nan():
    values = np.zeros((4, len(TABLE)), dtype=np.float32)
    values[1] = 0.1  # constant
    values[2] = np.where(rows(kind="tone"), column("frequency_hz"), 0)
    values[3] = values[2]
    values[3, 5] = np.nan
    tuning = measure(values, TABLE)
    assert len(TESTS) == 8
    for name, its in tuning.measures.items():
        assert np.isnan(its.value[[0, 1, 3]]).all(), name
        assert np.isnan(its.q[3])
    assert tuning.measures["frequency_hz"].value[2] == pytest.approx(12_000, rel=0.01)
    assert tuning.measures["frequency_hz"].q[2] == 0


def test_curves_are_means_by_condition():
    values = np.where(rows(kind="ripple"), column("rate_hz") + 100 * column("density"), 0)[None]
    drawn = measure(values, TABLE).curves["ripple"]
    assert len(drawn.conditions) == 72
    assert drawn.curve.mean[0].tolist() == [c["rate_hz"] + 100 * c["density"] for c in drawn.conditions]
    tones = measure(np.where(rows(kind="tone"), column("frequency_hz") + column("level_dbfs"), 0)[None], TABLE).curves["frequency"]
    assert tones.curve.mean[0] == pytest.approx([c["frequency_hz"] - 40 for c in tones.conditions])
    assert tones.curve.error == pytest.approx(0)


def test_a_width_that_reaches_an_end_is_counted_to_there():
    x = np.arange(12.0)
    assert curves.width(x, (11 - x)[None])[0] == pytest.approx(5, abs=0.6)
    assert curves.width(x, np.ones((1, 12)) + (x == 5)).shape == (1,)
    assert curves.peak(x, x[None] ** 2)[0] == 11


def test_what_is_only_silenced_has_no_best():
    silenced = 1 - np.where(rows(kind="tone"), 0.5 + bump(np.log2(column("frequency_hz")), 10, 1) / 2, 0) + np.zeros((N, 1))
    silenced -= np.where(rows(kind="modulation") & (np.nan_to_num(column("depth")) > 0), np.nan_to_num(column("rate_hz")) / 128 + 0.4, 0)
    measures = found(silenced)
    for name in ("frequency_hz", "bandwidth_octaves", "rate_hz", "rate_holds"):
        assert np.nanmax(measures[name].q[:N]) < 0.05
        assert np.isnan(measures[name].value[:N]).mean() >= 0.95, name


def test_tones_that_the_network_does_not_hear_are_left_out():
    values = np.where(rows(kind="tone"), bump(np.log2(column("frequency_hz")), np.log2(9000), 2), 0)[None] + CHANCE.normal(
        0, 0.01, (1, len(TABLE))
    )
    assert measure(values, TABLE).measures["frequency_hz"].value[0] == pytest.approx(9000, rel=0.1)
    tuning = measure(values, TABLE, 4000)
    assert tuning.measures["frequency_hz"].value[0] == pytest.approx(4000, rel=0.15)
    assert max(c["frequency_hz"] for c in tuning.curves["frequency"].conditions) <= 4000
