"""A page of Grafana: rows of panels on its grid, variables, links to the other pages; pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final, NamedTuple

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard

from observer.dashboards.panels import COLUMNS, SOURCE

TAG: Final = "mintline"
ALL: Final = ".+"


class Row(NamedTuple):
    """A heading, and what lies under it from left to right."""

    title: str
    panels: Sequence[dashboard.Panel]


class Choice(NamedTuple):
    """One more variable: the values of a label of some metric."""

    name: str
    label: str
    metric: str


class Board(NamedTuple):
    """One page.

    uid: for good, since alerts and people's bookmarks name it. jobs: the metric by which its processes are found.
    """

    uid: str
    title: str
    about: str
    jobs: str
    rows: Sequence[Row]
    choices: Sequence[Choice] = ()


def text(board: Board) -> str:
    """As Grafana reads it from a file."""
    return json.dumps(page(board), cls=JSONEncoder, indent=1) + "\n"


def page(board: Board) -> dashboard.Dashboard:
    return dashboard.Dashboard(
        uid=board.uid,
        title=f"mintline: {board.title}",
        description=board.about,
        tags=[TAG],
        timezone="browser",
        editable=False,
        graph_tooltip=dashboard.DashboardCursorSync.CROSSHAIR,
        time=dashboard.DashboardDashboardTime(from_val="now-1h", to="now"),
        refresh="30s",
        panels=laid_out(board.rows),
        templating=dashboard.DashboardDashboardTemplating(list_val=_variables(board)),
        annotations=dashboard.AnnotationContainer(list_val=[_fired()]),
        links=[
            dashboard.DashboardLink(
                title="mintline",
                type_val=dashboard.DashboardLinkType.DASHBOARDS,
                tags=[TAG],
                keep_time=True,
                tooltip="The other pages, at the same time",
            )
        ],
    )


def laid_out(rows: Sequence[Row]) -> list[dashboard.Panel | dashboard.RowPanel]:
    """Panels go from left to right, and on to the next line where they find no room."""
    found: list[dashboard.Panel | dashboard.RowPanel] = []
    y = 0
    for row in rows:
        grid = dashboard.GridPos(x=0, y=y, w=COLUMNS, h=1)
        found.append(dashboard.RowPanel(title=row.title, id_val=len(found) + 1, grid_pos=grid))
        x, y, height = 0, y + 1, 0
        for panel in row.panels:
            size = panel.grid_pos
            assert size is not None
            if x + size.w > COLUMNS:
                x, y, height = 0, y + height, 0
            size.x, size.y, panel.id_val = x, y, len(found) + 1
            x, height = x + size.w, max(height, size.h)
            found.append(panel)
        y += height
    return found


def _variables(board: Board) -> list[dashboard.VariableModel]:
    source = dashboard.VariableModel(
        type_val=dashboard.VariableType.DATASOURCE,
        name="datasource",
        label="Data source",
        description="The Prometheus that asks mintline's processes.",
        query="prometheus",
    )
    narrow = f'{board.jobs}{{job=~"$job"}}'
    return [
        source,
        _values("job", "Process", f"label_values({board.jobs}, job)"),
        _values("instance", "Instance", f"label_values({narrow}, instance)"),
        *(_values(one.name, one.label, f"label_values({one.metric}, {one.name})") for one in board.choices),
    ]


def _values(name: str, label: str, query: str) -> dashboard.VariableModel:
    """Several may be chosen; all of them are to begin with."""
    return dashboard.VariableModel(
        type_val=dashboard.VariableType.QUERY,
        name=name,
        label=label,
        datasource=SOURCE,
        query={"query": query, "refId": f"Variable-{name}"},
        refresh=dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED,
        sort=dashboard.VariableSort.NATURAL_ASC,
        multi=True,
        include_all=True,
        all_value=ALL,
        current=dashboard.VariableOption(selected=True, text=["All"], value=["$__all"]),
    )


def _fired() -> dashboard.AnnotationQuery:
    """A mark where an alert fires."""
    return dashboard.AnnotationQuery(
        name="Critical alerts",
        datasource=SOURCE,
        enable=True,
        icon_color="red",
        expr='ALERTS{alertname=~"Mintline.+", alertstate="firing", severity="critical"}',
    )
