"""Embedded catalogs, what is found in them again, and who else can look."""

import subprocess
import sys

import numpy as np
import pytest
import xarray

from nfphasing_bluesky.core import StorageError
from nfphasing_bluesky.core.secrets import redacted
from nfphasing_bluesky.storage.catalogs import embedded_catalog, open_catalog, runs_of
from nfphasing_bluesky.storage.hdf5 import DerivedFiles
from nfphasing_bluesky.storage.queries import density_dataset, raw_of, reconstructions_of
from nfphasing_bluesky.storage.sink import CatalogSink


@pytest.fixture(scope="module")
def stored(catalog, catalog_folder, tmp_path_factory, experiment):
    """A raw run in `raw`, two reconstructions in `processed`."""
    backup = tmp_path_factory.mktemp("backup")
    made = experiment(5, sample="lysozyme")
    raws = CatalogSink(catalog, backup, container="raw", normalize=True)
    for name, doc in made.raw.documents:
        if name == "event":
            doc = {**doc, "data": {key: np.asarray(value).tolist() for key, value in doc["data"].items()}}
        raws(name, doc)
    sink = CatalogSink(catalog, backup)
    store = DerivedFiles(catalog_folder / "derived")
    made.runs = [made.derive(sink, store), made.derive(sink, store, store_samples=True)]
    assert raws.close() and sink.close()
    assert sink.problems == raws.problems == ()
    assert list(backup.iterdir()) == []
    return made


def test_raw_and_derived_find_each_other(catalog, stored):
    found = reconstructions_of(catalog, stored.raw.uid)
    assert [run.metadata["start"]["uid"] for run in found] == [run.uid for run in stored.runs]
    assert raw_of(catalog, stored.runs[1].uid).metadata["start"]["sample"] == "lysozyme"
    assert reconstructions_of(catalog, "no-such-run") == []
    with pytest.raises(StorageError, match="no derived run"):
        raw_of(catalog, stored.raw.uid)


def test_spec_ledger_and_stop(catalog, stored):
    run = reconstructions_of(catalog, stored.raw.uid)[0]
    assert ("NFPhasingRun", "1.0") in [(spec.name, spec.version) for spec in run.specs]
    assert run.metadata["stop"]["exit_status"] == "success"
    ledger = run["ledger"].read()
    assert int(ledger["received"][0]) == int(ledger["reconstructed"][0]) == 5


def test_arrays_come_back_as_xarray_with_dims_axes_and_units(catalog, stored):
    plain = reconstructions_of(catalog, stored.raw.uid)[0]["density"].read()
    assert plain["density_mean"].dims == ("time", "r")
    dataset = density_dataset(reconstructions_of(catalog, stored.raw.uid)[1])
    assert isinstance(dataset, xarray.Dataset)
    assert dataset["density_samples"].dims == ("time", "draw", "r")
    np.testing.assert_array_equal(dataset["density_mean"], [p.mean for p in stored.posteriors])
    np.testing.assert_allclose(dataset["density_samples"], [p.samples for p in stored.posteriors], rtol=1e-6)
    axis = stored.posteriors[0].density.axes[0]
    np.testing.assert_array_equal(dataset["r"], axis.values)
    assert dataset["r"].attrs["units"] == "angstrom" and dataset["density_std"].attrs["units"] == "1/angstrom"
    assert dataset["rg_angstrom"].attrs["units"] == "angstrom" and dataset.attrs["quantity"] == "p(r)"
    medians = [np.median(p.parameters["rg_angstrom"]) for p in stored.posteriors]
    np.testing.assert_array_equal(dataset["rg_angstrom"], medians)
    assert dataset["ess_fraction"].dtype == np.float64 and np.isnan(dataset["ess_fraction"]).all()
    assert list(dataset["verdict"].values) == ["VALID"] * 5
    assert dataset["raw_seq_num"].values.tolist() == [1, 2, 3, 4, 5]


def test_documents_can_be_replayed_from_the_catalog(catalog, stored):
    run = reconstructions_of(catalog, stored.raw.uid)[0]
    documents = list(run.documents())
    assert documents[0][0] == "start" and documents[-1][0] == "stop"
    events = [doc for name, doc in documents if name == "event" and "rg_angstrom" in doc["data"]]
    assert [event["seq_num"] for event in events] == [1, 2, 3, 4, 5]


@pytest.fixture
def legacy_clients(catalog):
    """`Broker` switches every client of this process to version 2; switched back for the tests after."""
    yield
    assert catalog["processed"].v3 is not None


@pytest.mark.filterwarnings("ignore::DeprecationWarning:databroker", "ignore::FutureWarning:databroker")
@pytest.mark.usefixtures("legacy_clients")
def test_legacy_broker_shows_the_same_run(catalog, stored):
    from databroker import Broker

    broker = Broker(catalog["processed"])
    header = broker[stored.runs[0].uid]
    assert header.start["original_run_uid"] == stored.raw.uid
    table = header.table("density")
    medians = [np.median(p.parameters["rg_angstrom"]) for p in stored.posteriors]
    np.testing.assert_array_equal(table["rg_angstrom"], medians)
    assert sorted(header.stream_names) == ["density", "ledger"]
    np.testing.assert_array_equal(
        list(header.data("density_mean", stream_name="density")), [p.mean for p in stored.posteriors]
    )
    assert header.xarray("density")["density_mean"].dims == ("time", "r")
    (found,) = broker(original_run_uid=stored.raw.uid, uid=stored.runs[0].uid)
    assert found.start["uid"] == stored.runs[0].uid and found.stop["exit_status"] == "success"
    assert [name for name, _ in header.documents()][0] == "start"

    run = reconstructions_of(catalog, stored.raw.uid)[0]
    assert np.asarray(run["density"]["rg_angstrom"].read()).tolist() == medians, "the legacy view is catching"


_PROFILE = """
import sys, warnings
warnings.filterwarnings("ignore")
import databroker, numpy
run = databroker.catalog["nfphasing"]["processed"][sys.argv[1]]
print(run.metadata["start"]["original_run_uid"], numpy.asarray(run["density"].read()["rg_angstrom"]).tolist())
"""


@pytest.mark.slow
def test_another_process_reads_it_through_a_tiled_profile(catalog, catalog_folder, stored, tmp_path):
    """`from databroker import catalog` in a second process, while this one has the catalog open."""
    import os
    from pathlib import Path

    text = (Path(__file__).parents[2] / "profiles" / "tiled" / "embedded.yml").read_text()
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "embedded.yml").write_text(text)
    environment = {
        **os.environ,
        "TILED_PROFILES": str(tmp_path / "profiles"),
        "NFPHASING_CATALOG": str(catalog_folder),
    }
    done = subprocess.run(
        [sys.executable, "-c", _PROFILE, stored.runs[0].uid],
        env=environment,
        capture_output=True,
        text=True,
        timeout=290,
    )
    assert done.returncode == 0, done.stderr
    medians = [float(np.median(p.parameters["rg_angstrom"])) for p in stored.posteriors]
    assert done.stdout.split(maxsplit=1) == [stored.raw.uid, f"{medians}\n"]


def test_opening_again_finds_what_was_there(catalog_folder, catalog, stored):
    again = open_catalog(catalog_folder)
    assert len(reconstructions_of(again, stored.raw.uid)) == 2


def test_a_folder_that_cannot_be_one(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StorageError, match="cannot be opened"):
        embedded_catalog(tmp_path / "file")


def test_reading_makes_no_catalog_where_there_is_none(tmp_path):
    with pytest.raises(StorageError, match=r"no catalog in .*misspelt: catalog.db is not there"):
        open_catalog(tmp_path / "misspelt", make=False)
    assert not (tmp_path / "misspelt").exists()


def test_runs_of_takes_the_catalog_or_its_part(catalog):
    assert runs_of(catalog, "processed").uri == runs_of(catalog["processed"], "processed").uri
    with pytest.raises(StorageError, match="no container 'elsewhere'"):
        runs_of(catalog, "elsewhere")


def test_failed_frames_are_found_again(catalog, catalog_folder, tmp_path, experiment):
    made = experiment(3)
    sink = CatalogSink(catalog, tmp_path / "backup")
    made.posteriors[1] = made.failing("all points are masked")
    made.derive(sink, DerivedFiles(catalog_folder / "derived"), exit_status="abort")
    assert sink.close()
    run = reconstructions_of(catalog, made.raw.uid)[0]
    dataset = density_dataset(run)
    assert dataset["verdict"].values.tolist() == ["VALID", "ALARM", "VALID"]
    assert dataset["reason"].values[1] == "all points are masked"
    assert np.isnan(dataset["density_mean"][1]).all() and np.isfinite(dataset["density_mean"][2]).all()
    assert run.metadata["stop"]["exit_status"] == "abort"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("GET https://tiled/api?api_key=s3cret&x=1 failed", "GET https://tiled/api?api_key=***&x=1 failed"),
        ("'https://tiled?API-KEY=s3cret'", "'https://tiled?API-KEY=***'"),
        ("postgresql://user:s3cret@host/db", "postgresql://user:***@host/db"),
        ("https://host:8000/a@b is down", "https://host:8000/a@b is down"),
    ],
)
def test_secrets_do_not_get_into_messages(text, clean):
    assert redacted(text) == clean


def test_a_server_that_is_away_is_named_without_its_key(monkeypatch):
    monkeypatch.setattr("tiled.client.utils.TILED_RETRY_ATTEMPTS", 1)
    monkeypatch.setattr("tiled.client.utils.TILED_RETRY_TIMEOUT", 0.1)
    with pytest.raises(StorageError, match="cannot be opened") as error:
        open_catalog("http://127.0.0.1:9/api/v1?api_key=s3cret")
    assert "s3cret" not in str(error.value) and error.value.__suppress_context__
