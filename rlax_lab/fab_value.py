"""`rlax-lab fab value`: what an evaluation's differences are worth, under stated assumptions."""

import dataclasses
import json
import math
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from rlax_lab import commands, fab_commands, provenance
from rlax_lab.checkpoint import write_json
from rlax_lab.config import configuration, setting, to_json
from rlax_lab.errors import InputError, nearest

DAYS = 365


@configuration
class Assumptions:
    """What the value rests on beside the measured differences. Money is in any one currency."""

    revenue: float | None = setting(
        None, "a year's revenue of the fab under the rule; must be given", above=0
    )
    wafer_value: float | None = setting(
        None, "mean value of a wafer in process; must be given", above=0
    )
    margin: float = setting(0.5, "part of the revenue of an additional lot that is left", low=0)
    sold: float = setting(1.0, "part of the additional lots that find a buyer", low=0, high=1)
    wafers_per_lot: float = setting(25.0, "wafers in a lot", above=0)
    capital_cost: float = setting(0.1, "a year's cost of capital tied up in wafers", low=0)
    late_penalty: float = setting(
        0.0, "part of a lot's revenue that is lost where it is late", low=0, high=1
    )
    energy_price: float = setting(0.1, "of a kWh", low=0)
    project_cost: float = setting(1e6, "to bring the policy into the fab, once", above=0)
    yearly_cost: float = setting(1e5, "to keep it there, a year", low=0)


def command(words: list[str]) -> None:
    """``fab value``.

    Raises:
      InputError: on bad input.
    """
    parser = commands.Parser(
        prog="rlax-lab fab value",
        description="Says what a policy is worth a year, from the differences that "
        "`fab evaluate` measured and from assumptions, all of which it shows.",
    )
    parser.add_argument("evaluation", type=Path, help="a folder of `fab evaluate`")
    parser.add_argument("--policy", help="which one, by its run's name, where there are several")
    parser.add_argument("--against", help="the rule in use (default: the best one)")
    commands.add_settings(parser, Assumptions)
    parsed = parser.parse(words)
    assumed = commands.build(Assumptions, commands.given(parsed))
    for name in ("revenue", "wafer_value"):
        if getattr(assumed, name) is None:
            raise InputError(f"--{name.replace('_', '-')} is missing: the value rests on it.")
    summary, found = read(parsed.evaluation)
    policies = [name.removeprefix(fab_commands.POLICY) for name in summary["policies"]]
    policy = _one_of("policy", parsed.policy or (policies[0] if policies else ""), policies)
    if parsed.policy is None and len(policies) > 1:
        raise InputError(f"--policy is missing; there are {', '.join(policies)}.")
    rules = [name for name in found if not name.startswith(fab_commands.POLICY)]
    rule = _one_of("rule", parsed.against or summary["best_rule"], rules)
    result = value(assumed, found[f"{fab_commands.POLICY}{policy}"], found[rule])
    record = {
        "command": shlex.join(["rlax-lab", "fab", "value", *words]),
        "policy": policy,
        "against": rule,
        "configs": summary["configs"],
        "assumptions": to_json(assumed),
        **result,
        "evaluation": {key: summary[key] for key in ("command", "commit") if key in summary},
        **provenance.stamp(),
    }
    out = parsed.evaluation / "value.json"
    write_json(out, record)
    _show(record, assumed)
    print(f"\n{out}")


def read(folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, np.ndarray]]]:
    """An evaluation's summary, and of every contender the figures ``[configs]`` by name.

    Raises:
      InputError: where there is none.
    """
    path = folder / "evaluation.json"
    if not path.is_file():
        if (folder / "config.json").is_file():
            raise InputError(
                f"{folder} has no evaluation.json; `rlax-lab fab evaluate {folder} --out DIR` "
                "measures what a policy changes, and `fab value DIR` says what that is worth."
            )
        raise InputError(f"there is no evaluation in {folder}; `fab evaluate` makes one.")
    summary = json.loads(path.read_text())
    found: dict[str, dict[str, np.ndarray]] = {name: {} for name in summary["figures"]}
    with np.load(folder / "configurations.npz") as raw:
        for key in raw.files:
            name, _, figure = key.rpartition("/")
            found[name][figure] = raw[key]
    return summary, found


def value(
    assumed: Assumptions, policy: dict[str, np.ndarray], rule: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Annual value, return and pay-back time, with 95 % intervals over paired fabs.

    A lot's price is the year's revenue over the lots that leave under the rule. Additional lots
    bring the margin; capital, energy and late lots cost less or more.

    Args:
      assumed: the assumptions; `revenue` and `wafer_value` given.
      policy, rule: figures ``[configs]`` of the same fabs, as `fab_evaluate.FIGURES`.
    """
    assert assumed.revenue is not None
    assert assumed.wafer_value is not None
    mine, theirs = ({k: np.asarray(v, np.float64) for k, v in x.items()} for x in (policy, rule))
    lots, before = mine["lots_per_day"], theirs["lots_per_day"]
    price = assumed.revenue / (before * DAYS)
    of_wafers = assumed.wafers_per_lot * assumed.wafer_value
    freed = (theirs["wip"] - mine["wip"]) * of_wafers
    late = (1 - theirs["on_time"]) * before - (1 - mine["on_time"]) * lots
    # Energy per lot, on the lots that leave under the policy: more lots are not a waste.
    energy = (theirs["energy_per_lot"] - mine["energy_per_lot"]) * lots
    parts = {
        "additional lots": (lots - before) * DAYS * price * assumed.margin * assumed.sold,
        "capital in process": freed * assumed.capital_cost,
        "lots on time": late * DAYS * price * assumed.late_penalty,
        "energy": energy * DAYS * assumed.energy_price,
    }
    annual = sum(parts.values(), np.zeros_like(lots))
    net = annual - assumed.yearly_cost
    ends = _with_interval(net)
    payback = [assumed.project_cost / x if x > 0 else None for x in (ends[0], ends[2], ends[1])]
    return {
        "parts": {name: _as_json(_with_interval(x)) for name, x in parts.items()},
        "capital_freed_once": _as_json(_with_interval(freed)),
        "annual_value": _as_json(_with_interval(annual)),
        "annual_value_after_costs": _as_json(ends),
        "first_year_return": _as_json(
            [(x - assumed.project_cost) / assumed.project_cost for x in ends]
        ),
        # None: never. The shortest time belongs to the highest value.
        "payback_years": {"mean": payback[0], "ci95": payback[1:]},
    }


def _with_interval(x: np.ndarray) -> list[float]:
    return list(fab_commands.interval(x))


def _as_json(x: list[float]) -> dict[str, Any]:
    return {"mean": x[0], "ci95": x[1:]}


def _one_of(what: str, name: str, allowed: list[str]) -> str:
    if name not in allowed:
        hint = nearest(name, allowed) or f"; there are {', '.join(allowed) or 'none'}."
        raise InputError(f"the evaluation has no {what} '{name}'{hint}")
    return name


def _show(record: dict[str, Any], assumed: Assumptions) -> None:
    print(f"\n{record['policy']} against {record['against']}, {record['configs']} fabs\n")
    print("assumptions\n")
    rows = []
    for field in dataclasses.fields(Assumptions):
        text = str(field.metadata["text"]).removesuffix("; must be given")
        rows.append(
            {
                "": field.name.replace("_", " "),
                "assumed": _money(getattr(assumed, field.name)),
                "what": text,
            }
        )
    fab_commands.print_table(rows)
    print("\na year, with 95 % intervals over fabs\n")
    lines = {
        **record["parts"],
        "value a year": record["annual_value"],
        "after yearly costs": record["annual_value_after_costs"],
        "capital freed, once": record["capital_freed_once"],
    }
    rows = [
        {"": name, "mean": _money(x["mean"]), "interval": " to ".join(map(_money, x["ci95"]))}
        for name, x in lines.items()
    ]
    back = record["first_year_return"]
    rows.append(
        {
            "": "return in the first year",
            "mean": f"{back['mean']:+.0%}",
            "interval": "{:+.0%} to {:+.0%}".format(*back["ci95"]),
        }
    )
    pays = record["payback_years"]
    rows.append(
        {
            "": "pays back after",
            "mean": _years(pays["mean"]),
            "interval": " to ".join(map(_years, pays["ci95"])),
        }
    )
    fab_commands.print_table(rows)


def _money(x: float) -> str:
    if not math.isfinite(x):
        return "unknown"
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.4g}"


def _years(x: float | None) -> str:
    return "never" if x is None else f"{x:.2f} years"
