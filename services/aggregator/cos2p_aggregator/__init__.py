"""The aggregator: it obeys the decisions and holds the model. It needs numpy only."""
