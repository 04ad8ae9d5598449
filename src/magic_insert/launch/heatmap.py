"""A heat map of a sweep over two keys, each cell with its number; cells without one stay empty."""

from pathlib import Path

from magic_insert.launch.sweep_table import Grid


def draw_heatmap(path: Path, grid: Grid, title: str) -> None:
    """Writes a PNG of `grid` to `path`."""
    import numpy as np
    from matplotlib.figure import Figure  # no window, no global state

    values = np.array([[np.nan if cell is None else cell for cell in row] for row in grid.cells], dtype=float)
    wide = 1.6 + 0.09 * max(len(row) for row in grid.rows) + 1.1 * len(grid.columns)
    figure = Figure(figsize=(wide, 1.4 + 0.7 * len(grid.rows)), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(values, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(grid.columns)), grid.columns)
    axes.set_yticks(range(len(grid.rows)), grid.rows)
    axes.set_xlabel(grid.column_key)
    axes.set_ylabel(grid.row_key)
    axes.set_title(title, fontsize=10)
    middle = float(np.nanmean([np.nanmin(values), np.nanmax(values)]))
    for i, row in enumerate(grid.cells):
        for j, cell in enumerate(row):
            if cell is not None:
                axes.text(
                    j,
                    i,
                    f"{cell:.4g}",
                    ha="center",
                    va="center",
                    color="white" if cell <= middle else "black",
                )
    figure.colorbar(image)
    figure.savefig(path, dpi=120)
