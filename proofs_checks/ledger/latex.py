r"""The LaTeX that the claims use, as HTML: scripts, Greek, relations, fractions on the line. No JavaScript, no fonts.

It is a converter for short statements, not a TeX: what it does not know makes it show the source, never a wrong formula.

    text with $math$      text may use \emph, \textbf, ``quotes'' and --; math is set with italic letters
    no dollar sign        words stay words; single letters and everything with a backslash, ^ or _ is math; w_uv is w_{uv}
"""

from __future__ import annotations

import re
from html import escape, unescape


def _table(pairs: str) -> dict[str, str]:
    """``name sign   name sign ...`` as a dictionary."""
    words = pairs.split()
    return dict(zip(words[::2], words[1::2], strict=True))


_GREEK = _table(
    r"""
    alpha α   beta β   gamma γ   delta δ   epsilon ϵ   varepsilon ε   zeta ζ   eta η   theta θ   vartheta ϑ   iota ι
    kappa κ   lambda λ   mu μ   nu ν   xi ξ   pi π   rho ρ   sigma σ   tau τ   upsilon υ   phi ϕ   varphi φ   chi χ
    psi ψ   omega ω
    """
)
_UPRIGHT = _table(
    r"""
    Gamma Γ   Delta Δ   Theta Θ   Lambda Λ   Xi Ξ   Pi Π   Sigma Σ   Phi Φ   Psi Ψ   Omega Ω   ell ℓ   nabla ∇   partial ∂
    infty ∞   top ⊤   perp ⊥   emptyset ∅   varnothing ∅   forall ∀   exists ∃   neg ¬   lnot ¬   sum ∑   prod ∏   int ∫
    bigcup ⋃   bigcap ⋂   bigoplus ⨁   dots …   ldots …   cdots ⋯   vdots ⋮   prime ′   circ ∘   bullet •   star ⋆
    lfloor ⌊   rfloor ⌋   lceil ⌈   rceil ⌉   langle ⟨   rangle ⟩   lVert ‖   rVert ‖   lvert |   rvert |   vert |
    Vert ‖   | ‖   { {   } }   % %   & &amp;   # #   _ _   $ $   hbar ℏ   Re ℜ   Im ℑ   dagger †
    """
)
_BINARY = _table(
    r"""
    le ≤   leq ≤   leqslant ≤   ge ≥   geq ≥   geqslant ≥   ne ≠   neq ≠   in ∈   notin ∉   ni ∋   subset ⊂   subseteq ⊆
    supset ⊃   supseteq ⊇   equiv ≡   approx ≈   sim ∼   simeq ≃   cong ≅   propto ∝   to →   rightarrow →
    longrightarrow →   leftarrow ←   mapsto ↦   Rightarrow ⇒   implies ⇒   Leftarrow ⇐   Leftrightarrow ⇔   iff ⇔
    leftrightarrow ↔   cap ∩   cup ∪   setminus ∖   land ∧   wedge ∧   lor ∨   vee ∨   times ×   cdot ·   otimes ⊗
    odot ⊙   oplus ⊕   pm ±   mp ∓   ll ≪   gg ≫   mid |   parallel ∥   colon :   coloneqq :=   gets ←   prec ≺   preceq ⪯
    succ ≻   succeq ⪰   div ÷   ast ∗   nmid ∤
    """
)
_BIG = {"sum", "prod", "int", "bigcup", "bigcap", "bigoplus"}
_TIGHT = {"·", ":", "∗", "⊗", "⊙"}
_FUNCTIONS = re.compile(
    "max|min|sup|inf|lim|log|exp|sin|cos|tan|tanh|cosh|sinh|det|dim|ker|deg|arg|argmax|argmin|gcd|Pr|limsup|liminf|sgn|"
    "rank|diag|span|tr|trace|vec|erf|relu|ReLU"
)
_SPACES = {
    ",": "\u2009",
    ";": "\u2005",
    ":": "\u2005",
    " ": " ",
    "!": "",
    "quad": "\u2003",
    "qquad": "\u2003\u2003",
    "\\": "<br>",
}
_IGNORED = re.compile("left|right|[bB]ig|[bB]ig[lrg]|limits|nolimits|displaystyle|textstyle")
_ACCENTS = {  # combining characters
    "bar": "\u0304",
    "overline": "\u0305",
    "hat": "\u0302",
    "widehat": "\u0302",
    "tilde": "\u0303",
    "widetilde": "\u0303",
    "dot": "\u0307",
    "ddot": "\u0308",
    "vec": "\u20d7",
    "underline": "\u0332",
}
_DOUBLE = dict(zip("RNZQCEPF1", "ℝℕℤℚℂ𝔼ℙ𝔽𝟙"))
_SCRIPT = dict(zip("LMNSTDFGHCBPXYAVU", "ℒℳ𝒩𝒮𝒯𝒟ℱ𝒢ℋ𝒞ℬ𝒫𝒳𝒴𝒜𝒱𝒰"))
_TOKEN = re.compile(r"\\(?:[A-Za-z]+|.)|\s+|[A-Za-z]+|\d+(?:[.,]\d+)*|.", re.DOTALL)


class Unsupported(ValueError):
    """LaTeX that this converter does not know."""


def to_html(source: str) -> str:
    r"""HTML of a statement; source that is not understood is shown as it is, in ``<code>``.

    >>> to_html(r"For $k$ dead units, $\operatorname{rank} H \le P - k(I+O+1)$.")
    'For <i>k</i> dead units, rank <i>H</i> ≤ <i>P</i> − <i>k</i>(<i>I</i> + <i>O</i> + 1).'
    >>> to_html(r"\frac{1}{2}\sum_n \|f_n - y_n\|^2")
    '1/2 ∑<sub><i>n</i></sub> ‖<i>f</i><sub><i>n</i></sub> − <i>y</i><sub><i>n</i></sub>‖<sup>2</sup>'
    >>> to_html(r"\begin{tikzpicture}")
    '<code>\\begin{tikzpicture}</code>'
    """
    try:
        if "$" not in source and "\\(" not in source:
            is_math = re.search(r"\\[A-Za-z]|[\^_]", source) is not None
            return _Math(source, words=True).html() if is_math else _text(source)
        pieces = re.split(r"\$\$(.+?)\$\$|(?<!\\)\$(.+?)(?<!\\)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", source, flags=re.DOTALL)
        html = _text(pieces[0])
        for start in range(1, len(pieces), 5):
            formula = next(piece for piece in pieces[start : start + 4] if piece is not None)
            html += _Math(formula).html() + _text(pieces[start + 4])
        return html
    except (Unsupported, RecursionError):
        return f"<code>{escape(source)}</code>"


def to_text(source: str) -> str:
    r"""Plain text of a statement, for a terminal.

    >>> to_text(r"$\theta_{t+1} \in \mathbb{R}^P$ is \emph{not} frozen")
    'θ_(t + 1) ∈ ℝ^P is not frozen'
    """
    html = to_html(source)
    for tag, sign in (("sub", "_"), ("sup", "^")):
        html = re.sub(rf"<{tag}>((?:<i>)?[^<> ](?:</i>)?)</{tag}>", rf"{sign}\1", html)
        html = html.replace(f"<{tag}>", f"{sign}(").replace(f"</{tag}>", ")")
    return unescape(re.sub("<[^>]*>", "", html.replace("<br>", "; ")))


def _text(source: str) -> str:
    """Text outside of formulas."""
    html = escape(source, quote=False)
    for _ in range(3):  # nested commands
        html = re.sub(r"\\(?:emph|textit)\{([^{}]*)\}", r"<em>\1</em>", html)
        html = re.sub(r"\\textbf\{([^{}]*)\}", r"<strong>\1</strong>", html)
        html = re.sub(r"\\(?:texttt|text|textrm|mathrm|textsc)\{([^{}]*)\}", r"\1", html)
    html = html.replace("``", "“").replace("''", "”").replace("---", "—").replace("--", "–").replace("~", "\u00a0")
    html = re.sub(r"\\([%&#_$])", r"\1", html.replace("\\&amp;", "&amp;")).replace("\\S", "§")
    html = re.sub(r"(\S) *\\(?:quad|qquad|,|;| )", "\\1 ", html).replace("\\\\", "<br>")
    if re.search(r"\\[A-Za-z]|\$", html):
        raise Unsupported(source)
    return html


class _Math:
    """A recursive-descent reader of one formula; ``words`` keeps spaces and multi-letter words as text."""

    def __init__(self, source: str, words: bool = False) -> None:
        self.tokens = _TOKEN.findall(source)
        self.at = 0
        self.words = words

    def html(self) -> str:
        html = self._group(end=None)
        html = re.sub(r" *(<sub>|<sup>)", r"\1", html)
        return re.sub(r" {2,}", " ", html).replace("( ", "(").replace(" )", ")").strip()

    def _peek(self) -> str | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def _next(self) -> str:
        if self.at >= len(self.tokens):
            raise Unsupported("the formula ends early")
        self.at += 1
        return self.tokens[self.at - 1]

    def _group(self, end: str | None) -> str:
        """Everything up to ``end`` (a closing brace) or to the end of the formula."""
        html = ""
        while (token := self._peek()) != end:
            if token is None or token == "}":
                raise Unsupported("unbalanced braces")
            self.at += 1
            html += self._atom(token, html)
        self.at += end is not None
        return html

    def _argument(self) -> str:
        """The next braced group or single token."""
        while (self._peek() or "").isspace():
            self.at += 1
        token = self._next()
        if token == "{":
            return self._group("}")
        if len(token) > 1 and not token.startswith("\\") and not self.words:  # TeX: x^10 raises only the 1
            self.tokens[self.at - 1 : self.at] = [token[0], token[1:]]
            token = token[0]
        if self.words and re.fullmatch("[A-Za-z]{2}", token):  # two indices, not a word
            return f"<i>{token}</i>"
        return self._atom(token, "").strip()

    def _raw_argument(self) -> str:
        """Source of the next braced group, for text."""
        if self._next() != "{":
            raise Unsupported("a command lacks its braces")
        start, depth = self.at, 1
        while depth:
            token = self._next()
            depth += {"{": 1, "}": -1}.get(token, 0)
        return "".join(self.tokens[start : self.at - 1])

    def _atom(self, token: str, before: str) -> str:
        if token.startswith("\\"):
            return self._command(token[1:], before)
        if token == "{":
            return self._group("}")
        if token in ("^", "_"):
            tag = "sup" if token == "^" else "sub"
            return f"<{tag}>{self._argument()}</{tag}>"
        if token.isspace():
            return " " if self.words else ""
        if token.isascii() and token.isalpha():
            return self._letters(token)
        if token == "'":
            return "′"
        if token in "+-":
            if self.words and token == "-" and self._is_hyphen():
                return "-"
            sign = "−" if token == "-" else "+"
            shown = re.sub("<[^>]*>", "", before).rstrip()  # a sign is unary at the start, and after another sign
            unary = not shown or shown[-1] in "([{|=;≤≥≠,:∈/+−→"
            return sign if unary else f" {sign} "
        if token in "=<>":
            return f" {escape(token)} "
        if token == "~":
            return "\u00a0"
        if token == "," or (token == ";" and not self.words):
            return f"{token} "
        if token == "$":
            raise Unsupported("an unpaired dollar sign")
        return escape(token, quote=False)

    def _is_hyphen(self) -> bool:
        """Whether the minus sign just read joins two words, as in out-weights."""
        around = "".join(self.tokens[max(0, self.at - 2) : self.at + 1])
        return re.fullmatch(r"[A-Za-z]+-[A-Za-z]+", around) is not None and len(around) > 4

    def _letters(self, run: str) -> str:
        if self.words and len(run) > 1:
            return run
        follows = "".join(self.tokens[self.at : self.at + 2])
        if self.words and run in "aA" and re.match(r"\s+[a-z]{2}", follows):  # the article
            return run
        return f"<i>{run}</i>"

    def _command(self, name: str, before: str) -> str:
        if name in _GREEK:
            return f"<i>{_GREEK[name]}</i>"
        if name in _UPRIGHT:
            if name not in _BIG:
                return _UPRIGHT[name]
            space = " " if before.strip() and before[-1] not in "([| " else ""
            return space + _UPRIGHT[name] + self._scripts() + " "
        if name in _BINARY:
            sign = _BINARY[name]
            return sign if sign in _TIGHT else f" {sign} "
        if _FUNCTIONS.fullmatch(name):
            return self._operator(name, before)
        if name in _SPACES:
            return _SPACES[name]
        if _IGNORED.fullmatch(name):
            if self._peek() == "." and name in ("left", "right"):
                self.at += 1
            return ""
        return self._command_with_argument(name, before)

    def _scripts(self) -> str:
        """Sub- and superscripts that follow directly."""
        html = ""
        while self._peek() in ("_", "^"):
            html += self._atom(self._next(), "")
        return html

    def _operator(self, name: str, before: str) -> str:
        """A named function: upright, with a space where a letter would touch it."""
        space = " " if before and (before[-1].isalnum() or before.endswith((">", ")"))) else ""
        html = space + name + self._scripts()
        while (self._peek() or "").isspace():
            self.at += 1
        follows = self._peek() or "("
        return html + ("" if follows in "([{)]}|,.;:^_=+-" or follows in ("\\left", "\\bigl", "\\{", "\\|") else " ")

    def _command_with_argument(self, name: str, before: str) -> str:
        if name in ("frac", "tfrac", "dfrac"):
            return "/".join(_parenthesized(self._argument()) for _ in "ab") + " "
        if name == "sqrt":
            return f"√{_parenthesized(self._argument())}"
        if name in ("text", "textrm", "mbox", "textnormal"):
            return _text(self._raw_argument())
        if name in ("emph", "textit"):
            return f"<em>{_text(self._raw_argument())}</em>"
        if name in ("textbf", "mathbf", "boldsymbol", "bm"):
            return f"<strong>{self._argument()}</strong>"
        if name in ("mathrm", "mathsf", "mathtt", "texttt"):
            return re.sub("</?i>", "", self._argument())
        if name in ("operatorname", "operatorname*"):
            return self._operator(self._raw_argument().replace("\\,", " "), before)
        if name in ("mathbb", "mathcal", "mathscr"):
            table = _DOUBLE if name == "mathbb" else _SCRIPT
            letter = re.sub("</?i>", "", self._argument())
            return table.get(letter, f"<strong>{letter}</strong>")
        if name in _ACCENTS:
            inner = self._argument()
            plain = re.sub("<[^>]*>", "", inner)
            if len(plain) != 1:
                raise Unsupported(f"an accent over {plain!r}")
            return inner.replace(plain, plain + _ACCENTS[name])
        if name == "not":
            return {"=": " ≠ ", "\\in": " ∉ ", "\\subset": " ⊄ "}.get(self._next()) or self._refuse("\\not")
        return self._refuse(f"\\{name}")

    def _refuse(self, what: str) -> str:
        raise Unsupported(what)


def _parenthesized(html: str) -> str:
    """Brackets around what is more than one symbol or number, so that a/b reads unambiguously."""
    plain = re.sub(r"<(sub|sup)>.*?</\1>|<[^>]*>", "", html.strip())
    return html.strip() if len(plain) <= 1 or plain.isdigit() else f"({html.strip()})"
