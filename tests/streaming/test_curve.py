"""Addresses that other machines reach: with CURVE keys or not at all."""

import contextlib
import logging
import shutil
import socket as sockets
import stat
import threading

import pytest
import zmq

from nfphasing_bluesky.core import StreamSettings, TransportError
from nfphasing_bluesky.streaming import wire
from nfphasing_bluesky.streaming.client import Listener, ask, ask_with_keys
from nfphasing_bluesky.streaming.curve import CurveSettings, client_keys, make_keys, server_keys
from nfphasing_bluesky.streaming.doorman import Doorman
from nfphasing_bluesky.streaming.endpoints import bind, check_endpoint, connect
from nfphasing_bluesky.streaming.outputs import Outputs
from nfphasing_bluesky.streaming.protocol import Verb, WorkerState
from nfphasing_bluesky.streaming.settings import WorkerSettings
from nfphasing_bluesky.streaming.worker import Worker
from tests.waiting import free_port, until


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Folder of keys for a worker and its client alice, and of another worker with mallory."""
    folder = tmp_path_factory.mktemp("keys")
    make_keys(folder / "ours", ("alice",))
    make_keys(folder / "theirs", ("mallory",))
    return folder


@pytest.fixture
def public(keys, raw, tiny):
    """A worker on all interfaces, with keys; returns its settings and addresses to connect to."""
    ports = {name: free_port() for name in ("documents", "results", "control")}
    curve = CurveSettings(secret=keys / "ours/worker.key_secret", clients=keys / "ours/clients")
    settings = WorkerSettings(
        model="tiny-line",
        stream=StreamSettings(data_key="det"),
        curve=curve,
        heartbeat_s=0.05,
        **{name: f"tcp://0.0.0.0:{port}" for name, port in ports.items()},
    )
    worker = Worker(settings, Outputs(raw.MemoryStore()), tiny.load)
    thread = threading.Thread(target=worker.run)
    thread.start()
    yield {name: f"tcp://127.0.0.1:{port}" for name, port in ports.items()}
    worker.stop()
    thread.join(120)
    assert not thread.is_alive()


def test_a_client_with_a_key_gets_everything_and_others_nothing(public, keys, raw, caplog):
    alice = client_keys(keys / "ours/alice.key_secret", keys / "ours/worker.key")
    mallory = client_keys(keys / "theirs/mallory.key_secret", keys / "ours/worker.key")
    wrong = client_keys(keys / "ours/alice.key_secret", keys / "theirs/worker.key")
    assert until(lambda: ask_with_keys(Verb.HEALTH, public["control"], alice, 60.0).state is WorkerState.ON)
    frames = []
    listener = Listener(public["results"], on_frame=frames.append, keys=alice).start()
    context = zmq.Context()
    push = connect(context, zmq.PUSH, public["documents"], keys=alice)
    try:
        assert until(lambda: listener.silence_s < 1)
        for item in raw.raw_run(4):
            push.send(wire.pack_document(*item))
        assert until(lambda: len(frames) == 4)
    finally:
        listener.close()
        context.destroy(linger=0)
    for strangers in (mallory, wrong):
        with pytest.raises(TransportError, match="refused the connection: it asks for CURVE keys"):
            ask_with_keys(Verb.HEALTH, public["control"], strangers, 60.0)
    with pytest.raises(TransportError, match="CURVE keys"):
        ask(Verb.HEALTH, public["control"], 60.0)
    with caplog.at_level(logging.WARNING):
        assert until(lambda: "a peer was turned away" in caplog.text)
    assert "not among those that may connect" in caplog.text
    secret = alice.secret.decode()
    assert secret not in caplog.text and secret not in repr(alice)


@pytest.fixture
def strangers(keys):
    """Keys that a worker does not let in: an unknown client's, those of another worker, and none."""
    alice, mallory = keys / "ours/alice.key_secret", keys / "theirs/mallory.key_secret"
    return {
        "unknown client": client_keys(mallory, keys / "ours/worker.key"),
        "wrong server key": client_keys(alice, keys / "theirs/worker.key"),
        "no key": None,
    }


@pytest.mark.parametrize("who", ["unknown client", "wrong server key", "no key"])
def test_what_a_stranger_sends_is_not_received_and_nothing_is_heard(public, keys, strangers, who, raw):
    alice = client_keys(keys / "ours/alice.key_secret", keys / "ours/worker.key")

    def status():
        return ask_with_keys(Verb.HEALTH, public["control"], alice, 60.0)

    assert until(lambda: status().state is WorkerState.ON)
    received, refused = status().counts.received, status().statistics["peers_refused"]
    heard = []
    listener = Listener(public["results"], heard.append, heard.append, keys=strangers[who]).start()
    with zmq.Context() as context:
        push = connect(context, zmq.PUSH, public["documents"], keys=strangers[who])
        for item in raw.raw_run(3):
            # it waits in the sender, or there is no room for it once the worker has refused
            with contextlib.suppress(zmq.Again):
                push.send(wire.pack_document(*item), zmq.NOBLOCK)
        # both sockets were turned away
        assert until(lambda: status().statistics["peers_refused"] >= refused + 2, 60)
        good = connect(context, zmq.PUSH, public["documents"], keys=alice)
        for item in raw.raw_run(4, seed=1):
            good.send(wire.pack_document(*item))
        assert until(lambda: status().counts.reconstructed == received + 4)
        assert status().counts.received == received + 4
        assert heard == [] and listener.silence_s == float("inf")
        push.close(0)
        good.close(0)
    listener.close()


@pytest.fixture
def proxy(keys, tmp_path):
    """A proxy that asks for CURVE keys and knows the worker's; gives who guards it, and its endpoints."""
    make_keys(tmp_path / "proxy", ("publisher",))
    ports = [free_port() for _ in range(2)]
    clients = tmp_path / "proxy/clients"
    shutil.copy(keys / "ours/worker.key", clients)
    own = server_keys(CurveSettings(secret=tmp_path / "proxy/worker.key_secret", clients=clients))
    context = zmq.Context()
    doorman = Doorman(context, own)
    inward, outward = (
        bind(context, kind, f"tcp://0.0.0.0:{port}", doorman=doorman)
        for kind, port in zip((zmq.XSUB, zmq.XPUB), ports, strict=True)
    )
    doorman.start()
    thread = threading.Thread(target=_pass_on, args=(inward, outward, stop := threading.Event()))
    thread.start()
    yield doorman, *(f"tcp://127.0.0.1:{port}" for port in ports)
    stop.set()
    thread.join(60)
    doorman.close()
    context.destroy(linger=0)


def _pass_on(inward, outward, stop):
    while not stop.is_set():
        for come, go in ((inward, outward), (outward, inward)):
            while come.poll(10):
                go.send_multipart(come.recv_multipart())


@pytest.mark.parametrize("known", [True, False])
def test_documents_come_through_a_proxy_that_asks_for_keys(known, proxy, keys, raw, tiny, tmp_path):
    """`[curve] proxy` is its public key; with another one nothing comes, and the worker goes on."""
    guard, inward, outward = proxy
    server = tmp_path / "proxy/worker.key" if known else keys / "theirs/worker.key"
    curve = CurveSettings(secret=keys / "ours/worker.key_secret", clients=keys / "ours/clients", proxy=server)
    settings = WorkerSettings(
        model="tiny-line",
        stream=StreamSettings(data_key="det"),
        curve=curve,
        proxy=outward,
        **{name: f"ipc://{tmp_path}/{name}" for name in ("documents", "results", "control")},
    )
    worker = Worker(settings, Outputs(raw.MemoryStore()), tiny.load)
    thread = threading.Thread(target=worker.run)
    thread.start()
    assert known or until(lambda: guard.refused)
    publisher = client_keys(tmp_path / "proxy/publisher.key_secret", tmp_path / "proxy/worker.key")
    try:
        with zmq.Context() as context:
            pub = connect(context, zmq.PUB, inward, keys=publisher)
            push = connect(context, zmq.PUSH, settings.documents)
            if known:
                # a publisher does not know when somebody hears it: it says the same run until it is heard
                items = [wire.pack_document(*item) for item in raw.raw_run(2)]

                def say():
                    for item in items:
                        pub.send(item)
                    return until(lambda: worker.status().counts.reconstructed, 0.5)

                assert until(say)
            for item in raw.raw_run(3, seed=1):
                if not known:
                    pub.send(wire.pack_document("start", {"uid": "x", "time": 0.0}))
                push.send(wire.pack_document(*item))
            done = 2 if known else 0
            assert until(lambda: worker.status().counts.reconstructed >= 3 + done), worker.status()
            assert known or worker.status().counts.received == 3
            pub.close(0)
            push.close(0)
    finally:
        worker.stop()
        thread.join(120)


def test_a_key_that_is_added_later_is_let_in(public, keys):
    make_keys(keys / "ours", ("bob",))
    bob = client_keys(keys / "ours/bob.key_secret", keys / "ours/worker.key")

    def let_in():
        try:
            return ask_with_keys(Verb.HEALTH, public["control"], bob, 1.0)
        except TransportError:
            return None

    try:
        assert until(let_in)
    finally:
        (keys / "ours/clients/bob.key").unlink()
        (keys / "ours/bob.key_secret").unlink()


def test_keys_are_their_owners_alone_and_made_once(tmp_path):
    written = make_keys(tmp_path / "keys", ("alice", "bl-11"))
    assert {path.name for path in written} == {
        "worker.key", "worker.key_secret", "alice.key", "alice.key_secret", "bl-11.key", "bl-11.key_secret",
    }  # fmt: skip
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in written)
    assert make_keys(tmp_path / "keys", ("alice",)) == []
    for name in ("../eve", "a/b", "", "worker"):
        with pytest.raises(TransportError, match="client name"):
            make_keys(tmp_path / "keys", (name,))


def test_keys_that_will_not_do_are_named(tmp_path):
    make_keys(tmp_path, ("alice",))
    secret, clients = tmp_path / "worker.key_secret", tmp_path / "clients"
    with pytest.raises(TransportError, match="no CURVE key"):
        server_keys(CurveSettings(secret=tmp_path / "none", clients=clients))
    with pytest.raises(TransportError, match="no secret key"):
        server_keys(CurveSettings(secret=tmp_path / "worker.key", clients=clients))
    with pytest.raises(TransportError, match="no folder"):
        server_keys(CurveSettings(secret=secret, clients=tmp_path / "none"))
    secret.chmod(0o640)
    with pytest.raises(TransportError, match="read by others"):
        server_keys(CurveSettings(secret=secret, clients=clients))


@pytest.mark.parametrize(
    "endpoint", ["tcp://*:5577", "tcp://0.0.0.0:5577", "tcp://192.168.1.2:1", "ipc:///x"]
)
def test_with_keys_any_address_will_do(endpoint, tmp_path):
    assert check_endpoint(endpoint, encrypted=True) == endpoint
    curve = {"secret": tmp_path / "k", "clients": tmp_path}
    assert WorkerSettings(documents=endpoint, curve=curve).documents == endpoint
    if not endpoint.startswith("ipc"):
        with pytest.raises(TransportError, match="nfphasing keys"):
            WorkerSettings(proxy=endpoint, curve=curve)


@pytest.mark.parametrize(
    "endpoint", ["udp://1.2.3.4:5", "tcp://host", "tcp://host:port", "tcp://:5577", "5577"]
)
def test_what_is_no_address_is_refused_with_keys_too(endpoint):
    with pytest.raises(TransportError, match="expected tcp"):
        check_endpoint(endpoint, encrypted=True)


def greeting_and_ready() -> bytes:
    """What a ZMTP 3.0 PUSH peer without security says first."""
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
    ready = b"\x05READY\x0bSocket-Type" + (4).to_bytes(4, "big") + b"PUSH"
    return greeting + b"\x04" + bytes([len(ready)]) + ready


def test_a_message_of_two_gigabytes_is_refused_by_its_size_before_it_comes(raw, tiny, tmp_path):
    """The peer announces it on a raw socket; the worker hangs up and allocates nothing."""
    port = free_port()
    settings = WorkerSettings(
        model="tiny-line",
        stream=StreamSettings(data_key="det"),
        documents=f"tcp://127.0.0.1:{port}",
        results=f"ipc://{tmp_path}/results",
        control=f"ipc://{tmp_path}/control",
    )
    worker = Worker(settings, Outputs(raw.MemoryStore()), tiny.load)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        with sockets.create_connection(("127.0.0.1", port), timeout=240) as peer:
            peer.sendall(greeting_and_ready())
            received = b""
            while b"READY" not in received:
                received += peer.recv(4096)
            peer.sendall(b"\x02" + (2 * 1024**3).to_bytes(8, "big") + b" event ")
            assert until(lambda: _receive(peer) == b"")
        assert until(lambda: worker.status().state is WorkerState.ON)
        with zmq.Context() as context:
            push = connect(context, zmq.PUSH, settings.documents)
            for item in raw.raw_run(2):
                push.send(wire.pack_document(*item))
            assert until(lambda: worker.status().counts.reconstructed == 2)
            push.close()
    finally:
        worker.stop()
        thread.join(120)


def _receive(peer):
    try:
        return peer.recv(4096)
    except ConnectionResetError:
        return b""
