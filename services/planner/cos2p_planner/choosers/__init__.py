"""Rules that choose a device's units: one file per family, each a pure function of a question.

Invariants of every choice of every rule:
- Its forecast never exceeds the budget. Rounding a share up to whole units counts against it too.
- It is closed under its cores.
- Only inner dimensions are cut, whatever the published method cuts. The residual stream keeps its
  width.
"""
