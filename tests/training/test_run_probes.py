"""The data that the probes of a run are fitted to."""

import dataclasses
import types

import pytest
import toy_shards

from data_pipelines.errors import UserError
from data_pipelines.read.dataset import open_dataset
from xkd_jax.config.pretraining import ProbeConfig
from xkd_jax.training.run_probes import probes_of


def test_probes_use_number_of_classes_of_data_set(tmp_path):
    directory = toy_shards.write(tmp_path, [toy_shards.record(0)])
    dataset = open_dataset(toy_shards.CONFIG, directory, "train")
    run = types.SimpleNamespace(
        architecture=toy_shards.CONFIG.architecture,
        batch_sharding=types.SimpleNamespace(mesh=None),
        batch_size=4,
        rows=range(4),
    )
    assert probes_of(ProbeConfig(), toy_shards.CONFIG, run, dataset, dataset).classes == 3


@pytest.mark.parametrize("changes", [{"class_names": ()}, {"multi_label": True}])
def test_probes_refuse_data_set_without_one_class_per_record(tmp_path, changes):
    directory = toy_shards.write(tmp_path, [toy_shards.record(i) for i in range(4)])
    dataset = open_dataset(toy_shards.CONFIG, directory, "train")
    other = dataclasses.replace(dataset, metadata=dataclasses.replace(dataset.metadata, **changes))
    with pytest.raises(UserError, match="does not have one class for each record"):
        probes_of(ProbeConfig(), toy_shards.CONFIG, None, other, dataset)
