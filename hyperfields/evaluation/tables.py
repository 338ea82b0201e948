"""Tables of reports as plain text, laid out by rich."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence


def text_table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, footer: Sequence[str] = (), rules: bool = True
) -> str:
    """A table of any width as lines without colours: the first column to the left, the others to the right.

    Args:
        footer: a last row, below a line of its own.
        rules: lines below the head and above the footer.
    """
    from rich.box import Box
    from rich.console import Console
    from rich.table import Table

    blank, line = "    \n", " -- \n"
    box = Box(blank + blank + line + blank + blank + line + blank + blank, ascii=True) if rules else None
    space = (0, 1 if rules else 2, 0, 0)  # a box adds a column of its own
    table = Table(box=box, show_edge=False, pad_edge=False, show_footer=bool(footer), padding=space)
    footers = [*footer, *[""] * (len(head) - len(footer))]
    for column, (name, last) in enumerate(zip(head, footers, strict=True)):
        table.add_column(name, last, justify="left" if column == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    text = io.StringIO()  # and no notebook, which would show the table once more, in colours
    Console(
        file=text, width=10_000, no_color=True, markup=False, highlight=False, emoji=False, force_terminal=False,
        force_jupyter=False,
    ).print(table)  # fmt: skip
    return "\n".join(line.rstrip() for line in text.getvalue().rstrip("\n").splitlines())
