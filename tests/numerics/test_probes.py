"""Linear heads against scikit-learn and heads trained one by one; neighbours against a loop."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from ddaepp_jax.base.parallel import make_mesh
from ddaepp_jax.data.augment import crop_and_flip, to_float
from ddaepp_jax.data.datasets import digits
from ddaepp_jax.diffusion.noise import image_keys
from ddaepp_jax.probing import features, online
from ddaepp_jax.probing import heads as linear
from ddaepp_jax.probing.neighbours import knn_accuracy
from ddaepp_jax.probing.protocols import PROTOCOLS
from ddaepp_jax.probing.scaling import scaled, standard_scale
from ddaepp_jax.probing.splits import split_rows


@pytest.fixture(scope="module")
def layers():
    """Three layers {name: features} and labels: rectified random projections of the digits."""
    data, rng = digits("train"), np.random.default_rng(0)
    images, labels = data.arrays()
    flat = images.reshape(len(images), -1) / 255.0
    widths = {"b": 24, "a": 24, "c": 40}
    projections = {
        n: np.maximum(flat @ rng.normal(size=(64, w)) + 5, 0).astype(np.float32)
        for n, w in widths.items()
    }
    return projections, labels


def protocol(**changed):
    return dataclasses.replace(PROTOCOLS["cached"], **changed)


def part(layers, rows):
    return {name: feature[rows] for name, feature in layers.items()}


FIT, TEST = slice(0, 1000), slice(1000, 1500)


@pytest.mark.filterwarnings(
    "ignore:scipy.optimize:DeprecationWarning"
)  # an older scikit-learn, a newer SciPy
@pytest.mark.parametrize("l2", [1e-3, 3e-2])
def test_heads_equal_scikit_learn(layers, l2):
    """Loss and accuracy are those of logistic regression with the same regularisation."""
    projections, labels = layers
    scales = standard_scale(part(projections, FIT))
    settings = protocol(epochs=300, batch_size=500, learning_rates=(3e-2,), l2=l2)
    heads = linear.fit(part(projections, FIT), labels[FIT], scales, settings, num_classes=10)
    ours = linear.accuracies(heads, part(projections, TEST), labels[TEST], scales)
    for name, feature in projections.items():
        scaler = StandardScaler().fit(feature[FIT].astype(np.float64))
        x, z = (
            scaler.transform(feature[FIT].astype(np.float64)),
            scaler.transform(feature[TEST].astype(np.float64)),
        )
        theirs = LogisticRegression(C=1 / (1000 * l2), max_iter=5000, tol=1e-7).fit(x, labels[FIT])
        assert 0.5 < theirs.score(z, labels[TEST]) < 0.99  # neither hopeless nor trivial
        assert abs(ours[name][0] - theirs.score(z, labels[TEST])) <= 0.005

        width = str(feature.shape[1])
        place = linear.by_width({n: f.shape[1] for n, f in projections.items()})[width].index(name)
        kernel, bias = (np.float64(heads.params[width][k][0, place]) for k in ("kernel", "bias"))

        def objective(kernel, bias, x=x):
            logits = x @ kernel + bias
            nll = logsumexp(logits, axis=1) - logits[np.arange(len(x)), labels[FIT]]
            return nll.mean() + l2 / 2 * np.square(kernel).sum()

        best = objective(theirs.coef_.T, theirs.intercept_)
        assert best - 1e-6 <= objective(kernel, bias) <= best * 1.02


def test_heads_trained_together_equal_heads_trained_one_by_one(layers):
    projections, labels = layers
    rates, settings = (1e-3, 4e-3, 3e-2), protocol(epochs=10, batch_size=100)
    scales = standard_scale(part(projections, FIT))
    together = linear.fit(
        part(projections, FIT),
        labels[FIT],
        scales,
        dataclasses.replace(settings, learning_rates=rates),
        num_classes=10,
        seed=3,
    )
    accuracy = linear.accuracies(together, part(projections, TEST), labels[TEST], scales)
    for name, feature in projections.items():
        for i, rate in enumerate(rates):
            alone = dataclasses.replace(settings, learning_rates=(rate,))
            one = linear.fit(
                {name: feature[FIT]}, labels[FIT], scales, alone, num_classes=10, seed=3
            )
            (single,) = linear.accuracies(one, {name: feature[TEST]}, labels[TEST], scales)[name]
            assert abs(single - accuracy[name][i]) <= 0.003
            width = str(feature.shape[1])
            place = linear.by_width({n: f.shape[1] for n, f in projections.items()})[width].index(
                name
            )
            # Adam turns rounding noise into steps where a gradient is small.
            ours, theirs = (
                together.params[width]["kernel"][i, place],
                one.params[width]["kernel"][0, 0],
            )
            assert np.linalg.norm(ours - theirs) < 0.01 * np.linalg.norm(theirs)
    assert len({tuple(values) for values in accuracy.values()}) == 3  # the layers are not mixed up
    assert all(
        values.max() - values.min() > 0.01 for values in accuracy.values()
    )  # nor are the rates


def test_a_step_is_adams_on_each_heads_own_loss():
    """The reference is two steps in float64 numpy, with a cosine schedule."""
    rng = np.random.default_rng(1)
    x, labels = rng.normal(size=(20, 6)), rng.integers(0, 3, 20)
    heads = linear.init({"x": 6}, 3, 2)
    rates, l2, batch = np.array([0.1, 0.3]), 0.05, {"x": jnp.asarray(x, jnp.float32)}
    for number in (0, 1):
        done = jnp.float32(number / 2)
        heads = linear.step(
            heads, batch, jnp.asarray(labels), jnp.asarray(rates, jnp.float32), done, l2
        )
    for i, rate in enumerate(rates):
        kernel, bias = np.zeros((6, 3)), np.zeros(3)
        m = [np.zeros((6, 3)), np.zeros(3)]
        v = [np.zeros((6, 3)), np.zeros(3)]
        for number in (0, 1):
            p = np.exp(x @ kernel + bias)
            error = p / p.sum(1, keepdims=True) - np.eye(3)[labels]
            for j, grad in enumerate((x.T @ error / 20 + l2 * kernel, error.mean(0))):
                m[j] = 0.9 * m[j] + 0.1 * grad
                v[j] = 0.999 * v[j] + 0.001 * grad**2
                hat = m[j] / (1 - 0.9 ** (number + 1)), v[j] / (1 - 0.999 ** (number + 1))
                move = (
                    rate
                    * 0.5
                    * (1 + np.cos(np.pi * number / 2))
                    * hat[0]
                    / (np.sqrt(hat[1]) + 1e-8)
                )
                kernel, bias = (kernel - move, bias) if j == 0 else (kernel, bias - move)
        np.testing.assert_allclose(heads.params["6"]["kernel"][i, 0], kernel, atol=1e-5)
        np.testing.assert_allclose(heads.params["6"]["bias"][i, 0], bias, atol=1e-5)


def test_order_of_layers_does_not_matter(layers):
    projections, labels = layers
    settings, scales = protocol(epochs=5), {}
    fits = [
        linear.fit(
            {name: projections[name][FIT] for name in names},
            labels[FIT],
            scales,
            settings,
            num_classes=10,
        )
        for names in ("bac", "cab")
    ]
    jax.tree.map(np.testing.assert_array_equal, *fits)
    # JAX sorts a dictionary that it traces, but not one that is built inside a trace.
    stacked = linear._stack({name: projections[name] for name in "bac"})
    np.testing.assert_array_equal(stacked["24"][0], projections["a"])


def test_accuracies_count_every_image_once(layers, monkeypatch):
    projections, labels = layers
    heads = linear.fit(part(projections, FIT), labels[FIT], {}, protocol(epochs=5), num_classes=10)
    whole = linear.accuracies(heads, part(projections, TEST), labels[TEST], {})
    monkeypatch.setattr(linear, "CHUNK", 77)
    pieces = linear.accuracies(heads, part(projections, TEST), labels[TEST], {})
    for name, values in whole.items():
        np.testing.assert_allclose(values * 500, np.round(values * 500), atol=1e-9)
        np.testing.assert_allclose(pieces[name], values, atol=1 / 500 + 1e-9)


def test_scale_is_that_of_the_features_and_dead_channels_stay(layers):
    projections, _ = layers
    dead = np.concatenate([projections["a"], np.full((1500, 1), 3.0, np.float32)], axis=1)
    scales = standard_scale({"a": dead})
    z = np.asarray(scaled({"a": dead}, scales)["a"], np.float64)
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(z[:, :-1].std(0), 1, atol=1e-5)
    assert (z[:, -1] == 0).all() and np.isfinite(z).all()


def test_neighbours_vote_by_cosine():
    """The reference is float64 numpy, image by image."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(4, 8))
    bank_labels, labels = rng.integers(0, 4, 200), rng.integers(0, 4, 60)
    bank, query = (
        10 + centres[y] + 1.2 * rng.normal(size=(len(y), 8)) for y in (bank_labels, labels)
    )
    raw_bank, raw_query = bank, query  # Their mean would make all cosines one.
    query, bank = ((x - bank.mean(0)) / bank.std(0) for x in (query, bank))
    for k in (1, 7, 500):
        right = 0
        for feature, label in zip(query, labels, strict=True):
            cosine = bank @ feature / np.linalg.norm(bank, axis=1) / np.linalg.norm(feature)
            nearest = np.argsort(-cosine)[:k]
            votes = np.zeros(4)
            np.add.at(votes, bank_labels[nearest], np.exp(cosine[nearest] / 0.07))
            right += votes.argmax() == label
        ours = knn_accuracy(np.float32(raw_bank), bank_labels, np.float32(raw_query), labels, k)
        assert 0.3 < ours < 1 and abs(ours - right / 60) <= 1 / 60 + 1e-9


@pytest.mark.parametrize(
    ("n", "part", "held_out"), [(1500, 0.1, 150), (50_000, 0.1, 5000), (10, 0.0, 0), (7, 0.5, 4)]
)
def test_rows_are_split_without_loss(n, part, held_out):
    train, choose = split_rows(n, part, seed=0)
    assert len(choose) == held_out
    np.testing.assert_array_equal(np.sort(np.concatenate([train, choose])), np.arange(n))
    if n > 100:
        assert (
            abs(choose.mean() / n - 0.5) < 0.1
        )  # drawn from everywhere, as folders are sorted by class


def test_pixels_are_averaged_down_where_images_are_large():
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 64, 96, 3)), jnp.float32)
    pixels = features.pixels({}, images, None, None, None)["pixels"]
    assert pixels.shape == (2, 32 * 32 * 3)
    np.testing.assert_allclose(pixels.mean(1), images.mean((1, 2, 3)), atol=0.02)
    small = images[:, :8, :8]
    np.testing.assert_array_equal(
        features.pixels({}, small, None, None, None)["pixels"], small.reshape(2, -1)
    )


def test_online_heads_see_a_draw_and_a_crop_of_each_step():
    """The reference is a step of the heads on that number's crop, noise and learning rate."""
    mesh, rates = make_mesh((1, 1, 1), jax.devices()[:1]), np.array([0.1, 0.3], np.float32)
    images = np.random.default_rng(0).integers(0, 256, (8, 6, 6, 1), np.uint8)
    labels, ids = np.arange(8) % 3, np.arange(20, 28)

    def features(params, x0, keys, draw, level):
        noise = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, draw), (36,)))(keys)
        return {"x": x0.reshape(8, -1) + level * noise}

    @jax.jit
    def expected(number):
        x0 = to_float(
            crop_and_flip(jnp.asarray(images), 5, number, jnp.asarray(ids), pad=2, flip=True)
        )
        seen = features({}, x0, image_keys(5, "probe", jnp.asarray(ids)), number, 0.5)
        return linear.step(
            linear.init({"x": 36}, 3, 2), seen, labels, rates, number / 8, 0.1
        ).params

    step = online.make_online_step(features, mesh, pad=2, flip=True, l2=0.1)
    constants = {"seed": np.uint32(5), "level": 0.5, "steps": np.float32(8), "rates": rates}
    for number in (0, 6):
        heads, _ = step(
            {},
            linear.init({"x": 36}, 3, 2),
            (images, labels, ids),
            {},
            constants,
            jnp.int32(number),
        )
        check = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        jax.tree.map(check, heads.params, expected(jnp.int32(number)))


def test_a_damaged_training_of_heads_starts_anew(tmp_path, capsys):
    saved, heads = tmp_path / "heads.msgpack", linear.init({"x": 3}, 2, 1)
    for content in (b"", b"heads", bytes(200)):
        saved.write_bytes(content)
        assert online._read(saved, heads) == (0, heads)
        assert f"warning: {saved}: is damaged" in capsys.readouterr().out
