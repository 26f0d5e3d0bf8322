"""A catalog that fails: nothing is raised, nothing is lost, and replaying twice is harmless."""

import json
import resource
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from nfphasing_bluesky.core import StorageError
from nfphasing_bluesky.storage.backup import replay_backup
from nfphasing_bluesky.storage.catalogs import close_catalog, open_catalog
from nfphasing_bluesky.storage.hdf5 import DerivedFiles
from nfphasing_bluesky.storage.journal import Journal, read_journal
from nfphasing_bluesky.storage.queries import density_dataset, reconstructions_of
from nfphasing_bluesky.storage.sink import CatalogSink
from tests.storage.tiled_server import KEY, PROFILES, tiled_server
from tests.waiting import until


class BrokenCatalog:
    """A catalog whose every use fails, as when the server is gone from the start."""

    specs = ()
    uri = "http://gone"

    def __getitem__(self, key):
        raise ConnectionError("connection refused")


def test_a_catalog_that_is_gone(tmp_path, catalog, catalog_folder, experiment, caplog):
    made = experiment(3)
    sink = CatalogSink(BrokenCatalog(), tmp_path / "backup")
    run = made.derive(sink, DerivedFiles(catalog_folder / "derived"))
    assert sink.close()
    (backup,) = (tmp_path / "backup").iterdir()
    assert backup.name == f"{run.uid}.jsonl" and "connection refused" in sink.problems[0]
    names = [name for name, _ in read_journal(backup)]
    assert names[0] == "start" and names[-1] == "stop" and "event_page" in names
    assert reconstructions_of(catalog, made.raw.uid) == []

    assert [entry.outcome for entry in replay_backup(tmp_path / "backup", catalog, keep=True)] == ["stored"]
    assert [entry.outcome for entry in replay_backup(tmp_path / "backup", catalog)] == ["present"]
    assert list((tmp_path / "backup").iterdir()) == []
    (stored,) = reconstructions_of(catalog, made.raw.uid)
    np.testing.assert_array_equal(density_dataset(stored)["density_mean"], [p.mean for p in made.posteriors])


def test_a_catalog_that_fails_in_the_middle(
    tmp_path, catalog, catalog_folder, experiment, monkeypatch, caplog
):
    """The half-written run in the catalog is replaced by the whole one."""
    from bluesky_tiled_plugins.writing.tiled_writer import _RunWriter

    made = experiment(3)
    sink = CatalogSink(catalog, tmp_path / "backup")
    original = _RunWriter.stop

    def full(self, doc):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_RunWriter, "stop", full)
    run = made.derive(sink, DerivedFiles(catalog_folder / "derived"))
    assert sink.close()
    monkeypatch.setattr(_RunWriter, "stop", original)
    assert "No space left" in sink.problems[0]
    (half,) = reconstructions_of(catalog, made.raw.uid)
    assert "stop" not in half.metadata
    assert [entry.outcome for entry in replay_backup(tmp_path / "backup", catalog)] == ["stored"]
    (whole,) = reconstructions_of(catalog, made.raw.uid)
    assert whole.metadata["start"]["uid"] == run.uid and whole.metadata["stop"]["num_events"]["density"] == 3
    assert density_dataset(whole).sizes["time"] == 3


@pytest.mark.parametrize("failures", [1, 3])
def test_a_catalog_that_is_locked_for_a_while_gets_the_run_at_its_end(
    tmp_path, catalog, catalog_folder, experiment, monkeypatch, caplog, failures
):
    """As when the writer of the raw run holds the lock of the database for too long."""
    from bluesky_tiled_plugins.writing.tiled_writer import _RunWriter

    made = experiment(3)
    sink = CatalogSink(catalog, tmp_path / "backup")
    original, calls = _RunWriter.descriptor, []

    def locked(self, doc):
        calls.append(doc["uid"])
        if len(calls) <= failures:
            raise RuntimeError("database is locked")
        original(self, doc)

    monkeypatch.setattr(_RunWriter, "descriptor", locked)
    run = made.derive(sink, DerivedFiles(catalog_folder / "derived"))
    assert sink.close()
    assert sink.problems == () and list((tmp_path / "backup").iterdir()) == []
    (whole,) = reconstructions_of(catalog, made.raw.uid)
    assert whole.metadata["start"]["uid"] == run.uid and whole.metadata["stop"]["exit_status"] == "success"
    np.testing.assert_array_equal(density_dataset(whole)["density_mean"], [p.mean for p in made.posteriors])
    assert f"at attempt {failures + 1}" in caplog.text


@pytest.mark.parametrize("most_waiting", [100_000, 5])
def test_a_catalog_that_does_not_answer_holds_nobody_up(
    tmp_path, catalog, catalog_folder, experiment, most_waiting, caplog
):
    """Not even memory: where too many documents wait the run comes whole from its backup file."""
    asked, go = threading.Event(), threading.Event()

    class Silent:
        specs, uri = (), "http://silent"

        def __getitem__(self, key):
            asked.set()
            go.wait()
            return catalog[key]

    made, sink = experiment(2), CatalogSink(Silent(), tmp_path / "backup", most_waiting=most_waiting)
    made.derive(sink, DerivedFiles(catalog_folder / "derived"))
    assert asked.wait(240) and reconstructions_of(catalog, made.raw.uid) == []
    slow = sink.waiting <= most_waiting + 1 < 10
    go.set()
    assert sink.close(240) and sink.problems == ()
    (stored,) = reconstructions_of(catalog, made.raw.uid)
    np.testing.assert_array_equal(density_dataset(stored)["density_mean"], [p.mean for p in made.posteriors])
    assert stored.metadata["stop"]["exit_status"] == "success"
    assert list((tmp_path / "backup").iterdir()) == []
    assert slow == (most_waiting == 5) == ("the catalog is slow" in caplog.text)


def test_two_runs_at_once(tmp_path, catalog, catalog_folder, experiment):
    from nfphasing_bluesky.documents.derived import DerivedRun

    one, two = experiment(2), experiment(2)
    sink, store = CatalogSink(catalog, tmp_path / "backup"), DerivedFiles(catalog_folder / "derived")
    runs = [
        DerivedRun(made.start, made.reconstructor.info, made.reconstructor.settings, sink, store)
        for made in (one, two)
    ]
    for _ in range(2):
        runs[0].add(one.posteriors)
        runs[1].add(two.posteriors)
    for run in runs:
        run.close()
    assert sink.close() and sink.problems == ()
    for made in (one, two):
        (stored,) = reconstructions_of(catalog, made.raw.uid)
        assert density_dataset(stored).sizes["time"] == 4


def test_a_process_that_dies_leaves_a_backup_that_is_closed_honestly(tmp_path, catalog, experiment):
    made = experiment(3)
    documents = []
    made.derive(lambda name, doc: documents.append((name, doc)), DerivedFiles(tmp_path / "derived"))
    journal = Journal(tmp_path / "backup", documents[0][1]["uid"])
    for name, doc in documents:
        if name in ("start", "descriptor", "event_page"):
            journal.write(name, doc)
    assert journal.close()
    with journal.path.open("a") as file:
        file.write('{"name": "stop", "doc": {"uid": "half a li')
    assert [entry.outcome for entry in replay_backup(tmp_path / "backup", catalog)] == ["stored"]
    (stored,) = reconstructions_of(catalog, made.raw.uid)
    stop = stored.metadata["stop"]
    assert stop["exit_status"] == "abort"
    assert "ended before" in stop["reason"] and "3 frames, the last is 3" in stop["reason"]
    assert f"nfphasing replay {made.raw.uid} --missing" in stop["reason"]
    ledger = stored["ledger"].read()
    assert [int(ledger[name][0]) for name in ("received", "reconstructed", "failed", "lost")] == [3, 3, 0, 0]


def test_a_run_that_is_being_written_is_left_to_its_writer(tmp_path, catalog, experiment):
    made = experiment(2)
    documents = []
    made.derive(lambda name, doc: documents.append((name, doc)), DerivedFiles(tmp_path / "derived"))
    journal = Journal(tmp_path / "backup", documents[0][1]["uid"])
    for name, doc in documents[:-1]:
        journal.write(name, doc)
    assert [entry.outcome for entry in replay_backup(tmp_path / "backup", catalog)] == ["in use"]
    journal.write(*documents[-1])
    assert journal.close()
    assert [entry.outcome for entry in replay_backup(tmp_path / "backup", catalog)] == ["stored"]
    (stored,) = reconstructions_of(catalog, made.raw.uid)
    assert stored.metadata["stop"]["exit_status"] == "success"


@pytest.mark.parametrize("how", ["idle", "next run", "next process"])
def test_a_catalog_that_comes_back_gets_what_it_missed(tmp_path, catalog, catalog_folder, experiment, how):
    """As a server that is away for a minute: it gets the run by itself, nobody replays anything."""

    class Away:
        specs, uri, away = (), "http://away", True

        def __getitem__(self, key):
            if self.away:
                raise ConnectionError("connection refused")
            return catalog[key]

    missed, later = experiment(2), experiment(2)
    away, files = Away(), DerivedFiles(catalog_folder / "derived")
    sink = CatalogSink(away, tmp_path / "backup", retry_s=0.05 if how == "idle" else 60)
    missed.derive(sink, files)
    assert sink.flush(240) and "connection refused" in sink.problems[0]
    away.away = False
    if how == "next run":
        later.derive(sink, files)
    elif how == "next process":
        assert sink.close()
        sink = CatalogSink(away, tmp_path / "backup")
        sink.recover()
    assert until(lambda: sink.flush(240) and not sink.problems)
    assert sink.close() and sink.problems == ()
    assert list((tmp_path / "backup").iterdir()) == []
    (stored,) = reconstructions_of(catalog, missed.raw.uid)
    assert stored.metadata["stop"]["exit_status"] == "success"


def test_damaged_backups_do_not_stop_the_others(tmp_path, catalog, experiment, caplog):
    made = experiment(2)
    documents = []
    made.derive(lambda name, doc: documents.append((name, doc)), DerivedFiles(tmp_path / "derived"))
    folder = tmp_path / "backup"
    journal = Journal(folder, documents[0][1]["uid"])
    for name, doc in documents:
        if name not in ("stream_resource", "stream_datum"):
            journal.write(name, doc)
    journal.close()
    (folder / "00-bad.jsonl").write_text("not json\n{}\n")
    (folder / "01-headless.jsonl").write_text(json.dumps({"name": "stop", "doc": {}}) + "\n")
    outcomes = {entry.path.name: entry.outcome for entry in replay_backup(folder, catalog)}
    assert outcomes["00-bad.jsonl"].startswith("failed: ") and "line 1" in outcomes["00-bad.jsonl"]
    assert "does not begin with a start" in outcomes["01-headless.jsonl"]
    assert outcomes[journal.path.name] == "stored"
    assert sorted(path.name for path in folder.iterdir()) == ["00-bad.jsonl", "01-headless.jsonl"]


_FULL = """
import resource, sys
from pathlib import Path
from nfphasing_bluesky.storage.journal import Journal
journal = Journal(Path(sys.argv[1]), "a-run")
journal.write("start", {"uid": "a-run", "time": 0.0})
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (400, hard))
for number in range(20):
    journal.write("event", {"seq_num": number, "pad": "x" * 50})
print(journal.sync())
if sys.argv[2] == "freed":
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
print(journal.close())
"""


_LONG_FULL = """
import resource, sys
from pathlib import Path
from nfphasing_bluesky.storage.journal import Journal
journal, most = Journal(Path(sys.argv[1]), "a-run"), 0
journal.write("start", {"uid": "a-run", "time": 0.0})
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
for number in range(400):
    journal.write("event", {"seq_num": number, "pad": "x" * 100_000})
    most = max(most, sum(map(len, journal._unwritten)))
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
journal.write("event", {"seq_num": 400})
assert not journal.close()
print(most, len(journal._unwritten))
"""


@pytest.mark.parametrize("later", ["freed", "full"])
def test_a_backup_disk_that_is_full(tmp_path, later):
    """Whole lines only; what did not fit is written when there is room again."""
    done = subprocess.run(
        [sys.executable, "-c", _FULL, str(tmp_path), later], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False", "True" if later == "freed" else "False"]
    documents = list(read_journal(tmp_path / "a-run.jsonl"))
    numbers = [doc["seq_num"] for name, doc in documents if name == "event"]
    assert numbers == list(range(20)) if later == "freed" else 0 < len(numbers) < 20
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_backup_disk_that_stays_full_takes_bounded_memory_and_few_lines(tmp_path):
    """After 16 MB the journal is given up; what it has is the beginning of the run."""
    done = subprocess.run(
        [sys.executable, "-c", _LONG_FULL, str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    most, freed = map(int, done.stdout.split())
    assert 2**24 - 2**17 < most < 2**24 + 2**17 and freed == 0
    assert done.stderr.count("wait in memory") < 20 and "in the catalog alone" in done.stderr
    documents = list(read_journal(tmp_path / "a-run.jsonl"))
    numbers = [doc["seq_num"] for name, doc in documents if name == "event"]
    assert numbers == list(range(len(numbers))) and len(numbers) < 20


def test_documents_that_are_none(tmp_path, catalog, caplog):
    sink = CatalogSink(catalog, tmp_path)
    sink("start", {"uid": "odd", "time": 0.0, "what": object()})
    sink("event", {"descriptor": "never-seen"})
    sink("start", {})
    assert sink.close()
    assert len(sink.problems) == 2 and "object in a document" in sink.problems[0]


def test_unreadable_backup(tmp_path):
    with pytest.raises(StorageError, match="cannot be read"):
        list(read_journal(tmp_path / "nothing.jsonl"))


@pytest.fixture
def server(tmp_path):
    with tiled_server(tmp_path) as served:
        yield served


@pytest.fixture
def impatient(monkeypatch):
    """Do not let tiled's client try for 45 s to reach a server that is dead."""
    monkeypatch.setattr("tiled.client.utils.TILED_RETRY_ATTEMPTS", 2)
    monkeypatch.setattr("tiled.client.utils.TILED_RETRY_TIMEOUT", 1.0)


@pytest.mark.slow
def test_a_server_that_is_killed_in_the_middle_of_a_run(
    server, impatient, tmp_path, catalog, experiment, monkeypatch, caplog
):
    from nfphasing_bluesky.documents.derived import DerivedRun

    uri, process = server
    monkeypatch.setenv("TILED_API_KEY", KEY)
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "client.yml").write_text((PROFILES / "client.yml").read_text())
    monkeypatch.setenv("NFPHASING_TILED_URI", uri)
    monkeypatch.setattr("tiled.profiles.paths", [tmp_path / "profiles"])
    client = open_catalog("nfphasing-server")
    whole, cut = experiment(3), experiment(3)
    sink, store = CatalogSink(client, tmp_path / "backup", batch=1), DerivedFiles(tmp_path / "derived")
    whole.derive(sink, store)
    assert sink.flush(240)
    (stored,) = reconstructions_of(open_catalog(uri), whole.raw.uid)
    np.testing.assert_array_equal(density_dataset(stored)["density_mean"], [p.mean for p in whole.posteriors])

    run = DerivedRun(cut.start, cut.reconstructor.info, cut.reconstructor.settings, sink, store)
    run.add(cut.posteriors)
    assert sink.flush(240) and sink.problems == ()
    process.send_signal(signal.SIGKILL)
    process.wait()
    run.add(cut.posteriors)
    run.close()
    assert sink.close(240)
    assert len(sink.problems) == 1 and run.uid in sink.problems[0]
    assert [path.stem for path in (tmp_path / "backup").iterdir()] == [run.uid]
    assert len(list(read_journal(tmp_path / "backup" / f"{run.uid}.jsonl"))) == 13
    close_catalog(client)
    with pytest.raises(StorageError, match="cannot be opened"):
        open_catalog(uri)
