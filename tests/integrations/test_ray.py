"""Ray Data on a local cluster of two nodes answers bit for bit as this process. Run by `make test-integrations`."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from diffusers_rec import DiffRec, SyntheticWorld, recommend_frame

pytest.importorskip("ray", reason="Ray is not installed; make test-integrations installs it")

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.cluster_utils import Cluster

from diffusers_rec.integrations.ray import score

pytestmark = pytest.mark.slow

SEQUENCES = SyntheticWorld(60).sample(500).sequences()


@pytest.fixture(scope="module")
def cluster():
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    found.add_node(num_cpus=2)
    ray.init(address=found.address, log_to_driver=False)
    context = ray.data.DataContext.get_current()
    context.wait_for_min_actors_s, context.execution_options.actor_locality_enabled = 300, False  # both nodes work
    yield found
    ray.shutdown()
    found.shutdown()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model, its folder and its users; threads change the last digits, and Ray gives an actor one."""
    torch.set_num_threads(1)
    settings = {"memory": "transitions", "denoiser": "conditional-mlp", "seeds": 3}
    built = DiffRec(SEQUENCES.vocabulary, dim=32, max_length=20, **settings).prepare(SEQUENCES).eval()
    folder = tmp_path_factory.mktemp("model")
    built.save_pretrained(folder)
    decode = SEQUENCES.vocabulary.decode
    users = {"who": list(SEQUENCES.users.ids), "history": [decode(history) for history in SEQUENCES]}
    return built, folder, pd.DataFrame(users)


def assert_equal(scored, expected):
    pd.testing.assert_frame_equal(scored.to_pandas(), expected, check_exact=True, check_dtype=False)


@pytest.mark.parametrize("blocks", [1, 7])
def test_a_dataset_is_answered_bit_for_bit_as_a_frame(blocks, cluster, model):
    built, folder, frame = model
    expected = recommend_frame(built, frame, 5, user="who", batch_size=3)
    dataset = ray.data.from_pandas([frame[start : start + 500 // blocks] for start in range(0, 500, 500 // blocks)])
    scored = score(dataset, folder, 5, user="who", batch_size=3, concurrency=3).materialize()  # a node has two CPUs
    assert_equal(scored, expected)
    assert "2 nodes used" in scored.stats().partition("MapBatches(_Scorer)")[2]
    assert not ray.data.DataContext.get_current().execution_options.preserve_order


def test_files_and_options(cluster, model, tmp_path):
    built, folder, frame = model
    frame = frame.assign(no=[history[:2] for history in frame["history"]])
    for number in range(4):
        part = frame[number * 125 : (number + 1) * 125]
        pq.write_table(pa.Table.from_pandas(part, preserve_index=False), tmp_path / f"{number}.parquet")
    options = {"user": "who", "exclude": "no", "exclude_seen": False, "batch_size": 4}
    scored = score(ray.data.read_parquet(str(tmp_path)), folder, 3, concurrency=2, **options)
    assert_equal(scored, recommend_frame(built, frame, 3, **options))


def test_what_is_no_dataset_of_users_is_refused(cluster, model):
    _, folder, frame = model
    with pytest.raises(TypeError, match=r"expected a ray\.data\.Dataset, got DataFrame"):
        score(frame, folder)
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        score(ray.data.from_pandas(frame), folder, colour=1)
    with pytest.raises(ValueError, match=r"items in the column 'history', but the dataset has \['user', 'item'\]"):
        score(ray.data.from_items([{"user": 1, "item": 2}]), folder)


def test_a_name_of_a_repository_is_a_missing_folder(cluster):
    with pytest.raises(ray.exceptions.ActorDiedError, match="user/model holds no checkpoint: "):
        score(ray.data.from_items([{"history": [1]}]), "user/model").materialize()
