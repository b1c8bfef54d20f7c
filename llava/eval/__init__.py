"""Evaluation, from the question to the table.

Commands: `evaluate` (aot eval), `exam.command` (aot exam), `report` (aot report), `leaderboard`
(aot leaderboard), `infer` (aot infer), `download`.
What they share: `records` (one record a question), `store` (keeps them while there is work), `statistics` (paired
intervals), `provenance` (what a result depends on).

- `sweep` reads models × settings × tasks from `sweeps/*.yaml`; `plan` names a folder for each run; `runner` runs what
  is missing through lmms-eval, whose wrappers with the method are in `lmms`.
- `exam` asks the embedded model about drawn clips, under settings, methods and ablations.
- `tables` turns records into Markdown, CSV and pictures.
"""
