"""Makes Grafana's JSON of a dashboard, in the classic schema, which every Grafana since version 10 reads.

No data source is named: all queries go to the one that is chosen on the dashboard.
"""

from __future__ import annotations

import json
from functools import singledispatch
from typing import Any

from grafana_foundation_sdk.builders import common as options
from grafana_foundation_sdk.builders import dashboard as grafana
from grafana_foundation_sdk.builders import prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    BigValueTextMode,
    DataSourceRef,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    ScaleDistribution,
    StackingMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from k8s.monitoring.dashboards.panels import Dashboard, Lines, Panel, Query, Stat, States, Table
from k8s.monitoring.dashboards.queries import HOSTS, SELECTED

WINDOWS = ("1h", "6h", "1d", "7d")
TAG = "reflux"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
GREEN = "green"
COLUMNS = 24

_INFO = f"reflux_model_info{{{SELECTED}}}"
_TEACHER = f"reflux_teacher_info{{{SELECTED}}}"
ANNOTATIONS = {
    "Deployments": (
        f"count by (model_version, role) ({_INFO})"
        f" unless count by (model_version, role) (last_over_time({_INFO}[1d] offset 1m))",
        "{{role}} {{model_version}}",
        "blue",
    ),
    "Teacher versions": (
        f"count by (teacher, fingerprint) ({_TEACHER})"
        f" unless count by (teacher, fingerprint) (last_over_time({_TEACHER}[1d] offset 1m))",
        "{{teacher}} {{fingerprint}}",
        "orange",
    ),
}
"""Events by name: what has a series now and had none for a day, its text and its colour."""


def to_json(dashboard: Dashboard) -> str:
    """Return the JSON of a dashboard, as Grafana imports it."""
    made = (
        grafana.Dashboard(dashboard.title)
        .uid(f"reflux-{dashboard.name}")
        .description(dashboard.description)
        .tags([TAG])
        .time(dashboard.since, "now")
        .refresh("1m")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
        .link(
            grafana.DashboardLink("Reflux")
            .type(DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .include_vars(True)
            .keep_time(True)
        )
        .variables(_variables())
        .annotations([_annotation(name, *event) for name, event in ANNOTATIONS.items()])
    )
    for row in dashboard.rows:
        made.with_row(grafana.Row(row.title))
        for panel in row.panels:
            made.with_panel(_panel(panel))
    tree = json.loads(JSONEncoder(sort_keys=True).encode(made.build()))
    for number, panel in enumerate(tree["panels"], 1):
        panel["id"] = number
    return json.dumps(tree, indent=1, sort_keys=True) + "\n"


def _variables() -> list[Any]:
    """Return the data source, and what to look at; all of it at first."""
    return [
        grafana.DatasourceVariable("datasource").label("Data source").type("prometheus"),
        _labels("namespace", "Namespace", "reflux_model_info"),
        _labels("pod", "Pod", 'reflux_model_info{namespace=~"$namespace"}'),
        _labels("model_version", "Version", f"reflux_model_info{{{HOSTS}}}"),
        grafana.CustomVariable("window")
        .label("Window")
        .values(",".join(WINDOWS))
        .options([VariableOption(name == "1d", name, name) for name in WINDOWS])
        .current(VariableOption(True, "1d", "1d")),
    ]


def _labels(label: str, name: str, series: str) -> grafana.QueryVariable:
    """Return a variable of the values of a label. `.*` also finds series without that label, as outside Kubernetes."""
    return (
        grafana.QueryVariable(label)
        .label(name)
        .datasource(SOURCE)
        .query({"query": f"label_values({series}, {label})", "refId": label})
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(VariableOption(True, ["All"], ["$__all"]))
    )


def _annotation(name: str, expr: str, text: str, colour: str) -> grafana.AnnotationQuery:
    return (
        grafana.AnnotationQuery()
        .name(name)
        .datasource(SOURCE)
        .enable(True)
        .icon_color(colour)
        .expr(expr)
        .step("1m")
        .title_format(name)
        .text_format(text)
    )


def _panel(panel: Panel) -> Any:
    """Return the builder of a panel."""
    steps = [Threshold(None, GREEN), *(Threshold(at, colour) for at, colour in (panel.limits or {}).items())]
    made = (
        _drawn(panel)
        .title(panel.title)
        .description(panel.description)
        .datasource(SOURCE)
        .span(panel.width)
        .height(panel.height)
        .unit(panel.unit)
        .thresholds(grafana.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
    )
    if panel.decimals is not None:
        made.decimals(panel.decimals)
    if panel.names and not isinstance(panel, Table):
        made.mappings([_mapping(panel)])
    instant = isinstance(panel, Stat | Table)
    for letter, query in zip("ABCDEFGH", panel.queries, strict=False):
        made.with_target(_target(query, letter, instant=instant, table=isinstance(panel, Table)))
    return made


def _mapping(panel: Panel) -> ValueMap:
    colours = panel.limits or {}
    return ValueMap(
        {
            str(value): ValueMappingResult(text=name, color=colours.get(value, GREEN), index=place)
            for place, (value, name) in enumerate((panel.names or {}).items())
        }
    )


def _target(query: Query, letter: str, *, instant: bool, table: bool) -> prometheus.Dataquery:
    made = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(letter).datasource(SOURCE)
    made = made.instant() if instant else made.range()
    return made.format(PromQueryFormat.TABLE if table else PromQueryFormat.TIME_SERIES)


@singledispatch
def _drawn(panel: Panel) -> Any:
    """Return the builder of what draws this kind of panel."""
    raise NotImplementedError(type(panel))


@_drawn.register
def _(panel: Stat) -> stat.Panel:
    several = len(panel.queries) > 1
    return (
        stat.Panel()
        .color_mode(BigValueColorMode.BACKGROUND if panel.limits else BigValueColorMode.NONE)
        .graph_mode(BigValueGraphMode.NONE)
        .text_mode(BigValueTextMode.VALUE_AND_NAME if several else BigValueTextMode.AUTO)
        .reduce_options(options.ReduceDataOptions().calcs(["lastNotNull"]))
    )


@_drawn.register
def _(panel: Lines) -> timeseries.Panel:
    made = (
        timeseries.Panel()
        .show_points(VisibilityMode.NEVER)
        .line_width(2)
        .fill_opacity(40 if panel.stacked else 0)
        .legend(options.VizLegendOptions().display_mode(LegendDisplayMode.LIST).show_legend(True))
    )
    if panel.floor is not None:
        made.min(panel.floor)
    if panel.stacked:
        made.stacking(options.StackingConfig().mode(StackingMode.NORMAL))
    if panel.logarithmic:
        made.scale_distribution(options.ScaleDistributionConfig().type(ScaleDistribution.LOG).log(10))
    if panel.limits:
        made.thresholds_style(options.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED))
    if panel.repeat:
        made.repeat("model_version").repeat_direction("v")
        thin = [DynamicConfigValue("custom.lineWidth", 0), _colour("blue")]
        between = [DynamicConfigValue("custom.fillBelowTo", "lower"), DynamicConfigValue("custom.fillOpacity", 20)]
        made.override_by_name("lower", thin).override_by_name("upper", [*thin, *between])
        made.override_by_name(panel.queries[0].legend, [_colour("blue")])
        made.override_by_name("SLO", [_colour("red")])
    return made


@_drawn.register
def _(panel: States) -> statetimeline.Panel:
    return statetimeline.Panel().merge_values(True).show_value(VisibilityMode.AUTO).row_height(0.8)


@_drawn.register
def _(panel: Table) -> table.Panel:
    columns = [query.legend for query in panel.queries]
    letters = [f"Value #{letter}" for letter in "ABCDEFGH"[: len(columns)]]
    renamed = dict(zip(letters, columns, strict=True)) | ({"Value": columns[0]} if len(columns) == 1 else {})
    made = (
        table.Panel()
        .with_transformation(DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(
            DataTransformerConfig(id_val="organize", options={"excludeByName": {"Time": True}, "renameByName": renamed})
        )
    )
    for column, unit in (panel.units or {}).items():
        made.override_by_name(column, [DynamicConfigValue("unit", unit)])
    if panel.names:
        made.override_by_name(columns[0], [DynamicConfigValue("mappings", [_mapping(panel)])])
    if panel.sort:
        made.sort_by([options.TableSortByFieldState().display_name(panel.sort).desc(True)])
    return made


def _colour(name: str) -> DynamicConfigValue:
    return DynamicConfigValue("color", {"mode": FieldColorModeId.FIXED, "fixedColor": name})
