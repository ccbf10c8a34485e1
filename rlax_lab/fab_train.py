"""Training of dispatching policies, and what a trained run is good for: `rlax-lab fab train` and
`fab evolve`."""

import dataclasses
import functools
import os
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlax_lab import checkpoint, commands, evolution, fab_policy, mappo, runs, shards
from rlax_lab import config as configs
from rlax_lab.config import configuration, setting
from rlax_lab.errors import InputError
from rlax_lab.fab_commands import load_fab, new_folder
from rlax_lab.model import Params
from rlax_lab.packages import ours
from rlax_lab.policy import Policy
from rlax_lab.randomize import Randomized
from rlax_lab.types import Learner

PPO, EVOLUTION = "mappo", "evolution"
VERBS = {PPO: "train", EVOLUTION: "evolve"}
# The rule that policies start from: of those tuned on training fabs of fab-20x300 within 0.0005 of
# the best (benchmarks/results/fab_tuned.json).
RULE = "ATCS(300, 0.1) wait 2"
# What a policy is held against while it trains, beside it.
RULES = ("setup > FIFO", "setup > EDD", "setup > WSPT")


@configuration
class Fabs:
    """What a policy is trained on."""

    rule: str | None = setting(
        None,
        f"the dispatching rule that the policy adds to; none: that of the run in start, or {RULE}",
    )
    start: str | None = setting(
        None, "folder of a run whose policy to begin with; none: with nothing added to the rule"
    )
    days: float = setting(120.0, "simulated days of an episode of training", above=0)
    eval_days: float = setting(
        40.0,
        "of an evaluation, always of the same fabs; after half as many that do not count, as a "
        "policy can do well for days only, but where releases are a list",
        above=0,
    )
    warmup: float | None = setting(
        None,
        "days under the rule before every episode; none: three times the work of the longest "
        "route, or 0 where releases are a list",
        low=0,
    )
    fabs: int = setting(1, "fabs of a random family to train on, an episode on one of them", low=1)
    fab_seed: int = setting(0, "the first of them; the others count up", low=0, high=2**31 - 1)
    objective: str = setting(
        "all",
        "what is rewarded: cycle time, tardiness, throughput, energy and utilisation with weights "
        "0.4, 0.3, 0.15, 0.05 and 0.1, or one of them",
        choices=("all", "cycle_time", "tardiness", "throughput"),
    )


@configuration
class Config(Fabs, mappo.Config):
    """Configuration of a training run by multi-agent PPO: the fabs, the policy, the learner."""


@configuration
class Evolution(Fabs, fab_policy.Config, evolution.Config):
    """Configuration of a training run by evolution strategies."""

    hidden: int = setting(
        8, "units of each of two hidden layers; 0 for an index alone, linear in what is seen", low=0
    )
    prior: float = setting(
        1.0, "by how much the score of a lot falls as the rule's preference for it does", low=0
    )
    days: float = setting(
        40.0, "simulated days of a play, after which the next one goes on", above=0
    )
    settle: float | None = setting(
        None,
        "of them, until what a mutant does is counted; none: a quarter, or 0 where releases are a "
        "list",
        low=0,
    )


CONFIGS: dict[str, Any] = {PPO: Config, EVOLUTION: Evolution}


@configuration
class Settings(runs.Settings):
    """How a run is conducted."""

    reports: int = setting(
        20, "how many times to evaluate and report; a run can stop and resume between them", low=1
    )
    eval_episodes: int = setting(16, "episodes per seed in every evaluation", low=1)


def command(words: list[str], algo: str = PPO) -> int:
    """``fab train`` and ``fab evolve``; returns the exit code.

    Raises:
      InputError: on bad input.
    """
    learner = {PPO: "multi-agent PPO", EVOLUTION: "evolution strategies"}[algo]
    parser = commands.Parser(
        prog=f"rlax-lab fab {VERBS[algo]}",
        description=f"Trains a dispatching policy by {learner}, one agent per tool group.",
    )
    parser.add_argument("instance", nargs="?", help="a ready-made fab, a file or a family's name")
    commands.add_folder(parser)
    commands.add_settings(parser.add_argument_group("the run"), Settings)
    commands.add_settings(parser.add_argument_group("configuration"), CONFIGS[algo])
    parsed = parser.parse(words)
    given = commands.given(parsed)
    given["env"] = given.pop("instance")
    given = commands.resumed(parsed, given, functools.partial(read_record, algorithms=(algo,)))
    if given["env"] is None:
        raise InputError("the fab is missing: a ready-made one, a file or a family's name.")
    commands.use_all_cores()
    settings = commands.build_settings(Settings, given)
    config = commands.build(CONFIGS[algo], given)
    folder = parsed.out or new_folder(algo, given["env"])
    runs.check_place(folder, parsed.resume)
    commands.use_compilation_cache()
    made = task(
        given["env"],
        config,
        given.get("threshold"),
        settings.parts,
        settings.eval_episodes,
        begins=not parsed.resume,
    )
    return commands.run(made, settings, folder, parsed.resume)


def task(
    instance: str,
    config: Any,
    threshold: float | None = None,
    parts: int = 1,
    episodes: int = 16,
    begins: bool = True,
) -> runs.Task:
    """What a run trains.

    Every evaluation plays the same fabs with the same draws, from where the rule left them, as the
    rules did that the policy is held against: what differs is the policy.

    Args:
      instance: the fab's name.
      config: a `Config` or an `Evolution`.
      threshold: of the returns; by default the best rule's, which takes a simulation of each.
      parts: that the environments of a seed are in (`shards.spread`).
      episodes: of an evaluation.
      begins: whether the learner's states begin with the policy in `config.start`; a run that goes
        on has what it began with in its own, and that folder may be gone.

    Raises:
      InputError: on a fab, a rule or a configuration that cannot work.
    """
    if config.fabs > 1 and instance not in ours("fab.generator").FAMILIES:
        raise InputError(f"fabs is {config.fabs}, but '{instance}' is one fab, not a family.")
    config = dataclasses.replace(config, rule=rule_of(config))
    plans = [load_fab(instance, config.fab_seed + i) for i in range(config.fabs)]
    env = fab = environment(plans[0], config)
    try:
        params = _stack([_params(plan, config) for plan in plans])
    except ValueError as error:
        raise InputError(f"fabs is {config.fabs}, but {error}.") from error
    evolves = isinstance(config, Evolution)
    all_fabs = params
    if config.fabs > 1:
        env = Randomized(env, params)
    else:
        params = jax.tree.map(lambda x: x[0], params)

    # Of evolution's environments, so that all fabs are played.
    turns = -(-config.fabs // config.num_envs)

    def make(config: Any) -> Learner:
        if evolves:
            learner = _evolution(fab, all_fabs, config, turns)
        else:
            learner = mappo.make(env, config, params)
        return _begun(learner, config) if begins and config.start is not None else learner

    def assess(weights: Any) -> jax.Array:
        return measure(lambda own: _deciding(fab, own, functools.partial(learner.act, weights)))

    learner = shards.spread(make, config, parts)
    # Fabs are simulated from here on: what is wrong with the input has been said by now.
    measure = _measure(fab, all_fabs, config.eval_days, episodes)
    best = _best_return(measure, config.rule) if threshold is None else threshold
    algo = EVOLUTION if evolves else PPO
    return runs.Task(algo, instance, env, params, best, config, learner, assess)


def _evolution(env: Any, params: Any, config: Evolution, turns: int) -> Learner:
    """Evolution strategies on fabs ``[K]``: plays are of `config.days`, each of one of them.

    Args:
      env, params: of the fabs.
      config: of the learner.
      turns: see `evolution.make`.

    Raises:
      InputError: on a configuration that cannot work.
    """
    one = jax.tree.map(lambda x: x[0], params)
    settle = config.settle
    if settle is None:
        settle = 0.0 if _ends(one.instance) else config.days / 4
    if settle >= config.days:
        raise InputError(f"settle is {settle}, but must be less than days, {config.days}.")
    pi = fab_policy.make(env, one, config)
    figures, longest = ours("fab.figures"), ours("fab.instance").LONGEST_RUN

    def at(which: jax.Array) -> Any:
        return jax.tree.map(lambda x: x[which], params)

    def start(key: jax.Array, number: jax.Array) -> Any:
        which = number % len(params.horizon)
        fab = env.warm(key, at(which))
        return which, fab, fab

    def play(network: Any, place: Any) -> tuple[Any, jax.Array]:
        which, fab, origin = place
        own = at(which)
        act = functools.partial(pi.act, Params(network, None))
        began = fab._replace(figures=figures.Figures.zeros(own.instance))
        ended, gained = _play(own, began, _deciding(env, own, act), settle, config.days)
        # One that got more lots than it has slots for, whose last lot has left, or that is about to
        # run out of ticks, goes on where it began.
        spent = ended.late | env.empty(ended)
        spent = spent | (ended.window.end > longest - _ticks(own, config.days))
        onward = jax.tree.map(lambda x, y: jnp.where(spent, x, y), origin, ended)
        return (which, onward, origin), gained

    return evolution.make(pi, start, play, config, turns)


def _begun(learner: Learner, config: Any) -> Learner:
    """A learner whose policy begins as that of the run in `config.start`, its first seed.

    Raises:
      InputError: where there is no such run, or none of this network.
    """
    folder = Path(config.start)
    before = read_config(read_record(folder))
    trained = _network(folder)["params"]
    wanted = jax.eval_shape(learner.init, jax.random.key(0)).params.network["params"]
    actor = {name: x for name, x in trained.items() if fab_policy.of_actor(name)}
    for name in filter(fab_policy.of_actor, {**actor, **wanted}):
        shapes = [np.shape(x[name]) if name in x else None for x in (actor, wanted)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"start is {folder}, whose weights {name} have the shape {shapes[0]}, but here it "
                f"is {shapes[1]}: hidden and actors must be as there."
            )
    # Which lot has the highest score stays the same where all that is added to the rule's
    # preference is scaled as that is.
    scale = config.prior / before.prior if config.prior and before.prior else 1.0
    actor = {name: scale * x if name in fab_policy.LINEAR else x for name, x in actor.items()}

    def init(key: jax.Array) -> Any:
        state = learner.init(key)
        network = {**state.params.network, "params": {**state.params.network["params"], **actor}}
        return state._replace(params=state.params._replace(network=network))

    return learner._replace(init=init)


def export(folder: Path, out: Path) -> None:
    """Writes a trained policy to a new folder `out` that stands for its run's wherever a policy is
    asked for. It has the weights alone, so it cannot be resumed; a new run can `start` from it.

    Raises:
      InputError: where there is no such run, or `out` has something in it.
    """
    record = read_record(folder)
    update, network = runs.load_network(folder)
    checkpoint.check_new(out)
    checkpoint.save(out / "checkpoints", update, {"params": {"network": network}}, {})
    checkpoint.write_json(out / "config.json", record)


def decider(folder: Path, plan: Any, seed: int = 0) -> Any:
    """A trained policy as a rule of a fab, greedy; see `policy`."""
    env_params = _params(plan, read_config(read_record(folder)))
    return policy(folder, plan, seed)(env_params)


def importance(folder: Path, plan: Any, fabs: int = 8, steps: int = 256) -> dict[str, float]:
    """Which features move a trained policy (permutation importance, Breiman 2001).

    Args:
      folder: of the run.
      plan: the fab in which it decides.
      fabs, steps: how many fabs it plays, and for how many steps, or until their last lots leave.

    Returns:
      By feature, the part of the decisions that change when it is shuffled among the lots that can
      be chosen, or a group's among the groups that choose, or the fab's among the steps at
      which some group chooses.
    """
    env, env_params, pi, params = _load(folder, plan)
    if _ends(plan.instance):
        # A warm-up that suits the fab of the run could be longer than this list.
        env_params = env_params.replace(warmup=jnp.int32(0))

    @jax.jit
    @jax.vmap
    def played(key: jax.Array) -> Any:
        def body(carry: Any, _: None) -> tuple[Any, Any]:
            seen, state = carry
            return env.step_env(key, state, pi.act(params, seen), env_params)[:2], seen

        return jax.lax.scan(body, env.reset_env(key, env_params), length=steps)[1]

    seen = played(jax.random.split(jax.random.key(0), fabs))
    assert pi.acts is not None
    acts, before = pi.acts(seen), pi.act(params, seen)

    @jax.jit
    def changed(seen: Any) -> jax.Array:
        return jnp.sum((pi.act(params, seen) != before) & acts) / jnp.maximum(jnp.sum(acts), 1)

    names = ours("fab.env")
    rng = np.random.default_rng(0)
    found = {}
    for field, features, where in (
        ("preference", ("the rule's preference",), seen.options),
        ("lots", names.LOT_FEATURES, seen.options),
        ("groups", names.GROUP_FEATURES, acts),
        ("fab", names.FAB_FEATURES, acts.any(-1)),
    ):
        prefix = {"groups": "group: ", "fab": "fab: "}.get(field, "")
        for i, feature in enumerate(features):
            values = np.array(getattr(seen, field))
            column = values if field == "preference" else values[..., i]
            column[np.asarray(where)] = rng.permutation(column[np.asarray(where)])
            shuffled = seen.replace(**{field: jnp.asarray(values)})
            found[prefix + feature] = float(changed(shuffled))
    return found


def policy(folder: Path, plan: Any, seed: int = 0) -> Callable[[Any], Any]:
    """A trained policy, greedy: from a fab's `EnvParams` to a rule for it.

    Args:
      folder: of the run.
      plan: any fab; with separate actors, one with as many groups.
      seed: which of the run's seeds.

    Raises:
      InputError: where there is no such run, or it does not fit the fab.
    """
    env, _, pi, params = _load(folder, plan, seed)
    act = functools.partial(pi.act, params)
    return lambda env_params: _deciding(env, env_params, act)


def _load(folder: Path, plan: Any, seed: int = 0) -> tuple[Any, Any, Policy, Params]:
    """The environment of a fab with its parameters, and a trained policy with its weights.

    Arguments and errors as of `policy`.
    """
    record = read_record(folder)
    config = read_config(record)
    if seed >= record["seeds"]:
        raise InputError(f"seed is {seed}, but {folder} has {record['seeds']} seeds.")
    params = Params(_network(folder, seed), None)
    env, env_params = environment(plan, config), _params(plan, config)
    pi = fab_policy.make(env, env_params, config, getattr(config, "critic", None))
    wanted = jax.eval_shape(pi.init, jax.random.key(0))
    if jax.tree.map(jnp.shape, params) != jax.tree.map(jnp.shape, wanted):
        trained, here = _groups(params), plan.instance.num_groups
        if trained in (None, here):
            raise InputError(
                f"{folder} holds a policy of other shapes: the program has changed since it was "
                "saved."
            )
        raise InputError(
            f"the run in {folder} has {config.actors} actors for {trained} groups, but "
            f"'{plan.name}' has {here}; shared actors fit any fab."
        )
    return env, env_params, pi, params


def _network(folder: Path, seed: int = 0) -> Any:
    """The weights of one of a run's seeds when it was last saved."""
    return jax.tree.map(lambda x: x[seed], runs.load_network(folder)[1])


def read_record(folder: Path, algorithms: Collection[str] = (PPO, EVOLUTION)) -> dict[str, Any]:
    """What a training run's ``config.json`` says.

    Raises:
      InputError: where there is none, or it is none of the `algorithms`'.
    """
    record = runs.read_record(folder)
    if record["algo"] not in algorithms:
        wanted = " or ".join(f"`fab {VERBS[name]}`" for name in algorithms)
        raise InputError(f"{folder} holds a run of {record['algo']}, not of {wanted}.")
    return record


def updates(folder: Path) -> int:
    """After how many updates a training run was last saved; raises as `read_record`."""
    read_record(folder)
    return runs.load_network(folder)[0]


def read_config(record: dict[str, Any]) -> Any:
    """The configuration in a training run's ``config.json``."""
    return configs.from_json(CONFIGS[record["algo"]], record["config"])


def rule_of(config: Fabs) -> str:
    """The rule that a configuration's policy adds to.

    Raises:
      InputError: where it is that of a run that there is not.
    """
    if config.rule is not None:
        return config.rule
    if config.start is None:
        return RULE
    return rule_of(read_config(read_record(Path(config.start))))


def environment(plan: Any, config: Fabs) -> Any:
    """The environment that a configuration makes of a fab.

    Raises:
      InputError: on a rule that there is not.
    """
    try:
        return ours("fab.env").FabEnv(plan, days=config.days, rule=rule_of(config))
    except ours("fab.rules").RuleError as error:
        raise InputError(f"rule: {error}") from error


def work_days(plan: Any) -> float:
    """Days that the longest route takes without any wait."""
    instance = plan.instance
    work = np.asarray(instance.done + instance.remaining - instance.work)[instance.first]
    return float(work.max()) * plan.seconds / 86400


def _params(plan: Any, config: Fabs) -> Any:
    warmup = config.warmup
    if warmup is None:
        warmup = 0.0 if _ends(plan.instance) else 3 * work_days(plan)
    params = ours("fab.env").make_params(plan, config.days, warmup)
    if config.objective == "all":
        return params
    alone = [float(name == config.objective) for name in ours("fab.env").OBJECTIVES]
    return params.replace(weights=jnp.array(alone, jnp.float32))


def _ends(instance: Any) -> bool:
    """Whether a last lot leaves: releases are a list, whose every lot should count."""
    return isinstance(instance.releases, ours("fab.instance").Planned)


def _deciding(env: Any, params: Any, act: Callable[[Any], Any]) -> Any:
    """Agents as a rule for a fab; without the horizon of training, on which nothing must depend."""
    return env.deciding(params.replace(horizon=jnp.int32(ours("fab.instance").LONGEST_RUN)), act)


def _play(own: Any, fab: Any, rule: Any, settle: float, days: float) -> tuple[Any, jax.Array]:
    """A fab some `days` on under a rule, and what all but the first, `settle`, returned."""
    simulate, figures = ours("fab.simulate"), ours("fab.figures")
    began = fab.window.end

    def until(fab: Any, days: float) -> Any:
        window = figures.Window(jnp.int32(0), began + _ticks(own, days))
        return simulate.until_the_end(own.instance, rule, fab._replace(window=window))

    settled = until(fab, settle)
    ended = until(settled, days)
    return ended, ours("fab.env").episode_return(own, ended, settled)


def _ticks(own: Any, days: float) -> jax.Array:
    return jnp.round(days * own.day).astype(jnp.int32)


def _measure(
    env: Any, params: Any, days: float, episodes: int
) -> Callable[[Callable[[Any], Any]], jax.Array]:
    """``measure(of) -> mean return`` of fabs, in each of which ``of(its params)`` dispatches.

    They are always the same with the same draws, from where the environment's rule left them. Half
    as many days as count come first, but where releases are a list, which may be over by then: a
    rule that takes over can do well at once and badly after it.

    Args:
      env: of any of the fabs.
      params: theirs ``[K]``, of which each is as often played as any other, give or take one.
      days: that count.
      episodes: how many fabs.

    Raises:
      InputError: where the last lot of some fab has left before that.
    """
    simulate = ours("fab.simulate")
    own = jax.tree.map(lambda x: x[jnp.arange(episodes) % len(params.horizon)], params)
    warm = simulate.deal(jax.vmap(env.warm), episodes, (True, True))
    # On the host, as they are for whatever devices a run has.
    starts = jax.device_get(jax.jit(warm)(jax.random.split(jax.random.key(0), episodes), own))
    if jax.vmap(env.empty)(starts).any():
        warmup = float(params.warmup[0] / params.day[0])
        raise InputError(
            f"warmup is {warmup:.3g} days, but by then the last lot of the list has left; without "
            "--warmup all of them count."
        )
    settle = 0.0 if _ends(own.instance) else days / 2

    def measure(of: Callable[[Any], Any]) -> jax.Array:
        def gained(own: Any, start: Any) -> jax.Array:
            return _play(own, start, of(own), settle, settle + days)[1]

        return jnp.mean(jax.vmap(gained)(own, starts))

    return measure


def _best_return(measure: Callable[[Callable[[Any], Any]], jax.Array], rule: str) -> float:
    """The best of the mean returns under the policy's rule and each of `RULES`."""
    names = list(dict.fromkeys((rule, *RULES)))

    def mean_return(name: str) -> float:
        parsed = ours("fab.rules").parse(name)
        return float(jax.jit(lambda: measure(lambda _: parsed))())

    # Side by side, as each is compiled and simulated on one core of a CPU.
    returns = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, value in zip(names, pool.map(mean_return, names), strict=True):
            print(f"return under {name}: {value:.2f}", flush=True)
            returns.append(value)
    return max(returns)


def _stack(params: list[Any]) -> Any:
    """Parameters of several fabs as one, with a leading axis."""
    instance = ours("fab.instance").stack([jax.tree.map(np.asarray, p.instance) for p in params])
    rest = [p.replace(instance=None) for p in params]
    stacked = jax.tree.map(lambda *x: jnp.stack([jnp.asarray(y) for y in x]), *rest)
    return stacked.replace(instance=jax.tree.map(jnp.asarray, instance))


def _groups(params: Any) -> int | None:
    """The groups that have actors or an embedding of their own; None where they share all."""
    own = [x for name, x in params.network["params"].items() if x.ndim == 3 or name == "embedding"]
    return own[0].shape[0] if own else None
