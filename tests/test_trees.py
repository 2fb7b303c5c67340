"""Boosted trees of the feature ensemble: the tensors of a checkpoint predict what LightGBM's own trees predict."""

import dataclasses
import importlib
from pathlib import Path

import lightgbm
import numpy as np
import pytest
import scipy.sparse as sparse
import torch

from code_rlm.distributions_rlm import ScoreScale
from code_rlm.ensemble_rlm import TREE_NODES, EnsembleConfig, FeatureEnsemble
from code_rlm.features_rlm import FeatureLayout
from code_rlm.training.trees import FOLDS, Forest, Nodes, choose_columns

SETTINGS = EnsembleConfig(
    features=FeatureLayout(buckets=20, number_buckets=4),
    metrics=("t_ms",),
    scales=(ScoreScale(False, (0.0, 1.0), (0.0, 1.0)),),
    trees=40,
)
SIZE = SETTINGS.features.size


def stepped_rows(rows: int = 300, seed: int = 0) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Raw features, most of them zero, and a score that depends on a product of two of them."""
    rng = np.random.default_rng(seed)
    x = (rng.random((rows, SIZE)) * rng.integers(0, 3, (rows, SIZE))).astype(np.float32)
    y = (x[:, 3] > 0.7) * (x[:, 22] + 1) + 0.05 * rng.normal(size=rows)
    return sparse.csr_matrix(x), y


def written(forest: Forest, weight: float = 1.0) -> FeatureEnsemble:
    ensemble = FeatureEnsemble(SETTINGS, 8)
    forest.write(ensemble, 0, weight)
    return ensemble


def of_the_tensors(ensemble: FeatureEnsemble, x: np.ndarray) -> np.ndarray:
    return (ensemble.further(torch.from_numpy(x))[:, 0] + ensemble.bias[0]).numpy()


def test_when_trees_are_written_then_the_tensors_predict_what_lightgbm_predicts():
    x, y = stepped_rows()
    forest = Forest(x, y, np.arange(len(y)) % FOLDS, SETTINGS)
    new = stepped_rows(seed=1)[0]
    own = forest.predict(new)
    assert len(np.unique(own.round(3))) > 20
    assert np.abs(of_the_tensors(written(forest), new.toarray()) - own).max() < 1e-5
    assert np.abs(of_the_tensors(written(forest, 0.4), new.toarray()) - 0.4 * own).max() < 1e-5


def test_when_features_stand_on_a_threshold_then_they_fall_on_the_same_side_in_float32():
    x, y = stepped_rows()
    forest = Forest(x, y, np.arange(len(y)) % FOLDS, SETTINGS)
    ensemble = written(forest)
    inner = ensemble.tree_left[0] != torch.arange(TREE_NODES)
    features, thresholds = ensemble.tree_feature[0][inner], ensemble.tree_threshold[0][inner]
    assert len(thresholds) > 100
    # Each row has one feature at a threshold, or one step of float32 above it.
    probes = np.zeros((2 * len(features), SIZE), dtype=np.float32)
    for row, (feature, threshold) in enumerate(zip(features.tolist(), thresholds.numpy(), strict=True)):
        probes[2 * row, feature] = threshold
        probes[2 * row + 1, feature] = np.nextafter(threshold, np.float32(np.inf))
    own = forest.predict(sparse.csr_matrix(probes))
    assert (own[::2] != own[1::2]).any()
    assert np.abs(of_the_tensors(ensemble, probes) - own).max() < 1e-5


def test_when_a_tree_is_dumped_then_children_follow_parents_and_leaves_follow_themselves():
    x, y = stepped_rows(2000)
    table = lightgbm.Dataset(x, label=y)
    booster = lightgbm.train({"num_leaves": 16, "verbosity": -1}, table, num_boost_round=1)
    nodes = Nodes.of(booster.dump_model()["tree_info"][0]["tree_structure"])
    inner = np.flatnonzero(~nodes.is_leaf)
    assert nodes.is_leaf.sum() == 16 and len(nodes.left) == TREE_NODES
    assert (nodes.left[inner] > inner).all() and (nodes.right[inner] > inner).all()
    assert sorted([*nodes.left[inner], *nodes.right[inner]]) == list(range(1, TREE_NODES))
    assert (nodes.gain[inner] > 0).all() and (nodes.gain[nodes.is_leaf] == 0).all()
    assert nodes.threshold.dtype == np.float32


def test_when_a_fold_is_left_out_then_its_rows_do_not_change_its_predictions():
    x, y = stepped_rows()
    fold = np.arange(len(y)) % FOLDS
    settings = dataclasses.replace(SETTINGS, trees=10)
    before = Forest(x, y, fold, settings)
    changed = y.copy()
    changed[fold == 3] = changed[fold == 3][::-1]
    after = Forest(x, changed, fold, settings)
    # The number of trees is chosen on fold 0 by trees that have seen fold 3: only equal numbers can be compared.
    assert before.trees == after.trees == 10
    assert np.array_equal(before.out_of_fold[fold == 3], after.out_of_fold[fold == 3])
    assert not np.allclose(before.out_of_fold[fold == 2], after.out_of_fold[fold == 2])
    assert np.array_equal(before.left_out(3, x[fold == 3]), before.out_of_fold[fold == 3])
    assert np.corrcoef(before.out_of_fold, y)[0, 1] > 0.8


def test_when_the_same_rows_are_fitted_again_then_the_trees_are_the_same():
    x, y = stepped_rows()
    one, two = (Forest(x, y, np.arange(len(y)) % FOLDS, SETTINGS) for _ in range(2))
    assert np.array_equal(one.predict(x), two.predict(x)) and one.trees == two.trees


def test_when_features_decide_the_score_then_they_have_the_largest_gains():
    x, y = stepped_rows()
    forest = Forest(x, y, np.arange(len(y)) % FOLDS, SETTINGS)
    for left_out in (None, 1):
        features, gains = forest.asked_for(left_out)
        assert set(features[:2]) == {3, 22} and (np.diff(gains) <= 0).all()


@pytest.mark.parametrize("rows", [3, 60])
def test_when_nothing_can_be_split_then_trees_predict_the_mean(rows):
    x = sparse.csr_matrix(np.ones((rows, SIZE), dtype=np.float32))
    y = np.arange(rows, dtype=float)
    forest = Forest(x, y, np.arange(rows) % FOLDS, SETTINGS)
    assert np.allclose(forest.predict(x), y.mean())
    assert np.allclose(of_the_tensors(written(forest), x.toarray()), y.mean(), atol=1e-5)
    assert len(forest.asked_for()[0]) == 0


def test_when_all_rows_are_one_fold_then_no_trees_have_left_it_out():
    x, y = stepped_rows()
    forest = Forest(x, y, np.zeros(len(y), int), SETTINGS)
    assert not forest.out_of_fold.any() and forest.trees == 1
    assert np.corrcoef(forest.predict(x), y)[0, 1] > 0.8


def test_when_both_libraries_fit_the_same_folds_then_they_are_level(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    benchmark = importlib.import_module("benchmarks.trees")
    x, y = stepped_rows()
    fold = np.arange(len(y)) % FOLDS
    new = benchmark.with_lightgbm(x, y, fold, SETTINGS)
    old = benchmark.with_sklearn(x[:, choose_columns(x, SETTINGS)], y, fold, SETTINGS.trees)
    ours, theirs = float(new.cells(y)[1]), float(old.cells(y)[1])
    assert ours < 1.1 * theirs and ours < 0.6 * y.std()
