"""What rules and dashboards ask, and what that takes: metrics, and labels of them."""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import promql_parser
import yaml

from .engine import PROJECT

MONITORING = PROJECT / "monitoring"


class Query(NamedTuple):
    """One expression, where it stands, and the labels that texts beside it name."""

    where: str
    expr: str
    told: frozenset[str]


def of_rules() -> Iterator[Query]:
    """Of alerts and recording rules."""
    for file in sorted((MONITORING / "prometheus" / "rules").iterdir()):
        for group in yaml.safe_load(file.read_text())["groups"]:
            for rule in group["rules"]:
                texts = json.dumps([rule.get("labels"), rule.get("annotations")])
                told = frozenset(re.findall(r"\$labels\.(\w+)", texts))
                yield Query(rule.get("alert") or rule["record"], rule["expr"], told)


def of_dashboards() -> Iterator[Query]:
    """Of every panel, over all fleets, for the shortest time that rates can be of."""
    for file in sorted((MONITORING / "grafana" / "dashboards").iterdir()):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel.get("targets", ()):
                expr = target["expr"].replace("$__rate_interval", "1m").replace("$fleet", ".*")
                told = frozenset(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
                yield Query(f"{file.stem}: {panel['title']}", expr, told)


def left_of_conditions(expr: str) -> str:
    """What is held against them: it has the labels of the alert, also while that does not fire."""
    node = promql_parser.parse(expr)
    conditions = (">", "<", "==", "!=", ">=", "<=", "and", "unless")
    while isinstance(node, promql_parser.BinaryExpr) and str(node.op) in conditions:
        node = node.lhs
    return node.prettify()


def demands(query: Query) -> set[tuple[str, str]]:
    """Each metric that the expression names, with each label that it needs of it.

    A label of an aggregation or a matching is one of every metric below it. Labels of what is
    counted or computed anew on the way (as by ``label_replace``) are not followed.
    """
    found: set[tuple[str, str]] = set()
    _walk(promql_parser.parse(query.expr), frozenset(), found)
    return found


def _walk(node: Any, labels: frozenset[str], found: set[tuple[str, str]]) -> None:
    match node:
        case promql_parser.AggregateExpr():
            by = node.modifier
            kept = labels if by is None else labels | frozenset(by.labels)
            _walk(node.expr, kept, found)
        case promql_parser.BinaryExpr():
            _walk(node.lhs, labels, found)
            _walk(node.rhs, labels, found)
        case promql_parser.Call():
            more = {"le"} if node.func.name == "histogram_quantile" else set()
            for argument in node.args:
                _walk(argument, labels | more, found)
        case promql_parser.MatrixSelector():
            _walk(node.vector_selector, labels, found)
        case promql_parser.ParenExpr() | promql_parser.SubqueryExpr() | promql_parser.UnaryExpr():
            _walk(node.expr, labels, found)
        case promql_parser.VectorSelector():
            matched = {one.name for one in node.matchers.matchers}
            found.update((node.name, label) for label in {"", *labels, *matched})
