"""The kinds of panels that our dashboards have, as Grafana's models; pure.

Queries are given as legend -> expression; a legend may name labels, as in `{{durable}}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Final, NamedTuple

from grafana_foundation_sdk.models import (
    bargauge,
    common,
    dashboard,
    gauge,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.models.dashboard import Panel

from observer.dashboards.limits import NONE, Steps
from observer.dashboards.promql import narrowed

SOURCE: Final = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")
COLUMNS: Final = 24  # of Grafana's grid
TILE, SERIES, TABLE = 4, 8, 9  # heights on it

# Grafana's names of units.
COUNT, PLAIN_COUNT, RATIO, SECONDS, BYTES, SINCE = "short", "none", "percentunit", "s", "bytes", "dateTimeFromNow"
EVENTS, MESSAGES, REQUESTS, PER_MINUTE, BYTES_A_SECOND = "eps", "mps", "reqps", "cpm", "binBps"
SOL = "suffix:SOL"

Queries = Mapping[str, str]


class Meaning(NamedTuple):
    """A value's text and colour."""

    text: str
    colour: str


Meanings = Mapping[int, Meaning]
UP_OR_DOWN: Final[Meanings] = {1: Meaning("up", "green"), 0: Meaning("down", "red")}
YES_OR_NO: Final[Meanings] = {1: Meaning("yes", "green"), 0: Meaning("no", "red")}


def tile(
    title: str,
    about: str,
    unit: str,
    query: str,
    *,
    steps: Steps = NONE,
    means: Meanings | None = None,
    width: int = 3,
    trend: bool = True,
    decimals: int | None = None,
) -> Panel:
    """One value, with how it went behind it. trend: not for counts over all the time that is shown."""
    coloured = means is not None or steps is not NONE
    return _panel(
        "stat",
        title,
        about,
        (width, TILE),
        _targets({"": query}, instant=not trend),
        _fields(unit, steps, means=means, decimals=decimals),
        stat.Options(
            graph_mode=common.BigValueGraphMode.AREA if trend and not means else common.BigValueGraphMode.NONE,
            color_mode=common.BigValueColorMode.BACKGROUND if coloured else common.BigValueColorMode.VALUE,
            reduce_options=_LAST,
        ),
    )


def dial(title: str, about: str, query: str, *, steps: Steps, width: int = 3) -> Panel:
    """A share of a whole, from 0 to 1."""
    return _panel(
        "gauge",
        title,
        about,
        (width, TILE),
        _targets({"": query}),
        _fields(RATIO, steps, least=0, most=1),
        gauge.Options(reduce_options=_LAST),
    )


def lines(
    title: str,
    about: str,
    unit: str,
    queries: Queries,
    *,
    steps: Steps = NONE,
    width: int = 8,
    height: int = SERIES,
    stacked: bool = False,
    bars: bool = False,
    examples: bool = False,
    most: float | None = None,
    colours: Mapping[str, str] | None = None,
) -> Panel:
    """How values went.

    steps: shown as dashed lines. examples: with dots that lead to traces, of a histogram. colours: by legend, where
    they mean something.
    """
    drawn = timeseries.FieldConfig(
        draw_style=common.GraphDrawStyle.BARS if bars else common.GraphDrawStyle.LINE,
        line_width=1 if stacked or bars else 2,
        line_interpolation=common.LineInterpolation.LINEAR,
        fill_opacity=60 if bars else 30 if stacked else 8,
        gradient_mode=common.GraphGradientMode.OPACITY,
        show_points=common.VisibilityMode.NEVER,
        stacking=common.StackingConfig(mode=common.StackingMode.NORMAL if stacked else common.StackingMode.NONE),
        thresholds_style=common.GraphThresholdsStyleConfig(
            mode=common.GraphThresholdsStyleMode.OFF if steps is NONE else common.GraphThresholdsStyleMode.DASHED
        ),
        axis_soft_min=0,
    )
    return _panel(
        "timeseries",
        title,
        about,
        (width, height),
        _targets(queries, examples=examples),
        _fields(
            unit,
            steps,
            custom=drawn,
            by_series=True,
            most=most,
            overrides=[_coloured(legend, colour) for legend, colour in (colours or {}).items()],
        ),
        timeseries.Options(legend=_legend(), tooltip=_tooltip()),
    )


def ranking(title: str, about: str, unit: str, queries: Queries, *, width: int = 8, height: int = SERIES) -> Panel:
    """The newest values side by side, as bars."""
    return _panel(
        "bargauge",
        title,
        about,
        (width, height),
        _targets(queries, instant=True),
        _fields(unit, NONE),
        bargauge.Options(
            display_mode=common.BarGaugeDisplayMode.GRADIENT,
            orientation=common.VizOrientation.HORIZONTAL,
            reduce_options=_LAST,
        ),
    )


def states(
    title: str, about: str, queries: Queries, means: Meanings, *, width: int = 12, height: int = SERIES
) -> Panel:
    """What state something was in, and how long."""
    return _panel(
        "state-timeline",
        title,
        about,
        (width, height),
        _targets(queries),
        _fields(COUNT, NONE, means=means, custom=statetimeline.FieldConfig(line_width=0, fill_opacity=80)),
        statetimeline.Options(
            show_value=common.VisibilityMode.AUTO,
            legend=common.VizLegendOptions(show_legend=False),
            tooltip=_tooltip(),
        ),
    )


def spread(title: str, about: str, buckets: str, *, width: int = 12, height: int = SERIES) -> Panel:
    """A histogram of seconds over time; buckets: how often each rose, by `le`."""
    target = _targets({"{{le}}": buckets}, examples=True)
    target[0].format_val = prometheus.PromQueryFormat.HEATMAP
    return _panel(
        "heatmap",
        title,
        about,
        (width, height),
        target,
        _fields(SECONDS, NONE, custom=heatmap.FieldConfig()),
        heatmap.Options(
            calculate=False,
            color=heatmap.HeatmapColorOptions(
                mode=heatmap.HeatmapColorMode.SCHEME, scheme="Spectral", steps=64, exponent=0.5, reverse=True
            ),
            y_axis=heatmap.YAxisConfig(unit=SECONDS),
            cell_values=heatmap.CellValues(unit=COUNT),
            exemplars=heatmap.ExemplarConfig(color="rgba(255,0,255,0.7)"),
            tooltip=heatmap.HeatmapTooltip(mode=common.TooltipDisplayMode.SINGLE, y_histogram=True),
            legend=heatmap.HeatmapLegend(show=True),
        ),
    )


class Column(NamedTuple):
    """One query with one row for each set of labels. steps: colour its cells."""

    title: str
    query: str
    unit: str = COUNT
    steps: Steps = NONE
    means: Meanings | None = None


def rows(
    title: str,
    about: str,
    labels: Mapping[str, str],
    columns: Sequence[Column],
    *,
    first: str,
    width: int = COLUMNS,
    height: int = TABLE,
) -> Panel:
    """A table. labels: label -> heading, by which the columns are joined.

    first: by what it is sorted: a label upwards, a column with the highest value first.
    """
    targets = _targets({column.title: column.query for column in columns}, instant=True)
    for target in targets:
        target.format_val = prometheus.PromQueryFormat.TABLE
    single = len(columns) == 1  # Grafana calls its value `Value`, without the query's letter
    named = {f"Value #{target.ref_id}": target.legend_format for target in targets}
    return _panel(
        "table",
        title,
        about,
        (width, height),
        targets,
        _fields(COUNT, NONE, custom=common.TableFieldOptions(), overrides=[_column(column) for column in columns]),
        table.Options(
            cell_height=common.TableCellHeight.SM,
            sort_by=[common.TableSortByFieldState(display_name=first, desc=first not in labels.values())],
        ),
        [
            dashboard.DataTransformerConfig(id_val="merge", options={}),
            dashboard.DataTransformerConfig(
                id_val="organize",
                options={
                    "excludeByName": {"Time": True},
                    "indexByName": {label: index for index, label in enumerate(labels)},
                    "renameByName": {**labels, **({"Value": columns[0].title} if single else named)},
                },
            ),
        ],
    )


_LAST: Final = common.ReduceDataOptions(values=False, calcs=["lastNotNull"], fields="")


def _panel(
    kind: str,
    title: str,
    about: str,
    size: tuple[int, int],
    targets: list[prometheus.Dataquery],
    fields: dashboard.FieldConfigSource,
    options: object,
    transformations: list[dashboard.DataTransformerConfig] | None = None,
) -> Panel:
    """size: width and height; where it lies on the page follows from its row."""
    return Panel(
        type_val=kind,
        title=title,
        description=about,
        datasource=SOURCE,
        grid_pos=dashboard.GridPos(w=size[0], h=size[1]),
        targets=list(targets),
        field_config=fields,
        options=options,
        transformations=transformations,
    )


def _targets(queries: Queries, *, instant: bool = False, examples: bool = False) -> list[prometheus.Dataquery]:
    return [
        prometheus.Dataquery(
            ref_id=letter,
            expr=narrowed(expression),
            legend_format=legend,
            instant=instant,
            range_val=not instant,
            exemplar=examples or None,
            editor_mode=prometheus.QueryEditorMode.CODE,
            datasource=SOURCE,
        )
        for letter, (legend, expression) in zip(ascii_uppercase, queries.items(), strict=False)
    ]


def _fields(
    unit: str,
    steps: Steps,
    *,
    means: Meanings | None = None,
    custom: object = None,
    by_series: bool = False,
    least: float | None = None,
    most: float | None = None,
    decimals: int | None = None,
    overrides: list[dashboard.DashboardFieldConfigSourceOverrides] | None = None,
) -> dashboard.FieldConfigSource:
    """by_series: each line has a colour of its own."""
    mode = dashboard.FieldColorModeId.PALETTE_CLASSIC if by_series else dashboard.FieldColorModeId.THRESHOLDS
    defaults = dashboard.FieldConfig(
        unit=unit,
        decimals=decimals,
        min_val=least,
        max_val=most,
        mappings=_mappings(means),
        thresholds=_thresholds(steps),
        color=dashboard.FieldColor(mode=mode),
        no_value="-",
        custom=custom,
    )
    return dashboard.FieldConfigSource(defaults=defaults, overrides=overrides or [])


def _thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    return dashboard.ThresholdsConfig(steps=[dashboard.Threshold(value=at, color=colour) for at, colour in steps])


def _mappings(means: Meanings | None) -> list[dashboard.ValueMapping]:
    if not means:
        return []
    results = {
        str(value): dashboard.ValueMappingResult(text=text, color=colour, index=index)
        for index, (value, (text, colour)) in enumerate(means.items())
    }
    return [dashboard.ValueMap(options=results)]


def _column(column: Column) -> dashboard.DashboardFieldConfigSourceOverrides:
    properties = [dashboard.DynamicConfigValue(id_val="unit", value=column.unit)]
    if column.steps is not NONE:
        properties.append(dashboard.DynamicConfigValue(id_val="thresholds", value=_thresholds(column.steps)))
    if column.means:
        properties.append(dashboard.DynamicConfigValue(id_val="mappings", value=_mappings(column.means)))
    if column.means or column.steps is not NONE:
        coloured = common.TableColorTextCellOptions()
        properties.append(dashboard.DynamicConfigValue(id_val="custom.cellOptions", value=coloured))
    matcher = dashboard.MatcherConfig(id_val="byName", options=column.title)
    return dashboard.DashboardFieldConfigSourceOverrides(matcher=matcher, properties=properties)


def _coloured(legend: str, colour: str) -> dashboard.DashboardFieldConfigSourceOverrides:
    fixed = dashboard.FieldColor(mode=dashboard.FieldColorModeId.FIXED, fixed_color=colour)
    return dashboard.DashboardFieldConfigSourceOverrides(
        matcher=dashboard.MatcherConfig(id_val="byName", options=legend),
        properties=[dashboard.DynamicConfigValue(id_val="color", value=fixed)],
    )


def _legend() -> common.VizLegendOptions:
    return common.VizLegendOptions(
        show_legend=True,
        display_mode=common.LegendDisplayMode.LIST,
        placement=common.LegendPlacement.BOTTOM,
        calcs=["lastNotNull", "max"],
    )


def _tooltip() -> common.VizTooltipOptions:
    return common.VizTooltipOptions(mode=common.TooltipDisplayMode.MULTI, sort=common.SortOrder.DESCENDING)
