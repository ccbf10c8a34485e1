"""What fabs and rules there are: `rlax-lab fab list`, `fab describe` and `fab rules`."""

import inspect
from typing import Any

import numpy as np

from rlax_lab import commands
from rlax_lab import config as configs
from rlax_lab.fab_commands import INSTANCE, load_fab, many, parser_of, print_table
from rlax_lab.packages import ours


@configs.configuration
class Fab:
    """What `describe` describes."""

    seed: int = configs.setting(0, "which fab of a random family", low=0, high=2**31 - 1)


def list_fabs(words: list[str]) -> None:
    """``fab list``.

    Raises:
      InputError: on bad input.
    """
    parser_of("list").parse(words)
    library = ours("fab.library")
    rows = []
    for name in library.NAMES:
        plan = load_fab(name)
        lots = f"{plan.instance.slots}"
        load = "CONWIP"
        if not np.isnan(plan.loads).any():
            lots, load = f"up to {lots}", f"{plan.loads.max():.2f}"
        rows.append(
            {
                "name": name,
                "groups": plan.instance.num_groups,
                "tools": plan.instance.tools.sum(),
                "products": plan.instance.num_products,
                "operations": _span(_lengths(plan)),
                "lots": lots,
                "load": load,
                "about": library.about(name),
            }
        )
    print_table(rows)


def describe(words: list[str]) -> None:
    """``fab describe``.

    Raises:
      InputError: on bad input.
    """
    parser = parser_of("describe")
    parser.add_argument("instance", help=INSTANCE)
    commands.add_settings(parser, Fab)
    parsed = parser.parse(words)
    plan = load_fab(parsed.instance, commands.build(Fab, commands.given(parsed)).seed)
    instance, longest = plan.instance, ours("fab.instance").LONGEST_RUN * plan.seconds / 86400
    print(
        f"{plan.name}: {many(instance.num_groups, 'group')}, "
        f"{many(int(instance.tools.sum()), 'tool')}, "
        f"{many(instance.num_products, 'product')}, "
        f"{many(len(instance.group), 'operation')}; {_lots(plan)}"
    )
    print(
        f"times are in {plan.unit}s, {plan.ticks:g} tick{'s' * (plan.ticks != 1)} each; "
        f"runs have up to {longest:.5g} days\n"
    )
    rows = []
    for g, name in enumerate(plan.groups):
        load = plan.loads[g]
        rows.append(
            {
                "group": name,
                "tools": instance.tools[g].sum(),
                "load": "-" if np.isnan(load) else f"{load:.3f}",
                "operations": (instance.group == g).sum(),
                "features": ", ".join(_features(plan, g)) or "-",
            }
        )
    print_table(rows)
    print()
    lengths = _lengths(plan)
    rows = [
        {
            "product": name,
            "operations": lengths[p],
            "work": f"{instance.remaining[instance.first[p]] / plan.ticks:.5g}",
            "releases": _releases(plan, p),
            "due": _due(plan, p),
            "weight": _weight(plan, p),
        }
        for p, name in enumerate(plan.products)
    ]
    print_table(rows)


def list_rules(words: list[str]) -> None:
    """``fab rules``.

    Raises:
      InputError: on bad input.
    """
    parser_of("rules").parse(words)
    rules = ours("fab.rules")
    rows = []
    for name, key in {**rules.KEYS, **rules.FAMILIES}.items():
        shown = name
        if name in rules.FAMILIES:
            parameters = inspect.signature(key).parameters.values()
            shown += f"({', '.join(_parameter(parameter) for parameter in parameters)})"
        rows.append({"key": shown, "about": str(inspect.getdoc(key)).splitlines()[0]})
    print_table(rows)
    print(
        "\nA rule is one or several keys, each deciding where those before it tie:\n"
        "  EDD    setup > weight > FIFO    ATCS(4.5, 0.01)\n"
        "Where lots are processed in batches, the fullest batch goes first. A number after @ lets\n"
        "the best lot's batch go first instead, once it is full to that part:\n"
        "  setup > WMOD @ 0.625\n"
        "A number after wait lets a batch that is not full wait for a lot on its way to it, where\n"
        "that costs those who wait less than so many times what that lot gains:\n"
        "  ATCS(300, 0.1) wait 2\n"
        "Commas separate the rules that are compared: FIFO,ATCS(4.5,0.01)@0.625,setup>weight>EDD"
    )


def _parameter(parameter: inspect.Parameter) -> str:
    if parameter.default is inspect.Parameter.empty:
        return parameter.name
    return f"{parameter.name}={parameter.default:g}"


def _lengths(plan: Any) -> list[int]:
    return [int(x) for x in np.asarray(plan.instance.left)[plan.instance.first]]


def _lots(plan: Any) -> str:
    instance, modules = plan.instance, ours("fab.instance")
    if isinstance(instance.releases, modules.Conwip):
        return f"{instance.slots} lots at all times (CONWIP)"
    if isinstance(instance.releases, modules.Planned):
        return f"a list of {many(len(instance.releases.time), 'release')}"
    return f"up to {instance.slots} lots at once"


def _features(plan: Any, g: int) -> list[str]:
    """What happens at a group besides processing."""
    instance, unit = plan.instance, 1 / plan.ticks
    mine = np.asarray(instance.group) == g
    found = []
    if instance.setups is not None:
        states = {*instance.setups.state[mine].tolist()} - {0}
        if states:
            found.append(many(len(states), "setup state"))
    if instance.batches is not None and instance.batches.maximum[mine].max(initial=1) > 1:
        low, high = (
            x[mine & (instance.batches.family > 0)]
            for x in (instance.batches.minimum, instance.batches.maximum)
        )
        found.append(f"batches of {_span([low.min(), high.max()])}")
    if instance.breakdowns is not None and instance.breakdowns.fails[g]:
        clock = "busy " * bool(instance.breakdowns.by_busy_time[g])
        until, repair = instance.breakdowns.until.mean[g], instance.breakdowns.repair.mean[g]
        found.append(f"fails after {until * unit:.4g} {clock}for {repair * unit:.4g}")
    if instance.maintenance is not None:
        plan_ = instance.maintenance
        if plan_.period[g] < ours("fab.instance").NEVER:
            takes = plan_.duration.mean[g] * unit
            found.append(f"maintenance every {plan_.period[g] * unit:.4g} for {takes:.4g}")
        if plan_.pieces[g]:
            takes = plan_.piece_duration.mean[g] * unit
            found.append(f"maintenance after {plan_.pieces[g]} lots for {takes:.4g}")
    if instance.shifts is not None:
        used = (instance.shifts.end[g] - instance.shifts.start[g]).sum()
        if used < instance.shifts.period:
            found.append(f"shifts {100 * used / instance.shifts.period:.3g} % of the time")
    if instance.rework is not None:
        if instance.rework.probability[mine].any():
            found.append(f"rework {100 * instance.rework.probability[mine].max():.3g} %")
        if (instance.rework.sampled[mine] < 1).any():
            found.append(f"sampling {100 * instance.rework.sampled[mine].min():.3g} %")
    if instance.energy is not None:
        found.append(f"{instance.energy.processing[g]:.3g} kW processing")
    return found


def _releases(plan: Any, p: int) -> str:
    releases, modules = plan.instance.releases, ours("fab.instance")
    if isinstance(releases, modules.Conwip):
        return f"{100 * np.diff(releases.share, prepend=0.0)[p]:.3g} % of lots"
    if isinstance(releases, modules.Planned):
        times = releases.time[releases.product == p] / plan.ticks
        return f"{many(len(times), 'lot')} at {_span(times)}" if len(times) else "none"
    kind = ours("fab.draws").KINDS[releases.between.kind[p]]
    return f"every {releases.between.mean[p] / plan.ticks:.4g} ({kind})"


def _due(plan: Any, p: int) -> str:
    orders = plan.instance.orders
    hot = f"; hot {100 * orders.hot_probability[p]:.3g} %: {orders.hot_factor[p]:.3g}"
    low, high = orders.factor_low[p], orders.factor_high[p]
    return f"{_span([low, high])} x work{hot if orders.hot_probability[p] else ''}"


def _weight(plan: Any, p: int) -> str:
    orders = plan.instance.orders
    hot = f"; hot {orders.hot_weight[p]}" if orders.hot_probability[p] else ""
    return _span([orders.weight_low[p], orders.weight_high[p]]) + hot


def _span(values: Any) -> str:
    """A number, or from the smallest to the largest of several."""
    low, high = min(values), max(values)
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
