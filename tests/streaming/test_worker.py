import os
import signal
import subprocess
import threading

import pytest
import zmq
from bluesky.callbacks.zmq import Publisher

from nfphasing_bluesky.core import Policy, StreamSettings, TransportError
from nfphasing_bluesky.streaming import wire
from nfphasing_bluesky.streaming.child import Child, is_alive
from nfphasing_bluesky.streaming.client import Listener, ask
from nfphasing_bluesky.streaming.endpoints import check_local, connect
from nfphasing_bluesky.streaming.outputs import Outputs
from nfphasing_bluesky.streaming.protocol import (
    TOPIC_DOCUMENT,
    TOPIC_FRAME,
    TOPIC_OBJECT,
    TOPIC_PATTERN,
    Counts,
    Verb,
    WorkerState,
)
from nfphasing_bluesky.streaming.settings import WorkerSettings
from nfphasing_bluesky.streaming.worker import Worker
from tests.waiting import until


@pytest.fixture
def endpoints(tmp_path):
    names = ("documents", "results", "control")
    return {name: f"ipc://{tmp_path}/{name}" for name in names}


@pytest.fixture
def running(endpoints, raw, tiny):
    """Start workers in threads of this process, each with a listener; ended after the test."""
    made = []

    class Running:
        def __init__(self, model="tiny-line", sinks=(), **settings):
            stream = StreamSettings(data_key="det", **settings.pop("stream", {}))
            self.settings = WorkerSettings(
                model=model, stream=stream, **endpoints, heartbeat_s=0.05, **settings
            )
            self.frames, self.statuses, self.documents = [], [], []
            self.worker = Worker(self.settings, Outputs(raw.MemoryStore(), sinks), tiny.load)
            self.listener = Listener(
                self.settings.results,
                self.statuses.append,
                self.frames.append,
                lambda *item: self.documents.append(item),
            ).start()
            self.thread = threading.Thread(target=self.worker.run)
            self.thread.start()
            self.context = zmq.Context()
            self.push = connect(self.context, zmq.PUSH, self.settings.documents)
            made.append(self)
            assert until(lambda: self.statuses and self.statuses[-1].state is not WorkerState.LOADING)

        def send(self, items):
            for item in items:
                self.push.send(wire.pack_document(*item))

        def ask(self, verb, **arguments):
            return ask(verb, self.settings.control, 240.0, **arguments)

        def counts(self):
            c = self.ask(Verb.HEALTH).counts
            return c.received, c.reconstructed, c.dropped, c.failed

        def close(self):
            self.worker.stop()
            self.thread.join(240)
            self.listener.close()
            self.context.destroy(linger=0)
            assert not self.thread.is_alive()

    yield Running
    for item in made:
        item.close()


def test_pushed_documents_come_back_as_frames_and_derived_documents(running, raw):
    run = running()
    run.send(items := list(raw.raw_run(12)))
    assert until(lambda: any(name == "stop" for name, _ in run.documents))
    assert [f.seq_num for f in run.frames] == list(range(1, 13))
    frame = run.frames[-1]
    assert frame.verdict == "VALID" and frame.raw_uid == items[0][1]["uid"] and frame.mean.shape == (16,)
    assert frame.parameters["offset_inv_cm"][0] == pytest.approx(100, abs=3)
    assert frame.parameters["offset_inv_cm"][1] == pytest.approx(0.43, rel=0.5)
    assert frame.axes[0].name == "r" and frame.latency_s > 0
    assert run.documents[0][1]["original_run_uid"] == items[0][1]["uid"]
    assert run.counts() == (12, 12, 0, 0)


def test_the_state_follows_what_happens(running, raw):
    run = running()
    assert run.ask(Verb.HEALTH).state is WorkerState.ON
    items = list(raw.raw_run(2))
    run.send(items[:-1])
    assert until(lambda: run.statuses[-1].state is WorkerState.RUNNING)
    run.send(items[-1:])
    assert until(lambda: run.statuses[-1].state is WorkerState.ON)
    assert run.ask(Verb.STOP).state is WorkerState.STANDBY
    assert run.ask(Verb.START).state is WorkerState.ON
    assert run.statuses[-1].model.parameters[0].name == "offset_inv_cm"
    assert run.statuses[-1].model.density.shape == (16,)


def test_frames_that_come_while_it_is_stopped_count_as_dropped(running, raw):
    run = running(autostart=False)
    run.send(raw.raw_run(5))
    assert until(lambda: run.counts() == (5, 0, 5, 0))
    run.ask(Verb.START)
    run.send(raw.raw_run(3))
    assert until(lambda: run.counts() == (8, 3, 5, 0))


def test_stop_in_a_run_ends_its_derived_run_with_the_reason(running, raw):
    run = running()
    run.send(list(raw.raw_run(4))[:-1])
    assert until(lambda: len(run.frames) == 4)
    run.ask(Verb.STOP)
    assert until(lambda: [d for n, d in run.documents if n == "stop"])
    assert "operator" in next(d for n, d in run.documents if n == "stop")["reason"]


def test_load_model_answers_at_once_and_a_bad_one_leaves_the_old_in_use(running):
    run = running()
    assert run.ask(Verb.LOAD_MODEL, model="nonsense").state is WorkerState.LOADING
    status = until(lambda: (s := run.ask(Verb.HEALTH)).state is not WorkerState.LOADING and s)
    assert "nonsense" in status.reason and "tiny-line stays in use" in status.reason
    assert status.state is WorkerState.ON and status.model.name == "tiny-line"
    run.ask(Verb.LOAD_MODEL, model="tiny-image")
    assert until(lambda: run.ask(Verb.HEALTH).state is WorkerState.ON)
    status = run.ask(Verb.HEALTH)
    assert status.model.name == "tiny-image" and status.reason == ""


def test_a_worker_without_a_usable_model_is_in_fault_and_says_why(running):
    run = running(model="nonsense")
    status = run.ask(Verb.HEALTH)
    assert status.state is WorkerState.FAULT and "expected one of" in status.reason
    with pytest.raises(TransportError, match="no model is loaded"):
        run.ask(Verb.START)
    again = run.ask(Verb.RESET)
    assert again.state is not WorkerState.FAULT and again.reason == ""
    assert until(lambda: "expected one of" in run.ask(Verb.HEALTH).reason)


def test_reset_zeroes_the_counts_and_they_still_add_up(running, raw):
    run = running()
    run.send(raw.raw_run(5))
    assert until(lambda: run.counts() == (5, 5, 0, 0))
    assert run.ask(Verb.RESET).counts == Counts(0, 0, 0, 0)
    run.send(raw.raw_run(2))
    assert until(lambda: run.counts() == (2, 2, 0, 0))


@pytest.mark.parametrize("message", [b"", b"garbage", b"\x80\x04.", b" event \xc1", b" event \x90"])
def test_garbage_on_the_document_socket_is_refused_and_the_worker_lives(running, raw, message):
    run = running()
    run.push.send(message)
    run.send([("event", {"seq_num": 1}), ("event", {"descriptor": "unknown"}), ("descriptor", {})])
    run.send(raw.raw_run(3))
    assert until(lambda: run.counts() == (3, 3, 0, 0))


@pytest.mark.parametrize(
    "request_",
    [
        b"",
        b"\x80\x04.",
        wire.pack({"verb": "exec"}),
        wire.pack([1]),
        wire.pack({"verb": "start", "arguments": 3}),
    ],
)
def test_garbage_on_the_control_socket_is_answered_with_an_error(running, request_):
    run = running()
    socket = connect(run.context, zmq.REQ, run.settings.control)
    socket.send(request_)
    assert socket.poll(240_000)
    assert wire.unpack(socket.recv())["ok"] is False
    socket.close()
    assert run.ask(Verb.HEALTH).state is WorkerState.ON


def test_drops_that_an_upstream_queue_reports_are_counted(running, raw):
    run = running()
    items = list(raw.raw_run(4))
    record = ("nfphasing_dropped", {"raw_uid": items[0][1]["uid"], "seq_nums": [2, 3]})
    run.send([*items[:3], items[5], record, items[-1]])
    assert until(lambda: run.counts() == (4, 2, 2, 0))
    ledger = until(lambda: [d["data"] for n, d in run.documents if n == "event" and "dropped" in d["data"]])
    assert (ledger[0]["received"], ledger[0]["dropped"]) == (4, 2)


def test_a_slow_model_under_latest_drops_and_the_ledger_adds_up(running, raw, tmp_path):
    stream = {"policy": Policy.LATEST, "queue_size": 4, "batch_size": 2}
    run = running(model=f"tiny-line:{tmp_path}/go", stream=stream)
    run.send(raw.raw_run(60))
    assert until(lambda: run.worker.status().counts.received == 60)
    (tmp_path / "go").touch()
    assert until(lambda: any(name == "stop" for name, _ in run.documents))
    received, reconstructed, dropped, failed = run.counts()
    assert received == 60 == reconstructed + dropped and dropped > 10 and failed == 0


def test_what_has_arrived_is_worked_off_before_the_end(running, raw, tmp_path):
    run = running(model=f"tiny-line:{tmp_path}/go", stream={"batch_size": 4})
    run.send(raw.raw_run(20))
    assert until(lambda: last_waiting(run.worker._queue) == "stop")
    run.worker.stop()
    (tmp_path / "go").touch()
    run.thread.join(240)
    assert until(lambda: any(name == "stop" for name, _ in run.documents))
    (stop,) = [doc for name, doc in run.documents if name == "stop"]
    assert stop["exit_status"] == "success" and [f.seq_num for f in run.frames] == list(range(1, 21))


def last_waiting(queue):
    """Name of the document that came last into a queue."""
    with queue._changed:
        return next(reversed(queue._items.values()), ("",))[0]


@pytest.mark.parametrize("twice", [False, True])
def test_the_end_comes_within_the_limit_and_what_was_left_is_in_the_ledger(running, raw, twice):
    drain = {"drain_s": 60.0} if twice else {"drain_s": 0.3}
    run = running(model="tiny-line:0.5", stream={"batch_size": 1}, **drain)
    run.send(raw.raw_run(60))
    assert until(lambda: run.worker.status().counts.received == 60)
    run.worker.stop()
    if twice:
        run.worker.stop()
    run.thread.join(240)
    assert until(lambda: any(name == "stop" for name, _ in run.documents))
    (stop,) = [doc for name, doc in run.documents if name == "stop"]
    assert stop["exit_status"] == "abort" and "shut down" in stop["reason"]
    (ledger,) = [d["data"] for n, d in run.documents if n == "event" and "dropped" in d["data"]]
    assert ledger["received"] == 60 == ledger["reconstructed"] + ledger["dropped"] and ledger["dropped"] > 40


def test_a_subscriber_that_never_reads_holds_nobody_up(running, raw):
    run = running(stream={"batch_size": 64})
    stuck = connect(run.context, zmq.SUB, run.settings.results, 1)
    assert stuck.poll(240_000)  # its first message is there, and stays
    for done in (400, 800, 1200, 1600):
        run.send(raw.raw_run(400))
        # who reads is at most as far behind as its socket can hold
        assert until(lambda n=done: run.counts() == (n, n, 0, 0) and len(run.frames) == n)
    stuck.close()


def test_what_nobody_asks_for_is_not_published(running, raw):
    run = running()
    speaker, topics = run.worker._speaker, (TOPIC_DOCUMENT, TOPIC_FRAME, TOPIC_OBJECT, TOPIC_PATTERN)
    assert until(lambda: [speaker.is_heard(topic) for topic in topics] == [True, True, False, False])
    patterns = []
    other = Listener(run.settings.results, on_pattern=patterns.append).start()
    assert until(lambda: speaker.is_heard(TOPIC_PATTERN))
    run.send(raw.raw_run(3))
    assert until(lambda: run.counts() == (3, 3, 0, 0) and len(run.frames) == 3 and patterns)
    other.close()
    assert until(lambda: not speaker.is_heard(TOPIC_PATTERN)) and speaker.is_heard(TOPIC_FRAME)
    run.listener.close()
    assert until(lambda: not any(speaker.is_heard(topic) for topic in topics))


@pytest.mark.parametrize(
    ("part", "name", "says"),
    [
        ("_voice", "percentiles", "saying or answering something failed: ZeroDivisionError"),
        ("_intake", "_take", "a message was not taken: ZeroDivisionError"),
    ],
)
def test_a_fault_that_nobody_foresaw_leaves_it_neither_mute_nor_deaf(
    running, raw, monkeypatch, caplog, part, name, says
):
    run, failed = running(), []

    def broken(*_):
        failed.append(1)
        return 1 / 0

    items = list(raw.raw_run(3))
    with monkeypatch.context() as patch:
        patch.setattr(getattr(run.worker, part), name, broken)
        run.send(items)
        assert until(lambda: failed)
        if part == "_intake":
            assert until(lambda: len(failed) == len(items))
    run.statuses.clear()
    assert until(lambda: run.statuses and says in run.statuses[-1].reason)
    assert says in run.ask(Verb.HEALTH).reason and "Traceback" in caplog.text
    run.send(raw.raw_run(5, seed=1))
    assert until(lambda: sum(name == "stop" for name, _ in run.documents) == (1 if part == "_intake" else 2))
    assert run.ask(Verb.RESET).reason == ""
    assert until(lambda: run.statuses[-1].reason == "")


def test_it_answers_while_it_computes(running, raw, tmp_path):
    run = running(model=f"tiny-line:{tmp_path}/go", stream={"batch_size": 1})
    run.send(raw.raw_run(3))
    assert until((tmp_path / "go.waiting").exists)
    assert run.ask(Verb.HEALTH).state is WorkerState.RUNNING and run.counts() == (3, 0, 0, 0)
    (tmp_path / "go").touch()
    assert until(lambda: run.counts() == (3, 3, 0, 0))


def test_documents_of_a_bluesky_proxy_are_taken(running, raw):
    from bluesky.callbacks.zmq import Proxy

    proxy = Proxy(in_address="tcp://127.0.0.1:0", out_address="tcp://127.0.0.1:0")
    thread = threading.Thread(target=proxy.start, daemon=True)
    thread.start()
    run = running(proxy=proxy.out_port)
    publisher = Publisher(proxy.in_port, prefix=b"sim", serializer=wire.pack)

    def one_came_whole():
        """Publish a run: of the first ones the proxy drops what comes while it connects."""
        for item in raw.raw_run(6):
            publisher(*item)
        return until(lambda: any(doc["exit_status"] == "success" for doc in stops(run)), 0.5)

    assert until(one_came_whole)
    assert run.counts()[1] >= 6
    publisher.close()


def stops(run):
    return [doc for name, doc in run.documents if name == "stop"]


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://*:5577",
        "tcp://0.0.0.0:5577",
        "tcp://192.168.1.2:1",
        "tcp://host:1",
        "udp://127.0.0.1:1",
        "5577",
        "tcp://127.0.0.1:99999",
        "ipc://",
    ],
)
def test_addresses_that_others_could_reach_are_refused(endpoint):
    with pytest.raises(TransportError, match="not on this machine"):
        check_local(endpoint)
    with pytest.raises(TransportError, match="not on this machine"):
        WorkerSettings(documents=endpoint)


def test_a_taken_endpoint_is_an_error_that_says_so(running, raw, tiny):
    run = running()
    with pytest.raises(TransportError, match="another worker"):
        Worker(run.settings, Outputs(raw.MemoryStore()), tiny.load)


def test_nobody_there_is_a_transport_error_in_time(tmp_path):
    with pytest.raises(TransportError, match="nfphasing serve"):
        ask(Verb.HEALTH, f"ipc://{tmp_path}/nobody", timeout_s=0.2)


def test_a_child_ends_politely_and_closes_its_runs(endpoints, raw, tiny_command, tmp_path):
    child = Child(WorkerSettings(model="tiny-line", **endpoints), tiny_command)
    try:
        assert until(lambda: _state(endpoints) is WorkerState.ON)
        assert is_alive(child.pid)
    finally:
        child.close(30)
    assert not child.running and not is_alive(child.pid) and child._process.returncode == 0


def test_a_child_ends_when_its_parent_is_killed(endpoints, tiny_command):
    code = (
        "import sys, time\n"
        "from nfphasing_bluesky.streaming.child import Child\n"
        "from nfphasing_bluesky.streaming.settings import WorkerSettings\n"
        f"child = Child(WorkerSettings(model='tiny-line', **{endpoints!r}), {tiny_command!r})\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(900)\n"
    )
    parent = subprocess.Popen([tiny_command[0], "-c", code], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    try:
        assert until(lambda: _state(endpoints) is WorkerState.ON)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert until(lambda: not is_alive(pid))
    finally:
        parent.stdout.close()
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)


def _state(endpoints):
    try:
        return ask(Verb.HEALTH, endpoints["control"], timeout_s=0.3).state
    except TransportError:
        return None
