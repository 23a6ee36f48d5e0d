"""Tasks of the experiments. Their short names are entry points in `pyproject.toml`."""

from cos2p.run_config import LocalConfig, MergeConfig, PlanConfig, RoundConfig, RunConfig

# The margin covers what transients add to the cost model's forecast in the smallest submodels.
RUN = RunConfig(
    rounds=RoundConfig(versions=120),
    local=LocalConfig(steps=20),
    plans=PlanConfig(memory_margin=0.1),
    merge=MergeConfig(average_decay=0.97, checkpoint_every=5),
)
"""The settings of every task here."""
