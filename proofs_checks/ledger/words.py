"""What a witness asserts, in words: one sentence per assertion, with the values the independent checker computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

RELATIONS = {
    "==": "equals",
    "!=": "differs from",
    "<": "is less than",
    "<=": "is at most",
    ">": "is greater than",
    ">=": "is at least",
}
_QUANTITIES = {
    "num_params": "the number of parameters P",
    "hessian_rank": "the rank of the Hessian",
    "dead_units": "the number of dead units",
    "dead_unit_bound": "the printed bound P − Σ (edges in + edges out) over dead units",
    "dead_unit_bound_union": "the corrected bound P − |union of the edges at dead units|",
    "constant_unit_bound": "the bound P − Σ (edges in + edges out) over constant units",
    "value": "the activation h of unit {unit} on sample {sample}",
    "preactivation": "the pre-activation z of unit {unit} on sample {sample}",
    "adjoint": "the error signal δ of unit {unit} on sample {sample}",
    "loss": "the loss",
    "gradient": "∂L/∂θ{index:s}",
    "gradient_form": "{coefficients:∂L/∂θ}",
    "hessian": "∂²L/∂θ{i:s}∂θ{j:s}",
    "quadratic_form": "vᵀHv with v = {v:e}",
    "bilinear_form": "uᵀHv with u = {u:e}, v = {v:e}",
    "param_after": "the parameter θ{index:s}",
    "form_after": "{coefficients:θ}",
}
_LONG_FORM = 8


def assertion_in_words(assertion: Mapping[str, Any]) -> str:
    """One sentence.

    >>> assertion_in_words({"left": {"quantity": "hessian_rank"}, "op": ">", "right": "5"})
    'the rank of the Hessian is greater than 5'
    """
    relation = RELATIONS.get(assertion["op"], str(assertion["op"]))
    return f"{expression_in_words(assertion['left'])} {relation} {expression_in_words(assertion['right'])}"


def expression_in_words(expression: Any) -> str:
    """A number, a quantity (with its network and training, if any), or arithmetic on those.

    >>> step = {"steps": 1, "rate": "1/10", "rule": {"name": "sgd", "momentum": "0"}}
    >>> expression_in_words({"quantity": "param_after", "index": 3, "net": "clone", **step})
    'the parameter θ₃ of the network “clone” after 1 step of sgd (rate 1/10)'
    >>> expression_in_words({"sum": [{"quantity": "loss"}, "-1/2"]})
    '(the loss + −1/2)'
    """
    if not isinstance(expression, Mapping):
        return str(expression).replace("-", "−")
    if "quantity" in expression:
        name = str(expression["quantity"])
        text = _QUANTITIES.get(name, name.replace("_", " ")).format_map(_Arguments(expression))
        if expression.get("net", "net") != "net":
            text += f" of the network “{expression['net']}”"
        return text + _training(expression)
    operation, argument = next(iter(expression.items()))
    parts = [expression_in_words(part) for part in (argument if isinstance(argument, list) else [argument])]
    if operation == "abs":
        return f"|{parts[0]}|"
    if len(parts) == 1:
        return parts[0]
    if operation in ("sum", "product"):
        return "(" + {"sum": " + ", "product": " · "}[operation].join(parts) + ")"
    return f"{operation}({', '.join(parts)})"


class _Arguments(dict[str, Any]):
    """Arguments of a quantity as text; vectors become linear forms in the symbol that the format names."""

    def __missing__(self, key: str) -> str:
        return "?"

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        return _Form(value) if isinstance(value, list) else _Index(value)


class _Index(str):
    """A number that the format ``s`` makes a subscript."""

    def __format__(self, kind: str) -> str:
        return subscript(self) if kind == "s" else str(self)


class _Form(list[str]):
    def __format__(self, symbol: str) -> str:
        return linear_form(self, symbol)


def linear_form(coefficients: Sequence[str], symbol: str) -> str:
    """Coefficients (numbers as text) as a sum.

    >>> linear_form(["1", "0", "-1", "1/2"], "θ")
    'θ₀ − θ₂ + 1/2·θ₃'
    """
    terms = [(str(c), k) for k, c in enumerate(coefficients) if str(c) != "0"]
    text = ""
    for c, k in terms[:_LONG_FORM]:
        size = c.lstrip("-")
        sign = "−" if c.startswith("-") else "+"
        text += (
            (f" {sign} " if text else sign.replace("+", ""))
            + ("" if size == "1" else f"{size}·")
            + f"{symbol}{subscript(k)}"
        )
    return (text or "0") + (" + …" if len(terms) > _LONG_FORM else "")


def subscript(k: int | str) -> str:
    """Digits as subscripts.

    >>> subscript(12)
    '₁₂'
    """
    return str(k).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


def _training(expression: Mapping[str, Any]) -> str:
    """`` after k steps of …``, or nothing."""
    if "steps" not in expression:
        return ""
    if not expression["steps"]:
        return " at the start"
    steps, rule = expression["steps"], dict(expression.get("rule", {"name": "training"}))
    options = [f"rate {expression['rate']}"] if "rate" in expression else []
    defaults = ("0", 0, False, None)
    options += [
        f"{key.replace('_', ' ')} {value}" for key, value in rule.items() if key != "name" and value not in defaults
    ]
    extras = {
        "velocity": "an initial momentum buffer",
        "grad_noise": "a fixed gradient noise",
        "unit_mask": "a fixed dropout mask",
    }
    options += [text for key, text in extras.items() if key in expression]
    plural = "" if steps == 1 else "s"
    return f" after {steps} step{plural} of {rule['name']}" + (f" ({', '.join(options)})" if options else "")
