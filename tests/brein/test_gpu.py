"""device = "gpu": the CPU's answers from a GPU, or from the CPU with a warning where there is none."""

import warnings

import numpy as np
import pytest

from brein import index
from brein.errors import ConfigError
from brein.index import gpu
from brein.index.flat import FlatConfig
from brein.index.ivf import IVFFlatConfig, IVFPQConfig

CONFIGS = [FlatConfig(), IVFFlatConfig(nlist=16, nprobe=4), IVFPQConfig(nlist=16, nprobe=4, M=8)]
COUNT, DIMENSION = 2000, 32
IDS = [str(row) for row in range(COUNT)]


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(0).normal(size=(COUNT, DIMENSION)).astype(np.float32)


@pytest.fixture(params=CONFIGS, ids=lambda config: config.kind)
def on_cpu(request):
    return request.param


@pytest.fixture
def on_gpu(on_cpu):
    return on_cpu.model_copy(update={"device": "gpu"})


def built(config, vectors):
    made = index.create(config, DIMENSION)
    made.add(IDS, vectors)
    return made


@pytest.fixture
def needs_gpu():
    if not gpu.count():
        pytest.skip("needs a GPU")


@pytest.fixture
def needs_no_gpu():
    if gpu.count():
        pytest.skip("needs a machine without a GPU")


@pytest.mark.usefixtures("needs_gpu")
@pytest.mark.parametrize("metric", ["cosine", "inner_product", "l2"])
@pytest.mark.parametrize("shards", [1, 3])
def test_a_gpu_agrees_with_the_cpu(on_cpu, vectors, metric, shards):
    config = on_cpu.model_copy(update={"metric": metric, "shards": shards})
    cpu, device = built(config, vectors), built(config, vectors)
    device.retune(config.model_copy(update={"device": "gpu"}))
    for changed in (False, True):
        if changed:
            for made in (cpu, device):
                made.remove(IDS[:100])
                made.add(["new"], vectors[:1])
        for among in (None, IDS[::5]):
            expected, found = (made.search(vectors[:100], 10, among) for made in (cpu, device))
            np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-3, atol=1e-3)
            shared = [len(set(row) & set(other)) for row, other in zip(found.ids, expected.ids, strict=True)]
            assert sum(shared) >= 0.99 * 1000


@pytest.mark.usefixtures("needs_gpu")
def test_more_neighbours_than_a_gpu_can_choose_come_from_the_cpu(vectors):
    rows = np.vstack([vectors, vectors + 1])
    made = index.create(FlatConfig(metric="l2", device="gpu"), DIMENSION)
    made.add([str(row) for row in range(len(rows))], rows)
    assert len(made.search(rows[:2], 3000).ids[0]) == 3000


@pytest.mark.usefixtures("needs_gpu")
def test_what_a_gpu_cannot_do_is_said_in_one_line(vectors):
    made = built(IVFPQConfig(nlist=16, nprobe=4, M=32, device="gpu"), vectors)
    made.search(vectors[:2], 5)
    odd = index.create(IVFPQConfig(nlist=16, nprobe=4, M=5, device="gpu"), 35)
    rows = np.random.default_rng(0).normal(size=(300, 35)).astype(np.float32)
    odd.add([str(row) for row in range(300)], rows)
    with pytest.raises(ConfigError, match=r"device = 'gpu'.*device = 'cpu'"):
        odd.search(rows[:1], 5)


@pytest.mark.usefixtures("needs_no_gpu")
def test_without_a_gpu_the_cpu_answers(on_cpu, on_gpu, vectors):
    expected = built(on_cpu, vectors).search(vectors[:20], 10)
    with pytest.warns(RuntimeWarning, match=f"{on_cpu.kind}: faiss reports no GPU"):
        made = built(on_gpu, vectors)
    found = made.search(vectors[:20], 10)
    assert found.ids == expected.ids
    np.testing.assert_array_equal(found.scores, expected.scores)


@pytest.mark.usefixtures("needs_no_gpu")
def test_the_warning_comes_when_an_index_is_made_loaded_or_tuned_and_not_when_it_is_used(
    on_cpu, on_gpu, vectors, tmp_path
):
    def warned(work):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = work()
        return result, len(caught)

    made, times = warned(lambda: index.create(on_gpu, DIMENSION))
    assert times == 1

    def use():
        made.add(IDS, vectors)
        made.remove(IDS[:10])
        for among in (None, IDS):
            made.search(vectors[:2], 5, among)
        index.save(made, tmp_path)

    assert warned(use)[1] == 0
    mapped = on_gpu.model_copy(update={"memory_map": True})
    loaded, times = warned(lambda: index.load(mapped, tmp_path))
    assert times == 1
    assert warned(lambda: loaded.remove(IDS[10:20]))[1] == 0
    assert warned(lambda: made.retune(on_gpu))[1] == 1
    assert warned(lambda: made.retune(on_cpu))[1] == 0


def test_the_device_is_no_part_of_what_is_built(on_cpu, on_gpu):
    assert on_cpu.build_parameters == on_gpu.build_parameters
