"""Reference implementations in float64, from the papers' formulas, as plain loops.

They share nothing with `rlax_lab`, neither code nor structure: one environment, one time step and
one sample after the other. Inputs are NumPy arrays; float32 ones are widened first.
"""

import math

import numpy as np
from scipy import integrate


def _episode_end(ends, t, n):
    """The last step, from `t` on, of the episode that environment `n` is in (or the last row)."""
    while t < len(ends) - 1 and not ends[t, n]:
        t += 1
    return t


def lambda_returns(r, discount, v, ends, lambda_):
    """Sutton and Barto (2018), equation 12.18, backwards through each episode ``[T, N]``."""
    r, discount, v = (np.float64(x) for x in (r, discount, v))
    result = np.zeros(r.shape)
    for n in range(r.shape[1]):
        for t in reversed(range(r.shape[0])):
            if _episode_end(ends, t, n) == t:
                following = v[t, n]
            else:
                following = (1 - lambda_) * v[t, n] + lambda_ * result[t + 1, n]
            result[t, n] = r[t, n] + discount[t, n] * following
    return result


def lambda_returns_as_mixture(r, discount, v, ends, lambda_):
    """The definition, Sutton and Barto (2018), equations 12.1 to 12.3: a mixture of n-step returns.

    An n-step return is n rewards and a bootstrap; the longest one, to the end of the episode or
    of the batch, takes the weight that is left over.
    """
    r, discount, v = (np.float64(x) for x in (r, discount, v))
    result = np.zeros(r.shape)
    for n in range(r.shape[1]):
        for t in range(r.shape[0]):
            longest = _episode_end(ends, t, n) - t + 1
            for k in range(1, longest + 1):
                k_step = 0.0
                for i in range(k):
                    k_step += math.prod(discount[t : t + i, n]) * r[t + i, n]
                k_step += math.prod(discount[t : t + k, n]) * v[t + k - 1, n]
                weight = lambda_ ** (k - 1) * (1.0 if k == longest else 1 - lambda_)
                result[t, n] += weight * k_step
    return result


def gae(r, discount, v_tm1, v_t, ends, lambda_):
    """Schulman et al. (2016), equation 16: A = delta + gamma lambda A', within each episode."""
    r, discount, v_tm1, v_t = (np.float64(x) for x in (r, discount, v_tm1, v_t))
    result = np.zeros(r.shape)
    for n in range(r.shape[1]):
        for t in reversed(range(r.shape[0])):
            result[t, n] = r[t, n] + discount[t, n] * v_t[t, n] - v_tm1[t, n]
            if _episode_end(ends, t, n) != t:
                result[t, n] += discount[t, n] * lambda_ * result[t + 1, n]
    return result


def decision_gae(r, discount, v_tm1, v_t, ends, acts, lambda_):
    """GAE of each agent over the sequence of its own decisions, written out one by one."""
    r, discount, v_tm1, v_t = (np.float64(x) for x in (r, discount, v_tm1, v_t))
    result = np.zeros(v_tm1.shape)
    for n, agent in np.ndindex(v_tm1.shape[1:]):
        for t in reversed(np.flatnonzero(acts[:, n, agent])):
            last = _episode_end(ends, t, n)
            later = [i for i in range(t + 1, last + 1) if acts[i, n, agent]]
            until = later[0] - 1 if later else last
            reward = sum(math.prod(discount[t:i, n]) * r[i, n] for i in range(t, until + 1))
            if later:
                there = v_tm1[until + 1, n, agent] + lambda_ * result[until + 1, n, agent]
            else:
                there = v_t[last, n, agent]
            worth = math.prod(discount[t : until + 1, n]) * there
            result[t, n, agent] = reward + worth - v_tm1[t, n, agent]
    return result


def gae_as_sum(r, discount, v_tm1, v_t, ends, lambda_):
    """The same, as the sum of the decayed TD errors of the steps left in the episode."""
    r, discount, v_tm1, v_t = (np.float64(x) for x in (r, discount, v_tm1, v_t))
    result = np.zeros(r.shape)
    for n in range(r.shape[1]):
        for t in range(r.shape[0]):
            for i in range(t, _episode_end(ends, t, n) + 1):
                error = r[i, n] + discount[i, n] * v_t[i, n] - v_tm1[i, n]
                result[t, n] += math.prod(discount[t:i, n]) * lambda_ ** (i - t) * error
    return result


def monte_carlo(r, discount, v, ends):
    """Discounted rewards up to the end of the episode or of the batch, and a bootstrap there."""
    r, discount, v = (np.float64(x) for x in (r, discount, v))
    result = np.zeros(r.shape)
    for n in range(r.shape[1]):
        for t in range(r.shape[0]):
            last, weight = _episode_end(ends, t, n), 1.0
            for i in range(t, last + 1):
                result[t, n] += weight * r[i, n]
                weight *= discount[i, n]
            result[t, n] += weight * v[last, n]
    return result


def n_step(r, discount, ends, n):
    """Up to n rewards from each row on, the weight of what follows them, and the last row summed.

    Sutton and Barto (2018), equation 7.1; an episode's end is the last row at the latest.
    """
    r, discount = (np.float64(x) for x in (r, discount))
    shape = len(r) - n + 1, r.shape[1]
    total, weight, last = np.zeros(shape), np.ones(shape), np.zeros(shape, int)
    for i in range(shape[1]):
        for t in range(shape[0]):
            last[t, i] = min(_episode_end(ends, t, i), t + n - 1)
            for row in range(t, last[t, i] + 1):
                total[t, i] += weight[t, i] * r[row, i]
                weight[t, i] *= discount[row, i]
    return total, weight, last


def policy_gradient(log_prob, advantage):
    """Minus the mean of log pi times the advantage."""
    total = 0.0
    for l, a in zip(*map(np.float64, (log_prob, advantage)), strict=True):
        total += l * a
    return -total / len(log_prob)


def clipped_surrogate(log_prob, old_log_prob, advantage, clip_range):
    """Schulman et al. (2017), equation 7, negated."""
    total = 0.0
    for new, old, a in zip(*map(np.float64, (log_prob, old_log_prob, advantage)), strict=True):
        ratio = math.exp(new - old)
        total += min(ratio * a, max(1 - clip_range, min(ratio, 1 + clip_range)) * a)
    return -total / len(log_prob)


def surrogate(log_prob, old_log_prob, advantage):
    """Schulman et al. (2017), equation 6, negated."""
    total = 0.0
    for new, old, a in zip(*map(np.float64, (log_prob, old_log_prob, advantage)), strict=True):
        total += math.exp(new - old) * a
    return -total / len(log_prob)


def approximate_kl(log_prob, old_log_prob):
    """Schulman (2020), estimator k3 with r = new/old: the mean of (r - 1) - log r."""
    total = 0.0
    for new, old in zip(*map(np.float64, (log_prob, old_log_prob)), strict=True):
        total += math.expm1(new - old) - (new - old)
    return total / len(log_prob)


def squared_error(value, target):
    """Half the mean of (V - G)^2."""
    total = 0.0
    for v, g in zip(*map(np.float64, (value, target)), strict=True):
        total += (v - g) ** 2
    return total / 2 / len(value)


def clipped_squared_error(value, old_value, target, clip_range):
    """Half the mean of the larger of (V - G)^2 and (V_clipped - G)^2."""
    total = 0.0
    for v, old, g in zip(*map(np.float64, (value, old_value, target)), strict=True):
        clipped = max(old - clip_range, min(v, old + clip_range))
        total += max((v - g) ** 2, (clipped - g) ** 2)
    return total / 2 / len(value)


def huber(error, threshold):
    """Huber (1964) of one error: a parabola that goes on as its tangents beyond the threshold."""
    if abs(error) <= threshold:
        return error**2 / 2
    return threshold**2 / 2 + threshold * (abs(error) - threshold)


def project_distribution(atoms, probabilities, r, discount):
    """Bellemare et al. (2017), algorithm 1, for one distribution.

    Where the algorithm finds an atom itself, l = u, it would lose the probability: kept here.
    """
    atoms, result = np.float64(atoms), np.zeros(len(atoms))
    spacing = (atoms[-1] - atoms[0]) / (len(atoms) - 1)
    for z, p in zip(atoms, np.float64(probabilities), strict=True):
        moved = max(atoms[0], min(r + discount * z, atoms[-1]))
        b = min((moved - atoms[0]) / spacing, len(atoms) - 1)
        l, u = math.floor(b), math.ceil(b)
        if l == u:
            result[l] += p
        else:
            result[l] += p * (u - b)
            result[u] += p * (b - l)
    return result


def quantile_huber(quantiles, target, threshold):
    """Dabney et al. (2018), equations 9 and 10 and algorithm 1, for one distribution."""
    quantiles, target, total = np.float64(quantiles), np.float64(target), 0.0
    for i, theta in enumerate(quantiles):
        tau = (2 * i + 1) / (2 * len(quantiles))
        for sample in target:
            u = sample - theta
            weight = 1 - tau if u < 0 else tau
            total += weight * huber(u, threshold) / threshold / len(target)
    return total


def gradient(f, x, step=1e-6):
    """Central finite differences of the scalar function `f` at the vector `x`, in float64."""
    x = np.float64(x)
    result = np.zeros(len(x))
    for i in range(len(x)):
        h = np.zeros(len(x))
        h[i] = step
        result[i] = (f(x + h) - f(x - h)) / (2 * step)
    return result


def probabilities(logits):
    """The softmax of one vector of logits."""
    logits = np.float64(logits)
    weights = [math.exp(x - max(logits)) for x in logits]
    return np.array(weights) / math.fsum(weights)


def epsilon_greedy(values, epsilon):
    """Probabilities of one vector of values; the least float rules an action out."""
    allowed = [i for i, v in enumerate(values) if v > np.finfo(np.float32).min]
    best = allowed[0]
    for i in allowed:
        if values[i] > values[best]:
            best = i
    result = np.zeros(len(values))
    for i in allowed:
        result[i] = epsilon / len(allowed)
    result[best] += 1 - epsilon
    return result


def importance_weights(probabilities, size, beta):
    """Schaul et al. (2016), section 3.4: (N P)^-beta, over the largest in the batch."""
    weights = [(size * p) ** -beta for p in np.float64(probabilities)]
    return np.array(weights) / max(weights)


def clip_by_norm(gradients, limit):
    """Gradients ``[steps, d]``, each step's scaled as a whole to a norm of at most `limit`."""
    result = np.float64(gradients)
    for g in result:
        norm = math.sqrt(math.fsum(x * x for x in g))
        if norm > limit:
            g *= limit / norm
    return result


def rmsprop(gradients, decay, eps):
    """Directions for ``[steps, d]`` of Mnih et al. (2016), equation 8: d / sqrt(g + eps)."""
    gradients = np.float64(gradients)
    square, result = np.zeros(gradients.shape[1]), np.zeros(gradients.shape)
    for t, row in enumerate(gradients):
        for i, d in enumerate(row):
            square[i] = decay * square[i] + (1 - decay) * d**2
            result[t, i] = d / math.sqrt(square[i] + eps)
    return result


def adam(gradients, eps):
    """Directions for ``[steps, d]`` of Kingma and Ba (2015), algorithm 1, with its defaults."""
    gradients = np.float64(gradients)
    (first, second), result = np.zeros((2, gradients.shape[1])), np.zeros(gradients.shape)
    for t, row in enumerate(gradients):
        for i, g in enumerate(row):
            first[i] = 0.9 * first[i] + 0.1 * g
            second[i] = 0.999 * second[i] + 0.001 * g**2
            root = math.sqrt(second[i] / (1 - 0.999 ** (t + 1)))
            result[t, i] = first[i] / (1 - 0.9 ** (t + 1)) / (root + eps)
    return result


def tanh_gaussian_log_prob(raw, mean, std, half_width):
    """The log-density of ``half_width * tanh(u)`` + constant at ``u = raw``, u ~ N(mean, std)."""
    z = (raw - mean) / std
    log_gaussian = -z * z / 2 - math.log(std) - math.log(2 * math.pi) / 2
    # log(1 - tanh^2) = -2 log cosh, without overflow.
    log_cosh = abs(raw) + math.log1p(math.exp(-2 * abs(raw))) - math.log(2)
    return log_gaussian + 2 * log_cosh - math.log(half_width)


def tanh_gaussian_entropy(mean, std, half_width):
    """Minus the integral of p log p, over u within 12 deviations of its mean."""

    def integrand(z):
        log_prob = tanh_gaussian_log_prob(mean + std * z, mean, std, half_width)
        return -math.exp(-z * z / 2) / math.sqrt(2 * math.pi) * log_prob

    kink = [-mean / std] if abs(mean / std) < 12 else None
    return integrate.quad(integrand, -12, 12, points=kink, epsabs=1e-10, limit=500)[0]


def scaled_rewards(r, ends, discount, before=()):
    """Rewards ``[T, N]`` over the deviation of the discounted return up to each step.

    `before` holds earlier (rewards, ends, discounts) of the same environments; the deviation is
    over all.
    """
    rows = [*before, (r, ends, discount)]
    seen, returns = [], [0.0] * r.shape[1]
    for rewards, stops, discounts in rows:
        for t in range(len(rewards)):
            for n in range(r.shape[1]):
                returns[n] += float(rewards[t, n])
                seen.append(returns[n])
                returns[n] *= 0.0 if stops[t, n] else float(discounts[t, n])
    return np.float64(r) / np.std(seen)
