"""`cos2p-planner`: the process. Flags override settings from the environment."""

import sys
from collections.abc import Sequence

from cos2p.service.lifecycle import role_parser, run_role, run_service
from cos2p.service.role import RoleContext
from cos2p.settings import PlannerSettings
from cos2p_planner.intake import checker_of
from cos2p_planner.shell import run_planner

EXAMPLE = """example:
  cos2p-planner --bus kafka://broker:9092 --prefix digits
  COS2P_BUS=sqlite:runs/digits cos2p-planner
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the planner until its run ends, and return the exit code."""
    what = "Decides who trains what, which update counts, and when a version closes."
    parser = role_parser("planner", what, EXAMPLE)
    parser.add_argument("--planner-id", help="name in the log (COS2P_PLANNER_ID)")
    return run_role("planner", parser, arguments, PlannerSettings, serve)


def serve(settings: PlannerSettings) -> int:
    """Run the planner with these settings, and return the exit code."""

    async def body(context: RoleContext) -> None:
        def kept(text: str) -> None:
            context.log.warning("register_unchanged", reason=text)

        checker = checker_of(settings.keys_file, kept)
        await run_planner(context, planner_id=settings.planner_id, checker=checker)

    return run_service("planner", settings, body)


if __name__ == "__main__":
    sys.exit(main())
