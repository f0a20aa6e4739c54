"""A build on many machines, as an Apache Beam pipeline (an optional extra).

A shard is one element of the pipeline, so use several shards per core. Files are decoded in a
separate process, so that a file that hangs or crashes a decoder is the only one lost. Finished
shards are kept, as in a local build.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from data_pipelines.build import build_state, builder, common_cause
from data_pipelines.build.build_plan import BuildPlan, ShardPlan
from data_pipelines.build.build_report import BuildReport
from data_pipelines.build.ingest import IngestOptions, ingest
from data_pipelines.errors import UserError


def run(plan: BuildPlan, output: str, timeout: float, arguments: Sequence[str]) -> BuildReport:
    """Builds the unfinished shards of a data set with a Beam runner.

    Args:
      plan: what to build.
      output: the folder (or URL), which the runner's machines must reach.
      timeout: seconds of work on a file without a finished record.
      arguments: options of Beam, including `--runner=...`.

    Raises:
      UserError: Beam is not installed, or as `builder.run`.
      UnreachableError: as `builder.run`.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise UserError("--runner needs Apache Beam: pip install -e '.[beam]'.") from None
    if done := build_state.read_finished(plan, output):
        return done
    with builder.start(plan, output):
        with beam.Pipeline(options=PipelineOptions(list(arguments))) as pipeline:
            _ = (
                pipeline
                | "Shards" >> beam.Create(builder.unfinished(plan.shards, output))
                | "Spread" >> beam.Reshuffle()
                | "Build" >> beam.Map(build_shard, plan.source, plan.options, output, timeout)
            )
        return builder.finish(plan, output)


def build_shard(
    shard: ShardPlan, source: str, options: IngestOptions, output: str, timeout: float
) -> None:
    """Builds one shard in `output`, decoding its files in a separate process.

    Args:
      shard: its name and files.
      source: the folder (or URL) of the files.
      options: of the records.
      output: the folder (or URL) of the data set.
      timeout: seconds of work on a file without a finished record.
    """
    work = functools.partial(ingest, directory=source, options=options)
    with builder.file_workers(work, output, 1, timeout) as worker:
        builder.write_shard(shard, common_cause.checked(worker.map(shard.items)), output)
