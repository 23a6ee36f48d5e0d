"""What programs are told: JSON and CSV."""

import csv
import io
import json
from typing import Any

import pytest

from cos2p_cli.run_view import RunView
from cos2p_cli.status import ROWS_MAX, document, table


@pytest.fixture
def view(script: Any) -> RunView:
    view = RunView()
    words = [
        script.requested(),
        *script.started(),
        script.hello("w0", memory=10**9),
        script.published(0),
    ]
    for version in range(1, ROWS_MAX + 3):
        plan = script.issued(f"p{version}", "w0", base=version - 1)
        words += [plan, script.dispatched(plan.plan), script.report(f"p{version}", "w0")]
        words += [script.admitted(f"p{version}", "w0"), script.closed(version)]
        words += [script.published(version), script.evaluated(version, 0.5)]
    for at_s, message in enumerate(words):
        view.apply(message, float(at_s))
    return view


def test_the_document_is_json_with_the_telemetry_of_the_newest_versions(view: RunView) -> None:
    body = json.loads(json.dumps(document(view, 100.0)))

    assert list(range(3, ROWS_MAX + 3)) == [row["version"] for row in body["telemetry"]]
    newest = body["telemetry"][-1]
    assert (2, 3.5, 5.0, 3.0, 0.5) == (
        newest["coverage_min"],
        newest["coverage_bound"],
        newest["steps_mean"],
        newest["step_norm"],
        newest["accuracy"],
    )
    assert {"n_star": 2, "planned": 0, "bound": 3.5, "devices_bound": 1} == body["coverage"]
    assert ROWS_MAX + 2 == len(body["accuracy"])


def test_an_accuracy_is_told_scaled_and_unscaled(view: RunView) -> None:
    newest = document(view, 100.0)["accuracy"][-1]

    assert (0.5, 0.49, 0.48) == (newest["average"], newest["raw"], newest["plain"])


def test_a_device_is_told_by_bytes_and_seconds(view: RunView) -> None:
    (device,) = document(view, 100.0)["workers"]

    plans = ROWS_MAX + 2
    assert (7_000, 6_500) == (device["peak_predicted_bytes"], device["peak_measured_bytes"])
    assert (3 * plans, plans, plans) == (device["busy_s"], device["idle_s"], device["waiting_s"])
    assert (1_000 * plans, 900 * plans) == (device["bytes_down"], device["bytes_up"])
    assert plans == device["outcomes"]["accepted"]


def test_a_refused_device_is_told_with_the_reason(view: RunView) -> None:
    view.refuse({"w0": "it has no samples"})

    (device,) = document(view, 100.0)["workers"]

    assert ("refused", "it has no samples") == (device["state"], device["refused"])


def test_a_device_that_is_not_refused_has_no_reason(view: RunView) -> None:
    (device,) = document(view, 100.0)["workers"]

    assert ("idle", None) == (device["state"], device["refused"])


def test_the_table_has_a_line_of_csv_per_version(view: RunView) -> None:
    rows = list(csv.DictReader(io.StringIO(table(view.versions))))

    assert [str(v) for v in range(1, ROWS_MAX + 3)] == [row["version"] for row in rows]
    assert ("count", "3.0", "") == (
        rows[0]["reason"],
        rows[0]["step_norm"],
        rows[0]["label_distance_mean"],
    )
    assert "1" == rows[0]["staleness"]


def test_the_table_of_no_versions_is_empty() -> None:
    assert "" == table([])
