"""The plot of the page: for each case the median time of its contestants, with the least and the most."""

from pathlib import Path
from statistics import median

from benchmarks.suite.cases import CASES
from benchmarks.suite.contacts import DLT, DLT_INDEXED, OURS, PSQL, PSQL_NEW
from benchmarks.suite.results import ONCE, Results

COLOURS = {PSQL_NEW: "#b8c4d6", PSQL: "#5b7ba8", DLT: "#e3b98a", DLT_INDEXED: "#c98235", OURS: "#2f7d5b"}
_BAR_INCHES = 0.24


def write_plot(results: Results, path: Path) -> bool:
    """Writes an SVG. Returns whether there was something to show: cases that psql or dlt do as well."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    shown = [
        (case, level, measured)
        for case, levels in results.cases.items()
        for level, measured in sorted(levels.items())
        if level != ONCE and measured.values(PSQL, "seconds") and measured.values(OURS, "seconds")
    ]
    if not shown:
        return False
    shown.sort(key=lambda each: (list(CASES).index(each[0]), each[1]))
    bars = sum(sum(name in COLOURS for name in measured.contestants) + 1 for *_, measured in shown)
    # Text stays text, and the same results give the same file.
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "suite", "font.size": 9}):
        figure, axes = plt.subplots(figsize=(9, 1 + bars * _BAR_INCHES))
        place, places, titles, seen = 0.0, [], [], set()
        for case, level, measured in shown:
            first = place
            for name, colour in COLOURS.items():
                values = measured.values(name, "seconds")
                if not values:
                    continue
                middle = median(values)
                spread = [[middle - min(values)], [max(values) - middle]]
                label = None if name in seen else name
                axes.barh(
                    place,
                    middle / _thousands(case, results),
                    xerr=_scaled(spread, case, results),
                    color=colour,
                    label=label,
                    capsize=2,
                )
                seen.add(name)
                place += 1
            places.append((first + place - 1) / 2)
            titles.append(f"{case}, {level}")
            place += 1
        axes.set_yticks(places, titles)
        axes.invert_yaxis()
        axes.set_xlabel("milliseconds for 1,000 rows (median; line: least to most)")
        axes.grid(axis="x", alpha=0.3)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.6 / figure.get_figheight()), ncols=5, frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", bbox_inches="tight", metadata={"Date": None})
        plt.close(figure)
    return True


def _thousands(case: str, results: Results) -> float:
    """Thousands of rows for each millisecond in a second."""
    return results.rows * CASES[case].share / 1_000_000


def _scaled(spread: list[list[float]], case: str, results: Results) -> list[list[float]]:
    return [[value / _thousands(case, results) for value in values] for values in spread]
