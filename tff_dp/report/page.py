"""A report as one HTML page that needs nothing else."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from tff_dp.report.charts import chart
from tff_dp.report.words import at_least, bound, exact, percent, test_of_membership

_CAVEAT_OF_SEEDS = "The figures below would hold if the reasons above did not apply."


def page_of(report: Mapping[str, Any]) -> str:
    """Writes a report as HTML. The same report always gives the same page.

    Args:
      report: The report, as `report_of` returns it.

    Returns:
      The page. It has no script, and loads nothing.
    """
    claim, run = report["claim"], report["run"]
    title = f"Privacy report of {run['folder']}"
    style = importlib.resources.files("tff_dp.report").joinpath("style.css").read_text("utf-8")
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{escape(_subtitle(run, claim))}</p>',
        _verdict(claim),
        _membership(claim),
        _claim(claim),
        _accounting(claim),
        *(
            _plan(number, plan, len(claim["plans"]))
            for number, plan in enumerate(claim["plans"], 1)
        ),
        _curves(report["curves"], claim),
        _configuration(run),
        _reproduce(run, claim),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'; img-src data:\">\n"
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body>\n</html>\n"
    )


def _subtitle(run: Mapping[str, Any], claim: Mapping[str, Any]) -> str:
    rounds = claim["rounds"]
    started = f", started {run['created']}" if run["created"] else ""
    stopped = f" {run['stopped']}" if run["stopped"] else ""
    return f"{rounds['completed']} rounds completed, {run['state']}{started}.{stopped}"


def _verdict(claim: Mapping[str, Any]) -> str:
    guarantee = claim["guarantee"]
    if not claim["private"]:
        reasons = "".join(f"<p>{escape(reason)}</p>" for reason in claim["reasons"])
        return (
            '<section class="verdict bad" role="alert"><strong>NOT PRIVATE</strong>'
            f"<p>Nothing is guaranteed about this model.</p>{reasons}</section>"
        )
    return (
        '<section class="verdict good"><strong>'
        f"epsilon {escape(bound(guarantee['epsilon']))} at delta {guarantee['delta']:g}</strong>"
        f"<p>{escape(claim['unit'].capitalize())}-level differential privacy, "
        f"{escape(claim['setting'])} setting, neighboring data sets: {escape(claim['adjacency'])}.</p>"
        "</section>"
    )


def _membership(claim: Mapping[str, Any]) -> str:
    guarantee, unit = claim["guarantee"], claim["unit"]
    if not claim["private"]:
        return (
            "<h2>What the best test of membership achieves</h2><p>Nothing bounds it: it may "
            "recognize all who took part, and accuse nobody else.</p>"
        )
    items = "".join(
        f"<li>{escape(test_of_membership(test, unit))}</li>" for test in guarantee["membership"]
    )
    same = (
        f"The run reveals no more than one Gaussian mechanism with mu = {bound(guarantee['mu'])}, for "
        f"every delta from {guarantee['mu_from_delta']:.3g} on."
    )
    return (
        f"<h2>What the best test of membership achieves</h2><ul>{items}</ul>"
        f"<p>No test's true positive rate is more than {escape(percent(guarantee['advantage']))} above "
        f"its false positive rate. {escape(same)}</p>"
    )


def _claim(claim: Mapping[str, Any]) -> str:
    randomness, rounds = claim["randomness"], claim["rounds"]
    rows: list[tuple[str, str | Sequence[str]]] = []
    if claim["setting"]:
        rows += [
            ("setting", f"{claim['setting']}. {claim['trust_model']}"),
            ("unit of privacy", f"{claim['unit']}. {claim['unit_meaning']}"),
            ("neighboring data sets", f"{claim['adjacency']}. {claim['adjacency_meaning']}"),
        ]
    rows += [
        ("released", claim["released"]),
        ("covered by epsilon", claim["covered"] or "nothing"),
        ("not covered", claim["not_covered"]),
        (
            "rounds",
            f"{rounds['completed']} completed; {rounds['charged_by_this_run']} charged by this run, "
            f"{rounds['drawn_again']} of them drawn again or not completed; {rounds['charged']} charged "
            f"on these data in all; {exact(rounds['planned'])} planned",
        ),
    ]
    if claim["units"]:
        share = claim["delta_times_units"]
        rows.append(
            (
                "delta against 1/N",
                f"N = {claim['units']} {claim['unit']}s; delta is {share:.3g} times 1/N",
            )
        )
    rows += [
        ("sampled as stated", randomness["sampled_as_stated"]),
        ("cohorts drawn from", randomness["cohorts"]),
        ("noise drawn from", "a seed" if randomness["noise_seeded"] else randomness["noise"]),
        ("floating point", randomness["arithmetic"] or "no noise"),
        ("earlier training", _earlier(claim["earlier_training"])),
    ]
    ledger = claim["ledger"]
    rows.append(
        (
            "ledger",
            "none"
            if ledger is None
            else f"{ledger['charges']} charges, head {ledger['head_hash']}",
        )
    )
    return f"<h2>The claim</h2>{_table(rows)}"


def _earlier(found: Sequence[Mapping[str, Any]]) -> str:
    if not found:
        return "none on other data that is known"
    return "; ".join(
        f"{each['rounds']} rounds on other clients, for whom epsilon {bound(each['epsilon'])} at delta "
        f"{exact(each['delta'])} goes on to hold"
        for each in found
    )


def _accounting(claim: Mapping[str, Any]) -> str:
    found = claim["accounting"]
    if found is None:
        return ""
    rows = [
        ("epsilon", f"{bound(found['epsilon'])}, by {found['accountant']}"),
        ("delta", exact(found["delta"])),
        ("rounds", exact(found["rounds"])),
        ("smallest epsilon is at least", at_least(found["lower_bound"])),
        (
            "charged for computed noise",
            f"epsilon {found['arithmetic_epsilon']:.2g} and delta {found['arithmetic_delta']:.2g}, "
            "which are contained above",
        ),
        *((f"epsilon by {name}", bound(value)) for name, value in found["accountants"].items()),
        *((f"not by {name}", reason) for name, reason in found["refused"].items()),
        ("equivalent Gaussian mu", bound(found["mu"])),
    ]
    profile = found["profile"]
    epsilon = found["epsilon"]
    curve = chart(
        "The privacy profile: delta over epsilon",
        profile["epsilons"],
        [("delta", profile["deltas"])],
        x_label="epsilon",
        y_label="delta",
        log_y=True,
        mark=None if epsilon == "inf" or not profile["deltas"] else (epsilon, found["delta"]),
    )
    caveat = "" if claim["private"] else f'<p class="warn">{_CAVEAT_OF_SEEDS}</p>'
    return (
        f"<h2>The accounting</h2>{caveat}{_table(rows)}<h3>Privacy profile</h3>"
        "<p>Every point of the curve holds at the same time; the circle is the stated one.</p>"
        f"{curve}"
    )


def _plan(number: int, plan: Mapping[str, Any], count: int) -> str:
    name = "The mechanism" if count == 1 else f"Plan {number} on these data"
    unclear = plan["noise_multiplier"] != plan["update_noise_multiplier"]
    rows = [
        ("mechanism", f"{plan['mechanism']}: {exact(plan['mechanism_fields'])}"),
        ("clip norm", exact(plan["clip_norm"])),
        (
            "noise multiplier",
            exact(plan["noise_multiplier"])
            + (f"; {exact(plan['update_noise_multiplier'])} of the updates" if unclear else ""),
        ),
        ("denominator of averages", f"{exact(plan['denominator'])}, public"),
        ("sampler", f"{plan['sampler']}: {exact(plan['sampler_fields']) or 'no settings'}"),
        ("sampling rate", exact(plan["sampling_rate"])),
        ("clients", exact(plan["population"])),
        ("records", exact(plan["records"])),
        ("rounds", f"{plan['rounds_charged']} charged of {plan['rounds_planned']} planned"),
        ("runs", "; ".join(f"rounds {first} to {last}" for first, last in plan["runs"]) or "none"),
        ("delta", exact(plan["delta"])),
        (
            "released metrics",
            "; ".join(exact(dict(metric)) for metric in plan["private_metrics"]) or "none",
        ),
    ]
    return f"<h2>{name}</h2>{_table(rows)}"


def _curves(curves: Mapping[str, Any], claim: Mapping[str, Any]) -> str:
    rounds = curves["rounds"]
    if not rounds:
        return "<h2>Curves</h2><p>No round has been completed.</p>"
    parts = ["<h2>Curves</h2>"]
    epsilons = [None if value == "inf" else value for value in curves["epsilon"]]
    if claim["private"]:
        parts.append(_curve("Epsilon so far (upper bound)", rounds, epsilons, "epsilon"))
    plain = bool(curves["metrics"]) and not curves["metrics_private"]
    if plain and claim["setting"]:
        parts.append(
            '<p class="warn">Some of the metrics below are plain sums over private data, or come from '
            "validation: epsilon does not cover them.</p>"
        )
    parts += [_curve(name, rounds, values, name) for name, values in curves["metrics"].items()]
    parts.append(
        '<p class="soft">Who took part in which round, and how many, is not shown: under sampling it '
        "is secret. The expected cohort is the denominator above.</p>"
    )
    return "".join(parts)


def _curve(title: str, rounds: Sequence[float], values: Sequence[float | None], name: str) -> str:
    return f"<h3>{escape(title)}</h3>" + chart(
        title, rounds, [(name, values)], x_label="round", y_label=name
    )


def _configuration(run: Mapping[str, Any]) -> str:
    return (
        "<h2>Configuration</h2>"
        f"<h3>Arguments</h3>{_json(run['arguments'])}"
        f"<h3>Privacy</h3>{_json(run['privacy'])}"
        f"<h3>Model</h3>{_json(run['model'])}<h3>Data</h3>"
        f"<p class='soft'>Shapes and counts alone, never values.</p>{_json(run['data'])}"
        f"<h3>Starts of the run</h3>{_json(run['openings'])}"
    )


def _reproduce(run: Mapping[str, Any], claim: Mapping[str, Any]) -> str:
    versions = "".join(
        _table([(name, version) for name, version in each.items()]) for each in claim["versions"]
    )
    seeded = run["arguments"].get("seeded")
    again = (
        "The cohorts and the order of examples came from a seed, which the report does not contain; the "
        "noise is new in every run."
        if seeded
        else "Cohorts and noise came from the operating system's entropy: another run of the same "
        "configuration gives another model with the same guarantee."
    )
    return (
        f"<h2>How to reproduce</h2><p>{escape(again)}</p>"
        "<p>The figures follow from the ledger and the plan alone. This recomputes all of them:</p>"
        f"<pre>tff-dp report --verify {escape(run['folder'])}</pre>"
        f"<h3>Versions</h3>{versions or '<p>not recorded</p>'}"
    )


def _table(rows: Iterable[tuple[str, str | Sequence[str]]]) -> str:
    cells = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{_cell(content)}</td></tr>'
        for name, content in rows
    )
    return f'<table class="rows"><tbody>{cells}</tbody></table>'


def _cell(content: str | Sequence[str]) -> str:
    if isinstance(content, str):
        return escape(content)
    return f"<ul>{''.join(f'<li>{escape(each)}</li>' for each in content)}</ul>"


def _json(value: Any) -> str:
    return f"<pre>{escape(json.dumps(value, indent=1, ensure_ascii=False))}</pre>"
