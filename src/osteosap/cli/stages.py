"""``osteosap stages``: what the main job consists of."""

from __future__ import annotations

__all__ = ["stages"]


def stages() -> None:
    """Print the stages of the main job: what each reads and writes."""
    from rich.table import Table

    from osteosap.cli.console import results
    from osteosap.exam import ExamPaths
    from osteosap.stage import STUDY
    from osteosap.workflow import STAGES

    table = Table("stage", "what it does", "reads", "writes")
    files = {STUDY: "STUDY", **ExamPaths.FILES}
    for stage in STAGES:
        reads = "\n".join(files[key] for key in stage.reads)
        writes = "\n".join(files[key] for key in (*stage.writes, *stage.may_write))
        table.add_row(stage.name, stage.summary, reads, writes)
    results.print(table)
