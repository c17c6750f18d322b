"""A figure of several models at several lengths, as a table and the lines of a chart."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lab.bench import Model, pick
from lab.findings import Mean, mean_over_seeds
from lab.tables import Line, Table, values_of
from skipwise.evals.rows import Row


@dataclass(frozen=True)
class ByLength:
    """What was measured, by the name of the model."""

    lengths: Sequence[int]
    rows: Mapping[str, Sequence[Sequence[Row]]]
    """For each length the row of each seed."""

    @property
    def means(self) -> dict[str, list[Mean]]:
        """Means over seeds at each length."""
        return {name: [mean_over_seeds(rows) for rows in at] for name, at in self.rows.items()}

    @property
    def last(self) -> dict[str, Sequence[Row]]:
        """The rows of all seeds at the longest length."""
        return {name: at[-1] for name, at in self.rows.items()}

    def table(self, title: str, first: str) -> Table:
        """One row for each model; `first` is the title of their names."""
        rows = [[name, *(mean.text() for mean in means)] for name, means in self.means.items()]
        values = {name: values_of(at) for name, at in self.rows.items()}
        return Table(title, [first, *(f"{length:,}" for length in self.lengths)], rows, values)

    def lines(self) -> list[Line]:
        """One line for each model."""
        return [
            Line(name, [(length, mean.value) for length, mean in zip(self.lengths, means, strict=True)])
            for name, means in self.means.items()
        ]


def by_length(
    models: Mapping[str, Model],
    measure: Callable[[Model], list[list[Row]]],
    task: str,
    lengths: Sequence[int],
) -> ByLength:
    """Measure models at several lengths.

    Args:
        models: Models by name.
        measure: Gives the rows of each seed.
        task: The task whose rows over all depths, or over the whole text, are taken.
        lengths: Tokens.
    """
    rows = {}
    for name, model in models.items():
        measured = measure(model)
        rows[name] = [pick(measured, task=task, length=length) for length in lengths]
    return ByLength(lengths, rows)
