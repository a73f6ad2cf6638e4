"""Several batches at a time: the order, what is in memory, what no caption depends on."""

import threading
import weakref
from dataclasses import dataclass, replace
from itertools import count, pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import mrnn_runtime.captioner as captioner_module
from mrnn_runtime import DecodeOptions, load
from mrnn_runtime.decoding.beam import Beam
from mrnn_runtime.decoding.greedy import Greedy
from mrnn_runtime.decoding.sample import Sample
from mrnn_runtime.engine.parallel import Budget, ahead, in_order
from mrnn_runtime.errors import UsageError
from mrnn_runtime.testing import TableModel, encoded_images


@given(
    st.integers(1, 5).flatmap(
        lambda workers: st.lists(st.permutations(range(workers)), min_size=1, max_size=6)
    )
)
@settings(deadline=None, max_examples=40)
def test_results_come_in_order_whichever_is_done_first(orders):
    """As many parts as there are workers make a group; those of a group are done in its order."""
    workers = len(orders[0])
    groups = [[group * workers + i for i in order] for group, order in enumerate(orders)]
    wait_for = dict(pair[::-1] for group in groups for pair in pairwise(group))
    done = [threading.Event() for _ in range(workers * len(groups))]
    finished = []

    def job(part):
        assert part not in wait_for or done[wait_for[part]].wait(30)
        finished.append(part)
        done[part].set()
        return part

    assert list(in_order(job, range(len(done)), workers)) == list(range(len(done)))
    for group in groups:
        assert [part for part in finished if part in group] == group


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_only_a_few_parts_are_ahead(workers):
    taken = count()
    last = -1

    def parts():
        nonlocal last
        for last in taken:  # noqa: UP028 - what is taken is to be seen outside
            yield last

    results = in_order(lambda part: part, parts(), workers)
    assert [next(results) for _ in range(10)] == list(range(10))
    assert last - 9 <= 2 * workers + 1
    results.close()


def test_several_threads_work_at_once():
    meeting = threading.Barrier(3, timeout=30)
    assert list(in_order(lambda _: meeting.wait() >= 0, range(6), 3)) == [True] * 6


def test_closing_drops_what_has_not_begun():
    @dataclass(eq=False)
    class Part:
        number: int

    parts = [Part(number) for number in range(5)]
    begun = []
    both_busy, dropped = threading.Barrier(3, timeout=10), threading.Event()
    weakref.finalize(parts[3], dropped.set)

    def job(part):
        begun.append(part.number)
        if part.number:
            both_busy.wait()
            assert dropped.wait(10)

    results = in_order(job, (parts.pop(0) for _ in range(5)), 2)
    next(results)
    both_busy.wait()
    results.close()  # returns when the two that wait have seen that the fourth is gone
    assert sorted(begun) == [0, 1, 2]
    assert not [t for t in threading.enumerate() if t.name.startswith("mrnn-worker")]


@pytest.mark.parametrize("workers", [1, 3])
def test_an_exception_comes_out_at_its_place(workers):
    def job(part):
        if part == 4:
            raise ZeroDivisionError
        return part

    results = in_order(job, range(100), workers)
    assert [next(results) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(ZeroDivisionError):
        next(results)


class TestAhead:
    @pytest.mark.parametrize("threads", [0, 1, 3])
    def test_results_come_in_order(self, threads):
        with ahead(lambda part: -part, range(20), threads) as waits:
            assert [wait() for wait in waits] == [-part for part in range(20)]

    @pytest.mark.parametrize("threads", [0, 1, 3])
    def test_results_may_be_taken_after_the_last_part(self, threads):
        gate = threading.Event()
        with ahead(lambda part: gate.wait(30) and part, range(20), threads) as waits:
            taken = list(waits)
            gate.set()
            assert [wait() for wait in taken] == list(range(20))

    @pytest.mark.parametrize("threads", [1, 2, 5])
    def test_the_next_parts_are_begun_and_no_more(self, threads):
        begun = [threading.Event() for _ in range(20)]
        taken = []

        def parts():
            for part in range(20):
                taken.append(part)
                yield part

        with ahead(lambda part: begun[part].set(), parts(), threads) as waits:
            next(waits)
            assert all(event.wait(30) for event in begun[: threads + 1])
            assert len(taken) == threads + 1

    def test_without_threads_the_caller_does_it(self):
        with ahead(lambda _: threading.current_thread(), range(2), 0) as waits:
            assert [wait() for wait in waits] == [threading.current_thread()] * 2

    def test_an_exception_comes_out_where_it_is_waited_for(self):
        with ahead(lambda part: 1 // part, [1, 0, 1], 2) as waits:
            first, second, third = waits
            assert first() == third() == 1
            with pytest.raises(ZeroDivisionError):
                second()

    def test_leaving_ends_the_threads(self):
        with ahead(lambda part: part, range(1000), 2) as waits:
            next(waits)
        assert not [t for t in threading.enumerate() if t.name.startswith("mrnn-worker")]


class TestBudget:
    @given(st.lists(st.integers(0, 10), max_size=40), st.integers(1, 5))
    @settings(deadline=None, max_examples=40)
    def test_no_more_is_held_than_there_is(self, claims, threads):
        budget, lock, held = Budget(10), threading.Lock(), [0]

        def job(count):
            with budget.claims() as claim:
                claim(count)
                with lock:
                    held[0] += count
                    most = held[0]
                with lock:
                    held[0] -= count
            return most

        assert all(most <= 10 for most in in_order(job, claims, threads))

    def test_who_finds_too_little_waits(self):
        budget, order = Budget(10), []

        def later():
            with budget.claims() as claim:
                waiting.set()
                claim(4)
                order.append("second")

        waiting = threading.Event()
        with budget.claims() as claim:
            claim(7)
            thread = threading.Thread(target=later)
            thread.start()
            assert waiting.wait(30)
            order.append("first")
        thread.join(30)
        assert order == ["first", "second"]

    def test_what_there_never_is_is_refused_and_nothing_is_lost(self):
        budget = Budget(10_000_000)
        too_much = pytest.raises(MemoryError, match="it takes 11 MB, and 10 MB are allowed")
        with too_much, budget.claims() as claim:
            claim(10_000_001)
        with budget.claims() as claim:
            claim(10_000_000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eleven photos, one of them broken."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for i in range(11):
        pixels = random.integers(0, 256, (20 + i, 30, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
    (folder / "05.png").write_bytes(b"broken")
    return folder


@pytest.mark.parametrize("decoder", ["greedy", "beam", "sample"])
def test_no_caption_depends_on_workers_or_batches(tiny_bundle, folder, decoder):
    captioner = load(tiny_bundle, provider="cpu", threads=1)
    runs = [
        list(
            captioner.caption(
                folder,
                workers=workers,
                readers=readers,
                batch_size=batch_size,
                decoder=decoder,
                n_best=2,
            )
        )
        for workers, readers in ((1, 0), (1, 3), (2, None))
        for batch_size in (1, 4, 8)
    ]
    assert [caption.error is None for caption in runs[0]] == [i != 5 for i in range(11)]
    assert all(run == runs[0] for run in runs[1:])


@dataclass(frozen=True)
class Watched:
    """A session that remembers how many images it was given at once."""

    session: object
    sizes: list

    @property
    def provider(self):
        return self.session.provider

    def run(self, names, feeds, kept):
        self.sizes.append(len(next(iter(feeds.values()))))
        return self.session.run(names, feeds, kept)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 8, 64])
def test_the_encoder_meets_few_sizes(tiny_bundle, folder, batch_size):
    captioner = load(tiny_bundle, provider="cpu", threads=1)
    sizes = []
    graph = captioner.encoder._graph
    captioner.encoder._graph = replace(graph, session=Watched(graph.session, sizes))
    list(captioner.caption(folder, batch_size=batch_size))
    assert sum(sizes) == 10
    assert set(sizes) <= {1, 4, 8}


def test_a_few_photos_are_shared_among_the_workers(tiny_bundle, folder):
    captioner = load(tiny_bundle, provider="cpu", threads=1)
    meeting, encode = threading.Barrier(2, timeout=30), captioner.encoder.encode

    def together(images):
        meeting.wait()
        return encode(images)

    met = replace(captioner, encoder=SimpleNamespace(encode=together, provider="CPU"))
    assert all(c.text for c in met.caption([folder / "00.png", folder / "01.png"], workers=2))


def test_the_next_photos_are_read_while_these_are_encoded(tiny_bundle, folder, monkeypatch):
    captioner = load(tiny_bundle, provider="cpu", threads=1)
    third, read, encode = threading.Event(), captioner_module.read_images, captioner.encoder.encode

    def reading(images, *given):
        if images[0].name.endswith("02.png"):
            third.set()
        return read(images, *given)

    def encoding(images):
        assert third.wait(30), "the first photo is encoded, and nobody reads the third"
        return encode(images)

    monkeypatch.setattr(captioner_module, "read_images", reading)
    met = replace(captioner, encoder=SimpleNamespace(encode=encoding, provider="CPU"))
    assert next(met.caption(folder, batch_size=1, readers=2)).text


def test_a_photo_that_takes_more_memory_than_is_allowed(tiny_bundle, tmp_path):
    Image.new("RGB", (800, 600), "red").save(tmp_path / "a.png")
    Image.new("RGB", (80, 60), "red").save(tmp_path / "b.png")
    captioner = load(tiny_bundle, provider="cpu", threads=1)
    large, small = captioner.caption(tmp_path, memory=4, workers=2)
    said = "a.png is too large: it takes 5 MB, and 4 MB are allowed by the option memory"
    assert said in str(large.error)
    assert small.text
    assert all(caption.text for caption in captioner.caption(tmp_path, memory=5, workers=2))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"workers": 0}, r"workers must lie in 1\.\.1000"),
        ({"readers": -1}, r"readers must lie in 0\.\.1000"),
        ({"memory": 0}, r"memory must lie in 1\.\."),
    ],
)
def test_numbers_that_are_too_small(tiny_bundle, folder, given, message):
    with pytest.raises(UsageError, match=message):
        load(tiny_bundle, provider="cpu").caption(folder, **given)


def test_a_path_that_is_not_there(tiny_bundle, folder):
    captioner = load(tiny_bundle, provider="cpu", threads=1)
    with pytest.raises(UsageError, match="does not exist"):
        captioner.caption([folder / "none.png"])
    captions = list(captioner.caption([folder / "none.png", folder / "01.png"], missing_ok=True))
    assert "none.png" in captions[0].error.message
    assert captions[1].text


@dataclass
class Slow:
    """A model whose steps are counted, and on whose clock each takes a second."""

    model: TableModel
    clock: list

    def __getattr__(self, name):
        return getattr(self.model, name)

    def step(self, *args, **options):
        self.clock[0] += 1.0
        return self.model.step(*args, **options)


class TestDeadline:
    @pytest.fixture
    def slow(self, monkeypatch):
        clock = [0.0]
        monkeypatch.setattr("time.monotonic", lambda: clock[0])
        return Slow(TableModel(end_bias=-9.0), clock)

    @pytest.mark.parametrize("decoder", [Greedy(), Beam(), Sample()])
    @pytest.mark.parametrize("seconds", [1, 3, 5])
    def test_captions_are_cut_when_it_is_over(self, slow, decoder, seconds):
        options = DecodeOptions(deadline_ms=1000 * seconds, max_length=9, n_best=2)
        decoded = decoder.decode(slow, encoded_images(3), options)
        assert slow.clock == [float(seconds)], "the model is not asked any more"
        for candidates in decoded:
            assert not candidates[0].finished
            assert len(candidates[0].tokens) == seconds

    @pytest.mark.parametrize("decoder", [Greedy(), Beam(), Sample()])
    def test_there_is_a_word_however_late_it_is(self, slow, decoder):
        slow.clock[0] = 0.0
        options = DecodeOptions(deadline_ms=1, max_length=9)
        decoded = decoder.decode(slow, encoded_images(2), options)
        assert [len(candidates[0].tokens) for candidates in decoded] == [1, 1]

    @pytest.mark.parametrize("decoder", [Greedy(), Beam(), Sample()])
    def test_one_that_is_never_reached_changes_nothing(self, decoder):
        model, images = TableModel(), encoded_images(3)
        options = DecodeOptions(max_length=6)
        late = replace(options, deadline_ms=86_400_000)
        assert decoder.decode(model, images, late) == decoder.decode(model, images, options)

    def test_reading_and_encoding_count(self, tiny_bundle, folder, monkeypatch):
        captioner = load(tiny_bundle, provider="cpu", threads=1)
        whole = next(captioner.caption(folder / "01.png", decoder="greedy", min_length=6))
        ticks = count()
        monkeypatch.setattr("time.monotonic", lambda: next(ticks) * 10.0)
        cut = next(
            captioner.caption(folder / "01.png", decoder="greedy", min_length=6, deadline_ms=500)
        )
        assert not cut.finished
        assert cut.error is None
        assert whole.text.startswith(cut.text)
        assert len(cut.text) < len(whole.text)
