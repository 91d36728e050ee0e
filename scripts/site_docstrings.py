"""griffe extension: docstrings' reStructuredText formulas and roles as HTML and Markdown."""

import re
from typing import Any

from griffe import Extension, Object
from latex2mathml.converter import convert

FORMULA = re.compile(r"^\.\. math::\n((?:[ ]+\S.*\n?|\n(?=[ ]+\S))+)", re.MULTILINE)
INLINE_FORMULA = re.compile(r":math:`([^`]+)`")
ROLE = re.compile(r":(?:class|func|meth|data|attr|mod):`~?([^`]+)`")


class ReadableDocstrings(Extension):
    """Formulas become MathML, which browsers draw without a script; roles become code."""

    def on_instance(self, *, obj: Object, **kwargs: Any) -> None:
        """Rewrite an object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = markdown_of(obj.docstring.value)


def markdown_of(docstring: str) -> str:
    """Rewrite a docstring without reStructuredText."""
    docstring = FORMULA.sub(lambda m: _block(m[1].strip()), docstring)
    # In a span: at the beginning of a line Markdown would take <math> for a paragraph of its own.
    docstring = INLINE_FORMULA.sub(lambda m: f"<span>{convert(m[1])}</span>", docstring)
    return ROLE.sub(lambda m: f"`{m[1].rsplit('.', 1)[-1]}`", docstring)


def _block(formula: str) -> str:
    """Write a formula in a box of its own, which scrolls where the page is too narrow."""
    return f'\n<div class="formula">{convert(formula, display="block")}</div>\n\n'
