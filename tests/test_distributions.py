"""Action distributions against scipy and float64, and the heads that make them for each space."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
from gymnax.environments import spaces
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rlax_lab.distributions import (
    Categorical,
    Choices,
    Gaussian,
    MultiCategorical,
    TanhGaussian,
    action_head,
    epsilon_greedy,
    greedy_unless,
)
from rlax_lab.errors import InputError
from tests import reference

KEY = jax.random.key(0)
DRAWS = 20_000
# Chance of a false alarm of one test of samples; keys are fixed, so it is taken once.
ALPHA = 1e-4

# float32 against float64, for numbers of order 10.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}

seeds = st.integers(0, 2**32 - 1)
scales = st.sampled_from([0.0, 0.1, 1.0, 10.0])


def tanh_gaussian(mean, std, half_width=1.0):
    """A `TanhGaussian` over one action per element of `mean`."""
    mean = jnp.float32(mean)[..., None]
    log_std = jnp.broadcast_to(jnp.log(jnp.float32(std)), mean.shape)
    return TanhGaussian(Gaussian(mean, log_std), jnp.full(mean.shape, half_width, jnp.float32))


def repeated(distribution, n=DRAWS):
    """`distribution`, without leading axes, n times."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (n, *x.shape)), distribution)


# --- Categorical ---


@jax.jit
def categorical_summary(logits, other):
    p, q = Categorical(logits), Categorical(other)
    every_action = jnp.broadcast_to(jnp.arange(logits.shape[-1])[:, None], logits.shape[::-1])
    return jax.vmap(p.log_prob)(every_action).T, p.entropy(), p.kl(q), p.mode()


@given(seeds, scales)
def test_categorical_matches_float64(seed, scale):
    """Log-probability of every action, entropy, KL and mode of six random policies."""
    logits, other = scale * np.random.default_rng(seed).normal(size=(2, 6, 5)).astype(np.float32)
    log_prob, entropy, kl, mode = categorical_summary(logits, other)
    for i in range(6):
        p, q = reference.probabilities(logits[i]), reference.probabilities(other[i])
        np.testing.assert_allclose(log_prob[i], np.log(p), **TOLERANCE)
        np.testing.assert_allclose(entropy[i], stats.entropy(p), **TOLERANCE)
        np.testing.assert_allclose(kl[i], stats.entropy(p, q), **TOLERANCE)
        assert mode[i] == np.argmax(p)


@pytest.mark.filterwarnings("ignore:Rlax .* will be deprecated:PendingDeprecationWarning")
def test_categorical_agrees_with_rlax():
    """rlax's softmax distribution gives the same log-probability, entropy and KL."""
    rng = np.random.default_rng(0)
    logits, other = 2 * rng.normal(size=(2, 6, 5)).astype(np.float32)
    action, theirs, ours = jnp.arange(6) % 5, rlax.softmax(), Categorical(jnp.array(logits))
    np.testing.assert_allclose(ours.log_prob(action), theirs.logprob(action, logits), rtol=1e-5)
    np.testing.assert_allclose(ours.entropy(), theirs.entropy(logits), rtol=1e-5)
    kl = ours.kl(Categorical(jnp.array(other)))
    np.testing.assert_allclose(kl, theirs.kl(logits, other), rtol=1e-5)


def test_categorical_draws_have_its_frequencies():
    """Chi-square of 20,000 draws; against the uniform distribution the same test fails."""
    logits = jnp.array([2.0, 0.0, -1.0, 1.0, -3.0])
    counts = np.bincount(repeated(Categorical(logits)).sample(KEY), minlength=5)
    assert stats.chisquare(counts, DRAWS * reference.probabilities(logits)).pvalue > ALPHA
    assert stats.chisquare(counts).pvalue < ALPHA


# --- Masked actions ---

MASK = jnp.array([True, False, True, False, True])


def masked(logits):
    """What `policy.outputs` makes of a mask."""
    return jnp.where(MASK, logits, jnp.finfo(logits.dtype).min)


def test_masked_actions_have_probability_zero():
    """Exactly 0 and never drawn; the others keep the probabilities they have among themselves."""
    logits = jnp.array([1.0, 9.0, -1.0, 9.0, 0.5])
    p = Categorical(masked(logits))
    probability = np.exp(p.log_probs)
    np.testing.assert_array_equal(probability[~MASK], 0.0)
    np.testing.assert_allclose(probability[MASK], reference.probabilities(logits[MASK]), rtol=1e-6)
    assert set(np.unique(repeated(p).sample(KEY))) == {0, 2, 4}
    assert p.mode() == 0


def test_masked_entropy_is_that_of_the_allowed_actions():
    """Entropy and KL count the allowed actions alone; one allowed action has entropy 0."""
    logits, other = jnp.array([[1.0, 9.0, -1.0, 9.0, 0.5], [0.0, 3.0, 1.0, 2.0, 0.2]])
    p, q = (reference.probabilities(x[MASK]) for x in (logits, other))
    ours = Categorical(masked(logits))
    np.testing.assert_allclose(ours.entropy(), stats.entropy(p), rtol=1e-6)
    np.testing.assert_allclose(ours.kl(Categorical(masked(other))), stats.entropy(p, q), rtol=1e-5)
    least = jnp.finfo(jnp.float32).min
    assert Categorical(jnp.array([least, 0.3, least])).entropy() == 0


@pytest.mark.parametrize("name", ["entropy", "kl", "log_prob"])
def test_masked_gradients_are_those_of_the_allowed_actions(name):
    """Gradients are finite, 0 for masked logits, and what dropping those logits gives."""
    logits, other = jnp.array([[1.0, 9.0, -1.0, 9.0, 0.5], [0.0, 3.0, 1.0, 2.0, 0.2]])

    def value(logits, other, action):
        p = Categorical(logits)
        if name == "log_prob":
            return p.log_prob(jnp.array(action))
        return p.entropy() if name == "entropy" else p.kl(Categorical(other))

    gradient = jax.grad(lambda x: value(masked(x), masked(other), 2))(logits)
    direct = jax.grad(lambda x: value(x, masked(other), 2))(masked(logits))
    expected = jax.grad(lambda x: value(x, other[MASK], 1))(logits[MASK])
    for g in (gradient, direct):
        np.testing.assert_array_equal(g[~MASK], 0.0)
        np.testing.assert_allclose(g[MASK], expected, rtol=1e-5, atol=1e-7)


# --- Epsilon-greedy ---

LEAST = np.finfo(np.float32).min
epsilons = st.sampled_from([0.0, 0.05, 0.5, 1.0])


@jax.jit
def epsilon_greedy_summary(values, epsilon):
    p = epsilon_greedy(values, epsilon)
    return jnp.exp(p.log_probs), p.mode(), p.sample(KEY)


@given(seeds, epsilons, st.sampled_from([1e-3, 1.0, 1e6]))
def test_epsilon_greedy_matches_the_loop(seed, epsilon, scale):
    """Probabilities of 16 random rows, some actions tied and some masked; the mode is the best."""
    rng = np.random.default_rng(seed)
    values = (scale * rng.integers(-2, 3, (16, 5))).astype(np.float32)
    values[rng.random((16, 5)) < 0.3] = LEAST
    values[np.arange(16), rng.integers(0, 5, 16)] = 0  # one action is always allowed
    probabilities, mode, draw = epsilon_greedy_summary(values, epsilon)
    expected = np.array([reference.epsilon_greedy(row, epsilon) for row in values])
    np.testing.assert_allclose(probabilities, expected, rtol=1e-5)
    np.testing.assert_array_equal(np.asarray(probabilities) == 0, expected == 0)
    assert np.all(expected[np.arange(16), draw] > 0)
    if epsilon < 1:
        np.testing.assert_array_equal(mode, np.argmax(expected, axis=1))


def test_epsilon_greedy_by_hand():
    """The first of two best, of which it is the only one without epsilon; a mask; one action."""
    values = jnp.float32([[1, 3, 3, 2], [9, LEAST, LEAST, 7], [LEAST, LEAST, -1, LEAST]])
    for epsilon, expected in [
        (0.0, [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]]),
        (0.4, [[0.1, 0.7, 0.1, 0.1], [0.8, 0, 0, 0.2], [0, 0, 1, 0]]),
        (1.0, [[0.25, 0.25, 0.25, 0.25], [0.5, 0, 0, 0.5], [0, 0, 1, 0]]),
    ]:
        ours = epsilon_greedy_summary(values, epsilon)[0]
        np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_greedy_unless_by_hand():
    """The best action, or of those allowed the one whose equal share of [0, 1) holds the place."""
    values = jnp.float32([[1, 3, 3, 2], [9, LEAST, LEAST, 7], [LEAST, LEAST, -1, LEAST]])
    for place, expected in [
        (-1.0, [1, 0, 2]),
        (0.0, [0, 0, 2]),
        (0.49, [1, 0, 2]),
        (0.51, [2, 3, 2]),
        (1 - 2**-24, [3, 3, 2]),
    ]:
        p = greedy_unless(values, jnp.full(3, place))
        assert p.mode().tolist() == p.sample(KEY).tolist() == expected


@pytest.mark.filterwarnings("ignore:Rlax .* will be deprecated:PendingDeprecationWarning")
@pytest.mark.parametrize("epsilon", [0.0, 0.1, 1.0])
def test_epsilon_greedy_agrees_with_rlax(epsilon):
    """The same probabilities without ties, which rlax breaks by chance, and without masks."""
    values = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    theirs = rlax.epsilon_greedy(epsilon).probs(values)
    ours = jnp.exp(epsilon_greedy(jnp.asarray(values), epsilon).log_probs)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_epsilon_greedy_draws_have_its_frequencies():
    """Chi-square of 20,000 draws, none masked; against half the epsilon the same test fails."""
    values = jnp.float32([0.3, LEAST, 5.0, 0.2, LEAST, 0.1])
    draws = repeated(epsilon_greedy(values, 0.2)).sample(KEY)
    counts = np.bincount(draws, minlength=6)
    allowed = np.asarray(values) > LEAST
    assert not np.any(counts[~allowed])
    for epsilon, right in ((0.2, True), (0.1, False)):
        expected = DRAWS * reference.epsilon_greedy(values, epsilon)[allowed]
        assert (stats.chisquare(counts[allowed], expected).pvalue > ALPHA) == right


# --- MultiCategorical ---


def test_multi_categorical_is_a_product():
    """Over all 6 joint actions it has the log-probabilities, entropy and KL of their table."""
    rng = np.random.default_rng(1)
    logits = [rng.normal(size=n).astype(np.float32) for n in (3, 2)]
    other = [rng.normal(size=n).astype(np.float32) for n in (3, 2)]
    p, q = (
        MultiCategorical(tuple(Categorical(jnp.array(x)) for x in xs)) for xs in (logits, other)
    )
    table, other_table = (np.outer(*map(reference.probabilities, xs)) for xs in (logits, other))
    grid = jnp.stack(jnp.meshgrid(jnp.arange(3), jnp.arange(2), indexing="ij"), axis=-1)
    every = jax.vmap(jax.vmap(p.log_prob))(grid)
    np.testing.assert_allclose(every, np.log(table), **TOLERANCE)
    np.testing.assert_allclose(p.entropy(), stats.entropy(table.ravel()), **TOLERANCE)
    kl = stats.entropy(table.ravel(), other_table.ravel())
    np.testing.assert_allclose(p.kl(q), kl, **TOLERANCE)
    assert tuple(p.mode()) == np.unravel_index(np.argmax(table), table.shape)


def test_multi_categorical_draws_are_independent():
    """Chi-square of the joint counts of equal parts, which a shared key would put on a diagonal."""
    logits = jnp.array([1.0, 0.0, -1.0])
    p = repeated(MultiCategorical((Categorical(logits), Categorical(logits))))
    draws = p.sample(KEY)
    assert draws.shape == (DRAWS, 2)
    counts = np.bincount(draws @ jnp.array([3, 1]), minlength=9)
    joint = np.outer(*[reference.probabilities(logits)] * 2).ravel()
    assert stats.chisquare(counts, DRAWS * joint).pvalue > ALPHA
    diagonal = np.bincount(4 * np.asarray(draws[:, 0]), minlength=9)
    assert stats.chisquare(diagonal, DRAWS * joint).pvalue < ALPHA


# --- Gaussian ---


@jax.jit
def gaussian_summary(mean, log_std, other_mean, other_log_std, raw):
    p, q = Gaussian(mean, log_std), Gaussian(other_mean, other_log_std)
    return p.log_prob(raw), p.entropy(), p.kl(q)


@given(seeds, scales)
def test_gaussian_matches_scipy(seed, scale):
    """Log-density, entropy and KL of six random Gaussians over two actions."""
    rng = np.random.default_rng(seed)
    mean, other_mean, noise = rng.normal(size=(3, 6, 2)).astype(np.float32)
    log_std, other_log_std = rng.uniform(-2, 1, size=(2, 6, 2)).astype(np.float32)
    mean, raw = scale * mean, scale * mean + 3 * noise * np.exp(log_std)
    log_prob, entropy, kl = gaussian_summary(mean, log_std, other_mean, other_log_std, raw)
    p = stats.norm(np.float64(mean), np.exp(np.float64(log_std)))
    q = stats.norm(np.float64(other_mean), np.exp(np.float64(other_log_std)))
    np.testing.assert_allclose(log_prob, p.logpdf(raw).sum(-1), **TOLERANCE)
    np.testing.assert_allclose(entropy, p.entropy().sum(-1), **TOLERANCE)
    # KL = cross-entropy - entropy, and E_p[(x - m)^2] = var + (mean - m)^2.
    spread = p.var() + (p.mean() - q.mean()) ** 2
    cross = np.log(q.std() * np.sqrt(2 * np.pi)) + spread / (2 * q.var())
    np.testing.assert_allclose(kl, (cross - p.entropy()).sum(-1), **TOLERANCE)


def test_gaussian_agrees_with_distrax():
    """distrax's diagonal Gaussian gives the same log-density, entropy and KL."""
    mean, log_std, other, raw = jnp.array(
        np.random.default_rng(2).normal(size=(4, 6, 2)), jnp.float32
    )
    p, q = Gaussian(mean, log_std), Gaussian(other, log_std)
    theirs, their_q = (distrax.MultivariateNormalDiag(m, jnp.exp(log_std)) for m in (mean, other))
    np.testing.assert_allclose(p.log_prob(raw), theirs.log_prob(raw), rtol=1e-5)
    np.testing.assert_allclose(p.entropy(), theirs.entropy(), rtol=1e-5)
    np.testing.assert_allclose(p.kl(q), theirs.kl_divergence(their_q), rtol=1e-5)


def test_gaussian_draws_have_its_distribution():
    """Kolmogorov-Smirnov of each action, and no correlation; the standard normal fails."""
    p = Gaussian(jnp.array([1.0, -2.0]), jnp.array([-1.0, 0.5]))
    draws = np.float64(repeated(p).sample(KEY))
    for x, mean, std in zip(draws.T, p.mean, np.exp(p.log_std), strict=True):
        assert stats.kstest(x, stats.norm(mean, std).cdf).pvalue > ALPHA
        assert stats.kstest(x, stats.norm.cdf).pvalue < ALPHA
    assert stats.pearsonr(*draws.T).pvalue > ALPHA
    np.testing.assert_array_equal(p.mode(), p.mean)


# --- TanhGaussian ---


@given(seeds, st.sampled_from([0.1, 1.0, 3.0]), st.sampled_from([0.5, 1.0, 30.0]))
def test_tanh_gaussian_log_prob_matches_float64(seed, std, half_width):
    """Random raw actions within 4 deviations have the float64 log-density of the action."""
    rng = np.random.default_rng(seed)
    mean = rng.normal(size=8).astype(np.float32)
    raw = (mean + std * rng.uniform(-4, 4, 8)).astype(np.float32)
    ours = tanh_gaussian(mean, std, half_width).log_prob(raw[:, None])
    exact_std = float(np.exp(np.float64(np.log(np.float32(std)))))
    expected = [
        reference.tanh_gaussian_log_prob(float(r), float(m), exact_std, half_width)
        for r, m in zip(raw, mean, strict=True)
    ]
    np.testing.assert_allclose(ours, expected, **TOLERANCE)


def test_tanh_gaussian_agrees_with_distrax():
    """distrax's Gaussian through a tanh gives the same log-density."""
    p = tanh_gaussian([-1.0, 0.3, 2.0], 0.7)
    raw = jnp.array([[-1.5], [0.9], [1.2]])
    gaussian = distrax.MultivariateNormalDiag(p.base.mean, jnp.exp(p.base.log_std))
    theirs = distrax.Transformed(gaussian, distrax.Block(distrax.Tanh(), 1))
    np.testing.assert_allclose(p.log_prob(raw), theirs.log_prob(jnp.tanh(raw)), rtol=1e-4)


@pytest.mark.parametrize("raw", [-50.0, -20.0, -9.5, 9.5, 20.0, 50.0])
def test_tanh_gaussian_log_prob_at_saturation(raw):
    """Where float32's tanh is +-1, or all but, log-density and gradients are still right."""
    assert abs(jnp.tanh(raw)) > 1 - 3e-7
    expected = reference.tanh_gaussian_log_prob(raw, 0.0, 1.0, 2.0)
    value, (to_mean, to_raw) = jax.value_and_grad(
        lambda mean, u: TanhGaussian(Gaussian(mean, jnp.zeros(1)), jnp.full(1, 2.0)).log_prob(u),
        argnums=(0, 1),
    )(jnp.zeros(1), jnp.array([raw]))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(to_mean, [raw], rtol=1e-6)
    # d/du of -u^2/2 + 2 log cosh u is -u + 2 tanh u.
    np.testing.assert_allclose(to_raw, [-raw + 2 * np.tanh(raw)], rtol=1e-6)


@pytest.mark.parametrize("std", [0.1, 1.0, 2.0])
@pytest.mark.parametrize("mean", [-1.5, 0.0, 4.0])
def test_tanh_gaussian_density_integrates_to_one(mean, std):
    """By trapezoids over the action's range, which the action space puts at -3 to 5."""
    head = action_head(spaces.Box(-3.0, 5.0, (1,)), "tanh")
    raw = np.linspace(mean - 8 * std, mean + 8 * std, 40_001)
    outputs = jnp.broadcast_to(jnp.array([mean, np.log(std)], jnp.float32), (40_001, 2))
    density = np.exp(head.distribution(outputs).log_prob(jnp.float32(raw)[:, None]))
    # In float64, so that steps of the action near the bounds do not vanish.
    action = -3 + 4 * (1 + np.tanh(raw))
    np.testing.assert_allclose(np.trapezoid(density, action), 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("std", "bound"),
    [(0.001, 1e-5), (0.1, 1e-5), (0.5, 1e-5), (1.0, 1e-5), (1.5, 2e-5), (2.0, 2e-4), (3.0, 4e-3)],
)
def test_tanh_gaussian_entropy_matches_quadrature(std, bound):
    """Within float32 up to std 1; 32 nodes lose accuracy beyond: 2e-4 nats at 2, 4e-3 at 3.

    The worst mean is 0, or close to it. Beyond the range tested it is wrong by 0.03 nats at std 5
    and 0.16 at 10, where entropies are below -3.6 and -10.9.
    """
    mean = np.array([0.0, 0.1, 0.3, 0.7, 1.0, 2.0, 3.0, 5.0, 10.0])
    ours = tanh_gaussian(mean, std, 3.0).entropy()
    expected = [reference.tanh_gaussian_entropy(m, std, 3.0) for m in mean]
    np.testing.assert_allclose(ours, expected, rtol=0, atol=bound)


def test_tanh_gaussian_entropy_has_the_right_gradient():
    """With respect to mean and log std, against float64 differences, for stds up to 2.

    (The error with respect to the log std is 0.0014 at std 2, 0.02 at 3, 0.2 of 6.9 at 5.)
    """

    def entropy(x):
        return TanhGaussian(Gaussian(x[:1], x[1:]), jnp.ones(1)).entropy()

    for mean, log_std in [(0.0, -2.0), (0.5, 0.0), (-2.0, 0.0), (1.0, np.log(2.0))]:
        x = jnp.array([mean, log_std], jnp.float32)
        expected = reference.gradient(
            lambda x: reference.tanh_gaussian_entropy(x[0], np.exp(x[1]), 1.0), x, step=1e-4
        )
        np.testing.assert_allclose(jax.grad(entropy)(x), expected, rtol=0, atol=2e-3)


def test_tanh_gaussian_adds_up_over_actions():
    """Three actions with bounds of their own: log-density, entropy and KL are sums over them."""
    mean, std = np.array([0.3, -1.0, 0.5]), np.array([0.5, 1.0, 0.2])
    half_width, raw = np.array([1.0, 4.0, 0.1]), np.array([0.1, -2.0, 0.6])
    p = TanhGaussian(Gaussian(*jnp.float32([[mean], np.log([std])])), jnp.float32([half_width]))
    rows = list(zip(mean, std, half_width, strict=True))
    log_prob = sum(
        reference.tanh_gaussian_log_prob(u, *row) for u, row in zip(raw, rows, strict=True)
    )
    np.testing.assert_allclose(p.log_prob(jnp.float32(raw)[None]), [log_prob], rtol=1e-5)
    entropy = sum(reference.tanh_gaussian_entropy(*row) for row in rows)
    np.testing.assert_allclose(p.entropy(), [entropy], rtol=1e-5)


def test_tanh_gaussian_draws_have_its_distribution():
    """Kolmogorov-Smirnov of the action against the Gaussian's at its inverse image."""
    head = action_head(spaces.Box(-3.0, 5.0, (1,)), "tanh")
    outputs = jnp.broadcast_to(jnp.array([0.4, np.log(0.8)], jnp.float32), (DRAWS, 2))
    draws = np.float64(head.to_action(head.distribution(outputs).sample(KEY)))[:, 0]

    def cdf(action):
        return stats.norm(0.4, 0.8).cdf(np.arctanh((action + 3) / 4 - 1))

    assert stats.kstest(draws, cdf).pvalue > ALPHA
    assert stats.kstest(draws, stats.norm(draws.mean(), draws.std()).cdf).pvalue < ALPHA
    median = head.to_action(head.distribution(outputs[:1]).mode())
    np.testing.assert_allclose(cdf(np.float64(median)), [[0.5]], rtol=1e-5)


def test_tanh_gaussian_kl_is_that_of_the_actions():
    """Within 4 standard errors of the mean of log p(a) - log q(a) over 20,000 draws of p."""
    p, q = tanh_gaussian(0.4, 0.8), tanh_gaussian(-0.3, 1.1)
    raw = np.float64(repeated(p.base).sample(KEY))[:, 0]
    log_p = np.array([reference.tanh_gaussian_log_prob(u, 0.4, 0.8, 1.0) for u in raw])
    # The density of q's action by another way: from the action, back through atanh.
    action = np.tanh(raw)
    log_q = stats.norm.logpdf(np.arctanh(action), -0.3, 1.1) - np.log1p(-(action**2))
    samples = log_p - log_q
    error = samples.std() / np.sqrt(DRAWS)
    assert abs(p.kl(q) - samples.mean()) < 4 * error
    assert abs(q.kl(p) - samples.mean()) > 8 * error  # the other direction is told apart


# --- Action heads ---


def test_head_of_a_discrete_space():
    """As many logits as actions, none of them free, and actions of the space's type."""
    head = action_head(spaces.Discrete(4), "clip")
    assert (head.size, head.free, head.num_logits) == (4, 0, 4)
    assert isinstance(head.distribution(jnp.zeros((3, 4))), Categorical)
    action = head.to_action(jnp.zeros((5, 3), jnp.uint32))
    assert (action.shape, action.dtype) == ((5, 3), jnp.int32)


def test_head_of_a_tuple_of_discrete_spaces():
    """Each part takes its own logits, in order, and gives its own entry of the tuple."""
    head = action_head(spaces.Tuple([spaces.Discrete(3), spaces.Discrete(2)]), "clip")
    assert (head.size, head.free, head.num_logits) == (5, 0, 5)
    pi = head.distribution(jnp.array([[0.0, 0.0, 9.0, 9.0, 0.0], [0.0, 9.0, 0.0, 0.0, 9.0]]))
    first, second = head.to_action(pi.mode())
    np.testing.assert_array_equal(first, [2, 1])
    np.testing.assert_array_equal(second, [0, 1])
    p = reference.probabilities([9, 0, 0])[0] * reference.probabilities([9, 0])[0]
    np.testing.assert_allclose(pi.log_prob(pi.mode()), np.log([p, p]), rtol=1e-3)


def test_head_of_parts_of_one_choice():
    """A part with a single choice costs nothing: probability 1, entropy 0."""
    head = action_head(spaces.Tuple((spaces.Discrete(1),)), "clip")
    pi = head.distribution(jnp.array([[3.0]]))
    assert (pi.log_prob(jnp.array([[0]])), pi.entropy()) == (0, 0)


@pytest.mark.parametrize("lead", [(), (7,), (5, 7)])
@pytest.mark.parametrize("squash", ["clip", "tanh"])
@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_head_of_a_box(shape, squash, lead):
    """Means and deviations for each of its numbers; actions of its shape behind any axes."""
    head, d = action_head(spaces.Box(-1.0, 1.0, shape), squash), int(np.prod(shape))
    assert (head.size, head.free, head.num_logits) == (2 * d, d, 0)

    def use(outputs):
        pi = head.distribution(outputs)
        raw = pi.sample(KEY)
        return head.to_action(raw), pi.log_prob(raw), pi.entropy(), pi.kl(pi)

    action, *numbers = jax.eval_shape(use, jnp.zeros((*lead, 2 * d)))
    assert action.shape == lead + shape
    assert [x.shape for x in numbers] == [lead] * 3


@pytest.mark.parametrize("squash", ["clip", "tanh"])
def test_head_takes_means_before_deviations(squash):
    """Of the outputs the first half are means and the second log deviations."""
    head = action_head(spaces.Box(-9.0, 9.0, (2,)), squash)
    pi = head.distribution(jnp.array([0.1, 0.2, 0.3, 0.4]))
    base = pi if squash == "clip" else pi.base
    np.testing.assert_array_equal(base.mean, jnp.array([0.1, 0.2]))
    np.testing.assert_array_equal(base.log_std, jnp.array([0.3, 0.4]))


LOW = np.array([[-1.0, 0.0, 2.0], [-5.0, -0.1, 10.0]], np.float32)
HIGH = np.array([[1.0, 0.5, 3.0], [-4.0, 0.1, 30.0]], np.float32)


def test_clip_keeps_each_action_within_its_own_bounds():
    """Bounds given as arrays hold element by element; what is inside stays as it is."""
    head = action_head(spaces.Box(LOW, HIGH, (2, 3)), "clip")
    raw = 20 * jax.random.normal(KEY, (50, 6))
    expected = np.minimum(np.maximum(raw.reshape(50, 2, 3), LOW), HIGH)
    np.testing.assert_array_equal(head.to_action(raw), expected)


def test_tanh_maps_onto_each_action_s_own_bounds():
    """Raw -50, 0 and 50 are the lower bound, the middle and the upper bound, element by element."""
    head = action_head(spaces.Box(LOW, HIGH, (2, 3)), "tanh")
    actions = head.to_action(jnp.array([[-50.0], [0.0], [50.0]]) * jnp.ones((1, 6)))
    np.testing.assert_allclose(actions, [LOW, (LOW + HIGH) / 2, HIGH], rtol=1e-6, atol=1e-7)


bounds = st.floats(-1000, 1000, width=32)


@given(bounds, bounds, st.sampled_from(["clip", "tanh"]))
def test_actions_stay_within_bounds(a, b, squash):
    """No rounding carries an action over a bound, whatever the bounds are."""
    low, high = min(a, b), max(a, b) + 1.0
    head = action_head(spaces.Box(low, high, (1,)), squash)
    action = head.to_action(jnp.array([[-1e4], [-50.0], [-1.0], [0.3], [9.0], [50.0], [1e4]]))
    assert np.all(action >= np.float32(low))
    assert np.all(action <= np.float32(high))


@pytest.mark.parametrize("squash", ["clip", "tanh"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16])
def test_head_keeps_the_box_s_type(dtype, squash):
    """Actions have the type of the space."""
    head = action_head(spaces.Box(-1.0, 1.0, (2,), dtype), squash)
    assert head.to_action(jnp.zeros((3, 2))).dtype == dtype


@pytest.mark.parametrize("squash", ["clip", "tanh"])
def test_bounds_may_be_traced(squash):
    """A box whose bounds come from environment parameters works under jit."""

    @jax.jit
    def act(high):
        return action_head(spaces.Box(-high, high, (1,)), squash).to_action(jnp.full((2, 1), 50.0))

    np.testing.assert_allclose(act(2.0), [[2.0], [2.0]])


def test_unbounded_boxes_can_be_clipped():
    """With infinite bounds `clip` changes nothing."""
    head = action_head(spaces.Box(-jnp.inf, jnp.inf, (1,)), "clip")
    np.testing.assert_array_equal(head.to_action(jnp.array([[-1e9], [3.0]])), [[-1e9], [3.0]])


@pytest.mark.parametrize("low", [-jnp.inf, np.array([-np.inf, 0.0])])
def test_unbounded_boxes_cannot_be_squashed(low):
    """tanh needs two bounds for every action, and says so."""
    space = spaces.Box(low, 1.0, (2,))
    with pytest.raises(InputError) as error:
        action_head(space, "tanh")
    assert str(error.value) == (
        f"squash is 'tanh', but the action space {space!r} is unbounded; use 'clip'."
    )


@pytest.mark.parametrize(
    "space",
    [
        spaces.Dict({"a": spaces.Discrete(2)}),
        spaces.Tuple((spaces.Discrete(2), spaces.Box(-1.0, 1.0, (1,)))),
        spaces.Tuple(()),
        "text",
    ],
)
def test_other_spaces_are_refused(space):
    """A space without a head is named, with those that have one."""
    with pytest.raises(InputError) as error:
        action_head(space, "clip")
    assert str(error.value) == (
        f"the action space {space!r} is not supported; a discrete space, a tuple of discrete "
        "spaces, or a box is."
    )


# Choices, against a categorical for each agent over its own candidates.


def choices(seed, lead=()):
    """Random candidates of 4 agents, of which at least one has none; numbers in float64 as well."""
    rng = np.random.default_rng(seed)
    count, agents = 9, 4
    scores = rng.normal(0, 3, (*lead, count)).astype(np.float32)
    agent = rng.integers(0, agents + 1, (*lead, count)).astype(np.int32)
    agent = np.where(agent == rng.integers(agents), agents, agent).astype(np.int32)
    options = rng.random((*lead, count)) < 0.7
    return Choices(*map(jnp.asarray, (scores, agent, options, np.zeros((*lead, agents)))))


def by_hand(choice, agent):
    """The candidates of an agent and their log-probabilities, of a distribution without axes."""
    mine = np.flatnonzero(np.asarray(choice.options) & (np.asarray(choice.agent) == agent))
    scores = np.asarray(choice.scores, np.float64)[mine]
    return mine, scores - np.logaddexp.reduce(scores) if len(mine) else scores


@pytest.mark.parametrize("seed", range(20))
def test_choices_are_a_categorical_for_each_agent(seed):
    choice, other = choices(seed), choices(seed)
    other = other._replace(scores=-other.scores)
    count = len(choice.scores)
    for agent in range(4):
        mine, log_probs = by_hand(choice, agent)
        _, others = by_hand(other, agent)
        raw = jnp.full(4, count)
        assert choice.log_prob(raw)[agent] == 0
        if not len(mine):
            assert choice.mode()[agent] == choice.sample(jax.random.key(0))[agent] == count
            assert choice.entropy()[agent] == choice.kl(other)[agent] == 0
            continue
        assert choice.mode()[agent] == mine[np.argmax(log_probs)]
        for i, candidate in enumerate(mine):
            got = choice.log_prob(raw.at[agent].set(candidate))[agent]
            np.testing.assert_allclose(got, log_probs[i], rtol=1e-5, atol=1e-5)
        p = np.exp(log_probs)
        np.testing.assert_allclose(choice.entropy()[agent], -(p @ log_probs), rtol=1e-4, atol=1e-5)
        divergence = p @ (log_probs - others)
        np.testing.assert_allclose(choice.kl(other)[agent], divergence, rtol=1e-4, atol=1e-5)


def test_choices_are_drawn_as_often_as_they_should():
    """Chi-square over 20,000 draws, for every agent."""
    choice = choices(3)
    keys = jax.random.split(jax.random.key(0), 20_000)
    drawn = np.asarray(jax.jit(jax.vmap(choice.sample))(keys))
    for agent in range(4):
        mine, log_probs = by_hand(choice, agent)
        assert set(drawn[:, agent]) <= ({*mine.tolist()} or {len(choice.scores)})
        if len(mine) > 1:
            counts = np.array([(drawn[:, agent] == candidate).sum() for candidate in mine])
            expected = np.exp(log_probs) * len(drawn)
            seen = expected > 5
            assert (
                stats.chisquare(
                    np.append(counts[seen], counts[~seen].sum()),
                    np.append(expected[seen], expected[~seen].sum() + 1e-9),
                ).pvalue
                > 1e-4
            )


def test_choices_with_axes_and_gradients():
    """Leading axes are side by side; gradients are finite and sum to zero over an agent."""
    choice = choices(5, (2, 3))
    raw = choice.mode()
    for i, j in np.ndindex(2, 3):
        one = Choices(*(x[i, j] for x in choice))
        np.testing.assert_array_equal(one.mode(), raw[i, j])
        np.testing.assert_allclose(one.entropy(), choice.entropy()[i, j], rtol=1e-6)
        np.testing.assert_allclose(one.log_prob(raw[i, j]), choice.log_prob(raw)[i, j], rtol=1e-6)
    gradient = jax.grad(lambda scores: choice._replace(scores=scores).log_prob(raw).sum())(
        choice.scores
    )
    assert np.isfinite(gradient).all()
    assert not gradient[~np.asarray(choice.options)].any()
    np.testing.assert_allclose(gradient.sum(-1), 0, atol=1e-5)
    assert np.abs(gradient).max() > 0.01
