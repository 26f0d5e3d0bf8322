import logging

from nfphasing_bluesky.core import sparing


def test_a_flood_becomes_a_few_lines_and_a_count(caplog, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(sparing.time, "monotonic", lambda: now[0])
    log = sparing.Sparing(logging.getLogger("flood"), most=3, every_s=10.0)
    for number in range(1000):
        log.warning("message %d was refused", number)
    log.error("something else")
    assert caplog.messages == [f"message {n} was refused" for n in range(3)] + ["something else"]
    now[0] += 10
    caplog.clear()
    log.warning("message %d was refused", 1000)
    log.warning("message %d was refused", 1001)
    assert caplog.messages == [
        "message 1000 was refused (997 more like it were left out before)",
        "message 1001 was refused",
    ]
    assert caplog.records[0].filename == "test_sparing.py"


def test_a_traceback_is_kept(caplog):
    log = sparing.Sparing(logging.getLogger("flood"))
    try:
        raise KeyError("a")
    except KeyError:
        log.exception("a document was left out")
    assert "Traceback" in caplog.text and caplog.records[0].levelname == "ERROR"
