"""The same build on many machines, as an Apache Beam pipeline (an optional extra).

A shard is one element: a machine ingests its files one after the other and writes it, so have
several shards for each core that is to work. The files are decoded in a process beside the
runner's own, so that one that hangs or crashes a decoder costs that file only; finished shards are
kept, as in a local build.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from data_pipelines.build import builder, common_cause
from data_pipelines.build.build_plan import BuildPlan, ShardPlan
from data_pipelines.build.build_report import BuildReport
from data_pipelines.build.ingest import IngestOptions, ingest
from data_pipelines.errors import UserError


def run(plan: BuildPlan, output: str, timeout: float, arguments: Sequence[str]) -> BuildReport:
    """Builds what is missing of a data set by a Beam runner.

    Args:
      plan: what to build.
      output: the folder (or URL), which the runner's machines must reach.
      timeout: seconds that a file may go without giving a record.
      arguments: Beam's own, `--runner=...` among them.

    Raises:
      UserError: Beam is not installed, or as `builder.run`.
      UnreachableError: as `builder.run`.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise UserError("--runner needs Apache Beam: install the extra 'beam'.") from None
    if done := builder.read_finished(plan, output):
        return done
    with builder.start(plan, output):
        with beam.Pipeline(options=PipelineOptions(list(arguments))) as pipeline:
            _ = (
                pipeline
                | "Shards" >> beam.Create(builder.unfinished(plan, output))
                | "Spread" >> beam.Reshuffle()
                | "Build" >> beam.Map(build_shard, plan.source, plan.options, output, timeout)
            )
        return builder.finish(plan, output)


def build_shard(
    shard: ShardPlan, source: str, options: IngestOptions, output: str, timeout: float
) -> None:
    """Makes one shard in `output`, decoding in another process, which a file may crash."""
    work = functools.partial(ingest, directory=source, options=options)
    with builder.file_workers(work, output, 1, timeout) as worker:
        builder.write_shard(shard, common_cause.checked(worker.map(shard.items)), output)
