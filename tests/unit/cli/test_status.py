"""What programs are told: JSON and CSV."""

import asyncio
import csv
import io
import json
from typing import Any

import pytest
from fed import Fed

from cos2p.history.run import ROWS_MAX as ROWS_KEPT
from cos2p.log import messages as m
from cos2p_cli.status import ROWS_MAX, document, print_table


@pytest.fixture
def view(script: Any) -> Fed:
    view = Fed()
    records = [
        script.requested(),
        *script.started(),
        script.hello("w0", memory=10**9),
        script.published(0),
    ]
    for version in range(1, ROWS_MAX + 3):
        plan = script.issued(f"p{version}", "w0", base=version - 1)
        records += [plan, script.dispatched(plan.plan), script.report(f"p{version}", "w0")]
        records += [script.admitted(f"p{version}", "w0"), script.closed(version)]
        records += [script.published(version), script.evaluated(version, 0.5)]
    for at_s, message in enumerate(records):
        view.apply(message, float(at_s))
    return view


def test_the_document_is_json_with_the_telemetry_of_the_newest_versions(view: Fed) -> None:
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
    assert {"n_star": 2, "planned": 0, "bound": 3.5, "devices_bound": 0} == body["coverage"]
    assert ROWS_MAX + 2 == len(body["accuracy"])


def test_an_accuracy_is_told_scaled_and_unscaled(view: Fed) -> None:
    newest = document(view, 100.0)["accuracy"][-1]

    assert (0.5, 0.49, 0.48) == (
        newest["accuracy"],
        newest["raw_accuracy"],
        newest["plain_accuracy"],
    )


def test_a_device_is_told_by_bytes_and_seconds(view: Fed) -> None:
    (device,) = document(view, 100.0)["workers"]

    plans = ROWS_MAX + 2
    assert (7_000, 6_500) == (device["peak_predicted_bytes"], device["peak_measured_bytes"])
    assert (3 * plans, plans, plans) == (device["busy_s"], device["idle_s"], device["waiting_s"])
    assert (1_000 * plans, 900 * plans) == (device["bytes_down"], device["bytes_up"])
    assert plans == device["outcomes"]["accepted"]


def test_an_excluded_device_is_shown_with_the_reason(view: Fed) -> None:
    stamp = {"run_id": "r1", "epoch": 1, "fleet_offset": 0, "at_s": 0.0}
    excluded = stamp | {"worker_id": "w0", "reason": "it has no samples"}
    view.apply(m.DeviceExcluded.model_validate(excluded), 60.0)

    (device,) = document(view, 60.0)["workers"]

    assert ("excluded", "it has no samples") == (device["state"], device["excluded"])


def test_a_device_that_is_not_excluded_has_no_reason(view: Fed) -> None:
    (device,) = document(view, view.last_s)["workers"]

    assert ("idle", None) == (device["state"], device["excluded"])


def written(logged: Any) -> list[dict[str, str]]:
    """The lines of CSV of what is logged."""

    async def body() -> str:
        out = io.StringIO()
        await print_table(logged.bus, "t", out)
        return out.getvalue()

    return list(csv.DictReader(io.StringIO(asyncio.run(body()))))


def test_the_table_has_a_line_of_csv_per_version_whatever_a_history_keeps(logged: Any) -> None:
    count = ROWS_KEPT + 3

    async def body() -> None:
        s = logged.script
        await logged.create()
        await logged.append(s.requested(), *s.started(), s.hello("w0"), s.published(0))
        for n in range(1, count + 1):
            await logged.append(s.issued(f"p{n}", "w0", base=n - 1), s.admitted(f"p{n}", "w0"))
            await logged.append(s.closed(n), s.published(n))

    asyncio.run(body())

    rows = written(logged)

    assert [str(v) for v in range(1, count + 1)] == [row["version"] for row in rows]
    assert ("count", "3.0", "") == (
        rows[0]["reason"],
        rows[0]["step_norm"],
        rows[0]["label_distance_mean"],
    )
    assert "1" == rows[0]["staleness"]


def test_the_table_of_no_versions_is_empty(logged: Any) -> None:
    asyncio.run(logged.create())

    assert [] == written(logged)
